"""What layers share; LSTM, GRU, RNN, JordanRNN: parameters by name, forward, backward, stream. No arithmetic: that is
below."""

import contextlib
import copy
import math
import operator
import os
import threading
import warnings
import weakref
from types import MappingProxyType

import numpy as np

from . import initializers, validation
from ._core import stack
from ._core.packing import Store, Weights, freeze, rows_like
from ._core.turns import Turn
from .stream import Stream
from .tape import Gradients, check_tape

PICKLE_VERSION = 1


class _Snapshot:
    """The parameters at one moment, and what was packed from them: they live and die together."""

    __slots__ = ("arrays", "packed")

    def __init__(self, arrays):
        self.arrays = MappingProxyType(freeze(arrays))
        self.packed = None


_layers: weakref.WeakSet = weakref.WeakSet()


def _new_locks():
    """In a forked child: a thread of the parent that held a lock is not there to give it back."""
    for layer in list(_layers):
        layer._lock = threading.Lock()
        layer._writer = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_locks)


def _read_only(name, doc):
    """A property over ``_name``: packed weights have these sizes, so they can not be changed."""
    return property(operator.attrgetter(f"_{name}"), doc=doc)


class Layer:
    """What layers share: a mapping of named parameters that is replaced whole, and pickling.

    Attributes
    ----------
    trainable : bool, default True
        False: an optimiser leaves the parameters as they are. Set it at any time; pickle and copies keep it.
    """

    dtype = _read_only("dtype", "numpy.dtype of the parameters and of every array; None of a layer without parameters")
    _trainable = True

    def __init__(self, shapes, dtype, arguments, arrays):
        self._shapes = shapes
        self._dtype = dtype
        self._arguments = arguments  # what repr shows and pickle keeps
        self._lock = threading.Lock()
        self._writer = None
        _layers.add(self)
        self._store = Store(_Snapshot(validation.parameters(arrays, shapes, dtype)))

    @classmethod
    def _of(cls, *arguments, arrays, **options):
        """A layer of these arguments and parameters, checked as by the constructor; no random numbers are drawn.

        ``arrays``: a mapping of exactly the names and shapes of :attr:`parameters`, cast from any float dtype.

        Examples
        --------
        >>> import numpy as np, cylstm
        >>> cylstm.Dense._of(2, 1, arrays={"weight": np.ones((1, 2)), "bias": np.ones(1)}).forward(np.ones(2, "f"))
        array([3.], dtype=float32)
        """
        layer = cls.__new__(cls)
        layer._build(*arguments, **options, _arrays=arrays)
        return layer

    @property
    def parameters(self):
        """Mapping of name to read-only ndarray: a snapshot, which a later change does not touch."""
        return self._store.snapshot.arrays

    @property
    def trainable(self):
        """Whether an optimiser may change the parameters; may be set at any time, and pickle and copies keep it."""
        return self._trainable

    @trainable.setter
    def trainable(self, value):
        self._trainable = value

    def _trainable_names(self):
        """The names of the parameters that an optimiser may change; a container asks its layers."""
        return self._shapes.keys() if self.trainable else ()

    @property
    def _leaves(self):
        """The layers that hold the parameters, in the order of ``parameters``: of a container, all layers in it."""
        return (self,)

    def _replace(self, arrays):
        self._store.replace(_Snapshot(validation.parameters(arrays, self._shapes, self.dtype)))

    @contextlib.contextmanager
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
        with Turn(self._leaves):
            copies = self.state_dict()
            yield copies
            self._replace(copies)

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
        with Turn(self._leaves):
            self._replace(state_dict)

    # How a file describes a layer: by its class, arguments and parameters, or of a container by its parts.

    #: The (name, layer) pairs of a container; parameters of a part have its name and a dot in front.
    _parts: tuple = ()

    @classmethod
    def _from_parts(cls, parts):
        """The container whose ``_parts`` these are."""
        raise ValueError(f"{cls.__name__} has no parts")

    def save(self, path):
        """Write the layer to one file, which :func:`cylstm.load` reads: its parameters and what it is made of.

        The file is in the safetensors format, with the names of :attr:`parameters`. It is written whole or not at all:
        after an error an older file of this name is as it was.

        Parameters
        ----------
        path : str or path
            Written as named, without a suffix added: "model.safetensors".

        Raises
        ------
        OSError
            As the file system says it.
        TypeError
            If a layer is of a class that is not cylstm's own.
        ImportError
            If safetensors is not installed.

        Examples
        --------
        >>> import os, tempfile, cylstm
        >>> gru = cylstm.GRU(3, 4, clip={"gates": 2.0}, rng=0)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     gru.save(os.path.join(directory, "gru.safetensors"))
        ...     cylstm.load(os.path.join(directory, "gru.safetensors"))
        GRU(3, 4, clip={'gates': 2.0})
        """
        from .saving import save

        save(self, path)

    # How a container uses a layer. Arrays are batch-first here, x (N, T, F), whatever a layer's own batch_first says.

    #: Features of x; None: any number of them, or x is integers.
    _input_width: int | None = None

    def _pass(self, x, state, steps, tape):
        """Forward within a container.

        Parameters
        ----------
        x : ndarray, shape (N, ...)
            Batch-first: (N, T, F), or without T where a layer before this one took the time axis away. What a layer
            gives to the next: strided arrays too.
        state : the layer's state, or None
            As the layer's own ``forward`` takes it; always None for a layer without one.
        steps : cylstm.steps.Steps or None
            Which time steps of x are valid; None: all of them, or x has no time axis.
        tape : Tape or None

        Returns
        -------
        y : ndarray, shape (N, ...)
        state_n : the final state, or None for a layer without one
        steps_n : Steps or None
            What ``steps`` is for y; None where y has no time axis.
        """
        raise NotImplementedError

    def _pass_backward(self, tape, dy, dstate):
        """Back-propagate through the ``_pass`` that ``tape`` recorded: :class:`Gradients`, ``dx`` batch-first.

        ``dx`` is None for a layer whose x is integers. ``dstate`` is None for a layer without a state.
        """
        raise NotImplementedError

    def _check_state(self, name, state, batch, batched=True):
        """A list of the states in ``state``, checked, each as [h] or [h, c] with a batch axis, or None: not given.

        There is one for a recurrent layer, of a container those of its layers. ``batched``: whether they come with the
        batch axis.
        """
        if state is not None:
            raise ValueError(f"{name} is a {type(state).__name__}, expected None: {self!r} has no state")
        return []

    def _take_states(self, states, batched):
        """The next of ``states``, an iterator of what ``_check_state`` gives, as the state of this layer, or None."""

    def _look(self, tape):
        """What this layer's forward left on the tape; of a container all of its layers are asked.

        Whatever may keep a backward from being done is an error here, before a tape is spent.
        """
        return tape.look(self)

    def _output_shape(self, shape):
        """The shape of y for an x of ``shape``: tuples, batch-first, None for a size that is not known.

        A ValueError says what does not fit: ``(None, None, 3)`` -> ``(None, None, 64)``.
        """
        raise NotImplementedError

    def _stream_part(self, batch_size):
        """What does the layer's part of one time step: an object with ``step(x, out=None)``.

        x is (F,), or (n, F) for a ``batch_size`` of n. Of a layer with a state it is a Stream, which can take a step
        back. A ValueError says why a layer can not be streamed.
        """
        raise NotImplementedError

    @property
    def _streamed(self):
        """The layer that stands for this one in a stream."""
        return self

    def __repr__(self):
        positional, keywords = self._arguments
        parts = [repr(value) for value in positional]
        parts += [f"{name}={value!r}" for name, value in keywords.items()]
        return f"{type(self).__name__}({', '.join(parts)})"

    def __getstate__(self):
        return {
            "version": PICKLE_VERSION, "arguments": self._arguments, "parameters": self.state_dict(),
            "trainable": self.trainable,
        }  # fmt: skip

    def __setstate__(self, state):
        if state.get("version") != PICKLE_VERSION:
            raise ValueError(
                f"this {type(self).__name__} was pickled with version {state.get('version')}, expected {PICKLE_VERSION}"
            )
        positional, keywords = state["arguments"]
        self._build(*positional, **keywords, _arrays=state.get("parameters"))
        if "trainable" in state:  # neither in that of a container, whose layers know, nor in those of old
            self.trainable = state["trainable"]

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
    """What LSTM, GRU, RNN and JordanRNN share: all but the cell, which a subclass describes.

    ``_cell`` is the cell's name in ``_core/cells.pyx``, ``_cell_options`` what the packed weights must know besides,
    ``_gates`` the number of gates in the weights, ``_states`` a letter for each state and ``_widths`` their widths.

    Options, all by keyword:

    reverse : bool, default False
        Walk time from its end; outputs stay at their own times (Keras' go_backwards returns them in the order they were
        made). Not together with ``bidirectional``.
    merge : {"concat", "sum", "mul", "average", None}
        What becomes of the outputs of two directions, after each layer. None (for one layer): y is a pair.
    padding : "zero", "repeat" or float, default "zero"
        What each direction outputs, before they are merged, at steps that are not valid: "repeat" its last output
        before them, in its own order of processing, zeros before its first.
    empty : {"initial", "zero"}
        The final state of a row without a valid step.
    semantics : {None, "torch", "keras", "onnx"}
        Padding and empty as these have them: ("zero", "initial"), ("repeat", "initial"), ("zero", "zero"). Keras'
        Bidirectional wrapper has zeros in the padding, and so has "keras" with ``bidirectional``.
    input_dropout, recurrent_dropout : float, default 0.0
        Variational dropout [1]_: one mask per sequence, layer and direction, on x_t and on the h_{t-1} of the recurrent
        product.
    weight_dropout : float, default 0.0
        DropConnect on ``weight_hh_*`` [2]_, one mask per call.
    zoneout_h : float, default 0.0
        Probability with which a unit keeps its h from the step before [3]_; in inference the expectation of that.

    Dropout of every kind, and zoneout's choice, act with ``Tape(training=True)`` alone.

    Attributes
    ----------
    default_state : tuple (h, c) of an LSTM, h of other cells, or None
        What a forward, a stream and its ``reset`` begin with where no state is given; None: zeros. Without a batch
        axis, (num_layers * num_directions, hidden_size); set it at any time. Pickle, copies and files keep it. It is no
        parameter: an optimiser leaves it as it is, and ``state_dict`` does not have it.

    References
    ----------
    .. [1] Y. Gal, Z. Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks",
       NIPS 2016.
    .. [2] S. Merity, N. S. Keskar, R. Socher, "Regularizing and optimizing LSTM language models", ICLR 2018.
    .. [3] D. Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.
    """

    input_size = _input_width = _read_only("input_size", "features of x")
    hidden_size = _read_only("hidden_size", "units of the cell")
    num_layers = _read_only("num_layers", "layers in the stack")
    bias = _read_only("bias", 'True, False or "single"')
    batch_first = _read_only("batch_first", "whether x and y are (batch, seq_len, features)")
    bidirectional = _read_only("bidirectional", "whether there is a second, reverse direction")
    reverse = property(lambda self: self._scheme.directions == (True,), doc="whether time is walked from its end")
    merge = property(lambda self: self._scheme.merge, doc="what becomes of the outputs of two directions")
    padding = property(lambda self: self._scheme.padding, doc="what a direction outputs at steps that are not valid")
    empty = property(lambda self: self._scheme.empty, doc="the final state of a row without a valid step")
    dropout = property(lambda self: self._noise.dropout, doc="probability of dropout between layers, in training")
    input_dropout = property(lambda self: self._noise.input_dropout, doc="probability of variational dropout of x")
    recurrent_dropout = property(lambda self: self._noise.recurrent_dropout, doc="that of h in the recurrent product")
    weight_dropout = property(lambda self: self._noise.weight_dropout, doc="probability of DropConnect on weight_hh")
    zoneout_h = property(lambda self: self._noise.zoneout_h, doc="probability with which h stays as it was")

    _gates: int
    _states: tuple[str, ...]
    _cell: str
    _default: list | None = None  # [h] or [h, c], each (L*D, 1, its width), which nobody can change

    @property
    def default_state(self):
        """The state that stands for one that is not given: read-only arrays, or None."""
        return None if self._default is None else self._as_state(self._default, batched=False)

    @default_state.setter
    def default_state(self, value):
        outer = (self._num_layers * self._directions, 1)
        states = validation.states("default_state", value, self._states, self._dtype, outer, self._widths, False, "")
        if states is not None:
            states = list(freeze(dict(zip(self._states, states, strict=True))).values())
        self._default = states

    def __getstate__(self):
        state = super().__getstate__()
        return state if self._default is None else state | {"default_state": self.default_state}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.default_state = state.get("default_state")

    def _set_options(self):
        """Check the options that only this cell has, given by keyword; keep them; return what repr must show.

        Sets ``_cell``, ``_cell_options`` and ``_state_size``, and ``_gates`` where that depends on options.
        """
        raise NotImplementedError

    def _more_shapes(self):
        """{name without suffix: shape} of the parameters beside weight_ih, weight_hh and the two biases."""
        return {}

    def _positional(self):
        return (self.input_size, self.hidden_size)

    def _set_scheme(
        self, dropout, bidirectional, *, reverse=False, merge="concat", padding=None, empty=None, semantics=None,
        input_dropout=0.0, recurrent_dropout=0.0, weight_dropout=0.0, zoneout_h=0.0, zoneout_c=0.0, **options,
    ):  # fmt: skip
        """Check and keep the options that every cell has; return what repr must show of them, and the others."""
        self._bidirectional = validation.flag("bidirectional", bidirectional)
        reverse = validation.flag("reverse", reverse)
        if reverse and self._bidirectional:
            raise ValueError("reverse is True and so is bidirectional, which has both directions: expected one of them")
        merge = validation.choice("merge", merge, ("concat", "sum", "mul", "average", None))
        if merge != "concat" and not self._bidirectional:
            raise ValueError(f"merge is {merge!r}, but there is one direction: expected bidirectional=True with it")
        if merge is None and self._num_layers > 1:
            raise ValueError(f"merge is None with num_layers={self._num_layers}: the next layer needs one input")
        semantics = validation.choice("semantics", semantics, (None, "torch", "keras", "onnx"))
        if padding is None:
            padding = "repeat" if semantics == "keras" and not self._bidirectional else "zero"
        if empty is None:
            empty = "zero" if semantics == "onnx" else "initial"
        self._scheme = stack.Scheme(
            directions=(False, True) if self._bidirectional else (reverse,),
            merge=merge,
            padding=validation.padding(padding),
            empty=validation.choice("empty", empty, ("initial", "zero")),
        )
        rates = {
            "input_dropout": input_dropout, "recurrent_dropout": recurrent_dropout, "weight_dropout": weight_dropout,
            "zoneout_h": zoneout_h, "zoneout_c": zoneout_c,
        }  # fmt: skip
        self._noise = stack.Noise(
            validation.number("dropout", dropout, 0.0, 1.0),
            **{name: validation.number(name, p, 0.0, 1.0, high_open=True) for name, p in rates.items()},
        )
        if self._noise == stack.QUIET:
            self._noise = stack.QUIET  # so that one comparison tells that there is none
        if "c" not in self._states and self._noise.zoneout_c:
            raise ValueError(f"zoneout_c is {zoneout_c}, but this cell has no c: expected 0")
        given = {"reverse": reverse, **self._scheme._asdict(), **self._noise._asdict()}
        given.pop("directions")
        defaults = {"reverse": False, **stack.Scheme()._asdict(), **stack.QUIET._asdict()}
        return _differing(defaults, given), options

    def _build(
        self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False,
        *, dtype="float32", rng=None, _arrays=None, **options,
    ):  # fmt: skip
        self._input_size = validation.size("input_size", input_size)
        self._hidden_size = self._state_size = validation.size("hidden_size", hidden_size)
        self._state_name = "hidden_size"
        self._num_layers = validation.size("num_layers", num_layers)
        if not (isinstance(bias, (bool, np.bool_)) or (isinstance(bias, str) and bias == "single")):
            raise ValueError(f"bias is {bias!r}, expected True, False or 'single'")
        self._bias = str(bias) if isinstance(bias, str) else bool(bias)
        self._batch_first = validation.flag("batch_first", batch_first)
        shown, options = self._set_scheme(dropout, bidirectional, **options)
        self._cell_options = {}
        code = self._set_options.__code__
        known = code.co_varnames[1 : code.co_argcount]
        for name in options:
            if name not in known:
                allowed = {*known, *stack.Scheme._fields, *stack.QUIET._fields, "reverse", "semantics"}
                allowed -= {"directions", "dropout", "output_size"}
                allowed = sorted(allowed if "c" in self._states else allowed - {"zoneout_c"})
                raise TypeError(f"{type(self).__name__} got {name}, expected options among {', '.join(allowed)}")
        shown |= self._set_options(**options)
        for name in ("zoneout_h", "zoneout_c"):
            if getattr(self._noise, name):
                self._cell_options[name] = getattr(self._noise, name)
        dtype = validation.dtype_of(dtype)
        directions = self._directions = len(self._scheme.directions)
        self._widths = ((self._state_name, self._state_size), ("hidden_size", self._hidden_size))[: len(self._states)]
        self._output_size = self._state_size * (directions if self.merge == "concat" else 1)
        width = max(self.input_size, 16) + self._output_size + max(self.hidden_size, self._state_size, 16)
        validation.memory(  # parameters, copies of them and their packed forms, padded to vectors of up to 16
            "these parameters",
            self.num_layers * directions * self._gates * max(self.hidden_size, 16) * width * 4 * dtype.itemsize,
        )
        shapes = self._parameter_shapes()
        names = [name.removesuffix("_l0") for name in shapes if name.endswith("_l0")]
        # of each layer and direction (name without suffix, name)
        self._names = [[(name, name + suffix) for name in names] for _, suffix in self._suffixes()]
        arrays = _arrays
        if arrays is None:
            arrays = self._initial(validation.generator(rng), shapes, dtype)
        given = {
            "num_layers": self.num_layers, "bias": self.bias, "batch_first": self.batch_first,
            "dropout": shown.pop("dropout", 0.0), "bidirectional": self.bidirectional, "dtype": dtype.name,
        }  # fmt: skip
        defaults = {
            "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False,
            "dtype": "float32",
        }  # fmt: skip
        self._count_bytes(dtype.itemsize)
        super().__init__(shapes, dtype, (self._positional(), _differing(defaults, given) | shown), arrays)

    def _count_bytes(self, itemsize):
        """What a row of the batch takes: (in each step, besides), without a tape and on one."""
        layers, width = self.num_layers * self._directions, self._directions * self._state_size
        units = max(self.hidden_size, 16)
        step = width * (1 if self.num_layers == 1 else 3)  # y and, between layers, two outputs
        if self.merge != "concat":
            step += 2 * width  # one for each direction
        states = 4 * layers * max(self.hidden_size, self._state_size)
        tape = layers * (6 * units + self.input_size + width)  # gates, c and x | 1 | h
        if self._cell_options or self._noise is not stack.QUIET:
            tape += layers * (6 * units + 4 * width)
        self._bytes_of_pass = step * itemsize, states * itemsize
        self._bytes_on_tape = (step + tape) * itemsize, (states + 3 * tape) * itemsize

    def _initial(self, rng, shapes, dtype):
        """PyTorch's U(-1/sqrt(H), 1/sqrt(H)); a layer normalisation begins as no more than that."""
        bound = 1 / math.sqrt(self.hidden_size)
        arrays = {}
        for name, shape in shapes.items():
            if name.startswith("weight_ln"):
                arrays[name] = np.ones(shape, dtype)
            elif name.startswith("bias_ln"):
                arrays[name] = np.zeros(shape, dtype)
            else:
                arrays[name] = initializers.uniform(rng, shape, dtype, bound)
        return arrays

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
        rows = self._gates * self.hidden_size
        for layer, suffix in self._suffixes():
            width = self.input_size if layer == 0 else self._output_size
            shapes["weight_ih" + suffix] = (rows, width)
            shapes["weight_hh" + suffix] = (rows, self._state_size)
            if self.bias:
                shapes["bias_ih" + suffix] = (rows,)
            if self.bias is True:
                shapes["bias_hh" + suffix] = (rows,)
            for name, shape in self._more_shapes().items():
                shapes[name + suffix] = shape
        return shapes

    def _packed(self, snapshot):
        """The packed weights of a snapshot, made on first use. Two threads may both make them; one is kept."""
        if snapshot.packed is None:
            packed = []
            for names in self._names:
                arrays = {}
                for short, name in names:
                    arrays[short] = snapshot.arrays[name]
                packed.append(Weights(self._cell, arrays, self._cell_options))
            snapshot.packed = packed
        return snapshot.packed

    def forward(self, x, state=None, *, lengths=None, mask=None, tape=None):
        """Run the layer over a batch of sequences.

        Parameters
        ----------
        x : ndarray, shape (seq_len, batch, input_size)
            Of the layer's dtype; (batch, seq_len, input_size) if ``batch_first``; (seq_len, input_size) for one
            unbatched sequence. May be read-only or not contiguous.
        state : tuple (h_0, c_0) for an LSTM, h_0 for other cells, optional
            Each (num_layers * num_directions, batch, hidden_size), h_0 with proj_size or output_size instead where
            there is one; without batch if x is unbatched. If omitted, ``default_state``, or zeros. Never written to.
        lengths : array or list of int, shape (batch,), optional
            Valid steps per sequence, 0 to seq_len, in any order; one integer if x is unbatched. Past its length a
            sequence outputs zeros (or what ``padding`` says), its final state is that of its last valid step, the
            reverse direction begins there, and what x holds reaches nothing.
        mask : ndarray of bool, shape (batch, seq_len), optional
            False where a step is not valid, holes among them: the state is held, in both directions. (seq_len,) if x is
            unbatched. With ``lengths`` too a step is valid where both say so.
        tape : Tape, optional
            Filled with what :meth:`backward` needs, and makes this a training forward. It keeps a copy of ``x``.

        Returns
        -------
        y : ndarray, shape (seq_len, batch, num_directions * hidden_size)
            The last layer's h at each step, in x's layout; a new array. Without num_directions if ``merge`` makes one
            of them, and a pair of those if ``merge`` is None.
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
        dtype, scheme = self._dtype, self._scheme
        x, batched = validation.sequence(x, dtype, self._input_size, self._batch_first)
        steps, batch, _ = x.shape
        states_0 = self._default
        if state is not None:
            outer = (self._num_layers * self._directions, batch)
            states_0 = validation.states("state", state, self._states, dtype, outer, self._widths, batched)
        if lengths is not None:
            lengths = validation.lengths_array(lengths, batch, steps, batched)
        if mask is not None:
            mask = validation.mask_array(mask, lengths, batch, steps, batched)
            lengths = None
        if tape is not None:
            check_tape(tape)
        of_step, of_row = self._bytes_on_tape if tape is not None else self._bytes_of_pass
        validation.memory("this pass", batch * (steps * of_step + of_row))
        if not batched or self._batch_first or scheme.merge is None:
            out, y = self._new_outputs(steps, batch, batched)
        else:
            out = y = rows_like(x, self._output_size)
        snapshot = self._store.snapshot
        weights = snapshot.packed or self._packed(snapshot)
        if tape is None:
            states_n = stack.forward(weights, scheme, x, y, states_0, lengths, mask)
        else:
            with tape.use():
                tape.begin()
                noise = self._noise if tape.training else stack.QUIET
                states_n, record = stack.forward_on_tape(weights, scheme, noise, x, y, states_0, lengths, mask, tape)
                record.layer = self
                record.snapshot = snapshot
                record.batched = batched
                tape.keep(record)
        if batched:
            return out, tuple(states_n) if len(states_n) > 1 else states_n[0]
        return out, self._as_state(states_n, batched)

    __call__ = forward

    def _new_outputs(self, steps, batch, batched):
        """(the output as the caller gets it, the same time-major); pairs of that if directions are not merged."""
        pairs = []
        for _ in range(2 if self.merge is None else 1):
            if not batched:
                y = np.empty((steps, batch, self._output_size), self._dtype)
                pairs.append((y[:, 0], y))
            elif self._batch_first:
                out = np.empty((batch, steps, self._output_size), self._dtype)
                pairs.append((out, out.swapaxes(0, 1)))
            else:
                y = np.empty((steps, batch, self._output_size), self._dtype)
                pairs.append((y, y))
        return zip(*pairs, strict=True) if self.merge is None else pairs[0]

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
            dL/dy, shaped like y (a pair if ``merge`` is None). May be None if ``dstate`` is given.
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

        Examples
        --------
        >>> import numpy as np, cylstm
        >>> lstm, tape = cylstm.LSTM(3, 4, rng=0), cylstm.Tape()
        >>> y, _ = lstm.forward(np.ones((5, 2, 3), np.float32), tape=tape)
        >>> sorted(lstm.backward(tape, y).parameters)
        ['bias_hh_l0', 'bias_ih_l0', 'weight_hh_l0', 'weight_ih_l0']
        """
        check_tape(tape)
        with tape.use():
            record = tape.look(self)
            if dy is None and dstate is None:
                raise ValueError("dy and dstate are both None, expected at least one gradient")
            if dy is not None and self._scheme.merge is None:
                if not isinstance(dy, (tuple, list)) or len(dy) != 2:
                    raise ValueError("dy is not a pair, but merge is None: expected (dy_forward, dy_reverse)")
                dy = [self._time_major(f"dy[{k}]", part, record) for k, part in enumerate(dy)]
            elif dy is not None:
                dy = self._time_major("dy", dy, record)
            outer = (self._num_layers * self._directions, record.shape[1])
            dstates_n = validation.states(
                "dstate", dstate, self._states, self._dtype, outer, self._widths, record.batched
            )
            tape.spend()
            dx, dstates_0, gradients = stack.backward(record, dy, dstates_n)
        parameters = {}
        for names, found in zip(self._names, gradients, strict=True):
            for short, name in names:
                parameters[name] = found[short]
        if not record.batched:
            dx = dx[:, 0]
        elif self._batch_first:
            dx = np.ascontiguousarray(dx.swapaxes(0, 1))
        return Gradients(dx, self._as_state(dstates_0, record.batched), parameters)

    def _time_major(self, name, dy, record):
        """dy (T, B, width), checked."""
        steps, batch = record.shape
        if not record.batched:
            return validation.gradient(name, dy, self._dtype, (steps, self._output_size))[:, None]
        if self._batch_first:
            return validation.gradient(name, dy, self._dtype, (batch, steps, self._output_size)).swapaxes(0, 1)
        return validation.gradient(name, dy, self._dtype, (steps, batch, self._output_size))

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

    def _pass(self, x, state, steps, tape):
        lengths, mask = (None, None) if steps is None else steps
        if self._batch_first:
            y, state_n = self.forward(x, state, lengths=lengths, mask=mask, tape=tape)
            return y, state_n, steps
        y, state_n = self.forward(x.swapaxes(0, 1), state, lengths=lengths, mask=mask, tape=tape)
        return y.swapaxes(0, 1), state_n, steps

    def _pass_backward(self, tape, dy, dstate):
        if self._batch_first:
            return self.backward(tape, dy, dstate)
        gradients = self.backward(tape, None if dy is None else dy.swapaxes(0, 1), dstate)
        gradients.dx = gradients.dx.swapaxes(0, 1)
        return gradients

    def _check_state(self, name, state, batch, batched=True):
        outer = (self._num_layers * self._directions, batch)
        return [validation.states(name, state, self._states, self._dtype, outer, self._widths, batched)]

    def _zeros(self, batch):
        """A state of zeros as a list."""
        outer = (self._num_layers * self._directions, batch)
        return [np.zeros((*outer, width), self._dtype) for _, width in self._widths]

    def _take_states(self, states, batched):
        return self._as_state(next(states), batched)

    def _output_shape(self, shape):
        if self.merge is None:
            raise ValueError(f"{self!r} has merge=None, so y is a pair: a container needs one array")
        if len(shape) != 3 or shape[2] not in (None, self._input_size):
            raise ValueError(f"x has shape {shape}, expected (batch, seq_len, input_size={self._input_size})")
        return (*shape[:2], self._output_size)

    def _stream_part(self, batch_size):
        return self.stream(batch_size)


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
    proj_size : int, default 0
        If not 0, h_t = W_hr (o tanh(c_t)) has so many features (``weight_hr_*``, (proj_size, hidden_size)) [3]_.
    peepholes : bool, default False
        The gates i and f see c_{t-1} and o sees c_t, by ``weight_peephole_*``, (3 * hidden_size,) for i, f, o [4]_.
    coupled : {None, "f=1-i", "i=1-f"}
        One of the two gates is made of the other and has no weights; G = 3 then, (i, g, o) or (f, g, o). ONNX's
        input_forget, and TensorFlow Lite's CIFG.
    clip : dict, optional
        Limits by place: "gates", what gates and candidate are of, as in ONNX; "cell", c_t, as in cuDNN and TensorFlow
        Lite; "projection", h_t after its projection.
    layer_norm : {None, "joint", "per_gate"}
        "joint", as in Haste: gain_ih N(W x) + gain_hh N(U h) + b over all gates, and tanh sees gain_c N(c) + shift;
        "per_gate", as in TensorFlow Lite: gain N(W x + U h) + b for each gate. N(v) = (v - mean) / sqrt(variance + eps)
        [5]_, eps 1e-5 or 1e-8. ``weight_ln_ih_*``, ``weight_ln_hh_*`` (G*H,), ``weight_ln_c_*``, ``bias_ln_c_*`` (H,);
        or ``weight_ln_*`` (G*H,).
    activations : tuple, default ("sigmoid", "tanh", "tanh")
        Of the gates, the candidate g and the output. Each a name, (name, alpha) or (name, alpha, beta): sigmoid, tanh,
        relu, leaky_relu, thresholded_relu, affine, scaled_tanh, hard_sigmoid, elu, softsign, softplus, linear, swish,
        gelu.
    forget_bias : float, optional
        The forget gate's bias at the beginning.
    zoneout_c : float, default 0.0
        As ``zoneout_h``, for c.
    **cell_options
        Those of every recurrent layer: see :class:`~cylstm.layers.Recurrent`.
    dtype : {"float32", "float64"}
    rng : None, int or numpy.random.Generator
        Source of the initial parameters, all U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)) as in PyTorch; layer
        normalisations begin with gain 1 and shift 0.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of a wrong type, or options do not go together.

    References
    ----------
    .. [1] S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997).
    .. [2] F. Gers, J. Schmidhuber, F. Cummins, "Learning to forget", Neural Computation 12 (2000).
    .. [3] H. Sak, A. Senior, F. Beaufays, "Long short-term memory recurrent neural network architectures for large
       scale acoustic modeling", Interspeech 2014.
    .. [4] F. Gers, N. Schraudolph, J. Schmidhuber, "Learning precise timing with LSTM recurrent networks", JMLR 3
       (2002).
    .. [5] J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", arXiv:1607.06450 (2016).

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> lstm = cylstm.LSTM(8, 16, num_layers=2, rng=0)
    >>> y, (h_n, c_n) = lstm.forward(np.zeros((5, 3, 8), np.float32))
    >>> y.shape, h_n.shape
    ((5, 3, 16), (2, 3, 16))
    >>> lstm = cylstm.LSTM(8, 16, peepholes=True, clip={"gates": 3.0}, activations=("hard_sigmoid", "tanh", "tanh"))
    >>> lstm.parameters["weight_peephole_l0"].shape
    (48,)
    """

    _states = ("h", "c")
    proj_size = _read_only("proj_size", "features of h, or 0: hidden_size")
    peepholes = _read_only("peepholes", "whether gates see c")
    coupled = _read_only("coupled", "which of i and f is made of the other")
    clip = property(lambda self: dict(self._clip), doc="limits by place")
    layer_norm = _read_only("layer_norm", "which layer normalisation")
    activations = property(lambda self: tuple(map(_plain_name, self._activations)), doc="gates, candidate and output")
    forget_bias = _read_only("forget_bias", "the forget gate's bias at the beginning, or None")
    zoneout_c = property(lambda self: self._noise.zoneout_c, doc="probability with which c stays as it was")

    def __init__(
        self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False,
        proj_size=0, *, peepholes=False, coupled=None, clip=None, layer_norm=None,
        activations=("sigmoid", "tanh", "tanh"), forget_bias=None, dtype="float32", rng=None, **cell_options,
    ):  # fmt: skip
        self._build(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype, rng=rng,
            proj_size=proj_size, peepholes=peepholes, coupled=coupled, clip=clip, layer_norm=layer_norm,
            activations=activations, forget_bias=forget_bias, **cell_options,
        )  # fmt: skip
        self._warn_of_dropout()

    def _set_options(
        self, proj_size=0, peepholes=False, coupled=None, clip=None, layer_norm=None,
        activations=("sigmoid", "tanh", "tanh"), forget_bias=None,
    ):  # fmt: skip
        self._proj_size = validation.size("proj_size", proj_size, 0)
        self._peepholes = validation.flag("peepholes", peepholes)
        self._coupled = validation.choice("coupled", coupled, (None, "f=1-i", "i=1-f"))
        self._gates = 4 if coupled is None else 3
        self._clip = validation.clip(clip, ("gates", "cell", "projection"))
        if "projection" in self._clip and not proj_size:
            raise ValueError("clip has 'projection', but proj_size is 0: there is no projection")
        self._layer_norm = validation.choice("layer_norm", layer_norm, (None, "joint", "per_gate"))
        self._activations = validation.activations(activations, ("gates", "candidate", "output"))
        if forget_bias is not None:
            forget_bias = validation.finite("forget_bias", forget_bias)
            if not self.bias or coupled == "f=1-i":
                why = "bias is False" if not self.bias else "coupled is 'f=1-i', so f has no weights"
                raise ValueError(f"forget_bias is {forget_bias}, but {why}")
        self._forget_bias = forget_bias
        options = {
            "proj_size": self.proj_size, "peepholes": self.peepholes, "coupled": coupled, "clip": self.clip,
            "layer_norm": layer_norm, "activations": self.activations, "forget_bias": forget_bias,
        }  # fmt: skip
        defaults = {
            "proj_size": 0, "peepholes": False, "coupled": None, "clip": {}, "layer_norm": None,
            "activations": ("sigmoid", "tanh", "tanh"), "forget_bias": None,
        }  # fmt: skip
        shown = _differing(defaults, options)
        if self.proj_size:
            self._state_name, self._state_size = "proj_size", self.proj_size
            self._cell_options |= {"projection": ("linear",), "clip": self.clip}
        self._cell = "lstm"
        if shown.keys() - {"proj_size", "clip", "forget_bias"} or self.clip.keys() - {"projection"}:
            self._cell = "lstm_variant"
            self._cell_options |= {
                **dict(zip(("gate", "candidate", "output"), self._activations, strict=True)),
                "clip": self.clip, "coupled": coupled, "layer_norm": layer_norm,
            }  # fmt: skip
        return shown

    def _more_shapes(self):
        hidden_size, gates = self.hidden_size, self._gates * self.hidden_size
        shapes = {}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, hidden_size)
        if self.peepholes:
            shapes["weight_peephole"] = (gates - hidden_size,)
        if self.layer_norm == "joint":
            shapes |= {"weight_ln_ih": (gates,), "weight_ln_hh": (gates,)}
            shapes |= {"weight_ln_c": (hidden_size,), "bias_ln_c": (hidden_size,)}
        elif self.layer_norm == "per_gate":
            shapes["weight_ln"] = (gates,)
        return shapes

    def _initial(self, rng, shapes, dtype):
        arrays = super()._initial(rng, shapes, dtype)
        if self._forget_bias is not None:
            first = 0 if self.coupled else self.hidden_size
            for name, value in arrays.items():
                if name.startswith(("bias_ih", "bias_hh")):
                    value[first : first + self.hidden_size] = self._forget_bias if name.startswith("bias_ih") else 0
        return arrays


class GRU(Recurrent):
    """Gated recurrent unit, stacked and bidirectional, with PyTorch's names, shapes and gate order (r, z, n).

    ::

        r, z = sigmoid(W_r x_t + b_r + U_r h_{t-1} + b'_r), ...
        n = tanh(W_n x_t + b_n + r (U_n h_{t-1} + b'_n))        reset_after, or
        n = tanh(W_n x_t + b_n + U_n (r h_{t-1}) + b'_n)        not
        h_t = (1 - z) n + z h_{t-1}

    Parameters
    ----------
    input_size, hidden_size : int
        Features of x and of h.
    num_layers : int, default 1
    bias : bool or "single", default True
        True: PyTorch's two biases, ``bias_ih_*`` and ``bias_hh_*``; "single", without ``reset_after`` only:
        ``bias_ih_*`` alone; False: none.
    batch_first : bool, default False
        x and y are (batch, seq_len, features); states are not affected.
    dropout : float, default 0.0
        Probability with which an output of a layer but the last is dropped in training (see :class:`Tape`).
    bidirectional : bool, default False
    reset_after : bool, default True
        Whether the reset gate r acts on U_n h_{t-1} + b'_n (PyTorch, Keras 3, ONNX's linear_before_reset=1) or on
        h_{t-1} before the product, as in the paper.
    activations : tuple, default ("sigmoid", "tanh")
        Of the gates and of the candidate n: see :class:`LSTM`.
    clip : dict, optional
        {"gates": limit} of what gates and candidate are of, as in ONNX.
    **cell_options
        Those of every recurrent layer: see :class:`~cylstm.layers.Recurrent`.
    dtype : {"float32", "float64"}
    rng : None, int or numpy.random.Generator
        Source of the initial parameters, all U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)) as in PyTorch.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of a wrong type, or options do not go together.

    References
    ----------
    K. Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine translation",
    EMNLP 2014; the other place of r is that of PyTorch's ``torch.nn.GRU``.

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
    reset_after = _read_only("reset_after", "whether r acts on the recurrent product")
    clip = property(lambda self: dict(self._clip), doc="limits by place")
    activations = property(lambda self: tuple(map(_plain_name, self._activations)), doc="gates and candidate")

    def __init__(
        self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False,
        *, reset_after=True, activations=("sigmoid", "tanh"), clip=None, dtype="float32", rng=None, **cell_options,
    ):  # fmt: skip
        self._build(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype, rng=rng,
            reset_after=reset_after, activations=activations, clip=clip, **cell_options,
        )  # fmt: skip
        self._warn_of_dropout()

    def _set_options(self, reset_after=True, activations=("sigmoid", "tanh"), clip=None):
        self._reset_after = validation.flag("reset_after", reset_after)
        if self._bias == "single" and reset_after:
            raise ValueError("bias is 'single', but with reset_after the n gate needs its two biases apart: "
                             "expected True or False")  # fmt: skip
        self._activations = validation.activations(activations, ("gates", "candidate"))
        self._clip = validation.clip(clip, ("gates",))
        shown = _differing(
            {"activations": ("sigmoid", "tanh"), "clip": {}}, {"activations": self.activations, "clip": self.clip}
        )
        self._cell = "gru_variant" if shown else "gru"
        if not reset_after:
            self._cell = "gru_before"
            shown["reset_after"] = False
        if shown:
            self._cell_options |= dict(zip(("gate", "candidate"), self._activations, strict=True)) | {"clip": self.clip}
        return shown


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
    nonlinearity : activation, default "tanh"
        A name, (name, alpha) or (name, alpha, beta): see :class:`LSTM`. "tanh" and "relu" are the fastest.
    clip : dict, optional
        {"gates": limit} of what the nonlinearity is of, as in ONNX.
    **cell_options
        Those of every recurrent layer: see :class:`~cylstm.layers.Recurrent`.
    dtype : {"float32", "float64"}
    rng : None, int or numpy.random.Generator
        Source of the initial parameters, all U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)) as in PyTorch.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of a wrong type, or options do not go together.

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
    nonlinearity = property(lambda self: _plain_name(self._nonlinearity), doc="the activation")
    clip = property(lambda self: dict(self._clip), doc="limits by place")

    def __init__(
        self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False,
        *, nonlinearity="tanh", clip=None, dtype="float32", rng=None, **cell_options,
    ):  # fmt: skip
        self._build(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype, rng=rng,
            nonlinearity=nonlinearity, clip=clip, **cell_options,
        )  # fmt: skip
        self._warn_of_dropout()

    def _set_options(self, nonlinearity="tanh", clip=None):
        self._nonlinearity = validation.activation("nonlinearity", nonlinearity)
        self._clip = validation.clip(clip, ("gates",))
        name = self._nonlinearity[0]
        self._cell = f"rnn_{name}"
        if name not in ("tanh", "relu") or "gates" in self._clip:
            self._cell = "rnn_variant"
            self._cell_options |= {"candidate": self._nonlinearity, "clip": self.clip}
        return _differing({"nonlinearity": "tanh", "clip": {}}, {"nonlinearity": self.nonlinearity, "clip": self.clip})


