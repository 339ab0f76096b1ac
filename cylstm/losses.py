"""Losses: each returns its value and its gradient with respect to its first argument.

Every loss is a weighted mean over positions (all axes but the last), and one function,
``_weights``, turns ``sample_weight`` and ``lengths`` into the share of each position: what a loss
adds is its formula at one position. A position whose share is zero reaches nothing, whatever the
arrays hold there (NaN too).

Knows arrays alone, no layer and no tape: a loss is for any array whose last axis is features or
classes.
"""

import math

import numpy as np

from . import validation

__all__ = ["mse", "sigmoid_cross_entropy", "softmax_cross_entropy"]


def mse(y_pred, target, sample_weight=None, lengths=None):
    """Mean squared error.

    Parameters
    ----------
    y_pred : ndarray, shape (..., features)
        float32 or float64. Time-major (seq_len, batch, features) if ``lengths`` is given, or
        (seq_len, features) with one length.
    target : array_like, shaped like ``y_pred``
        Of any real dtype; converted to that of ``y_pred``.
    sample_weight : array_like, optional
        Not negative and finite. It belongs to the leading axes of ``y_pred`` from the left, the
        last axis excepted, and is broadcast over the others: for y_pred (seq_len, batch, features)
        a weight may have the shape (seq_len, batch), or (1, batch) for one per sequence, or
        (seq_len,) or (seq_len, 1) for one per time step, or () for the same everywhere. So (batch,)
        is *not* one weight per sequence of a time-major array, but it is that of y_pred (batch,
        features).
    lengths : array_like of int, shape (batch,), optional
        Valid steps per sequence, 0 to seq_len: step t of sequence b counts if t < lengths[b]. An
        integer if ``y_pred`` is (seq_len, features). For batch-first arrays give ``y.swapaxes(0,
        1)``, and swap the axes of the gradient back.

    Returns
    -------
    value : scalar of the dtype of ``y_pred``
        With w the weight of a position, 0 past a length and otherwise 1 if ``sample_weight`` is
        omitted::

            value = sum w (y_pred - target)^2 / (features * sum w)

        A weight of 2 counts as two copies of its position, a weight of 0 as if it were not there.
        With no valid position, or no feature, the value and the gradient are zero. The sum is taken
        in float64.
    gradient : ndarray, shaped like ``y_pred`` and of its dtype
        d value / d y_pred = 2 w (y_pred - target) / (features * sum w); exactly zero where w is.

    Raises
    ------
    TypeError
        If ``y_pred`` is not a float32 or float64 ndarray, or another argument not of real numbers.
    ValueError
        If a shape, a weight or a length is wrong.

    Examples
    --------
    >>> value, dy = mse(np.array([[1.0], [5.0]]), [[0.0], [2.0]])
    >>> float(value), dy.tolist()
    (5.0, [[1.0], [3.0]])
    """
    y_pred = _predictions("y_pred", y_pred)
    target = _like(y_pred, "y_pred", "target", target)
    share = _weights("y_pred", y_pred, sample_weight, lengths)
    share = share / max(y_pred.shape[-1], 1)
    error = _valid(y_pred, share) - _valid(target, share)
    gradient = error * (2 * share).astype(y_pred.dtype)[..., None]
    return _total(error * error, share[..., None], y_pred.dtype), gradient


