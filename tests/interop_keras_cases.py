"""Models of Keras in a file of golden/interop/make_keras_files.py, and what cylstm is held to for each of them."""

import io
import json
import lzma
from pathlib import Path

import numpy as np

import cylstm

# What a file of weights alone does not say.
UNSAID = {"both": {"merge_mode": "sum"}, "nobias": {"reset_after": True}}
OLD = {"recurrent_activation": "hard_sigmoid"}


def load(path):
    """{name: {"file": ..., "x": ..., ...}}"""
    cases = {}
    with lzma.open(path) as file, np.load(io.BytesIO(file.read())) as archive:
        for key, value in ((key, archive[key]) for key in archive.files):
            name, _, part = key.rpartition("/")
            cases.setdefault(name, {})[part] = json.loads(str(value)) if part == "about" else value
    return cases


def written(case, directory):
    path = Path(directory) / ("model" + case["about"]["suffix"])
    path.write_bytes(case["file"].tobytes())
    return path


def model_of(name, case, path):
    """The model of a case, with what its file does not say said."""
    if not case["about"].get("weights"):
        return cylstm.from_keras(path)
    old = case["about"]["hard"]
    kind = name.partition(".")[0].removeprefix("weights_")
    if kind == "chain":
        activations = (("hard_sigmoid" if old else "sigmoid"), "tanh", "tanh")
        options = {"bias": "single", "semantics": "keras", "batch_first": True, "activations": activations}
        return cylstm.from_keras(path, cylstm.Sequential([
            cylstm.LSTM(3, 4, **options), cylstm.Dropout(0.1), cylstm.Final(cylstm.LSTM(4, 4, **options)),
            cylstm.Dense(4, 3, activation="relu"),
        ]))  # fmt: skip
    recurrent = OLD if old and kind != "rnn" else {}
    return cylstm.from_keras(path, **UNSAID.get(kind, {}), **recurrent)


def assert_like_keras(name, case, directory):
    """The outputs, and the gradient of x where there is one, are those of Keras."""
    model = model_of(name, case, written(case, directory))
    about, x = case["about"], case["x"]
    dtype = np.dtype(about.get("dtype", "float32"))
    assert model.dtype in (dtype, None), name
    tape = cylstm.Tape() if "dx" in case else None
    if tape is not None:
        tape.training = False
    y, _ = model.forward(x, tape=tape)
    tolerance = about.get("tolerance", 2e-5 if dtype == np.float32 else 1e-12)
    assert_within(name, y, case["y"], tolerance)
    if tape is not None:
        dx = model.backward(tape, case["dy"].astype(dtype)).dx
        assert_within(f"dx of {name}", dx, case["dx"], tolerance)


def assert_within(name, actual, expected, tolerance):
    assert actual.shape == expected.shape, name
    error = np.abs(actual - expected) / np.maximum(1, np.abs(expected))
    assert error.max(initial=0) <= tolerance, f"{name}: {error.max()} > {tolerance}"