def _plain_name(activation):
    """An activation without numbers as its name."""
    return activation[0] if len(activation) == 1 else activation


class JordanRNN(RNN):
    """Jordan network: what is fed back is the output y, not the hidden state.

    ::

        a_t = nonlinearity(W x_t + b + U y_{t-1} + b')
        y_t = activation(V a_t + c)

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Features of x, a and y.
    num_layers : int, default 1
    bias : bool or "single", default True
        True: ``bias_ih_*``, ``bias_hh_*`` and ``bias_ho_*``; "single": without ``bias_hh_*``; False: none.
    batch_first : bool, default False
        x and y are (batch, seq_len, features); states are not affected.
    dropout : float, default 0.0
        Probability with which an output of a layer but the last is dropped in training (see :class:`Tape`).
    bidirectional : bool, default False
    nonlinearity : activation, default "tanh"
    activation : activation, default "linear"
        Of the output. Each a name, (name, alpha) or (name, alpha, beta): see :class:`LSTM`.
    clip : dict, optional
        {"gates": limit} of what the nonlinearity is of.
    **cell_options
        Those of every recurrent layer: see :class:`~cylstm.layers.Recurrent`. The h of their descriptions is y here.
    dtype : {"float32", "float64"}
    rng : None, int or numpy.random.Generator
        Source of the initial parameters, all U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)).

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of a wrong type, or options do not go together.

    Notes
    -----
    ``weight_ih_*`` (H, I), ``weight_hh_*`` (H, output_size), ``weight_ho_*`` (output_size, H), ``bias_ho_*``. The state
    is y, (num_layers * num_directions, batch, output_size).

    References
    ----------
    M. I. Jordan, "Serial order: a parallel distributed processing approach", ICS Report 8604, UC San Diego (1986).

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> rnn = cylstm.JordanRNN(8, 16, 2, rng=0)
    >>> y, y_n = rnn.forward(np.zeros((5, 3, 8), np.float32))
    >>> y.shape, y_n.shape
    ((5, 3, 2), (1, 3, 2))
    """

    output_size = _read_only("state_size", "features of y")
    activation = property(lambda self: _plain_name(self._activation), doc="of the output")

    def __init__(
        self, input_size, hidden_size, output_size, num_layers=1, bias=True, batch_first=False, dropout=0.0,
        bidirectional=False, *, nonlinearity="tanh", activation="linear", clip=None, dtype="float32", rng=None,
        **cell_options,
    ):  # fmt: skip
        self._build(
            input_size, hidden_size, output_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype,
            rng=rng, nonlinearity=nonlinearity, activation=activation, clip=clip, **cell_options,
        )  # fmt: skip
        self._warn_of_dropout()

    def _build(self, input_size, hidden_size, output_size, *arguments, **options):
        super()._build(input_size, hidden_size, *arguments, output_size=output_size, **options)

    def _positional(self):
        return (self.input_size, self.hidden_size, self.output_size)

    def _set_options(self, output_size, nonlinearity="tanh", activation="linear", clip=None):
        self._state_name, self._state_size = "output_size", validation.size("output_size", output_size)
        self._activation = validation.activation("activation", activation)
        shown = super()._set_options(nonlinearity, clip)
        self._cell_options["projection"] = self._activation
        return shown | _differing({"activation": "linear"}, {"activation": self.activation})

    def _more_shapes(self):
        shapes = {"weight_ho": (self.output_size, self.hidden_size)}
        if self.bias:
            shapes["bias_ho"] = (self.output_size,)
        return shapes
