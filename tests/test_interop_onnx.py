"""Models of ONNX, in and out: against onnxruntime's and onnx's own numbers, and what damaged files and others say."""

import runpy
from pathlib import Path

import numpy as np
import pytest

import cylstm

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

    y, _ = cylstm.from_onnx(model).forward(batch_first("x"))
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
