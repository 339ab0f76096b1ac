"""TensorFlow: the layers of Keras 3, or its cell for a step, inside tf.function, compiled by XLA or not;
gradients by a GradientTape inside the same function, which also changes the bias. Of a ragged batch all steps are made,
and y is set to zero past the lengths."""

import os

from ..cases import BIAS_CHANGE, by_name, states_of
from ..machine import threads
from . import Job, Unsupported

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(threads())
tf.config.threading.set_inter_op_parallelism_threads(1)

_CLASSES = {"lstm": "LSTM", "gru": "GRU", "rnn": "SimpleRNN"}
# PyTorch's gates, by number, in the order of Keras; each order is its own inverse.
_ORDER = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "rnn": (0,)}


def _reordered(case, array):
    """Gates along the last axis put into the other library's order."""
    parts = np.split(array, len(_ORDER[case.cell]), axis=-1)
    return np.ascontiguousarray(np.concatenate([parts[number] for number in _ORDER[case.cell]], axis=-1))


def _weights(case, parameters, suffix):
    """[kernel (I, G*H), recurrent_kernel (H, G*H), bias]: bias (G*H,), of a GRU (2, G*H)."""
    p = parameters
    of_x, of_h = p[f"bias_ih_{suffix}"], p[f"bias_hh_{suffix}"]
    bias = np.stack([of_x, of_h]) if case.cell == "gru" else of_x + of_h
    return [_reordered(case, array) for array in (p[f"weight_ih_{suffix}"].T, p[f"weight_hh_{suffix}"].T, bias)]


def _layers(case, data):
    layers, width = [], case.input_size
    for number in range(case.num_layers):
        layer = getattr(keras.layers, _CLASSES[case.cell])(case.hidden_size, return_sequences=True, dtype=case.dtype)
        if case.bidirectional:
            layer = keras.layers.Bidirectional(layer, dtype=case.dtype)
        layer.build((case.batch, case.seq_len, width))
        suffixes = [f"l{number}", f"l{number}_reverse"][: case.directions]
        layer.set_weights([array for suffix in suffixes for array in _weights(case, data.parameters, suffix)])
        layers.append(layer)
        width = case.directions * case.hidden_size
    return layers


def _prepare(case, data, xla):
    compiled = tf.function(jit_compile=xla, autograph=False)
    if case.kind == "step":
        return _stepping(case, data, compiled)
    layers = _layers(case, data)
    x = tf.constant(np.ascontiguousarray(data.x.swapaxes(0, 1)))
    if case.kind == "train":
        return _training(case, data, compiled, layers, x)

    def forward(x):
        for layer in layers:
            x = layer(x)
        return x

    if case.ragged:
        return _ragged(case, compiled, forward, x, tf.constant(data.lengths))
    call = compiled(forward)
    return Job("call(x)", {"call": call, "x": x}, lambda: {"y": call(x).numpy().swapaxes(0, 1)})


def _ragged(case, compiled, forward, x, lengths):
    if case.bidirectional:
        raise Unsupported("ragged batches in one direction: the other one would have to begin at the lengths")
    call = compiled(lambda x, lengths: forward(x) * tf.sequence_mask(lengths, case.seq_len, x.dtype)[:, :, None])
    names = {"call": call, "x": x, "lengths": lengths}
    return Job("call(x, lengths)", names, lambda: {"y": call(x, lengths).numpy().swapaxes(0, 1)})


def prepare_function(case, data):
    return _prepare(case, data, False)


def prepare_xla(case, data):
    return _prepare(case, data, True)


def _stepping(case, data, compiled):
    cell = getattr(keras.layers, f"{_CLASSES[case.cell]}Cell")(case.hidden_size, dtype=case.dtype)
    cell.build((1, case.input_size))
    cell.set_weights(_weights(case, data.parameters, "l0"))
    state = [tf.constant(array[0]) for array in states_of(case, data).values()]
    x = tf.constant(data.x[0])
    call = compiled(lambda x, *state: cell(x, list(state))[1])

    def step():
        nonlocal state
        state = call(x, *state)
        return state[0]

    return Job("step()", {"step": step}, lambda: {"y": step().numpy()[None]})


def _training(case, data, compiled, layers, x):
    if case.num_layers * case.directions > 1:
        raise Unsupported("training of one layer, one direction")
    layer, dy = layers[0], tf.constant(np.ascontiguousarray(data.dy.swapaxes(0, 1)))
    states = [tf.constant(array[0]) for array in states_of(case, data).values()]
    kernel, recurrent, bias = layer.trainable_variables
    change = np.zeros(bias.shape, case.dtype)
    change[0 if case.cell == "gru" else slice(None)] = BIAS_CHANGE
    change = tf.constant(change)

    @compiled
    def call(x, *states):
        bias.assign(bias.value + change)
        with tf.GradientTape() as tape:
            inputs = [x, *states]
            tape.watch(inputs)
            y = layer(x, initial_state=list(states))
        variables = [kernel.value, recurrent.value, bias.value]
        return y, tape.gradient(y, inputs + variables, output_gradients=dy)

    def check():
        y, (dx, *gradients) = call(x, *states)
        dstates, (dkernel, drecurrent, dbias) = gradients[:-3], (_reordered(case, g.numpy()) for g in gradients[-3:])
        dbiases = dbias if case.cell == "gru" else (dbias, dbias)
        dstates = [gradient.numpy()[None] for gradient in dstates]
        return {
            "y": y.numpy().swapaxes(0, 1), "x": dx.numpy().swapaxes(0, 1),
            **by_name(case, dstates if len(dstates) > 1 else dstates[0]),
            "weight_ih_l0": dkernel.T, "weight_hh_l0": drecurrent.T, "bias_ih_l0": dbiases[0], "bias_hh_l0": dbiases[1],
        }  # fmt: skip

    return Job("call(x, *states)", {"call": call, "x": x, "states": states}, check)
