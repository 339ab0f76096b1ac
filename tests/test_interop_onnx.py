"""Models of ONNX, in and out: against onnxruntime's and onnx's own numbers, and what damaged files and others say."""

import os
import runpy
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import cylstm
from cylstm.interop import onnx as interop

onnx = pytest.importorskip("onnx")

GOLDEN = Path(__file__).parent / "golden" / "interop"
load = runpy.run_path(str(GOLDEN.parent / "store.py"))["load"]
NODES, GRAPHS = (load(GOLDEN / f"onnx_models_{kind}.npz") for kind in ("nodes", "graphs"))
TOLERANCE = {np.dtype("float32"): 2e-5, np.dtype("float64"): 1e-12}


def scaled(found, expected):
    """The largest difference, of max(1, |expected|)."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return (abs(found - expected) / np.maximum(1, abs(expected))).max(initial=0.0)


def difference(about, arrays):
    """How far a golden case is from what comes out of its model here."""
    model = onnx.load_from_string(arrays["model"].tobytes())
    return {"node": _of_node, "graph": _of_graph}[about["kind"]](model, about["options"], arrays)


def _of_node(model, options, arrays):
    layer = cylstm.from_onnx(model, node="recurrent")
    layout, letters = options["layout"], "hc" if "Y_c" in arrays else "h"
    y = arrays["Y"] if layout else arrays["Y"].swapaxes(1, 2)  # the directions behind the two axes of x
    h = arrays["Y_h"]
    given = {name: arrays[f"initial_{name}"] for name in letters if f"initial_{name}" in arrays}
    state = [given.get(name, np.zeros_like(h)) for name in letters] if given else None
    ends = [arrays[f"Y_{name}"] for name in letters]
    if layout:
        ends, state = ([part.swapaxes(0, 1) for part in parts or ()] for parts in (ends, state))
    found, found_ends = _run(layer, arrays["X"], state or None, arrays.get("sequence_lens"))
    return max([scaled(found, y.reshape(*y.shape[:2], -1)), *map(scaled, found_ends, ends)])


def _run(layer, x, state, lengths):
    """(y, a list of final states) of a layer, in the layout of the node."""

    def packed(parts):
        return parts if parts is None or len(parts) > 1 else parts[0]

    def unpacked(parts):
        return list(parts) if isinstance(parts, tuple) else [parts]

    if not isinstance(layer, cylstm.Bidirectional):
        y, ends = layer.forward(x, packed(state and tuple(state)), lengths=lengths)
        return y, unpacked(ends)
    both = state and [packed(tuple(part[n : n + 1] for part in state)) for n in (0, 1)]
    y, ends = layer.forward(x.swapaxes(0, 1), both, lengths)
    return y.swapaxes(0, 1), [np.concatenate(parts) for parts in zip(*map(unpacked, ends), strict=True)]


def _of_graph(model, options, arrays):
    def batch_first(name):
        return arrays[name].swapaxes(0, 1) if options[name].startswith("tb") else arrays[name]

    y, _ = cylstm.from_onnx(model).forward(batch_first("x"), lengths=arrays.get("lengths"))
    return scaled(y, batch_first("y"))


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_a_node_makes_what_onnxruntime_makes(operator):
    cases = {name: case for name, case in NODES.items() if name.startswith(operator)}
    assert len(cases) > 30
    for name, (about, arrays) in cases.items():
        assert difference(about, arrays) < TOLERANCE[arrays["X"].dtype], name


@pytest.mark.parametrize("exporter", ["old", "plain", "new"])
def test_what_pytorch_exports_makes_what_onnxruntime_makes(exporter):
    cases = {name: case for name, case in GRAPHS.items() if name.endswith(exporter)}
    assert len(cases) >= 12
    for name, (about, arrays) in cases.items():
        assert difference(about, arrays) < TOLERANCE[arrays["y"].dtype], name


# Graphs of our own ------------------------------------------------------------------------------


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype("f")


W, R, B, X = draw(0, 1, 12, 3), draw(1, 1, 12, 4), draw(2, 1, 24), draw(3, 5, 2, 3)
TWO = {"W2": draw(4, 2, 12, 3), "R2": draw(5, 2, 12, 4), "B2": draw(6, 2, 24)}
GRU = ("GRU", "x,W,R,B", "Y,H", {"hidden_size": 4, "linear_before_reset": 1})
BOTH = ("GRU", "x,W2,R2,B2", "Y,H", {"hidden_size": 4, "linear_before_reset": 1, "direction": "bidirectional"})


def make(nodes, arrays=None, outputs="y", opset=17, x=("t", "n", 3), inputs=(), integer_inputs=""):
    """A model of nodes, each (op, inputs, outputs[, attributes]), of arrays of the file and an input x."""
    h = onnx.helper
    nodes = [
        h.make_node(op, ins.split(",") if ins else [], outs.split(","), f"{op}_{n}", **(rest[0] if rest else {}))
        for n, (op, ins, outs, *rest) in enumerate(nodes)
    ]
    stored = {"W": W, "R": R, "B": B, **TWO} | (arrays or {})
    stored = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    infos = [h.make_tensor_value_info(name, 1, shape) for name, shape in [("x", x), *inputs]]
    infos += [h.make_tensor_value_info(name, 7, (None,)) for name in integer_inputs]
    outputs = [h.make_tensor_value_info(name, 1, None) for name in outputs.split(",")]
    return h.make_model(h.make_graph(nodes, "g", infos, outputs, stored), opset_imports=[h.make_opsetid("", opset)])


def integers(*values):
    return np.array(values, np.int64)


def outputs_of(node):
    """(y batch-first, h_n) of a layer that a node is, alone."""
    layer = cylstm.from_onnx(make([node], outputs="Y,H"), node="GRU_0")
    y, h_n = layer.forward(X)
    return y.swapaxes(0, 1), h_n


# How a weight may come to be: nodes that make V, and arrays that they take.
TENSOR = onnx.numpy_helper.from_array
FOLDED = {
    "Identity": ([("Identity", "W", "V")], {}),
    "Cast": ([("Cast", "a", "V", {"to": 1})], {"a": W.astype("d")}),
    "Slice": (
        [("Slice", "a,start,end,axis,step", "V")],
        {"a": np.concatenate([W, W[:, ::-1]], 1), "start": integers(-1), "end": integers(-13), "axis": integers(1),
         "step": integers(-1)},
    ),
    "Concat": ([("Concat", "a,b", "V", {"axis": -1})], {"a": W[..., :1], "b": W[..., 1:]}),
    "Unsqueeze": ([("Unsqueeze", "a,axes", "V")], {"a": W[0], "axes": integers(0)}),
    "Squeeze": ([("Squeeze", "a,axes", "V")], {"a": W[:, None], "axes": integers(-3)}),
    "Transpose": ([("Transpose", "a", "V", {"perm": [2, 1, 0]})], {"a": W.T}),
    "Reshape": ([("Reshape", "a,shape", "V")], {"a": W.reshape(1, 3, 12), "shape": integers(0, 12, -1)}),
    "Flatten": ([("Flatten", "W", "a", {"axis": 2}), ("Unsqueeze", "a,axes", "V")], {"axes": integers(0)}),
    "Split": ([("Split", "a,b", "V,c", {"axis": 2})], {"a": np.concatenate([W, W], 2), "b": integers(3, 3)}),
    "Gather": ([("Gather", "a,b", "V", {"axis": 1})], {"a": W[:, ::-1], "b": np.arange(11, -1, -1)}),
    "Expand": ([("Expand", "a,b", "c"), ("Mul", "c,W", "V")], {"a": np.ones((1, 1), "f"), "b": integers(1, 12, 3)}),
    "Tile": ([("Tile", "a,b", "c"), ("Add", "c,W", "V")], {"a": np.zeros((1, 1, 3), "f"), "b": integers(1, 12, 1)}),
    "ConstantOfShape": ([("Shape", "W", "a"), ("ConstantOfShape", "a", "b"), ("Sub", "W,b", "V")], {}),
    "Constant": ([("Constant", "", "V", {"value": TENSOR(W)})], {}),
    "value_floats": ([("Constant", "", "a", {"value_floats": [2.0]}), ("Mul", "a,b", "V")], {"b": W / 2}),
    "value_int": (
        [("Constant", "", "a", {"value_int": 0}), ("Constant", "", "b", {"value_ints": [1, 12, 3]}),
         ("Gather", "b,a", "c"), ("Unsqueeze", "c,axes", "d"), ("Concat", "d,e", "f", {"axis": 0}),
         ("Reshape", "W,f", "V")],
        {"axes": integers(0), "e": integers(12, 3)},
    ),
    "Where": ([("Equal", "W,W", "a"), ("Where", "a,W,b", "V")], {"b": np.zeros((1, 1, 3), "f")}),
    "Div": ([("Div", "a,b", "V")], {"a": W * 4, "b": np.float32(4)}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
def test_weights_are_computed_of_constants(name):
    nodes, arrays = FOLDED[name]
    model = make([*nodes, ("GRU", "x,V,R,B", "Y,H", GRU[3])], arrays)
    found = cylstm.from_onnx(model, node=f"GRU_{len(nodes)}").parameters
    assert (found["weight_ih_l0"] == np.concatenate([W[0, 4:8], W[0, :4], W[0, 8:]])).all()


def test_attributes_of_old_opsets_do_what_inputs_do_now():
    nodes = [
        ("Slice", "a", "b", {"starts": [1], "ends": [13], "axes": [0]}), ("Split", "b", "c,d", {"split": [5, 7]}),
        ("Concat", "c,d", "e", {"axis": 0}), ("Unsqueeze", "e", "f", {"axes": [0, 1]}),
        ("Squeeze", "f", "V", {"axes": [0]}), ("GRU", "x,V,R,B", "Y,H", GRU[3]),
    ]  # fmt: skip
    a = np.concatenate([W[0, :1], W[0]])
    found = cylstm.from_onnx(make(nodes, {"a": a}, opset=9), node="GRU_5").parameters
    assert (found["weight_ih_l0"][8:] == W[0, 8:]).all()


HEAD = {"w": draw(7, 4, 2), "c": draw(8, 2), "w8": draw(9, 8, 2)}
ONE, LAST = integers(1), np.array(-1, np.int64)

# Of y (batch, time, features) and h_n: what is behind the recurrent node BOTH, what it makes, and the layers.
CHAINS = {
    "reshape": (
        [("Transpose", "Y", "a", {"perm": [0, 2, 1, 3]}), ("Reshape", "a,shape", "y")], {"shape": integers(0, 0, -1)},
        lambda y, h: y, "GRU(3, 4, bidirectional=True)",
    ),
    "split and concat": (
        [("Split", "Y", "a,b", {"axis": 1}), ("Squeeze", "a,one", "d"), ("Squeeze", "b,one", "e"),
         ("Concat", "d,e", "y", {"axis": 2})], {"one": ONE}, lambda y, h: y, "GRU(3, 4, bidirectional=True)",
    ),
    "one direction": (
        [("Gather", "Y,one", "a", {"axis": 1}), ("MatMul", "a,w", "b"), ("Add", "c,b", "y")],
        {"one": np.array(1, np.int64)}, lambda y, h: y[..., 4:] @ HEAD["w"] + HEAD["c"],
        "GRU(3, 4, bidirectional=True), Dense(8, 2)",
    ),
    "Y at -1": (
        [("Gather", "Y,last", "a", {"axis": 0}), ("Transpose", "a", "b", {"perm": [1, 0, 2]}), ("Flatten", "b", "d"),
         ("Gemm", "d,w8,c", "y", {"alpha": 0.5, "beta": 2.0})], {"last": LAST},
        lambda y, h: y[:, -1] @ HEAD["w8"] / 2 + 2 * HEAD["c"], "GRU(3, 4, bidirectional=True), Last(), Dense(8, 2)",
    ),
    "Y_h": (
        [("Transpose", "H", "a", {"perm": [1, 0, 2]}), ("Reshape", "a,shape", "y")], {"shape": integers(-1, 8)},
        lambda y, h: np.concatenate([*h], 1), "Final(GRU(3, 4, bidirectional=True))",
    ),
    "ends of Y, turned": (
        [("Gather", "Y,last", "a", {"axis": 0}), ("Gather", "Y,first", "b", {"axis": 0}), ("Split", "a", "a0,a1"),
         ("Split", "b", "b0,b1"), ("Concat", "b1,a0", "d", {"axis": 2}), ("Squeeze", "d,axes", "e"),
         ("MatMul", "e,w8", "y")], {"last": LAST, "first": np.array(0, np.int64), "axes": integers(0)},
        lambda y, h: np.concatenate([h[1], h[0]], 1) @ HEAD["w8"],
        "Final(GRU(3, 4, bidirectional=True)), Dense(8, 2, bias=False)",
    ),
    "last step by Slice": (
        [("Slice", "Y,start,end,axes", "a"), ("Squeeze", "a,axes", "b"), ("Gather", "b,first", "d"),
         ("Sigmoid", "d", "e"), ("MatMul", "e,w", "y")],
        {"start": integers(-1), "end": integers((1 << 63) - 1), "axes": integers(0), "first": np.array(0, np.int64)},
        lambda y, h: 1 / (1 + np.exp(-y[:, -1, :4])) @ HEAD["w"], None,
    ),
    "product": (
        [("Split", "H", "a,b"), ("Mul", "a,b", "d"), ("Squeeze", "d,axes", "y")], {"axes": integers(0)},
        lambda y, h: h[0] * h[1], "Final(GRU(3, 4, bidirectional=True, merge='mul'))",
    ),
    "average": (
        [("Split", "Y", "a,b", {"axis": 1}), ("Add", "b,a", "d"), ("Div", "d,two", "e"), ("Squeeze", "e,one", "y")],
        {"two": np.float32(2), "one": ONE}, lambda y, h: (y[..., :4] + y[..., 4:]) / 2,
        "GRU(3, 4, bidirectional=True, merge='average')",
    ),
    "swish and affine": (
        [("Gather", "Y,one", "a", {"axis": 1}), ("Sigmoid", "a", "b"), ("Mul", "b,a", "d"), ("Mul", "d,two", "e"),
         ("Sub", "e,two", "f"), ("MatMul", "f,w", "y")], {"two": np.float32(2), "one": np.array(1, np.int64)},
        lambda y, h: (2 * y[..., 4:] / (1 + np.exp(-y[..., 4:])) - 2) @ HEAD["w"], None,
    ),
    "turned around": (
        [("Transpose", "Y", "a", {"perm": [2, 0, 1, 3]}), ("Reshape", "a,shape", "b"),
         ("Slice", "b,from,to,one,from", "d"), ("Tanh", "d", "y")],
        {"shape": integers(0, 0, 8), "from": integers(-1), "to": integers(-(1 << 63)), "one": ONE},
        lambda y, h: np.tanh(y[:, ::-1]), "GRU(3, 4, bidirectional=True), Reverse(keep_mask=True), Activation('tanh')",
    ),
    "turned around as TensorFlow's converter does": (
        [("Shape", "x", "s"), ("Gather", "s,zero", "t"), ("Gather", "s,one", "n"), ("Expand", "t,n", "all"),
         ("Transpose", "Y", "a", {"perm": [0, 2, 1, 3]}), ("Reshape", "a,shape", "b"),
         ("ReverseSequence", "b,all", "y")],
        {"zero": integers(0), "one": ONE, "shape": integers(0, 0, 8)}, lambda y, h: y[:, ::-1],
        "GRU(3, 4, bidirectional=True), Reverse(keep_mask=True)",
    ),
    "Flatten": (
        [("Transpose", "Y", "a", {"perm": [2, 0, 1, 3]}), ("Flatten", "a", "b"),
         ("Gemm", "b,w40,c", "y", {"transB": 1})],
        {"w40": draw(10, 2, 40)}, lambda y, h: y.reshape(2, 40) @ draw(10, 2, 40).T + HEAD["c"],
        "GRU(3, 4, bidirectional=True), Flatten(), Dense(40, 2)",
    ),
    "Repeat": (
        [("Gather", "H,first", "a"), ("Unsqueeze", "a,axes", "b"), ("Expand", "b,shape", "d"), ("MatMul", "d,w", "y")],
        {"first": np.array(0, np.int64), "axes": integers(0), "shape": integers(3, 1, 1)},
        lambda y, h: np.repeat(h[0][:, None], 3, 1) @ HEAD["w"],
        "Final(GRU(3, 4, bidirectional=True)), Repeat(3), Dense(8, 2, bias=False)",
    ),
    "sizes that are computed": (
        [("Shape", "x", "s"), ("Gather", "s,first", "t"), ("Gather", "s,one", "n"), ("Unsqueeze", "t,axes", "t1"),
         ("Unsqueeze", "n,axes", "n1"), ("Mul", "n1,t1", "all"), ("Transpose", "Y", "a", {"perm": [0, 2, 1, 3]}),
         ("Concat", "all,eight", "flat", {"axis": 0}), ("Reshape", "a,flat", "b"), ("Gemm", "b,w8,c", "d"),
         ("Concat", "t1,n1,two", "shape", {"axis": 0}), ("Reshape", "d,shape", "y")],
        {"first": np.array(0, np.int64), "one": np.array(1, np.int64), "axes": integers(0), "eight": integers(8),
         "two": integers(2)},
        lambda y, h: y @ HEAD["w8"] + HEAD["c"], "GRU(3, 4, bidirectional=True), Dense(8, 2)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_what_its_axes_and_features_mean(name):
    nodes, arrays, expected, layers = CHAINS[name]
    model = cylstm.from_onnx(make([BOTH, *nodes], arrays | HEAD))
    y, _ = model.forward(X.swapaxes(0, 1))
    assert scaled(y, expected(*outputs_of(BOTH))) < 1e-6
    assert layers is None or repr(model) == f"Sequential([{layers}])"


def test_two_nodes_over_one_x_are_the_directions_of_one_layer():
    halves = {name + end: array[n : n + 1] for name, array in TWO.items() for n, end in enumerate("fb")}
    options = {"hidden_size": 4, "linear_before_reset": 1}
    nodes = [
        ("GRU", "x,W2f,R2f,B2f", "Yf,Hf", options),
        ("GRU", "x,W2b,R2b,B2b", "Yb,Hb", options | {"direction": "reverse"}),
        ("Concat", "Yf,Yb", "Y", {"axis": 3}), ("Concat", "Hf,Hb", "H", {"axis": 2}),
    ]  # fmt: skip
    y, h_n = outputs_of(BOTH)
    one = cylstm.from_onnx(make([*nodes, ("Squeeze", "Y,one", "y")], {"one": ONE, **halves}))
    assert repr(one) == "Sequential([GRU(3, 4, bidirectional=True)])"
    assert (one.forward(X.swapaxes(0, 1))[0] == y).all()
    final = cylstm.from_onnx(make([*nodes, ("Squeeze", "H,zero", "y")], {"zero": integers(0), **halves}))
    assert (final.forward(X.swapaxes(0, 1))[0] == np.concatenate([*h_n], 1)).all()
    nodes[1][3]["clip"] = 0.25
    other = cylstm.from_onnx(make([*nodes, ("Squeeze", "Y,one", "y")], {"one": ONE, **halves}))
    assert repr(other[0]) == "Bidirectional(GRU(3, 4), GRU(3, 4, reverse=True, clip={'gates': 0.25}))"


# What stands in the way of a chain: nodes behind BOTH, and what the message says.
REFUSED = {
    "an operator": ([("Conv", "H,a", "y")], {"a": draw(11, 1, 2, 1)}, "node 'Conv_1' .Conv. is nothing that cylstm"),
    "a custom operator": ([("Relu", "H", "y", {"domain": "mine"})], {}, "node 'Relu_1' .Relu. is nothing"),
    "a branch": (
        [("Gather", "Y,last", "a", {"axis": 0}), ("Split", "a", "b,d"), ("Split", "H", "e,f"),
         ("Concat", "b,d,f", "y", {"axis": 2})], {"last": LAST}, "states or steps of node 'GRU_0'",
    ),
    "a sum of two layers": (
        [("Tanh", "H", "a"), ("Add", "a,H", "y")], {}, "Add_2.*Tanh_1' .Tanh. and node 'GRU_0' .GRU. make side by side",
    ),
    "another step": ([("Gather", "Y,two", "y", {"axis": 0})], {"two": np.array(2, np.int64)}, "time step 2, expected"),
    "the first step": (
        [("Gather", "Y,zero", "a", {"axis": 0}), ("Tanh", "a", "y")], {"zero": np.array(0, np.int64)},
        "states or steps",
    ),
    "a row of the batch": ([("Gather", "Y,last", "y", {"axis": 2})], {"last": LAST}, "not known to be time"),
    "features in another order": (
        [("Gather", "H,two", "y")], {"two": integers(1, 0)}, "the output is some of the features of node 'GRU_0'",
    ),
    "Softmax of opset 12": ([("Softmax", "Y", "y", {"axis": 2})], {}, "over all axes from 2 on, expected the last"),
    "Softmax of opset 12 as it is": ([("Softmax", "Y", "y")], {}, "over all axes from 1 on, expected the last"),
    "every second step": (
        [("Slice", "Y,zero,end,zero,two", "y")],
        {"zero": integers(0), "end": integers((1 << 63) - 1), "two": integers(2)}, "takes the time steps 0 to the end",
    ),
    "a feature of the input": ([("Gather", "x,last", "y", {"axis": 2})], {"last": LAST}, "not known to be time"),
    "the input twice": (
        [("Unsqueeze", "x,zero", "a"), ("Concat", "a,a", "y", {"axis": 0})], {"zero": integers(0)},
        "the output is not what the input makes",
    ),
    "integers of features": ([("Cast", "H", "y", {"to": 7})], {}, "Cast_1' .Cast.: it makes integers of features"),
    "features that are not understood": (
        [("Erf", "x", "a"), ("GRU", "a,W,R,B", "b,h", GRU[3]), ("Squeeze", "b,one", "y")], {"one": ONE},
        "node 'GRU_2' .GRU.: node 'Erf_1' .Erf. is nothing that",
    ),
    "states of two directions": (
        [("GRU", "x,W,R,B,,H0", "a,b", GRU[3]), ("GRU", "x,W,R,B,,H0", "d,e", GRU[3] | {"direction": "reverse"}),
         ("Slice", "H,zero,one", "H0"), ("Concat", "a,d", "f", {"axis": 3}), ("Squeeze", "f,one", "y")],
        {"zero": integers(0), "one": ONE}, "the initial state of node 'GRU_1' .GRU. comes from node 'GRU_0'",
    ),
    "time along another axis": (
        [("Transpose", "Y", "a", {"perm": [2, 0, 1, 3]}), ("Reshape", "a,shape", "b"),
         ("GRU", "b,W8,R,B", "y,h", GRU[3])], {"shape": integers(0, 0, 8), "W8": draw(12, 1, 12, 8)},
        "node 'GRU_3' .GRU.: its time is along another axis",
    ),
    "a state of another node": (
        [("Slice", "H,zero,one", "a"), ("GRU", "x,W,R,B,,a", "b,h", GRU[3]), ("Squeeze", "b,one", "y")],
        {"zero": integers(0), "one": ONE}, "the initial state of node 'GRU_2' .GRU. comes from node 'GRU_0'",
    ),
    "a matrix of the input": ([("MatMul", "H,H", "y")], {}, "node 'MatMul_1' .MatMul.*not with a matrix of the file"),
    "a mix of axes": ([("Reshape", "Y,shape", "y")], {"shape": integers(0, 2, -1)}, "bring|can not be made|makes one"),
    "a column for a bias": (
        [("Gather", "H,first", "a"), ("MatMul", "a,w", "b"), ("Add", "b,column", "y")],
        {"first": np.array(0, np.int64), "column": draw(21, 2, 1), "w": draw(7, 4, 2)},
        "Add_3' .Add.: what is added is not an array",
    ),
    "integers of the final state": (
        [("Cast", "H", "a", {"to": 6}), ("Cast", "a", "b", {"to": 1}), ("Tanh", "b", "y")], {},
        "Cast_1.*makes integers of features",
    ),
    "a step for each of x": (
        [("Split", "H", "a,b"), ("Shape", "x", "s"), ("Slice", "s,zero,one", "t"),
         ("Concat", "t,one,one", "shape", {"axis": 0}), ("Expand", "a,shape", "y")],
        {"zero": integers(0), "one": ONE}, "axes are not those of what node 'GRU_0'",
    ),
    "a Softmax of one direction": (
        [("Gather", "Y,zero", "a", {"axis": 1}), ("Softmax", "a", "y")], {"zero": np.array(0, np.int64)},
        "takes features of node 'GRU_0' .GRU. in another order, or not all of them",
    ),
    "a gate": (
        [("Split", "H", "a,b"), ("Sigmoid", "a", "d"), ("Mul", "d,b", "y")], {}, "Mul_3.*make side by side",
    ),
    "numbers alone": ([("Identity", "zero", "y")], {"zero": np.float32(0)}, "the output is numbers of the file"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_chain_says_which_node_and_how_to_go_on(name):
    nodes, arrays, message = REFUSED[name]
    model = make([BOTH, *nodes], arrays, opset=12 if "opset 12" in name else 17)
    with pytest.raises(ValueError, match=message) as error:
        cylstm.from_onnx(model)
    assert str(error.value).startswith("the model: the graph is no chain of layers: ")
    assert "by node='GRU_0'" in str(error.value)


def test_a_model_of_many_outputs_asks_which_one():
    nodes = [GRU, ("Squeeze", "Y,one", "y"), ("Tanh", "y", "z")]
    model = make(nodes, {"one": ONE}, outputs="y,z,H")
    with pytest.raises(ValueError, match="it has the outputs 'y', 'z': expected one, which output= can name"):
        cylstm.from_onnx(model)
    assert len(cylstm.from_onnx(model, output="z")) == 2
    assert repr(cylstm.from_onnx(model, output="H")) == "Sequential([GRU(3, 4), Last()])"
    with pytest.raises(ValueError, match="output is 'Y', expected one of 'y', 'z', 'H'"):
        cylstm.from_onnx(model, output="Y")
    assert repr(cylstm.from_onnx(make(nodes[:2], {"one": ONE}, outputs="y,H"))) == "Sequential([GRU(3, 4)])"


# States and lengths -----------------------------------------------------------------------------


def with_state(*nodes, layout=0, h="h", **options):
    options = {"hidden_size": 4, "linear_before_reset": 1, "layout": layout} | options
    return [*nodes, ("GRU", f"x,W,R,B,,{h}", "Y,H", options), ("Squeeze", "Y,axes", "y")]


def test_an_initial_state_of_the_file_is_the_default_state():
    h = draw(13, 4)
    for rows, nodes in {
        "as it is": with_state(),
        "of each row": with_state(("Expand", "h,three", "h3"), h="h3"),
        "of as many rows as x has": with_state(
            ("Shape", "x", "s"), ("Slice", "s,one,two", "n"), ("Concat", "one,n,four", "shape", {"axis": 0}),
            ("Expand", "h,shape", "h3"), h="h3",
        ),
    }.items():  # fmt: skip
        arrays = {"h": h[None, None], "axes": ONE, "one": ONE, "two": integers(2), "four": integers(4),
                  "three": integers(1, 3, 4)}  # fmt: skip
        model = make(nodes, arrays)
        for layer in (cylstm.from_onnx(model)[0], cylstm.from_onnx(model, node=f"GRU_{len(nodes) - 2}")):
            assert (layer.default_state == h[None]).all(), rows
    zeros = make(with_state(), {"h": np.zeros((1, 2, 4), "f"), "axes": ONE})
    assert cylstm.from_onnx(zeros)[0].default_state is None
    first = make(with_state(layout=1), {"h": np.stack([h, h])[:, None], "axes": integers(2)})
    assert (cylstm.from_onnx(first)[0].default_state == h[None]).all()
    with pytest.raises(ValueError, match=r"initial_h of node 'GRU_0'.*not one for all rows of a batch"):
        cylstm.from_onnx(make(with_state(), {"h": draw(14, 1, 2, 4), "axes": ONE}), node="GRU_0")


def test_an_initial_state_that_is_an_input_is_given_to_forward():
    h = [draw(n, 1, 2, 4) for n in (15, 16)]
    nodes = with_state()
    model = cylstm.from_onnx(make(nodes, {"axes": ONE}, outputs="y,H", inputs=[("h", (1, None, 4))]))
    layer = cylstm.from_onnx(make([GRU], outputs="Y,H"), node="GRU_0")
    assert (model.forward(X.swapaxes(0, 1), [h[0]])[0] == layer.forward(X, h[0])[0].swapaxes(0, 1)).all()
    nodes = [  # both layers' states in one input, as PyTorch has them
        ("Slice", "h,zero,one", "h0"), ("Slice", "h,one,two", "h1"), *with_state(h="h0")[:1],
        ("Squeeze", "Y,axes", "a"), ("GRU", "a,W4,R,B,,h1", "Z,J", GRU[3]), ("Squeeze", "Z,axes", "y"),
        ("Concat", "H,J", "h_n", {"axis": 0}),
    ]  # fmt: skip
    arrays = {"axes": ONE, "zero": integers(0), "one": ONE, "two": integers(2), "W4": draw(17, 1, 12, 4)}
    model = cylstm.from_onnx(make(nodes, arrays, outputs="y,h_n", inputs=[("h", (2, None, 4))]))
    assert len(model) == 2
    assert (model.forward(X.swapaxes(0, 1), h)[1][0] == layer.forward(X, h[0])[1]).all()


def test_lengths_that_are_an_input_are_given_to_forward():
    nodes = [("Cast", "n", "i", {"to": 6}), ("GRU", "x,W,R,B,i", "Y,H", GRU[3]), ("Squeeze", "H,axes", "y")]
    model = cylstm.from_onnx(make(nodes, {"axes": integers(0)}, inputs=[("n", (None,))]))
    y, _ = model.forward(X.swapaxes(0, 1), lengths=[5, 0])
    assert (y[1] == 0).all()  # which ONNX says of a row of no step
    assert (y[0] == outputs_of(GRU)[1][0, 0]).all()


def test_steps_that_are_turned_around_leave_lengths_where_they_are():
    nodes = [
        ("GRU", "x,W,R,B,n", "Y,H", GRU[3]), ("Squeeze", "Y,one", "a"), ("Slice", "a,from,to,zero,from", "b"),
        ("GRU", "b,W4,R,B,n", "Z,J", GRU[3]), ("Squeeze", "Z,one", "y"),
    ]  # fmt: skip
    arrays = {"one": ONE, "zero": integers(0), "from": integers(-1), "to": integers(-(1 << 63))}
    arrays["W4"] = draw(17, 1, 12, 4)
    model, lengths = cylstm.from_onnx(make(nodes, arrays, inputs=[("n", (None,))])), [2, 4]
    first, _, second = model.layers
    a, _ = first.forward(X, lengths=lengths)
    y, _ = second.forward(a[::-1], lengths=lengths)
    assert (model.forward(X.swapaxes(0, 1), lengths=lengths)[0] == y.swapaxes(0, 1)).all()
    assert (y[1, 0] != 0).all()  # a valid step of the second node where the first one has padding


def test_lengths_of_some_nodes_alone_are_no_chain():
    first, head = ("GRU", "x,W,R,B,n", "Y,H", GRU[3]), ("Squeeze", "Y,one", "a")
    for nodes, message in (
        ([first, head, ("GRU", "a,W4,R,B", "Z,J", GRU[3]), ("Squeeze", "Z,one", "y")], "sequence_lens is not that of"),
        ([first, head, ("Gather", "a,last", "y", {"axis": 0})], "or of one that sequence_lens is about"),
        ([first, ("GRU", "x,W,R,B", "Z,J", GRU[3] | {"direction": "reverse"}), ("Concat", "H,J", "y", {"axis": 2})],
         "make side by side"),
    ):
        arrays = {"one": ONE, "last": LAST, "W4": draw(17, 1, 12, 4)}
        with pytest.raises(ValueError, match=message):
            cylstm.from_onnx(make(nodes, arrays, inputs=[("n", (None,))]))


def sorted_rows(inputs, ends):
    """A model that sorts its rows by their lengths, as PyTorch writes it; ``inputs`` of the GRU, and what is behind."""
    nodes = [
        ("Shape", "n", "s"), ("TopK", "n,s", "m,i"), ("Gather", "x,i", "z", {"axis": 1}),
        ("Gather", "h0,i", "h1", {"axis": 1}),
        ("Cast", "m", "m32", {"to": 6}), ("Cast", "n", "n32", {"to": 6}), ("GRU", inputs, "Y,H", GRU[3]),
        ("ReduceProd", "s", "p", {"keepdims": 0}), ("Range", "zero,p,one", "r"), ("ConstantOfShape", "s", "zeros"),
        ("ScatterElements", "zeros,i,r", "back"), ("Squeeze", "H,axes", "h"), *ends,
    ]  # fmt: skip
    arrays = {"axes": integers(0), "zero": np.array(0, np.int64), "one": np.array(1, np.int64)}
    return make(nodes, arrays, inputs=[("h0", (1, None, 4))], integer_inputs="n")


def test_rows_that_are_sorted_by_lengths_come_back():
    back = [("Gather", "h,back", "y")]
    model = cylstm.from_onnx(sorted_rows("z,W,R,B,m32", back))
    y, _ = model.forward(X.swapaxes(0, 1), lengths=[2, 5])
    layer = cylstm.from_onnx(make([GRU], outputs="Y,H"), node="GRU_0")
    assert (y == layer.forward(X, lengths=[2, 5])[1][0]).all()
    model, state = cylstm.from_onnx(sorted_rows("z,W,R,B,m32,h1", back)), draw(18, 1, 2, 4)
    y, _ = model.forward(X.swapaxes(0, 1), [state], lengths=[2, 5])
    assert (y == layer.forward(X, state, lengths=[2, 5])[1][0]).all()
    for inputs, ends, message in (
        ("z,W,R,B,m32", [("Identity", "h", "y")], "the rows of what node 'GRU_6' .GRU. makes are in another order"),
        ("z,W,R,B,n32", back, "its sequence_lens is in another order than the rows of X"),
        ("x,W,R,B,m32", back, "its sequence_lens is in another order than the rows of X"),
        ("x,W,R,B,n32", back, "it brings rows back that were in another order"),
        ("z,W,R,B,m32", [("Gather", "h,back", "a"), ("Gather", "a,back", "y")], "it brings rows back"),
        ("z,W,R,B,m32,h0", back, "its initial state is in another order than the rows of X"),
    ):
        with pytest.raises(ValueError, match=message):
            cylstm.from_onnx(sorted_rows(inputs, ends))


def test_lengths_of_the_file_must_be_the_whole_x():
    def lengths_are(values, steps):
        nodes = [("GRU", "x,W,R,B,n", "Y,H", GRU[3]), ("Squeeze", "Y,one", "y")]
        return make(nodes, {"n": np.array(values, np.int32), "one": ONE}, x=(steps, 2, 3))

    assert repr(cylstm.from_onnx(lengths_are([5, 5], 5))) == "Sequential([GRU(3, 4)])"
    for values, steps in (([5, 4], 5), ([5, 5], "t")):
        with pytest.raises(ValueError, match="has its sequence_lens in the file"):
            cylstm.from_onnx(lengths_are(values, steps))


# What a node may say ----------------------------------------------------------------------------


def lstm(arrays=None, inputs="x,W,R", **attributes):
    arrays = {"W": draw(18, 1, 16, 3), "R": draw(19, 1, 16, 4)} | (arrays or {})
    return make([("LSTM", inputs, "y", {"hidden_size": 4} | attributes)], arrays)


def test_alphas_and_betas_are_taken_in_order_by_those_that_have_them():
    layer = cylstm.from_onnx(lstm(
        activations=["HardSigmoid", "Tanh", "LeakyRelu"], activation_alpha=[0.25, 0.5], activation_beta=[0.75]
    ), node="LSTM_0")  # fmt: skip
    assert layer.activations == (("hard_sigmoid", 0.25, 0.75), "tanh", ("leaky_relu", 0.5))
    defaults = cylstm.from_onnx(lstm(activations=["hardsigmoid", "SCALEDTANH", "ThresholdedRelu"]), node="LSTM_0")
    assert defaults.activations == (("hard_sigmoid", 0.2, 0.5), ("scaled_tanh", 1.0, 1.0), ("thresholded_relu", 1.0))
    assert cylstm.from_onnx(lstm(activation_alpha=[0.5] * 3), node="LSTM_0").activations == ("sigmoid", "tanh", "tanh")
    one = lstm(activations=["Sigmoid", "Affine", "Elu"], activation_alpha=[2.0])
    assert cylstm.from_onnx(one, node="LSTM_0").activations[1:] == (("affine", 2.0, 0.0), ("elu", 1.0))


WRONG = {
    "activations": ({"activations": ["Sigmoid", "Tanh"]}, "has 2 activations, expected 3"),
    "an activation": ({"activations": ["Sigmoid", "Tanh", "Sine"]}, "has the activation 'Sine', expected one of sig"),
    "alphas": (
        {"activations": ["HardSigmoid", "Tanh", "Elu"], "activation_alpha": [0.5] * 3},
        "3 numbers in activation_alpha, 1 more than HardSigmoid, Tanh, Elu take",
    ),
    "direction": ({"direction": "backward"}, "direction of node 'LSTM_0' .LSTM. is 'backward', expected forward"),
    "layout": ({"layout": 2}, "'layout' of node 'LSTM_0' .LSTM. is 2, expected 0 or 1"),
    "hidden_size": ({"hidden_size": 5}, "W of node 'LSTM_0' .LSTM. has shape .1, 16, 3., expected .1, 20, 3."),
    "a type": ({"hidden_size": 4.0}, "'hidden_size' of node 'LSTM_0' .LSTM. is a float, expected int"),
    "an attribute": ({"output_sequence": 1}, "has the attributes output_sequence, which ONNX does not know"),
    "bidirectional": ({"direction": "bidirectional"}, "W of node 'LSTM_0' .LSTM. has shape .1, 16, 3., expected .2,"),
    "clip": ({"clip": -1.0}, "clip"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_node_is_refused(name):
    attributes, message = WRONG[name]
    with pytest.raises(ValueError, match=f"the model: .*{message}"):
        cylstm.from_onnx(lstm(**attributes), node="LSTM_0")


def test_weights_that_are_no_floats_of_the_file_are_refused():
    for arrays, message in (
        ({"R": np.ones((1, 16, 4), int)}, "R of node 'LSTM_0' .LSTM. is of dtype int64 and shape .1, 16, 4., expected"),
        ({"R": draw(0, 16, 4)}, "R of node 'LSTM_0' .LSTM. is of dtype float32 and shape .16, 4., expected floats"),
        ({"R": draw(0, 1, 16, 5)}, "R of node 'LSTM_0' .LSTM. has shape .1, 16, 5., expected .1, 16, 4."),
    ):
        with pytest.raises(ValueError, match=message):
            cylstm.from_onnx(lstm(arrays), node="LSTM_0")
    quantised = make(
        [("DequantizeLinear", "a,s", "V"), ("GRU", "x,V,R,B", "y", GRU[3])],
        {"a": np.ones((1, 12, 3), np.int8), "s": np.float32(2)},
    )
    with pytest.raises(ValueError, match=r"W of node 'GRU_1' .GRU. is not in the file alone: node 'Dequan.*0'"):
        cylstm.from_onnx(quantised, node="GRU_1")
    with pytest.raises(ValueError, match=r"W of node 'GRU_0' .GRU. is not in the file alone: 'x' depends on an input"):
        cylstm.from_onnx(make([("GRU", "x,x,R", "y", GRU[3])]), node="GRU_0")


@pytest.mark.parametrize("code, expected", [(10, "float32"), (16, "float32"), (1, "float32"), (11, "float64")])
def test_small_floats_become_float32(code, expected):
    halves = np.round(W * 4) / 4  # which even bfloat16 has
    tensors = {name: onnx.helper.make_tensor(name, code, array.shape, array.ravel()) for name, array in
               {"W": halves, "R": np.round(R * 4) / 4}.items()}  # fmt: skip
    model = make([("GRU", "x,W,R", "y", GRU[3])])
    for n, tensor in enumerate(model.graph.initializer):
        if tensor.name in tensors:
            model.graph.initializer[n].CopyFrom(tensors[tensor.name])
    layer = cylstm.from_onnx(model, node="GRU_0")
    assert layer.dtype == expected
    assert (layer.parameters["weight_ih_l0"][8:] == halves[0, 8:]).all()
    assert cylstm.from_onnx(model, node="GRU_0", dtype="float64").dtype == "float64"


# Names, and graphs within graphs ----------------------------------------------------------------


def branching(depth=1):
    """A model whose GRU is in a branch of a branch, with W in the outermost graph and the others in the innermost."""
    h = onnx.helper
    float_ = h.make_tensor_value_info("y", 1, None)
    inner = [h.make_node("GRU", ["x", "V", "R", "B"], ["y"], "", **GRU[3])]
    arrays = [onnx.numpy_helper.from_array(array, name) for name, array in {"R": R, "B": B}.items()]
    graph = h.make_graph(inner, "inner", [], [float_], arrays)
    for n in range(depth):
        other = h.make_graph([h.make_node("GRU", ["x", "V", "R0", "B0"], [f"z{n}"], "other", **GRU[3])], "o", [], [
            h.make_tensor_value_info(f"z{n}", 1, None)])  # fmt: skip
        graph = h.make_graph([h.make_node("If", ["c"], [f"y{n}"], f"If_{n}", then_branch=graph, else_branch=other)],
                             "b", [], [h.make_tensor_value_info(f"y{n}", 1, None)])  # fmt: skip
    nodes = [h.make_node("Unsqueeze", ["W0", "zero"], ["V"]), *graph.node]
    stored = {"W0": W[0], "zero": integers(0), "R0": R, "B0": B}
    infos = [h.make_tensor_value_info("x", 1, ("t", "n", 3)), h.make_tensor_value_info("c", 9, ())]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()]
    outer = h.make_graph(nodes, "g", infos, list(graph.output), stored)
    return h.make_model(outer, opset_imports=[h.make_opsetid("", 17)])


def test_nodes_are_listed_in_whatever_graph_they_are():
    found = interop.recurrent_nodes(branching(2))
    assert [(node.name, node.where) for node in found] == [
        ("If_1.else_branch:other", "If_1.else_branch"),
        ("If_1.then_branch/If_0.else_branch:other", "If_1.then_branch/If_0.else_branch"),
        ("y", "If_1.then_branch/If_0.then_branch"),
    ]
    assert found[0][1:6] == ("GRU", 3, 4, "forward", "float32")
    layers = [cylstm.from_onnx(branching(2), node=node.name) for node in found]
    y, _ = outputs_of(GRU)
    for layer in layers:
        assert (layer.forward(X)[0].swapaxes(0, 1) == y).all()


def test_nodes_of_one_name_are_told_apart():
    model = make([GRU, ("GRU", "x,W,R,B", "Z,J", GRU[3])])
    for node in model.graph.node:
        node.name = "gru"
    assert [node.name for node in interop.recurrent_nodes(model)] == ["gru", "gru#2"]
    with pytest.raises(ValueError, match="there is no recurrent node 'lstm', expected one of 'gru', 'gru#2'"):
        cylstm.from_onnx(model, node="lstm")
    with pytest.raises(TypeError, match="node is 3, expected a name"):
        cylstm.from_onnx(model, node=3)


def test_describe_says_what_a_file_holds(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(make([BOTH, ("GRU", "x,x,R,B", "Z", {"hidden_size": 4})]), path)
    assert [tuple(entry) for entry in interop.describe(path)] == [
        ("GRU_0", "GRU", "input_size=3, hidden_size=4, bidirectional, float32", ""),
        ("GRU_1", "GRU", "hidden_size=4, weights of an input", ""),
    ]


# Damaged, hostile and foreign files -------------------------------------------------------------


def refused(path, message, **options):
    """That a file is refused with a ValueError that names it, at once and with little memory."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(ValueError, match=message) as error:
            cylstm.from_onnx(path, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(error.value)
    assert peak < (8 << 20) + 32 * os.path.getsize(path)
    assert time.perf_counter() - started < 2


HUGE = integers(10**6, 10**6)
HOSTILE = {
    "Expand": ([("Expand", "a,big", "V")], {"a": np.ones(1, "f")}, "Expand_0.*of 4000000000000 bytes, where"),
    "ConstantOfShape": ([("ConstantOfShape", "big", "V")], {}, "ConstantOfShape_0.*of 4000000000000 bytes, where"),
    "Tile": ([("Tile", "a,big", "V")], {"a": np.ones((1, 1), "f")}, "Tile_0.*of 4000000000000 bytes, where"),
    "an outer sum": (
        [("Reshape", "a,columns", "b"), ("Add", "a,b", "V")],
        {"a": np.zeros(10**5, "f"), "columns": integers(-1, 1)}, "Add_1.*of 40000000000 bytes, where",
    ),
    "Gather": (
        [("Gather", "a,b", "V")], {"a": np.zeros((1, 10**4), "f"), "b": np.zeros(10**5, int)}, "Gather_0.*where",
    ),
    "doubled again and again": (
        [("Concat", f"v{n},v{n}", f"v{n + 1}", {"axis": 0}) for n in range(40)] + [("Identity", "v40", "V")],
        {"v0": np.zeros(1000, "f")}, "Concat_.*where",
    ),
    "a negative size": ([("ConstantOfShape", "a", "V")], {"a": integers(-3, -4)}, r"it would be of shape \(-3, -4\)"),
    "a circle": ([("Add", "a,V", "b"), ("Identity", "b", "V")], {"a": W}, "is made of itself"),
    "a node of itself": ([("Identity", "V", "V")], {}, "'V' is made of itself"),
    "nothing": ([("Identity", "a", "V")], {}, "there is nothing called 'a'"),
    "two of one name": ([("Identity", "W", "V"), ("Identity", "W", "V")], {}, "makes 'V', which is there already"),
    "W again": ([("Identity", "R", "W"), ("Identity", "W", "V")], {}, "makes 'W', which is there already"),
    "many axes": ([("Unsqueeze", "W,a", "V")], {"a": np.arange(40)}, "Unsqueeze_0.*axes are"),
    "an axis that is not there": ([("Concat", "W,W", "V", {"axis": 7})], {}, "Concat_0.*axis 7"),
    "an index that is not there": ([("Gather", "W,a", "V")], {"a": integers(7)}, "Gather_0.*out of bounds"),
    "too few inputs": ([("Reshape", "W", "V")], {}, "Reshape_0.*missing"),
    "no value": ([("Constant", "", "V")], {}, "Constant_0"),
    "a wrong type": ([("Concat", "W,W", "V", {"axis": "all"})], {}, "'axis' of node 'Concat_0' .Concat. is a str"),
    "parts that are not the whole": ([("Split", "W,a", "V,b", {"axis": 2})], {"a": integers(1, 1)}, "Split_0.*parts"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_graph_is_refused_before_memory_is_taken(name, tmp_path):
    nodes, arrays, message = HOSTILE[name]
    model = make([*nodes, ("GRU", "x,V,R,B", "Y,H", GRU[3])], {"big": HUGE, **arrays})
    onnx.save(model, path := tmp_path / "hostile.onnx")
    refused(path, message, node=f"GRU_{len(nodes)}")
    refused(path, message if "there already" in message else "the graph is no chain|made of itself|nothing called")


def test_tensors_that_lie_are_refused(tmp_path):
    def lying(**fields):
        model = make([GRU])
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "W")
        dims = fields.pop("dims", None)
        if dims:
            tensor.dims[:] = dims
        for name, value in fields.items():
            setattr(tensor, name, value)
        onnx.save(model, path := tmp_path / "lying.onnx")
        return path

    for fields, message in (
        ({"dims": [10**6, 10**6, 10**6]}, "tensor 'W' of shape .* has 144 bytes, expected 4000000000000000000"),
        ({"dims": [-1, 12, 3]}, r"tensor 'W' has shape \(-1, 12, 3\)"),
        ({"raw_data": b"123"}, "has 3 bytes, expected 144"),
        ({"data_type": 8}, "is of ONNX's data type string"),
        ({"data_type": 77}, "is of ONNX's data type 77"),
        ({"data_type": 11}, "has 144 bytes, expected 288"),
    ):
        refused(lying(**fields), message, node="GRU_0")
    model = make([GRU])
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "W")
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0, 2.0])
    onnx.save(model, path := tmp_path / "short.onnx")
    refused(path, "tensor 'W' of shape .1, 12, 3. has 2 numbers, expected 36", node="GRU_0")


