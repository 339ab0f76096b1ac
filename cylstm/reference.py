"""The NumPy reference: what cylstm computes, written to be checked by eye.

Plain NumPy in whatever float dtype it is given, time-major, slow on purpose. The compiled layers
are held against it, and so may any other model be that uses PyTorch's names and gate order.

One cell (LSTM, GRU, RNN, Jordan) is one pair of functions, ``*_cell`` and ``*_cell_backward``; the
loops over layers, directions and time (``_forward``, ``_backward``) know no cell, so another cell
is another pair. What may be skipped, repeated, dropped or zoned out is the loops' affair, and no
cell knows of it. The state of an LSTM is the tuple (h, c); that of the others is the array h.
Imports nothing from cylstm: an oracle that shares code with what it judges would share its bugs.

T seq_len, B batch, I input_size, H hidden_size, P width of h, G gates, L num_layers, D directions.
P is H but for a projected LSTM (proj_size) and a JordanRNN (output_size).

References
----------
.. [1] S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997.
.. [2] F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to Forget: Continual Prediction with LSTM",
   Neural Computation 12(10), 2000.
.. [3] PyTorch, ``torch.nn.LSTM``, ``torch.nn.GRU`` and ``torch.nn.RNN``: the names, shapes and gate
   order of the parameters, https://pytorch.org/docs/stable/generated/torch.nn.LSTM.html
.. [4] K. Cho, B. van Merrienboer, C. Gulcehre, D. Bahdanau, F. Bougares, H. Schwenk, Y. Bengio,
   "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
   EMNLP 2014.
.. [5] J. L. Elman, "Finding Structure in Time", Cognitive Science 14(2), 1990.
.. [6] M. I. Jordan, "Serial Order: A Parallel Distributed Processing Approach", ICS Report 8604,
   University of California, San Diego, 1986.
.. [7] F. A. Gers, N. N. Schraudolph, J. Schmidhuber, "Learning Precise Timing with LSTM Recurrent
   Networks", JMLR 3, 2002: the peepholes.
.. [8] H. Sak, A. Senior, F. Beaufays, "Long Short-Term Memory Based Recurrent Neural Network
   Architectures for Large Vocabulary Speech Recognition", 2014, arXiv:1402.1128: the projection.
.. [9] J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", 2016, arXiv:1607.06450.
.. [10] D. Krueger et al., "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations",
   ICLR 2017, arXiv:1606.01305.
.. [11] Y. Gal, Z. Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural
   Networks", NeurIPS 2016, arXiv:1512.05287.
.. [12] S. Merity, N. S. Keskar, R. Socher, "Regularizing and Optimizing LSTM Language Models",
   ICLR 2018, arXiv:1708.02182: the mask on weight_hh.
.. [13] ONNX operators LSTM, GRU and RNN: the activations' names and constants, and gates coupled
   by f = 1 - i, https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

__all__ = [
    "Gradients",
    "dense_backward",
    "dense_forward",
    "gate_values",
    "gru_backward",
    "gru_cell",
    "gru_cell_backward",
    "gru_forward",
    "jordan_backward",
    "jordan_cell",
    "jordan_cell_backward",
    "jordan_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "lstm_backward",
    "lstm_cell",
    "lstm_cell_backward",
    "lstm_forward",
    "relu",
    "rnn_backward",
    "rnn_cell",
    "rnn_cell_backward",
    "rnn_forward",
    "sigmoid",
    "softmax",
]


class Gradients(NamedTuple):
    """What a backward pass returns; every array is new.

    Attributes
    ----------
    dx : ndarray
        Shaped like ``x``.
    dstate : tuple of ndarray, ndarray, or None
        Shaped like ``state``: the tuple (dh_0, dc_0) of an LSTM, the array dh_0 of another cell.
        None for a layer without a state.
    parameters : dict of str to ndarray
        The gradient of each parameter, under the parameter's own name.
    """

    dx: np.ndarray
    dstate: tuple | np.ndarray | None
    parameters: dict


# Activations ------------------------------------------------------------------------------------


def sigmoid(x):
    """Logistic function, with full relative accuracy in both tails.

    ``1 / (1 + exp(-x))`` for x >= 0 and ``exp(x) / (1 + exp(x))`` below, both from exp(-|x|), which
    can not overflow. (``0.5 + 0.5 * tanh(x / 2)`` would cancel to 0 for very negative x.)

    Parameters
    ----------
    x : array_like, any shape

    Returns
    -------
    ndarray, shaped like ``x``
        NaN where ``x`` is NaN.

    Examples
    --------
    >>> sigmoid(np.array([0.0, -np.inf, np.inf])).tolist()
    [0.5, 0.0, 1.0]
    """
    x = np.asarray(x)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def relu(x):
    """Rectifier, max(x, 0); NaN stays NaN.

    Parameters
    ----------
    x : array_like, any shape

    Returns
    -------
    ndarray, shaped like ``x``

    Examples
    --------
    >>> relu(np.array([-2.0, 3.0])).tolist()
    [0.0, 3.0]
    """
    return np.maximum(x, 0)


def softmax(x):
    """Softmax over the last axis: exp(x_j) / sum_k exp(x_k).

    The largest x is subtracted first, which changes nothing mathematically and keeps exp from
    overflowing.

    Parameters
    ----------
    x : array_like, shape (..., features)

    Returns
    -------
    ndarray, shape (..., features)
        Each row sums to one.

    Examples
    --------
    >>> softmax(np.array([1000.0, 1000.0])).tolist()
    [0.5, 0.5]
    """
    x = np.asarray(x)
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def _gelu_parts(x):
    """Phi(x) and phi(x), the normal distribution and its density."""
    erf = np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)).astype(x.dtype)
    return (1 + erf) / 2, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def _gelu_derivative(x):
    distribution, density = _gelu_parts(x)
    return distribution + x * density


# name -> (defaults of alpha and beta, y of x, dy/dx of x), [13]_ and others. At a kink the derivative
# is 0 where one side is flat, else 1. A NaN in x gives a NaN in y.
_ACTIVATIONS = {
    "sigmoid": ((), sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x))),
    "tanh": ((), np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "relu": ((), relu, lambda x: np.where(x <= 0, np.zeros_like(x), 1)),
    "leaky_relu": (
        (0.01,),
        lambda x, alpha: np.where(x >= 0, x, alpha * x),
        lambda x, alpha: np.where(x >= 0, np.ones_like(x), alpha),
    ),
    "thresholded_relu": (
        (1.0,),
        lambda x, alpha: np.where(x <= alpha, np.zeros_like(x), x),
        lambda x, alpha: np.where(x <= alpha, np.zeros_like(x), 1),
    ),
    "affine": (
        (1.0, 0.0),
        lambda x, alpha, beta: alpha * x + beta,
        lambda x, alpha, beta: np.full_like(x, alpha),
    ),
    "scaled_tanh": (
        (1.0, 1.0),
        lambda x, alpha, beta: alpha * np.tanh(beta * x),
        lambda x, alpha, beta: alpha * beta * (1 - np.tanh(beta * x) ** 2),
    ),
    "hard_sigmoid": (
        (0.2, 0.5),
        lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
        lambda x, alpha, beta: np.where((alpha * x + beta > 0) & (alpha * x + beta < 1), np.full_like(x, alpha), 0),
    ),
    # exp of what is not positive, so that the branch not taken can not overflow
    "elu": (
        (1.0,),
        lambda x, alpha: np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0))),
        lambda x, alpha: np.where(x >= 0, 1, alpha * np.exp(np.minimum(x, 0))),
    ),
    "softsign": ((), lambda x: x / (1 + abs(x)), lambda x: (1 / (1 + abs(x))) ** 2),
    # log(1 + e^x) = x + log(1 + e^-x), and the exponent is not positive either way
    "softplus": ((), lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x))), sigmoid),
    "linear": ((), lambda x: x, np.ones_like),
    "swish": (
        (),
        lambda x: x * sigmoid(x),
        lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x))),
    ),
    "gelu": ((), lambda x: x * _gelu_parts(x)[0], _gelu_derivative),
}


class _Activation(NamedTuple):
    """An activation and its derivative, both as functions of the pre-activation."""

    function: Callable
    derivative: Callable


def _activation(spec, clip=None, argument="activation"):
    """The :class:`_Activation` of a name, (name, alpha) or (name, alpha, beta).

    With ``clip``, that of the pre-activation clipped to [-clip, clip].
    """
    name, *numbers = (spec,) if isinstance(spec, str) else spec
    if name not in _ACTIVATIONS:
        raise ValueError(f"{argument} is {spec!r}, expected one of {list(_ACTIVATIONS)}")
    defaults, function, derivative = _ACTIVATIONS[name]
    if len(numbers) > len(defaults):
        raise ValueError(f"{argument} is {spec!r}, expected at most {len(defaults)} numbers with {name!r}")
    numbers = (*map(float, numbers), *defaults[len(numbers) :])
    if clip is None:
        return _Activation(lambda a: function(a, *numbers), lambda a: derivative(a, *numbers))
    return _Activation(
        lambda a: function(_clip(a, clip), *numbers),
        lambda a: derivative(_clip(a, clip), *numbers) * _inside(a, clip),
    )


def _clip(a, bound):
    """a where |a| <= bound, else the bound of its sign; a itself if the bound is None."""
    return a if bound is None else np.clip(a, -bound, bound)


def _inside(a, bound):
    """The derivative of :func:`_clip`: 1 where |a| <= bound, else 0."""
    return 1 if bound is None else np.where(abs(a) <= bound, np.ones_like(a), 0)


# Normalisation of a row -------------------------------------------------------------------------


def _normalize(v, eps):
    """N(v) = (v - mean) / sqrt(var + eps) of each row, var with 1 / n."""
    return (v - v.mean(axis=1, keepdims=True)) / np.sqrt(v.var(axis=1, keepdims=True) + eps)


def _normalize_backward(dn, v, eps):
    """dv of dn, n = N(v): (dn - mean(dn) - n mean(n dn)) / sqrt(var + eps), [9]_."""
    n = _normalize(v, eps)
    centred = dn - dn.mean(axis=1, keepdims=True) - n * (n * dn).mean(axis=1, keepdims=True)
    return centred / np.sqrt(v.var(axis=1, keepdims=True) + eps)


# LSTM: one step ---------------------------------------------------------------------------------

_LSTM_ACTIVATIONS = ("sigmoid", "tanh", "tanh")
_LSTM_GATES = {None: "ifgo", "f=1-i": "igo", "i=1-f": "fgo"}  # coupled -> those that have weights
_JOINT_EPS, _PER_GATE_EPS = 1e-5, 1e-8  # those of torch.nn.LayerNorm and of LiteRT


def lstm_cell(
    x,
    h,
    c,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    *,
    weight_peephole=None,
    weight_hr=None,
    weight_ln_ih=None,
    weight_ln_hh=None,
    weight_ln_c=None,
    bias_ln_c=None,
    weight_ln=None,
    coupled=None,
    clip=None,
    activations=_LSTM_ACTIVATIONS,
    recurrent=1,
):
    """One time step of one LSTM layer.

    G is 4, or 3 if two gates are coupled; P is hidden_size, or with a projection less.

    Parameters
    ----------
    x : ndarray, shape (batch, input_size)
    h : ndarray, shape (batch, P)
    c : ndarray, shape (batch, hidden_size)
        The state before the step, (h, c).
    weight_ih : ndarray, shape (G*hidden_size, input_size)
        Rows in the order of the gates: i, f, g, o; without f or i if that is coupled.
    weight_hh : ndarray, shape (G*hidden_size, P)
    bias_ih, bias_hh : ndarray, shape (G*hidden_size,), optional
        Each is left out of the sum if None, as is all below.
    weight_peephole : ndarray, shape ((G-1)*hidden_size,), optional
        In the order i, f, o.
    weight_hr : ndarray, shape (P, hidden_size), optional
        The projection.
    weight_ln_ih, weight_ln_hh, weight_ln_c, bias_ln_c : ndarray, optional
        The scales, and of c the shift, of a joint layer normalisation: (G*hidden_size,) twice,
        (hidden_size,) twice; all or none.
    weight_ln : ndarray, shape (G*hidden_size,), optional
        The scales of a layer normalisation of each gate.
    coupled : {None, "f=1-i", "i=1-f"}, optional
        Which gate has no weights and is one minus another: ONNX's f, or LiteRT's i.
    clip : dict, optional
        Any of "gates", "cell", "projection": the bound of what C stands for below.
    activations : sequence of 3, optional
        Those of the gates i, f, o; of g; of c'. Each a name, (name, alpha) or (name, alpha, beta).
    recurrent : ndarray, shape (batch, P), optional
        Multiplied onto the h of the products: a dropout mask, scaled already.

    Returns
    -------
    h : ndarray, shape (batch, P)
    c : ndarray, shape (batch, hidden_size)
        The state after the step.
    gates : ndarray, shape (batch, 4*hidden_size)
        The activations i|f|g|o, coupled ones too, for :func:`lstm_cell_backward`.

    Notes
    -----
    The memory cell and its input and output gates are those of [1]_, the forget gate is that of
    [2]_, the names and the order of the gates are those of [3]_ (see the head of this module)::

        i  = sigmoid(W_ii x + b_ii + W_hi h + b_hi)
        f  = sigmoid(W_if x + b_if + W_hf h + b_hf)
        g  = tanh   (W_ig x + b_ig + W_hg h + b_hg)
        o  = sigmoid(W_io x + b_io + W_ho h + b_ho)
        c' = f * c + i * g
        h' = o * tanh(c')

    With everything, p a peephole [7]_, N the normalisation of a row to mean 0 and variance 1 [9]_,
    C a clip to [-v, v], k any of i, f, o::

        s  = W_ih x + W_hh (recurrent * h)
             or, joint,     w_ih N(W_ih x) + w_hh N(W_hh (recurrent * h))
        k  = sigma(C(s_k + p_k c + b_k))                i, f see c; o sees c'; g has no peephole
             or, per gate,  sigma(C(w_k N(s_k + p_k c) + b_k))
        c' = C(f * c + i * g)                           coupled: f = 1 - i, or i = 1 - f
        m  = c'  or, joint, w_c N(c') + b_c
        h' = o * tanh(m)
             or, projected [8]_, C(W_hr (o * tanh(m)))

    Examples
    --------
    >>> x, h, c = np.zeros((1, 2)), np.zeros((1, 1)), np.full((1, 1), 8.0)
    >>> h, c, gates = lstm_cell(x, h, c, np.zeros((4, 2)), np.zeros((4, 1)))
    >>> gates.tolist(), c.tolist()              # i = f = o = 1/2, g = 0: half of c is forgotten
    ([[0.5, 0.5, 0.0, 0.5]], [[4.0]])
    """
    clip = clip or {}
    act_c = _activation(activations[2])
    products = _products(x, recurrent * h, weight_ih, weight_hh, weight_ln_ih, weight_ln_hh)
    gate = _lstm_gates(products, bias_ih, bias_hh, weight_peephole, weight_ln, coupled, clip, activations)

    i = gate["i"].value(c) if coupled != "i=1-f" else 1 - gate["f"].value(c)
    f = gate["f"].value(c) if coupled != "f=1-i" else 1 - i
    g = gate["g"].value(c)
    c_next = _clip(f * c + i * g, clip.get("cell"))
    o = gate["o"].value(c_next)
    m = c_next if weight_ln_c is None else weight_ln_c * _normalize(c_next, _JOINT_EPS) + bias_ln_c
    h_next = o * act_c.function(m)
    if weight_hr is not None:
        h_next = _clip(h_next @ weight_hr.T, clip.get("projection"))
    return h_next, c_next, np.concatenate([i, f, g, o], axis=1)


def lstm_cell_backward(
    dh_next,
    dc_next,
    x,
    h,
    c,
    gates,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    *,
    weight_peephole=None,
    weight_hr=None,
    weight_ln_ih=None,
    weight_ln_hh=None,
    weight_ln_c=None,
    bias_ln_c=None,
    weight_ln=None,
    coupled=None,
    clip=None,
    activations=_LSTM_ACTIVATIONS,
    recurrent=1,
):
    """Gradients of one step of :func:`lstm_cell`.

    Parameters
    ----------
    dh_next : ndarray, shape (batch, P)
    dc_next : ndarray, shape (batch, hidden_size)
        Gradients with respect to the state after the step, from everything that used it.
    x : ndarray, shape (batch, input_size)
    h : ndarray, shape (batch, P)
    c : ndarray, shape (batch, hidden_size)
        The state before the step.
    gates : ndarray, shape (batch, 4*hidden_size)
        The activations i|f|g|o that :func:`lstm_cell` returned.
    weight_ih, ..., recurrent
        As they were given to :func:`lstm_cell`.

    Returns
    -------
    dx : ndarray, shape (batch, input_size)
    dh : ndarray, shape (batch, P)
    dc : ndarray, shape (batch, hidden_size)
        Gradients with respect to the state before the step.
    parameters : dict of str to ndarray
        Of each weight and bias that was given, under its name, summed over the batch.

    Notes
    -----
    The derivative of the equations of :func:`lstm_cell`, from the last to the first; a is what a
    gate's activation is taken of::

        do    = dh' * tanh(c')
        dc'   = dc' + dh' * o * (1 - tanh(c')^2)
        di    = dc' * g
        df    = dc' * c
        dg    = dc' * i
        dc    = dc' * f
        da_i  = di * i * (1 - i)                    sigmoid' = sigmoid (1 - sigmoid)
        da_f  = df * f * (1 - f)
        da_g  = dg * (1 - g^2)                      tanh'    = 1 - tanh^2
        da_o  = do * o * (1 - o)
        dx    = W_ih^T da,  dh = W_hh^T da
        dW_ih = da x^T,     dW_hh = da h^T,         db_ih = db_hh = da

    With everything: a clip lets pass what it did not clip, dh' begins with W_hr^T dh', dm goes to
    dc' through N; o's peephole adds p_o ds_o to dc', those of i and f add p_i ds_i + p_f ds_f to
    dc; coupled, di loses df or df loses di.
    """
    clip = clip or {}
    act_c = _activation(activations[2])
    products = _products(x, recurrent * h, weight_ih, weight_hh, weight_ln_ih, weight_ln_hh)
    gate = _lstm_gates(products, bias_ih, bias_hh, weight_peephole, weight_ln, coupled, clip, activations)
    parameters = {}

    i, f, g, o = _blocks(gates, 4)
    c_free = f * c + i * g  # c' before its clip
    c_next = _clip(c_free, clip.get("cell"))
    m = c_next if weight_ln_c is None else weight_ln_c * _normalize(c_next, _JOINT_EPS) + bias_ln_c
    act_m = act_c.function(m)

    if weight_hr is not None:
        dh_next = dh_next * _inside((o * act_m) @ weight_hr.T, clip.get("projection"))
        parameters["weight_hr"] = dh_next.T @ (o * act_m)
        dh_next = dh_next @ weight_hr
    do = dh_next * act_m
    dm = dh_next * o * act_c.derivative(m)
    if weight_ln_c is not None:
        parameters["weight_ln_c"] = (dm * _normalize(c_next, _JOINT_EPS)).sum(axis=0)
        parameters["bias_ln_c"] = dm.sum(axis=0)
        dm = _normalize_backward(weight_ln_c * dm, c_next, _JOINT_EPS)

    ds_o, dc_o, dp_o, dw_o, db_o = gate["o"].backward(do, c_next)
    dc_next = (dc_next + dm + dc_o) * _inside(c_free, clip.get("cell"))
    di = dc_next * g
    df = dc_next * c
    dg = dc_next * i
    dc = dc_next * f
    if coupled == "f=1-i":
        di = di - df
    if coupled == "i=1-f":
        df = df - di

    backward = [gate[k].backward(dk, c) for k, dk in zip("ifg", (di, df, dg), strict=True) if k in gate]
    ds, dc_kept, dp, dw, db = zip(*backward, (ds_o, 0, dp_o, dw_o, db_o), strict=True)
    dc = dc + sum(dc_kept)
    if weight_peephole is not None:
        parameters["weight_peephole"] = np.concatenate([dp_k for dp_k in dp if dp_k is not None])
    if weight_ln is not None:
        parameters["weight_ln"] = np.concatenate(dw)
    if bias_ih is not None:
        parameters["bias_ih"] = np.concatenate(db)
    if bias_hh is not None:
        parameters["bias_hh"] = np.concatenate(db)

    ds = np.concatenate(ds, axis=1)  # (B, G*H)
    ds_x = ds_h = ds  # what reaches W_ih x and W_hh h
    if weight_ln_ih is not None:
        s_x, s_h = x @ weight_ih.T, (recurrent * h) @ weight_hh.T
        parameters["weight_ln_ih"] = (ds * _normalize(s_x, _JOINT_EPS)).sum(axis=0)
        parameters["weight_ln_hh"] = (ds * _normalize(s_h, _JOINT_EPS)).sum(axis=0)
        ds_x = _normalize_backward(weight_ln_ih * ds, s_x, _JOINT_EPS)
        ds_h = _normalize_backward(weight_ln_hh * ds, s_h, _JOINT_EPS)
    dx = ds_x @ weight_ih
    dh = ds_h @ weight_hh * recurrent
    parameters["weight_ih"] = ds_x.T @ x
    parameters["weight_hh"] = ds_h.T @ (recurrent * h)
    return dx, dh, dc, parameters


class _Gate(NamedTuple):
    """One gate of an LSTM, act(a) of a = w N(v) + b, v = s + p c; without what is None.

    The activation clips a if that is asked for. c is the memory cell that the peephole sees.
    """

    s: np.ndarray  # (B, H), the gate's block of the products
    p: np.ndarray | None  # (H,) each
    w: np.ndarray | None
    b: np.ndarray | None
    activation: _Activation

    def _v(self, c):
        return self.s if self.p is None else self.s + self.p * c

    def _a(self, v):
        a = v if self.w is None else self.w * _normalize(v, _PER_GATE_EPS)
        return a if self.b is None else a + self.b

    def value(self, c):
        return self.activation.function(self._a(self._v(c)))

    def backward(self, dvalue, c):
        """ds, dc, dp, dw, db; dc is 0 without a peephole, and the gradient of None is None."""
        v = self._v(c)
        da = dvalue * self.activation.derivative(self._a(v))
        dp = dw = db = None
        dc = 0
        if self.b is not None:
            db = da.sum(axis=0)
        ds = da
        if self.w is not None:
            dw = (da * _normalize(v, _PER_GATE_EPS)).sum(axis=0)
            ds = _normalize_backward(self.w * da, v, _PER_GATE_EPS)
        if self.p is not None:
            dp = (ds * c).sum(axis=0)
            dc = self.p * ds
        return ds, dc, dp, dw, db


def _products(x, h, weight_ih, weight_hh, weight_ln_ih, weight_ln_hh):
    """W_ih x + W_hh h, or w_ih N(W_ih x) + w_hh N(W_hh h)."""
    s_x, s_h = x @ weight_ih.T, h @ weight_hh.T
    if weight_ln_ih is None:
        return s_x + s_h
    return weight_ln_ih * _normalize(s_x, _JOINT_EPS) + weight_ln_hh * _normalize(s_h, _JOINT_EPS)


def _lstm_gates(products, bias_ih, bias_hh, weight_peephole, weight_ln, coupled, clip, activations):
    """The :class:`_Gate` of each gate that has weights, by its letter."""
    letters = _LSTM_GATES[coupled]

    def by_letter(array, letters):
        return {} if array is None else dict(zip(letters, _blocks(array, len(letters)), strict=True))

    s, w = by_letter(products, letters), by_letter(weight_ln, letters)
    p = by_letter(weight_peephole, letters.replace("g", ""))
    b = by_letter(_sum(bias_ih, bias_hh), letters)
    sigma, act_g = (_activation(spec, clip.get("gates")) for spec in activations[:2])
    return {k: _Gate(s[k], p.get(k), w.get(k), b.get(k), act_g if k == "g" else sigma) for k in letters}


# GRU: one step ----------------------------------------------------------------------------------

_GRU_ACTIVATIONS = ("sigmoid", "tanh")


def gru_cell(
    x,
    h,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    *,
    reset_after=True,
    clip=None,
    activations=_GRU_ACTIVATIONS,
    recurrent=1,
):
    """One time step of one GRU layer.

    Parameters
    ----------
    x : ndarray, shape (batch, input_size)
    h : ndarray, shape (batch, hidden_size)
        The state before the step.
    weight_ih : ndarray, shape (3*hidden_size, input_size)
        Rows in the order of the gates: r, z, n.
    weight_hh : ndarray, shape (3*hidden_size, hidden_size)
    bias_ih, bias_hh : ndarray, shape (3*hidden_size,), optional
        Each is left out of the sum if None.
    reset_after : bool, optional
        Whether the reset gate r multiplies the product W_hn h + b_hn, as in PyTorch, or the h that
        goes into the product, as in [4]_.
    clip : dict, optional
        "gates": the bound to which the pre-activations of r, z and n are clipped.
    activations : sequence of 2, optional
        Those of r and z; of n. Each a name, (name, alpha) or (name, alpha, beta).
    recurrent : ndarray, shape (batch, hidden_size), optional
        Multiplied onto the h of the products, not onto that of z * h: a dropout mask, scaled
        already.

    Returns
    -------
    h : ndarray, shape (batch, hidden_size)
        The state after the step.
    gates : ndarray, shape (batch, 4*hidden_size)
        The activations and one product, r|z|n|q, for :func:`gru_cell_backward`.

    Notes
    -----
    The unit is that of [4]_, the names and the order of the gates are those of [3]_ (see the head
    of this module)::

        u  = recurrent * h
        r  = sigmoid(W_ir x + b_ir + W_hr u + b_hr)
        z  = sigmoid(W_iz x + b_iz + W_hz u + b_hz)
        h' = (1 - z) * n + z * h

    and with ``reset_after``::

        q  = W_hn u + b_hn
        n  = tanh(W_in x + b_in + r * q)

    without::

        q  = r * u
        n  = tanh(W_in x + b_in + W_hn q + b_hn)

    Examples
    --------
    >>> x, h = np.zeros((1, 2)), np.full((1, 1), 8.0)
    >>> h, gates = gru_cell(x, h, np.zeros((3, 2)), np.zeros((3, 1)))
    >>> gates.tolist(), h.tolist()                        # r = z = 1/2, n = 0: half of h is kept
    ([[0.5, 0.5, 0.0, 0.0]], [[4.0]])
    """
    sigma, act_n = (_activation(spec, (clip or {}).get("gates")) for spec in activations)
    u = recurrent * h
    a_r, a_z, x_n, W_hn, b_hn = _gru_sums(x, u, weight_ih, weight_hh, bias_ih, bias_hh)
    r = sigma.function(a_r)
    z = sigma.function(a_z)
    if reset_after:
        q = _affine(u, W_hn, b_hn)
        n = act_n.function(x_n + r * q)
    else:
        q = r * u
        n = act_n.function(x_n + _affine(q, W_hn, b_hn))
    h_next = (1 - z) * n + z * h
    return h_next, np.concatenate([r, z, n, q], axis=1)


def gru_cell_backward(
    dh_next,
    x,
    h,
    gates,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    *,
    reset_after=True,
    clip=None,
    activations=_GRU_ACTIVATIONS,
    recurrent=1,
):
    """Gradients of one step of :func:`gru_cell`.

    Parameters
    ----------
    dh_next : ndarray, shape (batch, hidden_size)
        Gradient with respect to the state after the step, from everything that used it.
    x : ndarray, shape (batch, input_size)
    h : ndarray, shape (batch, hidden_size)
        The state before the step.
    gates : ndarray, shape (batch, 4*hidden_size)
        The r|z|n|q that :func:`gru_cell` returned.
    weight_ih, ..., recurrent
        As they were given to :func:`gru_cell`.

    Returns
    -------
    dx : ndarray, shape (batch, input_size)
    dh : ndarray, shape (batch, hidden_size)
        Gradient with respect to the state before the step.
    parameters : dict of str to ndarray
        ``weight_ih``, ``weight_hh`` and those of ``bias_ih``, ``bias_hh`` that were given, summed
        over the batch.

    Notes
    -----
    The derivative of the equations of :func:`gru_cell`, from the last to the first; a is what a
    gate's activation is taken of::

        dz    = dh' * (h - n)
        dn    = dh' * (1 - z)
        da_z  = dz * sigmoid'(a_z)
        da_n  = dn * tanh'(a_n)

    With ``reset_after``, through q = W_hn u + b_hn::

        dr    = da_n * q
        dq    = da_n * r
        dW_hn = dq u^T,     db_hn = dq
        du    = W_hn^T dq + W_hr^T da_r + W_hz^T da_z

    without, through q = r * u::

        dq    = W_hn^T da_n
        dr    = dq * u
        dW_hn = da_n q^T,   db_hn = da_n
        du    = dq * r + W_hr^T da_r + W_hz^T da_z

    and with either::

        da_r  = dr * sigmoid'(a_r)
        dh    = dh' * z + du * recurrent
        dx    = W_ih^T da
        dW_ih = da x^T,     db_ih = da
        dW_hr = da_r u^T,   db_hr = da_r
        dW_hz = da_z u^T,   db_hz = da_z
    """
    sigma, act_n = (_activation(spec, (clip or {}).get("gates")) for spec in activations)
    r, z, n, q = _blocks(gates, 4)
    u = recurrent * h
    a_r, a_z, x_n, W_hn, b_hn = _gru_sums(x, u, weight_ih, weight_hh, bias_ih, bias_hh)
    a_n = x_n + (r * q if reset_after else _affine(q, W_hn, b_hn))
    W_hr, W_hz, _ = np.split(weight_hh, 3)

    dz = dh_next * (h - n)
    dn = dh_next * (1 - z)
    da_z = dz * sigma.derivative(a_z)
    da_n = dn * act_n.derivative(a_n)
    if reset_after:
        dr = da_n * q
        dq = da_n * r
        dW_hn, db_hn = dq.T @ u, dq
        du_n = dq @ W_hn  # the part of du that comes through n
    else:
        dq = da_n @ W_hn
        dr = dq * u
        dW_hn, db_hn = da_n.T @ q, da_n
        du_n = dq * r
    da_r = dr * sigma.derivative(a_r)

    da = np.concatenate([da_r, da_z, da_n], axis=1)  # (B, 3H)
    dx = da @ weight_ih
    dh = dh_next * z + (du_n + da_r @ W_hr + da_z @ W_hz) * recurrent
    parameters = {
        "weight_ih": da.T @ x,
        "weight_hh": np.concatenate([da_r.T @ u, da_z.T @ u, dW_hn]),
    }
    if bias_ih is not None:
        parameters["bias_ih"] = da.sum(axis=0)
    if bias_hh is not None:
        parameters["bias_hh"] = np.concatenate([da_r, da_z, db_hn], axis=1).sum(axis=0)
    return dx, dh, parameters


def _gru_sums(x, u, weight_ih, weight_hh, bias_ih, bias_hh):
    """a_r, a_z, and what a_n is made of: W_in x + b_in, W_hn, b_hn."""
    x_r, x_z, x_n = _blocks(_affine(x, weight_ih, bias_ih), 3)
    W_hr, W_hz, W_hn = np.split(weight_hh, 3)
    b_hr, b_hz, b_hn = [None] * 3 if bias_hh is None else _blocks(bias_hh, 3)
    return x_r + _affine(u, W_hr, b_hr), x_z + _affine(u, W_hz, b_hz), x_n, W_hn, b_hn


# RNN: one step ----------------------------------------------------------------------------------


def rnn_cell(x, h, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, nonlinearity="tanh", clip=None, recurrent=1):
    """One time step of one RNN layer.

    Parameters
    ----------
    x : ndarray, shape (batch, input_size)
    h : ndarray, shape (batch, hidden_size)
        The state before the step.
    weight_ih : ndarray, shape (hidden_size, input_size)
    weight_hh : ndarray, shape (hidden_size, hidden_size)
    bias_ih, bias_hh : ndarray, shape (hidden_size,), optional
        Each is left out of the sum if None.
    nonlinearity : str or tuple, optional
        An activation: a name, (name, alpha) or (name, alpha, beta).
    clip : dict, optional
        "gates": the bound to which the pre-activation is clipped.
    recurrent : ndarray, shape (batch, hidden_size), optional
        Multiplied onto the h of the product: a dropout mask, scaled already.

    Returns
    -------
    h : ndarray, shape (batch, hidden_size)
        The state after the step.
    gates : ndarray, shape (batch, hidden_size)
        The pre-activation, for :func:`rnn_cell_backward`.

    Raises
    ------
    ValueError
        If the nonlinearity is not known.

    Notes
    -----
    The network is that of [5]_, h being its context units and h' its hidden units; the names are
    those of [3]_ (see the head of this module)::

        a  = W_ih x + b_ih + W_hh (recurrent * h) + b_hh
        h' = nonlinearity(a)

    Examples
    --------
    >>> x, h = np.array([[1.0]]), np.array([[2.0]])
    >>> weights = {"weight_ih": np.array([[3.0]]), "weight_hh": np.array([[-1.0]])}
    >>> h, gates = rnn_cell(x, h, **weights, nonlinearity="relu")
    >>> h.tolist()
    [[1.0]]
    """
    activation = _activation(nonlinearity, (clip or {}).get("gates"), "nonlinearity")
    a = _affine(x, weight_ih, bias_ih) + _affine(recurrent * h, weight_hh, bias_hh)
    h_next = activation.function(a)
    return h_next, a


def rnn_cell_backward(
    dh_next,
    x,
    h,
    gates,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    *,
    nonlinearity="tanh",
    clip=None,
    recurrent=1,
):
    """Gradients of one step of :func:`rnn_cell`.

    Parameters
    ----------
    dh_next : ndarray, shape (batch, hidden_size)
        Gradient with respect to the state after the step, from everything that used it.
    x : ndarray, shape (batch, input_size)
    h : ndarray, shape (batch, hidden_size)
        The state before the step.
    gates : ndarray, shape (batch, hidden_size)
        The pre-activation that :func:`rnn_cell` returned.
    weight_ih, ..., recurrent
        As they were given to :func:`rnn_cell`.

    Returns
    -------
    dx : ndarray, shape (batch, input_size)
    dh : ndarray, shape (batch, hidden_size)
        Gradient with respect to the state before the step.
    parameters : dict of str to ndarray
        ``weight_ih``, ``weight_hh`` and those of ``bias_ih``, ``bias_hh`` that were given, summed
        over the batch.

    Raises
    ------
    ValueError
        If the nonlinearity is not known.

    Notes
    -----
    The derivative of the equation of :func:`rnn_cell`::

        da    = dh' * nonlinearity'(a)
        dx    = W_ih^T da,  dh = W_hh^T da * recurrent
        dW_ih = da x^T,     dW_hh = da (recurrent * h)^T,     db_ih = db_hh = da
    """
    activation = _activation(nonlinearity, (clip or {}).get("gates"), "nonlinearity")
    da = dh_next * activation.derivative(gates)  # (B, H)
    dx = da @ weight_ih
    dh = da @ weight_hh * recurrent
    parameters = {"weight_ih": da.T @ x, "weight_hh": da.T @ (recurrent * h)}
    if bias_ih is not None:
        parameters["bias_ih"] = da.sum(axis=0)
    if bias_hh is not None:
        parameters["bias_hh"] = da.sum(axis=0)
    return dx, dh, parameters


# Jordan: one step -------------------------------------------------------------------------------


def jordan_cell(
    x,
    h,
    weight_ih,
    weight_hh,
    weight_ho,
    bias_ih=None,
    bias_hh=None,
    bias_ho=None,
    *,
    nonlinearity="tanh",
    activation="linear",
    clip=None,
    recurrent=1,
):
    """One time step of one JordanRNN layer: an RNN that is fed its output back.

    Parameters
    ----------
    x : ndarray, shape (batch, input_size)
    h : ndarray, shape (batch, output_size)
        The state before the step, which is the output of the step before.
    weight_ih : ndarray, shape (hidden_size, input_size)
    weight_hh : ndarray, shape (hidden_size, output_size)
    weight_ho : ndarray, shape (output_size, hidden_size)
    bias_ih, bias_hh : ndarray, shape (hidden_size,), optional
    bias_ho : ndarray, shape (output_size,), optional
        Each is left out of the sum if None.
    nonlinearity, activation : str or tuple, optional
        The activations of the hidden units and of the output, see :func:`rnn_cell`.
    clip : dict, optional
        "gates": the bound to which the hidden units' pre-activation is clipped.
    recurrent : ndarray, shape (batch, output_size), optional
        Multiplied onto the h of the product: a dropout mask, scaled already.

    Returns
    -------
    h : ndarray, shape (batch, output_size)
        The state after the step.
    gates : ndarray, shape (batch, hidden_size)
        The hidden units' pre-activation, for :func:`jordan_cell_backward`.

    Raises
    ------
    ValueError
        If an activation is not known.

    Notes
    -----
    The network is that of [6]_, h being its state units and h' its output units; it is an RNN whose
    step ends in a dense layer::

        a  = W_ih x + b_ih + W_hh (recurrent * h) + b_hh
        h' = activation(W_ho nonlinearity(a) + b_ho)

    Examples
    --------
    >>> x, h = np.array([[1.0]]), np.array([[2.0]])
    >>> weights = {"weight_ih": np.array([[3.0]]), "weight_hh": np.array([[-1.0]])}
    >>> h, gates = jordan_cell(x, h, **weights, weight_ho=np.array([[5.0]]), nonlinearity="relu")
    >>> h.tolist()
    [[5.0]]
    """
    n, a = rnn_cell(
        x, h, weight_ih, weight_hh, bias_ih, bias_hh, nonlinearity=nonlinearity, clip=clip, recurrent=recurrent
    )
    h_next = _activation(activation).function(_affine(n, weight_ho, bias_ho))
    return h_next, a


def jordan_cell_backward(
    dh_next,
    x,
    h,
    gates,
    weight_ih,
    weight_hh,
    weight_ho,
    bias_ih=None,
    bias_hh=None,
    bias_ho=None,
    *,
    nonlinearity="tanh",
    activation="linear",
    clip=None,
    recurrent=1,
):
    """Gradients of one step of :func:`jordan_cell`.

    Parameters
    ----------
    dh_next : ndarray, shape (batch, output_size)
        Gradient with respect to the state after the step, from everything that used it.
    x : ndarray, shape (batch, input_size)
    h : ndarray, shape (batch, output_size)
        The state before the step.
    gates : ndarray, shape (batch, hidden_size)
        The pre-activation that :func:`jordan_cell` returned.
    weight_ih, ..., recurrent
        As they were given to :func:`jordan_cell`.

    Returns
    -------
    dx : ndarray, shape (batch, input_size)
    dh : ndarray, shape (batch, output_size)
        Gradient with respect to the state before the step.
    parameters : dict of str to ndarray
        Of each weight and bias that was given, under its name, summed over the batch.

    Raises
    ------
    ValueError
        If an activation is not known.

    Notes
    -----
    With n = nonlinearity(a), e = W_ho n + b_ho and the rest as in :func:`rnn_cell_backward`::

        de    = dh' * activation'(e)
        dW_ho = de n^T,     db_ho = de
        dn    = W_ho^T de
    """
    n = _activation(nonlinearity, (clip or {}).get("gates"), "nonlinearity").function(gates)
    de = dh_next * _activation(activation).derivative(_affine(n, weight_ho, bias_ho))  # (B, P)
    dn = de @ weight_ho
    dx, dh, parameters = rnn_cell_backward(
        dn,
        x,
        h,
        gates,
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        nonlinearity=nonlinearity,
        clip=clip,
        recurrent=recurrent,
    )
    parameters["weight_ho"] = de.T @ n
    if bias_ho is not None:
        parameters["bias_ho"] = de.sum(axis=0)
    return dx, dh, parameters


# What cells share -------------------------------------------------------------------------------


def _affine(x, weight, bias):
    """W x + b of each row, without b if it is None."""
    return x @ weight.T if bias is None else x @ weight.T + bias


def _sum(*biases):
    """The sum of those that are not None; None if none is."""
    given = [bias for bias in biases if bias is not None]
    return sum(given[1:], given[0]) if given else None


def _blocks(a, count):
    """The gates of a (B, count*H) or (count*H,) array, each (B, H) or (H,)."""
    H = a.shape[-1] // count
    return [a[..., k * H : (k + 1) * H] for k in range(count)]


# LSTM: layers, directions, time -----------------------------------------------------------------


def lstm_forward(
    parameters,
    x,
    state=None,
    lengths=None,
    dropout_masks=None,
    *,
    mask=None,
    reverse=False,
    merge="concat",
    padding="zero",
    empty="initial",
    noise=None,
    coupled=None,
    clip=None,
    layer_norm=None,
    activations=_LSTM_ACTIVATIONS,
):
    """Run a stack of LSTM layers over a batch of sequences.

    The number of layers, the directions, the biases, the peepholes and the projection are read off
    the names in ``parameters``. P is hidden_size, or with a projection the width of that; D is
    num_directions, or 1 if they are merged otherwise than by "concat".

    Parameters
    ----------
    parameters : mapping of str to ndarray
        PyTorch's names and shapes: ``weight_ih_l{k}`` (4*hidden_size, input_size or D*P),
        ``weight_hh_l{k}`` (4*hidden_size, P) and, each optional, ``bias_ih_l{k}`` and
        ``bias_hh_l{k}`` (4*hidden_size,), with ``_reverse`` appended for the second direction. In
        every layer or none ``weight_hr_l{k}`` (P, hidden_size), the projection, and
        ``weight_peephole_l{k}`` (3*hidden_size,). With ``layer_norm`` its scales, see
        :func:`lstm_cell`. With ``coupled``, 3 for 4 and 2 for 3. Copied, so that later edits do
        not reach the cache.
    x : ndarray, shape (seq_len, batch, input_size)
    state : tuple (h_0, c_0), optional
        (num_layers * num_directions, batch, P) and (num_layers * num_directions, batch,
        hidden_size), in the order layer 0 forward, layer 0 reverse, layer 1 forward, ... Zeros if
        omitted.
    lengths : array_like of int, shape (batch,), optional
        Valid steps per sequence, 0 to seq_len, in any order. Past its length a sequence outputs
        ``padding``, whatever ``x`` holds there (NaN too) reaches nothing, and its final state is
        that of its last valid step, at which the reverse direction begins.
    dropout_masks : sequence of num_layers - 1 ndarrays, optional
        Each (seq_len, batch, D*P), multiplied onto the output of one layer, in order, the last
        layer excepted. Already scaled: 0 or 1 / (1 - dropout).
    mask : array_like of bool, shape (batch, seq_len), optional
        Where it is False there is no step: the state is held, in both directions. With ``lengths``
        too, a step is valid if both say so.
    reverse : bool, optional
        Walk time from the end, in every layer; outputs stay at their own times. Not with two
        directions.
    merge : {"concat", "sum", "mul", "average", None}, optional
        What becomes of the outputs of two directions, after every layer. With None, ``y`` is the
        tuple of both, of one layer only. Without two directions, "concat".
    padding : {"zero", "repeat"} or float, optional
        What a direction outputs at steps that are not valid: zeros, a number, or what it output at
        the step it did last, zeros before its first.
    empty : {"initial", "zero"}, optional
        The final state of a row without a valid step. No gradient goes through "zero".
    noise : dict, optional
        Any of the following, each a list of one array or None for each layer and direction, in the
        order of ``state``. "input" [11]_, (batch, input_size or D*P), multiplied onto the x of
        every step. "recurrent" [11]_, (batch, P), multiplied onto the h of every recurrent product.
        "weight_hh" [12]_, multiplied onto that. All three scaled already. "zoneout_h" and
        "zoneout_c" [10]_, broadcastable to (seq_len, batch, P) and to (seq_len, batch,
        hidden_size), the k in h_t = k h_{t-1} + (1 - k) h~_t, where h~_t is the cell's; these may
        also be floats, in the list or in its place: the expectation.
    coupled : {None, "f=1-i", "i=1-f"}, optional
    clip : dict, optional
    layer_norm : {None, "joint", "per_gate"}, optional
    activations : sequence of 3, optional
        See :func:`lstm_cell`.

    Returns
    -------
    y : ndarray, shape (seq_len, batch, D*P), or with ``merge=None`` a tuple of two
        Forward direction first.
    state : tuple (h_n, c_n)
        Shaped like ``state``; new arrays.
    cache : object
        For :func:`lstm_backward`, which may use it any number of times.

    Raises
    ------
    ValueError
        If a name is missing or unexpected, a shape or a length is wrong, or an option is not one
        of those above or not together with another; the message gives what was expected.
    TypeError
        If ``lengths`` are not integers or ``mask`` is not of bool.

    See Also
    --------
    lstm_cell : the equations of one step.

    Examples
    --------
    >>> parameters = {"weight_ih_l0": np.ones((4, 1)), "weight_hh_l0": np.ones((4, 1))}
    >>> y, (h_n, c_n), cache = lstm_forward(parameters, np.ones((3, 2, 1)), lengths=[3, 1])
    >>> y[1:, 1].tolist(), bool(h_n[0, 1] == y[0, 1])
    ([[0.0], [0.0]], True)
    """
    cell = _lstm(coupled, clip, layer_norm, activations, projected="weight_hr_l0" in parameters)
    return _forward(cell, parameters, x, state, lengths, dropout_masks, mask, reverse, merge, padding, empty, noise)


def lstm_backward(cache, dy, dstate=None):
    """Gradients of :func:`lstm_forward`: backpropagation through the whole of time.

    Parameters
    ----------
    cache : object
        The one :func:`lstm_forward` returned.
    dy : ndarray, shape (seq_len, batch, D*P), or with ``merge=None`` a tuple of two, or None
        Gradient of the loss with respect to ``y``; zero if None. What it holds at steps that are
        not valid (NaN too) reaches nothing, or with ``padding="repeat"`` the step repeated there.
    dstate : tuple (dh_n, dc_n), optional
        Gradient with respect to the final state, shaped like it. Zeros if omitted.

    Returns
    -------
    Gradients
        ``dx`` (seq_len, batch, input_size), zero at steps that are not valid; ``dstate``, the tuple
        (dh_0, dc_0); ``parameters``, a dict with the names given to :func:`lstm_forward`.

    Raises
    ------
    ValueError
        If a shape is wrong, or both ``dy`` and ``dstate`` are None.

    See Also
    --------
    lstm_cell_backward : the equations of one step.

    Examples
    --------
    >>> parameters = {"weight_ih_l0": np.ones((4, 1)), "weight_hh_l0": np.ones((4, 1))}
    >>> y, _, cache = lstm_forward(parameters, np.ones((3, 2, 1)), lengths=[3, 1])
    >>> gradients = lstm_backward(cache, np.ones_like(y))
    >>> gradients.dx[1:, 1].tolist(), sorted(gradients.parameters)
    ([[0.0], [0.0]], ['weight_hh_l0', 'weight_ih_l0'])
    """
    return _backward(cache, dy, dstate)


# GRU: layers, directions, time ------------------------------------------------------------------


def gru_forward(
    parameters,
    x,
    state=None,
    lengths=None,
    dropout_masks=None,
    *,
    reset_after=True,
    clip=None,
    activations=_GRU_ACTIVATIONS,
    **common,
):
    """Run a stack of GRU layers over a batch of sequences.

    The number of layers, the directions and the biases are read off the names in ``parameters``.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        PyTorch's names and shapes: ``weight_ih_l{k}`` (3*hidden_size, input_size or
        D*hidden_size), ``weight_hh_l{k}`` (3*hidden_size, hidden_size) and, each optional,
        ``bias_ih_l{k}`` and ``bias_hh_l{k}`` (3*hidden_size,), with ``_reverse`` appended for the
        second direction. Copied, so that later edits do not reach the cache.
    x : ndarray, shape (seq_len, batch, input_size)
    state : ndarray h_0, shape (num_layers * num_directions, batch, hidden_size), optional
        In the order layer 0 forward, layer 0 reverse, layer 1 forward, ... Zeros if omitted.
    reset_after, clip, activations
        See :func:`gru_cell`.
    lengths, dropout_masks, **common
        As in :func:`lstm_forward`: ``mask``, ``reverse``, ``merge``, ``padding``, ``empty``,
        ``noise`` (without "zoneout_c").

    Returns
    -------
    y : ndarray, shape (seq_len, batch, D*hidden_size), or with ``merge=None`` a tuple of two
        Forward direction first.
    state : ndarray h_n
        Shaped like ``state``; a new array.
    cache : object
        For :func:`gru_backward`, which may use it any number of times.

    Raises
    ------
    ValueError, TypeError
        As :func:`lstm_forward`.

    See Also
    --------
    gru_cell : the equations of one step.

    Examples
    --------
    >>> parameters = {"weight_ih_l0": np.ones((3, 1)), "weight_hh_l0": np.ones((3, 1))}
    >>> y, h_n, cache = gru_forward(parameters, np.ones((3, 2, 1)), lengths=[3, 1])
    >>> y[1:, 1].tolist(), bool(h_n[0, 1] == y[0, 1])
    ([[0.0], [0.0]], True)
    """
    cell = _gru(reset_after, clip, activations)
    return _forward(cell, parameters, x, state, lengths, dropout_masks, **common)


def gru_backward(cache, dy, dstate=None):
    """Gradients of :func:`gru_forward`: backpropagation through the whole of time.

    Parameters
    ----------
    cache : object
        The one :func:`gru_forward` returned.
    dy : ndarray, shaped like ``y``, or a tuple, or None
        As in :func:`lstm_backward`.
    dstate : ndarray dh_n, optional
        Gradient with respect to the final state, shaped like it. Zeros if omitted.

    Returns
    -------
    Gradients
        ``dx`` (seq_len, batch, input_size), zero at steps that are not valid; ``dstate``, the array
        dh_0; ``parameters``, a dict with the names given to :func:`gru_forward`.

    Raises
    ------
    ValueError
        If a shape is wrong, or both ``dy`` and ``dstate`` are None.

    See Also
    --------
    gru_cell_backward : the equations of one step.

    Examples
    --------
    >>> parameters = {"weight_ih_l0": np.ones((3, 1)), "weight_hh_l0": np.ones((3, 1))}
    >>> y, _, cache = gru_forward(parameters, np.ones((3, 2, 1)), lengths=[3, 1])
    >>> gradients = gru_backward(cache, np.ones_like(y))
    >>> gradients.dx[1:, 1].tolist(), gradients.dstate.shape
    ([[0.0], [0.0]], (1, 2, 1))
    """
    return _backward(cache, dy, dstate)


# RNN: layers, directions, time ------------------------------------------------------------------


def rnn_forward(
    parameters,
    x,
    state=None,
    lengths=None,
    dropout_masks=None,
    *,
    nonlinearity="tanh",
    clip=None,
    **common,
):
    """Run a stack of RNN layers over a batch of sequences.

    The number of layers, the directions and the biases are read off the names in ``parameters``.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        PyTorch's names and shapes: ``weight_ih_l{k}`` (hidden_size, input_size or D*hidden_size),
        ``weight_hh_l{k}`` (hidden_size, hidden_size) and, each optional, ``bias_ih_l{k}`` and
        ``bias_hh_l{k}`` (hidden_size,), with ``_reverse`` appended for the second direction.
        Copied, so that later edits do not reach the cache.
    x : ndarray, shape (seq_len, batch, input_size)
    state : ndarray h_0, shape (num_layers * num_directions, batch, hidden_size), optional
        In the order layer 0 forward, layer 0 reverse, layer 1 forward, ... Zeros if omitted.
    nonlinearity, clip
        See :func:`rnn_cell`.
    lengths, dropout_masks, **common
        As in :func:`gru_forward`.

    Returns
    -------
    y : ndarray, shape (seq_len, batch, D*hidden_size), or with ``merge=None`` a tuple of two
        Forward direction first.
    state : ndarray h_n
        Shaped like ``state``; a new array.
    cache : object
        For :func:`rnn_backward`, which may use it any number of times.

    Raises
    ------
    ValueError, TypeError
        As :func:`lstm_forward`.

    See Also
    --------
    rnn_cell : the equation of one step.

    Examples
    --------
    >>> parameters = {"weight_ih_l0": np.ones((1, 1)), "weight_hh_l0": np.ones((1, 1))}
    >>> x = np.ones((3, 2, 1))
    >>> y, h_n, cache = rnn_forward(parameters, x, nonlinearity="relu", lengths=[3, 1])
    >>> y[:, :, 0].tolist(), h_n.tolist()
    ([[1.0, 1.0], [2.0, 0.0], [3.0, 0.0]], [[[3.0], [1.0]]])
    """
    cell = _rnn(nonlinearity, clip)
    return _forward(cell, parameters, x, state, lengths, dropout_masks, **common)


def rnn_backward(cache, dy, dstate=None):
    """Gradients of :func:`rnn_forward`: backpropagation through the whole of time.

    Parameters
    ----------
    cache : object
        The one :func:`rnn_forward` returned.
    dy : ndarray, shaped like ``y``, or a tuple, or None
        As in :func:`lstm_backward`.
    dstate : ndarray dh_n, optional
        Gradient with respect to the final state, shaped like it. Zeros if omitted.

    Returns
    -------
    Gradients
        ``dx`` (seq_len, batch, input_size), zero at steps that are not valid; ``dstate``, the array
        dh_0; ``parameters``, a dict with the names given to :func:`rnn_forward`.

    Raises
    ------
    ValueError
        If a shape is wrong, or both ``dy`` and ``dstate`` are None.

    See Also
    --------
    rnn_cell_backward : the equations of one step.

    Examples
    --------
    >>> parameters = {"weight_ih_l0": np.ones((1, 1)), "weight_hh_l0": np.ones((1, 1))}
    >>> x = np.ones((3, 2, 1))
    >>> y, _, cache = rnn_forward(parameters, x, nonlinearity="relu", lengths=[3, 1])
    >>> gradients = rnn_backward(cache, np.ones_like(y))
    >>> gradients.dx[:, :, 0].tolist(), gradients.dstate.tolist()
    ([[3.0, 1.0], [2.0, 0.0], [1.0, 0.0]], [[[3.0], [1.0]]])
    """
    return _backward(cache, dy, dstate)


# Jordan: layers, directions, time ---------------------------------------------------------------


def jordan_forward(
    parameters,
    x,
    state=None,
    lengths=None,
    dropout_masks=None,
    *,
    nonlinearity="tanh",
    activation="linear",
    clip=None,
    **common,
):
    """Run a stack of JordanRNN layers over a batch of sequences.

    The number of layers, the directions and the biases are read off the names in ``parameters``.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        As of :func:`rnn_forward`, with P = output_size: ``weight_ih_l{k}`` (hidden_size, input_size
        or D*P), ``weight_hh_l{k}`` (hidden_size, P), ``weight_ho_l{k}`` (P, hidden_size) and, each
        optional, ``bias_ih_l{k}`` and ``bias_hh_l{k}`` (hidden_size,), ``bias_ho_l{k}`` (P,).
    x : ndarray, shape (seq_len, batch, input_size)
    state : ndarray, shape (num_layers * num_directions, batch, P), optional
        The output before the first step, in the order layer 0 forward, layer 0 reverse, layer 1
        forward, ... Zeros if omitted.
    nonlinearity, activation, clip
        See :func:`jordan_cell`.
    lengths, dropout_masks, **common
        As in :func:`gru_forward`.

    Returns
    -------
    y : ndarray, shape (seq_len, batch, D*P), or with ``merge=None`` a tuple of two
        Forward direction first.
    state : ndarray
        Shaped like ``state``; a new array.
    cache : object
        For :func:`jordan_backward`, which may use it any number of times.

    Raises
    ------
    ValueError, TypeError
        As :func:`lstm_forward`.

    See Also
    --------
    jordan_cell : the equations of one step.

    Examples
    --------
    >>> names = ("weight_ih_l0", "weight_hh_l0", "weight_ho_l0")
    >>> parameters = {name: np.full((1, 1), 2.0) for name in names}
    >>> y, h_n, cache = jordan_forward(parameters, np.ones((2, 1, 1)), nonlinearity="linear")
    >>> y.ravel().tolist(), h_n.ravel().tolist()                # 2 (2 1 + 2 0), 2 (2 1 + 2 4)
    ([4.0, 20.0], [20.0])
    """
    cell = _jordan(nonlinearity, activation, clip)
    return _forward(cell, parameters, x, state, lengths, dropout_masks, **common)


def jordan_backward(cache, dy, dstate=None):
    """Gradients of :func:`jordan_forward`: backpropagation through the whole of time.

    Parameters
    ----------
    cache : object
        The one :func:`jordan_forward` returned.
    dy : ndarray, shaped like ``y``, or a tuple, or None
        As in :func:`lstm_backward`.
    dstate : ndarray, optional
        Gradient with respect to the final state, shaped like it. Zeros if omitted.

    Returns
    -------
    Gradients
        ``dx`` (seq_len, batch, input_size), zero at steps that are not valid; ``dstate``, the array
        of the initial state; ``parameters``, a dict with the names given to :func:`jordan_forward`.

    Raises
    ------
    ValueError
        If a shape is wrong, or both ``dy`` and ``dstate`` are None.

    See Also
    --------
    jordan_cell_backward : the equations of one step.

    Examples
    --------
    >>> names = ("weight_ih_l0", "weight_hh_l0", "weight_ho_l0")
    >>> parameters = {name: np.full((1, 1), 2.0) for name in names}
    >>> y, _, cache = jordan_forward(parameters, np.ones((2, 1, 1)), nonlinearity="linear")
    >>> jordan_backward(cache, np.ones_like(y)).dx.ravel().tolist()
    [20.0, 4.0]
    """
    return _backward(cache, dy, dstate)


# Layers, directions, time, of any cell ----------------------------------------------------------


class _Cell(NamedTuple):
    """What the loops need to know of a cell.

    step            (x, *state, recurrent=, **weights) -> (*state, gates), h the first of state
    step_backward   (*dstate, x, *state, gates, recurrent=, **weights) -> (dx, *dstate, parameters)
    shapes          (H, P, input width) -> {name of a weight: its shape}
    by_letter       (gates) -> {letter: (B, H)} of those that have one
    output          the name of the (P, H) weight that makes h; without it P is H
    """

    step: Callable
    step_backward: Callable
    shapes: Callable
    by_letter: Callable
    num_states: int = 1
    output: str | None = None


def _lstm(coupled, clip, layer_norm, activations, projected):
    """An LSTM's :class:`_Cell`. Options are refused here: there may be no step that would do it."""
    if coupled not in _LSTM_GATES:
        raise ValueError(f"coupled is {coupled!r}, expected one of {list(_LSTM_GATES)}")
    if layer_norm not in (None, "joint", "per_gate"):
        raise ValueError(f"layer_norm is {layer_norm!r}, expected None, 'joint' or 'per_gate'")
    _check_clip(clip, ("gates", "cell", "projection") if projected else ("gates", "cell"))
    _check_activations(activations, 3)
    G = len(_LSTM_GATES[coupled])

    def shapes(H, P, width):
        norms = {
            None: {},
            "joint": {
                "weight_ln_ih": (G * H,),
                "weight_ln_hh": (G * H,),
                "weight_ln_c": (H,),
                "bias_ln_c": (H,),
            },
            "per_gate": {"weight_ln": (G * H,)},
        }
        more = {"weight_hr": (P, H), "weight_peephole": ((G - 1) * H,)}
        return {**_shapes(G, H, P, width), **more, **norms[layer_norm]}

    options = {"coupled": coupled, "clip": clip, "activations": activations}
    step, step_backward = partial(lstm_cell, **options), partial(lstm_cell_backward, **options)
    return _Cell(step, step_backward, shapes, _letters("ifgo"), num_states=2, output="weight_hr")


