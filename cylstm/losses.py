"""Losses: each returns its value and its gradient with respect to its first argument.

Every loss is a weighted mean over positions (all axes but the last), and one class, ``Positions``, turns
``sample_weight``, ``lengths`` and ``mask`` into what each position counts for: what a loss adds is its formula at one
position, and it is given no other than those that count. Metrics use the same class.

Knows arrays alone, no layer and no tape: a loss is for any array whose last axis is features or classes.

References
----------
.. [1] P. J. Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35(1), 1964.
.. [2] Keras 3, ``keras.ops.binary_crossentropy`` and ``keras.ops.categorical_crossentropy`` (where probabilities are
   clipped and when they are divided by their sum), https://keras.io/api/losses/probabilistic_losses/
"""

import functools
import math

import numpy as np

from . import validation
from ._core.crossentropy import are_classes, crossentropy

__all__ = [
    "binary_crossentropy",
    "categorical_crossentropy",
    "get",
    "huber",
    "mae",
    "mse",
    "sparse_categorical_crossentropy",
    "total_weight",
]


def _quiet(loss):
    """The loss without NumPy's warnings: one that overflows is infinite, and its gradient infinite or NaN."""
    quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")(loss)  # quicker than a with statement

    @functools.wraps(loss)
    def own(*args, **kwargs):  # a function of this module, so that doctest finds it
        return quiet(*args, **kwargs)

    return own


@_quiet
def mse(y_pred, target, sample_weight=None, lengths=None, *, mask=None, batch_first=False):
    """Mean squared error.

    Parameters
    ----------
    y_pred : ndarray, shape (..., features)
        float32 or float64.
    target : array_like, shaped like ``y_pred``
        Of any real dtype; converted to that of ``y_pred``. Where a position does not count it is not looked at.
    sample_weight : array_like, optional
        Not negative and finite. It belongs to the leading axes of ``y_pred`` from the left, the last axis excepted, and
        is broadcast over the others: for y_pred (seq_len, batch, features) a weight may have the shape (seq_len,
        batch), or (1, batch) for one per sequence, or (seq_len,) or (seq_len, 1) for one per time step, or () for the
        same everywhere. So (batch,) is *not* one weight per sequence of a time-major array, but it is that of y_pred
        (batch, features) and (batch, seq_len, features).
    lengths : array_like of int, shape (batch,), optional
        Valid steps per sequence, 0 to seq_len: step t of sequence b counts if t < lengths[b]. ``y_pred`` is then
        (seq_len, batch, features), or (batch, seq_len, features) if ``batch_first``; or (seq_len, features), and the
        length an integer.
    mask : ndarray of bool, shaped like ``y_pred`` without its last axis, optional
        Where positions count: (seq_len, batch), or (batch, seq_len) if ``batch_first``. With ``lengths`` too, both must
        hold.
    batch_first : bool, default False

    Returns
    -------
    value : scalar of the dtype of ``y_pred``
        With w the weight of a position, 0 past a length and where the mask is False, otherwise 1 if ``sample_weight``
        is omitted::

            value = sum w (y_pred - target)^2 / (features * sum w)

        A weight of 2 counts as two copies of its position, a weight of 0 as if it were not there. With no valid
        position, or no feature, the value and the gradient are zero. The sum is taken in float64. Where it overflows
        the value is infinite or NaN, without a warning.
    gradient : ndarray, shaped like ``y_pred`` and of its dtype
        d value / d y_pred = 2 w (y_pred - target) / (features * sum w); exactly zero where w is, whatever the arrays
        hold there (NaN too).

    Raises
    ------
    TypeError
        If ``y_pred`` is not a float32 or float64 ndarray, or another argument not of its type.
    ValueError
        If a shape, a weight or a length is wrong.

    Examples
    --------
    >>> value, dy = mse(np.array([[1.0], [5.0]]), [[0.0], [2.0]])
    >>> float(value), dy.tolist()
    (5.0, [[1.0], [3.0]])
    """
    positions, error = _errors(y_pred, target, sample_weight, lengths, mask, batch_first)
    return positions.mean_and_gradient(error * error, 2 * error, error.shape[-1])


