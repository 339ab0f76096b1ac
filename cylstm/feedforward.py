"""Layers beside the recurrent ones: parameters by name, forward, backward, one time step.

They treat each time step by itself, or the time axis as a whole, and have no state. Batch-first where there is a time
axis. Little arithmetic: most is below.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from . import initializers, validation
from ._core.feedforward import ActivationRows, CopiedRows, DenseRows, LayerNormRows, MaskingRows, RowStep, add_rows
from ._core.packing import PackedDense
from .layers import Layer, _differing, _plain_name, _read_only
from .steps import Steps
from .tape import Gradients, check_tape

# The masks of Dropout among those of one (seed, call): see the kinds of noise in stack.pyx.
_DROPOUT = 6 << 24

_blas = None


def _load_blas():
    """SciPy's BLAS, once: an import statement, even of what is there, costs as much as a small product."""
    global _blas
    if _blas is None:
        from ._core import blas as _blas


class _Record(NamedTuple):
    """What a forward leaves on a tape."""

    layer: Any
    snapshot: Any
    shape: tuple  # of y
    dtype: np.dtype
    kept: Any  # what the layer itself wants to have


class Feedforward(Layer):
    """A layer without a state; its ``forward`` and ``backward`` are batch-first already.

    A subclass has ``_output_shape``, which refuses a wrong x too; ``_apply(snapshot, x, tape, *more)``, which returns y
    and what backward needs of this pass; and ``_gradients(record, dy)``. Where it treats each row by itself, that is
    ``_rows(snapshot)``.
    """


    def _no_parameters(self, positional, keywords):
        """Of a layer without parameters, which takes float32 and float64: its dtype is None."""
        super().__init__({}, None, (positional, keywords), {})

    def forward(self, x, tape=None):
        """Apply the layer.

        Parameters
        ----------
        x : ndarray
            Of the shape that the class gives and of the layer's dtype; of a layer without parameters, float32 or
            float64. May be read-only or not contiguous.
        tape : Tape, optional
            Filled with what :meth:`backward` needs, and makes this a training forward. It keeps a copy of what it needs
            of ``x``.

        Returns
        -------
        ndarray
            y, of the shape that the class gives; a new array.

        Raises
        ------
        ValueError, TypeError
            If x has the wrong shape or dtype.
        MemoryError
            If y would not fit the machine.
        """
        return self._run(self._checked(x), tape)

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def _checked(self, x):
        return validation.array("x", x, self.dtype)

    def _run(self, x, tape, *more):
        shape = self._output_shape(x.shape)
        itemsize = x.itemsize if self.dtype is None else self.dtype.itemsize
        validation.memory("this pass", 2 * math.prod(shape) * itemsize)
        snapshot = self._store.snapshot
        if tape is None:
            return self._apply(snapshot, x, None, *more)[0]
        check_tape(tape)
        with tape.use():
            tape.begin()
            y, kept = self._apply(snapshot, x, tape, *more)
            tape.keep(_Record(self, snapshot, y.shape, y.dtype, kept))
        return y

    def backward(self, tape, dy):
        """Back-propagate through the forward that ``tape`` recorded, and spend the tape.

        Parameters
        ----------
        tape : Tape
        dy : ndarray
            dL/dy, shaped like y and of its dtype.

        Returns
        -------
        Gradients
            ``dx``, None where x is integers; ``parameters``; ``dstate`` is None.

        Raises
        ------
        RuntimeError
            If the tape is empty, spent or another layer's, or the parameters were changed since.
        ValueError, TypeError
            If dy has the wrong shape or dtype.
        ImportError
            Of Dense: if SciPy is not installed.
        """
        check_tape(tape)
        with tape.use():
            record = self._look(tape)
            dy = validation.gradient("dy", dy, record.dtype, record.shape)
            tape.spend()
        return self._gradients(record, dy)

    def _pass(self, x, state, steps, tape):
        return self.forward(x, tape=tape), None, steps

    def _pass_backward(self, tape, dy, dstate):
        return self.backward(tape, dy)

    def _stream_part(self, batch_size):
        return RowStep(self, batch_size)