def _gru(reset_after, clip, activations):
    """A GRU's :class:`_Cell`."""
    _check_clip(clip, ("gates",))
    _check_activations(activations, 2)
    options = {"reset_after": reset_after, "clip": clip, "activations": activations}
    step, step_backward = partial(gru_cell, **options), partial(gru_cell_backward, **options)
    return _Cell(step, step_backward, partial(_shapes, 3), _letters("rzn"))


def _rnn(nonlinearity, clip):
    """An RNN's :class:`_Cell`."""
    _check_clip(clip, ("gates",))
    _activation(nonlinearity, argument="nonlinearity")
    options = {"nonlinearity": nonlinearity, "clip": clip}
    step, step_backward = partial(rnn_cell, **options), partial(rnn_cell_backward, **options)
    return _Cell(step, step_backward, partial(_shapes, 1), lambda a: {})


def _jordan(nonlinearity, activation, clip):
    """A JordanRNN's :class:`_Cell`."""
    _check_clip(clip, ("gates",))
    hidden = _activation(nonlinearity, (clip or {}).get("gates"), "nonlinearity")
    _activation(activation)
    options = {"nonlinearity": nonlinearity, "activation": activation, "clip": clip}

    def shapes(H, P, width):
        return {**_shapes(1, H, P, width), "weight_ho": (P, H), "bias_ho": (P,)}

    step, step_backward = partial(jordan_cell, **options), partial(jordan_cell_backward, **options)
    return _Cell(step, step_backward, shapes, lambda a: {"a": hidden.function(a)}, output="weight_ho")


