"""Tape and Gradients: what forward leaves for backward, and what backward returns.

The buffers of a tape, in this one place (T steps, B rows, H hidden units, P features of h; blocks * lanes >= H):

    ("rows", layer, direction)       (T + 1, B, I + 1 + P)          x_t | 1 | h before it: one product for all
    ("gates", layer, direction)      (T, B, blocks, gates, lanes)   activations; backward turns them into dgates
    ("recurrent", layer, direction)  (T, B, blocks, gates, lanes)   apart from gates: what h adds to them; its dgates
    ("c", layer, direction)          (T + 1, B, H)                  LSTM: slot t is before step t; in reverse after it
    ("y", layer % 2)                 (T, B, next I)                 output of a layer but the last, for the next one

and of cells with options

    ("inner", layer, direction)      (T, B, 1 + H)                  1 | what a first phase leaves for the second
    ("second", layer, direction)     (T, B, blocks of P, lanes)     the second phase's sums; then the gradient of these
    ("h", layer, direction)          (T + 1, B, P)                  recurrent dropout: h; rows have the h it has left
    ("c_fresh", layer, direction)    (T, B, H)                      zoneout: c as the step made it

The arrays over these buffers, :attr:`Tape.views`, stay for the next call of the same form; the caller's x and y are not
among them. Factors of dropout and what zoneout keeps are made for each call, and stay until the next. The tape of a
container has no buffers, but a tape for each of its layers: :meth:`Tape.part`.

The h of ``rows`` has slots as c has; x_t stands beside the h that step t begins with, in slot t, in reverse t + 1. Of a
cell with options gates stay the sums that the products made, and backward makes the activations again.

Knows the buffers; knows no layer and does no arithmetic but the sum and the multiple of Gradients.
"""

import numpy as np

from . import validation
from ._core.packing import aligned_empty, cut
from ._core.turns import Use

_BITS_64 = (1 << 64) - 1


class Tape:
    """What one training forward leaves for backward. Owned by the caller and reusable; its largest buffers are kept.

    Parameters
    ----------
    seed : int, optional
        Of dropout masks. A mask is a function of (seed, call, layer, t, row, unit), where ``call`` counts the
        forwards that this tape has recorded. Drawn from the operating system if omitted.
    training : bool, default True
        False: dropout does not act, and backward differentiates the inference pass.

    Raises
    ------
    TypeError, ValueError
        If ``seed`` is not a non-negative integer below 2**64 or ``training`` not a bool.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> lstm = cylstm.LSTM(3, 4, rng=0)
    >>> tape = cylstm.Tape()
    >>> y, state = lstm.forward(np.ones((5, 2, 3), np.float32), tape=tape)
    >>> lstm.backward(tape, np.ones_like(y)).dx.shape
    (5, 2, 3)
    """

    def __init__(self, seed=None, training=True):
        self.training = validation.flag("training", training)
        if seed is None:
            import os

            seed = int.from_bytes(os.urandom(8), "little")
        self.seed = validation.size("seed", seed, 0)
        if self.seed >= 1 << 64:
            raise ValueError(f"seed is {self.seed}, expected one below 2**64")
        self.calls = 0
        self._buffers = {}
        self.views = {}  # of the buffers, by (layer, direction): those of the last call
        self._parts = {}
        self._record = None
        self._use = Use()

    def __repr__(self):
        return f"Tape(seed={self.seed}, training={self.training})"

    def __getstate__(self):
        return {"seed": self.seed, "training": self.training, "calls": self.calls}

    def __setstate__(self, state):
        self.__init__(state["seed"], state["training"])
        self.calls = state["calls"]

    def buffer(self, key, shape, dtype):
        """An uninitialised array for ``key``, cut from the largest that this key has had."""
        array = cut(self._buffers.get(key), shape, dtype)
        if array is None:
            array = aligned_empty(shape, dtype)
            self._buffers[key] = array.base
        return array

    def use(self):
        """A context: while a forward fills the buffers or a backward spends them, nobody else may."""
        return self._use

    def begin(self):
        """A new forward: forget the last record, count the call."""
        self._record = None
        self.calls += 1

    def part(self, n):
        """The tape of layer n of a container whose call has begun: kept from call to call, as buffers are.

        Its seed is SplitMix64's hash [1]_ of (seed, n) and its ``calls`` are those of this tape, so (seed, calls) of
        this tape decide all masks of the container.

        References
        ----------
        .. [1] G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

        Examples
        --------
        >>> tape = Tape(seed=1)
        >>> tape.part(0).seed == tape.part(0).seed != tape.part(1).seed
        True
        """
        seed, tape = self._parts.get(n, (None, None))
        if seed != self.seed:
            z = (self.seed + (n + 1) * 0x9E3779B97F4A7C15) & _BITS_64
            z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _BITS_64
            z = (z ^ z >> 27) * 0x94D049BB133111EB & _BITS_64
            tape = tape or Tape(0)
            tape.seed = z ^ z >> 31
            self._parts[n] = self.seed, tape
        tape.training = self.training
        tape.calls = self.calls - 1  # the layer's begin counts the call that has begun here
        return tape

    def keep(self, record):
        """Store what backward will need; ``record.layer`` is who may ask for it."""
        self._record = record

    def look(self, layer):
        """The record of ``layer``'s last forward, or a RuntimeError that says what is wrong with the tape."""
        record = self._record
        if record is None:
            raise RuntimeError("the tape is empty or already spent: run forward(x, tape=tape) before each backward")
        if record.layer is not layer:
            raise RuntimeError(f"the tape was recorded by another layer, {record.layer!r}")
        if record.snapshot is not layer._store.snapshot:
            raise RuntimeError("the parameters were changed between forward and backward")
        return record

    def spend(self):
        self._record = None


