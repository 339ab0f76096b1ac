"""ONNX files and what their protocol buffers hold, as Python and NumPy have it: tensors, attributes. Sizes come first.

Knows the format; no operator, no layer.
"""

import contextlib
import math
import os
from typing import Any, NamedTuple

import numpy as np

from .. import validation
from ..saving import _check_kind

# The operators' meaning is one from 7 on; before it attributes had other names.
FIRST_OPSET = 7

# Tensors of numbers that NumPy has, by ONNX's code. bfloat16, the upper half of a float32, is read here.
_DTYPES = {
    1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8", 12: "<u4",
    13: "<u8", 16: "<u2",
}  # fmt: skip
_BFLOAT16 = 16
_OTHERS = {8: "string", 14: "complex64", 15: "complex128"}

# float32, float16, float64 and bfloat16.
FLOATS = (1, 10, 11, 16)

# The field of a tensor that has its numbers where raw_data has not, and what they are there: by ONNX's code.
_FIELDS = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}
_BITS = {10: "<u2"}  # float16 stands there as its bits


def package():
    """The onnx package, imported when first used."""
    try:
        import onnx
    except ImportError:
        raise ImportError("models of ONNX need the onnx package: pip install 'cylstm[onnx]'") from None
    return onnx


class File(NamedTuple):
    """A model, and where it came from."""

    name: str  # for messages
    directory: str | None  # of its external data; None: of a model in memory, which has none
    model: Any
    opset: int


def read(path_or_model):
    """A :class:`File` of a path or an onnx.ModelProto; what is none of a model is a ValueError."""
    onnx = package()
    if isinstance(path_or_model, onnx.ModelProto):
        name, directory, model = "the model", None, path_or_model
    else:
        name = validation.path("path", path_or_model)
        directory = os.path.dirname(os.path.abspath(name))
        _check_kind(name)
        with open(name, "rb") as file:
            content = file.read()
        model = _parsed(onnx, name, content)
    if not model.HasField("graph") or not model.graph.node:
        raise ValueError(f"{name} is not an ONNX model: it has no graph with nodes")
    return File(name, directory, model, _opset(name, model))


def _parsed(onnx, name, content):
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ValueError(f"{name} is damaged, or not an ONNX model: {error}") from None
    return model


