"""LSTM, GRU, RNN and Dense: parameters by name, forward, backward, stream. No arithmetic: that is done below."""

import copy
import math
import operator
import os
import threading
import warnings
import weakref
from types import MappingProxyType

import numpy as np

from . import initializers, stack, validation
from ._core.dense import dense_backward, dense_forward
from ._core.packing import PackedDense, Store, Weights
from .stream import Stream
from .tape import Gradients, Tape

PICKLE_VERSION = 1


class _Snapshot:
    """The parameters at one moment, and what was packed from them: they live and die together."""

    __slots__ = ("arrays", "packed")

    def __init__(self, arrays):
        self.arrays = MappingProxyType({name: _frozen(value) for name, value in arrays.items()})
        self.packed = None


def _frozen(array):
    """A read-only copy over memory that NumPy itself can not make writable."""
    if array.size == 0:
        array = array.copy()
        array.setflags(write=False)
        return array
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)


_layers: weakref.WeakSet = weakref.WeakSet()


def _new_locks():
    """In a forked child: a thread of the parent that held a lock is not there to give it back."""
    for layer in list(_layers):
        layer._lock = threading.Lock()
        layer._writer = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_locks)


class _Writer:
    """The context manager of ``writable()``: copies out, the validated whole back in."""

    def __init__(self, layer):
        self._layer = layer

    def __enter__(self):
        layer = self._layer
        if layer._writer == threading.get_ident():
            raise RuntimeError("this thread is already inside writable() of this layer")
        self._lock = layer._lock
        self._lock.acquire()
        try:
            layer._writer = threading.get_ident()
            self._copies = {name: value.copy() for name, value in layer.parameters.items()}
        except BaseException:
            layer._writer = None
            self._lock.release()
            raise
        return self._copies

    def __exit__(self, kind, error, traceback):
        layer = self._layer
        try:
            if kind is None:
                layer._replace(self._copies)
        finally:
            layer._writer = None
            self._lock.release()


def _read_only(name, doc):
    """A property over ``_name``: packed weights have these sizes, so they can not be changed."""
    return property(operator.attrgetter(f"_{name}"), doc=doc)


class Layer:
    """What layers share: a mapping of named parameters that is replaced whole, and pickling."""

    dtype = _read_only("dtype", "numpy.dtype of the parameters and of every array")

    def __init__(self, shapes, dtype, arguments, arrays):
        self._shapes = shapes
        self._dtype = dtype
        self._arguments = arguments  # what repr shows and pickle keeps
        self._lock = threading.Lock()
        self._writer = None
        _layers.add(self)
        self._store = Store(_Snapshot(validation.parameters(arrays, shapes, dtype)))

    @property
    def parameters(self):
        """Mapping of name to read-only ndarray: a snapshot, which a later change does not touch."""
        return self._store.snapshot.arrays

    def _replace(self, arrays):
        self._store.replace(_Snapshot(validation.parameters(arrays, self._shapes, self.dtype)))

    def writable(self):
        """Copies of the parameters to edit, as a context manager.

        On leaving, the whole is checked and swapped in at once; after an exception it is dropped. A second writer
        waits for the first.

        Raises
        ------
        ValueError, TypeError
            On leaving, if names, shapes or dtypes are not those of the layer; nothing is changed then.
        RuntimeError
            If this thread is already inside.

        Examples
        --------
        >>> import cylstm
        >>> lstm = cylstm.LSTM(3, 4, rng=0)
        >>> with lstm.writable() as p:
        ...     p["bias_ih_l0"][:] = 0
        """
        return _Writer(self)

    def state_dict(self):
        """A new dict of new, writable arrays under PyTorch's names."""
        return {name: value.copy() for name, value in self.parameters.items()}

    def load_state_dict(self, state_dict):
        """Replace all parameters, cast from any float dtype.

        Parameters
        ----------
        state_dict : mapping of str to array
            Exactly the names and shapes of :attr:`parameters`.

        Raises
        ------
        ValueError
            If names are missing or unexpected (both are listed), a shape is wrong or a value overflows the dtype.
        TypeError
            If an array is not of a float dtype.
        """
        checked = validation.parameters(state_dict, self._shapes, self.dtype)
        with _Writer(self) as p:
            p.update(checked)

    def __repr__(self):
        positional, keywords = self._arguments
        parts = [repr(value) for value in positional]
        parts += [f"{name}={value!r}" for name, value in keywords.items()]
        return f"{type(self).__name__}({', '.join(parts)})"

    def __getstate__(self):
        return {"version": PICKLE_VERSION, "arguments": self._arguments, "parameters": self.state_dict()}

    def __setstate__(self, state):
        if state.get("version") != PICKLE_VERSION:
            raise ValueError(
                f"this {type(self).__name__} was pickled with version {state.get('version')}, expected {PICKLE_VERSION}"
            )
        positional, keywords = state["arguments"]
        self._build(*positional, **keywords, arrays=state["parameters"])

    def __copy__(self):
        return self.__deepcopy__({})

    def __deepcopy__(self, memo):
        other = type(self).__new__(type(self))
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return other


