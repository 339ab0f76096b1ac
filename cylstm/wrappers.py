"""Layers made of recurrent ones: Bidirectional and Final. Arrays are batch-first.

Knows a layer's states by their order and what becomes of two directions by ``stack``; knows no cell.
"""

import numpy as np

from . import validation
from ._core import stack
from .layers import Recurrent
from .sequential import Container
from .steps import Steps
from .tape import check_tape


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
            check_tape(tape)
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


class Bidirectional(Wrapper):
    """Two recurrent layers that differ, one of which walks time from its end: in size, options or class.

    y is (batch, seq_len, features): what ``merge`` makes of the outputs of both, each at its own time. The state is a
    list of two, [that of ``forward``, that of ``backward``], each as the layer takes it, or None.

    Two that are alike are one faster layer, ``LSTM(..., bidirectional=True)``. (That merges the directions after each
    layer of its stack; here each direction is a stack by itself.)

    Parameters
    ----------
    forward, backward : recurrent layers
        In one direction each, the second with ``reverse=True``, of the same ``input_size`` and dtype.
    merge : {"concat", "sum", "mul", "average"}
        All but "concat" need outputs of one width.

    Raises
    ------
    TypeError
        If one of the two is no recurrent layer.
    ValueError
        If they do not go together.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> layer = cylstm.Bidirectional(cylstm.LSTM(3, 4, rng=0), cylstm.GRU(3, 2, reverse=True, rng=1))
    >>> y, (state, h_n) = layer.forward(np.ones((2, 5, 3), np.float32))
    >>> y.shape, bool((y[:, 0, 4:] == h_n[0]).all()), list(layer.parameters)[-1]
    ((2, 5, 6), True, 'backward.bias_hh_l0')
    """

    _part_names = ("forward", "backward")

    def __init__(self, forward, backward, merge="concat"):
        self._build(forward, backward, merge)

    def _build(self, forward, backward, merge="concat", _arrays=None):
        for name, layer, direction, words in (
            ("forward", forward, (False,), "in the direction of time"), ("backward", backward, (True,), "reverse=True"),
        ):  # fmt: skip
            _check_recurrent(name, layer, Recurrent)
            if layer._scheme.directions != direction:
                raise ValueError(f"{name} is {layer!r}, expected one direction, {words}")
        self._merge = validation.choice("merge", merge, ("concat", "sum", "mul", "average"))
        if forward.input_size != backward.input_size:
            sizes = f"{forward.input_size} and {backward.input_size}"
            raise ValueError(f"forward and backward have input_size {sizes}, expected the same x for both")
        if merge != "concat" and forward._output_size != backward._output_size:
            sizes = f"{forward._output_size} and {backward._output_size}"
            raise ValueError(f"merge is {merge!r}, but forward and backward make {sizes} features: expected as many")
        self._wrap(forward, backward, **({} if merge == "concat" else {"merge": merge}))

    merge = property(lambda self: self._merge, doc="what becomes of the outputs of both")

    @property
    def layers(self):
        """(forward, backward)"""
        return self._layers

    def _output_shape(self, shape):
        one, other = (layer._output_shape(shape) for layer in self._layers)
        return (*one[:2], one[2] + other[2]) if self._merge == "concat" else one

    def _run(self, x, state, steps, tapes):
        parts, states_n = [], []
        for layer, of_layer, tape in zip(self._layers, state or (None, None), tapes, strict=True):
            y, state_n, _ = layer._pass(x, of_layer, steps, tape)
            parts.append(y)
            states_n.append(state_n)
        return _merged(parts, self._merge), states_n, steps, parts if self._merge == "mul" else None

    def _run_backward(self, record, dy, dstate):
        parts = dy, dy
        if dy is not None:
            parts = stack._merge_backward(dy, self._merge, record.kept, self._layers[0]._output_size)
        found = []
        for layer, tape, part, of_layer in zip(self._layers, record.parts, parts, dstate or (None, None), strict=True):
            if part is None and of_layer is None:  # what is given is of the other one
                part = np.zeros((*record.shape[:2], layer._output_size), self._dtype)
            found.append(layer._pass_backward(tape, part, of_layer))
        return found[0].dx + found[1].dx, [gradients.dstate for gradients in found], found

    def _stream_part(self, batch_size):
        return self._layers[1]._stream_part(batch_size)  # which says why there is none


class Final(Wrapper):
    """A recurrent layer that gives its final h alone, after the last valid step of each direction.

    y is (batch, features): the final h of the last layer of the stack, that of two directions as ``layer.merge`` says.
    (The reverse direction ends at the first step, so this is not the last step of its outputs.) Keras'
    return_sequences=False, ONNX's Y_h, PyTorch's h_n[-1]. Of a row without a valid step, what ``layer.empty`` says.

    The state is that of the layer, and so is a stream: the h after each step.

    Parameters
    ----------
    layer : recurrent layer or Bidirectional
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
        _check_recurrent("layer", layer, (Recurrent, Bidirectional))
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
            parts = [dy[None]]
            if len(places) == 2:
                parts = stack._merge_backward(dy[None], layer.merge, record.kept, places[0].shape[-1])
            for place, part in zip(places, parts, strict=True):
                place += part
        gradients = layer._pass_backward(record.parts[0], None, dstate)
        return gradients.dx, gradients.dstate, [gradients]


def _check_recurrent(name, layer, kinds):
    if not isinstance(layer, kinds):
        raise TypeError(f"{name} is a {type(layer).__name__}, expected a recurrent layer such as cylstm.LSTM")


def _final_h(layer, state):
    """The h of the last layer of the stack in each direction, (1, N, P): views of a state."""
    if isinstance(layer, Bidirectional):
        return [h for part, of_part in zip(layer.layers, state, strict=True) for h in _final_h(part, of_part)]
    h = state[0] if isinstance(state, tuple) else state
    return [h[k : k + 1] for k in range(len(h) - layer._directions, len(h))]


def _merged(parts, merge):
    """What two directions gave, three axes each, as one new array."""
    if merge == "concat":
        return np.concatenate(parts, axis=-1)
    out = np.empty_like(parts[0])
    stack._merge(out, parts, merge)
    return out
