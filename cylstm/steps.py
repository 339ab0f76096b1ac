"""Steps: which time steps of a batch are valid, as layers hand it on. Knows (N, T), no layer and no features."""

from typing import NamedTuple

import numpy as np

from . import validation


class Steps(NamedTuple):
    """Which time steps of an array (N, T, ...) are valid; where all are, None stands in its place.

    Attributes
    ----------
    lengths : ndarray of intp, shape (N,), or None
        Step t of row n is valid where t < lengths[n].
    mask : ndarray of bool, shape (N, T), or None
        Step t of row n is valid where mask[n, t]. One of the two is there, and never both.

    Examples
    --------
    >>> import numpy as np
    >>> steps = Steps.of([2, 0], None, 2, 3)
    >>> steps.valid(3).tolist()
    [[True, True, False], [False, False, False]]
    >>> Steps.both(steps, np.array([[False, True, True], [True, True, True]])).last(3).tolist()
    [1, -1]
    """

    lengths: np.ndarray | None = None
    mask: np.ndarray | None = None

    @classmethod
    def of(cls, lengths, mask, batch, seq_len):
        """From a caller's ``lengths`` and ``mask``, checked and copied; None if both are None.

        Raises
        ------
        ValueError, TypeError
            If one of them does not fit (batch, seq_len).
        """
        if lengths is not None:
            lengths = validation.lengths_array(lengths, batch, seq_len, True)
        if mask is None:
            return None if lengths is None else cls(lengths=lengths)
        mask = validation.mask_of(mask, batch, seq_len, True).copy()
        return cls(mask=mask) if lengths is None else cls.both(cls(lengths=lengths), mask)

    @classmethod
    def both(cls, steps, mask):
        """The steps that are valid in ``steps`` (Steps or None) and in ``mask`` (N, T)."""
        return cls(mask=mask if steps is None else mask & steps.valid(mask.shape[1]))

    def valid(self, seq_len):
        """(N, T) of bool."""
        return self.mask if self.mask is not None else np.arange(seq_len) < self.lengths[:, None]

    def last(self, seq_len):
        """(N,) of intp: the last valid step of each row, -1 where there is none."""
        if self.mask is None:
            return self.lengths - 1
        from_the_end = np.argmax(self.mask[:, ::-1], axis=1) if seq_len else 0
        return np.where(self.mask.any(axis=1), seq_len - 1 - from_the_end, -1)