def _check_features(shape, name="features", size=None):
    """That there is a last axis, and of ``size`` if that is known."""
    if not shape or (size is not None and shape[-1] not in (size, None)):
        raise ValueError(f"x has shape {shape}, expected (..., {name if size is None else f'{name}={size}'})")


def _check_axes(shape, *words):
    """That there are as many axes as words."""
    if len(shape) != len(words):
        raise ValueError(f"x has shape {shape}, expected ({', '.join(words)})")


class Dense(Feedforward):
    """A fully connected layer over the last axis: y = activation(x W^T + b).

    x is (..., in_features), y (..., out_features).

    Parameters
    ----------
    in_features, out_features : int
    bias : bool, default True
    activation : activation, optional
        A name, (name, alpha) or (name, alpha, beta): see :class:`Activation`.
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

    in_features = _input_width = _read_only("in_features", "features of x")
    out_features = _read_only("out_features", "features of y")
    bias = _read_only("bias", "whether there is a bias")
    activation = _read_only("activation", "the activation, or None")

    def __init__(self, in_features, out_features, bias=True, activation=None, *, dtype="float32", rng=None):
        self._build(in_features, out_features, bias, activation, dtype=dtype, rng=rng)

    def _build(
        self, in_features, out_features, bias=True, activation=None, *, dtype="float32", rng=None, _arrays=None
    ):
        self._in_features = validation.size("in_features", in_features)
        self._out_features = validation.size("out_features", out_features)
        self._bias = validation.flag("bias", bias)
        self._activation = None
        self._activate = None
        self._function = ("linear",)
        if activation is not None:
            self._function = validation.activation("activation", activation, of_rows=True)
            self._activation = _plain_name(self._function)
            self._activate = ActivationRows(self._function)
        dtype = validation.dtype_of(dtype)
        shapes = {"weight": (self.out_features, self.in_features)}
        if self.bias:
            shapes["bias"] = (self.out_features,)
        validation.memory("these parameters", sum(map(math.prod, shapes.values())) * 4 * dtype.itemsize)
        arrays = _arrays
        if arrays is None:
            rng = validation.generator(rng)
            bound = 1 / math.sqrt(self.in_features)
            arrays = {name: initializers.uniform(rng, shape, dtype, bound) for name, shape in shapes.items()}
        options = {"bias": self.bias, "activation": self.activation, "dtype": dtype.name}
        defaults = {"bias": True, "activation": None, "dtype": "float32"}
        arguments = ((self.in_features, self.out_features), _differing(defaults, options))
        super().__init__(shapes, dtype, arguments, arrays)

    def _packed(self, snapshot):
        """(x W^T + b, its activation too), as functions of rows."""
        if snapshot.packed is None:
            p = snapshot.arrays
            bias = p["bias"] if self.bias else np.zeros(self.out_features, self.dtype)
            packed = PackedDense(p["weight"], bias)
            sums = DenseRows(packed, ("linear",))
            snapshot.packed = sums, DenseRows(packed, self._function)
        return snapshot.packed

    def _rows(self, snapshot):
        return self._packed(snapshot)[1]

    def _output_shape(self, shape):
        _check_features(shape, "in_features", self._in_features)
        return (*shape[:-1], self._out_features)

    def _apply(self, snapshot, x, tape):
        x = validation.contiguous("x", x, copy=tape is not None)
        if tape is None:
            return self._rows(snapshot)(x), None
        sums = self._packed(snapshot)[0](x)
        if self._activate is None:
            return sums, (x, None)
        return self._activate(sums), (x, sums)

    def _look(self, tape):
        record = super()._look(tape)
        _load_blas()
        return record

    def _gradients(self, record, dy):
        x, sums = record.kept
        dz = validation.contiguous("dy", dy, copy=True)
        if sums is not None:
            self._activate.backward(sums, dz)
        rows = math.prod(x.shape[:-1])
        dz, inputs = dz.reshape(rows, self.out_features), x.reshape(rows, self.in_features)
        weight = record.snapshot.arrays["weight"]
        dx, dweight = np.empty(inputs.shape, self.dtype), np.empty(weight.shape, self.dtype)
        _blas.matmul(dz, weight, dx)
        _blas.matmul(dz, inputs, dweight, transpose_a=True)
        parameters = {"weight": dweight}
        if self.bias:
            dbias = np.empty((1, self.out_features), self.dtype)
            _blas.matmul(np.ones((1, rows), self.dtype), dz, dbias)
            parameters["bias"] = dbias[0]
        return Gradients(dx.reshape(x.shape), None, parameters)

    def _stream_part(self, batch_size):
        return RowStep(self, batch_size, "in_features")


class Embedding(Feedforward):
    """A table of vectors, looked up by index.

    x is integers (...,), y (..., embedding_dim). Batch-first x (N, T) becomes y (N, T, embedding_dim).

    Parameters
    ----------
    num_embeddings : int
        Rows of the table: an index is 0 to num_embeddings - 1.
    embedding_dim : int
    mask_zero : bool, default False
        Whether index 0 is padding: within a container, the steps that have it are not valid for the layers after this
        one (Keras' rule). Otherwise it is looked up like any other.
    dtype : {"float32", "float64"}
        Of y and of ``weight``, (num_embeddings, embedding_dim).
    rng : None, int or numpy.random.Generator
        Source of the initial ``weight``, N(0, 1) as in PyTorch.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of a wrong type.

    Notes
    -----
    The gradient of a row is the sum over all places that have its index, in their order.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> embedding = cylstm.Embedding(5, 3, rng=0)
    >>> y = embedding.forward(np.array([[1, 2, 1]]))
    >>> y.shape, bool((y[0, 0] == y[0, 2]).all())
    ((1, 3, 3), True)
    """

    num_embeddings = _read_only("num_embeddings", "rows of the table")
    embedding_dim = _read_only("embedding_dim", "features of y")
    mask_zero = _read_only("mask_zero", "whether index 0 is padding")

    def __init__(self, num_embeddings, embedding_dim, mask_zero=False, *, dtype="float32", rng=None):
        self._build(num_embeddings, embedding_dim, mask_zero, dtype=dtype, rng=rng)

    def _build(self, num_embeddings, embedding_dim, mask_zero=False, *, dtype="float32", rng=None, _arrays=None):
        shape = (
            validation.size("num_embeddings", num_embeddings),
            validation.size("embedding_dim", embedding_dim),
        )
        self._num_embeddings, self._embedding_dim = shape
        self._mask_zero = validation.flag("mask_zero", mask_zero)
        dtype = validation.dtype_of(dtype)
        validation.memory("these parameters", math.prod(shape) * 4 * dtype.itemsize)
        arrays = _arrays
        if arrays is None:
            arrays = {"weight": validation.generator(rng).standard_normal(shape).astype(dtype)}
        options = _differing(
            {"mask_zero": False, "dtype": "float32"}, {"mask_zero": self.mask_zero, "dtype": dtype.name}
        )
        super().__init__({"weight": shape}, dtype, (shape, options), arrays)

    def _checked(self, x):
        return validation.indices("x", x, self._num_embeddings, "num_embeddings")

    def _output_shape(self, shape):
        if self._mask_zero:
            _check_axes(shape, "batch", "seq_len")
        return (*shape, self._embedding_dim)

    def _apply(self, snapshot, x, tape):
        return snapshot.arrays["weight"].take(x, axis=0), x

    def _gradients(self, record, dy):
        dweight = np.zeros((self.num_embeddings, self.embedding_dim), self.dtype)
        dy = validation.contiguous("dy", dy).reshape(record.kept.size, self.embedding_dim)
        add_rows(dy, record.kept, dweight)
        return Gradients(None, None, {"weight": dweight})

    def _pass(self, x, state, steps, tape):
        x = self._checked(x)
        y = self._run(x, tape)
        return y, None, Steps.both(steps, x != 0) if self._mask_zero else steps

    def _rows(self, snapshot):
        return CopiedRows()

    def _stream_part(self, batch_size):
        return _LookUp(self, batch_size)


class _LookUp:
    """One time step of an :class:`Embedding`."""

    def __init__(self, layer, batch_size):
        self.layer = layer
        self.batch_size = batch_size
        self._copied = RowStep(layer, batch_size)

    def step(self, x, out=None):
        """One time step.

        Parameters
        ----------
        x : int, or ndarray of integers, shape (n,), for a ``batch_size`` of n
        out : ndarray, shape (embedding_dim,) or (n, embedding_dim), optional
            Where to put the result.

        Returns
        -------
        ndarray
            ``out``, or a new array.

        Raises
        ------
        ValueError, TypeError
            If x or out does not fit.
        """
        weight = self.layer.parameters["weight"]
        if self.batch_size is None:
            return self._copied.step(weight[validation.index("x", x, len(weight), "num_embeddings")], out)
        x = validation.indices("x", x, len(weight), "num_embeddings")
        validation.shape("x", x, (self.batch_size,), f"(batch_size={self.batch_size},)")
        y = weight.take(x, axis=0)
        return y if out is None else self._copied.step(y, out)


class LayerNorm(Feedforward):
    """Layer normalisation over the last axis.

    ::

        y = weight (x - mean(x)) / sqrt(variance(x) + eps) + bias

    x and y are (..., features). A row's sums are made in one order, in double, so its bits do not depend on what is
    beside it, nor on the level of instructions.

    Parameters
    ----------
    features : int
    eps : float, default 1e-5
    dtype : {"float32", "float64"}
        ``weight`` (features,) begins as 1, ``bias`` (features,) as 0.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of a wrong type.

    References
    ----------
    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", arXiv:1607.06450 (2016).

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> cylstm.LayerNorm(2).forward(np.array([[3, 5]], np.float32)).round(3).tolist()
    [[-1.0, 1.0]]
    """

    features = _input_width = _read_only("features", "features of x and y")
    eps = _read_only("eps", "what the variance is increased by")

    def __init__(self, features, eps=1e-5, *, dtype="float32"):
        self._build(features, eps, dtype=dtype)

    def _build(self, features, eps=1e-5, *, dtype="float32", _arrays=None):
        self._features = validation.size("features", features)
        self._eps = validation.number("eps", eps, validation.FLOAT32_TINY, validation.FLOAT32_MAX)
        dtype = validation.dtype_of(dtype)
        shape = (self.features,)
        validation.memory("these parameters", 8 * self.features * dtype.itemsize)
        arrays = _arrays
        if arrays is None:
            arrays = {"weight": np.ones(shape, dtype), "bias": np.zeros(shape, dtype)}
        options = _differing({"eps": 1e-5, "dtype": "float32"}, {"eps": self.eps, "dtype": dtype.name})
        super().__init__({"weight": shape, "bias": shape}, dtype, (shape, options), arrays)

    def _rows(self, snapshot):
        if snapshot.packed is None:
            snapshot.packed = LayerNormRows(snapshot.arrays["weight"], snapshot.arrays["bias"], self._eps)
        return snapshot.packed

    def _output_shape(self, shape):
        _check_features(shape, "features", self._features)
        return shape

    def _apply(self, snapshot, x, tape):
        x = validation.contiguous("x", x, copy=tape is not None)
        return self._rows(snapshot)(x), x

    def _gradients(self, record, dy):
        dx = validation.contiguous("dy", dy, copy=True)
        dweight, dbias = self._rows(record.snapshot).backward(record.kept, dx)
        return Gradients(dx, None, {"weight": dweight, "bias": dbias})


class Activation(Feedforward):
    """A function of each number, or softmax over the last axis.

    x and y are (..., features), float32 or float64.

    Parameters
    ----------
    activation : str or tuple
        A name, (name, alpha) or (name, alpha, beta): softmax, or what recurrent layers have, with the same bits:
        sigmoid, tanh, relu, leaky_relu (alpha 0.01 if omitted), thresholded_relu (1), affine (1, beta 0), scaled_tanh
        (1, 1), hard_sigmoid (0.2, 0.5), elu (1), softsign, softplus, linear, swish, gelu.

    Raises
    ------
    ValueError, TypeError
        If there is no such activation.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> cylstm.Activation(("leaky_relu", 0.5)).forward(np.array([-2.0, 3.0])).tolist()
    [-1.0, 3.0]
    """

    activation = _read_only("activation", "the activation")

    def __init__(self, activation):
        self._build(activation)

    def _build(self, activation, *, _arrays=None):
        function = validation.activation("activation", activation, of_rows=True)
        self._activation = _plain_name(function)
        self._activate = ActivationRows(function)
        self._no_parameters((self.activation,), {})

    def _rows(self, snapshot):
        return self._activate

    def _output_shape(self, shape):
        _check_features(shape)
        return shape

    def _apply(self, snapshot, x, tape):
        x = validation.contiguous("x", x, copy=tape is not None)
        return self._activate(x), x

    def _gradients(self, record, dy):
        dx = validation.contiguous("dy", dy, copy=True)
        self._activate.backward(record.kept, dx)
        return Gradients(dx, None, {})


class Dropout(Feedforward):
    """Zeros in random places, in training alone.

    x and y are (..., features), float32 or float64. With ``Tape(training=True)`` each number is 0 with probability p,
    otherwise multiplied by 1 / (1 - p); without, y = x. The mask is a function of the tape's seed, of its number of
    calls and of the position alone.

    Parameters
    ----------
    p : float
        0 to 1.

    Raises
    ------
    ValueError, TypeError
        If p is no such number.

    References
    ----------
    N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: a simple way to prevent neural
    networks from overfitting", JMLR 15 (2014).

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> dropout, x = cylstm.Dropout(0.5), np.ones(6)
    >>> dropout.forward(x).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    >>> sorted(set(dropout.forward(x, tape=cylstm.Tape(seed=0)).tolist()))
    [0.0, 2.0]
    """

    p = _read_only("p", "probability of a zero")

    def __init__(self, p):
        self._build(p)

    def _build(self, p, *, _arrays=None):
        self._p = validation.number("p", p, 0.0, 1.0)
        self._no_parameters((self.p,), {})

    def _output_shape(self, shape):
        _check_features(shape)
        return shape

    def _apply(self, snapshot, x, tape):
        y = validation.contiguous("x", x, copy=True)
        if tape is None or not tape.training:
            return y, None
        from ._core import noise

        factors = np.ones_like(y)
        rows, steps = (1, 1) if y.ndim == 1 else (len(y), math.prod(y.shape[1:-1]))
        time_major = factors.reshape(rows, steps, y.shape[-1]).swapaxes(0, 1)
        noise.drop(time_major, tape.seed, tape.calls, _DROPOUT, self._p)
        y *= factors
        return y, factors

    def _gradients(self, record, dy):
        return Gradients(dy.copy() if record.kept is None else dy * record.kept, None, {})

    def _rows(self, snapshot):
        return CopiedRows()


class Masking(Feedforward):
    """Steps that have one value in all features are not valid for the layers after this one.

    x and y are (batch, seq_len, features), float32 or float64. y is x, with zeros in the steps that are not valid, as
    in Keras.

    Parameters
    ----------
    value : float, default 0.0
        A step whose features all are this (as x's dtype holds it) is not valid. NaN: one whose features all are NaN.

    Raises
    ------
    ValueError, TypeError
        If ``value`` is not a number that float32 can hold.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> x = np.array([[[0.0, 1.0], [-1.0, -1.0]]])
    >>> masking = cylstm.Masking(-1)
    >>> masking.valid(x).tolist(), masking.forward(x).tolist()
    ([[True, False]], [[[0.0, 1.0], [0.0, 0.0]]])
    """

    value = _read_only("value", "what the features of a step that is not valid are")

    def __init__(self, value=0.0):
        self._build(value)

    def _build(self, value=0.0, *, _arrays=None):
        self._value = math.nan if _is_nan(value) else validation.finite("value", value)
        self._masking = MaskingRows(self._value)
        self._no_parameters((), _differing({"value": 0.0}, {"value": self.value}))

    def valid(self, x):
        """Which steps are valid.

        Parameters
        ----------
        x : ndarray, shape (..., features)
            float32 or float64.

        Returns
        -------
        ndarray of bool, shape (...)

        Raises
        ------
        ValueError, TypeError
            If x has no axis, or another dtype.
        """
        x = self._checked(x)
        _check_features(x.shape)
        return self._masking.valid(validation.contiguous("x", x))

    def _output_shape(self, shape):
        _check_axes(shape, "batch", "seq_len", "features")
        return shape

    def _apply(self, snapshot, x, tape):
        x = validation.contiguous("x", x)
        y = np.empty_like(x)
        return y, self._masking.valid(x, y)

    def _gradients(self, record, dy):
        dx = validation.contiguous("dy", dy, copy=True)
        dx[~record.kept] = 0
        return Gradients(dx, None, {})

    def _pass(self, x, state, steps, tape):
        return self.forward(x, tape=tape), None, Steps.both(steps, self.valid(x))

    def _rows(self, snapshot):
        return self._masking


def _is_nan(value):
    return isinstance(value, (float, np.floating)) and math.isnan(value)


class Last(Feedforward):
    """The last valid step of each sequence.

    x is (batch, seq_len, features), float32 or float64, y (batch, features): zeros of a sequence without a valid step.
    In a stream, the step that is given.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> x = np.arange(6.0).reshape(2, 3, 1)
    >>> cylstm.Last().forward(x, lengths=[2, 0]).tolist()
    [[1.0], [0.0]]
    """

    def __init__(self):
        self._build()

    def _build(self, *, _arrays=None):
        self._no_parameters((), {})

    def forward(self, x, lengths=None, mask=None, tape=None):
        """Apply the layer.

        Parameters
        ----------
        x : ndarray, shape (batch, seq_len, features)
            float32 or float64.
        lengths : array or list of int, shape (batch,), optional
            Valid steps per sequence, 0 to seq_len.
        mask : ndarray of bool, shape (batch, seq_len), optional
            False where a step is not valid. With ``lengths`` too a step is valid where both say so.
        tape : Tape, optional
            Filled with what :meth:`backward` needs.

        Returns
        -------
        ndarray, shape (batch, features)

        Raises
        ------
        ValueError, TypeError
            If an array has the wrong shape or dtype.
        """
        x = self._checked(x)
        self._output_shape(x.shape)
        return self._run(x, tape, Steps.of(lengths, mask, *x.shape[:2]))

    def _output_shape(self, shape):
        _check_axes(shape, "batch", "seq_len", "features")
        return (shape[0], shape[2])

    def _apply(self, snapshot, x, tape, steps):
        batch, seq_len, features = x.shape
        last = np.full(batch, seq_len - 1) if steps is None else steps.last(seq_len)
        y = np.zeros((batch, features), x.dtype)
        some = last >= 0
        y[some] = x[some, last[some]]
        return y, (x.shape, some, last)

    def _gradients(self, record, dy):
        shape, some, last = record.kept
        dx = np.zeros(shape, dy.dtype)
        dx[some, last[some]] = dy[some]
        return Gradients(dx, None, {})

    def _pass(self, x, state, steps, tape):
        return self._run(self._checked(x), tape, steps), None, None

    def _rows(self, snapshot):
        return CopiedRows()


class Repeat(Feedforward):
    """The same vector at each of n time steps: what a decoder is given, often.

    x is (batch, features), float32 or float64, y (batch, n, features).

    Parameters
    ----------
    n : int

    Raises
    ------
    ValueError, TypeError
        If n is not an integer of at least 1.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> cylstm.Repeat(2).forward(np.array([[1.0, 2.0]])).tolist()
    [[[1.0, 2.0], [1.0, 2.0]]]
    """

    n = _read_only("n", "time steps of y")

    def __init__(self, n):
        self._build(n)

    def _build(self, n, *, _arrays=None):
        self._n = validation.size("n", n)
        self._no_parameters((self.n,), {})

    def _output_shape(self, shape):
        _check_axes(shape, "batch", "features")
        return (shape[0], self._n, shape[1])

    def _apply(self, snapshot, x, tape):
        return np.repeat(x[:, None], self._n, axis=1), None

    def _gradients(self, record, dy):
        return Gradients(dy.sum(axis=1), None, {})

    def _stream_part(self, batch_size):
        raise ValueError("Repeat can not stream: it makes many time steps of a vector that is no time step itself")


class Reverse(Feedforward):
    """Time from its end: y[:, t] = x[:, T - 1 - t].

    x and y are (batch, seq_len, features), float32 or float64. Which steps are valid goes along: what padded the end of
    a sequence then stands before its beginning. (To walk time from each sequence's own end, a recurrent layer has
    ``reverse``.)

    Parameters
    ----------
    keep_mask : bool, default False
        Leave at its place which steps are valid. Keras does so behind a layer with go_backwards, whose outputs come in
        the order in which they are made.

    Raises
    ------
    TypeError
        If ``keep_mask`` is not a bool.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> cylstm.Reverse().forward(np.arange(3.0).reshape(1, 3, 1)).tolist()
    [[[2.0], [1.0], [0.0]]]
    """

    keep_mask = _read_only("keep_mask", "whether the valid steps stay at their places")

    def __init__(self, keep_mask=False):
        self._build(keep_mask)

    def _build(self, keep_mask=False, *, _arrays=None):
        self._keep_mask = validation.flag("keep_mask", keep_mask)
        self._no_parameters((), _differing({"keep_mask": False}, {"keep_mask": self.keep_mask}))

    def _output_shape(self, shape):
        _check_axes(shape, "batch", "seq_len", "features")
        return shape

    def _apply(self, snapshot, x, tape):
        return x[:, ::-1].copy(), None

    def _gradients(self, record, dy):
        return Gradients(dy[:, ::-1].copy(), None, {})

    def _pass(self, x, state, steps, tape):
        if steps is not None and not self._keep_mask:
            steps = Steps(mask=steps.valid(x.shape[1])[:, ::-1])
        return self.forward(x, tape=tape), None, steps

    def _stream_part(self, batch_size):
        raise ValueError("Reverse can not stream: its first step is the last one of x")


class Flatten(Feedforward):
    """All time steps of a sequence side by side.

    x is (batch, seq_len, features), y (batch, seq_len * features); an x (batch, features) stays as it is. float32 or
    float64. Steps that are not valid are among them, as they are.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> cylstm.Flatten().forward(np.arange(4.0).reshape(1, 2, 2)).tolist()
    [[0.0, 1.0, 2.0, 3.0]]
    """

    def __init__(self):
        self._build()

    def _build(self, *, _arrays=None):
        self._no_parameters((), {})

    def _output_shape(self, shape):
        if len(shape) == 2:
            return shape
        if len(shape) != 3:
            raise ValueError(f"x has shape {shape}, expected (batch, seq_len, features) or (batch, features)")
        batch, *sizes = shape
        return batch, None if None in sizes else math.prod(sizes)

    def _apply(self, snapshot, x, tape):
        return np.array(x, order="C").reshape(self._output_shape(x.shape)), x.shape

    def _gradients(self, record, dy):
        return Gradients(np.array(dy, order="C").reshape(record.kept), None, {})

    def _pass(self, x, state, steps, tape):
        return self.forward(x, tape=tape), None, None

    def _rows(self, snapshot):
        return CopiedRows()