def _letters(letters):
    """The ``by_letter`` of a cell whose gates are four blocks, of which these come first."""
    return lambda gates: dict(zip(letters, _blocks(gates, 4), strict=False))


def _shapes(G, H, P, width):
    """The weights that every cell has, of G gates."""
    return {
        "weight_ih": (G * H, width),
        "weight_hh": (G * H, P),
        "bias_ih": (G * H,),
        "bias_hh": (G * H,),
    }


def _check_clip(clip, places):
    for place, bound in (clip or {}).items():
        if place not in places or not bound > 0:
            raise ValueError(f"clip has {place!r}: {bound!r}, expected positive numbers for any of {places}")


def _check_activations(activations, count):
    if len(activations) != count:
        raise ValueError(f"activations is {activations!r}, expected {count} of them")
    for spec in activations:
        _activation(spec)


class _Noise(NamedTuple):
    """The random part of one direction of one layer; ones, and no k, where there is none."""

    input: np.ndarray  # (B, I) or (B, 1)
    recurrent: np.ndarray  # (B, P) or (B, 1)
    weight_hh: np.ndarray  # (G*H, P) or (1, 1)
    zoneout: list  # for each array of the state, k (T, B, P or H) or None


class _Cache(NamedTuple):
    """What backward needs of a forward pass; all lists are [layer][direction]."""

    cell: _Cell
    layers: list  # the weights of one direction of one layer, by their names without suffix
    steps: list  # what _run returned of each step
    outputs: list  # and of y
    noise: list  # _Noise
    dropout_masks: list  # [layer], None where there is none
    merge: str | None
    repeat: bool  # whether padding repeats
    held: np.ndarray  # (B, 1), 0 for the rows whose final state is set to zero, else 1
    x_shape: tuple  # (T, B, I)
    state_shapes: list  # (L*D, B, P or H)
    dtype: np.dtype


