"""OpenVINO: the sequence of the cell, or the cell itself for a step, latency hint, float32
(the default on a processor with AMX is bfloat16), tensors bound to the request.

Steps run two ways: two requests that take turns, so that one's outputs are the other's inputs;
or a stateful model that keeps h and c itself.
"""

import numpy as np
import openvino as ov
from openvino import opset13 as op
from openvino.op.util import Variable, VariableInfo

from ..cases import states_of
from ..machine import threads
from . import Job

_CONFIG = {
    "INFERENCE_NUM_THREADS": threads(),
    "NUM_STREAMS": 1,
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
    "ENABLE_CPU_PINNING": False,  # the process is pinned already
}


# PyTorch's gates, by number, in the order of OpenVINO: f i c o; z r h.
_ORDER = {"lstm": (1, 0, 2, 3), "gru": (1, 0, 2), "rnn": (0,)}
_OF_CELL = {
    "gru": {"linear_before_reset": True},
    "rnn": {"activations": ["tanh"], "activations_alpha": [], "activations_beta": []},
}


def _ordered(case, weight):
    parts = np.split(weight, len(_ORDER[case.cell]))
    return np.concatenate([parts[number] for number in _ORDER[case.cell]])


def _bias(case, of_x, of_h):
    """(G*H,), of a GRU (4*H,): z, r, h of x, h of h."""
    of_x, of_h = _ordered(case, of_x), _ordered(case, of_h)
    if case.cell != "gru":
        return of_x + of_h
    H = case.hidden_size
    return np.concatenate([of_x[: 2 * H] + of_h[: 2 * H], of_x[2 * H :], of_h[2 * H :]])


def _weights(case, parameters, suffixes):
    """W (D, G*H, I), R (D, G*H, H), B (D, G*H or, of a GRU, 4*H)."""
    p = parameters
    return [
        np.stack([_ordered(case, p[f"weight_ih_{s}"]) for s in suffixes]),
        np.stack([_ordered(case, p[f"weight_hh_{s}"]) for s in suffixes]),
        np.stack([_bias(case, p[f"bias_ih_{s}"], p[f"bias_hh_{s}"]) for s in suffixes]),
    ]


def _constants(arrays):
    return [op.constant(array) for array in arrays]


def _compile(model):
    return ov.Core().compile_model(model, "CPU", _CONFIG)


def _sequence_model(case, data):
    """x (B, T, I) -> y (B, D, T, H), between layers (B, T, D*H)."""
    B, T, D, H = case.batch, case.seq_len, case.directions, case.hidden_size
    x, lengths = op.parameter([B, T, case.input_size], np.float32), op.parameter([B], np.int32)
    value = x
    for layer in range(case.num_layers):
        if layer:
            value = op.transpose(value, op.constant([0, 2, 1, 3]))
            value = op.reshape(value, op.constant([B, T, D * H]), False)
        zeros = np.zeros((B, D, H), np.float32)
        value = getattr(op, f"{case.cell}_sequence")(
            value,
            *_constants([zeros for _ in states_of(case, data)]),
            lengths if case.ragged else op.constant(np.full(B, T, np.int32)),
            *_constants(_weights(case, data.parameters, [f"l{layer}", f"l{layer}_reverse"][:D])),
            H,
            "bidirectional" if case.bidirectional else "forward",
            **_OF_CELL.get(case.cell, {}),
        ).output(0)
    return ov.Model([value], [x, lengths] if case.ragged else [x], case.name)


def _cell(case, data, x, states):
    """x (1, I), states each (1, H) -> new states."""
    weights = [array[0] for array in _weights(case, data.parameters, ["l0"])]
    make = getattr(op, f"{case.cell}_cell")
    cell = make(x, *states, *_constants(weights), case.hidden_size, **_OF_CELL.get(case.cell, {}))
    return [cell.output(k) for k in range(len(states))]


def _bind(compiled, inputs, outputs):
    request = compiled.create_infer_request()
    for index, array in enumerate(inputs):
        request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))
    for index, array in enumerate(outputs):
        request.set_output_tensor(index, ov.Tensor(array, shared_memory=True))
    return request


def prepare_bound(case, data):
    if case.kind == "step":
        return _alternating(case, data)
    B, T, D, H = case.batch, case.seq_len, case.directions, case.hidden_size
    y = np.empty((B, D, T, H), np.float32)
    x = np.ascontiguousarray(data.x.transpose(1, 0, 2))
    inputs = [x, data.lengths.astype(np.int32)] if case.ragged else [x]
    request = _bind(_compile(_sequence_model(case, data)), inputs, [y])

    def check():
        request.infer(share_outputs=True)
        return {"y": y.transpose(2, 0, 1, 3).reshape(T, B, D * H)}

    names = {"infer": request.infer}
    return Job("infer(share_outputs=True)", names, check, alive=(inputs, y))


def _alternating(case, data):
    x, *states = (op.parameter(array[0].shape, np.float32) for array in (data.x, *states_of(case, data).values()))
    compiled = _compile(ov.Model(_cell(case, data, x, states), [x, *states], case.name))
    x = data.x[0]
    here, there = ([array[0].copy() for array in states_of(case, data).values()] for _ in range(2))
    now = _bind(compiled, [x, *here], there)
    then = _bind(compiled, [x, *there], here)
    h_now, h_then = there[0], here[0]

    def step():
        nonlocal now, then, h_now, h_then
        now.infer(share_outputs=True)
        h = h_now
        now, then, h_now, h_then = then, now, h_then, h_now
        return h

    return Job(
        "step()",
        {"step": step},
        lambda: {"y": step()[None].copy()},
        alive=(x, here, there),
    )


def _variable(name, shape):
    info = VariableInfo()
    info.variable_id, info.data_type = name, ov.Type.f32
    info.data_shape = ov.PartialShape(shape)
    return Variable(info)


def prepare_stateful(case, data):
    x = op.parameter([1, case.input_size], np.float32)
    shape = [1, case.hidden_size]
    zeros = op.constant(np.zeros(shape, np.float32))
    variables = [_variable(name, shape) for name in states_of(case, data)]
    states = [op.read_value(zeros, variable) for variable in variables]
    new = _cell(case, data, x, states)
    # assign takes a node and not one of its outputs: hence the concatenations of one.
    nodes = [op.concat([value], 0) for value in new]
    sinks = [op.assign(*pair) for pair in zip(nodes, variables, strict=True)]
    h = np.empty(shape, np.float32)
    model = ov.Model([op.result(new[0])], sinks, [x], case.name)
    request = _bind(_compile(model), [data.x[0]], [h])

    def check():
        request.infer(share_outputs=True)
        return {"y": h[None].copy()}

    names = {"infer": request.infer}
    return Job("infer(share_outputs=True)", names, check, alive=(data.x, h))
