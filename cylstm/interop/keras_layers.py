"""Layers of Keras as ours: what their options mean and how their weights lie, without Keras.

A class is told by its name; there is a function for each in ``TRANSLATE``.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

import cylstm

from .gates import reorder
from .keras_config import MODELS, Described, in_order, short

# Names of activations in Keras -> ours. hard_sigmoid is another function in Keras 3, see _activation.
_ACTIVATIONS = {
    "linear": "linear", "sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu", "softplus": "softplus",
    "softsign": "softsign", "elu": "elu", "swish": "swish", "silu": "swish", "gelu": "gelu", "softmax": "softmax",
    "leaky_relu": ("leaky_relu", 0.2), "hard_sigmoid": None,
}  # fmt: skip


class Plan(NamedTuple):
    """A layer of ours that is made when the dtype of all is known."""

    make: Callable
    dtypes: tuple = ()
    arrays: Mapping = MappingProxyType({})  # of one layer

    @classmethod
    def of(cls, kind, *arguments, arrays, **options):
        return cls(
            lambda dtype: kind._of(*arguments, arrays=arrays, dtype=dtype.name, **options),
            tuple(array.dtype for array in arrays.values()),
            arrays,
        )

    @classmethod
    def around(cls, make, plans):
        """``make`` of the layers that these plans make."""
        return cls(lambda dtype: make(*(plan.make(dtype) for plan in plans)), sum((p.dtypes for p in plans), ()))


class Place:
    """What is known of the data at a place of a chain."""

    def __init__(self, axes=None, masked=False, alone=False):
        self.axes = axes  # 2, 3, or None: not known
        self.masked = masked  # whether steps may be masked
        self.alone = alone  # whether one layer is taken out of its model


def _plans(layer, place):
    """[(name, plan)] of the layers of ours that a described one becomes; ``place`` is moved behind it."""
    translate = TRANSLATE.get(layer.kind)
    if translate is None:
        raise layer.error("is of a class that cylstm has no counterpart of, and nothing of it is executed")
    found = translate(layer, place)
    names = [layer.name, f"{layer.name}_reverse"]
    return [(name.replace(".", "_"), plan) for name, plan in zip(names, found, strict=False)]


def _activation(layer, key, default="linear", value=None):
    """An activation of Keras as ours."""
    value = layer.config.get(key, default) if value is None else value
    if value is None:
        return "linear"
    if isinstance(value, dict):  # a function, or a layer that serves as one
        kind, config = value.get("class_name"), value.get("config")
        if kind in _ACTIVATION_LAYERS and isinstance(config, dict):
            return _ACTIVATION_LAYERS[kind](Described.of(value, None, layer.version))
        value = config if isinstance(config, str) else kind
    if not isinstance(value, str) or value not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise layer.error(f"{key} is {short(value)}, which cylstm does not have: expected one of {known}")
    if value != "hard_sigmoid":
        return _ACTIVATIONS[value]
    if layer.version is None:
        raise layer.error(
            f"{key} is 'hard_sigmoid', which Keras 3 has as relu6(x + 3) / 6 and Keras 2 as 0.2 x + 0.5 within 0 and 1:"
            " say which by keras_version='2' or '3'"
        )
    return ("hard_sigmoid", 1 / 6, 0.5) if layer.version.major >= 3 else ("hard_sigmoid", 0.2, 0.5)


# Recurrent layers


class _Recurrent(NamedTuple):
    """One direction of a recurrent layer: the class, arguments and arrays of ours."""

    kind: type
    arguments: tuple
    options: dict
    arrays: dict  # by name without a suffix

    def like(self, other):
        """Whether one layer can hold both directions."""
        return self[:3] == other[:3] and self.arrays.keys() == other.arrays.keys()


# class of Keras: (name of ours, gates as Keras has them, as ours has them)
_CELLS = {"LSTM": ("LSTM", "ifco", "ifgo"), "GRU": ("GRU", "zrh", "rzn"), "SimpleRNN": ("RNN", "h", "n")}


def _cell(layer):
    """The class of a recurrent layer as a key of _CELLS, whether its weights are cuDNN's, and its config."""
    kind = layer.kind
    if kind == "RNN":
        cell = layer.config.get("cell")
        kind = cell.get("class_name") if isinstance(cell, dict) else None
        if not isinstance(kind, str) or kind.removesuffix("Cell") not in _CELLS or not kind.endswith("Cell"):
            raise layer.error(f"its cell is {short(kind)}, expected LSTMCell, GRUCell or SimpleRNNCell")
        config = layer.config | Described.of(cell, None, layer.version).config
        return kind.removesuffix("Cell"), False, config
    return kind.removeprefix("CuDNN"), kind.startswith("CuDNN"), layer.config


