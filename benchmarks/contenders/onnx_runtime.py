"""ONNX Runtime: the operator of the cell with one intra-op thread, by ``run`` and by io_binding.

A step is a graph of T = 1 with the state in and out; two bindings take turns, so that one call's
outputs are the next one's inputs without a copy.
"""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from contenders import Job

# The gates in ONNX's order, by their numbers in PyTorch's.
ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


def _ordered(case, weight):
    parts = np.split(weight, len(ORDER[case.cell]))
    return np.concatenate([parts[number] for number in ORDER[case.cell]])


def _graph(case, data):
    """One node per layer; between layers (T, D, B, H) becomes (T, B, D*H)."""
    p, D, H = data.parameters, case.directions, case.hidden_size
    nodes, constants = [], []
    value, stateful = "x", case.kind == "step"
    state = ["", *_states(case)] if stateful else []
    more = {"linear_before_reset": 1} if case.cell == "gru" else {}
    for layer in range(case.num_layers):
        suffixes = [f"l{layer}", f"l{layer}_reverse"][:D]
        biases = [(p[f"bias_ih_{s}"], p[f"bias_hh_{s}"]) for s in suffixes]
        for name, arrays in (
            (f"W{layer}", [_ordered(case, p[f"weight_ih_{s}"]) for s in suffixes]),
            (f"R{layer}", [_ordered(case, p[f"weight_hh_{s}"]) for s in suffixes]),
            (f"B{layer}", [np.concatenate([_ordered(case, b) for b in pair]) for pair in biases]),
        ):
            constants.append(numpy_helper.from_array(np.stack(arrays), name))
        nodes.append(
            helper.make_node(
                case.cell.upper(),
                [value, f"W{layer}", f"R{layer}", f"B{layer}", *state],
                ["", *(f"{name}_n" for name in _states(case))] if stateful else [f"Y{layer}"],
                hidden_size=H,
                **more,
                direction="bidirectional" if case.bidirectional else "forward",
            )
        )
        value = f"Y{layer}"
        if D == 2:
            shape = np.array([case.seq_len, case.batch, D * H])
            constants.append(numpy_helper.from_array(shape, f"shape{layer}"))
            turned, value = f"t{layer}", f"y{layer}"
            nodes += [
                helper.make_node("Transpose", [f"Y{layer}"], [turned], perm=[0, 2, 1, 3]),
                helper.make_node("Reshape", [turned, f"shape{layer}"], [value]),
            ]
    return nodes, constants, value


def _states(case):
    return ("h", "c") if case.cell == "lstm" else ("h",)


def _session(case, data):
    nodes, constants, value = _graph(case, data)

    def info(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inputs, state = [info("x", data.x.shape)], (1, 1, case.hidden_size)
    if case.kind == "step":
        inputs += [info(name, state) for name in _states(case)]
        outputs = [info(f"{name}_n", state) for name in _states(case)]
    else:
        outputs = [info(value, None)]
    graph = helper.make_graph(nodes, case.name, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _time_major(case, y):
    """From (T, D, B, H), or (T, B, D*H) already, to (T, B, D*H)."""
    return y.reshape(case.seq_len, case.batch, case.directions * case.hidden_size)


def prepare_run(case, data):
    run = _session(case, data).run
    if case.kind == "step":
        names = _states(case)
        feed = {"x": data.x, "h": data.h_0, "c": data.c_0}
        feed = {name: feed[name] for name in ("x", *names)}

        def step():
            feed.update(zip(names, run(None, feed), strict=True))
            return feed["h"]

        return Job("step()", {"step": step}, lambda: {"y": step()})
    feed = {"x": data.x}
    return Job(
        "run(None, feed)",
        {"run": run, "feed": feed},
        lambda: {"y": _time_major(case, run(None, feed)[0])},
    )


def prepare_io_binding(case, data):
    session = _session(case, data)
    run = session.run_with_iobinding
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    x = value(data.x)
    if case.kind != "step":
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", x)
        y = value(np.empty(session.run(None, {"x": data.x})[0].shape, np.float32))
        binding.bind_ortvalue_output(session.get_outputs()[0].name, y)

        def check():
            run(binding)
            return {"y": _time_major(case, y.numpy())}

        return Job("run(binding)", {"run": run, "binding": binding}, check, alive=(x, y))

    names = _states(case)
    states = [[value(data.h_0.copy()), value(data.c_0.copy())][: len(names)] for _ in range(2)]
    bindings = []
    for here, there in (states, states[::-1]):
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", x)
        for name, before, after in zip(names, here, there, strict=True):
            binding.bind_ortvalue_input(name, before)
            binding.bind_ortvalue_output(f"{name}_n", after)
        bindings.append(binding)
    now, then = bindings
    h_now, h_then = states[1][0], states[0][0]

    def step():
        nonlocal now, then, h_now, h_then
        run(now)
        h = h_now
        now, then, h_now, h_then = then, now, h_then, h_now
        return h

    return Job("step()", {"step": step}, lambda: {"y": step().numpy()}, alive=(x, states))
