"""Sequential: layers one after the other, with the surface of one layer.

Knows how a container uses layers (``Layer._pass`` and what stands beside it), and hands arrays and states on; knows no
cell and does no arithmetic. Arrays are batch-first.
"""

import copy
import math
import operator
from itertools import chain, takewhile, zip_longest
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from . import validation
from ._core import stack
from ._core.chain import Chain, Stage
from ._core.packing import replace_all
from .feedforward import Dropout, Embedding, Flatten, Last, Masking
from .layers import PICKLE_VERSION, Layer, Recurrent, _Snapshot
from .steps import Steps
from .tape import Gradients, check_tape

STREAM_PICKLE_VERSION = 1

# Numbers that the largest array of a batch has at least, in predict and evaluate: 4 MB of float32. Batches of 32 rows,
# with 1 to 250 thousand numbers, took 1.05 to 2.6 times as long as one forward over all rows; these take 0.7 to 1.2.
BATCH_NUMBERS = 1 << 20

_snapshot_of = operator.attrgetter("snapshot")


class _Record(NamedTuple):
    """What a forward leaves on a tape."""

    layer: Layer
    snapshot: object  # of no parameters: the tape of each layer has its own
    parts: list  # the tapes of the layers
    shape: tuple  # of y
    dtype: np.dtype
    kept: object  # what the container itself wants to have


class Container(Layer):
    """What layers made of layers share: parameters under prefixed names, which are read and replaced together.

    A subclass has ``_run(x, state, steps, tapes)``, which returns y, the final states, the Steps of y and what backward
    needs besides the tapes; and ``_run_backward(record, dy, dstate)``: dx, dstate and the Gradients of the layers.
    """

    #: The names of the layers, where they are always the same.
    _part_names: tuple[str, ...] = ()

    def _gather(self, pairs):
        """Take these (name, layer) pairs as the layers; return the dtype of all."""
        self._names = tuple(name for name, _ in pairs)
        self._layers = tuple(layer for _, layer in pairs)
        leaves = [(f"{name}{inner}", leaf) for name, layer in pairs for inner, leaf in _named_leaves(layer)]
        self._leaf_names, self._leaf_layers = zip(*leaves, strict=True)
        validation.different(leaves)
        return validation.one_dtype(leaves)

    def _finish(self, dtype, arguments, options=None):
        super().__init__({}, dtype, (arguments, options or {}), {})
        self._shapes = {  # those of the layers: the container itself has no parameters
            f"{name}.{inner}": shape
            for name, layer in zip(self._names, self._layers, strict=True)
            for inner, shape in layer._shapes.items()
        }
        self._stores = [leaf._store for leaf in self._leaf_layers]

    @property
    def _parts(self):
        return tuple(zip(self._names, self._layers, strict=True))

    @classmethod
    def _from_parts(cls, parts, **options):
        names = [name for name, _ in parts]
        if names != list(cls._part_names):
            raise ValueError(f"its parts are {', '.join(names)}, expected {' and '.join(cls._part_names)}")
        return cls(*(layer for _, layer in parts), **options)

    @property
    def _leaves(self):
        return self._leaf_layers

    @property
    def parameters(self):
        """Mapping of name to read-only ndarray: a snapshot, which a later change does not touch."""
        snapshots = list(map(_snapshot_of, self._stores))  # in C: no writer comes in between
        arrays = chain.from_iterable(snapshot.arrays.values() for snapshot in snapshots)
        return MappingProxyType(dict(zip(self._shapes, arrays, strict=True)))

    def _replace(self, arrays):
        values = iter(validation.parameters(arrays, self._shapes, self.dtype).values())
        snapshots = [_Snapshot({name: next(values) for name in leaf._shapes}) for leaf in self._leaf_layers]
        replace_all(self._stores, snapshots)

    @property
    def trainable(self):
        """Whether any layer is; setting it sets all of them."""
        return any(layer.trainable for layer in self._layers)

    @trainable.setter
    def trainable(self, value):
        for layer in self._layers:
            layer.trainable = value

    def _trainable_names(self):
        if all([leaf._trainable for leaf in self._leaf_layers]):
            return self._shapes.keys()
        return [
            f"{name}.{inner}"
            for name, layer in zip(self._names, self._layers, strict=True)
            for inner in layer._trainable_names()
        ]

    def __getstate__(self):
        return {"version": PICKLE_VERSION, "arguments": self._arguments}

    def _look(self, tape):
        record = tape.look(self)
        for layer, part in zip(self._layers, record.parts, strict=True):
            layer._look(part)  # before any of them is spent
        return record

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def _take_states(self, states, batched):
        return [layer._take_states(states, batched) for layer in self._layers]

    def _check_state(self, name, state, batch, batched=True):
        if state is None:
            state = [None] * len(self._layers)
        elif not isinstance(state, (list, tuple)):
            raise TypeError(f"{name} is a {type(state).__name__}, expected a list with one entry per layer")
        elif len(state) != len(self._layers):
            raise ValueError(f"{name} has {len(state)} entries, expected {len(self._layers)}, one per layer")
        found = []
        for n, (layer, part) in enumerate(zip(self._layers, state, strict=True)):
            found += layer._check_state(f"{name}[{n}]", part, batch, batched)
        return found

    def _pass(self, x, state, steps, tape):
        if tape is None:
            return self._run(x, state, steps, [None] * len(self._layers))[:3]
        with tape.use():
            tape.begin()
            parts = [tape.part(n) for n in range(len(self._layers))]
            y, states_n, steps_n, kept = self._run(x, state, steps, parts)
            tape.keep(_Record(self, self._store.snapshot, parts, y.shape, y.dtype, kept))
        return y, states_n, steps_n

    def _run(self, x, state, steps, tapes):
        raise NotImplementedError

    def _backward(self, tape, dy, dstate, name):
        """What ``backward`` does, which calls ``dstate`` by this name."""
        check_tape(tape)
        with tape.use():
            record = self._look(tape)
            if dy is None and dstate is None:
                raise ValueError(f"dy and {name} are both None, expected at least one gradient")
            if dy is not None:
                dy = validation.gradient("dy", dy, record.dtype, record.shape)
            if dstate is not None:
                self._check_state(name, dstate, record.shape[0])
            tape.spend()
            dx, dstate, found = self._run_backward(record, dy, dstate)
        arrays = chain.from_iterable([gradients.parameters.values() for gradients in found])
        return Gradients(dx, dstate, dict(zip(self._shapes, arrays, strict=True)))

    def _run_backward(self, record, dy, dstate):
        raise NotImplementedError

    def _pass_backward(self, tape, dy, dstate):
        return self.backward(tape, dy, dstate)


