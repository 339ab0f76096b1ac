"""Models as files of ONNX, by the onnx package."""

import os

import numpy as np

from .. import validation
from ..feedforward import Activation, Dense, Dropout, Embedding, Flatten, Last, LayerNorm, Repeat, Reverse
from ..layers import GRU, LSTM, RNN, Layer, Recurrent
from ..saving import _check_kind, _replace
from ..sequential import Sequential
from ..wrappers import Bidirectional, Final
from .gates import reorder
from .onnx_files import package

# Those whose operators are written in one way, and the version of the format that each came with: of the last one up to
# it. LayerNormalization begins with 17, Gelu with 20.
OPSETS = (13, 22)
_IR_VERSIONS = {14: 7, 18: 8, 20: 9, 22: 10}

# A file of protocol buffers is no larger.
_MAX_BYTES = (1 << 31) - (1 << 20)

# Our name of an activation, ONNX's in a recurrent node, and how many numbers it takes.
_ACTIVATIONS = {
    "sigmoid": ("Sigmoid", 0), "tanh": ("Tanh", 0), "relu": ("Relu", 0), "softsign": ("Softsign", 0),
    "softplus": ("Softplus", 0), "leaky_relu": ("LeakyRelu", 1), "thresholded_relu": ("ThresholdedRelu", 1),
    "elu": ("Elu", 1), "hard_sigmoid": ("HardSigmoid", 2), "affine": ("Affine", 2), "scaled_tanh": ("ScaledTanh", 2),
}  # fmt: skip


def to_onnx(model, path, *, opset=17, lengths=False, states=False):
    """Write a model as a file of ONNX, which onnxruntime runs to the same numbers.

    Parameters
    ----------
    model : layer or Sequential
        LSTM, GRU, RNN with the options that ONNX has, Bidirectional, Final, Dense, Embedding, LayerNorm, Activation,
        Last, Repeat, Reverse, Flatten; a Dropout, and what else acts in training alone, is left out.
    path : str or path
        Written whole or not at all, as :meth:`~cylstm.layers.Layer.save` does.
    opset : int, default 17
        13 to 22. A LayerNorm needs 17, an activation "gelu" 20.
    lengths : bool, default False
        Whether the file has an input "lengths", int32 (batch,), the valid steps of each sequence.
    states : bool, default False
        Whether the file has inputs for initial states. False: they are the layers' ``default_state``, or zeros.

    Raises
    ------
    OSError
        As the file system says it.
    ValueError
        If a layer, or an option of it, is not in ONNX; it is named.
    TypeError
        If an argument is of a wrong type.
    ImportError
        If onnx is not installed.

    Notes
    -----
    The input "x" and the output "y" are as the model has them: of a Sequential batch-first, of a single layer as its
    ``batch_first`` says; of a model that takes both, x is of sequences, (batch, time, features), and not of rows of
    features. Sizes of batch and time are left open. The final states are outputs too: "h_n" and "c_n" of a
    single layer, "0.h_n" of layer "0" of a Sequential; initial states are "0.h_0".

    A file of a float64 model is in ONNX's double, which onnxruntime's LSTM, GRU and RNN do not take; onnx's reference
    evaluator does. A row of length 0 ends with zeros in ONNX, whatever ``empty`` says.

    Examples
    --------
    >>> import os, tempfile, cylstm
    >>> gru = cylstm.GRU(3, 4, bidirectional=True, rng=0)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "gru.onnx")
    ...     cylstm.to_onnx(gru, path)
    ...     cylstm.from_onnx(path)
    Sequential([GRU(3, 4, bidirectional=True)])
    """
    if not isinstance(model, Layer):
        raise TypeError(f"model is a {type(model).__name__}, expected a layer such as cylstm.LSTM or cylstm.Sequential")
    opset = validation.size("opset", opset)
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise ValueError(f"opset is {opset}, expected {OPSETS[0]} to {OPSETS[1]}")
    writer = _Writer(opset, model.dtype, validation.flag("lengths", lengths), validation.flag("states", states))
    path = os.path.realpath(validation.path("path", path))
    _check_kind(path, missing_ok=True)
    needed = sum(array.nbytes for array in model.parameters.values())
    if needed > _MAX_BYTES:
        raise ValueError(f"the parameters are {needed} bytes, expected at most {_MAX_BYTES}: a file holds no more")
    _replace(path, writer.write(model).SerializeToString())


