"""The step that a careful user writes in NumPy: buffers allocated once, one product for
[x_t, h, 1] (the bias is its last row), one tanh over all gates.

sigmoid(z) = 0.5 + 0.5 tanh(z / 2), with the 1/2 inside folded into the weights beforehand.
"""

import numpy as np

from . import Job, Unsupported


def stack_weights(parameters, hidden_size):
    """Return (I + H + 1, 4H): rows x, h, bias; gates in the order i f o g, sigmoids halved."""
    weight = np.concatenate(
        [
            parameters["weight_ih_l0"].T,
            parameters["weight_hh_l0"].T,
            (parameters["bias_ih_l0"] + parameters["bias_hh_l0"])[None],
        ]
    )
    i, f, g, o = np.split(weight, 4, axis=1)
    stacked = np.concatenate([i, f, o, g], axis=1)
    stacked[:, : 3 * hidden_size] *= weight.dtype.type(0.5)
    return np.ascontiguousarray(stacked)


def prepare(case, data):
    if case.num_layers * case.directions > 1:
        raise Unsupported("one layer, one direction")
    if case.batch == 1:
        return _one_row(case, data)
    return _rows(case, data)


def _one_row(case, data):
    H = case.hidden_size
    weight = stack_weights(data.parameters, H)
    xh = np.zeros(len(weight), case.dtype)
    xh[-1] = 1
    x_t, h = xh[: case.input_size], xh[case.input_size : -1]
    c = np.zeros(H, case.dtype)
    gates = np.empty(4 * H, case.dtype)
    i, f, o, g = gates.reshape(4, H)
    sigmoids = gates[: 3 * H]
    half = weight.dtype.type(0.5)
    dot, tanh, multiply, add = np.dot, np.tanh, np.multiply, np.add

    def step(x):
        x_t[:] = x
        dot(xh, weight, gates)
        tanh(gates, gates)
        multiply(sigmoids, half, sigmoids)
        add(sigmoids, half, sigmoids)
        multiply(c, f, c)
        multiply(i, g, i)
        add(c, i, c)
        tanh(c, g)
        multiply(o, g, h)
        return h

    if case.kind == "step":
        x = data.x[0, 0]
        return Job("step(x)", {"step": step, "x": x}, lambda: {"y": step(x)[None, None].copy()})

    x_rows, y = list(data.x[:, 0]), np.empty((case.seq_len, 1, H), case.dtype)
    y_rows = list(y[:, 0])

    def forward():
        h[:] = 0
        c[:] = 0
        for x, y_t in zip(x_rows, y_rows, strict=True):
            y_t[:] = step(x)
        return y

    return Job("forward()", {"forward": forward}, lambda: {"y": forward()})


def _rows(case, data):
    H, B = case.hidden_size, case.batch
    weight = stack_weights(data.parameters, H)
    xh = np.zeros((B, len(weight)), case.dtype)
    xh[:, -1] = 1
    x_t, h = xh[:, : case.input_size], xh[:, case.input_size : -1]
    c = np.zeros((B, H), case.dtype)
    gates = np.empty((B, 4 * H), case.dtype)
    i, f, o, g = (gates[:, k * H : (k + 1) * H] for k in range(4))
    sigmoids = gates[:, : 3 * H]
    half = weight.dtype.type(0.5)
    y = np.empty((case.seq_len, B, H), case.dtype)

    def forward():
        h[:] = 0
        c[:] = 0
        for x, y_t in zip(data.x, y, strict=True):
            x_t[:] = x
            np.matmul(xh, weight, out=gates)
            np.tanh(gates, out=gates)
            np.multiply(sigmoids, half, out=sigmoids)
            np.add(sigmoids, half, out=sigmoids)
            np.multiply(c, f, out=c)
            np.multiply(i, g, out=i)
            np.add(c, i, out=c)
            np.tanh(c, out=g)
            np.multiply(o, g, out=y_t)
            h[:] = y_t
        return y

    return Job("forward()", {"forward": forward}, lambda: {"y": forward()})
