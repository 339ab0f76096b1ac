"""Files: what is saved is loaded as it was, and whatever else a file may be is a clear error."""

import inspect
import json
import math
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import cylstm
from cylstm import GRU, LSTM, RNN, Dense, Embedding, JordanRNN, Sequential, saving, validation

ROOT = Path(cylstm.__file__).parents[1]

NOISY = {"input_dropout": 0.25, "recurrent_dropout": 0.125, "weight_dropout": 0.5, "zoneout_h": 0.375}

LAYERS = [
    LSTM(3, 4, rng=0),
    LSTM(3, 4, 2, "single", True, 0.5, True, rng=1, merge="sum", padding="repeat", empty="zero", **NOISY),
    LSTM(3, 4, rng=2, proj_size=2, peepholes=True, clip={"gates": 3, "cell": 2.5, "projection": 0.1}, forget_bias=1),
    LSTM(3, 4, rng=3, coupled="f=1-i", layer_norm="per_gate", zoneout_c=0.25, dtype="float64"),
    LSTM(3, 4, rng=4, activations=(("hard_sigmoid", 0.1), "relu", ("leaky_relu", 0.3)), layer_norm="joint"),
    LSTM(3, 4, rng=5, bidirectional=True, merge=None, semantics="keras", bias=False),
    GRU(3, 4, rng=6, reverse=True, padding=-1.5, activations=("sigmoid", ("scaled_tanh", 1.5, 0.5)), clip={"gates": 1}),
    GRU(3, 4, bias="single", rng=7, reset_after=False, semantics="onnx", dtype="float64"),
    RNN(3, 4, 2, rng=8, nonlinearity=("elu", 0.5), bidirectional=True, merge="mul"),
    RNN(3, 4, rng=9, nonlinearity="relu", clip={"gates": 0.1}),
    JordanRNN(3, 4, 2, rng=10, nonlinearity=("affine", 0.5, 0.25), activation=("leaky_relu", 0.25), num_layers=2),
    Dense(3, 2, rng=11),
    Dense(3, 2, False, ("leaky_relu", 0.125), dtype="float64", rng=12),
    cylstm.LayerNorm(3, 0.125, dtype="float64"),
    cylstm.Activation("softmax"),
    cylstm.Activation(("scaled_tanh", 1.5, 0.5)),
    cylstm.Dropout(0.375),
    cylstm.Masking(),
    cylstm.Masking(-1),
    cylstm.Masking(math.nan),
    cylstm.Last(),
]


def saved(layer, tmp_path):
    """The same layer through a file."""
    path = tmp_path / "layer.safetensors"
    layer.save(path)
    return cylstm.load(path)


def assert_same(found, layer):
    assert type(found) is type(layer)
    assert repr(found) == repr(layer)
    assert found.dtype == layer.dtype
    assert list(found.parameters) == list(layer.parameters)
    for name, value in layer.parameters.items():
        assert found.parameters[name].dtype == value.dtype
        np.testing.assert_array_equal(found.parameters[name], value)


def outputs(layer, x):
    """All arrays of a training forward."""
    given = layer.forward(x, tape=cylstm.Tape(seed=5, training=True))
    arrays, rest = [], [given]
    while rest:
        value = rest.pop()
        rest += value if isinstance(value, (tuple, list)) else []
        arrays += [value] if isinstance(value, np.ndarray) else []
    return arrays


