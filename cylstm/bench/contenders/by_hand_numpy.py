"""The step that a careful user writes in NumPy: buffers allocated once, one product for
[x_t, h, 1] (the bias is its last row), one tanh over all gates.

sigmoid(z) = 0.5 + 0.5 tanh(z / 2), with the 1/2 inside folded into the weights beforehand. A GRU's candidate keeps
what x and h bring apart, in blocks of their own with zeros for the other. Of a ragged batch all steps are made, and
y is set to zero past the lengths.
"""

import numpy as np

from . import Job, Unsupported


def _stacked(case, parameters):
    """(I + H + 1, blocks * H): rows x, h, bias; blocks i f o g, or r z n-of-h n-of-x, or one; sigmoids halved."""
    p = parameters
    of_x, of_h, bias_x, bias_h = (p[f"{name}_l0"].T for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    weight = np.concatenate([of_x, of_h, (bias_x + bias_h)[None]])
    if case.cell == "rnn":
        return np.ascontiguousarray(weight)
    H = case.hidden_size
    if case.cell == "lstm":
        i, f, g, o = np.split(weight, 4, axis=1)
        stacked, sigmoids = np.concatenate([i, f, o, g], axis=1), 3 * H
    else:
        n_of_h = np.concatenate([0 * of_x, of_h, bias_h[None]])[:, 2 * H :]
        n_of_x = np.concatenate([of_x, 0 * of_h, bias_x[None]])[:, 2 * H :]
        stacked, sigmoids = np.concatenate([weight[:, : 2 * H], n_of_h, n_of_x], axis=1), 2 * H
    stacked[:, :sigmoids] *= weight.dtype.type(0.5)
    return np.ascontiguousarray(stacked)


def _lstm(xh, x_t, h, gates, weight):
    H = h.shape[-1]
    i, f, o, g = (gates[..., k * H : (k + 1) * H] for k in range(4))
    sigmoids, half = gates[..., : 3 * H], weight.dtype.type(0.5)
    c = np.zeros(h.shape, weight.dtype)
    dot, tanh, multiply, add = np.dot, np.tanh, np.multiply, np.add

    def step(x):
        x_t[...] = x
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

    return step, (h, c)


def _gru(xh, x_t, h, gates, weight):
    H = h.shape[-1]
    r, z, n, n_of_x = (gates[..., k * H : (k + 1) * H] for k in range(4))
    sigmoids, half = gates[..., : 2 * H], weight.dtype.type(0.5)
    dot, tanh, multiply, add, subtract = np.dot, np.tanh, np.multiply, np.add, np.subtract

    def step(x):
        x_t[...] = x
        dot(xh, weight, gates)
        tanh(sigmoids, sigmoids)
        multiply(sigmoids, half, sigmoids)
        add(sigmoids, half, sigmoids)
        multiply(r, n, n)
        add(n, n_of_x, n)
        tanh(n, n)
        subtract(h, n, h)
        multiply(z, h, h)
        add(n, h, h)
        return h

    return step, (h,)


def _rnn(xh, x_t, h, gates, weight):
    dot, tanh = np.dot, np.tanh

    def step(x):
        x_t[...] = x
        dot(xh, weight, gates)
        tanh(gates, h)
        return h

    return step, (h,)


_STEPS = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}


def prepare(case, data):
    if case.num_layers * case.directions > 1:
        raise Unsupported("one layer, one direction")
    rows = () if case.batch == 1 else (case.batch,)
    weight = _stacked(case, data.parameters)
    xh = np.zeros((*rows, len(weight)), case.dtype)
    xh[..., -1] = 1
    x_t, h = xh[..., : case.input_size], xh[..., case.input_size : -1]
    gates = np.empty((*rows, weight.shape[1]), case.dtype)
    step, states = _STEPS[case.cell](xh, x_t, h, gates, weight)
    if case.kind == "step":
        x = data.x[0, 0]
        return Job("step(x)", {"step": step, "x": x}, lambda: {"y": step(x)[None, None].copy()})

    y = np.empty((case.seq_len, case.batch, case.hidden_size), case.dtype)
    x_rows, y_rows = (list(array.reshape(case.seq_len, *rows, -1)) for array in (data.x, y))
    past = None if data.lengths is None else np.arange(case.seq_len)[:, None] >= data.lengths

    def forward():
        for state in states:
            state[...] = 0
        for x, y_t in zip(x_rows, y_rows, strict=True):
            y_t[...] = step(x)
        if past is not None:
            y[past] = 0
        return y

    return Job("forward()", {"forward": forward}, lambda: {"y": forward()})