@_quiet
def mae(y_pred, target, sample_weight=None, lengths=None, *, mask=None, batch_first=False):
    """Mean absolute error.

    Parameters
    ----------
    y_pred, target, sample_weight, lengths, mask, batch_first
        As in :func:`mse`.

    Returns
    -------
    value : scalar of the dtype of ``y_pred``
        sum w abs(y_pred - target) / (features * sum w)
    gradient : ndarray, shaped like ``y_pred`` and of its dtype
        w sign(y_pred - target) / (features * sum w), which is zero where the two are equal.

    Raises
    ------
    TypeError, ValueError
        As :func:`mse`.

    Examples
    --------
    >>> value, dy = mae(np.array([[1.0], [5.0]]), [[3.0], [2.0]])
    >>> float(value), dy.tolist()
    (2.5, [[-0.5], [0.5]])
    """
    positions, error = _errors(y_pred, target, sample_weight, lengths, mask, batch_first)
    return positions.mean_and_gradient(np.abs(error), np.sign(error), error.shape[-1])


@_quiet
def huber(y_pred, target, sample_weight=None, lengths=None, *, delta=1.0, mask=None, batch_first=False):
    """Huber's loss: half the square of a small error, linear in a large one [1]_.

    Parameters
    ----------
    y_pred, target, sample_weight, lengths, mask, batch_first
        As in :func:`mse`.
    delta : float, default 1.0
        Where small ends and large begins; above 0.

    Returns
    -------
    value : scalar of the dtype of ``y_pred``
        With e = y_pred - target::

            value = sum w l(e) / (features * sum w)
            l(e)  = e^2 / 2                               where abs(e) <= delta
                    delta abs(e) - delta^2 / 2            elsewhere

        both of which are c (e - c/2) with c = min(max(e, -delta), delta).
    gradient : ndarray, shaped like ``y_pred`` and of its dtype
        w c / (features * sum w)

    Raises
    ------
    TypeError, ValueError
        As :func:`mse`; if ``delta`` is not a positive number that float32 can hold.

    Examples
    --------
    >>> value, dy = huber(np.array([[0.5], [4.0]]), [[0.0], [0.0]])
    >>> float(value), dy.tolist()                           # (0.5^2 / 2 + 4 - 1/2) / 2
    (1.8125, [[0.25], [0.5]])
    """
    delta = validation.number("delta", delta, validation.FLOAT32_TINY, validation.FLOAT32_MAX)
    positions, error = _errors(y_pred, target, sample_weight, lengths, mask, batch_first)
    clipped = np.minimum(np.maximum(error, -delta), delta)
    return positions.mean_and_gradient(clipped * (error - 0.5 * clipped), clipped, error.shape[-1])


@_quiet
def binary_crossentropy(
    y_pred,
    target,
    sample_weight=None,
    lengths=None,
    *,
    from_logits=False,
    eps=1e-7,
    mask=None,
    batch_first=False,
):
    """Cross-entropy of probabilities, or of the sigmoid of logits; each feature is a yes or no.

    Parameters
    ----------
    y_pred : ndarray, shape (..., features)
        float32 or float64: probabilities, or logits if ``from_logits``. NaN makes the value NaN.
    target : array_like, shaped like ``y_pred``
        0 to 1, of any real dtype or bool.
    sample_weight, lengths, mask, batch_first
        As in :func:`mse`.
    from_logits : bool, default False
        Whether ``y_pred`` has yet to go through a sigmoid. That is the more exact way, and needs no ``eps``.
    eps : float, default 1e-7
        Probabilities are taken as at least ``eps`` and at most 1 - ``eps``, as Keras does [2]_; but what is beyond
        [0, 1] by more than 1e-3, which Keras clips too, is refused: these are logits.

    Returns
    -------
    value : scalar of the dtype of ``y_pred``
        With target t, and p the clipped probability, or sigmoid(z) of the logit z::

            value = sum w (-t log p - (1 - t) log(1 - p)) / (features * sum w)

        from logits taken as max(z, 0) - z t + log(1 + exp(-abs(z))), which is the same and can not overflow.
    gradient : ndarray, shaped like ``y_pred`` and of its dtype
        w / (features * sum w) times (p - t) / (p (1 - p)), and zero where p was clipped; from logits times p - t.

    Raises
    ------
    TypeError
        As :func:`mse`.
    ValueError
        If a shape, a target, a weight or a length is wrong, probabilities are beyond [0, 1], or ``eps`` is so small
        that 1 - ``eps`` is 1.

    Examples
    --------
    >>> value, dy = binary_crossentropy(np.array([[0.5, 0.8]]), [[1, 0]])
    >>> round(float(value), 4), dy.round(4).tolist()        # (log 2 + log 5) / 2
    (1.1513, [[-1.0, 2.5]])
    >>> value, dlogits = binary_crossentropy(np.zeros((1, 2)), [[1, 0]], from_logits=True)
    >>> round(float(value), 4), dlogits.tolist()            # log(2); (1/2 - t) / 2
    (0.6931, [[-0.25, 0.25]])
    """
    from_logits = validation.flag("from_logits", from_logits)
    positions = Positions(y_pred, sample_weight, lengths, mask, batch_first)
    t = positions.like(target)
    # written so that NaN fails
    if not (np.minimum.reduce(t, None, initial=0) == 0 and np.maximum.reduce(t, None, initial=1) == 1):
        raise ValueError(f"target has values from {t.min()} to {t.max()}, expected 0 to 1")
    if from_logits:
        z = positions.y_pred
        above = np.maximum(z, 0)
        e = np.exp(-np.abs(z))
        loss = above - z * t + np.log1p(e)
        gradient = np.exp(z - above) / (1 + e) - t
    else:
        positions.need_probabilities(1.0)
        p = _clipped(positions.y_pred, eps)
        loss = -(t * np.log(p) + (1 - t) * np.log1p(-p))
        gradient = (p - t) / (p * (1 - p)) * (p == positions.y_pred)
    return positions.mean_and_gradient(loss, gradient, t.shape[-1])