def check_tape(tape):
    """A TypeError, if this is no tape."""
    if not isinstance(tape, Tape):
        raise TypeError(f"tape is a {type(tape).__name__}, expected a cylstm.Tape")


class Gradients:
    """What backward returns: fresh arrays. ``g1 + g2`` adds and ``0.5 * g`` scales.

    Attributes
    ----------
    dx : ndarray, list, or None
        With respect to x, in x's layout; None where x is integers. Of a model with two inputs a list of two.
    dstate : tuple of ndarray, ndarray, list, or None
        With respect to the initial state, shaped like it; None for a layer without one. Of a container a list of
        these, one for each layer.
    parameters : dict
        With the keys and shapes of ``layer.parameters``.

    Notes
    -----
    In a sum of gradients from inputs of different shapes (the last batch of an epoch, say) ``dx`` and
    ``dstate`` have no meaning and are None; ``parameters`` add.
    """

    __slots__ = ("dstate", "dx", "parameters")

    def __init__(self, dx, dstate, parameters):
        self.dx = dx
        self.dstate = dstate
        self.parameters = parameters

    def __repr__(self):
        of = f"{len(self.dx)} inputs" if isinstance(self.dx, list) else f"shape {getattr(self.dx, 'shape', None)}"
        return f"Gradients(dx of {of}, {len(self.parameters)} parameters)"

    def __add__(self, other):
        if not isinstance(other, Gradients):
            return NotImplemented
        if self.parameters.keys() != other.parameters.keys():
            raise ValueError("gradients of layers with different parameters can not be added")
        return Gradients(
            _sum(self.dx, other.dx),
            _sum(self.dstate, other.dstate),
            {name: value + other.parameters[name] for name, value in self.parameters.items()},
        )

    def __mul__(self, factor):
        if not isinstance(factor, (int, float, np.number)):
            return NotImplemented
        factor = float(factor)  # a Python float keeps the arrays' dtype
        return Gradients(
            _scaled(self.dx, factor),
            _scaled(self.dstate, factor),
            {name: value * factor for name, value in self.parameters.items()},
        )

    __rmul__ = __mul__


def _sum(one, other):
    if isinstance(one, list):
        return [_sum(a, b) for a, b in zip(one, other, strict=True)]
    if one is None or other is None:
        return None
    if isinstance(one, tuple):
        parts = tuple(_sum(a, b) for a, b in zip(one, other, strict=True))
        return None if any(part is None for part in parts) else parts
    return one + other if one.shape == other.shape else None


def _scaled(value, factor):
    if value is None:
        return None
    if isinstance(value, list):
        return [_scaled(part, factor) for part in value]
    return tuple(part * factor for part in value) if isinstance(value, tuple) else value * factor