def _opset(name, model):
    """The version of ONNX's own operators in a model."""
    versions = {entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
    if not versions:
        raise ValueError(f"{name} is damaged, or has no operator of ONNX: it names no opset of them")
    if len(versions) > 1:
        raise ValueError(f"{name} names the opsets {', '.join(map(str, sorted(versions)))}, expected one")
    opset = versions.pop()
    if opset < FIRST_OPSET:
        raise ValueError(
            f"{name} is of opset {opset}, expected at least {FIRST_OPSET}: onnx.version_converter makes it newer"
        )
    return opset


@contextlib.contextmanager
def named(file):
    """That every error about a file's content is a ValueError that names the file; NaN and infinity are no errors."""
    try:
        with np.errstate(all="ignore"):
            yield
    except RecursionError:
        raise ValueError(f"{file.name}: graphs are within graphs too deep") from None
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from None
    except MemoryError as error:
        raise MemoryError(f"{file.name}: {error}") from None


class Budget:
    """The bytes that what is made of a file may take in all: sixteen times the file, and 4 MB.

    Those of its external data count as the file's own, and reading them as making.
    """

    def __init__(self, file):
        self.directory, self.opset = file.directory, file.opset
        self.left = (4 << 20) + 16 * file.model.ByteSize()
        self._files = set()

    def add(self, path):
        """That a file of external data belongs to the model."""
        if path not in self._files:
            self._files.add(path)
            self.left += 16 * os.path.getsize(path)

    def take(self, shape, itemsize):
        """Give this many bytes away, before they are allocated; a ValueError says that there are none left."""
        shape = tuple(int(size) for size in shape)
        needed = math.prod(shape) * itemsize
        if any(size < 0 for size in shape) or needed > self.left:
            raise ValueError(f"it would be of shape {shape}, of {needed} bytes, where {self.left} are left for it")
        self.left -= needed


def array_of(tensor, budget):
    """The numbers of a TensorProto as an ndarray: bfloat16 as float32, everything else as it is."""
    where = f"tensor {tensor.name!r}" if tensor.name else "a tensor"
    kind, dims = tensor.data_type, tuple(tensor.dims)
    if kind not in _DTYPES:
        raise ValueError(f"{where} is of ONNX's data type {_OTHERS.get(kind, kind)}, expected numbers that NumPy has")
    if any(size < 0 for size in dims):
        raise ValueError(f"{where} has shape {dims}")
    if tensor.HasField("segment"):
        raise ValueError(f"{where} is in segments, expected a whole one")
    dtype, count = np.dtype(_DTYPES[kind]), math.prod(dims)
    external = tensor.data_location == tensor.EXTERNAL
    if external or tensor.HasField("raw_data"):
        content = _external(tensor, where, budget, count * dtype.itemsize) if external else tensor.raw_data
        if len(content) != count * dtype.itemsize:
            raise ValueError(f"{where} of shape {dims} has {len(content)} bytes, expected {count * dtype.itemsize}")
        values = np.frombuffer(content, dtype).reshape(dims)
    else:
        field = getattr(tensor, _FIELDS.get(kind, "int32_data"))
        if len(field) != count:
            raise ValueError(f"{where} of shape {dims} has {len(field)} numbers, expected {count}")
        values = _converted(where, field, np.dtype(_BITS.get(kind, dtype))).view(dtype).reshape(dims)
    if kind == _BFLOAT16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _converted(where, field, dtype):
    try:
        return np.array(field, dtype)
    except OverflowError as error:
        raise ValueError(f"{where} has a number that {dtype} can not hold: {error}") from None


def _external(tensor, where, budget, size):
    """The bytes of a tensor that stand in a file of their own, within the model's directory."""
    if budget.directory is None:
        raise ValueError(f"{where} is in a file of its own, and a model in memory has no directory: give its path")
    onnx = package()
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not all(isinstance(text, str) for pair in entries.items() for text in pair):
        raise ValueError(f"{where} is in a file of its own, whose name is no text")
    if entries.get("length", str(size)) != str(size):
        raise ValueError(f"{where} of shape {tuple(tensor.dims)} has {entries['length']} bytes, expected {size}")
    try:
        budget.add(_checked_path(budget.directory, location, int(entries.get("offset", "0")), size))
        budget.take((size,), 1)
    except (ValueError, OSError) as error:
        raise ValueError(f"{where} is in the file {location!r}, which can not be read: {error}") from None
    copy = onnx.TensorProto()  # with a length, or all that is behind the offset would be read
    copy.CopyFrom(tensor)
    del copy.external_data[:]
    for key, value in {"location": location, "offset": entries.get("offset", "0"), "length": str(size)}.items():
        copy.external_data.add(key=key, value=value)
    try:
        onnx.external_data_helper.load_external_data_for_tensor(copy, budget.directory)
    except (ValueError, RuntimeError, OSError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{where} is in the file {location!r}, which can not be read: {error}") from None
    return copy.raw_data


def _checked_path(directory, location, offset, size):
    """The path of a file that is within the directory and long enough: not every version of onnx looks."""
    directory = os.path.realpath(directory)
    path = os.path.realpath(os.path.join(directory, location))
    if os.path.isabs(location) or ".." in location.split("/") or os.path.commonpath([directory, path]) != directory:
        raise ValueError("it is not within the directory of the model")
    _check_kind(path)
    there = os.path.getsize(path)
    if not 0 <= offset <= there - size:
        raise ValueError(f"it has {there} bytes, expected {size} from byte {offset} on")
    return path


def attributes_of(node):
    """A node's attributes as Python has them: {name: value}; tensors and graphs as they are."""
    onnx = package()
    found = {}
    for attribute in node.attribute:
        if attribute.name in found:
            raise ValueError(f"attribute {attribute.name!r} of {title(node)} comes twice")
        if attribute.ref_attr_name:
            raise ValueError(f"attribute {attribute.name!r} of {title(node)} is that of a function, expected a value")
        try:
            value = onnx.helper.get_attribute_value(attribute)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"attribute {attribute.name!r} of {title(node)} can not be read: {error}") from None
        if isinstance(value, bytes):
            value = _text(node, attribute.name, value)
        elif attribute.type in (attribute.FLOATS, attribute.INTS):
            value = list(value)
        elif attribute.type == attribute.STRINGS:
            value = [_text(node, attribute.name, part) for part in value]
        found[attribute.name] = value
    return found


def _text(node, name, value):
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"attribute {name!r} of {title(node)} is {value!r}, expected a text in UTF-8") from None


def of_type(node, name, value, *types):
    """An attribute's value, checked."""
    if not isinstance(value, types) or isinstance(value, bool):
        raise ValueError(
            f"attribute {name!r} of {title(node)} is a {type(value).__name__}, expected {types[0].__name__}"
        )
    return value


def number(value, dtype):
    """A float of the file: of a float32 layer its shortest decimal, 0.2 and not 0.20000000298023224."""
    return float(str(np.float32(value))) if dtype == np.float32 else float(np.float32(value))


def name_of(node):
    """A node's name, or of one without, that of its first output."""
    return node.name or next((output for output in node.output if output), f"an unnamed {node.op_type}")


def title(node):
    """How messages call a node."""
    return f"node {name_of(node)!r} ({node.op_type})"


def is_recurrent(node):
    """Whether a node is an LSTM, GRU or RNN of ONNX itself."""
    return node.op_type in ("LSTM", "GRU", "RNN") and node.domain in ("", "ai.onnx")
