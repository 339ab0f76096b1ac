"""PyTorch: nn.LSTM (oneDNN's kernels for inference) and nn.LSTMCell under inference_mode, or GRU and RNN, all
also traced and frozen; ragged batches packed; training by autograd, the gradient of y handed to it."""

import contextlib
import warnings

import torch

from ..cases import BIAS_CHANGE, as_state, states_of
from ..machine import threads
from . import Job

torch.set_num_threads(threads())
torch.set_num_interop_threads(1)
warnings.filterwarnings("ignore", category=DeprecationWarning)

# Entered once per case and not once per call, as a serving loop would.
_mode = contextlib.ExitStack()


def _tensors(data):
    return {name: torch.from_numpy(value) for name, value in data.parameters.items()}


def _enter(case):
    _mode.close()
    if case.kind != "train":
        _mode.enter_context(torch.inference_mode())


def _layer(case, data):
    module = getattr(torch.nn, case.cell.upper())(
        case.input_size,
        case.hidden_size,
        num_layers=case.num_layers,
        bidirectional=case.bidirectional,
        dtype=getattr(torch, case.dtype),
    )
    module.load_state_dict(_tensors(data))
    return module


def _cell(case, data):
    kind = getattr(torch.nn, case.cell.upper() + "Cell")
    module = kind(case.input_size, case.hidden_size, dtype=getattr(torch, case.dtype))
    module.load_state_dict({name[:-3]: value for name, value in _tensors(data).items()})
    return module.eval()


def _trace(module, *inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(module, inputs))
    for _ in range(3):  # the executor specialises itself over the first calls
        traced(*inputs)
    return traced


def _stepping(case, call, x, state):
    def step():
        nonlocal state
        y, state = call(x, state)
        return y

    shape = (1, 1, case.hidden_size)
    return Job("step()", {"step": step}, lambda: {"y": step().reshape(shape).numpy()})


def _zero_state(case, data, shape):
    return as_state(torch.zeros(shape, dtype=getattr(torch, case.dtype)) for _ in states_of(case, data))


def prepare_layer(case, data):
    _enter(case)
    module = _layer(case, data)
    x = torch.from_numpy(data.x)
    if case.kind == "train":
        return _training(module, case, data, x)
    module.eval()
    if case.kind == "step":
        return _stepping(case, module, x, _zero_state(case, data, (1, 1, case.hidden_size)))
    if case.ragged:
        return _packed(module, x, torch.from_numpy(data.lengths))
    return Job("layer(x)", {"layer": module, "x": x}, lambda: {"y": module(x)[0].numpy()})


def _packed(module, x, lengths):
    rnn = torch.nn.utils.rnn

    def forward():
        y, _ = module(rnn.pack_padded_sequence(x, lengths, enforce_sorted=False))
        return rnn.pad_packed_sequence(y, total_length=len(x))[0]

    return Job("forward()", {"forward": forward}, lambda: {"y": forward().numpy()})


def prepare_traced_layer(case, data):
    _enter(case)
    x = torch.from_numpy(data.x)
    module = _trace(_layer(case, data).eval(), x)
    return Job("layer(x)", {"layer": module, "x": x}, lambda: {"y": module(x)[0].numpy()})


def prepare_cell(case, data):
    _enter(case)
    cell = _cell(case, data)

    def call(x, state):
        state = cell(x, state)
        return _h_of(state), state

    x = torch.from_numpy(data.x[0])
    return _stepping(case, call, x, _zero_state(case, data, (1, case.hidden_size)))


def prepare_traced_cell(case, data):
    _enter(case)
    x = torch.from_numpy(data.x[0])
    state = _zero_state(case, data, (1, case.hidden_size))
    cell = _trace(_cell(case, data), x, state)

    def call(x, state):
        state = cell(x, state)
        return _h_of(state), state

    return _stepping(case, call, x, state)


def _h_of(state):
    return state[0] if isinstance(state, tuple) else state


def _training(module, case, data, x):
    x.requires_grad_()
    states = {name: torch.from_numpy(array).requires_grad_() for name, array in states_of(case, data).items()}
    state = as_state(states.values())
    dy = torch.from_numpy(data.dy)
    bias = module.bias_ih_l0.data
    parameters = dict(module.named_parameters())
    inputs = [x, *states.values(), *parameters.values()]

    def iterate():
        bias.add_(BIAS_CHANGE)
        y, _ = module(x, state)
        return y, torch.autograd.grad(y, inputs, dy)

    def check():
        y, grads = iterate()
        grads = [grad.numpy() for grad in grads]
        names = ["x", *states, *parameters]
        return {"y": y.detach().numpy(), **dict(zip(names, grads, strict=True))}

    return Job("iterate()", {"iterate": iterate}, check)
