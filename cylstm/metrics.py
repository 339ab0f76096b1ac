"""Metrics: what a model is judged by, a number without a gradient.

Which positions count, and how much, is read by the ``Positions`` of the losses, so that a metric and a loss of the same
arguments are means over the same.
"""

import math
from collections.abc import Iterable

import numpy as np

from . import losses, validation

__all__ = ["accuracy", "binary_accuracy", "by_name", "combine", "get", "mae", "mse", "rmse"]


def accuracy(y_pred, target, sample_weight=None, lengths=None, *, mask=None, batch_first=False):
    """The share of positions whose class is right: that of the largest number, or with one feature yes or no.

    Parameters
    ----------
    y_pred : ndarray, shape (..., classes)
        float32 or float64: probabilities or logits; of two classes that are equally large the first counts. With a
        single feature the probability of yes, which above 0.5 is a yes; for logits of a single feature use
        :func:`binary_accuracy`.
    target : array_like, shape (...) or (..., classes)
        Integers, the class of each position, 0 to classes - 1; or shaped like ``y_pred``, and the largest number says
        the class (one-hot, for one). With a single feature numbers of either shape, which above 0.5 are a yes.
    sample_weight, lengths, mask, batch_first
        As in :func:`cylstm.losses.mse`.

    Returns
    -------
    float
        Zero if no position counts. A position with NaN is wrong.

    Raises
    ------
    TypeError, ValueError
        As :func:`cylstm.losses.sparse_categorical_crossentropy`.

    Examples
    --------
    >>> y_pred = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    >>> accuracy(y_pred, [1, 0, 0], sample_weight=[1, 1, 2])
    0.5
    """
    positions = losses.Positions(y_pred, sample_weight, lengths, mask, batch_first)
    positions.need_classes()
    if positions.shape[-1] == 1:
        one = target if np.shape(target) == positions.shape else np.expand_dims(target, -1)
        return _share_alike(positions, one, 0.5)
    given = _classes(positions.y_pred)
    if np.shape(target) == positions.shape:
        return positions.mean(given == _classes(positions.like(target)), 1)
    return positions.mean(given == positions.labels(target, f", or {positions.shape}"), 1)


def binary_accuracy(
    y_pred, target, sample_weight=None, lengths=None, *, threshold=0.5, mask=None, batch_first=False
):
    """The share of elements that are right, each feature a yes or no.

    Parameters
    ----------
    y_pred : ndarray, shape (..., features)
        float32 or float64. Above ``threshold`` it is a yes.
    target : array_like, shaped like ``y_pred``
        Above 0.5 it is a yes.
    sample_weight, lengths, mask, batch_first
        As in :func:`cylstm.losses.mse`.
    threshold : float, default 0.5
        0.0 for logits.

    Returns
    -------
    float
        Zero if no position counts. An element that is NaN is wrong.

    Raises
    ------
    TypeError, ValueError
        As :func:`cylstm.losses.mse`.

    Examples
    --------
    >>> binary_accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), [[0, 1], [0, 0]])
    0.75
    """
    threshold = validation.number("threshold", threshold, -math.inf, math.inf)
    positions = losses.Positions(y_pred, sample_weight, lengths, mask, batch_first)
    return _share_alike(positions, target, threshold)


def mae(y_pred, target, sample_weight=None, lengths=None, *, mask=None, batch_first=False):
    """Mean absolute error: the value of :func:`cylstm.losses.mae`, as a float.

    Examples
    --------
    >>> mae(np.array([[1.0], [5.0]]), [[3.0], [2.0]])
    2.5
    """
    return float(losses.mae(y_pred, target, sample_weight, lengths, mask=mask, batch_first=batch_first)[0])


def mse(y_pred, target, sample_weight=None, lengths=None, *, mask=None, batch_first=False):
    """Mean squared error: the value of :func:`cylstm.losses.mse`, as a float.

    Examples
    --------
    >>> mse(np.array([[1.0], [5.0]]), [[3.0], [2.0]])
    6.5
    """
    return float(losses.mse(y_pred, target, sample_weight, lengths, mask=mask, batch_first=batch_first)[0])