class _Writer:
    """A graph in the making. ``value`` is the name of what the layers so far make, of shape (batch, ..., features)."""

    def __init__(self, opset, dtype, lengths, states):
        self._onnx = package()
        self._opset, self._dtype = opset, np.dtype(dtype or np.float32)
        self._with_states = states
        self._lengths = "lengths" if lengths else ""
        self._nodes, self._constants, self._inputs, self._outputs = [], {}, [], []
        self._time_major = False  # of value
        self._timed = True  # whether value has an axis of time
        self._final = None  # of a value that is the y of a forward layer: its final h

    def write(self, model):
        """The ModelProto of a model."""
        first = model
        while isinstance(first, (Sequential, Final, Bidirectional)):
            first = next(iter(first._layers))
        helper, single = self._onnx.helper, isinstance(model, Recurrent)
        self._time_major = single and not model.batch_first
        self._timed = isinstance(first, Embedding) or _takes(model, 3)
        axes = ["time", "batch"] if self._time_major else ["batch", "time"] if self._timed else ["batch"]
        element = helper.np_dtype_to_tensor_dtype(self._dtype)
        kind = self._onnx.TensorProto.INT64
        if not isinstance(first, Embedding):
            kind, axes = element, [*axes, model._input_width or "features"]
        self._inputs.append(helper.make_tensor_value_info("x", kind, axes))
        if self._lengths:
            if not self._timed:
                raise ValueError("lengths is True, but the model takes no sequences")
            self._inputs.append(helper.make_tensor_value_info("lengths", self._onnx.TensorProto.INT32, ["batch"]))
        y = self._layer(model, "x", "")
        if self._time_major and not (single and not model.batch_first):
            y = self._batch_first(y)
        self._add("Identity", [y], ["y"])
        shape = model._output_shape(tuple(None if isinstance(axis, str) else axis for axis in axes))
        outputs = [helper.make_tensor_value_info("y", element, shape), *self._outputs]
        constants = [self._onnx.numpy_helper.from_array(array, name) for name, array in self._constants.items()]
        graph = helper.make_graph(self._nodes, "cylstm", self._inputs, outputs, constants)
        opsets = [helper.make_opsetid("", self._opset)]
        version = next(version for last, version in _IR_VERSIONS.items() if self._opset <= last)
        return helper.make_model(graph, opset_imports=opsets, ir_version=version, producer_name="cylstm")

    # Nodes

    def _add(self, kind, inputs, outputs=1, **attributes):
        """Write a node; return the name of its output, or the names."""
        if isinstance(outputs, int):
            outputs = [f"{kind}_{len(self._nodes)}" + (f"_{n}" if n else "") for n in range(outputs)]
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, outputs, name, **attributes))
        return outputs[0] if len(outputs) == 1 else outputs

    def _constant(self, values, dtype=None, name=None):
        """The name of an array of the file; without a name of its own there is one for all that are equal."""
        array = np.array(values, dtype or self._dtype, order="C")
        name = name or "_".join(map(str, [array.dtype, array.ndim, *array.reshape(-1).tolist()]))
        self._constants[name] = array
        return name

    def _integers(self, *values):
        return self._constant(values, np.int64)

    def _batch_first(self, value):
        self._time_major = False
        return self._add("Transpose", [value], perm=[1, 0, 2])

    # Layers: each takes the name of its x and gives that of its y

    def _layer(self, layer, value, prefix):
        writers = {
            Sequential: self._sequential, Dense: self._dense, Embedding: self._embedding, Dropout: self._dropout,
            LayerNorm: self._layer_norm, Activation: self._activation, Last: self._last, Repeat: self._repeat,
            Bidirectional: self._pair, Final: self._of_final, LSTM: self._recurrent, GRU: self._recurrent,
            RNN: self._recurrent, Reverse: self._reverse, Flatten: self._flatten,
        }  # fmt: skip
        if type(layer) not in writers:
            raise ValueError(f"{_where(prefix)} is {layer!r}, and ONNX has no {type(layer).__name__}")
        final, self._final = self._final, None
        if isinstance(layer, (Last, Dropout)):
            self._final = final
        return writers[type(layer)](layer, value, prefix)

    def _sequential(self, model, value, prefix):
        for name, layer in model._parts:
            value = self._layer(layer, value, f"{prefix}{name}.")
        return value

    def _dense(self, layer, value, prefix):
        weight = layer.parameters["weight"]
        bias = [self._constant(layer.parameters["bias"], name=f"{prefix}bias")] if layer.bias else []
        if self._timed:
            value = self._add("MatMul", [value, self._constant(weight.T, name=f"{prefix}weight")])
            value = self._add("Add", [value, *bias]) if bias else value
        else:
            value = self._add("Gemm", [value, self._constant(weight, name=f"{prefix}weight"), *bias], transB=1)
        return value if layer.activation is None else self._activation(layer, value, prefix)

    def _embedding(self, layer, value, prefix):
        if layer.mask_zero:
            raise ValueError(f"{_where(prefix)} has mask_zero=True, which ONNX has not: give lengths")
        return self._add("Gather", [self._constant(layer.parameters["weight"], name=f"{prefix}weight"), value], axis=0)

    def _dropout(self, layer, value, prefix):
        return value

    def _layer_norm(self, layer, value, prefix):
        if self._opset < 17:
            raise ValueError(f"{_where(prefix)} is {layer!r}, and opset is {self._opset}: a LayerNorm needs 17")
        arrays = [self._constant(array, name=prefix + name) for name, array in layer.parameters.items()]
        return self._add("LayerNormalization", [value, *arrays], axis=-1, epsilon=layer.eps)

    def _activation(self, layer, value, prefix):
        name, *numbers = [layer.activation] if isinstance(layer.activation, str) else layer.activation
        if name == "linear":
            return value
        if name == "softmax":
            return self._add("Softmax", [value], axis=-1)
        if name == "swish":
            return self._add("Mul", [value, self._add("Sigmoid", [value])])
        if name == "gelu":
            if self._opset < 20:
                raise ValueError(f"{_where(prefix)} has the activation 'gelu', and opset is {self._opset}: it needs 20")
            return self._add("Gelu", [value])
        if name == "affine":
            value = self._add("Mul", [value, self._constant(numbers[0])])
            return self._add("Add", [value, self._constant(numbers[1])])
        if name == "scaled_tanh":
            value = self._add("Tanh", [self._add("Mul", [value, self._constant(numbers[1])])])
            return self._add("Mul", [value, self._constant(numbers[0])])
        return self._add(_ACTIVATIONS[name][0], [value], **dict(zip(("alpha", "beta"), numbers, strict=False)))

    def _last(self, layer, value, prefix):
        self._timed, time_major, self._time_major = False, self._time_major, False
        if self._lengths:
            if self._final is None:
                raise ValueError(
                    f"{_where(prefix)} is Last(), which with lengths ONNX has behind a forward recurrent layer alone: "
                    "expected cylstm.Final around the layer"
                )
            return self._final
        return self._add("Gather", [value, self._constant(-1, np.int64)], axis=0 if time_major else 1)

    def _repeat(self, layer, value, prefix):
        self._timed, self._lengths = True, ""
        value = self._add("Unsqueeze", [value, self._integers(1)])
        return self._add("Expand", [value, self._integers(1, layer.n, 1)])

    def _reverse(self, layer, value, prefix):
        if self._lengths and not layer.keep_mask:  # a sequence_lens begins with the first step
            raise ValueError(
                f"{_where(prefix)} is {layer!r}, which with lengths ONNX has not: expected Reverse(keep_mask=True)"
            )
        axis, least = 0 if self._time_major else 1, np.iinfo(np.int64).min
        bounds = [self._integers(-1), self._integers(least), self._integers(axis), self._integers(-1)]
        return self._add("Slice", [value, *bounds])

    def _flatten(self, layer, value, prefix):
        if not self._timed:
            return value
        self._timed = False
        return self._add("Flatten", [self._batch_first(value) if self._time_major else value], axis=1)

    # Recurrent layers

    def _recurrent(self, layer, value, prefix):
        y, final = self._run(layer, value, prefix)
        self._final = final if not layer.bidirectional and not layer.reverse else None
        return y

    def _of_final(self, layer, value, prefix):
        run = self._run_pair if isinstance(layer.layer, Bidirectional) else self._run
        _, final = run(layer.layer, value, prefix)
        self._timed = self._time_major = False
        return final

    def _pair(self, layer, value, prefix):
        return self._run_pair(layer, value, prefix)[0]

    def _run_pair(self, layer, value, prefix):
        """(y, final h) of two layers over the same sequences."""
        value = value if self._time_major else self._transposed(value)
        found = [self._run(one, value, f"{prefix}{name}.") for name, one in layer._parts]
        return [self._merged(list(parts), layer.merge) for parts in zip(*found, strict=True)]

    def _transposed(self, value):
        self._time_major = True
        return self._add("Transpose", [value], perm=[1, 0, 2])

    def _run(self, layer, value, prefix):
        """(y (T, B, F), final h (B, F)) of a recurrent layer; its states become inputs and outputs."""
        _check_options(layer, _where(prefix), bool(self._lengths))
        value = value if self._time_major else self._transposed(value)
        letters, ends = layer._states, []
        initial = [self._initial(layer, n, prefix) for n in range(len(letters))]
        for n in range(layer.num_layers):
            states = [self._part(name, n, layer) for name in initial]
            y, *end = self._node(layer, n, value, states, prefix)
            ends.append(end)
            value = self._directions(layer, y)
        for letter, parts in zip(letters, zip(*ends, strict=True), strict=True):
            name = f"{prefix}{letter}_n"
            self._add("Concat", list(parts), [name], axis=0)
            self._outputs.append(self._info(name, layer))
        return value, self._directions(layer, ends[-1][0], time=False)

    def _info(self, name, layer):
        """What the graph says of a state."""
        shape = [layer.num_layers * layer._directions, "batch", layer.hidden_size]
        element = self._onnx.helper.np_dtype_to_tensor_dtype(self._dtype)
        return self._onnx.helper.make_tensor_value_info(name, element, shape)

    def _initial(self, layer, n, prefix):
        """The name of an initial state of all layers of the stack; "" of zeros."""
        name = f"{prefix}{layer._states[n]}_0"
        if self._with_states:
            self._inputs.append(self._info(name, layer))
            return name
        if layer.default_state is None:
            return ""
        state = layer.default_state if len(layer._states) > 1 else (layer.default_state,)
        rows = self._constant(state[n][:, None], name=name)
        batch = self._add("Gather", [self._add("Shape", ["x"]), self._integers(self._batch_axis)], axis=0)
        shape = self._add("Concat", [self._integers(1), batch, self._integers(1)], axis=0)
        return self._add("Expand", [rows, shape])

    @property
    def _batch_axis(self):
        """Where the input x has its batch."""
        return [axis.dim_param for axis in self._inputs[0].type.tensor_type.shape.dim].index("batch")

    def _part(self, name, n, layer):
        """The state of a layer of the stack."""
        if not name or layer.num_layers == 1:
            return name
        start, end = (self._integers(k * layer._directions) for k in (n, n + 1))
        return self._add("Slice", [name, start, end, self._integers(0)])

    def _node(self, layer, n, value, states, prefix):
        """Write the node of a layer of the stack; return Y, Y_h and of an LSTM Y_c."""
        kind = next(kind.__name__ for kind in (LSTM, GRU, RNN) if type(layer) is kind)
        suffixes = [f"_l{n}", f"_l{n}_reverse"][: layer._directions]
        inputs = [value]
        for name, arrays in _weights(layer, suffixes).items():
            inputs.append(self._constant(arrays, name=f"{prefix}{name}_l{n}") if arrays is not None else "")
        inputs[4:4] = [self._lengths, *states]
        while not inputs[-1]:
            inputs.pop()
        return self._add(kind, inputs, 1 + len(layer._states), **_attributes(layer))

    def _directions(self, layer, value, time=True):
        """What becomes of the directions of Y (T, D, B, H), or of Y_h (D, B, H)."""
        axis = 1 if time else 0
        if layer._directions == 1:
            return self._add("Squeeze", [value, self._integers(axis)])
        parts = self._add("Split", [value, self._integers(1, 1)], 2, axis=axis)
        parts = [self._add("Squeeze", [part, self._integers(axis)]) for part in parts]
        return self._merged(parts, layer.merge)

    def _merged(self, parts, merge):
        if merge == "concat":
            return self._add("Concat", parts, axis=-1)
        value = self._add("Mul" if merge == "mul" else "Add", parts)
        return self._add("Mul", [value, self._constant(0.5)]) if merge == "average" else value


