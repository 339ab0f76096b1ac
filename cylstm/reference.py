"""The NumPy reference: what cylstm computes, written to be checked by eye.

Plain NumPy in whatever float dtype it is given, time-major, slow on purpose. The compiled layers
are held against it, and so may any other model be that uses PyTorch's names and gate order.

One cell (LSTM, GRU, RNN) is one pair of functions, ``*_cell`` and ``*_cell_backward``; the loops
over layers, directions and time (``_forward``, ``_backward``) know no cell, so another cell is
another pair. The state of an LSTM is the tuple (h, c); that of a GRU or an RNN is the array h.
Imports nothing from cylstm: an oracle that shares code with what it judges would share its bugs.

T seq_len, B batch, I input_size, H hidden_size, L num_layers, D directions.

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
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

__all__ = [
    "Gradients",
    "dense_backward",
    "dense_forward",
    "gru_backward",
    "gru_cell",
    "gru_cell_backward",
    "gru_forward",
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
        Shaped like ``state``: the tuple (dh_0, dc_0) of an LSTM, the array dh_0 of a GRU or an
        RNN. None for a layer without a state.
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


# name -> (y of z, dz of y and dy); each derivative is written in terms of y = activation(z).
_ACTIVATIONS = {
    None: (lambda z: z, lambda y, dy: dy),
    "relu": (relu, lambda y, dy: np.where(y <= 0, np.zeros_like(dy), dy)),
    "tanh": (np.tanh, lambda y, dy: dy * (1 - y**2)),
    "sigmoid": (sigmoid, lambda y, dy: dy * y * (1 - y)),
    # dy_j/dz_k = y_j (delta_jk - y_k)
    "softmax": (softmax, lambda y, dy: y * (dy - np.sum(dy * y, axis=-1, keepdims=True))),
}


# LSTM: one step ---------------------------------------------------------------------------------


def lstm_cell(x, h, c, weight_ih, weight_hh, bias_ih=None, bias_hh=None):
    """One time step of one LSTM layer.

    Parameters
    ----------
    x : ndarray, shape (batch, input_size)
    h, c : ndarray, shape (batch, hidden_size)
        The state before the step.
    weight_ih : ndarray, shape (4*hidden_size, input_size)
        Rows in the order of the gates: i, f, g, o.
    weight_hh : ndarray, shape (4*hidden_size, hidden_size)
    bias_ih, bias_hh : ndarray, shape (4*hidden_size,), optional
        Each is left out of the sum if None.

    Returns
    -------
    h, c : ndarray, shape (batch, hidden_size)
        The state after the step.
    gates : ndarray, shape (batch, 4*hidden_size)
        The activations i|f|g|o, for :func:`lstm_cell_backward`.

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

    Examples
    --------
    >>> x, h, c = np.zeros((1, 2)), np.zeros((1, 1)), np.full((1, 1), 8.0)
    >>> h, c, gates = lstm_cell(x, h, c, np.zeros((4, 2)), np.zeros((4, 1)))
    >>> gates.tolist(), c.tolist()              # i = f = o = 1/2, g = 0: half of c is forgotten
    ([[0.5, 0.5, 0.0, 0.5]], [[4.0]])
    """
    a = x @ weight_ih.T + h @ weight_hh.T
    for bias in (bias_ih, bias_hh):
        if bias is not None:
            a = a + bias
    a_i, a_f, a_g, a_o = _blocks(a, 4)
    i = sigmoid(a_i)
    f = sigmoid(a_f)
    g = np.tanh(a_g)
    o = sigmoid(a_o)
    c_next = f * c + i * g
    h_next = o * np.tanh(c_next)
    return h_next, c_next, np.concatenate([i, f, g, o], axis=1)


def lstm_cell_backward(
    dh_next, dc_next, x, h, c, gates, weight_ih, weight_hh, bias_ih=None, bias_hh=None
):
    """Gradients of one step of :func:`lstm_cell`.

    Parameters
    ----------
    dh_next, dc_next : ndarray, shape (batch, hidden_size)
        Gradients with respect to the state after the step, from everything that used it.
    x : ndarray, shape (batch, input_size)
    h, c : ndarray, shape (batch, hidden_size)
        The state before the step.
    gates : ndarray, shape (batch, 4*hidden_size)
        The activations i|f|g|o that :func:`lstm_cell` returned.
    weight_ih, weight_hh, bias_ih, bias_hh
        As they were given to :func:`lstm_cell`.

    Returns
    -------
    dx : ndarray, shape (batch, input_size)
    dh, dc : ndarray, shape (batch, hidden_size)
        Gradients with respect to the state before the step.
    parameters : dict of str to ndarray
        ``weight_ih``, ``weight_hh`` and those of ``bias_ih``, ``bias_hh`` that were given, summed
        over the batch.

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
    """
    i, f, g, o = _blocks(gates, 4)
    tanh_c = np.tanh(f * c + i * g)

    do = dh_next * tanh_c
    dc_next = dc_next + dh_next * o * (1 - tanh_c**2)
    di = dc_next * g
    df = dc_next * c
    dg = dc_next * i
    dc = dc_next * f
    da_i = di * i * (1 - i)
    da_f = df * f * (1 - f)
    da_g = dg * (1 - g**2)
    da_o = do * o * (1 - o)

    da = np.concatenate([da_i, da_f, da_g, da_o], axis=1)  # (B, 4H)
    dx = da @ weight_ih
    dh = da @ weight_hh
    parameters = {"weight_ih": da.T @ x, "weight_hh": da.T @ h}
    if bias_ih is not None:
        parameters["bias_ih"] = da.sum(axis=0)
    if bias_hh is not None:
        parameters["bias_hh"] = da.sum(axis=0)
    return dx, dh, dc, parameters


# GRU: one step ----------------------------------------------------------------------------------


def gru_cell(x, h, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, reset_after=True):
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

        r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        h' = (1 - z) * n + z * h

    and with ``reset_after``::

        q  = W_hn h + b_hn
        n  = tanh(W_in x + b_in + r * q)

    without::

        q  = r * h
        n  = tanh(W_in x + b_in + W_hn q + b_hn)

    Examples
    --------
    >>> x, h = np.zeros((1, 2)), np.full((1, 1), 8.0)
    >>> h, gates = gru_cell(x, h, np.zeros((3, 2)), np.zeros((3, 1)))
    >>> gates.tolist(), h.tolist()                        # r = z = 1/2, n = 0: half of h is kept
    ([[0.5, 0.5, 0.0, 0.0]], [[4.0]])
    """
    x_r, x_z, x_n = _blocks(_affine(x, weight_ih, bias_ih), 3)
    W_hr, W_hz, W_hn = np.split(weight_hh, 3)
    b_hr, b_hz, b_hn = [None] * 3 if bias_hh is None else np.split(bias_hh, 3)
    r = sigmoid(x_r + _affine(h, W_hr, b_hr))
    z = sigmoid(x_z + _affine(h, W_hz, b_hz))
    if reset_after:
        q = _affine(h, W_hn, b_hn)
        n = np.tanh(x_n + r * q)
    else:
        q = r * h
        n = np.tanh(x_n + _affine(q, W_hn, b_hn))
    h_next = (1 - z) * n + z * h
    return h_next, np.concatenate([r, z, n, q], axis=1)