@_quiet
def categorical_crossentropy(
    y_pred,
    target,
    sample_weight=None,
    lengths=None,
    *,
    from_logits=False,
    eps=1e-7,
    mask=None,
    batch_first=False,
):
    """Cross-entropy of the probabilities of classes, or of the softmax of logits, against probabilities.

    Parameters
    ----------
    y_pred : ndarray, shape (..., classes)
        float32 or float64: probabilities, or logits if ``from_logits``. NaN makes the value NaN.
    target : array_like, shaped like ``y_pred``
        The probability of each class (one-hot, for one), not negative and with a sum of 1 within 1e-3.
    sample_weight, lengths, mask, batch_first
        As in :func:`mse`.
    from_logits : bool, default False
        Whether ``y_pred`` has yet to go through a softmax. That is the more exact way, and needs no ``eps``.
    eps : float, default 1e-7
        Probabilities are divided by their sum, s, and then taken as at least ``eps`` and at most 1 - ``eps``, as Keras
        does [2]_; but what is below 0 by more than 1e-3, which Keras takes too, is refused: these are logits.

    Returns
    -------
    value : scalar of the dtype of ``y_pred``
        With q the target, and p = y_pred / s or softmax(y_pred)::

            value = sum w sum_k -q_k log p_k / sum w

        From logits log p_k is taken as z_k - log(sum_j exp(z_j)) with z = y_pred - max(y_pred): exp does not overflow,
        and a p_k that rounds to zero still has its logarithm.
    gradient : ndarray, shaped like ``y_pred`` and of its dtype
        w / sum w times (sum_j g_j p_j - g_k) / s, where g_k = q_k / p_k, and zero where p_k was clipped; from logits
        times p_k sum_j q_j - q_k.

    Raises
    ------
    TypeError
        As :func:`mse`.
    ValueError
        If a shape, a target, a weight or a length is wrong, there is no class, probabilities are below 0, or ``eps``
        is so small that 1 - ``eps`` is 1.

    Examples
    --------
    >>> value, dy = categorical_crossentropy(np.array([[0.25, 0.75]]), [[0, 1]])
    >>> round(float(value), 4), dy.round(4).tolist()        # log(4/3)
    (0.2877, [[1.0, -0.3333]])
    """
    positions = Positions(y_pred, sample_weight, lengths, mask, batch_first)
    positions.need_classes()
    q = positions.like(target, " (sparse_categorical_crossentropy takes one class each)")
    q_sum = np.add.reduce(q, -1)
    if not np.minimum.reduce(q, None, initial=0) == 0:  # written so that NaN fails
        raise ValueError(f"target has values from {q.min()} to {q.max()}, expected probabilities")
    # half precision rounds the sum of a thousand probabilities by up to 5e-4
    if not np.maximum.reduce(np.abs(q_sum - 1), None, initial=0) <= 1e-3:
        raise ValueError(
            f"target has sums from {q_sum.min()} to {q_sum.max()} over its last axis, expected 1: probabilities"
        )
    share = positions.shares()
    q = q.reshape(-1, q.shape[-1]) * share
    if validation.flag("from_logits", from_logits):
        return _of_logits(positions, None, q, (q_sum.reshape(-1, 1) * share).reshape(-1))
    at = (q != 0).reshape(-1)
    return _of_probabilities(positions, at, q.reshape(-1)[at], eps)


