"""ONNX Runtime: the LSTM operator with one intra-op thread, by ``run`` and by io_binding.

A step is a graph of T = 1 with the state in and out; two bindings take turns, so that one call's
outputs are the next one's inputs without a copy.
"""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from contenders import Job


def _iofc(weight):
    i, f, g, o = np.split(weight, 4)
    return np.concatenate([i, o, f, g])


def _graph(case, data):
    """One LSTM node per layer; between layers (T, D, B, H) becomes (T, B, D*H)."""
    p, D, H = data.parameters, case.directions, case.hidden_size
    nodes, constants = [], []
    value, stateful = "x", case.kind == "step"
    state = ["", "h", "c"] if stateful else []
    for layer in range(case.num_layers):
        suffixes = [f"l{layer}", f"l{layer}_reverse"][:D]
        biases = [(p[f"bias_ih_{s}"], p[f"bias_hh_{s}"]) for s in suffixes]
        for name, arrays in (
            (f"W{layer}", [_iofc(p[f"weight_ih_{s}"]) for s in suffixes]),
            (f"R{layer}", [_iofc(p[f"weight_hh_{s}"]) for s in suffixes]),
            (f"B{layer}", [np.concatenate([_iofc(b) for b in pair]) for pair in biases]),
        ):
            constants.append(numpy_helper.from_array(np.stack(arrays), name))
        nodes.append(
            helper.make_node(
                "LSTM",
                [value, f"W{layer}", f"R{layer}", f"B{layer}", *state],
                [f"Y{layer}"] if not stateful else ["", "h_n", "c_n"],
                hidden_size=H,
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


def _session(case, data):
    nodes, constants, value = _graph(case, data)

    def info(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inputs, state = [info("x", data.x.shape)], (1, 1, case.hidden_size)
    if case.kind == "step":
        inputs += [info("h", state), info("c", state)]
        outputs = [info("h_n", state), info("c_n", state)]
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
        feed = {"x": data.x, "h": data.h_0, "c": data.c_0}

        def step():
            feed["h"], feed["c"] = run(None, feed)
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

    states = [[value(data.h_0.copy()), value(data.c_0.copy())] for _ in range(2)]
    bindings = []
    for here, there in (states, states[::-1]):
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", x)
        binding.bind_ortvalue_input("h", here[0])
        binding.bind_ortvalue_input("c", here[1])
        binding.bind_ortvalue_output("h_n", there[0])
        binding.bind_ortvalue_output("c_n", there[1])
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
