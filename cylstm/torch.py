"""LSTM, GRU and RNN as torch.nn modules: PyTorch's own, whose forward and backward run on cylstm. Imports torch.

A module's parameters are PyTorch's. A layer is made of copies of them, and used as long as they are the same.
"""

from typing import Any, NamedTuple

import numpy as np

try:
    import torch
except ImportError as error:
    raise ImportError(f"cylstm.torch needs PyTorch, which can not be imported: {error}") from error
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence

from . import layers
from .tape import Tape

__all__ = ["GRU", "LSTM", "RNN"]

_DTYPES = (torch.float32, torch.float64)


class _Kept:
    """What a module keeps from call to call. A copy or a pickle of it is empty: copies of a module share nothing."""

    def __init__(self):
        self.layer: tuple[Any, Any] = (None, None)  # its arguments, the layer
        self.tapes: list[Tape] = []  # for the next forward: one, for the sake of its buffers

    def __reduce__(self):
        return _Kept, ()

    def take_tape(self, seed):
        """A tape whose next call is its first; without a seed nothing is dropped."""
        try:
            tape = self.tapes.pop()
        except IndexError:
            tape = Tape(0)
        tape.seed, tape.calls, tape.training = seed or 0, 0, seed is not None
        return tape

    def give_tape(self, tape):
        tape.spend()
        if not self.tapes:
            self.tapes.append(tape)


class _Call(NamedTuple):
    """A forward, but for its tensors."""

    kept: _Kept
    layer: layers.Recurrent  # whose parameters are those of the module, and stay so
    names: list  # of the weights
    lengths: Any
    seed: int | None  # of the masks of dropout, if there is any
    states: int  # tensors of the initial state: none, or as many as the cell has

    def forward(self, x, tensors, tape):
        """(y, h_n) or (y, h_n, c_n) of x (T, B, I) or (T, I); ``tensors`` begins with the initial state."""
        state = _as_state([tensor.detach().numpy() for tensor in tensors[: self.states]])
        y, state_n = self.layer.forward(x.detach().numpy(), state, lengths=self.lengths, tape=tape)
        return tuple(map(torch.from_numpy, (y, *_as_tuple(state_n))))


def _as_state(parts):
    """(h, c), h alone, or None, as a layer takes them."""
    return tuple(parts) if len(parts) > 1 else parts[0] if parts else None


def _as_tuple(state):
    """(h, c) or (h,) of what a layer or a caller has."""
    return tuple(state) if isinstance(state, (tuple, list)) else (state,)


class _Recurrence(torch.autograd.Function):
    """(call, x, *initial state, *weights) -> (y, *final state)"""

    @staticmethod
    def forward(ctx, call, x, *tensors):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *tensors)  # PyTorch watches whether they change before backward
        ctx.call, ctx.tape = call, call.kept.take_tape(call.seed)
        outputs = call.forward(x, tensors, ctx.tape)
        ctx.shapes = [output.shape for output in outputs[1:]]
        return outputs

    @staticmethod
    def backward(ctx, dy, *dstates):
        x, *tensors = ctx.saved_tensors
        if dy is None and all(dstate is None for dstate in dstates):
            return (None,) * (2 + len(tensors))
        call, tape, ctx.tape = ctx.call, ctx.tape, None
        if tape is None:  # retain_graph: the backward before has spent it. The same seed makes the same masks
            tape = call.kept.take_tape(call.seed)
            call.forward(x, tensors, tape)
        if all(dstate is None for dstate in dstates):
            dstate = None
        else:
            zeros = (torch.zeros(shape, dtype=x.dtype) for shape in ctx.shapes)
            pairs = zip(dstates, zeros, strict=True)
            dstate = _as_state([(zero if given is None else given).numpy() for given, zero in pairs])
        gradients = call.layer.backward(tape, None if dy is None else dy.numpy(), dstate)
        call.kept.give_tape(tape)
        weights = (gradients.parameters[name] for name in call.names)
        found = (gradients.dx, *_as_tuple(gradients.dstate)[: call.states], *weights)
        gradients = tuple(map(torch.from_numpy, found))
        if torch.is_grad_enabled():  # create_graph
            gradients = _Once.apply(len(gradients), *gradients, x, *tensors)
        return (None, *gradients)


class _Once(torch.autograd.Function):
    """(count, *gradients, *what they depend on) -> gradients, whose own gradients are an error and not zero.

    PyTorch's ``once_differentiable`` sees what depends on dy alone.
    """

    @staticmethod
    def forward(ctx, count, *tensors):
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError("modules of cylstm.torch can be differentiated once: their gradients have no gradient")