# A round trip -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_a_layer_comes_back_as_it_was_and_computes_the_same_bits(layer, tmp_path):
    found = saved(layer, tmp_path)
    assert_same(found, layer)
    x = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(layer.dtype or np.float32)
    for one, other in zip(outputs(found, x), outputs(layer, x), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_table_of_classes_has_every_layer_of_cylstm():
    named = [getattr(cylstm, name) for name in cylstm.__all__]
    layers = {kind.__name__ for kind in named if isinstance(kind, type) and issubclass(kind, cylstm.layers.Layer)}
    assert layers == set(saving._CLASSES)


def model_of_all():
    inner = Sequential([("norm", cylstm.LayerNorm(4)), Dense(4, 3, activation="relu", rng=1)])
    return Sequential(
        [Embedding(7, 2, mask_zero=True, rng=2), ("body", Sequential([GRU(2, 4, rng=3), inner])), cylstm.Dropout(0.5),
         cylstm.Last(), cylstm.Repeat(2), ("1st", LSTM(3, 2, rng=4))]
    )  # fmt: skip


def test_a_model_in_models_with_names_comes_back_as_it_was(tmp_path):
    model = model_of_all()
    found = saved(model, tmp_path)
    assert_same(found, model)
    x = np.array([[1, 2, 0], [6, 0, 0]])
    np.testing.assert_array_equal(found.predict(x), model.predict(x))


def test_what_is_trainable_comes_back(tmp_path):
    model = model_of_all()
    model["body"][1]["norm"].trainable = False
    found = saved(model, tmp_path)
    assert [layer.trainable for layer in found._leaves] == [layer.trainable for layer in model._leaves]
    assert found._trainable_names() == model._trainable_names()


def test_loading_draws_no_random_numbers(tmp_path, monkeypatch):
    path = tmp_path / "model"
    model_of_all().save(path)
    monkeypatch.setattr(validation, "generator", lambda rng: pytest.fail("a generator was asked for"))
    cylstm.load(path)


def test_a_loaded_model_learns_and_is_independent_of_the_file(tmp_path):
    path = tmp_path / "model"
    Dense(2, 1, rng=0).save(path)
    dense = cylstm.load(path)
    path.unlink()
    with dense.writable() as parameters:
        parameters["weight"][:] = 2
    np.testing.assert_array_equal(dense.forward(np.ones((1, 2), np.float32)) - dense.parameters["bias"], [[4]])


def test_the_same_model_makes_the_same_bytes(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    model_of_all().save(one)
    cylstm.load(one).save(other)
    assert one.read_bytes() == other.read_bytes()


def test_the_arrays_of_the_file_have_the_names_of_the_parameters_for_any_reader(tmp_path):
    model = model_of_all()
    model.save(tmp_path / "model")
    arrays = safetensors.numpy.load_file(tmp_path / "model")
    assert arrays.keys() == model.parameters.keys()
    np.testing.assert_array_equal(arrays["body.1.norm.weight"], [1, 1, 1, 1])


def test_the_metadata_are_those_that_the_format_says(tmp_path):
    model = Sequential([("a", LSTM(1, 2, activations=("sigmoid", ("relu",), "tanh"), dtype="float64")), cylstm.Last()])
    model["a"].trainable = False
    model.save(tmp_path / "model")
    with safetensors.safe_open(tmp_path / "model", "numpy") as file:
        metadata = file.metadata()
    values = model.parameters
    data = b"".join(values[name].tobytes() for name in sorted(values))
    assert metadata.keys() == {"cylstm"}
    text, checksum = metadata["cylstm"].split("\n")
    assert checksum == f"{zlib.crc32(text.encode() + data):08x}"
    options = {"dtype": "float64", "activations": ["sigmoid", "relu", "tanh"]}
    assert json.loads(text) == {
        "version": 1,
        "architecture": {"class": "Sequential", "parts": [
            ["a", {"class": "LSTM", "arguments": [1, 2], "options": options, "trainable": False}],
            ["1", {"class": "Last", "arguments": [], "options": {}, "trainable": True}],
        ]},
    }  # fmt: skip


def test_a_class_of_the_users_own_is_refused_whatever_it_is_called(tmp_path):
    mine = type("LSTM", (LSTM,), {})(2, 3)
    with pytest.raises(TypeError, match=r"LSTM\(2, 3\) is of a class of yours, expected one of Activation, "):
        Sequential([mine]).save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_importing_cylstm_does_not_import_safetensors():
    code = "import sys, cylstm; cylstm.LSTM(1, 1); assert not {'safetensors', 'json', 'uuid'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# Arrays and metadata ----------------------------------------------------------------------------------------------


def test_arrays_of_every_layout_come_back_by_value(tmp_path):
    arrays = {
        "transposed": np.arange(6.0).reshape(2, 3).T, "scalar": np.array(7, np.uint64), "none": np.zeros((0, 3), "f4"),
        "bool": np.array([True, False]), "big": np.arange(3, dtype=">f4"), "strided": np.arange(9)[::-2],
    }  # fmt: skip
    metadata = {"nan": math.nan, "inf": -math.inf, "large": 2**80, "pi": math.pi, "text": "ä\n\0", "of": {"a": [None]}}
    saving.write_file(tmp_path / "a", arrays, metadata)
    found, said = saving.read_file(str(tmp_path / "a"))
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], value, strict=name != "big")
    assert math.isnan(said.pop("nan")) and math.isnan(metadata.pop("nan"))
    assert said == metadata


