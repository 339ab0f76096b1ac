"""The tensors of PyTorch's files by name, without PyTorch: .pt and .pth in both formats, and .safetensors.

The first bytes of a file say which it is. Knows files, storages and views of these; ``torch_pickle`` knows what stands
in the pickles. Whatever is wrong with a file is a ValueError that names it; sizes that it claims are checked against
what it has.
"""

import io
import math
import operator
import struct
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from .. import validation
from ..saving import _check_kind
from . import torch_pickle
from .torch_pickle import MAX_OPCODES, Pairs, Tensor

# What deflated entries, and tensors that repeat their numbers by strides of 0, may come to: so many times the size of
# the file, and so many bytes in any case. Weights are deflated to 0.9 of their size; zeros to a thousandth.
EXPANSION = 16
EXPANSION_FLOOR = 1 << 26

MAX_DEPTH = 100
MAX_NAMES = 1 << 26  # letters of all names

_ITEMSIZES = {dtype: 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize for dtype in torch_pickle.DTYPES}

# What zipfile raises for bytes that are none of an archive.
ZIP_DAMAGE = (
    ArithmeticError, EOFError, LookupError, OSError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip

# The numbers that an old file begins with: pickled 0x1950a86a20f9469cfc6c, and the version 1001.
_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001

_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def read_state_dict(path):
    """The tensors of a file that torch.save or safetensors wrote.

    Parameters
    ----------
    path : str or path
        Its first bytes say what it is, not its suffix.

    Returns
    -------
    dict of str to ndarray
        Names within names are joined by dots: ``{"model_state": {"lstm.weight_ih_l0": ...}}`` is
        ``"model_state.lstm.weight_ih_l0"``; in a list the index is the name. What is no tensor is left out. bfloat16
        comes as float32. Arrays may be read-only, strided, and share memory, as the tensors did.

    Raises
    ------
    OSError
        As the file system says it.
    ValueError
        If the file is damaged, truncated, of another kind, or holds objects that are neither tensors nor plain data;
        it is named. Nothing in a file is executed.
    MemoryError
        If the file would not fit the machine.

    Examples
    --------
    >>> import os, tempfile, cylstm
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     cylstm.Dense(3, 2, rng=0).save(path := os.path.join(directory, "dense.safetensors"))
    ...     {name: array.shape for name, array in read_state_dict(path).items()}
    {'bias': (2,), 'weight': (2, 3)}
    """
    path = validation.path("path", path)
    _check_kind(path)
    with open(path, "rb") as file:
        validation.memory(f"{path}", 2 * file.seek(0, io.SEEK_END))
        file.seek(0)
        content = file.read()
    try:
        return _reader(content)(content)
    except ValueError as error:
        raise ValueError(f"{path} can not be read: {error}") from None


def _reader(content):
    """What reads a file that begins so."""
    if content.startswith(b"PK\3\4"):
        return _of_zip
    if is_safetensors(content[:9], len(content)):
        return _of_safetensors
    if content.startswith(b"\x80"):
        return _of_pickles
    if content[257:262] == b"ustar":
        raise ValueError("it is a tar file, as PyTorch wrote before 0.1.10: load it in PyTorch, and save it again")
    what = "is empty" if not content else "begins as no such file"
    raise ValueError(f"it {what}, expected one that torch.save or safetensors wrote")


def is_safetensors(start, size):
    """Whether a file of this size begins as safetensors do: with the length of a header, any byte first, and a "{"."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


class _Views:
    """Arrays of the tensors of one file.

    ``bytes_of(storage)`` gives the bytes of a storage; ``order`` is their order, "<" or ">"; ``limit`` is how many
    bytes an array may claim, and all storages.
    """

    def __init__(self, bytes_of, order, limit):
        self._bytes_of = bytes_of
        self._order = order
        self._limit = self._left = limit
        self._numbers = {}

    def array(self, tensor):
        storage, dtype, offset, shape, strides = tensor
        key = storage, dtype
        if key not in self._numbers:
            content = self._bytes_of(storage)
            self._left -= 2 * len(content)  # float32 of bfloat16
            if self._left < 0:
                raise ValueError("its storages come many times, as more than the file holds")
            self._numbers[key] = _numbers(content, dtype, self._order)
        numbers = self._numbers[key]
        size = numbers.itemsize
        if math.prod(shape) * size > max(self._limit, numbers.nbytes):
            raise ValueError(f"a tensor of shape {shape} has more numbers than its storage, {len(numbers)}")
        try:  # which checks all of it against the buffer
            return np.ndarray(shape, numbers.dtype, numbers, offset * size, [stride * size for stride in strides])
        except (ValueError, TypeError, OverflowError):
            raise ValueError(
                f"a tensor of shape {shape}, strides {strides} and offset {offset} is beyond its storage of"
                f" {len(numbers)} numbers"
            ) from None


def _numbers(content, dtype, order="<"):
    """All of ``content`` as an array (n,) in native byte order; bfloat16 as float32."""
    if len(content) % _ITEMSIZES[dtype]:
        raise ValueError(f"a storage of {dtype} has {len(content)} bytes")
    if dtype == "bfloat16":  # the upper half of a float32
        high = np.frombuffer(content, f"{order}u2").astype(np.uint32)
        return np.left_shift(high, 16, out=high).view(np.float32)
    if dtype == "bool":
        return np.frombuffer(content, np.uint8) != 0
    stored = np.dtype(dtype)
    return np.frombuffer(content, stored.newbyteorder(order)).astype(stored, copy=False)


def _named_arrays(contents, views):
    tensors = named(contents, lambda value: isinstance(value, Tensor))
    return {name: views.array(tensor) for name, tensor in tensors.items()}


def named(contents, is_tensor):
    """{name: tensor} of all tensors in dicts (or :class:`Pairs`), lists and tuples; names within names have a dot."""
    found: dict = {}
    left = [MAX_OPCODES, MAX_NAMES]  # a file has no more values than opcodes, unless containers come many times

    def walk(prefix, value, depth):
        if is_tensor(value):
            if prefix is None:
                raise ValueError("a tensor has a key that is neither a string nor an integer")
            if prefix in found:
                raise ValueError(f"two tensors are called {prefix[:200]!r}")
            found[prefix] = value
            return
        left[0] -= len(value)
        if depth == MAX_DEPTH or left[0] < 0:
            raise ValueError("containers are within containers too deep, or too often")
        for key, inner in _pairs(value):
            if is_tensor(inner) or _pairs(inner) is not None:
                name = _joined(prefix, key)
                left[1] -= len(name or "")
                if left[1] < 0:
                    raise ValueError("names are too long")
                walk(name, inner, depth + 1)

    if is_tensor(contents) or _pairs(contents) is not None:
        walk("", contents, 0)
    return found


def _pairs(value):
    """(key, value) of all that a container holds; None of what is no container."""
    if type(value) is Pairs:
        return value
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if type(value) in (list, tuple) else None


def _joined(prefix, key):
    """The name of what has this key in the container of this name; None where one of them can be none."""
    if isinstance(key, int) and abs(key) < 1 << 63:
        key = str(key)
    if prefix is None or not isinstance(key, str):
        return None
    return f"{prefix}.{key}" if prefix else key


def _of_zip(content):
    archive = _Archive(content)
    order = {b"little": "<", b"big": ">"}.get(archive.read("byteorder") if "byteorder" in archive else b"little")
    if order is None:
        raise ValueError("its byteorder is neither little nor big")

    def bytes_of(storage):
        name = f"data/{storage.key}"
        needed = storage.size * _ITEMSIZES[storage.dtype]
        if name not in archive:
            raise ValueError(f"it has no entry {name[:200]!r}")
        found = archive.read(name)
        if len(found) < needed:
            raise ValueError(f"its entry {name[:200]!r} has {len(found)} bytes, expected {needed}")
        return found[:needed] if len(found) > needed else found

    contents = torch_pickle.read(io.BytesIO(archive.read("data.pkl")))
    return _named_arrays(contents, _Views(bytes_of, order, archive.limit))


class _Archive:
    """The entries of torch.save's zip file, by their names in its one folder."""

    def __init__(self, content):
        self.limit = self._left = EXPANSION * len(content) + EXPANSION_FLOOR
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except ZIP_DAMAGE as error:
            raise ValueError(f"it is no whole zip archive ({error})") from None
        names = self._zip.namelist()
        if len(set(names)) < len(names):
            raise ValueError("two of its entries have the same name")
        roots = [name.removesuffix("data.pkl") for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(roots) != 1 or roots[0].count("/") > 1:
            raise ValueError(f"it is a zip archive with {len(roots)} of data.pkl, expected one that torch.save wrote")
        self._root = roots[0]
        if f"{self._root}constants.pkl" in names:
            raise ValueError("it is a TorchScript archive, with code: load it in PyTorch by torch.jit.load(path), and "
                             + torch_pickle.ADVICE)  # fmt: skip
        self._infos = {info.filename: info for info in self._zip.infolist()}

    def __contains__(self, name):
        return self._root + name in self._infos

    def read(self, name):
        info = self._infos[self._root + name]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise ValueError(f"its entry {name[:200]!r} is encrypted, or compressed as PyTorch does not")
        self._left -= info.file_size
        if self._left < 0:
            raise ValueError(f"its entries would be larger than {self.limit:,} bytes, {EXPANSION} times its size")
        try:
            found = self._zip.read(info)
        except ZIP_DAMAGE as error:
            raise ValueError(f"its entry {name[:200]!r} is damaged ({error})") from None
        if len(found) != info.file_size:
            raise ValueError(f"its entry {name[:200]!r} has {len(found)} bytes, expected {info.file_size}")
        return found


def _of_pickles(content):
    stream = io.BytesIO(content)
    expected = f"it is a pickle that torch.save did not write: {torch_pickle.ADVICE}"
    try:
        beginning = torch_pickle.read(stream), torch_pickle.read(stream)
    except ValueError:
        raise ValueError(expected) from None
    if beginning != (_MAGIC, _VERSION):
        raise ValueError(expected)
    torch_pickle.read(stream)  # of the machine that wrote it: what follows is little-endian on all of them
    storages: list = []
    contents = torch_pickle.read(stream, storages)
    found = _bytes_behind(content, stream, {storage.key: _ITEMSIZES[storage.dtype] for storage in storages})

    def bytes_of(storage):
        if storage.key not in found:
            raise ValueError(f"it has no storage {storage.key[:200]!r}")
        first, size = storage.view or (0, storage.size)
        itemsize = _ITEMSIZES[storage.dtype]
        part = found[storage.key][first * itemsize : (first + size) * itemsize]
        if len(part) < size * itemsize:
            raise ValueError(f"its storage {storage.key[:200]!r} has {len(found[storage.key])} bytes: too few")
        return part

    return _named_arrays(contents, _Views(bytes_of, "<", EXPANSION * len(content) + EXPANSION_FLOOR))


def _bytes_behind(content, stream, itemsizes):
    """{key: bytes} of the storages behind the pickles: a pickled list of keys, then a count and the bytes of each."""
    keys = torch_pickle.read(stream)
    if type(keys) is not list:
        raise ValueError("it has no list of storages")
    found = {}
    position = stream.tell()
    for key in map(torch_pickle.key_of, keys):
        if key not in itemsizes:
            raise ValueError(f"it has a storage {key[:200]!r} that no tensor uses")
        count = int.from_bytes(content[position : position + 8], "little", signed=True)
        position += 8
        size = count * itemsizes[key]
        if count < 0 or position + size > len(content):
            raise ValueError(f"it ends before its storage {key[:200]!r}, or has a damaged size of it")
        found[key] = memoryview(content)[position : position + size]
        position += size
    return found


def _of_safetensors(content):
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(content)
    except SafetensorError as error:
        raise ValueError(f"it is a damaged safetensors file, or none ({error})") from None
    return {name: _of_entry(name, entry) for name, entry in sorted(entries, key=operator.itemgetter(0))}


def _of_entry(name, entry):
    if entry["dtype"] not in _SAFETENSORS:
        raise ValueError(f"its tensor {name[:200]!r} is of dtype {entry['dtype']}, which NumPy has not")
    return _numbers(entry["data"], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