def external(directory, location="weights.bin", size=W.nbytes, offset=0):
    """A model whose W is in another file."""
    model = make([GRU])
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "W")
    (directory / "weights.bin").write_bytes(bytes(8) + W.tobytes())
    onnx.external_data_helper.set_external_data(tensor, location, offset, size)
    tensor.ClearField("raw_data")
    (path := directory / "external.onnx").write_bytes(model.SerializeToString())
    return path


def test_external_data_are_read_from_the_directory_of_the_model_alone(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    layer = cylstm.from_onnx(external(tmp_path, offset=8), node="GRU_0")
    assert (layer.parameters["weight_ih_l0"][8:] == W[0, 8:]).all()
    whole = external(tmp_path)
    with pytest.raises(ValueError, match="tensor 'W' is in a file of its own, and a model in memory has no directory"):
        cylstm.from_onnx(onnx.load(whole, load_external_data=False), node="GRU_0")
    external(tmp_path)
    for location in ("../weights.bin", str(tmp_path / "weights.bin"), "nothing.bin", "", "."):
        refused(external(inner, location), "tensor 'W' is in the file '.*', which can not be read", node="GRU_0")
    for options in ({"offset": 16}, {"offset": -8}, {"offset": 10**15}):
        refused(external(inner, **options), "can not be read", node="GRU_0")
    refused(external(inner, size=10**12), "has 1000000000000 bytes, expected 144", node="GRU_0")
    if hasattr(os, "symlink"):
        os.symlink(tmp_path / "weights.bin", inner / "link.bin")
        refused(external(inner, "link.bin"), "can not be read", node="GRU_0")


def test_external_data_count_as_the_files_own(tmp_path):
    big = draw(0, 1, 12, 10**5)
    (tmp_path / "big.bin").write_bytes(big.tobytes())

    def model(copies):
        names = [f"v{n}" for n in range(copies)]
        nodes = [("Concat", ",".join(names), "a", {"axis": 2}), ("Cast", "a", "V", {"to": 1})]
        model = make([*nodes, ("GRU", "x,V,R,B", "Y,H", GRU[3])], dict.fromkeys(names, big), x=("t", "n", 10**5))
        for tensor in model.graph.initializer:
            if tensor.name in names:
                onnx.external_data_helper.set_external_data(tensor, "big.bin", 0, big.nbytes)
                tensor.ClearField("raw_data")
        (path := tmp_path / f"{copies}.onnx").write_bytes(model.SerializeToString())
        return path

    assert cylstm.from_onnx(model(2), node="GRU_2").input_size == 2 * 10**5
    with pytest.raises(ValueError, match=r"tensor 'v[0-9]+' is in the file 'big.bin', .* of 4800000 bytes, where"):
        cylstm.from_onnx(model(40), node="GRU_2")


def test_graphs_within_graphs_are_read_or_refused(tmp_path):
    assert len(interop.recurrent_nodes(branching(20))) == 21

    def field(number, content):
        size, length = [], len(content)
        while length >= 128:
            length, low = divmod(length, 128)
            size.append(low | 128)
        return bytes([number << 3 | 2, *size, length]) + content

    content = b""
    for _ in range(5000):  # a graph in an attribute of a node of a graph ...
        content = field(1, field(5, field(6, content)))
    (path := tmp_path / "deep.onnx").write_bytes(field(7, content))
    refused(path, "is damaged, or not an ONNX model")


def test_long_chains_of_nodes_are_computed():
    nodes = [("Relu", f"v{n}", f"v{n + 1}") for n in range(3000)]
    model = make([GRU, ("Squeeze", "Y,one", "v0"), *nodes], {"one": ONE}, outputs="v3000")
    assert len(cylstm.from_onnx(model)) == 3001
    nodes = [("Identity", f"v{n}", f"v{n + 1}") for n in range(3000)]
    model = make([*nodes, ("GRU", "x,v3000,R,B", "Y,H", GRU[3]), ("Squeeze", "Y,one", "y")], {"v0": W, "one": ONE})
    assert repr(cylstm.from_onnx(model)) == "Sequential([GRU(3, 4)])"


@pytest.mark.parametrize("content, message", [
    (b"", "is not an ONNX model"),
    (b"\x89HDF\r\n\x1a\n" + bytes(100), "is damaged, or not an ONNX model"),
    (b"PK\x03\x04" + bytes(100), "not an ONNX model"),
    (b"hello, world", "not an ONNX model"),
    (bytes(1000), "not an ONNX model"),
])  # fmt: skip
def test_foreign_files_are_refused(tmp_path, content, message):
    (path := tmp_path / "foreign.onnx").write_bytes(content)
    refused(path, message)
    with pytest.raises(ValueError, match=message):
        interop.describe(path)


def test_files_that_are_none_say_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        cylstm.from_onnx(tmp_path / "missing.onnx")
    with pytest.raises(IsADirectoryError):
        cylstm.from_onnx(tmp_path)
    with pytest.raises(TypeError, match="path"):
        cylstm.from_onnx(3)
    model = make([GRU], opset=17)
    model.opset_import[0].version = 6
    with pytest.raises(ValueError, match="the model is of opset 6, expected at least 7"):
        cylstm.from_onnx(model)
    model.opset_import[0].domain = "ai.mine"
    with pytest.raises(ValueError, match="it names no opset"):
        cylstm.from_onnx(model)


def test_damaged_bytes_are_refused_or_are_in_the_numbers(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.onnx"
    contents = [arrays["model"].tobytes() for _, arrays in [*NODES.values()][::9] + [*GRAPHS.values()][::5]]
    outcomes = {True: 0, False: 0}
    for _ in range(300):
        content = bytearray(contents[rng.integers(len(contents))])
        place = int(rng.integers(len(content)))
        if rng.random() < 0.3:
            del content[place:]
        else:
            content[place] = rng.integers(256)
        path.write_bytes(content)
        for arguments in ({}, {"node": "recurrent"}):
            try:
                cylstm.from_onnx(path, **arguments)
                outcomes[True] += 1
            except ValueError as error:
                assert str(path) in str(error)
                outcomes[False] += 1
    assert min(outcomes.values()) > 0


def test_without_onnx_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: cylstm.from_onnx("model.onnx"), lambda: cylstm.to_onnx(cylstm.GRU(2, 3), tmp_path / "m.onnx")):
        with pytest.raises(ImportError, match=r"pip install 'cylstm\[onnx\]'"):
            call()


# Out again --------------------------------------------------------------------------------------


def defaulted(layer):
    """The layer with an initial state of its own."""
    rows = layer.num_layers * (1 + layer.bidirectional)
    state = [draw(n, rows, layer.hidden_size).astype(layer.dtype) for n in range(len(layer._states))]
    layer.default_state = tuple(state) if len(state) > 1 else state[0]
    return layer


def written_models(dtype):
    """Models of everything that ONNX has."""
    d = {"dtype": dtype}
    for kind in (cylstm.LSTM, cylstm.GRU, cylstm.RNN):
        for options in (
            {}, {"bidirectional": True}, {"reverse": True}, {"num_layers": 2, "bidirectional": True}, {"bias": False},
            {"batch_first": True}, {"bidirectional": True, "merge": "sum"}, {"bidirectional": True, "merge": "average"},
        ):  # fmt: skip
            yield kind(3, 4, rng=0, **d, **options)
        yield defaulted(kind(3, 4, 2, rng=0, bidirectional=True, **d))
    yield cylstm.LSTM(3, 4, bias="single", peepholes=True, rng=0, **d)
    yield cylstm.GRU(3, 4, reset_after=False, rng=0, **d)
    forward, reverse = cylstm.LSTM(3, 4, rng=0, **d), cylstm.GRU(3, 4, reverse=True, rng=1, **d)
    for merge in ("concat", "mul"):
        yield cylstm.Bidirectional(forward, reverse, merge)
        yield cylstm.Sequential([cylstm.Final(cylstm.Bidirectional(forward, reverse, merge)), cylstm.Dropout(0.5)])
    both = cylstm.LSTM(3, 4, bidirectional=True, rng=0, **d)
    yield cylstm.Sequential([
        both, cylstm.LayerNorm(8, 2**-17, **d), cylstm.Reverse(), cylstm.RNN(8, 3, rng=1, **d), cylstm.Last(),
        cylstm.Dense(3, 2, activation="softmax", rng=2, **d),
    ])  # fmt: skip
    yield cylstm.Sequential([
        cylstm.Final(both), cylstm.Dense(8, 3, bias=False, activation="tanh", rng=1, **d), cylstm.Repeat(3),
        defaulted(cylstm.GRU(3, 2, rng=2, **d)), cylstm.Dense(2, 1, rng=3, **d),
    ])  # fmt: skip
    gru = cylstm.GRU(3, 4, rng=0, **d)
    yield cylstm.Sequential([cylstm.Reverse(), cylstm.Last(), cylstm.Repeat(1), gru, cylstm.Last()])
    yield cylstm.Sequential([cylstm.Flatten(), cylstm.Repeat(2), cylstm.Dense(18, 2, rng=0, **d)])
    yield cylstm.Sequential([cylstm.Flatten(), cylstm.Dense(18, 2, rng=0, **d)])
    yield cylstm.Sequential([cylstm.Dense(3, 4, rng=0, **d), cylstm.Flatten(), cylstm.Activation("tanh")])
    turned = cylstm.Reverse(keep_mask=True)
    yield cylstm.Sequential([turned, both, cylstm.Reverse(keep_mask=True), cylstm.RNN(8, 3, rng=1, **d)])
    yield cylstm.Sequential([both, cylstm.Dense(8, 2, rng=1, **d), cylstm.Flatten(), cylstm.Dense(12, 2, rng=2, **d)])
    yield cylstm.Sequential([cylstm.Embedding(7, 3, rng=0, **d), cylstm.GRU(3, 4, rng=1, **d), cylstm.Last()])
    for activation in ("swish", "relu", ("affine", 0.5, 0.25), ("scaled_tanh", 0.5, 0.75), ("elu", 0.5), "softsign",
                       "softplus", ("leaky_relu", 0.25), ("hard_sigmoid", 0.25, 0.5), "linear"):  # fmt: skip
        ends = cylstm.Dense(3, 4, rng=0, **d), cylstm.Dense(4, 2, rng=1, **d)
        yield cylstm.Sequential([ends[0], cylstm.Activation(activation), ends[1]])


def input_of(model, batch=2, steps=6):
    """x, batch-first, and what the file takes."""
    dtype = np.float32 if model.dtype is None else model.dtype
    words = isinstance(model, cylstm.Sequential) and isinstance(model[0], cylstm.Embedding)
    x = np.random.default_rng(0).integers(0, 7, (batch, steps)) if words else draw(20, batch, steps, 3).astype(dtype)
    time_major = isinstance(model, cylstm.layers.Recurrent) and not model.batch_first
    return x, np.ascontiguousarray(x.swapaxes(0, 1)) if time_major else x


def states_of(states):
    """Every array of the states of a model, in their order."""
    if states is None or isinstance(states, np.ndarray):
        return [] if states is None else [states]
    return [array for part in states for array in states_of(part)]


def test_what_is_written_is_read_to_the_same_bits(tmp_path):
    count = 0
    for dtype in ("float32", "float64"):
        for model in written_models(dtype):
            cylstm.to_onnx(model, path := tmp_path / "model.onnx")
            onnx.checker.check_model(path, full_check=dtype == "float32")
            x, theirs = input_of(model)
            y = model.forward(theirs)[0]
            found, _ = cylstm.from_onnx(path).forward(x)
            assert np.array_equal(found, y if theirs.shape == x.shape and theirs is x else y.swapaxes(0, 1)), model
            count += 1
    assert count > 90


def test_what_is_written_runs_in_float64_to_the_same_numbers(tmp_path):
    pytest.importorskip("onnx", minversion="1.23")  # the oldest that is known to give Y_c
    from onnx.reference import ReferenceEvaluator

    for model in written_models("float64"):
        if "RNN" in repr(model) and "bidirectional" in repr(model):
            continue  # which this evaluator can not
        cylstm.to_onnx(model, path := tmp_path / "model.onnx")
        _, x = input_of(model)
        evaluator = ReferenceEvaluator(str(path))
        found = dict(zip(evaluator.output_names, evaluator.run(None, {"x": x}), strict=True))
        y = model.forward(x)
        assert scaled(found["y"], y[0] if isinstance(y, tuple) else y) < 1e-12, model


@pytest.mark.parametrize("lengths, states", [(False, False), (True, True)])
def test_what_is_written_runs_in_onnxruntime_to_the_same_numbers(tmp_path, lengths, states):
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    numbers = ("hard_sigmoid", 0.25, 0.375), ("scaled_tanh", 0.75, 0.5), ("elu", 0.5)
    others = [  # which the evaluator above does not know
        cylstm.LSTM(3, 4, coupled="f=1-i", clip={"gates": 0.5}, rng=0),
        cylstm.LSTM(3, 4, activations=numbers, peepholes=True, bidirectional=True, rng=0),
        cylstm.LSTM(3, 4, activations=("sigmoid", "linear", ("affine", 0.5, 0.25)), bidirectional=True, rng=0),
        cylstm.GRU(3, 4, activations=numbers[:2], bidirectional=True, rng=0),
        cylstm.RNN(3, 4, nonlinearity=("leaky_relu", 0.25), bidirectional=True, clip={"gates": 0.5}, rng=0),
    ]
    for model in [*written_models("float32"), *others]:
        if lengths and any(word in repr(model) for word in ("Reverse()", "Flatten", "Activation")):
            continue
        cylstm.to_onnx(model, path := tmp_path / "model.onnx", lengths=lengths, states=states)
        session = runtime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        _, x = input_of(model, batch=3)
        feed, arguments = {"x": x}, {}
        if lengths:
            arguments["lengths"] = feed["lengths"] = np.array([6, 1, 4], np.int32)
        rows = [entry for entry in session.get_inputs() if entry.name.endswith("_0")]
        for n, entry in enumerate(rows):
            feed[entry.name] = draw(n, entry.shape[0], 3, entry.shape[2])
        if states:
            arguments["states" if isinstance(model, cylstm.Sequential) else "state"] = _packed(
                model, iter([feed[entry.name] for entry in rows])
            )
        y = model.forward(x, **arguments)
        y, ends = y if isinstance(y, tuple) else (y, None)
        for found, expected in zip(session.run(None, feed), [y, *states_of(ends)], strict=True):
            assert scaled(found, expected) < 2e-5, model


def _packed(model, arrays):
    """A state of the model, of these arrays in their order."""
    if isinstance(model, (cylstm.Sequential, cylstm.Bidirectional)):
        return [_packed(part, arrays) for _, part in model._parts]
    if isinstance(model, cylstm.Final):
        return _packed(model.layer, arrays)
    if not isinstance(model, cylstm.layers.Recurrent):
        return None
    state = tuple(next(arrays) for _ in model._states)
    return state if len(state) > 1 else state[0]


@pytest.mark.parametrize("model, message", [
    (cylstm.LSTM(3, 4, proj_size=2), "the model has proj_size=2, which ONNX has not"),
    (cylstm.LSTM(3, 4, layer_norm="joint"), "the model has layer_norm='joint', which ONNX has not"),
    (cylstm.LSTM(3, 4, coupled="i=1-f"), "the model has coupled='i=1-f', which ONNX has not"),
    (cylstm.LSTM(3, 4, clip={"cell": 1.0}), "the model has clip={'cell': 1.0}, which ONNX has not"),
    (cylstm.GRU(3, 4, zoneout_h=0.5), "the model has zoneout_h=0.5, which ONNX has not"),
    (cylstm.GRU(3, 4, bidirectional=True, merge=None), "the model has merge=None, which ONNX has not"),
    (cylstm.RNN(3, 4, nonlinearity="gelu"), "the model has the activation 'gelu', which ONNX's recurrent"),
    (cylstm.JordanRNN(3, 4, 2), "the model is JordanRNN.3, 4, 2., and ONNX has no JordanRNN"),
    (cylstm.Sequential([("m", cylstm.Masking()), cylstm.GRU(3, 4)]), "layer 'm' is Masking.., and ONNX has no Masking"),
    (cylstm.Sequential([cylstm.Embedding(3, 4, mask_zero=True)]), "layer '0' has mask_zero=True"),
    (cylstm.Activation("gelu"), "the model has the activation 'gelu', and opset is 17: it needs 20"),
])  # fmt: skip
def test_what_onnx_has_not_is_refused_by_name_and_nothing_is_written(tmp_path, model, message):
    (path := tmp_path / "model.onnx").write_bytes(b"what was there")
    with pytest.raises(ValueError, match=message):
        cylstm.to_onnx(model, path)
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert path.read_bytes() == b"what was there"


def test_a_model_of_any_features_that_takes_no_sequences_is_written_for_rows(tmp_path):
    from onnx.reference import ReferenceEvaluator

    rows = draw(22, 2, 3)
    model = cylstm.Sequential([cylstm.Activation("relu"), cylstm.Repeat(4)])
    for written in (model, cylstm.Repeat(4)):
        cylstm.to_onnx(written, path := tmp_path / "model.onnx")
        found = ReferenceEvaluator(str(path)).run(None, {"x": rows})[0]
        y = written.forward(rows)
        assert np.array_equal(found, y[0] if isinstance(y, tuple) else y)


def test_arguments_of_to_onnx_are_checked(tmp_path):
    path, gru = tmp_path / "model.onnx", cylstm.GRU(3, 4, rng=0)
    for arguments, options, error, message in (
        (("gru", path), {}, TypeError, "model is a str, expected a layer"),
        ((gru, path), {"opset": 12}, ValueError, "opset is 12, expected 13 to 22"),
        ((gru, path), {"lengths": 1}, TypeError, "lengths is 1, expected True or False"),
        ((gru, tmp_path), {}, IsADirectoryError, None),
        ((gru, 3), {}, TypeError, "path"),
        ((cylstm.LayerNorm(3), path), {"opset": 16}, ValueError, "opset is 16: a LayerNorm needs 17"),
        ((cylstm.Sequential([gru, cylstm.Reverse()]), path), {"lengths": True}, ValueError, "layer '1' is Reverse"),
        ((cylstm.Sequential([gru, cylstm.Dense(4, 2), cylstm.Last()]), path), {"lengths": True}, ValueError, "Final"),
        ((cylstm.GRU(3, 4, padding=1.0), path), {"lengths": True}, ValueError, "has padding=1.0, which ONNX has not"),
    ):
        with pytest.raises(error, match=message):
            cylstm.to_onnx(*arguments, **options)
    assert os.listdir(tmp_path) == []
    for opset in range(13, 23):
        cylstm.to_onnx(cylstm.Sequential([gru, cylstm.Last(), cylstm.Activation("softmax")]), path, opset=opset)
        assert (cylstm.from_onnx(path).layers[0].parameters["weight_hh_l0"] == gru.parameters["weight_hh_l0"]).all()
        assert onnx.load(path).opset_import[0].version == opset