def gru_cell_backward(
    dh_next, x, h, gates, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, reset_after=True
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
    weight_ih, weight_hh, bias_ih, bias_hh, reset_after
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
        da_z  = dz * z * (1 - z)                    sigmoid' = sigmoid (1 - sigmoid)
        da_n  = dn * (1 - n^2)                      tanh'    = 1 - tanh^2

    With ``reset_after``, through q = W_hn h + b_hn::

        dr    = da_n * q
        dq    = da_n * r
        dW_hn = dq h^T,     db_hn = dq
        dh    = dh' * z + W_hn^T dq + W_hr^T da_r + W_hz^T da_z

    without, through q = r * h::

        dq    = W_hn^T da_n
        dr    = dq * h
        dW_hn = da_n q^T,   db_hn = da_n
        dh    = dh' * z + dq * r + W_hr^T da_r + W_hz^T da_z

    and with either::

        da_r  = dr * r * (1 - r)
        dx    = W_ih^T da
        dW_ih = da x^T,     db_ih = da
        dW_hr = da_r h^T,   db_hr = da_r
        dW_hz = da_z h^T,   db_hz = da_z
    """
    r, z, n, q = _blocks(gates, 4)
    W_hr, W_hz, W_hn = np.split(weight_hh, 3)

    dz = dh_next * (h - n)
    dn = dh_next * (1 - z)
    da_z = dz * z * (1 - z)
    da_n = dn * (1 - n**2)
    if reset_after:
        dr = da_n * q
        dq = da_n * r
        dW_hn, db_hn = dq.T @ h, dq
        dh_n = dq @ W_hn  # the part of dh that comes through n
    else:
        dq = da_n @ W_hn
        dr = dq * h
        dW_hn, db_hn = da_n.T @ q, da_n
        dh_n = dq * r
    da_r = dr * r * (1 - r)

    da = np.concatenate([da_r, da_z, da_n], axis=1)  # (B, 3H)
    dx = da @ weight_ih
    dh = dh_next * z + dh_n + da_r @ W_hr + da_z @ W_hz
    parameters = {
        "weight_ih": da.T @ x,
        "weight_hh": np.concatenate([da_r.T @ h, da_z.T @ h, dW_hn]),
    }
    if bias_ih is not None:
        parameters["bias_ih"] = da.sum(axis=0)
    if bias_hh is not None:
        parameters["bias_hh"] = np.concatenate([da_r, da_z, db_hn], axis=1).sum(axis=0)
    return dx, dh, parameters


# RNN: one step ----------------------------------------------------------------------------------


def rnn_cell(x, h, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, nonlinearity="tanh"):
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
    nonlinearity : {"tanh", "relu"}, optional

    Returns
    -------
    h : ndarray, shape (batch, hidden_size)
        The state after the step.
    gates : ndarray, shape (batch, hidden_size)
        The one activation, which is h, for :func:`rnn_cell_backward`.

    Raises
    ------
    ValueError
        If the nonlinearity is not one of those above.

    Notes
    -----
    The network is that of [5]_, h being its context units and h' its hidden units; the names are
    those of [3]_ (see the head of this module)::

        h' = nonlinearity(W_ih x + b_ih + W_hh h + b_hh)

    Examples
    --------
    >>> x, h = np.array([[1.0]]), np.array([[2.0]])
    >>> weights = {"weight_ih": np.array([[3.0]]), "weight_hh": np.array([[-1.0]])}
    >>> h, gates = rnn_cell(x, h, **weights, nonlinearity="relu")
    >>> h.tolist()
    [[1.0]]
    """
    activation, _ = _nonlinearity(nonlinearity)
    h_next = activation(_affine(x, weight_ih, bias_ih) + _affine(h, weight_hh, bias_hh))
    return h_next, h_next


def rnn_cell_backward(
    dh_next, x, h, gates, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, nonlinearity="tanh"
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
        The activation that :func:`rnn_cell` returned.
    weight_ih, weight_hh, bias_ih, bias_hh, nonlinearity
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
        If the nonlinearity is neither "tanh" nor "relu".

    Notes
    -----
    The derivative of the equation of :func:`rnn_cell`; a is what the nonlinearity is taken of::

        da    = dh' * (1 - h'^2)                    tanh' = 1 - tanh^2
        da    = dh' where h' > 0, else 0            relu, its derivative at 0 taken as 0
        dx    = W_ih^T da,  dh = W_hh^T da
        dW_ih = da x^T,     dW_hh = da h^T,         db_ih = db_hh = da
    """
    _, derivative = _nonlinearity(nonlinearity)
    da = derivative(gates, dh_next)  # (B, H)
    dx = da @ weight_ih
    dh = da @ weight_hh
    parameters = {"weight_ih": da.T @ x, "weight_hh": da.T @ h}
    if bias_ih is not None:
        parameters["bias_ih"] = da.sum(axis=0)
    if bias_hh is not None:
        parameters["bias_hh"] = da.sum(axis=0)
    return dx, dh, parameters


def _nonlinearity(name):
    """An RNN's activation and its derivative."""
    if name not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity is {name!r}, expected 'tanh' or 'relu'")
    return _ACTIVATIONS[name]


# What cells share -------------------------------------------------------------------------------


def _affine(x, weight, bias):
    """W x + b of each row, without b if it is None."""
    return x @ weight.T if bias is None else x @ weight.T + bias


def _blocks(a, count):
    """The gates of a (B, count*H) array, each (B, H)."""
    return np.split(a, count, axis=1)


# LSTM: layers, directions, time -----------------------------------------------------------------


def lstm_forward(parameters, x, state=None, *, lengths=None, dropout_masks=None):
    """Run a stack of LSTM layers over a batch of sequences.

    The number of layers, the directions and the biases are read off the names in ``parameters``.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        PyTorch's names and shapes: ``weight_ih_l{k}`` (4*hidden_size, input_size or
        num_directions*hidden_size), ``weight_hh_l{k}`` (4*hidden_size, hidden_size) and, each
        optional, ``bias_ih_l{k}`` and ``bias_hh_l{k}`` (4*hidden_size,), with ``_reverse``
        appended for the second direction. Copied, so that later edits do not reach the cache.
    x : ndarray, shape (seq_len, batch, input_size)
    state : tuple (h_0, c_0), optional
        Each (num_layers * num_directions, batch, hidden_size), in the order layer 0 forward,
        layer 0 reverse, layer 1 forward, ... Zeros if omitted.
    lengths : array_like of int, shape (batch,), optional
        Valid steps per sequence, 0 to seq_len, in any order. Past its length a sequence outputs
        zeros, whatever ``x`` holds there (NaN too) reaches nothing, and its final state is that of
        its last valid step, at which the reverse direction begins. A length of 0 returns the
        initial state.
    dropout_masks : sequence of num_layers - 1 ndarrays, optional
        Each (seq_len, batch, num_directions*hidden_size), multiplied onto the output of one layer,
        in order, the last layer excepted. Already scaled: 0 or 1 / (1 - dropout).

    Returns
    -------
    y : ndarray, shape (seq_len, batch, num_directions*hidden_size)
        Forward direction first.
    state : tuple (h_n, c_n)
        Shaped like ``state``; new arrays.
    cache : object
        For :func:`lstm_backward`, which may use it any number of times.

    Raises
    ------
    ValueError
        If a name is missing or unexpected, or a shape or a length is wrong; the message gives the
        one expected.
    TypeError
        If ``lengths`` are not integers.

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
    return _forward(_LSTM, parameters, x, state, lengths, dropout_masks)


def lstm_backward(cache, dy, dstate=None):
    """Gradients of :func:`lstm_forward`: backpropagation through the whole of time.

    Parameters
    ----------
    cache : object
        The one :func:`lstm_forward` returned.
    dy : ndarray, shape (seq_len, batch, num_directions*hidden_size), or None
        Gradient of the loss with respect to ``y``; zero if None. What it holds past a
        sequence's length (NaN too) reaches nothing.
    dstate : tuple (dh_n, dc_n), optional
        Gradient with respect to the final state, shaped like it. Zeros if omitted.

    Returns
    -------
    Gradients
        ``dx`` (seq_len, batch, input_size), zero past a sequence's length; ``dstate``, the tuple
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


def gru_forward(parameters, x, state=None, *, reset_after=True, lengths=None, dropout_masks=None):
    """Run a stack of GRU layers over a batch of sequences.

    The number of layers, the directions and the biases are read off the names in ``parameters``.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        PyTorch's names and shapes: ``weight_ih_l{k}`` (3*hidden_size, input_size or
        num_directions*hidden_size), ``weight_hh_l{k}`` (3*hidden_size, hidden_size) and, each
        optional, ``bias_ih_l{k}`` and ``bias_hh_l{k}`` (3*hidden_size,), with ``_reverse``
        appended for the second direction. Copied, so that later edits do not reach the cache.
    x : ndarray, shape (seq_len, batch, input_size)
    state : ndarray h_0, shape (num_layers * num_directions, batch, hidden_size), optional
        In the order layer 0 forward, layer 0 reverse, layer 1 forward, ... Zeros if omitted.
    reset_after : bool, optional
        Where the reset gate stands, see :func:`gru_cell`.
    lengths, dropout_masks
        As in :func:`lstm_forward`.

    Returns
    -------
    y : ndarray, shape (seq_len, batch, num_directions*hidden_size)
        Forward direction first.
    state : ndarray h_n
        Shaped like ``state``; a new array.
    cache : object
        For :func:`gru_backward`, which may use it any number of times.

    Raises
    ------
    ValueError
        If a parameter is missing or unexpected, or a shape or a length is wrong; the message gives
        the one expected.
    TypeError
        If ``lengths`` are not integers.

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
    return _forward(_gru(reset_after), parameters, x, state, lengths, dropout_masks)


def gru_backward(cache, dy, dstate=None):
    """Gradients of :func:`gru_forward`: backpropagation through the whole of time.

    Parameters
    ----------
    cache : object
        The one :func:`gru_forward` returned.
    dy : ndarray, shape (seq_len, batch, num_directions*hidden_size), or None
        Gradient of the loss with respect to ``y``; zero if None. What it holds past a
        sequence's length (NaN too) reaches nothing.
    dstate : ndarray dh_n, optional
        Gradient with respect to the final state, shaped like it. Zeros if omitted.

    Returns
    -------
    Gradients
        ``dx`` (seq_len, batch, input_size), zero past a sequence's length; ``dstate``, the array
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
    parameters, x, state=None, *, nonlinearity="tanh", lengths=None, dropout_masks=None
):
    """Run a stack of RNN layers over a batch of sequences.

    The number of layers, the directions and the biases are read off the names in ``parameters``.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        PyTorch's names and shapes: ``weight_ih_l{k}`` (hidden_size, input_size or
        num_directions*hidden_size), ``weight_hh_l{k}`` (hidden_size, hidden_size) and, each
        optional, ``bias_ih_l{k}`` and ``bias_hh_l{k}`` (hidden_size,), with ``_reverse`` appended
        for the second direction. Copied, so that later edits do not reach the cache.
    x : ndarray, shape (seq_len, batch, input_size)
    state : ndarray h_0, shape (num_layers * num_directions, batch, hidden_size), optional
        In the order layer 0 forward, layer 0 reverse, layer 1 forward, ... Zeros if omitted.
    nonlinearity : {"tanh", "relu"}, optional
    lengths, dropout_masks
        As in :func:`lstm_forward`.

    Returns
    -------
    y : ndarray, shape (seq_len, batch, num_directions*hidden_size)
        Forward direction first.
    state : ndarray h_n
        Shaped like ``state``; a new array.
    cache : object
        For :func:`rnn_backward`, which may use it any number of times.

    Raises
    ------
    ValueError
        If a parameter is missing or unexpected, a shape or a length is wrong, or the nonlinearity
        is not one of those above; the message gives the one expected.
    TypeError
        If ``lengths`` are not integers.

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
    return _forward(_rnn(nonlinearity), parameters, x, state, lengths, dropout_masks)


def rnn_backward(cache, dy, dstate=None):
    """Gradients of :func:`rnn_forward`: backpropagation through the whole of time.

    Parameters
    ----------
    cache : object
        The one :func:`rnn_forward` returned.
    dy : ndarray, shape (seq_len, batch, num_directions*hidden_size), or None
        Gradient of the loss with respect to ``y``; zero if None. What it holds past a
        sequence's length (NaN too) reaches nothing.
    dstate : ndarray dh_n, optional
        Gradient with respect to the final state, shaped like it. Zeros if omitted.

    Returns
    -------
    Gradients
        ``dx`` (seq_len, batch, input_size), zero past a sequence's length; ``dstate``, the array
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


