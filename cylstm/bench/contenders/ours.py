"""cylstm, called as its documentation says."""

import time

import numpy as np

import cylstm
from cylstm._core import dispatch

from ..cases import BIAS_CHANGE, as_state, by_name, states_of
from ..machine import threads
from . import Job


def prepare(case, data):
    cylstm.set_num_threads(threads())
    layer = getattr(cylstm, case.cell.upper())(
        case.input_size,
        case.hidden_size,
        num_layers=case.num_layers,
        bidirectional=case.bidirectional,
        dtype=case.dtype,
    )
    layer.load_state_dict(data.parameters)
    if case.kind == "step":
        step = layer.stream().step
        x = data.x[0, 0]
        out = np.empty(case.hidden_size, case.dtype)
        return Job(
            "step(x, out=out)",
            {"step": step, "x": x, "out": out},
            lambda: {"y": step(x, out=out)[None, None]},
        )
    if case.kind == "train":
        return _training(layer, case, data)
    names = {"forward": layer.forward, "x": data.x, "lengths": data.lengths}
    if case.ragged:
        return Job("forward(x, lengths=lengths)", names, lambda: {"y": layer.forward(data.x, lengths=data.lengths)[0]})
    return Job("forward(x)", names, lambda: {"y": layer.forward(data.x)[0]})


def peak_gflops(dtype):
    """What the multiply-add units do when they wait for nothing: the most of several tries."""
    rounds, rates = 300_000, []
    for _ in range(30):
        began = time.perf_counter()
        operations = dispatch.multiply_adds(dtype, rounds)
        rates.append(operations / (time.perf_counter() - began) * 1e-9)
    return max(rates)


def one_row(size_kib):
    """A function that reads the weights of a Dense, so many KiB, for one row, and the bytes that it reads."""
    inputs = 1024  # 4 KiB, which stay in L1
    layer = cylstm.Dense(inputs, size_kib * 256 // inputs)
    x = np.ones((1, inputs), np.float32)
    return lambda: layer.forward(x), layer.parameters["weight"].nbytes


def _training(layer, case, data):
    tape = cylstm.Tape()
    state = as_state(states_of(case, data).values())
    change = np.dtype(case.dtype).type(BIAS_CHANGE)

    def iterate():
        with layer.writable() as parameters:
            parameters["bias_ih_l0"] += change
        y, _ = layer.forward(data.x, state, tape=tape)
        return y, layer.backward(tape, data.dy)

    def check():
        y, grads = iterate()
        return {"y": y, "x": grads.dx, **by_name(case, grads.dstate), **grads.parameters}

    return Job("iterate()", {"iterate": iterate}, check)
