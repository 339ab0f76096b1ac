"""Files of models, whoever wrote them: which kind one is, what is in it, loading and saving by kind.

Knows how files begin and which module reads which; what stands in them those modules know.
"""

import contextlib
import io
import json
import math
import os
import zipfile

import numpy as np

from .. import saving, validation
from . import Entry
from .torch_files import ZIP_DAMAGE, is_safetensors

# What messages and the command line call them.
KINDS = {
    "cylstm": "a model of cylstm",
    "safetensors": "tensors in the safetensors format",
    "torch": "a file of PyTorch",
    "keras": "a model of Keras",
    "hdf5": "an HDF5 file of Keras",
    "onnx": "a model of ONNX",
    "npz": "arrays of NumPy",
}

# The options of each kind's loader that the command line knows.
OPTIONS = {
    "cylstm": (),
    **dict.fromkeys(
        ("safetensors", "torch", "npz"), ("prefix", "kind", "batch_first", "nonlinearity", "dropout", "dtype")
    ),
    **dict.fromkeys(
        ("keras", "hdf5"),
        ("layer", "dtype", "class_name", "reset_after", "activation", "recurrent_activation", "return_sequences",
         "go_backwards", "merge_mode", "keras_version"),
    ),
    "onnx": ("node", "dtype"),
}  # fmt: skip

_MAX_HEADER = 100_000_000  # bytes of a safetensors header, as the format has it

_ZIP_KINDS = (("data.pkl", "torch"), ("model.weights.h5", "keras"), ("config.json", "keras"))


def kind_of(path):
    """What a file is, by its first bytes and what is in it; its suffix does not count.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    str
        One of :data:`KINDS`.

    Raises
    ------
    OSError
        As the file system says it.
    ValueError
        If it is none of them; it is named.

    Examples
    --------
    >>> import os, tempfile, cylstm
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     cylstm.LSTM(3, 4).save(path := os.path.join(directory, "model"))
    ...     kind_of(path)
    'cylstm'
    """
    path = validation.path("path", path)
    saving._check_kind(path)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(16)
        if start.startswith(b"PK\x03\x04"):
            return _kind_of_zip(path, file)
        if start.startswith(b"\x89HDF\r\n\x1a\n"):
            return "hdf5"
        if is_safetensors(start, size):
            length = int.from_bytes(start[:8], "little")
            file.seek(8)
            return "cylstm" if length <= _MAX_HEADER and _is_ours(file.read(length)) else "safetensors"
        if len(start) > 1 and start[0] == 0x80 and start[1] <= 5:  # a pickle, of protocol 2 to 5
            return "torch"
    # protobuf: field 1, the version of the format, a small number, and then a field that ONNX's ModelProto has
    if start[:1] == b"\x08" and len(start) > 2 and start[1] < 0x80 and start[2] >> 3 in (2, 3, 4, 5, 6, 7, 8, 14):
        return "onnx"
    *kinds, last = KINDS.values()
    raise ValueError(f"{path} {_what(start)}: expected {', '.join(kinds)} or {last}")


def _what(start):
    """What a file is that we do not read."""
    if not start:
        return "is empty"
    if start.startswith(b"\x93NUMPY"):
        return "is a .npy file, one array without a name"
    if start[4:8] == b"TFL3":
        return "is a model of TensorFlow Lite"
    return "is of no kind that is known"


def _is_ours(header):
    try:
        return saving._KEY in json.loads(header).get("__metadata__", {})
    except (ValueError, RecursionError, AttributeError, TypeError):
        return False  # whoever reads it as safetensors says what is wrong


def _kind_of_zip(path, file):
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except ZIP_DAMAGE as error:
        raise ValueError(f"{path} is a damaged zip archive: {error}") from None
    last = {name.rpartition("/")[2] for name in names}
    for name, kind in _ZIP_KINDS:
        if name in last:
            return kind
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    listed = ", ".join(map(repr, names[:3])) or "nothing"
    raise ValueError(f"{path} is a zip archive with {listed}, expected one of PyTorch, Keras or NumPy")


def describe(path):
    """What a file holds: of a model its layers, of tensors the layers that they make.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    list of Entry

    Raises
    ------
    OSError, ValueError, ImportError
        As the loader of its kind.

    Examples
    --------
    >>> import os, tempfile, cylstm
    >>> model = cylstm.Sequential([cylstm.GRU(3, 4), ("out", cylstm.Dense(4, 2))])
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     model.save(path := os.path.join(directory, "model.safetensors"))
    ...     [tuple(entry)[:3] for entry in describe(path)]
    [('0', 'GRU', '3, 4, float32'), ('out', 'Dense', '4, 2, float32')]
    """
    kind = kind_of(path)
    if kind == "cylstm":
        return list(_layers_of(saving.load(path)))
    if kind == "npz":
        from .torch import find_layers

        found = find_layers(read_npz(path))
        return [Entry(layer.prefix, layer.kind, layer.detail) for layer in found]
    return _module(kind).describe(path)


def _layers_of(model, name=""):
    """An Entry for each layer of a model of ours."""
    if type(model).__name__ in ("Sequential", "EncoderDecoder"):
        for inner, layer in model._parts:
            yield from _layers_of(layer, f"{name}.{inner}" if name else inner)
        return
    positional, keywords = model._arguments
    words = [repr(value) for value in positional]
    words += [f"{option}={value!r}" for option, value in keywords.items() if option != "dtype"]
    words += [] if model.dtype is None else [model.dtype.name]
    yield Entry(name, type(model).__name__, ", ".join(words))


