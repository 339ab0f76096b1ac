"""The family's options against other libraries: Keras, ONNX and onnxruntime, and PyTorch's LSTM with projection.

Scripts in golden/ made the files, and say how; golden/store.py says what is in them. The reference and the layers are
held against the same numbers: the outputs, and of PyTorch, which is asked for them, all gradients.
"""

import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import cylstm
from cylstm import reference
from cylstm.testing import TOLERANCES, assert_close

GOLDEN = Path(__file__).parent / "golden"
LAYERS = {"lstm": cylstm.LSTM, "gru": cylstm.GRU, "rnn": cylstm.RNN}
STATES = {"lstm": ("h", "c"), "gru": ("h",), "rnn": ("h",)}
FLOAT32 = np.dtype(np.float32)

load = runpy.run_path(str(GOLDEN / "store.py"))["load"]
CASES = {
    f"{path.stem}-{name}": case
    for pattern in ("keras_*.npz", "onnx_*.npz")
    for path in sorted(GOLDEN.glob(pattern))
    for name, case in load(path).items()
}
TORCH = sorted(GOLDEN.glob("torch_*.npz"))

# What a layer's `semantics` stands for, where a file has it; the reference is told of each. Keras' Bidirectional has
# its layers output zeros where a step is masked.
SEMANTICS = {
    "keras": {"padding": "repeat", "empty": "initial"},
    "onnx": {"padding": "zero", "empty": "zero"},
}
# The layer's options that the reference has too. The others it reads off the parameters, or they are noise, which is
# there in training only.
SHARED = {"activations", "clip", "coupled", "empty", "merge", "nonlinearity", "padding", "reset_after", "reverse"}

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
torch_files = pytest.mark.parametrize("path", TORCH, ids=lambda path: path.stem)
parts = pytest.mark.parametrize("part", ["full", "packed"])


def with_tuples(value):
    """What JSON has made lists of, as the arguments are written."""
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value


def parameters_of(arrays, dtype):
    prefix = "parameters."
    return {name.removeprefix(prefix): a.astype(dtype) for name, a in arrays.items() if name.startswith(prefix)}


def state_of(kind, arrays, ending, dtype):
    """The arrays h{ending} and c{ending} as a layer takes its state; None if they are not there."""
    if f"h{ending}" not in arrays:
        return None
    state = tuple(arrays[f"{name}{ending}"].astype(dtype) for name in STATES[kind])
    return state if kind == "lstm" else state[0]


def named(kind, y, state):
    """Outputs under the names of the files."""
    outputs = {"y_forward": y[0], "y_reverse": y[1]} if isinstance(y, tuple) else {"y": y}
    state = state if kind == "lstm" else (state,)
    return outputs | {f"{name}_n": array for name, array in zip(STATES[kind], state, strict=True)}


def assert_golden(actual, expected):
    """All that is expected is there, and as close as the coarser of the two dtypes lets them be.

    onnxruntime and the node tests are in float32, so their own rounding is in the files: up to 3 spacings of float32 at
    1, of the 50 that are allowed. What a layer of float32 returns is likewise compared as float32, whatever the file.
    """
    for name, value in expected.items():
        dtype = FLOAT32 if FLOAT32 in (value.dtype, actual[name].dtype) else value.dtype
        tolerances = TOLERANCES[dtype]
        tolerance = tolerances.backward if name[0] == "d" else tolerances.forward
        assert_close(actual[name].astype(dtype), value.astype(dtype), tolerance, name)


def outputs_in(arrays):
    names = ("y", "y_forward", "y_reverse", "h_n", "c_n")
    return {name: arrays[name] for name in names if name in arrays}


def hidden_size_of(parameters, kind):
    if kind == "lstm" and "weight_hr_l0" in parameters:
        return parameters["weight_hr_l0"].shape[1]
    return parameters["weight_hh_l0"].shape[1]


# Keras and ONNX ---------------------------------------------------------------------------------


def test_the_golden_files_are_there():
    # as many as make_keras.py and make_onnx.py have cases
    counts = Counter(name.partition("-")[0].rpartition("_")[0] for name in CASES)
    assert counts == {"keras": 65, "onnx_node": 18, "onnx_reference": 9, "onnx_runtime": 46}


@cases
def test_the_reference_has_the_outputs_of_the_other_library(case):
    about, arrays = case
    kind, options = about["kind"], about["options"]
    meant = dict(SEMANTICS[options["semantics"]])
    if options["semantics"] == "keras" and options.get("bidirectional"):
        meant["padding"] = "zero"
    options = meant | options
    options = {name: with_tuples(value) for name, value in options.items() if name in SHARED}
    y, state, _ = getattr(reference, f"{kind}_forward")(
        parameters_of(arrays, np.float64),
        arrays["x"].astype(np.float64),
        state_of(kind, arrays, "_0", np.float64),
        lengths=arrays.get("lengths"),
        mask=arrays.get("mask"),
        **options,
    )
    assert_golden(named(kind, y, state), outputs_in(arrays))


