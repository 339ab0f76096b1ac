"""What a config of Keras says: layers with their options and weights, and the order in which they are called.

Knows JSON's objects as Keras 2 and Keras 3 write them, and checks every type; knows no layer of ours.
"""

import re
from typing import NamedTuple

from . import keras_files

MODELS = ("Sequential", "Functional", "Model")


class Described:
    """A layer as a config describes it, with its weights."""

    def __init__(self, kind, name, config, weights, version, calls=None):
        self.kind, self.name, self.config = kind, name, config
        self.weights = weights
        self.version = version  # a Version, or None
        self.calls = calls  # how a functional model calls it

    @classmethod
    def of(cls, entry, weights, version):
        """From {"class_name": ..., "config": ...} as a file has it."""
        kind = _typed("class_name", entry, "class_name", str)
        config = entry.get("config")
        if kind in MODELS and isinstance(config, list):  # Sequential before Keras 2.2
            config = {"layers": config}
        if not isinstance(config, dict):
            raise ValueError(f"the config of a {kind} is a {type(config).__name__}, expected an object")
        name = config.get("name", entry.get("name"))
        name = name if isinstance(name, str) and name else keras_files.snake_case(kind)
        module = entry.get("module")
        if isinstance(module, str) and module.partition(".")[0] not in ("keras", "tf_keras", "tensorflow"):
            kind = f"{module}.{kind}"  # somebody's own, whatever it is called
        return cls(kind, name, config, weights, version, entry.get("inbound_nodes"))

    def __str__(self):
        return f"layer {self.name!r} ({self.kind})"

    def error(self, words):
        return ValueError(f"{self}: {words}")

    def get(self, key, kinds, default=None):
        """An entry of the config of these types; ``default`` where it is not there."""
        if key not in self.config:
            return default
        return _typed(f"{key} of {self}", self.config, key, kinds)

    def size(self, key):
        value = self.get(key, int)
        if isinstance(value, bool) or value is None or value < 1:
            raise self.error(f"{key} is {value!r}, expected a positive integer")
        return value

    def number(self, *keys, default):
        """The first of these entries that is there; 0 for null."""
        value = next((self.get(key, (int, float, type(None))) for key in keys if key in self.config), default)
        return 0.0 if value is None else float(value)

    def inner(self, key, weights):
        """The layer within this one that its config has under ``key``."""
        return Described.of(self.get(key, dict, {}), weights, self.version)

    def layers(self):
        """Those of a model, in its order."""
        entries = self.get("layers", list, [])
        found = [Described.of(_typed("a layer", entries, n, dict), None, self.version) for n in range(len(entries))]
        for layer, weights in zip(found, self.weights.layers([(f.kind, f.name) for f in found]), strict=True):
            layer.weights = weights
        return found

    def walk(self, prefix=""):
        """(name, layer) of all layers of a model, in nested ones too."""
        for layer in self.layers():
            if layer.kind in MODELS:
                yield from layer.walk(f"{prefix}{layer.name}/")
            elif layer.kind != "InputLayer":
                yield prefix + layer.name, layer

    def arrays(self, *counts):
        """The weights, of which there are as many as one of ``counts`` says."""
        arrays = self.weights.arrays()
        if len(arrays) not in counts:
            expected = " or ".join(map(str, counts))
            built = "" if arrays else ": it is not built, call it on data first"
            raise self.error(f"has {len(arrays) or 'no'} arrays of weights, expected {expected}{built}")
        found = [array.read() for array in arrays]
        for array, value in zip(arrays, found, strict=True):
            if value.dtype.kind != "f":
                raise self.error(f"{array.name} is of dtype {value.dtype}, expected numbers of a float dtype")
        return found

    def shaped(self, name, array, *shape):
        """``array``, which has this shape; None is any size."""
        if len(array.shape) != len(shape) or any(
            want not in (None, has) for want, has in zip(shape, array.shape, strict=True)
        ):
            words = ", ".join("any" if size is None else str(size) for size in shape)
            raise self.error(f"{name} has shape {array.shape}, expected ({words})")
        return array


def _typed(name, mapping, key, kinds):
    """mapping[key], which is of these types."""
    value = mapping.get(key) if isinstance(mapping, dict) else mapping[key] if isinstance(mapping, list) else None
    if not isinstance(value, kinds):
        raise ValueError(f"{name} is {short(value)}, expected {words(kinds)}")
    return value


def words(kinds):
    """Types in words: "bool or None"."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    return " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)


def short(value):
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"
    return text if len(text) < 80 else text[:77] + "..."


class Version(NamedTuple):
    """Of Keras; ``tf``: as a part of TensorFlow, "2.2.4-tf"."""

    major: int
    minor: int
    tf: bool

    @classmethod
    def of(cls, text):
        """From "2.2.4-tf" or "3.15.1"; None where there is no such text."""
        found = re.match(r"(\d{1,9})(?:\.(\d{1,9}))?", text or "")
        return None if found is None else cls(int(found[1]), int(found[2] or 0), text.endswith("-tf"))

    @property
    def outside_tensorflow(self):
        """Whether it is of Keras' own releases before those that are tf.keras again."""
        return self[:2] < (2, 4) and not self.tf