def cell_of_layer(layer):
    """A recurrent layer in its own direction, as ``_Recurrent``."""
    kind, cudnn, config = _cell(layer)
    layer = Described(layer.kind, layer.name, config, layer.weights, layer.version)
    ours, given, wanted = _CELLS[kind]
    gates = len(given)
    kernel, recurrent, *bias = layer.arrays(2, 3)
    hidden_size = layer.size("units")
    layer.shaped("the kernel", kernel, None, gates * hidden_size)
    layer.shaped("the recurrent kernel", recurrent, hidden_size, gates * hidden_size)
    bias = bias[0] if bias else None
    if layer.get("use_bias", (bool, type(None)), bias is not None) is not (bias is not None) and not cudnn:
        raise layer.error(f"use_bias is {config.get('use_bias')}, but there is {'no' if bias is None else 'a'} bias")
    if cudnn:
        kernel, recurrent, bias = _from_cudnn(layer, kind, kernel, recurrent, bias)
    options = {"bias": "single", "batch_first": True, "semantics": "keras"}
    for ours_too, rate in (("input_dropout", "dropout"), ("recurrent_dropout", "recurrent_dropout")):
        options[ours_too] = layer.number(rate, default=0.0)
    if layer.get("zero_output_for_mask", (bool, type(None)), False):
        options["padding"] = "zero"
    activation = _activation(layer, "activation", "tanh")
    if kind == "SimpleRNN":
        options["nonlinearity"] = activation
    else:
        gate = _activation(layer, "recurrent_activation", "sigmoid")
        options["activations"] = (gate, activation) if kind == "GRU" else (gate, activation, activation)
    both = False
    if kind == "GRU":
        options["reset_after"] = both = _reset_after(layer, bias)
    arrays = {"weight_ih": kernel, "weight_hh": recurrent}
    if bias is None:
        options["bias"] = False
    elif both:
        options["bias"] = True
        arrays["bias_ih"], arrays["bias_hh"] = layer.shaped("the bias", bias, 2, gates * hidden_size)
    else:
        arrays["bias_ih"] = layer.shaped("the bias", bias, gates * hidden_size)
    arrays = {name: reorder(array, given, wanted, axis=-1).T for name, array in arrays.items()}
    kind = getattr(cylstm, ours)
    return _Recurrent(kind, (len(kernel), hidden_size), options, arrays)


def _reset_after(layer, bias):
    """Of a GRU, as its config says and its bias shows: True, (2, 3H); False, (3H,), and before there was a choice."""
    said = layer.get("reset_after", (bool, type(None)))
    if bias is None:
        return bool(said) or layer.kind == "CuDNNGRU"
    shown = bias.ndim == 2
    if said is not None and said is not shown:
        raise layer.error(f"reset_after is {said}, but the bias has shape {bias.shape}: that of {shown}")
    return shown


def _from_cudnn(layer, kind, kernel, recurrent, bias):
    """cuDNN's weights in the layout of the plain layers.

    Each gate's kernel is stored as cuDNN has it, (H, I) in C order, under the shape (I, H); the recurrent kernels are
    transposed. There are two biases, one after the other, which an LSTM sums.
    """
    gates = 4 if kind == "LSTM" else 3
    kernel = np.hstack([part.reshape(part.shape[::-1]).T for part in np.hsplit(kernel, gates)])
    recurrent = np.hstack([part.T for part in np.hsplit(recurrent, gates)])
    if bias is not None:
        bias = layer.shaped("the bias", bias, 2 * kernel.shape[1]).reshape(2, -1)
        bias = bias.sum(axis=0) if kind == "LSTM" else bias
    return kernel, recurrent, bias


