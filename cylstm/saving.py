"""Files: models, and arrays by name with what they mean, in the safetensors format; written whole or not at all.

docs/design.md has the format. Knows of a layer its arguments, parameters, default state and parts. Nothing that a file
holds is ever executed, and whatever is wrong with it is a ValueError that names it.
"""

import contextlib
import errno
import importlib
import json
import os
import stat
import uuid
import zlib

import numpy as np

from . import validation

FORMAT_VERSION = 1

# Our text among the file's metadata, with a checksum behind it: of two entries safetensors changes the order at random.
_KEY = "cylstm"

# The classes that a file may name, all among cylstm's. One that is made of other layers has _parts and _from_parts.
_CLASSES = (
    "Activation", "Bidirectional", "Dense", "Dropout", "Embedding", "EncoderDecoder", "Final", "Flatten", "GRU",
    "JordanRNN", "LSTM", "Last", "LayerNorm", "Masking", "RNN", "Repeat", "Reverse", "Sequential",
)  # fmt: skip

# What a file calls the arrays of a recurrent layer's default state, with "h" or "c" behind it.
_DEFAULT = "default_state."

# How files begin that somebody may take for ours.
_FOREIGN = {
    b"PK": "a zip archive, as .npz, .keras and PyTorch's .pt files are",
    b"\x89HDF": "an HDF5 file",
    b"\x80": "a pickle",
    b"\x93NUMPY": "a .npy file",
}


def save(layer, path):
    """What :meth:`cylstm.layers.Layer.save` does."""
    try:
        write_file(path, {**layer.parameters, **_default_states(layer)}, {"architecture": _architecture(layer)})
    except RecursionError:  # whose repr would be one too
        raise ValueError("layers are within layers too deep for a file") from None


def _architecture(layer):
    """What a file says of a layer beside its parameters."""
    kind = type(layer).__name__
    if kind not in _CLASSES or _class(kind) is not type(layer):
        raise TypeError(f"{layer!r} is of a class of yours, expected one of {', '.join(_CLASSES)}: use state_dict")
    arguments, options = layer._arguments
    if layer._parts:
        entry = {"class": kind, "parts": [[name, _architecture(part)] for name, part in layer._parts]}
        return entry | {"options": options} if options else entry
    return {"class": kind, "arguments": arguments, "options": options, "trainable": bool(layer.trainable)}


def _default_states(layer, prefix=""):
    """{name: array} of the default states of a layer and its parts."""
    found = {}
    for name, part in layer._parts:
        found |= _default_states(part, f"{prefix}{name}.")
    if getattr(layer, "_default", None) is not None:
        for letter, array in zip(layer._states, layer._default, strict=True):
            found[f"{prefix}{_DEFAULT}{letter}"] = array[:, 0]
    return found


def _class(kind):
    return getattr(importlib.import_module(__package__), kind)


def load(path):
    """Read a model that :meth:`~cylstm.layers.Layer.save` wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    layer
        Of the class, with the arguments, parameters and ``trainable`` of the one that was saved: it computes the same
        bits.

    Raises
    ------
    OSError
        As the file system says it.
    ValueError
        If the file is damaged, truncated, of a newer version, or none of a model; it is named. Nothing in a file is
        executed.
    MemoryError
        If the model would not fit the machine.
    ImportError
        If safetensors is not installed.

    Examples
    --------
    >>> import os, tempfile, cylstm
    >>> model = cylstm.Sequential([cylstm.LSTM(3, 4, rng=0), cylstm.Last(), ("out", cylstm.Dense(4, 2, rng=1))])
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "model.safetensors")
    ...     model.save(path)
    ...     cylstm.load(path)
    Sequential([LSTM(3, 4), Last(), ('out', Dense(4, 2))])
    """
    path = validation.path("path", path)
    arrays, metadata = read_file(path)
    if "architecture" not in metadata:
        raise ValueError(f"{path} is not the file of a model: its metadata have {', '.join(metadata) or 'nothing'}")
    try:
        return _layer("", metadata["architecture"], arrays)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    except MemoryError as error:
        raise MemoryError(f"{path}: {error}") from None