def _where(prefix):
    return f"layer {prefix[:-1]!r}" if prefix else "the model"


def _takes(model, axes):
    """Whether a layer takes an x with so many axes."""
    try:
        model._output_shape((None,) * (axes - 1) + (model._input_width,))
    except ValueError:
        return False
    return True


def _check_options(layer, where, lengths):
    """That ONNX has all options of a layer."""
    refused = {
        "merge": layer.merge is None,
        "padding": lengths and layer.padding != 0 and layer.padding != "zero",
        "zoneout_h": layer.zoneout_h,
        "zoneout_c": getattr(layer, "zoneout_c", 0),
        "proj_size": getattr(layer, "proj_size", 0),
        "layer_norm": getattr(layer, "layer_norm", None),
        "coupled": getattr(layer, "coupled", None) == "i=1-f",
        "clip": layer.clip.keys() - {"gates"},
    }
    for name, is_refused in refused.items():
        if is_refused:
            raise ValueError(f"{where} has {name}={getattr(layer, name)!r}, which ONNX has not")
    for name, *_ in map(_named, _activations(layer)):
        if name not in _ACTIVATIONS and name != "linear":
            raise ValueError(f"{where} has the activation {name!r}, which ONNX's recurrent operators have not")


def _activations(layer):
    return (layer.nonlinearity,) if isinstance(layer, RNN) else layer.activations