def _walk_of(layer, place):
    """(go_backwards, return_sequences) of a recurrent layer, whose place allows what it wants."""
    if place.axes not in (None, 3):
        raise layer.error(f"its input has {place.axes} axes, expected 3: (batch, seq_len, features)")
    go_backwards, sequences = (
        bool(layer.get(key, (bool, type(None)), False)) for key in ("go_backwards", "return_sequences")
    )
    if layer.get("time_major", (bool, type(None)), False) and (not sequences or go_backwards or not place.alone):
        raise layer.error(
            "is time_major, whose arrays are transposed, which cylstm has in a layer that is loaded alone, by layer=,"
            " with return_sequences and without go_backwards"
        )
    if layer.get("zero_output_for_mask", (bool, type(None)), False) and not sequences and place.masked:
        raise layer.error(
            "zero_output_for_mask without return_sequences returns zeros where the last step is masked, which cylstm"
            " has no counterpart of"
        )
    place.axes = 3 if sequences else 2
    place.masked = place.masked and sequences
    return go_backwards, sequences


def recurrent_plans(layer, place):
    go_backwards, sequences = _walk_of(layer, place)
    cell = cell_of_layer(layer)
    options = cell.options | ({"batch_first": False} if layer.config.get("time_major") else {})
    arrays = {f"{name}_l0": array for name, array in cell.arrays.items()}
    plan = Plan.of(cell.kind, *cell.arguments, arrays=arrays, reverse=go_backwards, **options)
    if not sequences:
        return [Plan.around(cylstm.Final, [plan])]
    return [plan, _reverse()] if go_backwards else [plan]


def _reverse():
    """Behind a layer that goes backwards: Keras turns its outputs around, but not their mask."""
    return Plan(lambda dtype: cylstm.Reverse(keep_mask=True))


_MERGES = {"concat": "concat", "sum": "sum", "mul": "mul", "ave": "average", None: None}


def _bidirectional_plans(layer, place):
    merge = layer.get("merge_mode", (str, type(None)), "concat")
    if merge not in _MERGES:
        raise layer.error(f"merge_mode is {short(merge)}, expected one of {', '.join(map(repr, _MERGES))}")
    weights = layer.weights.directions()
    forward = layer.inner("layer", weights[0])
    given = layer.config.get("backward_layer")
    if given is None:
        config = forward.config | {"go_backwards": not forward.config.get("go_backwards", False)}
        backward = Described(forward.kind, forward.name, config, weights[1], layer.version)
    else:
        backward = layer.inner("backward_layer", weights[1])
    for part in (forward, backward):
        if TRANSLATE.get(part.kind) is not recurrent_plans:
            raise layer.error(f"is of a {part.kind}, expected LSTM, GRU, SimpleRNN or RNN")
        # the wrapper sets it in both to what return_sequences is, which is another matter where there are no sequences
        part.config = part.config | {"zero_output_for_mask": False}
    time_major = forward.config.get("time_major") or layer.config.get("time_major")
    backward.config["time_major"] = False  # the first one tells
    backwards, sequences = _walk_of(forward, place)
    other, other_sequences = _walk_of(backward, Place(alone=place.alone))
    if other is backwards or other_sequences is not sequences:
        raise layer.error("its two layers differ in return_sequences, or do not go both ways")
    cells = [cell_of_layer(forward), cell_of_layer(backward)]
    if backwards:  # then the first is our reverse one, and Keras' output that of ours turned around
        if merge in ("concat", None):
            raise layer.error(f"its first layer has go_backwards, which with merge_mode {merge!r} cylstm has not")
        cells.reverse()
    # these have no zero_output_for_mask, which every later Bidirectional sets
    padding = "repeat" if layer.version is not None and layer.version.outside_tensorflow else "zero"
    for cell in cells:
        cell.options["padding"] = padding
    if time_major and not cells[0].like(cells[1]):
        raise layer.error("is time_major and of two layers that differ, which cylstm has not")
    for cell in cells:
        cell.options["batch_first"] = not time_major
    plan = _both_directions(cells, _MERGES[merge])
    if not sequences:
        return [Plan.around(cylstm.Final, [plan])]
    return [plan, _reverse()] if backwards else [plan]