# Layers, directions, time, of any cell ----------------------------------------------------------


class _Cell(NamedTuple):
    """What the loops need to know of a cell.

    step            (x, *state, **weights) -> (*state, gates), h the first of state
    step_backward   (*dstate, x, *state, gates, **weights) -> (dx, *dstate, parameters)
    """

    step: Callable
    step_backward: Callable
    num_gates: int
    num_states: int


_LSTM = _Cell(lstm_cell, lstm_cell_backward, num_gates=4, num_states=2)


def _gru(reset_after):
    """A GRU's :class:`_Cell`."""
    step = partial(gru_cell, reset_after=reset_after)
    step_backward = partial(gru_cell_backward, reset_after=reset_after)
    return _Cell(step, step_backward, num_gates=3, num_states=1)


def _rnn(nonlinearity):
    """An RNN's :class:`_Cell`."""
    _nonlinearity(nonlinearity)  # refused here if unknown: there may be no step that would do it
    step = partial(rnn_cell, nonlinearity=nonlinearity)
    step_backward = partial(rnn_cell_backward, nonlinearity=nonlinearity)
    return _Cell(step, step_backward, num_gates=1, num_states=1)


class _Cache(NamedTuple):
    """What backward needs of a forward pass; all lists are [layer][direction]."""

    cell: _Cell
    layers: list  # the weights of one direction of one layer, by their names without suffix
    steps: list  # what _run returned of each step
    dropout_masks: list  # [layer], None where there is none
    x_shape: tuple  # (T, B, I)
    y_shape: tuple  # (T, B, D*H)
    state_shape: tuple  # (L*D, B, H)
    dtype: np.dtype


