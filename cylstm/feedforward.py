"""Layers beside the recurrent ones: parameters by name, forward, backward, one time step.

They treat each time step by itself, or the time axis as a whole, and have no state. Little arithmetic: most is below.
"""

import math

import numpy as np

from . import initializers, stack, validation
from ._core.dense import dense_backward, dense_forward
from ._core.packing import PackedDense
from .layers import Layer, _differing, _read_only
from .tape import Gradients, Tape


class Feedforward(Layer):
    """A layer without a state; its ``forward`` and ``backward`` are batch-first already."""

    def _pass(self, x, state, steps, tape):
        return self.forward(x, tape=tape), None, steps

    def _pass_backward(self, tape, dy, dstate):
        return self.backward(tape, dy)


class Dense(Feedforward):
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
        self, in_features, out_features, bias=True, activation=None, *, dtype="float32", rng=None, _arrays=None
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