def sparse_categorical_crossentropy(
    y_pred,
    target,
    sample_weight=None,
    lengths=None,
    *,
    from_logits=False,
    eps=1e-7,
    mask=None,
    batch_first=False,
):
    """Cross-entropy of the probabilities of classes, or of the softmax of logits, against one class each.

    The same loss as :func:`categorical_crossentropy` of the one-hot target.

    Parameters
    ----------
    y_pred : ndarray, shape (..., classes)
        float32 or float64: probabilities, or logits if ``from_logits``.
    target : array_like of int, shape (...)
        The class of each position, 0 to classes - 1.
    sample_weight, lengths, from_logits, eps, mask, batch_first
        As in :func:`categorical_crossentropy`.

    Returns
    -------
    value : scalar of the dtype of ``y_pred``
    gradient : ndarray, shaped like ``y_pred`` and of its dtype

    Raises
    ------
    TypeError
        As :func:`mse`; if ``target`` is not of integers.
    ValueError
        As :func:`categorical_crossentropy`.

    Examples
    --------
    >>> value, dlogits = sparse_categorical_crossentropy(np.zeros((1, 4)), [2], from_logits=True)
    >>> round(float(value), 4), dlogits.tolist()            # log(4); 1/4 - onehot
    (1.3863, [[0.25, 0.25, -0.75, 0.25]])
    """
    positions = Positions(y_pred, sample_weight, lengths, mask, batch_first)
    positions.need_classes()
    label = positions.labels(target, " (categorical_crossentropy takes probabilities)").reshape(-1)
    share = positions.shares().reshape(-1)
    if validation.flag("from_logits", from_logits):
        return _of_logits(positions, label, share, None)
    at = label + np.arange(0, label.size * y_pred.shape[-1], y_pred.shape[-1])
    return _of_probabilities(positions, at, share, eps)


def total_weight(y_pred, sample_weight=None, lengths=None, *, mask=None, batch_first=False):
    """What a batch counts for: the sum of the weights of its positions, by which a mean over batches is weighted.

    Parameters
    ----------
    y_pred, sample_weight, lengths, mask, batch_first
        As in :func:`mse`.

    Returns
    -------
    float
        Without ``sample_weight``, the number of valid positions.

    Raises
    ------
    TypeError, ValueError
        As :func:`mse`.

    Examples
    --------
    >>> total_weight(np.zeros((4, 2, 3)), lengths=[4, 1]), total_weight(np.zeros((2, 3)), [0.5, 2.0])
    (5.0, 2.5)
    """
    return Positions(y_pred, sample_weight, lengths, mask, batch_first).total


def get(loss):
    """The loss of this name.

    Parameters
    ----------
    loss : str or callable
        The name of a function of this module; or a function with the arguments and results of :func:`mse`, which is
        returned as it is, such as ``functools.partial(binary_crossentropy, from_logits=True)``.

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        If there is none of this name; the message lists the names.

    Examples
    --------
    >>> get("mae") is mae
    True
    """
    return loss if callable(loss) else _BY_NAME[validation.choice("loss", loss, _BY_NAME)]


_BY_NAME = {
    loss.__name__: loss
    for loss in (mse, mae, huber, binary_crossentropy, categorical_crossentropy, sparse_categorical_crossentropy)
}


# What losses and metrics share ----------------------------------------------------------------------------------------


