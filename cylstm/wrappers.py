"""Layers made of recurrent ones: Final. Arrays are batch-first.

Knows a layer's states by their order and what becomes of two directions by ``stack``; knows no cell.
"""

import numpy as np

from . import stack, validation
from .feedforward import _check_tape
from .layers import Recurrent
from .sequential import Container
from .steps import Steps


class Wrapper(Container):
    """What layers made of recurrent ones share: the surface of one of them, batch-first."""

    def _wrap(self, *layers, **options):
        """Take these as the layers; ``options`` are what repr shows besides."""
        dtype = self._gather(list(zip(self._part_names, layers, strict=True)))
        self._input_width = layers[0]._input_width
        self._finish(dtype, layers, options)

    def forward(self, x, state=None, lengths=None, mask=None, tape=None):
        """Run the layer over a batch of sequences.

        Parameters
        ----------
        x : ndarray, shape (batch, seq_len, input_size)
            Of the layer's dtype.
        state : optional
            As the class says. Zeros if omitted, or the layers' ``default_state``.
        lengths : array or list of int, shape (batch,), optional
            Valid steps per sequence, 0 to seq_len, in any order.
        mask : ndarray of bool, shape (batch, seq_len), optional
            False where a step is not valid. With ``lengths`` too a step is valid where both say so.
        tape : Tape, optional
            Filled with what :meth:`backward` needs, and makes this a training forward.

        Returns
        -------
        y : ndarray
            Of the shape that the class gives; a new array.
        state
            The final state, shaped like ``state``; new arrays.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.
        """
        x = validation.array("x", x, self._dtype)
        self._output_shape(x.shape)
        if state is not None:
            self._check_state("state", state, x.shape[0])
        steps = Steps.of(lengths, mask, *x.shape[:2])
        if tape is not None:
            _check_tape(tape)
        y, state_n, _ = self._pass(x, state, steps, tape)
        return y, state_n

    def backward(self, tape, dy, dstate=None):
        """Back-propagate through the forward that ``tape`` recorded, and spend the tape.

        Parameters
        ----------
        tape : Tape
            Of this layer's last ``forward(x, tape=tape)``.
        dy : ndarray or None
            dL/dy, shaped like y. May be None if ``dstate`` is given.
        dstate : optional
            The gradient of the final state, shaped like it.

        Returns
        -------
        Gradients
            ``dx`` shaped like x; ``dstate``, that of the initial state; ``parameters``.

        Raises
        ------
        RuntimeError
            If the tape is empty, spent or another layer's, or parameters were changed since.
        ValueError, TypeError
            If a gradient has the wrong shape or dtype, or both are None. The tape is not spent then.
        ImportError
            If SciPy is not installed.
        """
        return self._backward(tape, dy, dstate, "dstate")

    def stream(self, batch_size=None):
        """The layer one time step at a time, the state carried from call to call.

        Parameters
        ----------
        batch_size : int, optional
            None: x is (input_size,); n: (n, input_size).

        Returns
        -------
        Stream

        Raises
        ------
        ValueError
            If a layer looks ahead, or ``batch_size`` is negative.
        """
        return self._streamed._stream_part(batch_size)


class Final(Wrapper):
    """A recurrent layer that gives its final h alone, after the last valid step of each direction.

    y is (batch, features): the final h of the last layer of the stack, that of two directions as ``layer.merge`` says.
    (The reverse direction ends at the first step, so this is not the last step of its outputs.) Keras'
    return_sequences=False, ONNX's Y_h, PyTorch's h_n[-1]. Of a row without a valid step, what ``layer.empty`` says.

    The state is that of the layer, and so is a stream: the h after each step.

    Parameters
    ----------
    layer : recurrent layer
        Whose ``merge`` is not None.

    Raises
    ------
    TypeError
        If it is no recurrent layer.
    ValueError
        If its ``merge`` is None.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> final = cylstm.Final(cylstm.LSTM(3, 4, bidirectional=True, rng=0))
    >>> y, (h_n, c_n) = final.forward(np.ones((2, 5, 3), np.float32), lengths=[5, 2])
    >>> y.shape, bool((y[:, 4:] == h_n[1]).all())
    ((2, 8), True)
    """

    _part_names = ("layer",)

    def __init__(self, layer):
        self._build(layer)

    def _build(self, layer, _arrays=None):
        if not isinstance(layer, Recurrent):
            raise TypeError(f"layer is a {type(layer).__name__}, expected a recurrent layer such as cylstm.LSTM")
        layer._output_shape((None, None, None))  # which refuses a pair
        self._wrap(layer)

    @property
    def layer(self):
        """The recurrent layer; its ``default_state`` is what this one begins with too."""
        return self._layers[0]

    @property
    def _streamed(self):
        return self.layer._streamed

    def _output_shape(self, shape):
        batch, _, features = self.layer._output_shape(shape)
        return batch, features

    def _check_state(self, name, state, batch, batched=True):
        return self.layer._check_state(name, state, batch, batched)

    def _take_states(self, states, batched):
        return self.layer._take_states(states, batched)

    def _run(self, x, state, steps, tapes):
        _, state_n, _ = self.layer._pass(x, state, steps, tapes[0])
        parts = [part.copy() for part in _final_h(self.layer, state_n)]
        y = parts[0] if len(parts) == 1 else _merged(parts, self.layer.merge)
        return y[0], state_n, None, parts

    def _run_backward(self, record, dy, dstate):
        layer = self.layer
        states = layer._check_state("dstate", dstate, record.shape[0])
        states = [
            leaf._zeros(record.shape[0]) if given is None else [part.copy() for part in given]
            for leaf, given in zip(layer._leaves, states, strict=True)
        ]
        dstate = layer._take_states(iter(states), True)
        if dy is not None:
            places = _final_h(layer, dstate)
            for place, part in zip(places, _apart(dy[None], layer, record.kept), strict=True):
                place += part
        gradients = layer._pass_backward(record.parts[0], None, dstate)
        return gradients.dx, gradients.dstate, [gradients]


def _final_h(layer, state):
    """The h of the last layer of the stack in each direction, (1, N, P): views of a state."""
    h = state[0] if isinstance(state, tuple) else state
    return [h[k : k + 1] for k in range(len(h) - layer._directions, len(h))]


def _merged(parts, merge):
    """What two directions gave, three axes each, as one new array."""
    if merge == "concat":
        return np.concatenate(parts, axis=-1)
    out = np.empty_like(parts[0])
    stack._merge(out, parts, merge)
    return out


def _apart(dy, layer, parts):
    """The gradient of what each direction gave, from that of them together."""
    return [dy] if len(parts) == 1 else stack._merge_backward(dy, layer.merge, parts, parts[0].shape[-1])