def _forward(
    cell,
    parameters,
    x,
    state=None,
    lengths=None,
    dropout_masks=None,
    mask=None,
    reverse=False,
    merge="concat",
    padding="zero",
    empty="initial",
    noise=None,
):
    """All layers and directions, one after the other."""
    x = np.asarray(x)
    if x.ndim != 3:
        raise ValueError(f"x has shape {x.shape}, expected (seq_len, batch, input_size)")
    T, B, input_size = x.shape
    layers = _by_layer(cell, parameters, input_size, merge)
    L, D = len(layers), len(layers[0])
    H, P = _sizes(cell, parameters)
    _check_directions(L, D, reverse, merge)
    padding = _padding(padding)
    if empty not in ("initial", "zero"):
        raise ValueError(f"empty is {empty!r}, expected 'initial' or 'zero'")

    arrays = [x, *(w for directions in layers for weights in directions for w in weights.values())]
    dtype = np.result_type(*arrays, *_arrays(cell, state))
    state_shapes = [(L * D, B, width) for width in (P, H)[: cell.num_states]]
    state_0 = _states(cell, state, "state", state_shapes, dtype)
    valid = _valid(lengths, mask, T, B)
    masks = _masks(dropout_masks, L, (T, B, _merged_width(P, D, merge)))
    noise = _noise(noise, layers, T, [s.shape for s in state_0], dtype)
    held = np.ones((B, 1), dtype)
    if empty == "zero":
        held[~valid.any(axis=0)] = 0

    state_n = [np.empty_like(s) for s in state_0]
    steps, outputs = [], []
    y = x
    for k, directions in enumerate(layers):
        runs = []
        for d, weights in enumerate(directions):
            before = [s[k * D + d] for s in state_0]
            backwards = reverse or d == 1
            y_d, after, steps_d = _run(cell, weights, y, before, valid, backwards, padding, noise[k][d])
            for s, value in zip(state_n, after, strict=True):
                s[k * D + d] = np.where(held == 0, 0, value)
            runs.append((y_d, steps_d))
        outputs.append([y_d for y_d, _ in runs])
        steps.append([steps_d for _, steps_d in runs])
        y = _merge(outputs[k], merge)
        if masks[k] is not None:
            y = y * masks[k]

    repeat = padding == "repeat"
    cache = _Cache(cell, layers, steps, outputs, noise, masks, merge, repeat, held, x.shape, state_shapes, dtype)
    return y, _state(state_n), cache