def _forward(cell, parameters, x, state, lengths, dropout_masks):
    """All layers and directions, one after the other."""
    x = np.asarray(x)
    if x.ndim != 3:
        raise ValueError(f"x has shape {x.shape}, expected (seq_len, batch, input_size)")
    T, B, input_size = x.shape
    layers = _by_layer(cell, parameters, input_size)
    L, D = len(layers), len(layers[0])
    H = layers[0][0]["weight_hh"].shape[1]

    arrays = [x, *(w for directions in layers for weights in directions for w in weights.values())]
    dtype = np.result_type(*arrays, *_arrays(cell, state))
    state_0 = _states(cell, state, "state", (L * D, B, H), dtype)
    lengths = _lengths(lengths, T, B)
    masks = _masks(dropout_masks, L, (T, B, D * H))

    state_n = [np.empty_like(s) for s in state_0]
    steps = []
    y = x
    for k, directions in enumerate(layers):
        runs = []
        for d, weights in enumerate(directions):
            before = [s[k * D + d] for s in state_0]
            y_d, after, steps_d = _run(cell, weights, y, before, lengths, d == 1, dtype)
            for s, value in zip(state_n, after, strict=True):
                s[k * D + d] = value
            runs.append((y_d, steps_d))
        y = np.concatenate([y_d for y_d, _ in runs], axis=2)
        steps.append([steps_d for _, steps_d in runs])
        if masks[k] is not None:
            y = y * masks[k]

    cache = _Cache(cell, layers, steps, masks, x.shape, y.shape, (L * D, B, H), dtype)
    return y, _state(state_n), cache