def _both_directions(cells, merge):
    """One bidirectional layer, or where the two differ a container of them."""
    forward, backward = cells
    if forward.like(backward):
        arrays = {f"{name}_l0": array for name, array in forward.arrays.items()}
        arrays |= {f"{name}_l0_reverse": array for name, array in backward.arrays.items()}
        return Plan.of(
            forward.kind, *forward.arguments, arrays=arrays, bidirectional=True, merge=merge, **forward.options
        )
    plans = [
        Plan.of(
            cell.kind, *cell.arguments, arrays={f"{name}_l0": array for name, array in cell.arrays.items()},
            reverse=reverse, **cell.options,
        )
        for cell, reverse in zip(cells, (False, True), strict=True)
    ]  # fmt: skip
    return Plan.around(lambda *parts: cylstm.Bidirectional(*parts, merge=merge), plans)


# Other layers


def _dense_plans(layer, place):
    kernel, *bias = layer.arrays(1, 2)
    layer.shaped("the kernel", kernel, None, None)
    arrays = {"weight": kernel.T}
    if bias:
        arrays["bias"] = layer.shaped("the bias", bias[0], kernel.shape[1])
    activation = _activation(layer, "activation")
    options = {} if activation == "linear" else {"activation": activation}
    return [Plan.of(cylstm.Dense, *kernel.shape, bool(bias), arrays=arrays, **options)]


def _embedding_plans(layer, place):
    (table,) = layer.arrays(1)
    layer.shaped("the table", table, None, None)
    mask_zero = bool(layer.get("mask_zero", (bool, type(None)), False))
    place.masked = place.masked or mask_zero
    place.axes = 3 if place.axes is None else place.axes + 1
    return [Plan.of(cylstm.Embedding, *table.shape, mask_zero, arrays={"weight": table})]


def _masking_plans(layer, place):
    if place.masked:
        raise layer.error("its input is masked already, and its own mask would stand for that: cylstm has both")
    place.masked = True
    return [_plain(cylstm.Masking, layer.get("mask_value", (int, float), 0.0))]


def _dropout_plans(layer, place):
    if layer.config.get("noise_shape") is not None:  # whose mask in training ours has not
        return []
    return [_plain(cylstm.Dropout, layer.number("rate", default=0.0))]


def _nothing(layer, place):
    """Of a layer that does nothing in inference."""
    return []


def _plain(kind, *arguments):
    """Of a layer without parameters."""
    return Plan(lambda dtype: kind(*arguments))


def _activation_plans(layer, place):
    activation = _ACTIVATION_LAYERS[layer.kind](layer)
    if layer.kind == "Softmax" and place.masked:
        raise layer.error("takes the mask of its input, which cylstm has not: use Activation('softmax')")
    return [_plain(cylstm.Activation, activation)]


def _relu(layer):
    if layer.config.get("max_value") is not None:
        raise layer.error(f"max_value is {short(layer.config['max_value'])}, which cylstm has not: expected None")
    slope, threshold = layer.number("negative_slope", default=0.0), layer.number("threshold", default=0.0)
    if slope and threshold:
        raise layer.error("negative_slope and threshold are both given, which cylstm has not together")
    if threshold:
        return ("thresholded_relu", threshold)
    return ("leaky_relu", slope) if slope else "relu"


def _softmax(layer):
    axis = layer.config.get("axis", -1)
    if axis not in (-1, [-1]):
        raise layer.error(f"axis is {short(axis)}, expected -1")
    return "softmax"


# what each activation layer is, as an activation of ours
_ACTIVATION_LAYERS: dict = {
    "Activation": lambda layer: _activation(layer, "activation"),
    "ReLU": _relu,
    "LeakyReLU": lambda layer: ("leaky_relu", layer.number("negative_slope", "alpha", default=0.3)),
    "ELU": lambda layer: ("elu", layer.number("alpha", default=1.0)),
    "ThresholdedReLU": lambda layer: ("thresholded_relu", layer.number("theta", default=1.0)),
    "Softmax": _softmax,
}


