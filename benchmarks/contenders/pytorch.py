"""PyTorch: nn.LSTM (oneDNN's kernels for inference) and nn.LSTMCell under inference_mode, both
also traced and frozen; training by autograd, the gradient of y handed to it."""

import contextlib
import warnings

import torch
from shapes import BIAS_CHANGE

from contenders import Job

torch.set_num_threads(1)
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


def _lstm(case, data):
    module = torch.nn.LSTM(
        case.input_size,
        case.hidden_size,
        num_layers=case.num_layers,
        bidirectional=case.bidirectional,
    )
    module.load_state_dict(_tensors(data))
    return module


def _cell(case, data):
    module = torch.nn.LSTMCell(case.input_size, case.hidden_size)
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


def _zero_state(shape):
    return torch.zeros(shape), torch.zeros(shape)


def prepare_lstm(case, data):
    _enter(case)
    module = _lstm(case, data)
    x = torch.from_numpy(data.x)
    if case.kind == "train":
        return _training(module, data, x)
    module.eval()
    if case.kind == "step":
        return _stepping(case, module, x, _zero_state((1, 1, case.hidden_size)))
    return Job("lstm(x)", {"lstm": module, "x": x}, lambda: {"y": module(x)[0].numpy()})


def prepare_traced_lstm(case, data):
    _enter(case)
    x = torch.from_numpy(data.x)
    module = _trace(_lstm(case, data).eval(), x)
    return Job("lstm(x)", {"lstm": module, "x": x}, lambda: {"y": module(x)[0].numpy()})


def prepare_cell(case, data):
    _enter(case)
    cell = _cell(case, data)

    def call(x, state):
        state = cell(x, state)
        return state[0], state

    x = torch.from_numpy(data.x[0])
    return _stepping(case, call, x, _zero_state((1, case.hidden_size)))


def prepare_traced_cell(case, data):
    _enter(case)
    x = torch.from_numpy(data.x[0])
    state = _zero_state((1, case.hidden_size))
    cell = _trace(_cell(case, data), x, state)

    def call(x, state):
        state = cell(x, state)
        return state[0], state

    return _stepping(case, call, x, state)


def _training(module, data, x):
    x.requires_grad_()
    h_0 = torch.from_numpy(data.h_0).requires_grad_()
    c_0 = torch.from_numpy(data.c_0).requires_grad_()
    dy = torch.from_numpy(data.dy)
    bias = module.bias_ih_l0.data
    parameters = dict(module.named_parameters())
    inputs = [x, h_0, c_0, *parameters.values()]

    def iterate():
        bias.add_(BIAS_CHANGE)
        y, _ = module(x, (h_0, c_0))
        return y, torch.autograd.grad(y, inputs, dy)

    def check():
        y, grads = iterate()
        grads = [grad.numpy() for grad in grads]
        names = ["x", "h_0", "c_0", *parameters]
        return {"y": y.detach().numpy(), **dict(zip(names, grads, strict=True))}

    return Job("iterate()", {"iterate": iterate}, check)
