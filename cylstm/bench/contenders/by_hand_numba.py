"""The step that a careful user writes in Numba: njit with fastmath over transposed weights, so
that the inner loop runs over the gates side by side.

``prepare`` hands over the arrays one by one. ``prepare_packed`` is for steps and less natural: one
array of weights, one of state, since Numba unpacks every argument of a call anew (0.1 us each).
"""

import math

import numba
import numpy as np

from . import Job, Unsupported


@numba.njit(fastmath=True, error_model="numpy")
def _step(x, h, c, gates, weight_ih, weight_hh, bias):
    """x (I,) IN; h, c (H,) INOUT; gates (4H,) scratch; weights (I, 4H), (H, 4H), i f g o."""
    H = h.shape[0]
    for j in range(4 * H):
        gates[j] = bias[j]
    for k in range(x.shape[0]):
        x_k = x[k]
        for j in range(4 * H):
            gates[j] += x_k * weight_ih[k, j]
    for k in range(H):
        h_k = h[k]
        for j in range(4 * H):
            gates[j] += h_k * weight_hh[k, j]
    one = h.dtype.type(1)
    for j in range(H):
        i = one / (one + math.exp(-gates[j]))
        f = one / (one + math.exp(-gates[H + j]))
        g = math.tanh(gates[2 * H + j])
        o = one / (one + math.exp(-gates[3 * H + j]))
        c[j] = f * c[j] + i * g
        h[j] = o * math.tanh(c[j])


@numba.njit(fastmath=True, error_model="numpy")
def _forward(x, y, h, c, gates, weight_ih, weight_hh, bias):
    """x (T, I) IN; y (T, H) OUT; from a zero state."""
    h[:] = 0
    c[:] = 0
    for t in range(x.shape[0]):
        _step(x[t], h, c, gates, weight_ih, weight_hh, bias)
        y[t] = h


@numba.njit(fastmath=True, error_model="numpy")
def _step_packed(x, state, weights):
    """x (I,) IN; state (6, H) INOUT: h, c, gates; weights (I + H + 1, 4H): x, h, bias."""
    gates, from_x = state[2:].reshape(-1), x.shape[0]
    _step(x, state[0], state[1], gates, weights[:from_x], weights[from_x:-1], weights[-1])


def prepare_packed(case, data):
    p = data.parameters
    bias = (p["bias_ih_l0"] + p["bias_hh_l0"])[None]
    weights = np.concatenate([p["weight_ih_l0"].T, p["weight_hh_l0"].T, bias])
    weights = np.ascontiguousarray(weights)
    state = np.zeros((6, case.hidden_size), case.dtype)
    x = data.x[0, 0]

    def check():
        _step_packed(x, state, weights)
        return {"y": state[:1, None].copy()}

    names = {"step": _step_packed, "x": x, "state": state, "weights": weights}
    return Job("step(x, state, weights)", names, check)


def prepare(case, data):
    if case.num_layers * case.directions > 1:
        raise Unsupported("one layer, one direction")
    H = case.hidden_size
    p = data.parameters
    names = {
        "step": _step,
        "forward": _forward,
        "h": np.zeros(H, case.dtype),
        "c": np.zeros(H, case.dtype),
        "gates": np.empty(4 * H, case.dtype),
        "w": np.ascontiguousarray(p["weight_ih_l0"].T),
        "u": np.ascontiguousarray(p["weight_hh_l0"].T),
        "b": p["bias_ih_l0"] + p["bias_hh_l0"],
    }
    scratch = [names[key] for key in ("h", "c", "gates", "w", "u", "b")]
    if case.kind == "step":
        names["x"] = x = data.x[0, 0]

        def check_step():
            _step(x, *scratch)
            return {"y": names["h"][None, None].copy()}

        return Job("step(x, h, c, gates, w, u, b)", names, check_step)

    names["x"] = x = np.ascontiguousarray(data.x[:, 0])
    names["y"] = y = np.empty((case.seq_len, H), case.dtype)

    def check():
        _forward(x, y, *scratch)
        return {"y": y[:, None]}

    return Job("forward(x, y, h, c, gates, w, u, b)", names, check)