def _run(cell, weights, x, state, valid, reverse, padding, noise):
    """One direction of one layer over all of time.

    A row takes part in the steps that are valid; its state rests otherwise. Of a row with a length,
    walking t downwards it joins at its own last valid step, walking upwards it leaves after it.
    """
    T, B, _ = x.shape
    dtype = state[0].dtype
    y = np.empty((T, B, state[0].shape[1]), dtype)  # (T, B, P)
    y_t = np.full(y.shape[1:], 0 if padding == "repeat" else padding, dtype)  # what padding holds
    state = [s.copy() for s in state]  # (B, P), (B, H)
    weights = {**weights, "weight_hh": weights["weight_hh"] * noise.weight_hh}
    steps = []
    for t in reversed(range(T)) if reverse else range(T):
        rows = np.flatnonzero(valid[t])
        x_t = x[t, rows] * noise.input[rows]
        before = [s[rows] for s in state]
        *after, gates = cell.step(x_t, *before, recurrent=noise.recurrent[rows], **weights)
        for s, value, old, k in zip(state, after, before, noise.zoneout, strict=True):
            s[rows] = value if k is None else k[t, rows] * old + (1 - k[t, rows]) * value
        y[t] = y_t
        y[t, rows] = state[0][rows]
        if padding == "repeat":
            y_t = y[t]
        steps.append((t, rows, x_t, before, gates, [s[rows] for s in state]))
    return y, state, steps