def _layer(name, entry, arrays):
    """The layer that an entry of the architecture describes, with these arrays."""
    where = f"layer {name!r}" if name else "the model"
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is a {type(entry).__name__}, expected an object")
    kind = entry.get("class")
    if kind not in _CLASSES:
        raise ValueError(f"{where} is of class {kind!r}, expected one of {', '.join(_CLASSES)}")
    where += f", {kind},"
    if "parts" in entry:
        more = {"options"} & entry.keys()
        validation.entries("entry", entry, ("class", "parts", *more), where)
        return _container(name, where, kind, entry, arrays)
    validation.entries("entry", entry, ("class", "arguments", "options", "trainable"), where)
    arguments, options, trainable = (
        _of_type(f"{key} of {where}", entry[key], wanted)
        for key, wanted in (("arguments", list), ("options", dict), ("trainable", bool))
    )
    if {"rng", "arrays", "_arrays"} & options.keys():  # which _of and _build know and a file does not
        raise ValueError(f"{where} has the options {', '.join(options)}")
    names = [_DEFAULT + letter for letter in getattr(_class(kind), "_states", ())]  # a layer without a state has none
    state = [arrays.get(name) for name in names]
    arrays = {name: value for name, value in arrays.items() if name not in names}
    try:
        layer = _class(kind)._of(*arguments, arrays=arrays, **options)
        if any(part is not None for part in state):
            layer.default_state = state if len(state) > 1 else state[0]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} can not be: {error}") from None
    except MemoryError as error:
        raise MemoryError(f"{where} can not be: {error}") from None
    validation.entries("parameter", arrays, layer._shapes, where)
    for parameter, value in arrays.items():
        if value.dtype != layer.dtype:
            raise ValueError(f"parameter {parameter} of {where} is of dtype {value.dtype}, expected {layer.dtype}")
    layer.trainable = trainable
    return layer


def _container(name, where, kind, entry, arrays):
    """The container of the [name, entry] pairs of this entry, with these arrays."""
    pairs = _of_type(f"parts of {where}", entry["parts"], list)
    pairs = [_of_type(f"a part of {where}", pair, list) for pair in pairs]
    options = _of_type(f"options of {where}", entry.get("options", {}), dict)
    if any(len(pair) != 2 or not isinstance(pair[0], str) for pair in pairs):
        raise ValueError(f"{where} has a part that is not a [name, entry] pair")
    arrays_of = {part: {} for part, _ in pairs}
    for parameter, value in arrays.items():
        part, _, inner = parameter.partition(".")
        if part not in arrays_of:
            raise ValueError(f"{where} has a parameter {parameter!r}, but no part {part!r}")
        arrays_of[part][inner] = value
    prefix = f"{name}." if name else ""
    layers = [(part, _layer(prefix + part, entry, arrays_of[part])) for part, entry in pairs]
    try:
        return _class(kind)._from_parts(layers, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} can not be: {error}") from None


def _of_type(name, value, wanted):
    if not isinstance(value, wanted):
        raise ValueError(f"{name} is a {type(value).__name__}, expected a {wanted.__name__}")
    return value