def _run(cell, weights, x, state, lengths, reverse, dtype):
    """One direction of one layer over all of time.

    A row takes part in the steps t < lengths[b]. Walking t downwards it joins at its own last
    valid step, walking upwards it leaves after it; either way its state rests otherwise.
    """
    T, B, _ = x.shape
    y = np.zeros((T, B, state[0].shape[1]), dtype)  # (T, B, H)
    state = [s.copy() for s in state]  # (B, H) each
    steps = []
    for t in reversed(range(T)) if reverse else range(T):
        rows = np.flatnonzero(t < lengths)
        x_t = x[t, rows]
        before = [s[rows] for s in state]
        *after, gates = cell.step(x_t, *before, **weights)
        for s, value in zip(state, after, strict=True):
            s[rows] = value
        y[t, rows] = after[0]
        steps.append((t, rows, x_t, before, gates))
    return y, state, steps


def _backward(cache, dy, dstate):
    """All layers and directions, last layer first."""
    if dy is None and dstate is None:
        raise ValueError("dy and dstate are both None, expected at least one of them")
    cell, dtype = cache.cell, cache.dtype
    dy = np.zeros(cache.y_shape, dtype) if dy is None else np.asarray(dy)
    if dy.shape != cache.y_shape:
        raise ValueError(f"dy has shape {dy.shape}, expected {cache.y_shape}")
    dstate_n = _states(cell, dstate, "dstate", cache.state_shape, dtype)

    dstate_0 = [np.empty_like(s) for s in dstate_n]
    gradients = [[{} for _ in directions] for directions in cache.layers]
    T, B, _ = cache.x_shape
    H = cache.state_shape[2]
    for k, directions in reversed(list(enumerate(cache.layers))):
        if cache.dropout_masks[k] is not None:
            dy = dy * cache.dropout_masks[k]
        D = len(directions)
        dx = np.zeros((T, B, directions[0]["weight_ih"].shape[1]), dtype)
        for d, weights in enumerate(directions):
            dafter = [s[k * D + d] for s in dstate_n]
            dy_d = dy[:, :, d * H : (d + 1) * H]
            dx_d, dbefore, gradients[k][d] = _run_backward(
                cell, weights, cache.steps[k][d], dx.shape, dy_d, dafter
            )
            dx += dx_d
            for s, value in zip(dstate_0, dbefore, strict=True):
                s[k * D + d] = value
        dy = dx  # of this layer's input, which is the output of the layer below
    return Gradients(dy, _state(dstate_0), _by_name(gradients))