def _backward(cache, dy, dstate):
    """All layers and directions, last layer first."""
    if dy is None and dstate is None:
        raise ValueError("dy and dstate are both None, expected at least one of them")
    cell, dtype = cache.cell, cache.dtype
    T, B, _ = cache.x_shape
    dy = _output_gradient(cache, dy)
    dstate_n = _states(cell, dstate, "dstate", cache.state_shapes, dtype)

    dstate_0 = [np.empty_like(s) for s in dstate_n]
    gradients = [[{} for _ in directions] for directions in cache.layers]
    for k, directions in reversed(list(enumerate(cache.layers))):
        if cache.dropout_masks[k] is not None:
            dy = dy * cache.dropout_masks[k]
        D = len(directions)
        dx = np.zeros((T, B, directions[0]["weight_ih"].shape[1]), dtype)
        dy_of = _merge_backward(dy, cache.outputs[k], cache.merge)
        for d, weights in enumerate(directions):
            dafter = [np.where(cache.held == 0, 0, s[k * D + d]) for s in dstate_n]
            dx_d, dbefore, gradients[k][d] = _run_backward(
                cell, weights, cache.steps[k][d], dx.shape, dy_of[d], dafter, cache.repeat, cache.noise[k][d]
            )
            dx += dx_d
            for s, value in zip(dstate_0, dbefore, strict=True):
                s[k * D + d] = value
        dy = dx  # of this layer's input, which is the output of the layer below
    return Gradients(dy, _state(dstate_0), _by_name(gradients))


