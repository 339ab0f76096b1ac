"""Files of Keras that hold weights alone: one layer of them, or a model of ours filled with them.

Knows what names and shapes of arrays show of a layer, and asks for what they do not.
"""

import copy

import numpy as np

import cylstm

from ..layers import Layer, Recurrent
from . import keras_files
from .keras_config import MODELS, Described, Version
from .keras_layers import TRANSLATE, Place, alone, cell_of_layer, common_dtype, recurrent_plans

_NEWEST = {"2": "2.15", "3": "3.0"}  # what a caller means by a version
_BY_GROUP = {keras_files.snake_case(kind): kind for kind in TRANSLATE}


def kind_of(weights):
    """The class of Keras that weights are of, by their group, names and shapes; None where these do not tell."""
    if weights.kind is not None:
        return _BY_GROUP.get(weights.kind)
    arrays = weights.arrays()
    names = [array.name for array in arrays]
    parts = [part for name in names for part in name.split("/")]
    if any(part.startswith("backward_") for part in parts) or (not arrays and weights.directions()[1].arrays()):
        return "Bidirectional"
    leaves = tuple(name.rpartition("/")[2] for name in names)
    shapes = [array.shape for array in arrays]
    axes = [len(shape) for shape in shapes]
    if axes[:2] == [2, 2] and shapes[0][1] == shapes[1][1]:
        return _cell_of(weights)
    if (axes == [2, 1] and shapes[0][1:] == shapes[1]) or (axes == [2] and leaves == ("kernel",)):
        return "Dense"
    return {("embeddings",): "Embedding", ("gamma", "beta"): "LayerNormalization"}.get(leaves)


def _cell_of(weights):
    """LSTM, GRU or SimpleRNN, by the recurrent kernel (H, gates * H); cuDNN's by the bias."""
    shapes = [array.shape for array in weights.arrays()]
    if len(shapes) not in (2, 3) or len(shapes[1]) != 2 or not shapes[1][0]:
        return None
    hidden_size, columns = shapes[1]
    kind = {4: "LSTM", 3: "GRU", 1: "SimpleRNN"}.get(columns / hidden_size)
    cudnn = kind in ("LSTM", "GRU") and len(shapes) == 3 and shapes[2] == (2 * columns,)
    return f"CuDNN{kind}" if cudnn else kind


def all_arrays(weights):
    """Of a layer, of the layer in it, or of both directions."""
    forward, backward = weights.directions()
    return weights.arrays() or weights.wrapped().arrays() or [*forward.arrays(), *backward.arrays()]


def of_weights(saved, layer, dtype, unsaid):
    """A layer of a file of weights alone, or a copy of the one that is given with its weights."""
    if isinstance(layer, Layer):
        if unsaid or dtype not in (None, layer.dtype):
            raise ValueError(f"{', '.join(unsaid) or 'dtype'} is given, but the layer that is given says it itself")
        return _filled(layer, saved.weights)
    listed = dict(saved.weights.listed())
    if layer is None and len(listed) == 1:
        (layer,) = listed
    if layer not in listed:
        raise ValueError(
            f"it holds weights alone, of the layers {', '.join(listed)}; layer is {layer!r}: expected the name of one,"
            " or a model of cylstm to be filled"
        )
    version = Version.of(saved.weights.version or _NEWEST.get(unsaid.get("keras_version")))
    weights = listed[layer]
    kind = unsaid.get("class_name") or kind_of(weights)
    if kind not in TRANSLATE or kind in MODELS:
        raise ValueError(f"layer {layer!r}: its class is {kind!r}, expected one of {', '.join(TRANSLATE)}: class_name=")
    described = Described(kind, layer.rpartition("/")[2], _said(kind, weights, unsaid, version), weights, version)
    plan = alone(described)
    return plan.make(dtype or common_dtype(plan.dtypes))


def _said(kind, weights, unsaid, version):
    """A config of what the caller says and the weights show."""
    if kind == "Bidirectional":
        inner = weights.directions()[0]
        return {"merge_mode": "concat", **unsaid, "layer": _entry(_cell_of(inner), inner, unsaid, version)}
    if kind == "TimeDistributed":
        return {"layer": _entry("Dense", weights.wrapped(), unsaid, version)}
    config = dict(unsaid)
    if TRANSLATE[kind] is recurrent_plans:
        arrays = weights.arrays()
        config.setdefault("return_sequences", True)
        config["units"] = arrays[1].shape[0] if len(arrays) > 1 and arrays[1].shape else 0
        if kind == "GRU" and len(arrays) == 2 and "reset_after" not in unsaid:
            raise ValueError(f"layer {weights.name!r} is a GRU without a bias, which would show it: say reset_after=")
        old = version is not None and version[:2] < (2, 4)
        if kind in ("LSTM", "GRU") and old and "recurrent_activation" not in unsaid:
            raise ValueError(
                f"layer {weights.name!r} is of Keras {version.major}.{version.minor}, whose default is 'hard_sigmoid',"
                " or 'sigmoid' in TensorFlow 2: say recurrent_activation="
            )
    return config


