"""The step that a careful user writes in Numba: njit with fastmath over transposed weights, so
that the inner loop runs over the gates side by side.

``prepare`` hands over the arrays one by one. ``prepare_packed`` is for steps and less natural: one
array of weights, one of state, since Numba unpacks every argument of a call anew (0.1 us each).
"""

import functools
import math

import numba
import numpy as np

from . import Job, Unsupported

_njit = functools.partial(numba.njit, fastmath=True, error_model="numpy")


@_njit(inline="always")
def _add_product(out, row, weight):
    """out (N,) += row (K,) weight (K, N)."""
    for k in range(row.shape[0]):
        row_k = row[k]
        for j in range(out.shape[0]):
            out[j] += row_k * weight[k, j]


@_njit()
def _lstm(x, state, gates, weight_ih, weight_hh, bias):
    """x (I,) IN; state (2, H) INOUT: h, c; gates (4H,) scratch; weights (I, 4H), (H, 4H), i f g o."""
    h, c = state[0], state[1]
    H = h.shape[0]
    for j in range(4 * H):
        gates[j] = bias[j]
    _add_product(gates, x, weight_ih)
    _add_product(gates, h, weight_hh)
    one = h.dtype.type(1)
    for j in range(H):
        i = one / (one + math.exp(-gates[j]))
        f = one / (one + math.exp(-gates[H + j]))
        g = math.tanh(gates[2 * H + j])
        o = one / (one + math.exp(-gates[3 * H + j]))
        c[j] = f * c[j] + i * g
        h[j] = o * math.tanh(c[j])


@_njit()
def _gru(x, state, gates, weight_ih, weight_hh, bias):
    """state (1, H) INOUT: h; gates (6H,) scratch: r z n of x, r z n of h; bias (6H,) likewise."""
    h = state[0]
    H = h.shape[0]
    for j in range(6 * H):
        gates[j] = bias[j]
    _add_product(gates[: 3 * H], x, weight_ih)
    _add_product(gates[3 * H :], h, weight_hh)
    one = h.dtype.type(1)
    for j in range(H):
        r = one / (one + math.exp(-gates[j] - gates[3 * H + j]))
        z = one / (one + math.exp(-gates[H + j] - gates[4 * H + j]))
        n = math.tanh(gates[2 * H + j] + r * gates[5 * H + j])
        h[j] = n + z * (h[j] - n)


@_njit()
def _rnn(x, state, gates, weight_ih, weight_hh, bias):
    """state (1, H) INOUT: h; gates (H,) scratch."""
    h = state[0]
    for j in range(h.shape[0]):
        gates[j] = bias[j]
    _add_product(gates, x, weight_ih)
    _add_product(gates, h, weight_hh)
    for j in range(h.shape[0]):
        h[j] = math.tanh(gates[j])


_STEPS = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}


def _sequence(step):
    @_njit()
    def forward(x, y, state, gates, weight_ih, weight_hh, bias):
        """x (T, I) IN; y (T, H) OUT; from a zero state."""
        state[:] = 0
        for t in range(x.shape[0]):
            step(x[t], state, gates, weight_ih, weight_hh, bias)
            y[t] = state[0]

    return forward


def _packed(step, states, biases):
    @_njit()
    def step_packed(x, memory, weights):
        """x (I,) IN; memory (states + gates, H) INOUT; weights (I + H + biases, G*H): x, h, bias."""
        from_x = x.shape[0]
        gates, bias = memory[states:].reshape(-1), weights[weights.shape[0] - biases :].reshape(-1)
        step(x, memory[:states], gates, weights[:from_x], weights[from_x : weights.shape[0] - biases], bias)

    return step_packed


def _arrays(case, data):
    """weight_ih (I, G*H), weight_hh (H, G*H), bias (1, G*H), of a GRU (2, G*H), and the number of states."""
    p = data.parameters
    biases = np.stack([p["bias_ih_l0"], p["bias_hh_l0"]])
    bias = biases if case.cell == "gru" else biases.sum(0, keepdims=True)
    return p["weight_ih_l0"].T, p["weight_hh_l0"].T, bias, 2 if case.cell == "lstm" else 1


def prepare_packed(case, data):
    *arrays, states = _arrays(case, data)
    weights, bias = np.ascontiguousarray(np.concatenate(arrays)), arrays[2]
    memory = np.zeros((states + bias.size // case.hidden_size, case.hidden_size), case.dtype)
    step = _packed(_STEPS[case.cell], states, len(bias))
    x = data.x[0, 0]

    def check():
        step(x, memory, weights)
        return {"y": memory[:1, None].copy()}

    names = {"step": step, "x": x, "memory": memory, "weights": weights}
    return Job("step(x, memory, weights)", names, check)


def prepare(case, data):
    if case.num_layers * case.directions > 1:
        raise Unsupported("one layer, one direction")
    w, u, b, states = _arrays(case, data)
    state, gates = np.zeros((states, case.hidden_size), case.dtype), np.empty(b.size, case.dtype)
    scratch = [state, gates, np.ascontiguousarray(w), np.ascontiguousarray(u), b.reshape(-1)]
    step, forward = _STEPS[case.cell], _sequence(_STEPS[case.cell])
    names = dict(zip(("state", "gates", "w", "u", "b"), scratch, strict=True))
    if case.kind == "step":
        x = data.x[0, 0]

        def check_step():
            step(x, *scratch)
            return {"y": state[:1, None].copy()}

        return Job("step(x, state, gates, w, u, b)", {"step": step, "x": x, **names}, check_step)

    x = np.ascontiguousarray(data.x[:, 0])
    y = np.empty((case.seq_len, case.hidden_size), case.dtype)

    def check():
        forward(x, y, *scratch)
        return {"y": y[:, None]}

    return Job("forward(x, y, state, gates, w, u, b)", {"forward": forward, "x": x, "y": y, **names}, check)