def _run_backward(cell, weights, steps, x_shape, dy, dstate):
    """One direction of one layer: the steps that :func:`_run` took, from the last to the first."""
    dx = np.zeros(x_shape, dstate[0].dtype)  # (T, B, I)
    dstate = [s.copy() for s in dstate]  # (B, H) each
    dweights = {name: np.zeros(w.shape, dx.dtype) for name, w in weights.items()}
    for t, rows, x_t, before, gates in reversed(steps):
        dafter = [s[rows] for s in dstate]
        dafter[0] = dafter[0] + dy[t, rows]  # y[t] is h after the step
        dx_t, *dbefore, dw = cell.step_backward(*dafter, x_t, *before, gates, **weights)
        dx[t, rows] = dx_t
        for s, value in zip(dstate, dbefore, strict=True):
            s[rows] = value
        for name in dweights:
            dweights[name] += dw[name]
    return dx, dstate, dweights


def _by_layer(cell, parameters, input_size):
    """Split PyTorch's names into [layer][direction] -> {name without suffix: copy of the array}."""
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in parameters:
            raise ValueError(f"parameters have no {name}, expected PyTorch's names")
    H = np.shape(parameters["weight_hh_l0"])[-1]
    suffixes = ("", "_reverse") if "weight_ih_l0_reverse" in parameters else ("",)
    layers = []
    while any(f"weight_ih_l{len(layers)}{suffix}" in parameters for suffix in suffixes):
        width = input_size if not layers else len(suffixes) * H
        shapes = {
            "weight_ih": (cell.num_gates * H, width),
            "weight_hh": (cell.num_gates * H, H),
            "bias_ih": (cell.num_gates * H,),
            "bias_hh": (cell.num_gates * H,),
        }
        directions = []
        for suffix in suffixes:
            weights = {}
            for name, shape in shapes.items():
                key = f"{name}_l{len(layers)}{suffix}"
                if key in parameters:
                    weights[name] = np.array(parameters[key])
                    if weights[name].shape != shape:
                        raise ValueError(
                            f"{key} has shape {weights[name].shape}, expected {shape} with "
                            f"input_size={input_size}, hidden_size={H}"
                        )
                elif not name.startswith("bias"):
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