@cases
@dtypes
def test_the_layer_has_the_outputs_of_the_other_library(case, dtype):
    about, arrays = case
    kind = about["kind"]
    options = {name: with_tuples(value) for name, value in about["options"].items()}
    parameters = parameters_of(arrays, dtype)
    x = arrays["x"].astype(dtype)
    layer = LAYERS[kind](x.shape[-1], hidden_size_of(parameters, kind), dtype=dtype, **options)
    layer.load_state_dict(parameters)
    state = state_of(kind, arrays, "_0", dtype)
    y, state = layer.forward(x, state, lengths=arrays.get("lengths"), mask=arrays.get("mask"))
    outputs = named(kind, y, state)
    assert all(value.dtype == dtype for value in outputs.values())
    assert_golden(outputs, outputs_in(arrays))


def test_lengths_of_a_golden_file_are_a_mask():
    # what Keras makes of them, and so may a user
    about, arrays = CASES["keras_lstm-lengths"]
    mask = np.arange(len(arrays["x"])) < arrays["lengths"][:, None]
    parameters = parameters_of(arrays, np.float64)
    layer = cylstm.LSTM(arrays["x"].shape[-1], hidden_size_of(parameters, "lstm"), dtype="float64", **about["options"])
    layer.load_state_dict(parameters)
    state = state_of("lstm", arrays, "_0", np.float64)
    y, state = layer.forward(arrays["x"].astype(np.float64), state, mask=mask)
    assert_golden(named("lstm", y, state), outputs_in(arrays))


# PyTorch ----------------------------------------------------------------------------------------


class TorchCase:
    """One file of PyTorch's: a problem, and what comes out of it."""

    def __init__(self, path, part, dtype):
        with np.load(path) as file:
            arrays = dict(file)
        words = path.stem.split("_")
        self.kind = "lstm" if words[1] == "proj" else words[1]
        self.options = {"bidirectional": "bidirectional" in words, "bias": "bias" in words}
        self.options["num_layers"] = 2 if "2layer" in words else 1
        if self.kind == "rnn":
            self.options["nonlinearity"] = words[2]
        if words[1] == "proj":
            self.options["proj_size"] = arrays["h_0"].shape[-1]
        self.parameters = parameters_of(arrays, dtype)
        self.x, self.dy = (arrays[name].astype(dtype) for name in ("x", "dy"))
        self.state = state_of(self.kind, arrays, "_0", dtype)
        self.dstate = state_of(self.kind, {k[1:]: v for k, v in arrays.items() if k[0] == "d"}, "_n", dtype)
        self.lengths = arrays["lengths"] if part == "packed" else None
        self.expected = {name.removeprefix(f"{part}."): a for name, a in arrays.items() if name.startswith(f"{part}.")}

    def check(self, y, state, gradients):
        actual = named(self.kind, y, state) | {"dx": gradients.dx}
        dstate = gradients.dstate if self.kind == "lstm" else (gradients.dstate,)
        actual |= {f"d{name}_0": array for name, array in zip(STATES[self.kind], dstate, strict=True)}
        actual |= {f"d{name}": array for name, array in gradients.parameters.items()}
        assert set(actual) == set(self.expected)
        assert_golden(actual, self.expected)


def test_the_golden_files_with_projection_are_there():
    assert sum(path.stem.startswith("torch_proj_") for path in TORCH) == 3  # as many as make_torch_proj.py has


@parts
@pytest.mark.parametrize(
    "path", [path for path in TORCH if path.stem.startswith("torch_proj_")], ids=lambda path: path.stem
)
def test_the_reference_with_projection_has_pytorch_s_outputs_and_gradients(path, part):
    case = TorchCase(path, part, np.float64)
    y, state, cache = reference.lstm_forward(case.parameters, case.x, case.state, lengths=case.lengths)
    case.check(y, state, reference.lstm_backward(cache, case.dy, case.dstate))


@torch_files
@parts
@dtypes
def test_the_layer_has_pytorch_s_outputs_and_gradients(path, part, dtype):
    case = TorchCase(path, part, dtype)
    hidden_size = hidden_size_of(case.parameters, case.kind)
    layer = LAYERS[case.kind](case.x.shape[-1], hidden_size, dtype=dtype, **case.options)
    layer.load_state_dict(case.parameters)
    tape = cylstm.Tape()
    y, state = layer.forward(case.x, case.state, lengths=case.lengths, tape=tape)
    case.check(y, state, layer.backward(tape, case.dy, case.dstate))
