"""Files of Keras: what they say of a model, and the arrays of each of its layers.

Knows zip, JSON and HDF5 (by h5py), and the names under which Keras puts arrays; knows no layer. Nothing is read before
its size was held against that of the file, nothing outside of the file is opened, and whatever h5py says of a damaged
file comes out as a ValueError that names it.
"""

import contextlib
import io
import json
import math
import mmap
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import validation
from ..saving import _check_kind
from .torch_files import ZIP_DAMAGE

# What compressed content may be larger than its file: weights hardly shrink, text does by about 20.
_EXPANSION, _SMALL = 64, 1 << 20

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

# HDF5's own filters, by number: deflate, shuffle, fletcher32, and h5py's lzf. Others are plugins of the machine.
_FILTERS = (1, 2, 3, 32000)

# How the groups of a model's layers are called: by Keras 2.13 and later, and by 2.12.
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")

# Groups of a model that are no layers, and of a layer that are none of its own.
_NO_LAYERS = ("vars", "cell", "layer", "forward_layer", "backward_layer", "optimizer", "_functional")

# What h5py and zipfile raise on damaged files.
_DAMAGE = (*ZIP_DAMAGE, AttributeError, SystemError, TypeError)


class Array(NamedTuple):
    """An array that is not read yet."""

    name: str  # "lstm/lstm_cell/kernel"
    shape: tuple
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class Saved(NamedTuple):
    """What a file holds of a model."""

    config: Any  # {"class_name": ..., "config": ...}; None: weights alone
    version: str | None  # of Keras: "2.2.4-tf"; None where the file does not say
    weights: "ByName | ByGroup"


@contextlib.contextmanager
def _reading(path):
    """Turns what is raised on damaged content into a ValueError that names the file."""
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, ValueError) and path in str(error):
            raise
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from None