class Model(Container):
    """A container that is trained as a whole. A subclass has ``_as_rows``, ``_rows_pass`` and ``_passes``."""

    def fit(
        self, x, y, *, loss, optimizer="adam", epochs=1, batch_size=32, lengths=None, sample_weight=None,
        validation_data=None, validation_split=0.0, shuffle=True, rng=None, metrics=(), callbacks=(), progress=True,
        tbptt=None, stateful=False, clip_norm=None, clip_value=None, resume=None,
    ):  # fmt: skip
        """Train the model: :func:`cylstm.fitting.fit`, which says what the parameters are."""
        arguments = locals()
        from .fitting import fit

        return fit(arguments.pop("self"), arguments.pop("x"), arguments.pop("y"), **arguments)

    def evaluate(self, x, y, loss=None, metrics=(), batch_size=32, lengths=None, sample_weight=None):
        """Losses and metrics over any number of rows, in batches.

        Parameters
        ----------
        x, batch_size, lengths
            As for ``predict``.
        y : array_like, shape (n, ...)
            The target, as the loss takes it.
        loss : str or callable, optional
            A name of :mod:`cylstm.losses`, or a function like those.
        metrics : list of str or callable
            Names of :mod:`cylstm.metrics`, or functions like those.
        sample_weight : array_like, shape (n,) or (n, seq_len), optional
            As for the loss.

        Returns
        -------
        dict of str to float
            "loss", and each metric by its name: means over all positions, weighted by ``sample_weight``. Steps that are
            not valid do not count: past a length, or masked by the model.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.

        Examples
        --------
        >>> import cylstm
        >>> model = cylstm.Sequential([cylstm.Activation("linear")])
        >>> model.evaluate([[0.0, 2.0], [1.0, 0.0]], [[0, 1], [0, 0]], "mse", ["mae", "accuracy"])
        {'loss': 0.5, 'mae': 0.5, 'accuracy': 1.0}
        """
        from . import losses
        from . import metrics as known

        x, y = self._numbers(x), np.asarray(y)
        validation.rows("y", y, count := len(x[0] if isinstance(x, tuple) else x))
        functions = {}
        if loss is not None:
            loss = losses.get(loss)
            functions["loss"] = lambda *arguments, **keywords: loss(*arguments, **keywords)[0]
        functions |= known.by_name(metrics)
        if sample_weight is not None:
            sample_weight = np.asarray(sample_weight)
            validation.rows("sample_weight", sample_weight, count)
        values = {name: [] for name in functions}
        weights = []
        for rows, y_pred, steps in self._passes(x, batch_size, lengths):
            weight = None if sample_weight is None else sample_weight[rows]
            positions = {"batch_first": True, **({} if steps is None else steps._asdict())}
            weights.append(losses.total_weight(y_pred, weight, **positions))
            for name, function in functions.items():
                values[name].append(float(function(y_pred, y[rows], weight, **positions)))
        return {name: known.combine(function, values[name], weights) for name, function in functions.items()}

    def _batches(self, count, row, batch_size):
        """Slices of ``count`` rows, evenly shared out: of so many at least, of more where ``row`` numbers are few."""
        batches = -(-count // max(validation.size("batch_size", batch_size), BATCH_NUMBERS // max(row, 1)))
        return [slice(count * n // batches, count * (n + 1) // batches) for n in range(batches)]


class Sequential(Model):
    """Layers one after the other. It is a layer itself: an optimiser takes it as one, and so does another Sequential.

    Data is batch-first, whatever ``batch_first`` of a recurrent layer says. Which time steps are valid (by ``lengths``,
    a Masking or an Embedding) goes from layer to layer.

    Parameters
    ----------
    layers : list of layers, or of (name, layer) pairs
        In the order of computation. A layer without a name has its index as one: "0", "1", ... Parameters are called as
        in their layer, with its name in front: ``"0.weight_ih_l0"``.

    Raises
    ------
    TypeError
        If an entry is not a layer, or a name not a string.
    ValueError
        If there is no layer; a layer or a name comes twice; a name is empty or has a dot; dtypes differ; an Embedding
        is not first; a layer does not take what the one before it makes (both are named).

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> model = cylstm.Sequential([cylstm.LSTM(3, 8, rng=0), ("out", cylstm.Dense(8, 2, rng=1))])
    >>> y, states = model.forward(np.ones((4, 5, 3), np.float32), lengths=[5, 2, 0, 1])
    >>> y.shape, len(states), states[1]
    ((4, 5, 2), 2, None)
    >>> list(model.parameters)[-2:]
    ['out.weight', 'out.bias']
    """

    def __init__(self, layers):
        self._build(layers)

    def _build(self, layers, _arrays=None):
        pairs = validation.named_layers(layers, Layer)
        dtype = self._gather(pairs)
        self._units = [(f"{name}{inner}", unit) for name, layer in pairs for inner, unit in _named_units(layer)]
        self._takes_integers = isinstance(self._leaf_layers[0], Embedding)
        for name, leaf in zip(self._leaf_names[1:], self._leaf_layers[1:], strict=True):
            if isinstance(leaf, Embedding):
                raise ValueError(f"layer {name!r}, {leaf!r}, is not the first one, and a layer makes no integers")
        of_x = list(takewhile(lambda leaf: not isinstance(leaf, Flatten), self._leaf_layers))
        self._flattens = len(of_x) < len(self._leaf_layers)  # the layers behind that one look at T times F
        widths = [leaf._input_width for leaf in of_x if leaf._input_width is not None]
        self._input_width = widths[0] if widths and not self._takes_integers else None
        self._examples = self._example_inputs()
        self._finish(dtype, ([layer if name == str(n) else (name, layer) for n, (name, layer) in enumerate(pairs)],))

    def _example_inputs(self):
        """{number of axes: shape} of each x that goes through all layers, with None for what is not known."""
        examples = [(None, None)]  # (N, T) of integers, or (N, F)
        if not self._takes_integers:
            examples = [(None, None, self._input_width), (None, self._input_width)]
        tried = [self._shapes_from(shape) for shape in examples]
        found = {len(shapes[0]): shapes[0] for shapes, error in tried if error is None}
        if not found:  # the error of the one that came furthest says most
            raise max(tried, key=lambda attempt: len(attempt[0]))[1]
        return found

    def _shapes_from(self, shape):
        """([shape of x, of the output of each layer, ...], the error of the layer that does not take it, or None)."""
        shapes = [shape]
        for n, layer in enumerate(self._layers):
            try:
                shapes.append(layer._output_shape(shapes[-1]))
            except ValueError as error:
                if n > 0:
                    one, other = (f"layer {self._names[k]!r}, {self._layers[k]!r}" for k in (n - 1, n))
                    error = ValueError(f"{other}, does not take what {one}, makes: {error}")
                return shapes, error
        return shapes, None

    def _output_shape(self, shape):
        shapes, error = self._shapes_from(shape)
        if error is not None:
            raise error
        return shapes[-1]

    # The layers

    @property
    def layers(self):
        """The layers, a tuple."""
        return self._layers

    @classmethod
    def _from_parts(cls, parts):
        return cls(list(parts))

    def __len__(self):
        return len(self._layers)

    def __iter__(self):
        return iter(self._layers)

    def __getitem__(self, key):
        """A layer by its index or its name; a tuple of them by a slice."""
        if not isinstance(key, str):
            return self._layers[key]
        if key not in self._names:
            raise KeyError(f"there is no layer {key!r}, expected one of {', '.join(map(repr, self._names))}")
        return self._layers[self._names.index(key)]

    # Forwards and backwards

    def forward(self, x, states=None, lengths=None, tape=None):
        """Run the layers over a batch.

        Parameters
        ----------
        x : ndarray, shape (batch, seq_len, features)
            Of the model's dtype; (batch, seq_len) of integers where an Embedding is first; (batch, features) where no
            layer needs time.
        states : list, optional
            For each layer its initial state as the layer takes it, or None: its ``default_state`` or zeros, or that it
            has none.
        lengths : array or list of int, shape (batch,), optional
            Valid steps of each sequence, 0 to seq_len, in any order.
        tape : Tape, optional
            Filled with what :meth:`backward` needs, and makes this a training forward.

        Returns
        -------
        y : ndarray, shape (batch, ...)
            What the last layer makes. A new array, not always contiguous.
        states : list
            For each layer its final state, or None.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.

        Examples
        --------
        >>> import numpy as np, cylstm
        >>> model = cylstm.Sequential([cylstm.GRU(3, 4, rng=0), cylstm.LSTM(4, 2, rng=1)])
        >>> x = np.ones((1, 6, 3), np.float32)
        >>> y, states = model.forward(x[:, :4])
        >>> z, _ = model.forward(x[:, 4:], states)
        >>> bool((np.concatenate([y, z], axis=1) == model.forward(x)[0]).all())
        True
        """
        x = self._typed(x)
        self._check_shape(x.shape)
        if states is not None:
            self._check_state("states", states, x.shape[0])
        steps = None if lengths is None else self._steps(lengths, x.shape)
        if tape is not None:
            check_tape(tape)
        y, states_n, _ = self._pass(x, states, steps, tape)
        return y, states_n

    def _typed(self, x, name="x"):
        return validation.integers(name, x) if self._takes_integers else validation.array(name, x, self._dtype)

    def _dtype_of_x(self, x):
        """What numbers that are given as x are converted to."""
        return np.dtype(np.intp) if self._takes_integers else self._dtype or _float_dtype(x)

    def _check_shape(self, shape, name="x"):
        """That x has the axes of one of the examples. Without a Flatten layers look at their number and at the last."""
        if len(shape) not in self._examples or self._input_width not in (None, shape[-1]):
            features = "features" if self._input_width is None else f"features={self._input_width}"
            words = {2: "(batch, seq_len)" if self._takes_integers else f"(batch, {features})",
                     3: f"(batch, seq_len, {features})"}
            expected = " or ".join(words[axes] for axes in self._examples)
            raise ValueError(f"{name} has shape {shape}, expected {expected}")
        if self._flattens:
            self._output_shape(shape)

    def _steps(self, lengths, shape, names=("x", "lengths")):
        """What a caller's lengths say of x."""
        if len(shape) < (2 if self._takes_integers else 3):
            raise ValueError(f"{names[1]} is given, but {names[0]} of shape {shape} has no time axis")
        return Steps(validation.lengths_array(lengths, *shape[:2], True, names[1]))

    def _run(self, x, state, steps, tapes):
        states_n = []
        for layer, part, tape in zip(self._layers, state or [None] * len(tapes), tapes, strict=True):
            x, state_n, steps = layer._pass(x, part, steps, tape)
            states_n.append(state_n)
        return x, states_n, steps, None

    def backward(self, tape, dy, dstates=None):
        """Back-propagate through the forward that ``tape`` recorded, and spend the tape.

        Parameters
        ----------
        tape : Tape
            Of this model's last ``forward(x, tape=tape)``.
        dy : ndarray or None
            dL/dy, shaped like y. May be None if ``dstates`` is given.
        dstates : list, optional
            For each layer the gradient of its final state, as the layer takes it, or None.

        Returns
        -------
        Gradients
            ``dx`` shaped like x, None where x is integers; ``dstate``, a list with one entry per layer, None where it
            has no state; ``parameters``.

        Raises
        ------
        RuntimeError
            If the tape is empty, spent or another layer's, or parameters were changed since.
        ValueError, TypeError
            If a gradient has the wrong shape or dtype, or both are None. The tape is not spent then.
        ImportError
            If a layer is a Dense and SciPy is not installed.

        Examples
        --------
        >>> import numpy as np, cylstm
        >>> model = cylstm.Sequential([cylstm.LSTM(3, 4, rng=0), cylstm.Last(), cylstm.Dense(4, 2, rng=0)])
        >>> tape = cylstm.Tape()
        >>> y, _ = model.forward(np.ones((6, 5, 3), np.float32), tape=tape)
        >>> gradients = model.backward(tape, np.ones_like(y))
        >>> gradients.dx.shape, gradients.parameters["2.bias"].tolist()
        ((6, 5, 3), [6.0, 6.0])
        """
        return self._backward(tape, dy, dstates, "dstates")

    def _run_backward(self, record, dy, dstate):
        dstates = dstate or [None] * len(self._layers)
        if dy is None and dstates[-1] is None:
            dy = np.zeros(record.shape, record.dtype)
        found = []
        for layer, part, of_layer in zip(self._layers[::-1], record.parts[::-1], dstates[::-1], strict=True):
            found.append(layer._pass_backward(part, dy, of_layer))
            dy = found[-1].dx
        found.reverse()
        return dy, [gradients.dstate for gradients in found], found

    # Many rows

    def predict(self, x, batch_size=32, lengths=None):
        """The output for any number of rows, in batches.

        Parameters
        ----------
        x : array_like, shape (n, seq_len, features)
            As for :meth:`forward`, but anything that NumPy takes for numbers; converted to the model's dtype.
        batch_size : int, default 32
            Rows of a batch, at least; more where a batch would be so small that its overhead shows. It decides about
            memory and time: the bits of a row are the same in any batch.
        lengths : array or list of int, shape (n,), optional
            Valid steps of each sequence.

        Returns
        -------
        ndarray, shape (n, ...)
            y of all rows; a new C-contiguous array.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit, or a number is too large for the dtype.

        Examples
        --------
        >>> import cylstm
        >>> model = cylstm.Sequential([cylstm.RNN(1, 4, rng=0), cylstm.Last(), cylstm.Dense(4, 2, rng=0)])
        >>> model.predict([[[0.0], [1.0]], [[2], [3]], [[4], [5]]]).shape
        (3, 2)
        """
        x = self._numbers(x)
        y = np.empty(self._output_shape(x.shape), self._dtype or _float_dtype(x))
        for rows, part, _ in self._passes(x, batch_size, lengths):
            y[rows] = part
        return y

    def _passes(self, x, batch_size, lengths):
        """(slice of the rows, y, Steps of y) of each batch; x is of any numbers."""
        dtype = self._dtype_of_x(x)
        lengths = None if lengths is None else self._steps(lengths, x.shape).lengths
        for rows in self._batches(len(x), self._row(x.shape), batch_size):
            steps = None if lengths is None else Steps(lengths[rows])
            y, _, steps = self._pass(validation.cast("x", x[rows], dtype), None, steps, None)
            yield rows, y, steps

    def _row(self, shape):
        """How many numbers the largest array has that a row of such an x goes through."""
        return max(math.prod(of_layer[1:]) for of_layer in self._shapes_from(shape)[0])

    def _numbers(self, x, name="x"):
        """An x of any numbers as an array, its shape checked."""
        x = validation.numbers(name, x)
        self._check_shape(x.shape, name)
        return x

    def _as_rows(self, x, lengths, names=("x", "lengths")):
        """x of any numbers and lengths of any integers as arrays that ``_rows_pass`` takes rows of."""
        x = self._numbers(x, names[0])
        lengths = None if lengths is None else self._steps(lengths, x.shape, names).lengths
        return validation.cast(names[0], x, self._dtype_of_x(x)), lengths

    def _rows_pass(self, x, lengths, states, tape):
        """(y, final states, Steps of y) of some rows of what ``_as_rows`` gave."""
        return self._pass(x, states, None if lengths is None else Steps(lengths), tape)

    # One step at a time

    def stream(self, batch_size=None):
        """A :class:`SequentialStream`: all layers one time step at a time, their states carried from call to call.

        Parameters
        ----------
        batch_size : int, optional
            None: x is (features,) and so is y; n: (n, features).

        Raises
        ------
        ValueError
            If a layer can not stream (it is named), or ``batch_size`` is negative.

        Examples
        --------
        >>> import numpy as np, cylstm
        >>> model = cylstm.Sequential([cylstm.LSTM(3, 4, rng=0), cylstm.Last(), cylstm.Dense(4, 2, rng=0)])
        >>> x, stream = np.ones((5, 3), np.float32), model.stream()
        >>> ys = [stream.step(x_t) for x_t in x]
        >>> bool((ys[-1] == model.forward(x[None])[0]).all())
        True
        """
        return SequentialStream(self, batch_size)

    # What it is made of

    def summary(self):
        """What the layers make and how many parameters they have; printed, a table.

        Numbers are counted as layers hold them: a recurrent layer with PyTorch's two biases has twice G*H of them
        (LSTM: 8H), with ``bias="single"`` once (4H, as in Keras).

        Returns
        -------
        Summary

        Examples
        --------
        >>> import cylstm
        >>> model = cylstm.Sequential([cylstm.LSTM(3, 4, bias="single"), cylstm.Last(), cylstm.Dense(4, 2)])
        >>> model.summary()
        layer      output shape  parameters
        -----------------------------------
        0 (LSTM)   (N, T, 4)            128
        1 (Last)   (N, 4)                 0
        2 (Dense)  (N, 2)                10
        -----------------------------------
        total 138, trainable 138, frozen 0
        """
        rows, shape = [], next(iter(self._examples.values()))
        for name, unit in self._units:
            shape = unit._output_shape(shape)
            sizes = {inner: math.prod(size) for inner, size in unit._shapes.items()}
            trainable = sum(sizes[inner] for inner in unit._trainable_names())
            rows.append(SummaryRow(name, _type_words(unit), shape, sum(sizes.values()), trainable))
        return Summary(rows)


def _float_dtype(x):
    """Where no layer has a dtype."""
    return x.dtype if x.dtype in validation.FLOATS else validation.FLOATS[0]


class SummaryRow(NamedTuple):
    """A layer in a :class:`Summary`."""

    name: str  # with those of the models it is in: "encoder.0"
    type: str  # with what it is made of: "Final(LSTM)"
    output_shape: tuple  # None for what is not known: the batch, the time steps
    parameters: int
    trainable: int  # of these


class Summary:
    """A table of layers: made by :meth:`Sequential.summary`.

    Attributes
    ----------
    rows : tuple of SummaryRow
    total, trainable, frozen : int
        Parameters of all layers.
    """

    def __init__(self, rows):
        self.rows = tuple(rows)
        self.total = sum(row.parameters for row in self.rows)
        self.trainable = sum(row.trainable for row in self.rows)
        self.frozen = self.total - self.trainable

    def __repr__(self):
        lines = [("layer", "output shape", "parameters")]
        for row in self.rows:
            lines.append((f"{row.name} ({row.type})", _shape_words(row.output_shape), f"{row.parameters:,}"))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in lines]
        rule = "-" * len(table[0])
        total = f"total {self.total:,}, trainable {self.trainable:,}, frozen {self.frozen:,}"
        return "\n".join([table[0], rule, *table[1:], rule, total])


def _type_words(layer):
    parts = ", ".join(_type_words(part) for _, part in layer._parts)
    return f"{type(layer).__name__}({parts})" if parts else type(layer).__name__


def _shape_words(shape):
    letters = ("N", "T") if len(shape) > 2 else ("N",)
    sizes = [str(size) if size is not None else letter for size, letter in zip_longest(shape, letters, fillvalue="?")]
    return f"({', '.join(sizes)})"


class SequentialStream(Chain):
    """A model with its states carried from call to call; made by ``model.stream(batch_size)``.

    ``step`` takes one time step, ``run`` a chunk of them. Both give the bits of ``forward`` over the whole sequence,
    and an output at each step, also of a model with a Last. A step that a Masking or an Embedding masks is held: the
    layers behind it keep their states, and the output is that of the step before, zeros before the first. Changed
    parameters count from the next step. A stream belongs to one thread at a time.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> model = cylstm.Sequential([cylstm.Masking(-1.0), cylstm.GRU(1, 2, rng=0)])
    >>> stream = model.stream()
    >>> y = stream.run(np.array([[0.5], [-1.0], [0.25]], np.float32))
    >>> bool((y[1] == y[0]).all()), bool((stream.state[1] == y[2]).all())
    (True, True)
    """

    def __init__(self, model, batch_size=None):
        rows = None if batch_size is None else validation.size("batch_size", batch_size, 0)
        shape = next(iter(model._examples.values()))
        stages, buffer = [], None
        for name, unit in model._units:
            has_time, shape, leaf = len(shape) == 3, unit._output_shape(shape), unit._streamed
            if isinstance(leaf, Masking):
                stages.append(Stage(None, None, False, leaf.value))
            elif not isinstance(leaf, (Dropout, Last)):  # these give what they are given
                try:
                    if has_time and isinstance(leaf, Flatten):
                        raise ValueError("Flatten can not stream: it needs all time steps at once")
                    part = leaf._stream_part(rows)
                except ValueError as error:
                    raise ValueError(f"layer {name!r}, {unit!r}: {error}") from None
                buffer = _buffer_of_step(rows, shape[-1], model.dtype)
                masks = "zero" if isinstance(leaf, Embedding) and leaf.mask_zero else None
                stages.append(Stage(part, buffer, isinstance(leaf, Recurrent), masks))
        if not stages or stages[-1].part is None:  # somebody must make y
            stages.append(Stage(leaf._stream_part(rows), None, False, None))
        last = None
        if any(stage.masks is not None for stage in stages):
            if buffer is None:
                raise ValueError("a stream with a Masking needs a layer that knows the features of y")
            last = np.zeros_like(buffer)
        super().__init__(model, rows, stages, last)

    def __repr__(self):
        return f"{self.model!r}.stream({'' if self.batch_size is None else self.batch_size})"

    def run(self, x):
        """A chunk of time steps, time-major.

        Parameters
        ----------
        x : ndarray, shape (seq_len, features), or (seq_len, n, features) for a stream of n
            Where an Embedding is first, integers without the features.

        Returns
        -------
        ndarray, shape (seq_len, features of y) or (seq_len, n, features of y)

        Raises
        ------
        ValueError, TypeError
            If x has the wrong shape or dtype. A failed call changes nothing.
        RuntimeError
            If another thread is inside this stream.
        """
        model = self.model
        x = model._typed(x)
        axes = {"seq_len": None, **({} if self.batch_size is None else {"batch_size": self.batch_size})}
        if not model._takes_integers:
            axes["features"] = model._input_width
        validation.axes("x", x, axes)
        y = (x[:, None] if self.batch_size is None else x).swapaxes(0, 1)
        self._enter()
        try:
            before, last = self._get()
            after, states, steps = [], iter(before), None
            for leaf in [unit._streamed for _, unit in model._units]:
                if isinstance(leaf, Recurrent):
                    state = next(states)
                    y, state_n, steps = leaf._pass(y, leaf._as_state(state, True), steps, None)
                    after.append(_held(state_n, state, steps, y.shape[1]))
                elif not isinstance(leaf, (Last, Flatten)):
                    y, _, steps = leaf._pass(y, None, steps, None)
            y = np.array(y.swapaxes(0, 1), order="C")  # (T, n, features)
            if last is not None:
                last = last.reshape(y.shape[1:])
                if steps is not None:
                    _repeat(y, steps.valid(len(y)).T, last)
                last = y[-1] if len(y) else last
            if len(y):
                self._set(after, last)
        finally:
            self._leave()
        return y[:, 0] if self.batch_size is None else y

    def _pick(self, rows):
        """Let row n go on from where row ``rows[n]`` is."""
        self._enter()
        try:
            states, last = self._get()
            picked = [[part[:, rows] for part in state] for state in states]
            self._set(picked, None if last is None else last[rows])
        finally:
            self._leave()

    def _copied(self):
        """(state of each recurrent layer, with a batch axis; the last output, or None): new arrays."""
        self._enter()
        try:
            states, last = self._get()
            return [[part.copy() for part in state] for state in states], None if last is None else last.copy()
        finally:
            self._leave()

    @property
    def state(self):
        """A copy of the states: a list with one entry per layer, what ``layer.stream(batch_size).state`` would be.

        None for a layer without a state, a list for a Sequential.

        Raises
        ------
        RuntimeError
            If another thread is inside this stream.
        """
        states = iter(self._copied()[0])
        return self.model._take_states(states, self.batch_size is not None)

    def reset(self, state=None):
        """Set the state, if omitted to that of a new stream; the output of the step before is forgotten.

        Raises
        ------
        ValueError, TypeError
            If ``state`` has the wrong shape or dtype. Nothing is changed then.
        RuntimeError
            If another thread is inside this stream.
        """
        rows = 1 if self.batch_size is None else self.batch_size
        states = self.model._check_state("state", state, rows, self.batch_size is not None)
        self._enter()
        try:
            self._set(states, None)
        finally:
            self._leave()

    def copy(self):
        """A stream over the same model that continues from a copy of this state."""
        return _rebuild(type(self), self.model, self.batch_size, *self._copied())

    __copy__ = copy

    def __reduce__(self):
        return _unpickled, (STREAM_PICKLE_VERSION, type(self), self.model, self.batch_size, *self._copied())

    def __deepcopy__(self, memo):
        return _rebuild(type(self), copy.deepcopy(self.model, memo), self.batch_size, *self._copied())


def _buffer_of_step(batch_size, features, dtype):
    """Where a layer puts its output of one time step; None where its features or the dtype are not known."""
    if features is None or dtype is None:
        return None
    return np.empty((features,) if batch_size is None else (batch_size, features), dtype)


def _held(state_n, state, steps, seq_len):
    """[h] or [h, c] after a chunk: that before it in rows without a valid step, whatever ``empty`` says."""
    states_n = list(state_n) if isinstance(state_n, tuple) else [state_n]
    if steps is not None:
        rows = steps.last(seq_len) < 0
        for part_n, part in zip(states_n, state, strict=True):
            part_n[:, rows] = part[:, rows]
    return states_n


def _repeat(y, valid, first):
    """In y (T, n, features) the last valid step before each that is not, or ``first`` (n, features)."""
    source = stack._repeated(valid, False)
    t, row = np.nonzero(~valid)
    earlier = source[t, row]
    y[t, row] = np.where(earlier[:, None] < 0, first[row], y[earlier, row])


def _named_leaves(layer):
    """[(what comes behind the name of ``layer``, leaf)]"""
    if not isinstance(layer, Container):
        return [("", layer)]
    return [(f".{name}", leaf) for name, leaf in zip(layer._leaf_names, layer._leaves, strict=True)]


def _named_units(layer):
    """[(what comes behind the name of ``layer``, layer)]: those of a Sequential, or the one."""
    if not isinstance(layer, Sequential):
        return [("", layer)]
    return [(f".{name}", unit) for name, unit in layer._units]


def _unpickled(version, *arguments):
    if version != STREAM_PICKLE_VERSION:
        raise ValueError(f"this stream was pickled with version {version}, expected {STREAM_PICKLE_VERSION}")
    return _rebuild(*arguments)


def _rebuild(kind, model, batch_size, states, last):
    stream = kind(model, batch_size)
    stream._set(states, last)
    return stream
