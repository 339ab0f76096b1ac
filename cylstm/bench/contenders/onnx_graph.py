"""The graph in ONNX for those who read it: the operator of the cell, one node per layer.

A step is a graph of T = 1 with the state in and out; a ragged batch has its lengths as an input.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

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
    state = ["lengths" if case.ragged else "", *(states(case) if stateful else [])]
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
                ["", *(f"{name}_n" for name in states(case))] if stateful else [f"Y{layer}"],
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


def states(case):
    return ("h", "c") if case.cell == "lstm" else ("h",)


def model(case, data):
    """Return the graph as bytes: inputs x (T, B, I), of a step h and c, of a ragged batch lengths (B,) int32."""
    nodes, constants, value = _graph(case, data)

    def info(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inputs, state = [info("x", data.x.shape)], (1, 1, case.hidden_size)
    if case.ragged:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, [case.batch]))
    if case.kind == "step":
        inputs += [info(name, state) for name in states(case)]
        outputs = [info(f"{name}_n", state) for name in states(case)]
    else:
        outputs = [info(value, None)]
    graph = helper.make_graph(nodes, case.name, inputs, outputs, constants)
    opset = [helper.make_opsetid("", 14)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def time_major(case, y):
    """From (T, D, B, H), or (T, B, D*H) already, to (T, B, D*H)."""
    return y.reshape(case.seq_len, case.batch, case.directions * case.hidden_size)