class Positions:
    """Which positions of ``y_pred`` count, and how much: the one reading of sample_weight, lengths and mask.

    Attributes
    ----------
    shape : tuple
        That of ``y_pred`` as it came.
    y_pred : ndarray
        As it came where all positions count, otherwise (n, features): those n of them that do.
    total : float
        The sum of their weights; of no ``sample_weight``, their number.
    """

    __slots__ = ("_count", "_valid", "_weight", "shape", "total", "y_pred")

    def __init__(self, y_pred, sample_weight, lengths, mask, batch_first):
        if type(y_pred) is not np.ndarray or y_pred.dtype not in validation.FLOATS:
            found = getattr(y_pred, "dtype", None)
            known = found is not None and found in validation.FLOATS
            y_pred = validation.array("y_pred", y_pred, found if known else validation.FLOATS[0])
        if y_pred.ndim == 0:
            raise ValueError("y_pred has shape (), expected (..., features)")
        batch_first = validation.flag("batch_first", batch_first)
        self.shape = y_pred.shape
        self._valid = self._weight = None  # all positions, and alike
        if sample_weight is None and lengths is None and mask is None:
            self.total = self._count = float(math.prod(y_pred.shape[:-1]))
        else:
            weight = _weights(y_pred.shape, sample_weight, lengths, mask, batch_first)
            valid = weight > 0
            if not valid.all():
                self._valid = valid
                weight = weight[valid]
            # divided by a power of two, which is exact, so that their sum can not overflow
            scale = math.ldexp(0.5, math.frexp(weight.max(initial=0))[1])
            self._weight = weight / scale
            self._count = float(self._weight.sum())
            self.total = scale * self._count
        self.y_pred = self._pick(y_pred)

    def like(self, target, hint=""):
        """A target of real numbers shaped like ``y_pred``, where positions count, in its dtype."""
        array = _real("target", target)
        if array.shape != self.shape:
            raise ValueError(f"target has shape {array.shape}, expected {self.shape}, that of y_pred{hint}")
        return self._pick(array).astype(self.y_pred.dtype, copy=False)

    def labels(self, target, hint=""):
        """A target of one class per position, where positions count."""
        array = _real("target", target)
        *axes, classes = self.shape
        if array.shape != (*axes,):
            raise ValueError(f"target has shape {array.shape}, expected {(*axes,)}, one class each{hint}")
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"target is of dtype {array.dtype}, expected integers, one class each{hint}")
        given = self._pick(array)
        label = validation.contiguous("target", given.astype(np.intp, copy=False))
        if not are_classes(label, classes):
            raise ValueError(
                f"target has values from {given.min()} to {given.max()}, expected 0 to classes - 1 = {classes - 1}"
            )
        return label

    def need_classes(self):
        """Refuse a ``y_pred`` without any class."""
        if self.shape[-1] == 0:
            raise ValueError(f"y_pred has shape {self.shape}, expected at least one class on the last axis")

    def need_probabilities(self, most):
        """Refuse a ``y_pred`` that has, where positions count, less than 0 or more than ``most``; NaN passes."""
        y = self.y_pred
        # by 1e-3, which rounding does not reach
        if np.minimum.reduce(y, None, initial=0) < -1e-3 or np.maximum.reduce(y, None, initial=0) > most + 1e-3:
            raise ValueError(
                f"y_pred has values from {y.min()} to {y.max()}, expected probabilities; if these are logits, say "
                "from_logits=True"
            )

    def mean(self, loss, parts):
        """The weighted mean over positions, and over the ``parts`` of each: a float; sums are taken in float64.

        ``loss`` is shaped like the positions that count, or has one more axis, over which it is summed too.
        """
        if self._weight is not None:
            loss = loss * (self._weight[..., None] if loss.ndim > self._weight.ndim else self._weight)
        return float(np.add.reduce(loss, None, np.float64)) / (self._count * parts or 1.0)

    def mean_and_gradient(self, loss, gradient, parts):
        """The mean of ``loss`` in the dtype of y_pred; and its gradient from that of the sum, which is overwritten."""
        if self._weight is not None:
            gradient *= self._weight.astype(gradient.dtype)[..., None]
        gradient /= self._count * parts or 1.0
        return gradient.dtype.type(self.mean(loss, parts)), self.everywhere(gradient)

    def shares(self):
        """What each position has of the mean: (n, 1), or (1, 1) if all are alike; in the dtype of y_pred."""
        weight = 1.0 if self._weight is None else self._weight.reshape(-1, 1)
        return np.array(weight / (self._count or 1.0), self.y_pred.dtype, ndmin=2)

    def everywhere(self, gradient):
        """``gradient``, which is of the positions that count, with zeros at the others."""
        if self._valid is None:
            return gradient
        whole = np.zeros(self.shape, gradient.dtype)
        whole[self._valid] = gradient
        return whole

    def _pick(self, array):
        """The positions of ``array`` that count: with the others nothing is ever computed."""
        return array if self._valid is None else array[self._valid]