def _entry(kind, weights, unsaid, version):
    if kind is None:
        raise ValueError(f"layer {weights.name!r}: its weights show no class")
    return {"class_name": kind, "config": _said(kind, weights, unsaid, version)}


# kinds of Keras that a layer of ours may be filled from
_FILLS: dict = {
    "LSTM": ("LSTM", "CuDNNLSTM", "RNN"), "GRU": ("GRU", "CuDNNGRU", "RNN"), "RNN": ("SimpleRNN", "RNN"),
    "Dense": ("Dense", "TimeDistributed"), "Embedding": ("Embedding",), "LayerNorm": ("LayerNormalization",),
}  # fmt: skip


def _filled(model, weights):
    """A copy of ``model`` with these weights."""
    units = list(_units("", model))
    state = model.state_dict()
    listed = weights.listed()
    for prefix, unit, found in _matched(units, listed, weights):
        kind = kind_of(found)
        for name, array in _arrays_for(unit, kind, found).items():
            state[prefix + name] = array
    other = copy.copy(model)
    try:
        other.load_state_dict(state)
    except ValueError as error:
        raise ValueError(f"the weights do not fit the layer that is given: {error}") from None
    return other


def _units(prefix, layer):
    """(prefix of its parameters, layer) of each part of a model that is one layer of Keras."""
    if isinstance(layer, (cylstm.Sequential, cylstm.Final)):
        for name, part in layer._parts:
            yield from _units(f"{prefix}{name}.", part)
    elif layer.parameters:
        if type(layer).__name__ not in _FILLS:
            raise ValueError(f"{layer!r} has no counterpart in Keras: expected layers among {', '.join(_FILLS)}")
        yield prefix, layer


def _matched(units, listed, weights):
    """(prefix, layer, weights) for each unit: in the file's order, or where it has none by class and number."""
    if len(units) != len(listed):
        names = ", ".join(f"{name} ({kind_of(found)})" for name, found in listed)
        raise ValueError(f"{len(units)} layers with weights are given, but it has {len(listed)}: {names}")
    if isinstance(weights, keras_files.ByName):
        return [(prefix, unit, found) for (prefix, unit), (_, found) in zip(units, listed, strict=True)]
    matched, left = [], [found for _, found in listed]
    for prefix, unit in units:
        fitting = [found for found in left if _fits(unit, found)]
        if not fitting or len({found.kind for found in fitting}) > 1:
            kinds = " and ".join(sorted({found.kind for found in fitting})) or "none"
            raise ValueError(f"{unit!r} is given, which {kinds} of the weights fit: load layers by name, layer='lstm'")
        matched.append((prefix, unit, fitting[0]))
        left.remove(fitting[0])
    return matched


def _fits(unit, weights):
    """Whether the weights are of a kind, and of the sizes, that a layer of ours has."""
    kind = kind_of(weights)
    if isinstance(unit, Recurrent) and unit.bidirectional:
        weights = weights.directions()[0]
        kind = _cell_of(weights) if kind == "Bidirectional" else None
    elif kind == "TimeDistributed":
        weights = weights.wrapped()
    arrays = weights.arrays()
    sizes = unit._arguments[0]
    if kind not in _FILLS[type(unit).__name__] or not arrays:
        return False
    if isinstance(unit, Recurrent):
        return len(arrays) > 1 and (*arrays[0].shape[:1], *arrays[1].shape[:1]) == sizes[:2]
    return arrays[0].shape == sizes[: len(arrays[0].shape)]


def _arrays_for(unit, kind, weights):
    """The parameters of a layer of ours, from those of a layer of Keras that it is the counterpart of."""
    said = {"reset_after": unit.reset_after} if isinstance(unit, cylstm.GRU) else {}
    recurrent = isinstance(unit, Recurrent)
    if recurrent and unit.num_layers > 1:
        raise ValueError(f"{unit!r} has num_layers={unit.num_layers}, which Keras has not: give a layer for each")
    if recurrent and unit.bidirectional and kind == "Bidirectional":
        parts = zip(("_l0", "_l0_reverse"), weights.directions(), strict=True)
    elif recurrent:
        parts = [("_l0", weights)]
    else:
        layer = Described(kind, weights.name, _said(kind, weights, {}, None), weights, None)
        return TRANSLATE[kind](layer, Place())[0].arrays
    arrays = {}
    for suffix, part in parts:
        kind = _cell_of(part)
        if kind not in _FILLS[type(unit).__name__]:
            raise ValueError(f"{unit!r} is given, but layer {weights.name!r} is a {kind_of(weights)}")
        config = _said(kind, part, {"recurrent_activation": "sigmoid", **said}, None)
        cell = cell_of_layer(Described(kind, weights.name, config, part, None))
        arrays |= {name + suffix: array for name, array in cell.arrays.items()}
        if unit.bias is True and "bias_hh" not in cell.arrays and "bias_ih" in cell.arrays:
            arrays[f"bias_hh{suffix}"] = np.zeros_like(cell.arrays["bias_ih"])
    return arrays