def softmax_cross_entropy(logits, labels, sample_weight=None, lengths=None):
    """Cross-entropy of softmax(logits), from the logits.

    Parameters
    ----------
    logits : ndarray, shape (..., classes)
        float32 or float64; time-major if ``lengths`` is given.
    labels : array_like, shape (...) or (..., classes)
        With one axis less than ``logits``: integers, the class of each position, 0 to classes - 1.
        Shaped like ``logits``: the probability of each class (one-hot, for one), not negative and
        with a sum of 1 within 1e-3. What is past a length or has a weight of zero is not looked at.
    sample_weight, lengths : optional
        As in :func:`mse`.

    Returns
    -------
    value : scalar of the dtype of ``logits``
        With p = softmax(logits), q the probabilities in ``labels`` and w the weight of a position
        as in :func:`mse`::

            value = sum w sum_k -q_k log p_k / sum w

        log p_k is taken as z_k - log(sum_j exp(z_j)) with z = logits - max(logits): exp does not
        overflow, and a p_k that rounds to zero still has its logarithm.
    gradient : ndarray, shaped like ``logits`` and of its dtype
        d value / d logits_k = w (p_k sum_j q_j - q_k) / sum w

    Raises
    ------
    TypeError
        If ``logits`` is not a float32 or float64 ndarray, or class labels are not integers.
    ValueError
        If a shape, a label, a weight or a length is wrong, or there is no class.

    Examples
    --------
    >>> value, dlogits = softmax_cross_entropy(np.zeros((1, 4)), [2])
    >>> round(float(value), 4), dlogits.tolist()            # log(4); 1/4 - onehot
    (1.3863, [[0.25, 0.25, -0.75, 0.25]])
    """
    logits = _predictions("logits", logits)
    if logits.shape[-1] == 0:
        raise ValueError(
            f"logits has shape {logits.shape}, expected at least one class on the last axis"
        )
    share = _weights("logits", logits, sample_weight, lengths)
    q = _class_probabilities(logits, labels, share > 0)

    z = _valid(logits, share)
    z = z - z.max(axis=-1, keepdims=True)
    e = np.exp(z)
    sum_e = e.sum(axis=-1, keepdims=True)
    log_p = z - np.log(sum_e)
    # a class that can not be (its logit -inf) costs nothing where q_k is zero: 0 * log(0) is 0 here
    loss = -np.multiply(q, log_p, out=np.zeros_like(q), where=q != 0).sum(axis=-1)
    gradient = e / sum_e * q.sum(axis=-1, keepdims=True) - q
    gradient *= share.astype(logits.dtype)[..., None]
    return _total(loss, share, logits.dtype), gradient


def sigmoid_cross_entropy(logits, targets, sample_weight=None, lengths=None):
    """Binary cross-entropy of sigmoid(logits), from the logits; each feature is a yes or no.

    Parameters
    ----------
    logits : ndarray, shape (..., features)
        float32 or float64; time-major if ``lengths`` is given.
    targets : array_like, shaped like ``logits``
        0 to 1, of any real dtype or bool. What is past a length or has a weight of zero is not
        looked at.
    sample_weight, lengths : optional
        As in :func:`mse`.

    Returns
    -------
    value : scalar of the dtype of ``logits``
        With p = sigmoid(z) for logit z, target t and the weight w of a position as in :func:`mse`::

            value = sum w (-t log p - (1 - t) log(1 - p)) / (features * sum w)

        each element taken as max(z, 0) - z t + log(1 + exp(-abs(z))), which is the same and can not
        overflow.
    gradient : ndarray, shaped like ``logits`` and of its dtype
        d value / dz = w (p - t) / (features * sum w)

    Raises
    ------
    TypeError
        If ``logits`` is not a float32 or float64 ndarray, or another argument not of real numbers.
    ValueError
        If a shape, a target, a weight or a length is wrong.

    Examples
    --------
    >>> value, dlogits = sigmoid_cross_entropy(np.zeros((1, 2)), [[1, 0]])
    >>> round(float(value), 4), dlogits.tolist()            # log(2); (1/2 - t) / 2
    (0.6931, [[-0.25, 0.25]])
    """
    logits = _predictions("logits", logits)
    targets = _like(logits, "logits", "targets", targets)
    share = _weights("logits", logits, sample_weight, lengths)
    share = share / max(logits.shape[-1], 1)
    z = _valid(logits, share)
    t = _valid(targets, share)
    if not ((t >= 0) & (t <= 1)).all():  # written so that NaN fails
        raise ValueError(f"targets has values from {t.min()} to {t.max()}, expected 0 to 1")

    e = np.exp(-np.abs(z))
    loss = np.maximum(z, 0) - z * t + np.log1p(e)
    gradient = np.where(z >= 0, np.ones_like(e), e) / (1 + e) - t
    gradient *= share.astype(logits.dtype)[..., None]
    return _total(loss, share[..., None], logits.dtype), gradient


def _predictions(name, value):
    """The first argument of a loss: a float32 or float64 ndarray with a last axis."""
    found = getattr(value, "dtype", None)
    array = validation.array(
        name, value, found if found is not None and found in validation.FLOATS else np.dtype(np.float32)
    )
    if array.ndim == 0:
        raise ValueError(f"{name} has shape (), expected (..., features)")
    return array