class _OnCylstm:
    """The forward of the modules here: all that is not PyTorch's."""

    _layer_class: type[layers.Recurrent]

    def forward(self, input, hx=None):
        """As PyTorch's module.

        Parameters
        ----------
        input : torch.Tensor, shape (seq_len, batch, input_size), or PackedSequence
            (batch, seq_len, input_size) if ``batch_first``; (seq_len, input_size) for one unbatched sequence. On the
            CPU, of the parameters' dtype, float32 or float64.
        hx : torch.Tensor, or tuple of two for an LSTM, optional
            The initial state.

        Returns
        -------
        output : torch.Tensor or PackedSequence
        h_n, or (h_n, c_n) of an LSTM

        Raises
        ------
        ValueError, TypeError
            If a shape, a dtype or a device is another one.
        """
        if torch.jit.is_tracing():  # which would take the output for a constant
            raise RuntimeError("modules of cylstm.torch can not be traced: give their state_dict to PyTorch's")
        if torch.compiler.is_compiling():  # torch.compile goes around what it can not trace
            return torch.compiler.disable(_OnCylstm._forward)(self, input, hx)
        return self._forward(input, hx)

    def _forward(self, input, hx):
        states = () if hx is None else _as_tuple(hx)
        packed = isinstance(input, PackedSequence)
        for name, value in [("input", input.data if packed else input), *(("hx", state) for state in states)]:
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"{name} is a {type(value).__name__}, expected a torch.Tensor")
        if packed:
            return self._forward_packed(input, states)
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size:
            axes = "batch, seq_len" if self.batch_first else "seq_len, batch"
            size = f"input_size={self.input_size}"
            raise ValueError(
                f"input has shape {tuple(input.shape)}, expected ({axes}, {size}), or (seq_len, {size}), or packed"
            )
        transposed = self.batch_first and input.dim() == 3
        y, *states_n = self._run(input.transpose(0, 1) if transposed else input, states)
        return y.transpose(0, 1) if transposed else y, _as_state(states_n)

    def _forward_packed(self, input, states):
        data, batch_sizes, order, original_order = input
        valid = torch.arange(int(batch_sizes[0])) < batch_sizes[:, None]  # (T, B), longest rows first
        x = data.new_zeros(*valid.shape, *data.shape[1:]).index_put((valid,), data)
        if order is not None:
            states = [state.index_select(1, order) for state in states]
        y, *states_n = self._run(x, states, valid.sum(0).numpy())
        if original_order is not None:
            states_n = [state.index_select(1, original_order) for state in states_n]
        return PackedSequence(y[valid], batch_sizes, order, original_order), _as_state(states_n)

    def _run(self, x, states, lengths=None):
        """(y, *final state) of x, time first."""
        weights = [getattr(self, name) for name in self._flat_weights_names]
        for name, tensor in [*zip(self._flat_weights_names, weights, strict=True), ("input", x),
                             *(("hx", state) for state in states)]:  # fmt: skip
            _check(name, tensor, weights[0].dtype)
        kept = self.__dict__.setdefault("_kept", _Kept())
        drops = self.training and self.dropout > 0 and self.num_layers > 1
        seed = int(torch.randint(1 << 62, ())) if drops else None  # so that torch.manual_seed decides
        layer = self._layer(kept, weights)
        call = _Call(kept, layer, self._flat_weights_names, lengths, seed, len(states))
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *states, *weights)):
            return _Recurrence.apply(call, x, *states, *weights)
        if not drops:
            return call.forward(x, states, None)
        tape = kept.take_tape(seed)
        outputs = call.forward(x, states, tape)
        kept.give_tape(tape)
        return outputs

    def _layer(self, kept, weights):
        """The layer of these weights: that of the last call, if they and the module's options are as they were.

        Numbers are compared, not PyTorch's counts of changes: what goes by ``.data`` or by NumPy does not count.
        """
        arrays = [weight.detach().numpy() for weight in weights]
        options = {
            "input_size": self.input_size, "hidden_size": self.hidden_size, "num_layers": self.num_layers,
            "bias": self.bias, "dropout": self.dropout, "bidirectional": self.bidirectional,
            "dtype": arrays[0].dtype.name, **self._more_options(),
        }  # fmt: skip
        known, layer = kept.layer
        if known == options and all(map(_same_bits, arrays, layer.parameters.values())):
            return layer
        named = dict(zip(self._flat_weights_names, arrays, strict=True))
        layer = self._layer_class._of(arrays=named, **options)
        kept.layer = options, layer
        return layer

    def _more_options(self):
        return {}

    def flatten_parameters(self):
        """Nothing: there is no cuDNN."""


def _check(name, tensor, dtype):
    if forward_ad.unpack_dual(tensor).tangent is not None:  # which a forward in NumPy would lose
        raise RuntimeError(f"{name} has a tangent: modules of cylstm.torch have no forward-mode derivatives")
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} is on {tensor.device}, expected the CPU")
    if dtype not in _DTYPES:
        raise TypeError(f"parameters are of dtype {dtype}, expected torch.float32 or torch.float64: use module.float()")
    if tensor.dtype != dtype:
        raise TypeError(f"{name} is of dtype {tensor.dtype}, expected {dtype}, that of the parameters")


def _same_bits(one, other):
    bits = np.dtype(f"i{one.itemsize}")
    return np.array_equal(one.view(bits), other.view(bits))


class LSTM(_OnCylstm, torch.nn.LSTM):
    """torch.nn.LSTM, computed by cylstm: the same constructor, parameters, initial values and state dict.

    Forward and backward run on cylstm, on the CPU, in float32 or float64, with the threads that
    :func:`cylstm.set_num_threads` gives. What is returned can be differentiated once. Dropout's masks are not
    PyTorch's, but ``torch.manual_seed`` decides them. ``torch.compile`` goes around a module; tracing one is an error.

    Examples
    --------
    >>> import torch
    >>> from cylstm.torch import LSTM
    >>> lstm = LSTM(3, 4, batch_first=True)
    >>> y, (h_n, c_n) = lstm(torch.ones(2, 5, 3))
    >>> y.sum().backward()
    >>> lstm.weight_ih_l0.grad.shape
    torch.Size([16, 3])
    """

    _layer_class = layers.LSTM

    def _more_options(self):
        return {"proj_size": self.proj_size}


class GRU(_OnCylstm, torch.nn.GRU):
    """torch.nn.GRU, computed by cylstm: see :class:`LSTM`."""

    _layer_class = layers.GRU


class RNN(_OnCylstm, torch.nn.RNN):
    """torch.nn.RNN, computed by cylstm: see :class:`LSTM`."""

    _layer_class = layers.RNN

    def _more_options(self):
        return {"nonlinearity": self.nonlinearity}