def _run_backward(cell, weights, steps, x_shape, dy, dstate, repeat, noise):
    """One direction of one layer: the steps that :func:`_run` took, from the last to the first."""
    dx = np.zeros(x_shape, dstate[0].dtype)  # (T, B, I)
    dstate = [s.copy() for s in dstate]  # (B, P), (B, H)
    drepeated = np.zeros_like(dstate[0])  # of the places that repeat the output of an earlier step
    dweights = {name: np.zeros(w.shape, dx.dtype) for name, w in weights.items()}
    weights = {**weights, "weight_hh": weights["weight_hh"] * noise.weight_hh}
    for t, rows, x_t, before, gates, _ in reversed(steps):
        dafter = [s[rows] for s in dstate]
        dafter[0] = dafter[0] + dy[t, rows] + drepeated[rows]  # y[t] is h after the step
        if repeat:
            drepeated = drepeated + dy[t]
            drepeated[rows] = 0
        dcell = [ds if k is None else (1 - k[t, rows]) * ds for ds, k in zip(dafter, noise.zoneout, strict=True)]
        recurrent = noise.recurrent[rows]
        dx_t, *dbefore, dw = cell.step_backward(*dcell, x_t, *before, gates, recurrent=recurrent, **weights)
        dx[t, rows] = dx_t * noise.input[rows]
        for s, value, ds, k in zip(dstate, dbefore, dafter, noise.zoneout, strict=True):
            s[rows] = value if k is None else k[t, rows] * ds + value
        for name in dweights:
            dweights[name] += dw[name]
    dweights["weight_hh"] *= noise.weight_hh
    return dx, dstate, dweights


def gate_values(cache, layer=0, direction=0):
    """Every gate and state at every step, by its letter: what one direction of one layer did.

    Parameters
    ----------
    cache : object
        The one that ``lstm_forward`` or another ``*_forward`` returned.
    layer, direction : int, optional
        Direction 1 is the second one.

    Returns
    -------
    dict of str to ndarray, shape (seq_len, batch, hidden_size)
        LSTM: i, f, g, o, c, h; GRU: r, z, n, h; RNN: h; JordanRNN: a, its hidden units, and h, its
        output. The state is that after the step, with zoneout if there is any. All stand at their
        own times, in reverse too; NaN at steps that are not valid. P for hidden_size in h. Empty
        if seq_len is 0.

    Examples
    --------
    >>> parameters = {"weight_ih_l0": np.zeros((4, 1)), "weight_hh_l0": np.zeros((4, 1))}
    >>> state = np.zeros((1, 1, 1)), np.full((1, 1, 1), 8.0)
    >>> _, _, cache = lstm_forward(parameters, np.zeros((3, 1, 1)), state)
    >>> values = gate_values(cache)
    >>> values["f"].ravel().tolist(), values["c"].ravel().tolist()
    ([0.5, 0.5, 0.5], [4.0, 2.0, 1.0])
    """
    T, B, _ = cache.x_shape
    found = {}
    for t, rows, _, _, gates, after in cache.steps[layer][direction]:
        state = reversed(list(zip("hc", after, strict=False)))  # c before h, as it is computed
        for letter, value in {**cache.cell.by_letter(gates), **dict(state)}.items():
            if letter not in found:
                found[letter] = np.full((T, B, value.shape[1]), np.nan, cache.dtype)
            found[letter][t, rows] = value
    return found


# Directions and their outputs -------------------------------------------------------------------


def _check_directions(L, D, reverse, merge):
    if merge not in ("concat", "sum", "mul", "average", None):
        raise ValueError(f"merge is {merge!r}, expected 'concat', 'sum', 'mul', 'average' or None")
    if D == 1 and merge != "concat":
        raise ValueError(f"merge is {merge!r} with one direction, expected 'concat'")
    if D == 2 and reverse:
        raise ValueError("reverse is True with two directions, expected one")
    if L > 1 and merge is None:
        raise ValueError(f"merge is None with {L} layers, expected one layer")


def _merged_width(P, D, merge):
    """The last axis of y, of both y where merge is None."""
    return D * P if merge == "concat" else P


def _merge(outputs, merge):
    """y of the directions' outputs, each (T, B, P)."""
    if merge == "concat":
        return np.concatenate(outputs, axis=2)
    if merge is None:
        return tuple(y.copy() for y in outputs)  # not those of the cache
    forward, backward = outputs
    return {"sum": forward + backward, "mul": forward * backward, "average": (forward + backward) / 2}[merge]


def _merge_backward(dy, outputs, merge):
    """The gradient of each direction's output."""
    if merge == "concat":
        return np.split(dy, len(outputs), axis=2)
    if merge is None:
        return dy
    forward, backward = outputs
    return {"sum": (dy, dy), "mul": (dy * backward, dy * forward), "average": (dy / 2, dy / 2)}[merge]


def _output_gradient(cache, dy):
    """dy, checked; zeros if None."""
    T, B, _ = cache.x_shape
    P, D = cache.state_shapes[0][2], len(cache.layers[0])
    shape = (T, B, _merged_width(P, D, cache.merge))
    if dy is None:
        dy = np.zeros(shape, cache.dtype)
        return (dy, dy) if cache.merge is None else dy
    if cache.merge is None:
        dy = tuple(np.asarray(dy_d) for dy_d in dy)
        if [dy_d.shape for dy_d in dy] != [shape] * 2:
            raise ValueError(f"dy has shapes {[dy_d.shape for dy_d in dy]}, expected a tuple of two of shape {shape}")
        return dy
    dy = np.asarray(dy)
    if dy.shape != shape:
        raise ValueError(f"dy has shape {dy.shape}, expected {shape}")
    return dy


# What comes in ----------------------------------------------------------------------------------


def _sizes(cell, parameters):
    """H and P, off the shapes of layer 0."""
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in parameters:
            raise ValueError(f"parameters have no {name}, expected PyTorch's names")
    P = np.shape(parameters["weight_hh_l0"])[-1]
    output = f"{cell.output}_l0"
    return (np.shape(parameters[output])[-1] if output in parameters else P), P


def _by_layer(cell, parameters, input_size, merge):
    """Split PyTorch's names into [layer][direction] -> {name without suffix: copy of the array}."""
    H, P = _sizes(cell, parameters)
    suffixes = ("", "_reverse") if "weight_ih_l0_reverse" in parameters else ("",)
    layers = []
    while any(f"weight_ih_l{len(layers)}{suffix}" in parameters for suffix in suffixes):
        width = input_size if not layers else _merged_width(P, len(suffixes), merge)
        directions = []
        for suffix in suffixes:
            weights = {}
            for name, shape in cell.shapes(H, P, width).items():
                key = f"{name}_l{len(layers)}{suffix}"
                # layer 0 decides whether there are peepholes and a projection
                optional = name in ("bias_ih", "bias_hh", "bias_ho") or (
                    name in ("weight_peephole", "weight_hr") and f"{name}_l0" not in parameters
                )
                if key in parameters:
                    weights[name] = np.array(parameters[key])
                    if weights[name].shape != shape:
                        raise ValueError(
                            f"{key} has shape {weights[name].shape}, expected {shape} with "
                            f"input_size={input_size}, hidden_size={H}"
                        )
                elif not optional:
                    raise ValueError(f"parameters have no {key}")
            directions.append(weights)
        layers.append(directions)

    unexpected = sorted(set(parameters) - set(_by_name(layers)))
    if unexpected:
        raise ValueError(f"parameters have unexpected names: {', '.join(unexpected)}")
    return layers