def _differing(defaults, given):
    """The keyword arguments that repr must show."""
    return {name: value for name, value in given.items() if value != defaults[name]}


class Recurrent(Layer):
    """What LSTM, GRU and RNN share: all but the cell, which a subclass describes.

    ``_cell()`` is its name in ``_core/cells.pyx``, ``_gates`` the number of gates in its weights, ``_states`` a letter
    for each state.
    """

    input_size = _read_only("input_size", "features of x")
    hidden_size = _read_only("hidden_size", "features of h")
    num_layers = _read_only("num_layers", "layers in the stack")
    bias = _read_only("bias", 'True, False or "single"')
    batch_first = _read_only("batch_first", "whether x and y are (batch, seq_len, features)")
    dropout = _read_only("dropout", "probability with which an output between layers is dropped in training")
    bidirectional = _read_only("bidirectional", "whether there is a second, reverse direction")

    _gates: int
    _states: tuple[str, ...]

    def _cell(self):
        raise NotImplementedError

    def _set_options(self):
        """Check the options that only this cell has, given by keyword; keep them; return what repr must show."""
        return {}

    def _build(
        self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False,
        *, dtype="float32", rng=None, arrays=None, **options,
    ):  # fmt: skip
        self._input_size = validation.size("input_size", input_size)
        self._hidden_size = validation.size("hidden_size", hidden_size)
        self._num_layers = validation.size("num_layers", num_layers)
        if not (isinstance(bias, (bool, np.bool_)) or (isinstance(bias, str) and bias == "single")):
            raise ValueError(f"bias is {bias!r}, expected True, False or 'single'")
        self._bias = bias if isinstance(bias, str) else bool(bias)
        self._batch_first = validation.flag("batch_first", batch_first)
        self._dropout = validation.number("dropout", dropout, 0.0, 1.0)
        self._bidirectional = validation.flag("bidirectional", bidirectional)
        shown = self._set_options(**options)
        dtype = validation.dtype_of(dtype)
        self._directions = 2 if self.bidirectional else 1
        width = max(self.input_size, 16) + self._directions * max(self.hidden_size, 16)
        validation.memory(  # parameters, copies of them and their packed forms, padded to vectors of up to 16
            "these parameters",
            self.num_layers * self._directions * self._gates * max(self.hidden_size, 16) * width * 4 * dtype.itemsize,
        )
        shapes = self._parameter_shapes()
        if arrays is None:
            rng = validation.generator(rng)
            bound = 1 / math.sqrt(self.hidden_size)
            arrays = {name: initializers.uniform(rng, shape, dtype, bound) for name, shape in shapes.items()}
        given = {
            "num_layers": self.num_layers, "bias": self.bias, "batch_first": self.batch_first,
            "dropout": self.dropout, "bidirectional": self.bidirectional, "dtype": dtype.name,
        }  # fmt: skip
        defaults = {
            "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False,
            "dtype": "float32",
        }  # fmt: skip
        arguments = ((self.input_size, self.hidden_size), _differing(defaults, given) | shown)
        super().__init__(shapes, dtype, arguments, arrays)

    def _warn_of_dropout(self):
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                "dropout acts between layers, so with num_layers=1 it has no effect", UserWarning, stacklevel=3
            )

    def _suffixes(self):
        """(layer, suffix of its names) in the order of states."""
        for layer in range(self.num_layers):
            yield layer, f"_l{layer}"
            if self.bidirectional:
                yield layer, f"_l{layer}_reverse"

    def _parameter_shapes(self):
        shapes = {}
        for layer, suffix in self._suffixes():
            width = self.input_size if layer == 0 else self._directions * self.hidden_size
            rows = self._gates * self.hidden_size
            shapes["weight_ih" + suffix] = (rows, width)
            shapes["weight_hh" + suffix] = (rows, self.hidden_size)
            if self.bias:
                shapes["bias_ih" + suffix] = (rows,)
            if self.bias is True:
                shapes["bias_hh" + suffix] = (rows,)
        return shapes

    def _packed(self, snapshot):
        """The packed weights of a snapshot, made on first use. Two threads may both make them; one is kept."""
        if snapshot.packed is None:
            p = snapshot.arrays
            none = np.zeros(self._gates * self.hidden_size, self.dtype)
            snapshot.packed = [
                Weights(
                    self._cell(),
                    *(p["weight_ih" + suffix], p["weight_hh" + suffix]),
                    *(p.get("bias_ih" + suffix, none), p.get("bias_hh" + suffix, none)),
                )
                for _, suffix in self._suffixes()
            ]
        return snapshot.packed

    def forward(self, x, state=None, *, lengths=None, tape=None):
        """Run the layer over a batch of sequences.

        Parameters
        ----------
        x : ndarray, shape (seq_len, batch, input_size)
            Of the layer's dtype; (batch, seq_len, input_size) if ``batch_first``; (seq_len, input_size) for one
            unbatched sequence. May be read-only or not contiguous.
        state : tuple (h_0, c_0) for an LSTM, h_0 for a GRU or RNN, optional
            Each (num_layers * num_directions, batch, hidden_size), without batch if x is unbatched. Zeros if
            omitted; never written to.
        lengths : array or list of int, shape (batch,), optional
            Valid steps per sequence, 0 to seq_len, in any order; one integer if x is unbatched. Past its length a
            sequence outputs zeros, its final state is that of its last valid step, the reverse direction begins
            there, and what x holds reaches nothing.
        tape : Tape, optional
            Filled with what :meth:`backward` needs, and makes this a training forward. It keeps a copy of ``x``.

        Returns
        -------
        y : ndarray, shape (seq_len, batch, num_directions * hidden_size)
            The last layer's h at each step, in x's layout; a new array.
        state : tuple (h_n, c_n), or h_n
            Shaped like ``state``; new arrays. In the order layer 0 forward, layer 0 reverse, layer 1 forward, ...

        Raises
        ------
        ValueError
            If a shape or a length is wrong; the message gives the one expected.
        TypeError
            If an array is not an ndarray of the layer's dtype in native byte order.
        MemoryError
            If the output would not fit the machine.

        Examples
        --------
        >>> import numpy as np, cylstm
        >>> lstm = cylstm.LSTM(3, 4, rng=0)
        >>> y, (h_n, c_n) = lstm.forward(np.ones((5, 2, 3), np.float32), lengths=[5, 2])
        >>> bool((y[2:, 1] == 0).all()), bool((h_n[0, 1] == y[1, 1]).all())
        (True, True)
        """
        dtype, hidden_size, directions = self._dtype, self._hidden_size, self._directions
        layers = self._num_layers * directions
        x, batched = validation.sequence(x, dtype, self._input_size, self._batch_first)
        steps, batch, _ = x.shape
        states_0 = None
        if state is not None:
            states_0 = validation.states("state", state, self._states, dtype, (layers, batch, hidden_size), batched)
        if lengths is not None:
            lengths = validation.lengths_array(lengths, batch, steps, batched)
        if tape is not None and not isinstance(tape, Tape):
            raise TypeError(f"tape is a {type(tape).__name__}, expected a cylstm.Tape")
        width = directions * hidden_size
        # y and, between layers, two outputs; on a tape gates (16 units at least), c, and x | 1 | h of each layer.
        values = width * (1 if layers == directions else 3)
        if tape is not None:
            values += layers * (6 * max(hidden_size, 16) + self._input_size + width)
        validation.memory("this pass", (steps + 3) * batch * values * self._dtype.itemsize)
        if self._batch_first and batched:
            out = np.empty((batch, steps, width), dtype)
            y = out.swapaxes(0, 1)
        else:
            y = np.empty((steps, batch, width), dtype)
            out = y if batched else y[:, 0]
        snapshot = self._store.snapshot
        weights = self._packed(snapshot)
        if tape is None:
            states_n = stack.forward(weights, directions, x, y, states_0, lengths)
        else:
            with tape.use():
                tape.begin()
                dropout = self._dropout if tape.training else 0.0
                states_n, record = stack.forward_on_tape(weights, directions, x, y, states_0, lengths, tape, dropout)
                record.layer = self
                record.snapshot = snapshot
                record.batched = batched
                tape.keep(record)
        return out, self._as_state(states_n, batched)

    __call__ = forward

    def _as_state(self, states, batched):
        """As the caller knows them: (h, c), or h alone."""
        if not batched:
            states = [state[:, 0] for state in states]
        return tuple(states) if len(states) > 1 else states[0]

    def backward(self, tape, dy, dstate=None):
        """Back-propagate through the forward that ``tape`` recorded, and spend the tape.

        Parameters
        ----------
        tape : Tape
            Of this layer's last ``forward(x, tape=tape)``.
        dy : ndarray or None
            dL/dy, shaped like y. May be None if ``dstate`` is given.
        dstate : tuple (dh_n, dc_n), or dh_n, optional
            dL/dh_n and dL/dc_n, shaped like the final state.

        Returns
        -------
        Gradients
            ``dx`` in x's layout (zero past a length), ``dstate`` = (dL/dh_0, dL/dc_0) or dL/dh_0, ``parameters``.

        Raises
        ------
        RuntimeError
            If the tape is empty, spent or another layer's, or the parameters were changed since.
        ValueError, TypeError
            If a gradient has the wrong shape or dtype, or both are None. The tape is not spent then.
        ImportError
            If SciPy is not installed.

        Examples
        --------
        >>> import numpy as np, cylstm
        >>> lstm, tape = cylstm.LSTM(3, 4, rng=0), cylstm.Tape()
        >>> y, _ = lstm.forward(np.ones((5, 2, 3), np.float32), tape=tape)
        >>> sorted(lstm.backward(tape, y).parameters)
        ['bias_hh_l0', 'bias_ih_l0', 'weight_hh_l0', 'weight_ih_l0']
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape is a {type(tape).__name__}, expected a cylstm.Tape")
        with tape.use():
            record = tape.look(self)
            steps, batch = record.shape
            if dy is None and dstate is None:
                raise ValueError("dy and dstate are both None, expected at least one gradient")
            swap = self.batch_first and record.batched
            if dy is not None:
                expected = (steps, batch, self._directions * self.hidden_size)
                if not record.batched:
                    dy = validation.gradient("dy", dy, self.dtype, (expected[0], expected[2]))[:, None]
                elif swap:
                    dy = validation.gradient("dy", dy, self.dtype, (batch, steps, expected[2])).swapaxes(0, 1)
                else:
                    dy = validation.gradient("dy", dy, self.dtype, expected)
            states = (self.num_layers * self._directions, batch, self.hidden_size)
            dstates_n = validation.states("dstate", dstate, self._states, self.dtype, states, record.batched)
            weights = self._packed(record.snapshot)
            stack.load_blas()
            tape.spend()
            dx, dstates_0, products = stack.backward(weights, self._directions, record, dy, dstates_n)
        parameters = {}
        for (_, suffix), (dweight_ih, dweight_hh, dbias_ih, dbias_hh) in zip(self._suffixes(), products, strict=True):
            parameters["weight_ih" + suffix] = dweight_ih
            parameters["weight_hh" + suffix] = dweight_hh
            if self.bias:
                parameters["bias_ih" + suffix] = dbias_ih
            if self.bias is True:
                parameters["bias_hh" + suffix] = dbias_hh
        if not record.batched:
            dx = dx[:, 0]
        elif swap:
            dx = np.ascontiguousarray(dx.swapaxes(0, 1))
        return Gradients(dx, self._as_state(dstates_0, record.batched), parameters)

    def stream(self, batch_size=None):
        """A :class:`~cylstm.stream.Stream`: this layer one time step at a time, the state carried from call to call.

        Parameters
        ----------
        batch_size : int, optional
            None: x is (input_size,) and y (hidden_size,); n: (n, input_size) and (n, hidden_size).

        Raises
        ------
        ValueError
            If the layer is bidirectional, or ``batch_size`` negative.

        Examples
        --------
        >>> import numpy as np, cylstm
        >>> s = cylstm.LSTM(3, 4, rng=0).stream()
        >>> s.step(np.ones(3, np.float32)).shape
        (4,)
        """
        return Stream(self, batch_size)


class LSTM(Recurrent):
    """Long short-term memory, stacked and bidirectional, with PyTorch's names, shapes and gate order (i, f, g, o).

    ::

        i, f, o = sigmoid(W_i x_t + U_i h_{t-1} + b_i), ...
        g = tanh(W_g x_t + U_g h_{t-1} + b_g)
        c_t = f c_{t-1} + i g
        h_t = o tanh(c_t)

    Parameters
    ----------
    input_size, hidden_size : int
        Features of x and of h.
    num_layers : int, default 1
    bias : bool or "single", default True
        True: PyTorch's two biases, ``bias_ih_*`` and ``bias_hh_*``; "single": ``bias_ih_*`` alone; False: none.
    batch_first : bool, default False
        x and y are (batch, seq_len, features); states are not affected.
    dropout : float, default 0.0
        Probability with which an output of a layer but the last is dropped in training (see :class:`Tape`).
    bidirectional : bool, default False
    dtype : {"float32", "float64"}
    rng : None, int or numpy.random.Generator
        Source of the initial parameters, all U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)) as in PyTorch.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of a wrong type.

    References
    ----------
    S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997); F. Gers, J. Schmidhuber,
    F. Cummins, "Learning to forget", Neural Computation 12 (2000).

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> lstm = cylstm.LSTM(8, 16, num_layers=2, rng=0)
    >>> y, (h_n, c_n) = lstm.forward(np.zeros((5, 3, 8), np.float32))
    >>> y.shape, h_n.shape
    ((5, 3, 16), (2, 3, 16))
    """

    _gates = 4
    _states = ("h", "c")

    def __init__(
        self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False,
        proj_size=0, *, dtype="float32", rng=None,
    ):  # fmt: skip
        self._build(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype, rng=rng,
            proj_size=proj_size,
        )  # fmt: skip
        self._warn_of_dropout()

    def _cell(self):
        return "lstm"

    def _set_options(self, proj_size=0):
        if validation.size("proj_size", proj_size, 0):
            raise ValueError(f"proj_size is {proj_size}, and projections are not supported yet: expected 0")
        return {}


class GRU(Recurrent):
    """Gated recurrent unit, stacked and bidirectional, with PyTorch's names, shapes and gate order (r, z, n).

    ::

        r, z = sigmoid(W_r x_t + b_r + U_r h_{t-1} + b'_r), ...
        n = tanh(W_n x_t + b_n + r (U_n h_{t-1} + b'_n))
        h_t = (1 - z) n + z h_{t-1}

    Parameters
    ----------
    input_size, hidden_size : int
        Features of x and of h.
    num_layers : int, default 1
    bias : bool, default True
        Whether there are biases, PyTorch's two: ``bias_ih_*`` and ``bias_hh_*``.
    batch_first : bool, default False
        x and y are (batch, seq_len, features); states are not affected.
    dropout : float, default 0.0
        Probability with which an output of a layer but the last is dropped in training (see :class:`Tape`).
    bidirectional : bool, default False
    reset_after : bool, default True
        The reset gate r acts on U_n h_{t-1} + b'_n, as in PyTorch and Keras 3. False is not supported yet.
    dtype : {"float32", "float64"}
    rng : None, int or numpy.random.Generator
        Source of the initial parameters, all U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)) as in PyTorch.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of a wrong type.

    References
    ----------
    K. Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine translation",
    EMNLP 2014; the place of r is that of PyTorch's ``torch.nn.GRU``.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> gru = cylstm.GRU(8, 16, num_layers=2, rng=0)
    >>> y, h_n = gru.forward(np.zeros((5, 3, 8), np.float32))
    >>> y.shape, h_n.shape
    ((5, 3, 16), (2, 3, 16))
    """

    _gates = 3
    _states = ("h",)

    def __init__(
        self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False,
        *, reset_after=True, dtype="float32", rng=None,
    ):  # fmt: skip
        self._build(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype, rng=rng,
            reset_after=reset_after,
        )  # fmt: skip
        self._warn_of_dropout()

    def _cell(self):
        return "gru"

    def _set_options(self, reset_after=True):
        if not validation.flag("reset_after", reset_after):
            raise ValueError("reset_after is False, which is not supported yet: expected True")
        if self._bias == "single":
            raise ValueError("bias is 'single', but with reset_after the n gate needs its two biases apart: "
                             "expected True or False")  # fmt: skip
        return {}


class RNN(Recurrent):
    """Elman network, stacked and bidirectional, with PyTorch's names and shapes.

    ::

        h_t = nonlinearity(W x_t + b + U h_{t-1} + b')

    Parameters
    ----------
    input_size, hidden_size : int
        Features of x and of h.
    num_layers : int, default 1
    bias : bool or "single", default True
        True: PyTorch's two biases, ``bias_ih_*`` and ``bias_hh_*``; "single": ``bias_ih_*`` alone; False: none.
    batch_first : bool, default False
        x and y are (batch, seq_len, features); states are not affected.
    dropout : float, default 0.0
        Probability with which an output of a layer but the last is dropped in training (see :class:`Tape`).
    bidirectional : bool, default False
    nonlinearity : {"tanh", "relu"}
    dtype : {"float32", "float64"}
    rng : None, int or numpy.random.Generator
        Source of the initial parameters, all U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)) as in PyTorch.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of a wrong type.

    References
    ----------
    J. L. Elman, "Finding structure in time", Cognitive Science 14 (1990).

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> rnn = cylstm.RNN(8, 16, nonlinearity="relu", rng=0)
    >>> y, h_n = rnn.forward(np.zeros((5, 3, 8), np.float32))
    >>> y.shape, h_n.shape
    ((5, 3, 16), (1, 3, 16))
    """

    _gates = 1
    _states = ("h",)
    nonlinearity = _read_only("nonlinearity", '"tanh" or "relu"')

    def __init__(
        self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False,
        *, nonlinearity="tanh", dtype="float32", rng=None,
    ):  # fmt: skip
        self._build(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype, rng=rng,
            nonlinearity=nonlinearity,
        )  # fmt: skip
        self._warn_of_dropout()

    def _cell(self):
        return f"rnn_{self._nonlinearity}"

    def _set_options(self, nonlinearity="tanh"):
        if not (isinstance(nonlinearity, str) and nonlinearity in ("tanh", "relu")):
            raise ValueError(f"nonlinearity is {nonlinearity!r}, expected 'tanh' or 'relu'")
        self._nonlinearity = nonlinearity
        return {} if nonlinearity == "tanh" else {"nonlinearity": nonlinearity}


class Dense(Layer):
    """A fully connected layer over the last axis: y = activation(x W^T + b).

    Parameters
    ----------
    in_features, out_features : int
    bias : bool, default True
    activation : {None, "relu", "tanh", "sigmoid", "softmax"}
        softmax is over the last axis.
    dtype : {"float32", "float64"}
    rng : None, int or numpy.random.Generator
        Source of the initial parameters, U(-1/sqrt(in_features), 1/sqrt(in_features)) as in PyTorch's Linear.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of a wrong type.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> dense = cylstm.Dense(4, 3, activation="softmax", rng=0)
    >>> dense.forward(np.ones((2, 4), np.float32)).sum(-1).round(5).tolist()
    [1.0, 1.0]
    """

    in_features = _read_only("in_features", "features of x")
    out_features = _read_only("out_features", "features of y")
    bias = _read_only("bias", "whether there is a bias")
    activation = _read_only("activation", "name of the activation, or None")

    def __init__(self, in_features, out_features, bias=True, activation=None, *, dtype="float32", rng=None):
        self._build(in_features, out_features, bias, activation, dtype=dtype, rng=rng)

    def _build(
        self, in_features, out_features, bias=True, activation=None, *, dtype="float32", rng=None, arrays=None
    ):
        self._in_features = validation.size("in_features", in_features)
        self._out_features = validation.size("out_features", out_features)
        self._bias = validation.flag("bias", bias)
        if activation is not None and not (
            isinstance(activation, str) and activation in ("relu", "tanh", "sigmoid", "softmax")
        ):
            raise ValueError(f"activation is {activation!r}, expected None, 'relu', 'tanh', 'sigmoid' or 'softmax'")
        self._activation = activation
        dtype = validation.dtype_of(dtype)
        shapes = {"weight": (self.out_features, self.in_features)}
        if self.bias:
            shapes["bias"] = (self.out_features,)
        validation.memory("these parameters", sum(map(math.prod, shapes.values())) * 4 * dtype.itemsize)
        if arrays is None:
            rng = validation.generator(rng)
            bound = 1 / math.sqrt(self.in_features)
            arrays = {name: initializers.uniform(rng, shape, dtype, bound) for name, shape in shapes.items()}
        options = {"bias": self.bias, "activation": self.activation, "dtype": dtype.name}
        defaults = {"bias": True, "activation": None, "dtype": "float32"}
        arguments = ((self.in_features, self.out_features), _differing(defaults, options))
        super().__init__(shapes, dtype, arguments, arrays)

    def _packed(self, snapshot):
        if snapshot.packed is None:
            p = snapshot.arrays
            bias = p["bias"] if self.bias else np.zeros(self.out_features, self.dtype)
            snapshot.packed = PackedDense(p["weight"], bias)
        return snapshot.packed

    def forward(self, x, tape=None):
        """Apply the layer to the last axis of x.

        Parameters
        ----------
        x : ndarray, shape (..., in_features)
            Of the layer's dtype.
        tape : Tape, optional
            Filled with what :meth:`backward` needs; it keeps a copy of ``x``.

        Returns
        -------
        ndarray, shape (..., out_features)

        Raises
        ------
        ValueError, TypeError
            If x has the wrong shape or dtype.
        """
        x = validation.array("x", x, self.dtype)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"x has shape {x.shape}, expected (..., in_features={self.in_features})")
        if tape is not None and not isinstance(tape, Tape):
            raise TypeError(f"tape is a {type(tape).__name__}, expected a cylstm.Tape")
        validation.memory("this pass", math.prod(x.shape[:-1]) * self.out_features * 2 * self.dtype.itemsize)
        snapshot = self._store.snapshot
        if not x.flags.c_contiguous or not x.flags.aligned:
            x = validation.contiguous_copy("x", x)
        rows = x.reshape(math.prod(x.shape[:-1]), self.in_features)
        y = np.empty((rows.shape[0], self.out_features), self.dtype)
        dense_forward(self._packed(snapshot), rows, y, self.activation)
        if tape is not None:
            with tape.use():
                tape.begin()
                record = stack.Record()
                record.layer = self
                record.snapshot = snapshot
                record.shape = (*x.shape[:-1], self.out_features)
                record.inputs = rows.copy()
                record.outputs = y if self.activation is None else y.copy()
                tape.keep(record)
        return y.reshape(*x.shape[:-1], self.out_features)

    __call__ = forward

    def backward(self, tape, dy):
        """Back-propagate through the forward that ``tape`` recorded, and spend the tape.

        Parameters
        ----------
        tape : Tape
        dy : ndarray, shape (..., out_features)
            dL/dy, shaped like y.

        Returns
        -------
        Gradients
            ``dx``, ``parameters``; ``dstate`` is None.

        Raises
        ------
        RuntimeError
            If the tape is empty, spent or another layer's, or the parameters were changed since.
        ValueError, TypeError
            If dy has the wrong shape or dtype.
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape is a {type(tape).__name__}, expected a cylstm.Tape")
        with tape.use():
            record = tape.look(self)
            dy = validation.gradient("dy", dy, self.dtype, record.shape)
            dz = np.array(dy, order="C", copy=True).reshape(record.inputs.shape[0], self.out_features)
            from ._core import blas

            tape.spend()
            dense_backward(self.dtype, record.outputs, dz, self.activation)
        weight = record.snapshot.arrays["weight"]
        dx = np.empty(record.inputs.shape, self.dtype)
        dweight = np.empty(weight.shape, self.dtype)
        blas.matmul(dz, weight, dx)
        blas.matmul(dz, record.inputs, dweight, transpose_a=True)
        parameters = {"weight": dweight}
        if self.bias:
            dbias = np.empty((1, self.out_features), self.dtype)
            blas.matmul(np.ones((1, dz.shape[0]), self.dtype), dz, dbias)
            parameters["bias"] = dbias[0]
        return Gradients(dx.reshape(*record.shape[:-1], self.in_features), None, parameters)