# Functional models -------------------------------------------------------------------------------


def in_order(model):
    """The layers of a model from its input to its output."""
    layers = model.layers()
    if model.kind == "Sequential" or all(layer.calls is None for layer in layers):
        return layers
    return _Graph(model, layers).chain()


class _Graph:
    """The calls of a functional model."""

    def __init__(self, model, layers):
        self.model = model
        self.layers = {layer.name: layer for layer in layers}

    def error(self, words):
        return ValueError(f"{words}: the model is not a chain. A layer of it can be loaded alone, by layer=")

    def chain(self):
        name, first = self._end("output_layers"), self._end("input_layers")
        found = []
        while True:
            if name not in self.layers or len(found) == len(self.layers):
                raise ValueError(f"{self.model} has damaged calls: they lead to layer {short(name)}, or around")
            found.append(self.layers[name])
            if name == first:
                return found[::-1]
            name = self._source(self.layers[name])

    def _end(self, key):
        """The name of the one layer among the model's inputs or outputs."""
        ends = list(_references(self.model.config.get(key)))
        names = ", ".join(short(name) for name, _ in ends)
        if len(ends) != 1:
            raise self.error(f"{self.model} has {len(ends)} {key.replace('_', ' ')} ({names})")
        if ends[0][1]:
            raise self.error(f"{self.model} puts out a state of layer {names}")
        return ends[0][0]

    def _source(self, layer):
        """The name of the layer whose output this one takes."""
        count = len(layer.calls) if isinstance(layer.calls, list) else 0
        if count != 1:
            raise self.error(f"{layer} is called {count} times")
        inputs, options = _call(layer.calls[0])
        for key, value in options.items():
            if value is not None and key != "training" and not (key == "mask" and self._is_own(value)):
                raise self.error(f"{layer} is called with {key}")
        if len(inputs) != 1:
            raise self.error(f"{layer} takes {len(inputs)} inputs ({', '.join(short(name) for name, _ in inputs)})")
        source, index = inputs[0]
        if index:
            raise self.error(f"{layer} takes a state of layer {short(source)}")
        return source

    def _is_own(self, mask):
        """Whether a mask is what a Masking or Embedding of this model makes: Keras 3 writes out how it does that."""
        source, value = self._not_equal(mask)
        for layer in self.layers.values():
            mask_zero, mask_value = layer.config.get("mask_zero"), layer.config.get("mask_value")
            own = {"Embedding": 0 if mask_zero else None, "Masking": mask_value}.get(layer.kind)
            same = value is not None and own == value
            if same and isinstance(layer.calls, list) and layer.calls and _call(layer.calls[0])[0] == source:
                return True
        return False

    def _not_equal(self, mask):
        """([(layer, index)], value) of not_equal(tensor, value), any(...) of it for a Masking; else ([], None)."""
        for kind in ("Any", "NotEqual"):
            references = list(_references(mask))
            layer = self.layers.get(references[0][0]) if len(references) == 1 else None
            if layer is None or layer.kind != kind:
                continue
            call = layer.calls[0] if isinstance(layer.calls, list) and layer.calls else None
            arguments = call.get("args") if isinstance(call, dict) else None
            if not isinstance(arguments, list) or not arguments:
                break
            if kind == "NotEqual":
                return list(_references(arguments[0])), arguments[1] if len(arguments) == 2 else None
            mask = arguments[0]
        return [], None


def _call(call):
    """([(layer, index of its output)], options) of one call, as Keras 2 or Keras 3 writes it."""
    if isinstance(call, dict):
        arguments, options = call.get("args"), call.get("kwargs")
        return list(_references(arguments)), options if isinstance(options, dict) else {}
    options = {}
    for reference in call if isinstance(call, list) else ():
        if isinstance(reference, list) and len(reference) == 4 and isinstance(reference[3], dict):
            options |= reference[3]
    return list(_references(call)), options


def _references(value):
    """(layer, index of its output) of each tensor in a structure: ["lstm", 0, 0], or Keras 3's objects."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if value.get("class_name") == "__keras_tensor__" and isinstance(value.get("config"), dict):
                stack.append(value["config"].get("keras_history"))
            else:
                stack += list(value.values())[::-1]
        elif isinstance(value, list):
            if len(value) >= 3 and isinstance(value[0], str) and type(value[1]) is type(value[2]) is int:
                yield value[0], value[2]
            else:
                stack += value[::-1]