def _layer_norm_plans(layer, place):
    axis = layer.config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if axis != -1 and axis != (place.axes or 3) - 1:
        raise layer.error(f"axis is {short(axis)}, expected -1 or the last one of its input")
    if layer.config.get("rms_scaling"):
        raise layer.error("rms_scaling is True, which cylstm has not")
    names = [name for name, key in (("weight", "scale"), ("bias", "center")) if layer.get(key, bool, True)]
    arrays = dict(zip(names, layer.arrays(len(names)), strict=True))
    features = {array.shape for array in arrays.values()}
    if len(features) != 1 or len(shape := features.pop()) != 1:
        raise layer.error("has neither scale nor center, or of a wrong shape: its features are not known")
    filled = {"weight": np.ones(shape, np.float16), "bias": np.zeros(shape, np.float16)} | arrays
    return [Plan.of(cylstm.LayerNorm, *shape, layer.number("epsilon", default=1e-3), arrays=filled)]


def _repeat_plans(layer, place):
    place.axes, place.masked = 3, False
    return [_plain(cylstm.Repeat, layer.size("n"))]


def _flatten_plans(layer, place):
    if layer.config.get("data_format") not in (None, "channels_last"):
        raise layer.error(f"data_format is {short(layer.config['data_format'])}, expected 'channels_last'")
    trivial = place.axes == 2
    place.axes, place.masked = 2, False
    return [] if trivial else [_plain(cylstm.Flatten)]


# What can be done at each time step by itself.
_OF_ROWS = ("Dense", "Dropout", "LayerNormalization", "Flatten", *_ACTIVATION_LAYERS)


def _time_distributed_plans(layer, place):
    inner = layer.inner("layer", layer.weights.wrapped())
    if inner.kind not in _OF_ROWS:
        raise layer.error(f"is of a {inner.kind}, expected one of {', '.join(_OF_ROWS)}")
    return TRANSLATE[inner.kind](inner, Place(axes=2))


def _model_plans(layer, place):
    plans = chain_plans(layer, place)
    return [sequential_plan(plans)] if plans else []


def sequential_plan(plans):
    names = [name for name, _ in plans]
    return Plan.around(
        lambda *layers: cylstm.Sequential(list(zip(names, layers, strict=True))), [plan for _, plan in plans]
    )


def _input(layer, place):
    shape = layer.config.get("batch_shape", layer.config.get("batch_input_shape"))
    if isinstance(shape, list):
        place.axes = len(shape)
    return []


TRANSLATE: dict = {
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN", "CuDNNLSTM", "CuDNNGRU", "RNN"), recurrent_plans),
    **dict.fromkeys(_ACTIVATION_LAYERS, _activation_plans),
    **dict.fromkeys(MODELS, _model_plans),
    **dict.fromkeys(
        (
            "GaussianNoise", "GaussianDropout", "AlphaDropout", "SpatialDropout1D", "ActivityRegularization",
            "Identity",
        ),
        _nothing,
    ),
    "Bidirectional": _bidirectional_plans,
    "TimeDistributed": _time_distributed_plans,
    "Dense": _dense_plans,
    "Embedding": _embedding_plans,
    "Masking": _masking_plans,
    "Dropout": _dropout_plans,
    "LayerNormalization": _layer_norm_plans,
    "RepeatVector": _repeat_plans,
    "Flatten": _flatten_plans,
    "InputLayer": _input,
}  # fmt: skip


# Models


def chain_plans(model, place):
    """The plans of a model's layers, one after the other."""
    layers = in_order(model)
    plans = []
    for layer in layers:
        try:
            plans += _plans(layer, place)
        except ValueError as error:
            raise ValueError(f"{error}{_hint(model, layer)}") from None
    return plans


def _hint(model, layer):
    """What can be done where a layer has no counterpart."""
    if layer.kind in TRANSLATE:
        return ""
    name = next((name for name, other in model.walk() if other.kind in ("Bidirectional", *_CELLS)), layer.name)
    return f". A layer that cylstm has can be loaded alone: from_keras(path, layer={name!r})"


def alone(layer):
    plans = _plans(layer, Place(alone=True))
    if not plans:
        raise layer.error("does nothing in inference: there is no layer for it")
    return plans[0][1] if len(plans) == 1 else sequential_plan(plans)


def common_dtype(dtypes):
    return np.dtype(np.float64 if np.dtype(np.float64) in dtypes else np.float32)
