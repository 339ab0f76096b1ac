"""Stream: a layer one step at a time. Thin over the compiled stepper, which holds the state and does the steps."""

import copy

import numpy as np

from . import validation
from ._core import stack
from ._core.stepper import Stepper

PICKLE_VERSION = 1


class Stream(Stepper):
    """A causal layer with its state carried from call to call; made by ``layer.stream(batch_size)``.

    ``step`` takes one time step, ``run`` a chunk of them; both give the same bits as ``forward`` over the whole
    sequence. Changed parameters of the layer count from the next step. A stream belongs to one thread at a time.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> lstm = cylstm.LSTM(3, 4, rng=0)
    >>> x = np.ones((5, 3), np.float32)
    >>> s = lstm.stream()
    >>> y = np.stack([s.step(x_t) for x_t in x])
    >>> bool((y == lstm.forward(x)[0]).all())
    True
    """

    def __repr__(self):
        return f"{self.layer!r}.stream({'' if self.batch_size is None else self.batch_size})"

    def run(self, x):
        """A chunk of time steps, time-major whatever ``batch_first`` says.

        Parameters
        ----------
        x : ndarray, shape (seq_len, input_size), or (seq_len, n, input_size) for a stream of n

        Returns
        -------
        ndarray, shape (seq_len, hidden_size) or (seq_len, n, hidden_size), or with proj_size or output_size instead

        Raises
        ------
        ValueError, TypeError
            If x has the wrong shape or dtype. A failed call changes nothing.
        RuntimeError
            If another thread is inside this stream.
        """
        layer = self.layer
        x = validation.array("x", x, layer.dtype)
        single = self.batch_size is None
        rows = 1 if single else self.batch_size
        if single and (x.ndim != 2 or x.shape[1] != layer.input_size):
            raise ValueError(f"x has shape {x.shape}, expected (seq_len, input_size={layer.input_size})")
        if not single and (x.ndim != 3 or x.shape[1:] != (rows, layer.input_size)):
            words = f"(seq_len, batch_size={rows}, input_size={layer.input_size})"
            raise ValueError(f"x has shape {x.shape}, expected {words}")
        x = validation.rows_contiguous("x", x)
        if single:
            x = x[:, None]
        validation.memory("this pass", 2 * x.shape[0] * rows * self.output_size * layer.dtype.itemsize)
        y = np.empty((x.shape[0], rows, self.output_size), layer.dtype)
        if x.shape[0] == 0:  # the state stays, whatever the layer says of empty sequences
            return y[:, 0] if single else y
        self._enter()
        try:
            weights = layer._packed(layer._store.snapshot)
            self._set(stack.forward(weights, layer._scheme, x, y, self._get(), None, None))
        finally:
            self._leave()
        return y[:, 0] if single else y

    @property
    def state(self):
        """A copy of (h, c), or of h alone, each (num_layers, n, hidden_size), without n where batch_size is None.

        h has proj_size or output_size instead of hidden_size where there is one.

        Raises
        ------
        RuntimeError
            If another thread is inside this stream.
        """
        self._enter()
        try:
            copies = [part.copy() for part in self._get()]
        finally:
            self._leave()
        return self.layer._as_state(copies, self.batch_size is not None)

    def reset(self, state=None):
        """Set the state, if omitted to the layer's ``default_state``, or zeros.

        Raises
        ------
        ValueError, TypeError
            If ``state`` has the wrong shape or dtype. Nothing is changed then.
        RuntimeError
            If another thread is inside this stream.
        """
        layer = self.layer
        rows = 1 if self.batch_size is None else self.batch_size
        states = validation.states(
            "state", state, layer._states, layer.dtype, (layer.num_layers, rows), layer._widths,
            self.batch_size is not None, why=", as the stream has no batch_size",
        )  # fmt: skip
        self._enter()
        try:
            self._set(states)
        finally:
            self._leave()

    def copy(self):
        """A stream over the same layer that continues from a copy of this state."""
        return _rebuild(type(self), self.layer, self.batch_size, self.state)

    __copy__ = copy

    def __reduce__(self):
        return _unpickled, (PICKLE_VERSION, type(self), self.layer, self.batch_size, self.state)

    def __deepcopy__(self, memo):
        return _rebuild(type(self), copy.deepcopy(self.layer, memo), self.batch_size, self.state)


def _unpickled(version, *arguments):
    if version != PICKLE_VERSION:
        raise ValueError(f"this stream was pickled with version {version}, expected {PICKLE_VERSION}")
    return _rebuild(*arguments)


def _rebuild(kind, layer, batch_size, state):
    stream = kind(layer, batch_size)
    stream.reset(state)
    return stream