def _module(kind):
    """What reads files of a kind."""
    if kind == "onnx":
        from . import onnx as module
    elif kind in ("keras", "hdf5"):
        from . import keras as module
    else:
        from . import torch as module
    return module


def load(path, **options):
    """A model from a file of any kind.

    Parameters
    ----------
    path : str or path
    **options
        Of the loader of its kind: of :func:`cylstm.load_torch` (for ``.npz`` too, whose arrays are taken for a state
        dict), :func:`cylstm.from_keras` or :func:`cylstm.from_onnx`. A model of cylstm has none.

    Returns
    -------
    layer

    Raises
    ------
    OSError, ValueError, TypeError, ImportError, MemoryError
        As that loader.

    Examples
    --------
    >>> import os, tempfile, cylstm
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     cylstm.LSTM(3, 4).save(path := os.path.join(directory, "model.safetensors"))
    ...     load(path)
    LSTM(3, 4)
    """
    kind = kind_of(path)
    if kind == "cylstm":
        if options:
            raise ValueError(f"{path} is {KINDS[kind]}, which says all itself: expected no {', '.join(options)}")
        return saving.load(path)
    if kind == "npz":
        from .torch import from_torch

        try:
            return from_torch(read_npz(path), **options)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    module = _module(kind)
    loader = {"onnx": "from_onnx", "keras": "from_keras", "hdf5": "from_keras"}.get(kind, "load_torch")
    return getattr(module, loader)(path, **options)


def read_npz(path):
    """The arrays of an .npz file by name; nothing but numbers, and no more of them than the file can hold.

    Raises
    ------
    OSError
        As the file system says it.
    ValueError
        If the file is damaged, is no .npz, or has objects among its arrays; it is named.
    """
    from .torch_files import EXPANSION, EXPANSION_FLOOR

    path = validation.path("path", path)
    saving._check_kind(path)
    arrays = {}
    with open(path, "rb") as file, _naming(path), zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        claimed, most = sum(entry.file_size for entry in entries), EXPANSION * os.path.getsize(path)
        if claimed > max(most, EXPANSION_FLOOR):
            raise ValueError(f"its entries claim {claimed:,} bytes, more than the file can hold")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name in arrays or name == entry.filename:
                raise ValueError(f"it has an entry {entry.filename!r}, expected .npy files, each once")
            arrays[name] = _of_npy(name, archive.read(entry))
    return arrays


def read_npy(path):
    """The array of an .npy file; errors as of :func:`read_npz`."""
    path = validation.path("path", path)
    saving._check_kind(path)
    with open(path, "rb") as file:
        content = file.read()
    with _naming(path):
        return _of_npy("the array", content)


@contextlib.contextmanager
def _naming(path):
    try:
        yield
    except ZIP_DAMAGE as error:
        raise ValueError(f"{path} is damaged, or holds more than arrays of numbers: {error}") from None


def _of_npy(name, content):
    """The array of these bytes, whose sizes must be those that it claims: numpy.load allocates first."""
    file = io.BytesIO(content)
    form = np.lib.format
    version = form.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} is of version {version} of the .npy format, expected 1.0 or 2.0")
    header = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
    shape, by_columns, dtype = header(file)
    if dtype.kind not in "fiub":
        raise ValueError(f"{name} is of dtype {dtype}, expected numbers")
    rest = len(content) - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != rest:
        raise ValueError(f"{name} claims the shape {shape} of {dtype}, but has {rest} bytes")
    array = np.frombuffer(content, dtype, offset=file.tell())
    return array.astype(dtype.newbyteorder("=")).reshape(shape, order="F" if by_columns else "C")


def save(model, path):
    """Write a model as the suffix says; the file is written whole or not at all.

    Parameters
    ----------
    model : layer
    path : str or path
        ``.safetensors``: a model of cylstm, whose tensors have PyTorch's names; ``.onnx``: a model of ONNX; ``.npz``:
        the state dict that PyTorch's layer has, as arrays of NumPy.

    Raises
    ------
    ValueError
        If the suffix is another, or the model has something that the format has not.
    OSError, TypeError, ImportError
        As the writer of that kind.

    Examples
    --------
    >>> import os, tempfile, numpy as np, cylstm
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save(cylstm.Dense(3, 2), path := os.path.join(directory, "dense.npz"))
    ...     sorted(np.load(path))
    ['bias', 'weight']
    """
    path = validation.path("path", path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".safetensors":
        saving.save(model, path)
    elif suffix == ".onnx":
        from .to_onnx import to_onnx

        to_onnx(model, path)
    elif suffix == ".npz":
        from .torch import to_torch_state_dict

        path = os.path.realpath(path)
        saving._check_kind(path, missing_ok=True)
        content = io.BytesIO()
        np.savez(content, **to_torch_state_dict(model))
        saving._replace(path, content.getvalue())
    else:
        why = ": cylstm writes no pickles; the arrays of an .npz are a state dict, as tensors" if "pt" in suffix else ""
        raise ValueError(f"{path} ends with {suffix!r}, expected .safetensors, .onnx or .npz{why}")