def write_file(path, arrays, metadata):
    """Write arrays and what they mean to one file, whole or not at all.

    A temporary file in the same directory is written, flushed to the disk and renamed; after an error the old file is
    as it was, and there is no temporary one.

    Parameters
    ----------
    path : str or path
        Written as named, without a suffix added; a link is followed.
    arrays : mapping of str to ndarray
        Of numbers or bool; copied as they are, with their dtypes.
    metadata : dict
        Of what JSON knows; NaN and infinities may be among the numbers. Tuples come back as lists.

    Raises
    ------
    OSError
        As the file system says it.
    ValueError, TypeError
        If ``metadata`` is no JSON, or safetensors has no such dtype.
    ImportError
        If safetensors is not installed.

    Examples
    --------
    >>> import os, tempfile, numpy as np
    >>> from cylstm.saving import read_file, write_file
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "a.safetensors")
    ...     write_file(path, {"w": np.arange(3.0)}, {"epoch": 7})
    ...     arrays, metadata = read_file(path)
    >>> arrays["w"].tolist(), metadata
    ([0.0, 1.0, 2.0], {'epoch': 7})
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save

    path = os.path.realpath(validation.path("path", path))
    _check_kind(path, missing_ok=True)
    text = json.dumps({"version": FORMAT_VERSION, **metadata})
    arrays = {name: validation.contiguous(name, np.asarray(value)) for name, value in arrays.items()}
    try:
        content = save(arrays, {_KEY: f"{text}\n{_checksum(text, arrays)}"})
    except (SafetensorError, TypeError) as error:  # TypeError: an array of objects has no bytes
        raise ValueError(f"{path} can not be written: {error}") from None
    _replace(path, content)


def _checksum(text, arrays):
    """What tells a damaged file: the CRC-32 of the text, then of the arrays in the order of their names, in hex."""
    value = zlib.crc32(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        value = zlib.crc32(array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8), value)
    return f"{value:08x}"


def _replace(path, content):
    """Give the file ``path`` this content at once."""
    temporary = os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(path):
            os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError):  # which names the temporary file, or none
            raise OSError(error.errno, error.strerror, path) from None
        raise


def read_file(path):
    """Read what :func:`write_file` wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    arrays : dict of str to ndarray
    metadata : dict

    Raises
    ------
    OSError
        As the file system says it.
    ValueError
        If the file is damaged, truncated, of a newer version or not one of ours; it is named.
    MemoryError
        If it would not fit the machine.
    ImportError
        If safetensors is not installed.
    """
    from safetensors import SafetensorError, safe_open

    path = validation.path("path", path)
    _check_kind(path)
    with open(path, "rb") as file:
        start = file.read(8)
    if not start:
        raise ValueError(f"{path} is empty, expected a file of cylstm")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = _metadata(path, file)
            validation.memory(f"the arrays of {path}", os.path.getsize(path))
            arrays = {name: _array(path, file, name) for name in file.keys()}  # noqa: SIM118, no mapping
            text, _, checksum = file.metadata()[_KEY].rpartition("\n")
    except SafetensorError as error:
        kinds = [words for first, words in _FOREIGN.items() if start.startswith(first)]
        what = f"is {kinds[0]}, expected" if kinds else f"is damaged, or not a safetensors file ({error}): expected"
        raise ValueError(f"{path} {what} a file of cylstm") from None
    if checksum != _checksum(text, arrays):
        raise ValueError(f"{path} is damaged: its checksum is not that of what it holds")
    return arrays, metadata


def _array(path, file, name):
    try:
        found = file.get_tensor(name)
    except (TypeError, ValueError, AttributeError) as error:  # a dtype or a shape that NumPy has not
        raise ValueError(f"{path} has an array {name!r} that NumPy can not hold: {error}") from None
    if found.dtype.kind not in "biufc":  # one that another package has taught it
        raise ValueError(f"{path} has an array {name!r} that NumPy can not hold: it is of dtype {found.dtype}")
    return found


def _metadata(path, file):
    """What an open file says of itself, checked as far as it concerns every file of ours."""
    text = (file.metadata() or {}).get(_KEY)
    if text is None:
        names = sorted(file.keys())
        words = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
        raise ValueError(
            f"{path} is a safetensors file of {len(names)} arrays ({words}) without cylstm's metadata: only its arrays"
            " can be used, by safetensors.numpy.load_file and load_state_dict"
        )
    with open(path, "rb") as header:
        size = int.from_bytes(header.read(8), "little")
        _parsed(path, header.read(size))  # safetensors takes the last of two entries of one name
    metadata = _parsed(path, text.rpartition("\n")[0] or text)
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} is damaged: its metadata are a {type(metadata).__name__}, expected an object")
    version = metadata.pop("version", None)
    if type(version) is not int or version < 1:
        raise ValueError(f"{path} is damaged: its version is {version!r}, expected 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} is of version {version}, expected at most {FORMAT_VERSION}: a newer cylstm wrote it"
        )
    return metadata


def _parsed(path, text):
    """What a JSON text holds; no name twice in an object."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its metadata can not be read ({error})") from None


def _unique(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} comes twice")
    return found


def _check_kind(path, missing_ok=False):
    """That ``path`` is a file: neither a directory nor a device."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if not missing_ok:
            raise
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