def _by_name(layers):
    """The inverse of :func:`_by_layer`: PyTorch's names."""
    return {
        f"{name}_l{k}{'_reverse' if d == 1 else ''}": value
        for k, directions in enumerate(layers)
        for d, weights in enumerate(directions)
        for name, value in weights.items()
    }


def _states(cell, state, argument, shapes, dtype):
    """The arrays of a state or its gradient, zeros if None; (L*D, B, P), (L*D, B, H)."""
    if state is None:
        return [np.zeros(shape, dtype) for shape in shapes]
    arrays = [np.asarray(s, dtype) for s in _arrays(cell, state)]
    if [s.shape for s in arrays] != shapes:
        expected = "one array" if cell.num_states == 1 else f"{cell.num_states} arrays"
        wanted = " and ".join(str(shape) for shape in dict.fromkeys(shapes))
        raise ValueError(f"{argument} has shapes {[s.shape for s in arrays]}, expected {expected} of shape {wanted}")
    return arrays


def _arrays(cell, state):
    """The arrays of a state that a caller gave; none if it is None."""
    if state is None:
        return ()
    return (np.asarray(state),) if cell.num_states == 1 else state


def _state(arrays):
    """The state as callers see it: a tuple (h, c), or the array h alone."""
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


def _padding(padding):
    """A number, or "repeat"."""
    if isinstance(padding, str) and padding not in ("zero", "repeat"):
        raise ValueError(f"padding is {padding!r}, expected 'zero', 'repeat' or a number")
    if padding == "repeat":
        return padding
    return 0.0 if padding == "zero" else float(padding)


def _valid(lengths, mask, T, B):
    """(T, B), True where a row has a step."""
    valid = np.arange(T)[:, None] < _lengths(lengths, T, B)
    if mask is None:
        return valid
    mask = np.asarray(mask)
    if mask.shape != (B, T):
        raise ValueError(f"mask has shape {mask.shape}, expected (batch={B}, seq_len={T})")
    if mask.dtype != bool:
        raise TypeError(f"mask has dtype {mask.dtype}, expected bool")
    return valid & mask.T


def _lengths(lengths, T, B):
    """Valid steps per row, (B,); all of T if None."""
    if lengths is None:
        return np.full(B, T)
    array = np.asarray(lengths)
    if array.shape != (B,):
        raise ValueError(f"lengths has shape {array.shape}, expected (batch={B},)")
    if B == 0:
        return np.full(0, T)  # np.asarray([]) is of a float dtype
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"lengths has dtype {array.dtype}, expected integers")
    if array.min() < 0 or array.max() > T:
        raise ValueError(f"lengths is {array.tolist()}, expected 0 to seq_len={T} each")
    return array


def _masks(dropout_masks, L, shape):
    """One mask or None per layer; the last layer has none."""
    if dropout_masks is None:
        return [None] * L
    masks = [np.array(mask) for mask in dropout_masks]
    if [mask.shape for mask in masks] != [shape] * (L - 1):
        raise ValueError(
            f"dropout_masks has shapes {[mask.shape for mask in masks]}, "
            f"expected num_layers - 1 = {L - 1} arrays of shape {shape}"
        )
    return [*masks, None]


def _noise(noise, layers, T, state_shapes, dtype):
    """A :class:`_Noise` for each direction of each layer, [layer][direction]."""
    noise = dict(noise or {})
    D, B = len(layers[0]), state_shapes[0][1]
    count = len(layers) * D
    zoneouts = ("zoneout_h", "zoneout_c")[: len(state_shapes)]

    def take(name):
        """The entry of each layer and direction."""
        entry = noise.pop(name, None)
        entries = [entry] * count if entry is None or np.isscalar(entry) else list(entry)
        if len(entries) != count:
            raise ValueError(f"noise[{name!r}] has {len(entries)} entries, expected {count}")
        return entries

    def multiplier(name, value, shape):
        if value is None:
            return np.ones((shape[0], 1), dtype)
        if np.shape(value) != shape:
            raise ValueError(f"noise[{name!r}] has an array of shape {np.shape(value)}, expected {shape}")
        return np.array(value, dtype)

    def fraction(value, shape):
        return None if value is None else np.broadcast_to(np.array(value, dtype), (T, *shape[1:]))

    inputs, recurrents, weights_hh = take("input"), take("recurrent"), take("weight_hh")
    ks = [take(name) for name in zoneouts]
    if noise:
        raise ValueError(f"noise has unexpected names: {', '.join(sorted(noise))}")
    result = []
    for k, directions in enumerate(layers):
        result.append([])
        for d, weights in enumerate(directions):
            n = k * D + d
            weight_hh = weights["weight_hh"]
            result[k].append(
                _Noise(
                    multiplier("input", inputs[n], (B, weights["weight_ih"].shape[1])),
                    multiplier("recurrent", recurrents[n], (B, weight_hh.shape[1])),
                    multiplier("weight_hh", weights_hh[n], weight_hh.shape),
                    [fraction(entries[n], shape) for entries, shape in zip(ks, state_shapes, strict=True)],
                )
            )
    return result


# Layers without a state -------------------------------------------------------------------------


def dense_forward(x, weight, bias=None, activation=None):
    """A dense layer over the last axis: y = activation(W x + b).

    Parameters
    ----------
    x : ndarray, shape (..., in_features)
    weight : ndarray, shape (out_features, in_features)
    bias : ndarray, shape (out_features,), optional
    activation : str or tuple, optional
        "softmax", over the last axis, or as in :func:`rnn_cell`.

    Returns
    -------
    y : ndarray, shape (..., out_features)
    cache : object
        For :func:`dense_backward`.

    Raises
    ------
    ValueError
        If a shape is wrong, or there is no such activation.

    Examples
    --------
    >>> y, cache = dense_forward(np.array([1.0, 2.0]), np.array([[3.0, -4.0]]), np.array([6.0]))
    >>> y.tolist()
    [1.0]
    """
    x = np.asarray(x)
    if np.ndim(weight) != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x has shape {x.shape} and weight {np.shape(weight)}, "
            "expected (..., in_features) and (out_features, in_features)"
        )
    if bias is not None and np.shape(bias) != weight.shape[:1]:
        raise ValueError(f"bias has shape {np.shape(bias)}, expected {weight.shape[:1]}")
    z = x @ weight.T
    if bias is not None:
        z = z + bias
    y = softmax(z) if activation == "softmax" else _activation(activation or "linear").function(z)
    return y, (x, weight, bias, activation, z)


def dense_backward(cache, dy):
    """Gradients of :func:`dense_forward`.

    Parameters
    ----------
    cache : object
        The one :func:`dense_forward` returned; it refers to the arrays given there.
    dy : ndarray, shape (..., out_features)

    Returns
    -------
    Gradients
        ``dx`` (..., in_features); ``dstate`` None; ``parameters``, a dict with ``weight`` and, if
        there is one, ``bias``.

    Raises
    ------
    ValueError
        If ``dy`` is not shaped like ``y``.

    Notes
    -----
    With z = W x + b and the rows of all leading axes summed::

        dz = activation'(z) dy,  dx = W^T dz,  dW = dz x^T,  db = dz

    The derivative of relu at 0 is taken as 0.

    Examples
    --------
    >>> y, cache = dense_forward(np.array([[1.0, 2.0]]), np.array([[3.0, -4.0]]), np.array([6.0]))
    >>> gradients = dense_backward(cache, np.array([[1.0]]))
    >>> gradients.dx.tolist(), gradients.parameters["weight"].tolist()
    ([[3.0, -4.0]], [[1.0, 2.0]])
    """
    x, weight, bias, activation, z = cache
    if np.shape(dy) != z.shape:
        raise ValueError(f"dy has shape {np.shape(dy)}, expected {z.shape}")
    if activation == "softmax":
        y = softmax(z)
        dz = y * (dy - np.sum(dy * y, axis=-1, keepdims=True))  # dy_j/dz_k = y_j (delta_jk - y_k)
    else:
        dz = dy * _activation(activation or "linear").derivative(z)
    dx = dz @ weight
    out_features, in_features = weight.shape
    rows = dz.reshape(-1, out_features)  # (N, out), N the product of the leading axes
    parameters = {"weight": rows.T @ x.reshape(-1, in_features)}
    if bias is not None:
        parameters["bias"] = rows.sum(axis=0)
    return Gradients(dx, None, parameters)


def layer_norm_forward(x, weight, bias, eps=1e-5):
    """Layer normalisation over the last axis [9]_::

        y = weight n + bias,  n = (x - mean(x)) / sqrt(var(x) + eps),  var with 1 / features

    Parameters
    ----------
    x : ndarray, shape (..., features)
    weight, bias : ndarray, shape (features,)
    eps : float

    Returns
    -------
    y : ndarray, shape (..., features)
    cache : object
        For :func:`layer_norm_backward`.

    Examples
    --------
    >>> y, cache = layer_norm_forward(np.array([[3.0, 5.0]]), np.array([1.0, 2.0]), np.zeros(2), eps=0)
    >>> y.tolist()
    [[-1.0, 2.0]]
    """
    x = np.asarray(x)
    n = _normalize(x.reshape(-1, x.shape[-1]), eps).reshape(x.shape)
    return weight * n + bias, (x, weight, eps)


def layer_norm_backward(cache, dy):
    """Gradients of :func:`layer_norm_forward`.

    Parameters
    ----------
    cache : object
        The one :func:`layer_norm_forward` returned; it refers to the arrays given there.
    dy : ndarray, shape (..., features)

    Returns
    -------
    Gradients
        ``dx`` (..., features); ``dstate`` None; ``parameters``, a dict with ``weight`` and ``bias``.

    Examples
    --------
    >>> y, cache = layer_norm_forward(np.array([[3.0, 5.0]]), np.array([1.0, 2.0]), np.zeros(2), eps=0)
    >>> layer_norm_backward(cache, np.array([[1.0, 1.0]])).parameters["weight"].tolist()
    [-1.0, 1.0]
    """
    x, weight, eps = cache
    rows, drows = (array.reshape(-1, x.shape[-1]) for array in (x, dy))
    dx = _normalize_backward(drows * weight, rows, eps).reshape(x.shape)
    parameters = {"weight": (drows * _normalize(rows, eps)).sum(axis=0), "bias": drows.sum(axis=0)}
    return Gradients(dx, None, parameters)
