"""Checks of gradients, and the tolerances that go with them: for tests and for cells of your own.

Knows the public interface of a layer (``forward``, ``backward``, ``parameters``, ``writable``) and
nothing of what is inside it. All tolerances stand here, in one table, each with its reason.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["TOLERANCES", "Tolerances", "assert_close", "gradcheck", "numerical_gradient"]


class Tolerances(NamedTuple):
    """The numbers for one dtype; :func:`assert_close` says how an error is measured.

    Attributes
    ----------
    forward : float
        Outputs and states of two implementations that add in different orders.
    backward : float
        Gradients of two such implementations.
    eps : float
        Step of a central difference, times max(1, abs(x)).
    central : float
        Gradients against central differences taken with that step.
    frameworks : float
        Outputs and states against those of another framework: each on max(1, abs(y)) of its own, as in
        :func:`cylstm.verify`.
    """

    forward: float
    backward: float
    eps: float
    central: float
    frameworks: float


# u is the spacing of the dtype at 1 (numpy.finfo(dtype).eps), 2.2e-16 and 1.2e-7.
#
# forward    50 u. A pre-activation is a sum of I + H products, whose order is free: its rounding
#            error grows like sqrt(I + H) u / 2. Gates contract it, time and layers accumulate it.
#            The float32 reference against the float64 one was within 9 u up to I = 256, H = 512,
#            T = 200 and weights three times PyTorch's initial ones. A factor of five is left for
#            larger sizes and for activations of 2.5 ulp.
# backward   200 u. As above, but gradients are also sums over T and B, and products of many steps'
#            errors: within 26 u in the same runs. A factor of seven is left.
# eps        u^(1/3), where the two errors of a central difference are of one size: truncation,
#            eps^2 f''' / 6, and cancellation, u f / eps.
# central    Both errors are then u^(2/3), 3.7e-11 and 2.4e-5, times f''' or the loss. The checks of
#            tests/test_reference.py, with inputs of unit size, were within 10 u^(2/3) in both
#            dtypes. float64 is given 270 of them. float32 is given 100, and no more: that is
#            already 2.4e-3, and a formula with one wrong term may be as little as 1e-2 off.
# frameworks 170 u and 4500 u. Others approximate activations more coarsely than we do: onnxruntime's float32 sigmoid
#            and tanh are rationals of some ulp, and layers and steps add that up.
TOLERANCES = {
    np.dtype(np.float64): Tolerances(forward=1.1e-14, backward=4.4e-14, eps=6e-6, central=1e-8, frameworks=1e-12),
    np.dtype(np.float32): Tolerances(forward=6e-6, backward=2.4e-5, eps=5e-3, central=2.4e-3, frameworks=2e-5),
}


def assert_close(actual, desired, tolerance, name="array"):
    """Raise AssertionError unless max|actual - desired| <= tolerance * max(1, max|desired|).

    The error is measured against the largest element, not against each: an element that cancels
    to almost nothing carries the rounding errors of the large terms it was made of.

    Parameters
    ----------
    actual, desired : ndarray
        Of one shape and one dtype; anything else fails. So does a NaN.
    tolerance : float
        A number of :data:`TOLERANCES`.
    name : str, optional
        What the message calls ``actual``.

    Raises
    ------
    AssertionError
        Naming the array, the worst element and both of its values.

    Examples
    --------
    >>> assert_close(np.array([100.0, 1e-9]), np.array([100.0, 0.0]), 1e-10)
    """
    actual, desired = np.asarray(actual), np.asarray(desired)
    if actual.shape != desired.shape or actual.dtype != desired.dtype:
        raise AssertionError(
            f"{name} is {actual.dtype} of shape {actual.shape}, "
            f"expected {desired.dtype} of shape {desired.shape}"
        )
    if actual.size == 0:
        return
    error = np.abs(actual - desired)
    allowed = tolerance * max(1.0, float(np.abs(desired).max()))
    if not error.max() <= allowed:  # written so that NaN fails
        worst = tuple(int(n) for n in np.unravel_index(np.argmax(error), error.shape))
        raise AssertionError(
            f"{name}{list(worst)} is {actual[worst]!r}, expected {desired[worst]!r}: "
            f"off by {error[worst]:.3g}, allowed {allowed:.3g}"
        )


def numerical_gradient(f, x, eps=None):
    """Gradient of a scalar function by central differences.

    (f(x + eps e_j) - f(x - eps e_j)) / (2 eps) for every element j, eps scaled by max(1, abs(x_j)).

    Parameters
    ----------
    f : callable
        Takes an array like ``x``, which it may keep, and returns a number.
    x : ndarray, any shape
        Of a float dtype; never written to.
    eps : float, optional
        The step; that of :data:`TOLERANCES` for the dtype of ``x`` if omitted.

    Returns
    -------
    ndarray, shaped like ``x`` and of its dtype

    Raises
    ------
    KeyError
        If ``eps`` is omitted and the dtype has no entry in :data:`TOLERANCES`.

    Examples
    --------
    >>> numerical_gradient(lambda x: (x**2).sum(), np.array([1.0, -3.0])).round(6).tolist()
    [2.0, -6.0]
    """
    x = np.asarray(x)
    if eps is None:
        eps = TOLERANCES[x.dtype].eps
    gradient = np.empty(x.shape, x.dtype)
    for j in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[j] += eps * max(1.0, abs(float(x[j])))
        below[j] -= eps * max(1.0, abs(float(x[j])))
        # the step as it was rounded into x
        gradient[j] = (float(f(above)) - float(f(below))) / (float(above[j]) - float(below[j]))
    return gradient


def gradcheck(layer, x, state=None, *, lengths=None, tape=None, eps=None, tolerance=None, rng=0):
    """Hold every gradient of a layer against central differences.

    The loss is the sum of y and of each array of the final state, each times a random array. The
    gradients of x, of the initial state (zeros if omitted) and of every parameter are compared.
    float64 is the dtype to do this in: in float32 a central difference has three digits.

    Parameters
    ----------
    layer : object
        With the interface of :class:`cylstm.LSTM` or of :class:`cylstm.Dense`. Its parameters are
        changed on the way, one element at a time, and are what they were at the end.
    x : ndarray
        As ``layer.forward`` takes it. Finite, past the lengths too.
    state : ndarray or tuple of ndarray, optional
        As ``layer.forward`` takes it.
    lengths : ndarray of int, shape (batch,), optional
    tape : callable, optional
        Makes a fresh tape for each forward; ``cylstm.Tape(training=False)`` if omitted. To check
        dropout, let it return tapes of one seed: ``lambda: cylstm.Tape(seed=1)``.
    eps, tolerance : float, optional
        The step and the tolerance; those of :data:`TOLERANCES` for the dtype of ``x`` if omitted.
    rng : seed or numpy.random.Generator, optional
        Draws the random arrays of the loss.

    Raises
    ------
    AssertionError
        If a gradient is off, missing, or of another shape or dtype than what it is the gradient
        of; the message names it, the element and both values.

    Examples
    --------
    >>> import cylstm
    >>> lstm = cylstm.LSTM(3, 2, num_layers=2, bidirectional=True, dtype="float64", rng=0)
    >>> gradcheck(lstm, np.ones((4, 2, 3)), lengths=[4, 1])
    """
    if tape is None:
        import cylstm

        def tape():
            return cylstm.Tape(training=False)

    if tolerance is None:
        tolerance = TOLERANCES[x.dtype].central
    rng = np.random.default_rng(rng)

    y, *state_n = _forward(layer, x, _arrays(state), lengths, tape())
    state = _arrays(state) or [np.zeros_like(s) for s in state_n]
    spent = tape()
    _forward(layer, x, state, lengths, spent)
    dy, *dstate = (rng.standard_normal(out.shape).astype(out.dtype) for out in (y, *state_n))
    gradients = layer.backward(spent, dy, **({"dstate": _state(dstate)} if dstate else {}))

    def loss(x, state):
        # in float64, so that only the layer's own rounding is in it
        outputs = _forward(layer, x, state, lengths, tape())
        return sum(
            np.sum(d * out, dtype=np.float64) for d, out in zip((dy, *dstate), outputs, strict=True)
        )

    wanted = numerical_gradient(lambda value: loss(value, state), x, eps)
    assert_close(gradients.dx, wanted, tolerance, "dx")

    dstate_0 = _arrays(gradients.dstate)
    if len(dstate_0) != len(state):
        raise AssertionError(f"dstate has {len(dstate_0)} arrays, expected {len(state)}")
    for n, actual in enumerate(dstate_0):
        wanted = numerical_gradient(
            lambda value, n=n: loss(x, [*state[:n], value, *state[n + 1 :]]), state[n], eps
        )
        assert_close(actual, wanted, tolerance, f"dstate[{n}]")

    parameters = {name: np.array(value) for name, value in layer.parameters.items()}
    if set(gradients.parameters) != set(parameters):
        raise AssertionError(
            f"there are gradients of {sorted(gradients.parameters)}, expected {sorted(parameters)}"
        )
    for name, original in parameters.items():

        def loss_with(value, name=name):
            _set_parameter(layer, name, value)
            return loss(x, state)

        try:
            wanted = numerical_gradient(loss_with, original, eps)
        finally:
            _set_parameter(layer, name, original)
        assert_close(gradients.parameters[name], wanted, tolerance, f"d{name}")


def _forward(layer, x, state, lengths, tape):
    """[y, *final state]; ``state`` is a list of arrays, empty for none."""
    options = {}
    if state:
        options["state"] = _state(state)
    if lengths is not None:
        options["lengths"] = lengths
    result = layer.forward(x, **options, tape=tape)
    y, state_n = result if isinstance(result, tuple) else (result, None)
    return [y, *_arrays(state_n)]


def _arrays(state):
    """The arrays of a state as a list; the inverse of :func:`_state`."""
    if state is None:
        return []
    return list(state) if isinstance(state, tuple) else [state]


def _state(arrays):
    """The state as layers take it: a tuple (h, c), or the one array alone."""
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


def _set_parameter(layer, name, value):
    with layer.writable() as parameters:
        parameters[name][...] = value