@pytest.mark.parametrize("metadata", [{"a": {1, 2}}, {"a": np.float32(1)}], ids=repr)
def test_metadata_that_are_no_json_leave_no_file(tmp_path, metadata):
    with pytest.raises(TypeError, match="JSON serializable"):
        saving.write_file(tmp_path / "a", {}, metadata)
    assert not list(tmp_path.iterdir())


def test_a_dtype_that_the_format_has_not_is_refused(tmp_path):
    for array, words in ((np.zeros(1, "M8[s]"), "datetime64"), (np.array([None]), "")):
        with pytest.raises(ValueError, match=f"a can not be written: .*{words}"):
            saving.write_file(tmp_path / "a", {"t": array}, {})
    assert not list(tmp_path.iterdir())


# Whole or not at all ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "other"), KeyboardInterrupt()], ids=repr)
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, broken, error):
    path = tmp_path / "model"
    path.write_bytes(b"old")

    def fail(*arguments):
        raise error

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(type(error)) as caught:
        Dense(2, 1).save(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    if isinstance(error, OSError):
        assert (caught.value.errno, caught.value.filename) == (28, str(path))


@pytest.mark.skipif(os.name == "nt", reason="other rights")
def test_a_file_that_is_replaced_keeps_its_rights_and_a_new_one_has_those_of_the_umask(tmp_path):
    path = tmp_path / "model"
    before = os.umask(0o027)
    try:
        Dense(2, 1).save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    Dense(2, 1).save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_stays_one_and_its_file_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to("there")
    Dense(2, 1, rng=0).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert_same(cylstm.load(tmp_path / "there"), Dense(2, 1, rng=0))


def test_directories_and_missing_files_are_what_the_file_system_says(tmp_path):
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        cylstm.load(tmp_path)
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        Dense(2, 1).save(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        cylstm.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="model"):
        Dense(2, 1).save(tmp_path / "nothing" / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets")
def test_what_is_not_a_regular_file_is_neither_replaced_nor_read(tmp_path, monkeypatch):
    """A socket stands for all: were this not so, a device would not survive the test."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as there:
        there.bind("socket")
        with pytest.raises(OSError, match="not a regular file"):
            Dense(2, 1).save("socket")
        with pytest.raises(OSError, match="not a regular file"):
            cylstm.load("socket")
        assert stat.S_ISSOCK(os.stat("socket").st_mode)


# Files that are none of ours --------------------------------------------------------------------------------------

TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
NOT_SAFETENSORS = "^is damaged, or not a safetensors file "  # and what safetensors says, in other words in each version
OURS = {"__metadata__": {"cylstm": json.dumps({"version": 1})}}


def undamaged(text):
    """The header of a file without arrays, its checksum right."""
    return {"__metadata__": {"cylstm": f"{text}\n{zlib.crc32(text.encode()):08x}"}}


def content(header, data=b"", length=None):
    """A file of the safetensors format, written by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def refused(tmp_path, data):
    """The message with which a file is refused; it begins with the file's name."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} ") as caught:
        cylstm.load(path)
    return str(caught.value).removeprefix(f"{path} ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty, expected"),
        (b"abc", NOT_SAFETENSORS),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "is an HDF5 file, expected"),
        (b"\x80\x04\x95" + bytes(90), "is a pickle, expected"),
        (content(OURS, length=1 << 60), NOT_SAFETENSORS),
        (content(OURS, length=99999), NOT_SAFETENSORS),
        (content(OURS, length=3), NOT_SAFETENSORS),
        (content(b"\xff\xfe"), NOT_SAFETENSORS),
        (content(b"[" * 99999), NOT_SAFETENSORS),
        (content({**OURS, "a": {**TENSOR, "shape": [2]}}, bytes(4)), NOT_SAFETENSORS),
        (content({**OURS, "a": {**TENSOR, "shape": [2**62, 2**62]}}, bytes(4)), NOT_SAFETENSORS),
        (content({**OURS, "a": TENSOR}, bytes(3)), NOT_SAFETENSORS),
        (content({**OURS, "a": TENSOR}, bytes(5)), NOT_SAFETENSORS),
        (content({**OURS, "a": TENSOR, "b": TENSOR}, bytes(4)), NOT_SAFETENSORS),
        (content({**OURS, "a": {"dtype": "F32", "shape": [0, 2**61], "data_offsets": [0, 0]}}), "array 'a' that NumPy"),
        (content({**OURS, "a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)), "array 'a' that N"),
        (content({**OURS, "a": {**TENSOR, "shape": [1] * 99}}, bytes(4)), "array 'a' that NumPy can not hold"),
        (content(json.dumps({**OURS, "a": TENSOR}).encode()[:-1] + b', "a":' + json.dumps(TENSOR).encode() + b"}",
                 bytes(4)), "is damaged: .*'a' comes twice"),
        (content({}), r"is a safetensors file of 0 arrays \(\) without cylstm's metadata"),
        (content({"a": TENSOR, "__metadata__": {"format": "pt"}}, bytes(4)), r"of 1 arrays \('a'\) without cylstm's"),
        (content({"__metadata__": {"cylstm": "{"}}), "is damaged: its metadata can not be read"),
        (content({"__metadata__": {"cylstm": "[" * 99999}}), "is damaged: its metadata can not be read .*recursion"),
        (content({"__metadata__": {"cylstm": "[]"}}), "is damaged: its metadata are a list"),
        (content({"__metadata__": {"cylstm": "{}"}}), "is damaged: its version is None, expected 1"),
        (content({"__metadata__": {"cylstm": '{"version": 2}'}}), "is of version 2, expected at most 1: a newer"),
        (content({"__metadata__": {"cylstm": '{"version": 1, "version": 1}'}}), "is damaged: .*'version' comes twice"),
        (content({"__metadata__": {"cylstm": '{"version": ' + "1" * 5000 + "}"}}), "is damaged: "),
        (content(undamaged('{"version": 1, "epoch": 3}')), "is not the file of a model: .* epoch"),
        (content(OURS), "is damaged: its checksum is not"),
        (content({**undamaged('{"version": 1}'), "a": TENSOR}, bytes(4)), "is damaged: its checksum is not"),
    ],
    ids=range(30),
)  # fmt: skip
def test_a_file_that_is_not_ours_is_named_with_what_was_found(tmp_path, data, message):
    assert re.search(message, refused(tmp_path, data))


def test_a_zip_is_called_one(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a", "b")
    assert refused(tmp_path, (tmp_path / "a.zip").read_bytes()).startswith("is a zip archive, as .npz, ")


DENSE = {"class": "Dense", "arguments": [2, 1], "options": {}, "trainable": True}
LAST = {"class": "Last", "arguments": [], "options": {}, "trainable": True}


def of(**changes):
    return {**DENSE, **changes}


def sequential(*parts):
    return {"class": "Sequential", "parts": list(parts)}


WEIGHTS = {"weight": np.zeros((1, 2), np.float32), "bias": np.zeros(1, np.float32)}
IN_PART_0 = {f"0.{name}": value for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    ("architecture", "arrays", "message"),
    [
        (None, {}, "the model is a NoneType, expected an object"),
        ([], {}, "the model is a list"),
        ({}, {}, "the model is of class None, expected one of Activation, Bidir"),
        (of(**{"class": "os.system"}), WEIGHTS, "the model is of class 'os.system', expected one of"),
        (of(**{"class": "reference"}), WEIGHTS, "of class 'reference'"),
        (of(**{"class": "Recurrent"}), WEIGHTS, "of class 'Recurrent'"),
        (of(**{"class": ["Dense"]}), WEIGHTS, r"of class \['Dense'\]"),
        (of(code="1"), WEIGHTS, "entry names do not match the model, Dense,; unexpected: code"),
        ({"class": "Dense"}, WEIGHTS, "missing: arguments, options, trainable"),
        (of(arguments={}), WEIGHTS, "arguments of the model, Dense, is a dict, expected a list"),
        (of(options=[]), WEIGHTS, "options of the model, Dense, is a list, expected a dict"),
        (of(trainable=1), WEIGHTS, "trainable of the model, Dense, is a int, expected a bool"),
        (of(arguments=[2]), WEIGHTS, "the model, Dense, can not be: .*out_features"),
        (of(arguments=[2, 1, True, None, 5]), WEIGHTS, "the model, Dense, can not be: "),
        (of(arguments=[2, "1"]), WEIGHTS, "out_features is '1', expected an integer"),
        (of(arguments=[2, 1.5]), WEIGHTS, "out_features is 1.5, expected an integer"),
        (of(arguments=[2, -1]), WEIGHTS, "out_features is -1"),
        (of(options={"units": 3}), WEIGHTS, "can not be: .*'units'"),
        (of(options={"rng": 3}), WEIGHTS, "the model, Dense, has the options rng"),
        (of(options={"_arrays": {}}), WEIGHTS, "the model, Dense, has the options _arrays"),
        (of(options={"self": 3}), WEIGHTS, "can not be: .*'self'"),
        (of(options={"dtype": "float16"}), WEIGHTS, "dtype is 'float16'"),
        (of(options={"activation": ["relu", "x"]}), WEIGHTS, "alpha"),
        (of(arguments=[3, 1]), WEIGHTS, r"parameter weight has shape \(1, 2\), expected \(1, 3\)"),
        (of(options={"bias": False}), WEIGHTS, "unexpected: bias"),
        (DENSE, {"weight": WEIGHTS["weight"]}, "missing: bias"),
        (DENSE, {}, "missing: weight, bias"),
        (of(options={"dtype": "float64"}), WEIGHTS, "parameter .* is of dtype float32, expected float64"),
        (DENSE, {**WEIGHTS, "bias": np.zeros(1, np.float16)}, "parameter bias .* of dtype float16, expected float32"),
        (DENSE, {**WEIGHTS, "bias": np.zeros(1, int)}, "bias is of dtype int64, expected a float dtype"),
        (LAST, {"a": np.zeros(1)}, "the model, Last,; unexpected: a"),
        ({**LAST, "class": "LayerNorm", "arguments": [1]}, {}, "missing: weight, bias"),
        ({"class": "LSTM", "arguments": [1, 1], "options": {"clip": {"cells": 1}}, "trainable": True}, {}, "'cells'"),
        ({"class": "LSTM", "arguments": [1, 1], "options": {"rgn": 1}, "trainable": True}, {}, "LSTM got rgn"),
        ({"class": "LSTM", "parts": []}, {}, "LSTM, can not be: LSTM has no parts"),
        (sequential(), {}, "Sequential, can not be: layers is empty"),
        (sequential(LAST), {}, "a part of the model, Sequential, is a dict, expected a list"),
        (sequential(["0"]), {}, r"a part that is not a \[name, entry\] pair"),
        (sequential([0, LAST]), {}, r"a part that is not a \[name, entry\] pair"),
        (sequential(["0", LAST], ["0", LAST]), {}, "is called '0', as is a layer before it"),
        (sequential(["a.b", LAST]), {}, "called 'a.b', expected a name without a dot"),
        (sequential(["0", LAST], ["1", LAST]), {}, r"'1', Last\(\), does not take what"),
        (sequential(["0", DENSE], ["1", of(arguments=[3, 1])]), IN_PART_0, "layer '1', Dense,; missing|weight"),
        (sequential(["0", DENSE]), {**IN_PART_0, "1.weight": np.zeros(1)}, "a parameter '1.weight', but no part '1'"),
        (sequential(["0", DENSE]), WEIGHTS, "a parameter '(weight|bias)', but no part"),
        (sequential(["0", sequential(["in", {**LAST, "class": "First"}])]), {}, "layer '0.in' is of class 'First'"),
        ({"class": "Sequential", "parts": {}}, {}, "parts of the model, Sequential, is a dict, expected a list"),
    ],
    ids=range(47),
)
def test_an_architecture_that_can_not_be_is_named_with_what_was_found(tmp_path, architecture, arrays, message):
    path = tmp_path / "model"
    saving.write_file(path, arrays, {"architecture": architecture})
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is damaged: .*({message})"):
        cylstm.load(path)


# Where that begins depends on the version of Python, and here on the limit alone.
TOO_DEEP = sys.getrecursionlimit()


def test_models_too_deep_in_models_are_refused(tmp_path):
    start, end = json.dumps(sequential(["0", 0])).split("0]")
    text = f'{{"version": 1, "architecture": {TOO_DEEP * start}{json.dumps(LAST)}{TOO_DEEP * ("]" + end)}}}'
    assert "recursion" in refused(tmp_path, content(undamaged(text)))


def test_models_too_deep_in_models_are_not_saved(tmp_path):
    model = Dense(1, 1, rng=0)
    for _ in range(300):
        model = Sequential([model])
    try:
        sys.setrecursionlimit(len(inspect.stack()) + 200)
        with pytest.raises(ValueError, match=r"^layers are within layers too deep for a file$"):
            model.save(tmp_path / "model")
    finally:
        sys.setrecursionlimit(TOO_DEEP)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [3, None, b"model"])
def test_a_path_is_named_if_it_is_none(path):
    with pytest.raises(TypeError, match=r"^path is (3|None|b'model'), expected a string or a path$"):
        Dense(1, 1).save(path)
    with pytest.raises(TypeError, match=r"^path is (3|None|b'model'), expected a string or a path$"):
        cylstm.load(path)


@pytest.mark.parametrize(
    "architecture",
    [of(arguments=[10**6, 10**9]), of(arguments=[2, 10**300]),
     {"class": "LSTM", "arguments": [2, 10**9], "options": {}, "trainable": True},
     {"class": "GRU", "arguments": [2, 3], "options": {"num_layers": 10**12}, "trainable": True},
     {"class": "Embedding", "arguments": [10**9, 10**9], "options": {}, "trainable": True}],
    ids=range(5),
)  # fmt: skip
def test_sizes_that_no_machine_has_are_refused_before_they_are_allocated(tmp_path, architecture):
    path = tmp_path / "model"
    saving.write_file(path, WEIGHTS, {"architecture": architecture})
    with pytest.raises(MemoryError, match=f"^{re.escape(str(path))}: the model, .*can not be: these parameters would"):
        cylstm.load(path)


def test_whatever_byte_is_damaged_the_file_is_refused(tmp_path):
    path = tmp_path / "model"
    Sequential([LSTM(1, 1, rng=0), Dense(1, 1, rng=1)]).save(path)
    data = path.read_bytes()
    for place in range(len(data)):
        for damaged in (data[:place], data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=f"^{re.escape(str(path))} "):
                cylstm.load(path)


def test_nothing_in_a_file_is_executed(tmp_path):
    """A pickle under the name of a model, and a pickle among its arrays."""
    marker = tmp_path / "executed"
    attack = b"cos\nsystem\n(S'touch " + os.fsencode(marker) + b"'\ntR."
    refused(tmp_path, attack)
    saving.write_file(tmp_path / "model", {"weight": np.frombuffer(attack, np.uint8)}, {"architecture": DENSE})
    with pytest.raises(ValueError, match="is damaged"):
        cylstm.load(tmp_path / "model")
    assert not marker.exists()


def with_default_state(tmp_path):
    """(the path, arrays and metadata of a file that has one)"""
    layer = LSTM(2, 3, rng=0)
    layer.default_state = np.full((1, 3), 2, np.float32), np.full((1, 3), 3, np.float32)
    path = tmp_path / "model.safetensors"
    Sequential([layer, Dense(3, 1, rng=0)]).save(path)
    return path, *saving.read_file(path)


def test_a_default_state_is_beside_the_parameters(tmp_path):
    _, arrays, metadata = with_default_state(tmp_path)
    assert arrays["0.default_state.h"].tolist() == [[2.0] * 3] and arrays["0.default_state.c"].tolist() == [[3.0] * 3]
    assert metadata["architecture"]["parts"][0][1]["options"] == {}


@pytest.mark.parametrize(("changed", "words"), [
    ({"0.default_state.c": None}, "default_state c is a NoneType"),
    ({"0.default_state.c": np.zeros((1, 4), np.float32)}, "default_state c has shape"),
    ({"0.default_state.h": np.zeros((1, 3))}, "default_state h is of dtype float64"),
    ({"0.default_state.z": np.zeros((1, 3), np.float32)}, "unexpected: default_state.z"),
    ({"1.default_state.h": np.zeros((1, 3), np.float32)}, "unexpected: default_state.h"),
], ids=str)  # fmt: skip
def test_a_default_state_that_can_not_be_is_refused(changed, words, tmp_path):
    path, arrays, metadata = with_default_state(tmp_path)
    arrays = {name: value for name, value in {**arrays, **changed}.items() if value is not None}
    saving.write_file(path, arrays, {"architecture": metadata["architecture"]})
    with pytest.raises(ValueError, match=f"model.safetensors is damaged: .*{words}"):
        cylstm.load(path)