_LAYOUT = {False: ("seq_len", "batch"), True: ("batch", "seq_len")}  # the axes of positions, by batch_first


def _weights(shape, sample_weight, lengths, mask, batch_first):
    """The weight of each position of an array of this shape: float64, ``shape[:-1]``."""
    axes = shape[:-1]
    weight = np.ones(axes)
    if sample_weight is not None:
        given = _real("sample_weight", sample_weight)
        # from the left: (seq_len,) is (seq_len, 1) where there is a batch axis
        aligned = given.reshape(given.shape + (1,) * (len(axes) - given.ndim))
        if aligned.ndim > len(axes) or any(n not in (1, m) for n, m in zip(aligned.shape, axes, strict=True)):
            raise ValueError(
                f"sample_weight has shape {given.shape}, expected the leading axes of {axes}, "
                "those of y_pred without the last, each as long or 1"
            )
        if not ((given >= 0) & (given < math.inf)).all():  # written so that NaN fails
            raise ValueError(
                f"sample_weight has values from {given.min()} to {given.max()}, expected finite numbers of at least 0"
            )
        weight *= aligned
    if lengths is not None:
        if len(axes) not in (1, 2):
            raise ValueError(
                f"y_pred has shape {shape}, expected ({', '.join(_LAYOUT[batch_first])}, features) or "
                "(seq_len, features) where lengths are given"
            )
        batched = len(axes) == 2
        batch, steps = axes if batch_first and batched else axes[::-1] if batched else (1, axes[0])
        valid = np.arange(steps) < validation.lengths_array(lengths, batch, steps, batched)[:, None]
        weight *= (valid if batch_first else valid.T).reshape(axes)
    if mask is not None:
        words = f"{axes}, that of y_pred without its last axis"
        if len(axes) == 2:
            first, second = _LAYOUT[batch_first]
            words = f"({first}={axes[0]}, {second}={axes[1]})"
        validation.shape("mask", validation.bools("mask", mask), axes, words)
        weight *= mask
    return weight


def _real(name, value):
    """An ndarray of bool, integer or float dtype."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, which is not supported: fill it (and use mask= or lengths=)")
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} is of dtype {array.dtype}, expected real numbers")
    return array


# The formulas that losses share ---------------------------------------------------------------------------------------


def _errors(y_pred, target, sample_weight, lengths, mask, batch_first):
    """The positions that count, and y_pred - target there."""
    positions = Positions(y_pred, sample_weight, lengths, mask, batch_first)
    return positions, positions.y_pred - positions.like(target)


def _clipped(p, eps):
    """Probabilities as Keras takes them, in [eps, 1 - eps]."""
    eps = validation.number("eps", eps, np.finfo(p.dtype).epsneg, 0.5)  # with less, 1 - eps would be 1
    return np.minimum(np.maximum(p, eps), 1 - eps)


def _of_logits(positions, label, q, q_sum):
    """The sum of -q log p and its gradient, p being the softmax: see :func:`cylstm._core.crossentropy.crossentropy`."""
    y = validation.contiguous("y_pred", positions.y_pred.reshape(-1, positions.shape[-1]))
    q = validation.contiguous("q", q)
    value, gradient = crossentropy(y, label, q, q_sum)
    return y.dtype.type(value), positions.everywhere(gradient.reshape(positions.y_pred.shape))


@_quiet
def _of_probabilities(positions, at, q, eps):
    """The sum of -q log p, and its gradient: ``q`` stands at the places ``at``, elsewhere it is zero.

    ``at`` indexes the flattened (position, class): what it leaves out is not looked at, so that 0 log 0 is 0.
    """
    positions.need_probabilities(math.inf)  # they are divided by their sum
    y = positions.y_pred.reshape(-1, positions.shape[-1])
    y_sum = np.add.reduce(y, -1, keepdims=True)
    p = y / y_sum
    p_at = p.reshape(-1)[at]
    clipped = _clipped(p_at, eps)
    loss = -q * np.log(clipped)
    g = np.zeros(y.size, y.dtype)
    g[at] = q / clipped * (clipped == p_at)
    g = g.reshape(y.shape)
    gradient = (np.vecdot(g, p)[:, None] - g) / y_sum
    value = y.dtype.type(np.add.reduce(loss, None, np.float64))
    return value, positions.everywhere(gradient.reshape(positions.y_pred.shape))