def _named(activation):
    """An activation as a tuple."""
    return (activation,) if isinstance(activation, str) else tuple(activation)


def _weights(layer, suffixes):
    """W, R, B and P of a layer of a stack, each for all directions; None for what it has not."""
    ours, theirs = {"LSTM": ("ifgo", "iofg"), "GRU": ("rzn", "zrn"), "RNN": ("n", "n")}[type(layer).__name__]
    coupled = getattr(layer, "coupled", None) is not None

    def stacked(name):
        arrays = np.stack([layer.parameters[name + suffix] for suffix in suffixes])
        if coupled:  # the rows of f, which ONNX has and does not use
            arrays = np.insert(arrays, [layer.hidden_size] * layer.hidden_size, 0, axis=1)
        return reorder(arrays, *(("ifo", "iof") if name == "weight_peephole" else (ours, theirs)), axis=1)

    found = {"W": stacked("weight_ih"), "R": stacked("weight_hh"), "B": None, "P": None}
    if layer.bias:
        bias = stacked("bias_ih")
        found["B"] = np.concatenate([bias, stacked("bias_hh") if layer.bias is True else np.zeros_like(bias)], 1)
    if getattr(layer, "peepholes", False):
        found["P"] = stacked("weight_peephole")
    return found


def _attributes(layer):
    """The attributes of a node, but those that have their default."""
    found = {"hidden_size": layer.hidden_size}
    if layer.bidirectional or layer.reverse:
        found["direction"] = "bidirectional" if layer.bidirectional else "reverse"
    if layer.clip:
        found["clip"] = layer.clip["gates"]
    if isinstance(layer, GRU):
        found["linear_before_reset"] = int(layer.reset_after)
    elif isinstance(layer, LSTM) and layer.coupled:
        found["input_forget"] = 1
    names, alphas, betas = [], [], []
    for name, *numbers in map(_named, _activations(layer)):
        if name == "linear":
            name, numbers = "affine", [1.0, 0.0]
        names.append(_ACTIVATIONS[name][0])
        alphas += numbers[:1]
        betas += numbers[1:]
    defaults = {LSTM: ["Sigmoid", "Tanh", "Tanh"], GRU: ["Sigmoid", "Tanh"], RNN: ["Tanh"]}[type(layer)]
    if names != defaults:
        found["activations"] = names * layer._directions
        found |= {"activation_alpha": alphas * layer._directions} if alphas else {}
        found |= {"activation_beta": betas * layer._directions} if betas else {}
    return found