def rmse(y_pred, target, sample_weight=None, lengths=None, *, mask=None, batch_first=False):
    """Root of the mean squared error.

    The mean of the batches' roots is not the root of all: see :func:`combine`.

    Examples
    --------
    >>> rmse(np.array([[3.0], [5.0]]), [[0.0], [1.0]], sample_weight=[0.0, 2.0])
    4.0
    """
    return math.sqrt(mse(y_pred, target, sample_weight, lengths, mask=mask, batch_first=batch_first))


def combine(metric, values, weights):
    """The metric of several batches together.

    Parameters
    ----------
    metric : callable
        A function of this module or of the same kind. The result is the weighted mean; for :func:`rmse` the root of
        that of the squares.
    values : sequence of float
        Of ``metric``, one per batch.
    weights : sequence of float
        :func:`cylstm.losses.total_weight` of each batch. One with weight zero is left out, whatever its value.

    Returns
    -------
    float
        Zero if there is no weight.

    Raises
    ------
    ValueError
        If there are not as many weights as values.

    Examples
    --------
    >>> combine(mse, [1.0, 4.0], [2.0, 1.0]), combine(rmse, [1.0, 2.0], [2.0, 1.0]) == math.sqrt(2)
    (2.0, True)
    """
    if len(values) != len(weights):
        raise ValueError(f"weights has {len(weights)} entries, expected {len(values)}, one per value")
    power = 2 if getattr(metric, "func", metric) is rmse else 1  # a functools.partial too
    total = math.fsum(weights)
    summed = math.fsum(w * v**power for v, w in zip(values, weights, strict=True) if w)
    return (summed / total) ** (1 / power) if total else 0.0


def get(metric):
    """The metric of this name.

    Parameters
    ----------
    metric : str or callable
        The name of a metric of this module; or a function with the arguments of :func:`mse` that returns a number,
        which is returned as it is.

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        If there is none of this name; the message lists the names.

    Examples
    --------
    >>> get("accuracy") is accuracy
    True
    """
    return metric if callable(metric) else _BY_NAME[validation.choice("metric", metric, _BY_NAME)]


def by_name(metrics):
    """Several metrics by what their values are called.

    Parameters
    ----------
    metrics : iterable of str or callable
        As for :func:`get`.

    Returns
    -------
    dict of str to callable
        By their ``__name__``; a ``functools.partial`` has that of its function.

    Raises
    ------
    ValueError
        If there is none of a name, or two have the same one.
    TypeError
        If ``metrics`` is a string, or no list.

    Examples
    --------
    >>> list(by_name(["accuracy", mae]))
    ['accuracy', 'mae']
    """
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        raise TypeError(f"metrics is {metrics!r}, expected a list")
    found: dict = {}
    for metric in map(get, metrics):
        name = getattr(getattr(metric, "func", metric), "__name__", repr(metric))
        if name in found or name == "loss":
            raise ValueError(f"metrics has a second function called {name!r}: give it another __name__")
        found[name] = metric
    return found


_BY_NAME = {metric.__name__: metric for metric in (accuracy, binary_accuracy, mae, mse, rmse)}


def _classes(values):
    """The class of each row, that of its largest number; of a row with NaN NaN, which equals no class."""
    found = values.argmax(axis=-1)
    low = np.minimum.reduce(values, None, initial=0)
    if low != low:
        return np.where(np.isnan(values).any(axis=-1), np.nan, found)
    return found


def _share_alike(positions, target, threshold):
    """The share of elements of which y_pred is above ``threshold`` where target is above a half."""
    y_pred, target = positions.y_pred, positions.like(target)
    # NaN is on neither side
    hits = np.where(target > 0.5, y_pred > threshold, y_pred <= threshold) & (target == target)
    return positions.mean(hits, hits.shape[-1])