@contextlib.contextmanager
def opened(path):
    """What the file at ``path`` holds, a :class:`Saved`; arrays can be read until the context is left.

    Raises
    ------
    OSError
        As the file system says it.
    ValueError
        If it is no file of Keras, damaged or hostile; it is named.
    ImportError
        If h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ImportError("h5py is not installed, which reads files of Keras: pip install 'cylstm[keras]'") from None

    path = validation.path("path", path)
    _check_kind(path)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, "rb"))
        start = file.read(8)
        config = version = None
        content = file
        size = os.fstat(file.fileno()).st_size
        if start.startswith(b"PK"):
            config, version, weights = _unzipped(path, file)
            content, size = io.BytesIO(weights), len(weights)
        elif start != b"\x89HDF\r\n\x1a\n":
            raise ValueError(f"{path} is neither a zip archive (.keras) nor an HDF5 file (.h5)")
        _check_heaps(path, weights if config is not None else stack.enter_context(_mapped(file)))
        content.seek(0)
        with _reading(path):
            root = _Group(path, stack.enter_context(h5py.File(content, "r")), size)
        if config is None:
            config, version = root.text("model_config"), root.text("keras_version")
            if config is not None:
                config = _parsed(path, "model_config", config)
        yield Saved(config, version, _weights(root, version))


# Zip archives ------------------------------------------------------------------------------------


def _unzipped(path, file):
    """(config, Keras' version, content of the HDF5 file) of a .keras archive."""
    import zipfile

    with _reading(path):
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        with archive:
            names = archive.namelist()
            if _CONFIG not in names:
                raise ValueError(f"{path} is a zip archive without {_CONFIG}: not a .keras file")
            if _WEIGHTS not in names:
                raise ValueError(f"{path} has no {_WEIGHTS}: weights in another format are not supported")
            config, metadata, weights = (
                _member(path, archive, name) if name in names else b"{}" for name in (_CONFIG, _METADATA, _WEIGHTS)
            )
    metadata = _parsed(path, _METADATA, metadata)
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    return _parsed(path, _CONFIG, config), version if isinstance(version, str) else None, weights


def _member(path, archive, name):
    import zipfile

    info = archive.getinfo(name)
    limit = _EXPANSION * info.compress_size + _SMALL
    if info.compress_type not in (0, 8):
        raise ValueError(f"{path}: {name} is compressed by method {info.compress_type}, expected none or deflate")
    if info.file_size > limit:
        raise ValueError(f"{path}: {name} would unpack {info.compress_size} bytes to {info.file_size}")
    validation.memory(f"{name} of {path}", info.file_size)
    try:
        with archive.open(info) as file:
            return file.read(limit)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged: {name}: {error}") from None


def _parsed(path, name, text):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {name} can not be read ({type(error).__name__}: {error})") from None


# HDF5 --------------------------------------------------------------------------------------------


def _mapped(file):
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _check_heaps(path, content):
    """That HDF5 can walk over the heaps of texts in a file: damaged ones, with steps of no size or too far, hang it.

    A collection is "GCOL", a version, its size, and objects: index (2 bytes, 0 for free space), count (2), 4 unused,
    size (8), for free space with this header, and content, filled up to 8 bytes.
    """
    version = content[8] if len(content) > 16 else 0
    if version > 3 or bytes(content[(first := 9 if version > 1 else 13) : first + 2]) != b"\x08\x08":
        raise ValueError(f"{path} is damaged: its HDF5 file is of version {version}, or not of 64 bits")
    for found in re.finditer(b"GCOL\x01\0\0\0", content):
        place = found.start() + 16
        end = found.start() + int.from_bytes(content[found.end() : place], "little")
        while place + 16 <= min(end, len(content)):
            index = int.from_bytes(content[place : place + 2], "little")
            size = int.from_bytes(content[place + 8 : place + 16], "little")
            step = 16 + (size + 7) // 8 * 8 if index else size
            if not 16 <= step <= end - place:
                raise ValueError(f"{path} is damaged: its heap of texts at {found.start()} has a step of {step} bytes")
            place += step


class _Group:
    """A group of an HDF5 file, from which nothing is taken that is not in the file, nor more than it can hold."""

    def __init__(self, path, group, size):
        self.path, self.size = path, size
        self._group = group
        self.name = group.name

    def _error(self, words):
        return ValueError(f"{self.path}: {words}")

    def address(self):
        import h5py

        with _reading(self.path):
            return h5py.h5o.get_info(self._group.id).addr

    def names(self):
        with _reading(self.path):
            return list(self._group)

    def __contains__(self, name):
        with _reading(self.path):
            return name in self._group.keys()  # noqa: SIM118, which the group itself would look up as a path

    def get(self, names):
        """The group or :class:`Array` under names, one within the other; None if there is none."""
        import h5py

        found = self._group
        for name in names:
            with _reading(self.path):
                if not isinstance(found, h5py.Group) or name not in found.keys():  # noqa: SIM118
                    return None
                if not isinstance(found.get(name, getlink=True), h5py.HardLink):
                    raise self._error(f"{found.name}/{name} is a link to somewhere else, which is not followed")
                found = found[name]
        if isinstance(found, h5py.Group):
            return _Group(self.path, found, self.size)
        if isinstance(found, h5py.Dataset):
            return self._array(found)
        return None

    def group(self, *names):
        found = self.get(names)
        return found if isinstance(found, _Group) else None

    def _array(self, dataset):
        with _reading(self.path):
            shape, dtype, name = dataset.shape, dataset.dtype, dataset.name
            bfloat16 = dtype.itemsize == 2 and dataset.attrs.get("dtype") == "bfloat16"
            if shape is None:
                raise self._error(f"{name} has no content")
        if bfloat16:
            dtype = np.dtype(np.float32)
        return Array(name, shape, dtype, lambda: self._read(dataset, bfloat16))

    def _read(self, dataset, bfloat16):
        with _reading(self.path):
            self._check(dataset)
            if bfloat16:
                found = np.empty(dataset.shape, dataset.dtype)
                dataset.read_direct(found)
                return (found.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            found = dataset[()]
        return np.asarray(found, dtype=found.dtype.newbyteorder("="))

    def _check(self, dataset):
        """That a dataset is numbers within this file, and no more than it can hold."""
        dtype, name = dataset.dtype, dataset.name
        if not (dtype.kind == "f" and dtype.itemsize in (2, 4, 8)) and dataset.attrs.get("dtype") != "bfloat16":
            raise self._error(f"{name} is of dtype {dtype}, expected float16, float32 or float64")
        if dataset.is_virtual or dataset.external:
            raise self._error(f"{name} is in another file, which is not opened")
        plist = dataset.id.get_create_plist()
        filters = [plist.get_filter(n)[0] for n in range(plist.get_nfilters())]
        if any(number not in _FILTERS for number in filters):
            raise self._error(f"{name} has a filter that is not HDF5's own: {filters}")
        needed = math.prod(dataset.shape) * dtype.itemsize
        chunk = math.prod(dataset.chunks or ()) * dtype.itemsize
        stored = dataset.id.get_storage_size()
        if needed > stored * (_EXPANSION if filters else 1) or stored > self.size or chunk > needed + _SMALL:
            raise self._error(
                f"{name} of shape {dataset.shape} needs {needed} bytes, of which the file of {self.size} bytes holds"
                f" {stored}"
            )
        validation.memory(f"{name} of {self.path}", needed)

    def _attribute(self, name):
        """An attribute of strings as a flat list; None if it is not there."""
        import h5py

        with _reading(self.path):
            attributes = self._group.attrs
            if name not in attributes:
                return None
            found = attributes.get_id(name)
            if not math.prod(found.shape or ()):  # an empty list, which NumPy has made numbers of
                return []
            kind = found.get_type()
            if kind.get_class() != h5py.h5t.STRING:  # HDF5 2.0 crashes on damaged ones of other types
                raise self._error(f"attribute {name} of {self.name} is not text")
            if kind.get_size() * math.prod(found.shape) > self.size:
                raise self._error(f"attribute {name} of {self.name} is larger than the file")
            values = np.asarray(attributes[name]).reshape(-1).tolist()
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]

    def text(self, name):
        """An attribute that is one string; None if it is not there."""
        found = self._attribute(name)
        if found is None:
            return None
        if len(found) != 1:
            raise self._error(f"attribute {name} of {self.name} has {len(found)} values, expected a string")
        return found[0]

    def texts(self, name):
        """An attribute that is a list of strings, in parts name0, name1, ... where it was too long for one."""
        found = self._attribute(name)
        if found is None and self._attribute(f"{name}0") is None:
            return None
        n = 0
        while found is None or n:
            part = self._attribute(f"{name}{n}")
            if part is None:
                break
            found, n = [*(found or ()), *part], n + 1
        return found


# Weights -----------------------------------------------------------------------------------------


def _weights(root, version):
    """The weights of the model whose file this is."""
    group = root.group("model_weights") or root
    names = group.texts("layer_names")
    if names is not None:
        return ByName({name: _named_arrays(group, name) for name in names}, group.text("keras_version") or version)
    found = ByGroup(root)
    if not found.groups() and "vars" not in root:
        raise ValueError(f"{root.path} is an HDF5 file, but not one of Keras: it has neither layer_names nor layers")
    return found


def _named_arrays(group, name):
    """The arrays of a layer in the order of its weight_names."""
    layer = group.get(name.split("/"))
    if not isinstance(layer, _Group):
        raise ValueError(f"{group.path} is damaged: it has no weights of layer {name!r}")
    arrays = []
    for weight in layer.texts("weight_names") or ():
        found = layer.get([part for part in weight.split("/") if part])
        if not isinstance(found, Array):
            raise ValueError(f"{group.path} is damaged: layer {name!r} has no weight {weight!r}")
        arrays.append(found._replace(name=re.sub(":[0-9]+$", "", weight)))
    return arrays


class ByName:
    """Weights under the names of layers, a flat list for each: the format of Keras 2, and of a live model."""

    def __init__(self, arrays, version=None):
        self._arrays = arrays
        self.version = version

    def layers(self, entries):
        """The weights of each layer among ``entries``, pairs of (class, name)."""
        return [Flat(name, self._arrays.get(name, [])) for _, name in entries]

    def listed(self):
        """(name, weights) of each layer that has some."""
        return [(name, Flat(name, arrays)) for name, arrays in self._arrays.items() if arrays]


class Flat:
    """The weights of one layer as a list, in Keras' order."""

    kind = None  # a list does not say of what class the layer is

    def __init__(self, name, arrays):
        self.name = name
        self._arrays = arrays

    def arrays(self):
        return self._arrays

    def wrapped(self):
        """The weights of the one layer in this one."""
        return self

    def directions(self):
        """The weights of the two layers of a Bidirectional."""
        half = len(self._arrays) // 2
        return Flat(self.name, self._arrays[:half]), Flat(self.name, self._arrays[half:])

    def layers(self, entries):
        """As :meth:`ByName.layers`, of the layers in a nested model: they are told by the names of their arrays."""
        return [Flat(name, [a for a in self._arrays if name in a.name.split("/")[:-1]]) for _, name in entries]


class ByGroup:
    """The weights of a layer or model as groups within groups, by class and number: the format of Keras 3."""

    def __init__(self, group, kind=None, name=""):
        self._group = group
        self.version = None
        self.kind = kind  # "bidirectional", as the group is called without its number; None: it does not tell
        vars_ = group.group("vars")
        self.name = (vars_.text("name") if vars_ and kind else None) or name

    def _container(self):
        return next((found for name in _CONTAINERS if (found := self._group.group(name)) is not None), None)

    def groups(self):
        """{name: weights} of the layers of a model; some of somebody's own class are called as its attributes."""
        container = self._container()
        found = {} if container is None else _children(container, lambda name: re.sub("_[0-9]+$", "", name))
        return _children(self._group, lambda name: None, without=(*_NO_LAYERS, *_CONTAINERS)) | found

    def layers(self, entries):
        groups, counts, found = self.groups(), {}, []
        for kind, name in entries:
            kind = snake_case(kind)
            number = counts[kind] = counts.get(kind, -1) + 1
            group = groups.get(f"{kind}_{number}" if number else kind)
            found.append(Flat(name, []) if group is None else group)
        return found

    def listed(self, prefix="", seen=None):
        """(name, weights) of each layer that has some; of those in nested models "inner/lstm"."""
        seen = set() if seen is None else seen
        found = []
        for group in self.groups().values():
            if group.address() in seen:  # a circle, which HDF5 can have
                continue
            seen.add(group.address())
            if group.has_arrays():
                found.append((prefix + group.name, group))
            else:
                found += group.listed(f"{prefix}{group.name}/", seen)
        return found

    def address(self):
        return self._group.address()

    def has_arrays(self):
        return any(part.arrays() for part in (self, self.wrapped(), *self.directions()))

    def arrays(self):
        """The arrays of this layer, or of the cell in it."""
        for names in (("vars",), ("cell", "vars")):
            group = self._group.group(*names)
            if group is not None and (keys := [key for key in group.names() if key.isdecimal()]):
                found = [group.get([key]) for key in sorted(keys, key=int)]
                return [array for array in found if isinstance(array, Array)]
        return []

    def _part(self, name):
        group = self._group.group(name)
        return Flat(self.name, []) if group is None else ByGroup(group)

    def wrapped(self):
        return self._part("layer")

    def directions(self):
        return self._part("forward_layer"), self._part("backward_layer")


def _children(group, kind_of, without=()):
    """{name: weights} of the groups in a group, of the kinds that ``kind_of`` their names gives."""
    names = [name for name in sorted(group.names(), key=_natural) if name not in without]
    found = {name: group.group(name) for name in names}
    return {name: ByGroup(child, kind_of(name), name) for name, child in found.items() if child is not None}


def snake_case(name):
    """A class as Keras calls its groups: "TimeDistributed" -> "time_distributed", "LSTM" -> "lstm"."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _natural(name):
    """Sorts "lstm", "lstm_2", "lstm_10"."""
    word, _, number = name.rpartition("_")
    return (word, int(number)) if word and number.isdecimal() else (name, -1)