def _states(cell, state, argument, shape, dtype):
    """The arrays of a state or its gradient, zeros if None; each (L*D, B, H)."""
    if state is None:
        return [np.zeros(shape, dtype) for _ in range(cell.num_states)]
    arrays = [np.asarray(s, dtype) for s in _arrays(cell, state)]
    if [s.shape for s in arrays] != [shape] * cell.num_states:
        expected = "one array" if cell.num_states == 1 else f"{cell.num_states} arrays"
        raise ValueError(
            f"{argument} has shapes {[s.shape for s in arrays]}, "
            f"expected {expected} of shape {shape}"
        )
    return arrays


def _arrays(cell, state):
    """The arrays of a state that a caller gave; none if it is None."""
    if state is None:
        return ()
    return (np.asarray(state),) if cell.num_states == 1 else state


def _state(arrays):
    """The state as callers see it: a tuple (h, c), or the array h alone."""
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


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


# Dense ------------------------------------------------------------------------------------------


def dense_forward(x, weight, bias=None, activation=None):
    """A dense layer over the last axis: y = activation(W x + b).

    Parameters
    ----------
    x : ndarray, shape (..., in_features)
    weight : ndarray, shape (out_features, in_features)
    bias : ndarray, shape (out_features,), optional
    activation : {None, "relu", "tanh", "sigmoid", "softmax"}

    Returns
    -------
    y : ndarray, shape (..., out_features)
    cache : object
        For :func:`dense_backward`.

    Raises
    ------
    ValueError
        If a shape is wrong, or the activation is not one of those above.

    Examples
    --------
    >>> y, cache = dense_forward(np.array([1.0, 2.0]), np.array([[3.0, -4.0]]), np.array([6.0]))
    >>> y.tolist()
    [1.0]
    """
    x = np.asarray(x)
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, expected one of {list(_ACTIVATIONS)}")
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
    y = _ACTIVATIONS[activation][0](z)
    return y, (x, weight, bias, activation, y)


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
    x, weight, bias, activation, y = cache
    if np.shape(dy) != y.shape:
        raise ValueError(f"dy has shape {np.shape(dy)}, expected {y.shape}")
    dz = _ACTIVATIONS[activation][1](y, dy)
    dx = dz @ weight
    out_features, in_features = weight.shape
    rows = dz.reshape(-1, out_features)  # (N, out), N the product of the leading axes
    parameters = {"weight": rows.T @ x.reshape(-1, in_features)}
    if bias is not None:
        parameters["bias"] = rows.sum(axis=0)
    return Gradients(dx, None, parameters)