def _like(y_pred, name, argument, value):
    """An array of real numbers shaped like ``y_pred``, in its dtype."""
    array = _real(argument, value)
    if array.shape != y_pred.shape:
        raise ValueError(
            f"{argument} has shape {array.shape}, expected {y_pred.shape}, that of {name}"
        )
    return array.astype(y_pred.dtype, copy=False)


def _real(name, value):
    """An ndarray of bool, integer or float dtype."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, which is not supported: use sample_weight= or lengths="
        )
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} is of dtype {array.dtype}, expected real numbers")
    return array


def _weights(name, y_pred, sample_weight, lengths):
    """The share of each position: its weight over their sum; float64, y_pred.shape[:-1]."""
    axes = y_pred.shape[:-1]
    share = np.ones(axes)
    if sample_weight is not None:
        weight = _real("sample_weight", sample_weight)
        # from the left: (seq_len,) is (seq_len, 1) where there is a batch axis
        aligned = weight.reshape(weight.shape + (1,) * (len(axes) - weight.ndim))
        if aligned.ndim > len(axes) or any(
            n not in (1, m) for n, m in zip(aligned.shape, axes, strict=True)
        ):
            raise ValueError(
                f"sample_weight has shape {weight.shape}, expected the leading axes of {axes}, "
                f"those of {name} without the last, each as long or 1"
            )
        if not ((weight >= 0) & (weight < math.inf)).all():  # written so that NaN fails
            raise ValueError(
                f"sample_weight has values from {weight.min()} to {weight.max()}, "
                "expected finite numbers of at least 0"
            )
        # the largest is taken out before the sum, which could overflow
        share *= aligned / max(float(weight.max(initial=0)), np.finfo(np.float64).tiny)
    if lengths is not None:
        if len(axes) not in (1, 2):
            raise ValueError(
                f"{name} has shape {y_pred.shape}, expected (seq_len, batch, features) or "
                "(seq_len, features) where lengths are given"
            )
        batch = axes[1] if len(axes) == 2 else 1
        valid = validation.lengths_array(lengths, batch, axes[0], len(axes) == 2)
        share *= (np.arange(axes[0])[:, None] < valid).reshape(axes)
    total = share.sum()
    return share / total if total else share


def _valid(array, share):
    """``array`` with zeros where the share is: what it holds there is never computed with."""
    if (share > 0).all():
        return array
    return np.where((share > 0)[..., None], array, array.dtype.type(0))


def _class_probabilities(logits, labels, valid):
    """Labels of either kind as probabilities, (..., classes), zero where not ``valid`` (...)."""
    labels = _real("labels", labels)
    classes = logits.shape[-1]
    if labels.shape == logits.shape:
        q = np.where(valid[..., None], labels, 0).astype(logits.dtype, copy=False)
        if not (q >= 0).all():  # written so that NaN fails
            raise ValueError(
                f"labels has values from {q.min()} to {q.max()}, expected probabilities"
            )
        total = q.sum(axis=-1)[valid]
        # half precision rounds the sum of a thousand probabilities by up to 5e-4
        if not (np.abs(total - 1) <= 1e-3).all():
            raise ValueError(
                f"labels has sums from {total.min()} to {total.max()} over its last axis, "
                "expected 1: probabilities"
            )
        return q
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels has shape {labels.shape}, expected {logits.shape[:-1]} for classes "
            f"or {logits.shape} for probabilities"
        )
    if labels.dtype.kind not in "iu" and labels.size:
        raise TypeError(f"labels is of dtype {labels.dtype}, expected integers: one class each")
    counted = labels[valid]
    if counted.size and (counted.min() < 0 or counted.max() >= classes):
        raise ValueError(
            f"labels has values from {counted.min()} to {counted.max()}, "
            f"expected 0 to classes - 1 = {classes - 1}"
        )
    label = np.where(valid, labels, 0).astype(np.intp)
    q = (label[..., None] == np.arange(classes)) & valid[..., None]
    return q.astype(logits.dtype)


def _total(loss, share, dtype):
    """The sum of loss times share, taken in float64, as a scalar of ``dtype``."""
    return dtype.type(np.sum(loss * share, dtype=np.float64))
