"""Keras' models as ours: small ones of Keras 3.15, 2.15 and 2.2.4 with what they compute, which golden/interop made."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from interop_keras_cases import assert_like_keras, assert_within, load, written

import cylstm
from cylstm.interop.keras import describe

h5py = pytest.importorskip("h5py")

GOLDEN = Path(__file__).parent / "golden" / "interop"
VERSIONS = ("keras_3", "keras_2_15", "keras_2_2")
CASES = {version: load(GOLDEN / f"{version}.npz.xz") for version in VERSIONS}

every_case = pytest.mark.parametrize(
    "version, name", [(version, name) for version, cases in CASES.items() for name in cases]
)


def file_of(version, name, directory):
    return written(CASES[version][name], directory)


@every_case
def test_a_model_computes_what_it_computes_in_keras(version, name, tmp_path):
    assert_like_keras(name, CASES[version][name], tmp_path)


# What comes out ---------------------------------------------------------------------------------


def test_the_layers_keep_what_the_config_says(tmp_path):
    model = cylstm.from_keras(file_of("keras_3", "classifier.keras", tmp_path))
    assert [name for name, _ in model._parts] == ["embedding", "bidirectional", "gru", "dropout", "dense"]
    assert repr(model["embedding"]) == "Embedding(11, 3, mask_zero=True)"
    assert repr(model["bidirectional"]) == (
        "LSTM(3, 4, bias='single', batch_first=True, bidirectional=True, input_dropout=0.2, recurrent_dropout=0.1)"
    )
    assert repr(model["gru"]) == "Final(GRU(8, 4, batch_first=True, padding='repeat'))"
    assert repr(model["dropout"]) == "Dropout(0.5)"
    assert repr(model["dense"]) == "Dense(4, 3, activation='softmax')"


def test_a_dtype_can_be_wanted(tmp_path):
    path = file_of("keras_3", "classifier.keras", tmp_path)
    assert cylstm.from_keras(path, dtype="float64").dtype == np.float64
    assert cylstm.from_keras(path).dtype == np.float32


@pytest.mark.parametrize("version", ["keras_3", "keras_2_15"])
def test_one_layer_is_taken_out_by_name(version, tmp_path):
    path = file_of(version, "classifier.h5", tmp_path)
    model, gru = cylstm.from_keras(path), cylstm.from_keras(path, "gru")
    assert isinstance(gru, cylstm.Final)
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    assert (gru.forward(x)[0] == model["gru"].forward(x)[0]).all()


def test_a_layer_in_a_nested_model_is_found_by_its_path_or_name(tmp_path):
    path = file_of("keras_3", "nested.h5", tmp_path)
    names = [entry.name for entry in describe(path)]
    assert names == ["sequential/dense", "sequential/lstm", "sequential_1/bidirectional", "sequential_1/dropout",
                     "dense_1"]  # fmt: skip
    assert repr(cylstm.from_keras(path, "sequential/lstm")) == repr(cylstm.from_keras(path, "lstm"))


def test_a_layer_that_is_not_there_is_named_with_those_that_are(tmp_path):
    path = file_of("keras_3", "tagger.keras", tmp_path)
    with pytest.raises(ValueError, match=r"there is no layer 'gru', expected one of masking, "):
        cylstm.from_keras(path, "gru")


@pytest.mark.parametrize("name", ["bidirectional.keras", "functional.h5", "two_layers.h5", "cudnn_gru.h5"])
def test_a_loaded_model_is_saved_and_loaded_by_cylstm(name, tmp_path):
    version = "keras_2_15"
    name = {"bidirectional.keras": "tagger.keras"}.get(name, name)
    case = CASES[version][name]
    model = cylstm.from_keras(file_of(version, name, tmp_path))
    model.save(tmp_path / "model.safetensors")
    assert (cylstm.load(tmp_path / "model.safetensors").forward(case["x"])[0] == model.forward(case["x"])[0]).all()


def test_a_file_is_described_without_reading_its_numbers(tmp_path):
    entries = describe(file_of("keras_2_2", "classifier.h5", tmp_path))
    assert [(entry.name, entry.kind) for entry in entries][2] == ("bidirectional_1", "Bidirectional")
    assert entries[3].detail == (
        "8x12 4x12 12, float32, units=4, activation='tanh', recurrent_activation='hard_sigmoid'"
    )
    entries = describe(file_of("keras_3", "weights_chain.weights.h5", tmp_path))
    assert [tuple(entry[:3]) for entry in entries] == [
        ("dense", "Dense", "4x3 3, float32"), ("lstm", "LSTM", "3x16 4x16 16, float32"),
        ("lstm_1", "LSTM", "4x16 4x16 16, float32"),
    ]  # fmt: skip


# Files of weights alone


def test_weights_alone_ask_for_a_layer(tmp_path):
    path = file_of("keras_3", "weights_chain.weights.h5", tmp_path)
    with pytest.raises(ValueError, match=r"holds weights alone, of the layers dense, lstm, lstm_1; layer is None"):
        cylstm.from_keras(path)
    assert repr(cylstm.from_keras(path, "lstm_1", return_sequences=False)) == (
        "Final(LSTM(4, 4, bias='single', batch_first=True, padding='repeat'))"
    )
    assert repr(cylstm.from_keras(path, "dense", activation="relu")) == "Dense(4, 3, activation='relu')"


def test_a_gru_without_a_bias_asks_for_reset_after(tmp_path):
    path = file_of("keras_3", "weights_nobias.weights.h5", tmp_path)
    with pytest.raises(ValueError, match="a GRU without a bias, which would show it: say reset_after="):
        cylstm.from_keras(path)
    assert not cylstm.from_keras(path, reset_after=False).reset_after


def test_the_default_activation_of_old_releases_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"is of Keras 2.2, .* say recurrent_activation="):
        cylstm.from_keras(file_of("keras_2_2", "weights_lstm.h5", tmp_path))


def test_hard_sigmoid_of_weights_alone_asks_for_the_version(tmp_path):
    path = file_of("keras_3", "weights_lstm.weights.h5", tmp_path)
    with pytest.raises(ValueError, match="say which by keras_version='2' or '3'"):
        cylstm.from_keras(path, recurrent_activation="hard_sigmoid")
    for version, slope in (("2", 0.2), ("3", 1 / 6)):
        lstm = cylstm.from_keras(path, recurrent_activation="hard_sigmoid", keras_version=version)
        assert lstm.activations[0] == ("hard_sigmoid", slope, 0.5)


def test_a_layer_with_two_biases_is_filled_too(tmp_path):
    case = CASES["keras_3"]["weights_lstm.weights.h5"]
    lstm = cylstm.LSTM(3, 4, batch_first=True, semantics="keras", rng=0)
    filled = cylstm.from_keras(file_of("keras_3", "weights_lstm.weights.h5", tmp_path), lstm)
    assert_within("y", filled.forward(case["x"])[0], case["y"], 2e-5)
    assert not filled.parameters["bias_hh_l0"].any() and lstm.parameters["bias_hh_l0"].any()


@pytest.mark.parametrize(
    "layers, message",
    [
        ([cylstm.LSTM(3, 4, rng=0)], "1 layers with weights are given, but it has 3: dense "),
        ([cylstm.LSTM(3, 4, rng=0), cylstm.LSTM(4, 5, rng=0), cylstm.Dense(5, 3, rng=0)],
         r"LSTM\(4, 5\) is given, which none of the weights fit"),
        ([cylstm.LSTM(3, 4, bias=False, rng=0), cylstm.LSTM(4, 4, rng=0), cylstm.Dense(4, 3, rng=0)],
         "the weights do not fit the layer that is given: .*bias_ih_l0"),
        ([cylstm.LSTM(3, 4, rng=0), cylstm.JordanRNN(4, 4, 4, rng=0), cylstm.Dense(4, 3, rng=0)],
         "JordanRNN.* has no counterpart in Keras"),
    ],
)  # fmt: skip
def test_a_model_that_the_weights_do_not_fit_is_refused(layers, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        cylstm.from_keras(file_of("keras_3", "weights_chain.weights.h5", tmp_path), cylstm.Sequential(layers))


# What is refused --------------------------------------------------------------------------------


def changed(version, name, directory, change):
    """A file of the golden ones whose config ``change`` has changed."""
    path = file_of(version, name, directory)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config = change(config) or config
        del file.attrs["model_config"]
        file.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config)
    return path


def entry_of(config, kind):
    return next(entry for entry in config["config"]["layers"] if entry["class_name"] == kind)


@pytest.mark.parametrize(
    "kind, change, message",
    [
        ("GRU", {"activation": "selu"}, r"layer 'gru' \(GRU\): activation is 'selu', which cylstm does not have"),
        ("GRU", {"activation": {"class_name": "function", "config": "mine"}}, "activation is 'mine'"),
        ("GRU", {"activation": "softmax"}, "softmax"),
        ("GRU", {"time_major": True}, r"layer 'gru' \(GRU\): is time_major.* layer="),
        ("GRU", {"reset_after": False}, r"reset_after is False, but the bias has shape \(2, 12\)"),
        ("GRU", {"units": 5}, r"the kernel has shape \(8, 12\), expected \(any, 15\)"),
        ("GRU", {"units": 10**400}, "the kernel has shape"),
        ("GRU", {"units": "4"}, "units of layer 'gru' .* is '4', expected int"),
        ("GRU", {"use_bias": False}, "use_bias is False, but there is a bias"),
        ("GRU", {"return_sequences": "yes"}, "return_sequences of .* is 'yes', expected bool or None"),
        ("GRU", {"dropout": 10**400}, "model.h5: "),
        ("GRU", {"dropout": 1.5}, "input_dropout is 1.5"),
        ("GRU", {"zero_output_for_mask": True}, "zero_output_for_mask without return_sequences"),
        ("Bidirectional", {"merge_mode": "max"}, "merge_mode is 'max', expected one of 'concat'"),
        ("Bidirectional", {"merge_mode": None}, "merge"),
        ("Bidirectional", {"layer": 3}, "layer of layer 'bidirectional' .* is 3, expected dict"),
        ("Bidirectional", {"layer": {"class_name": "Dense", "config": {}}}, "is of a Dense, expected LSTM, GRU"),
        ("Dense", {"activation": ["relu"]}, "activation is a list"),
        ("Embedding", {"mask_zero": 3.5}, "mask_zero of .* is 3.5, expected bool"),
        ("Dropout", {"rate": None, "noise_shape": None}, None),
    ],
)
def test_a_config_that_cylstm_has_no_counterpart_of_is_refused(kind, change, message, tmp_path):
    path = changed("keras_3", "classifier.h5", tmp_path, lambda c: entry_of(c, kind)["config"].update(change))
    if message is None:
        assert cylstm.from_keras(path)["dropout"].p == 0
        return
    with pytest.raises(ValueError, match=message) as error:
        cylstm.from_keras(path)
    assert "model.h5" in str(error.value)


@pytest.mark.parametrize("kind", ["Conv1D", "Lambda", "Reshape", "MyLayer", "__import__"])
def test_an_unknown_layer_is_named_with_what_to_do(kind, tmp_path):
    path = changed("keras_3", "classifier.h5", tmp_path, lambda c: entry_of(c, "Dropout").update(class_name=kind))
    message = rf"layer 'dropout' \({kind}\): is of a class .* from_keras\(path, layer='bidirectional'\)"
    with pytest.raises(ValueError, match=message):
        cylstm.from_keras(path)
    assert cylstm.from_keras(path, layer="bidirectional").bidirectional


def test_a_class_of_somebody_else_is_not_taken_for_keras(tmp_path):
    path = changed("keras_3", "classifier.h5", tmp_path, lambda c: entry_of(c, "GRU").update(module="mine.layers"))
    with pytest.raises(ValueError, match=r"layer 'gru' \(mine.layers.GRU\): is of a class"):
        cylstm.from_keras(path)


@pytest.mark.parametrize("kind", ["LSTM", "Bidirectional", "MyFunctional"])
def test_a_model_of_another_class_gives_its_layers_alone(kind, tmp_path):
    path = changed("keras_3", "classifier.h5", tmp_path, lambda config: config.update(class_name=kind))
    with pytest.raises(ValueError, match=rf"\({kind}\): expected a Sequential or Functional or Model; a layer of it"):
        cylstm.from_keras(path)
    assert cylstm.from_keras(path, layer="bidirectional").bidirectional


@pytest.mark.parametrize(
    "name, kind", [("gru_steps.h5", "GRU"), ("bidirectional_gru_concat_steps.h5", "Bidirectional")]
)
def test_time_major_is_exact_in_a_layer_alone(name, kind, tmp_path):
    def transpose(config):
        entry = entry_of(config, kind)["config"]
        entry.get("layer", {"config": entry})["config"]["time_major"] = True

    case = CASES["keras_2_15"][name]
    gru = cylstm.from_keras(changed("keras_2_15", name, tmp_path, transpose), layer=kind.lower())
    assert not gru.batch_first
    assert_within("y", gru.forward(case["x"].swapaxes(0, 1))[0].swapaxes(0, 1), case["y"], 2e-5)
    with pytest.raises(ValueError, match="is time_major, whose arrays are transposed"):
        cylstm.from_keras(changed("keras_2_15", name, tmp_path, transpose))


def functional(layers, outputs):
    return {"class_name": "Functional", "config": {
        "name": "m", "layers": layers, "input_layers": [["x", 0, 0]], "output_layers": outputs}}  # fmt: skip


def layer(name, kind, *sources, **config):
    calls = [[[source, 0, index, {}] for source, index in sources]] if sources else []
    return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": calls}


@pytest.mark.parametrize(
    "layers, outputs, message",
    [
        ([layer("a", "Activation", ("x", 0)), layer("add", "Add", ("a", 0), ("x", 0))], [["add", 0, 0]],
         r"layer 'add' \(Add\) takes 2 inputs \('a', 'x'\): the model is not a chain. .* layer="),
        ([layer("a", "Activation", ("x", 0)), layer("b", "Activation", ("x", 0))], [["a", 0, 0], ["b", 0, 0]],
         r"has 2 output layers \('a', 'b'\): the model is not a chain"),
        ([layer("a", "Activation", ("x", 1))], [["a", 0, 0]], "takes a state of layer 'x'"),
        ([layer("a", "Activation", ("b", 0)), layer("b", "Activation", ("a", 0))], [["a", 0, 0]], "damaged calls"),
        ([layer("a", "Activation", ("none", 0))], [["a", 0, 0]], "lead to layer 'none'"),
        ([layer("a", "Activation")], [["a", 0, 0]], "'a' .* is called 0 times"),
        ([], [], "has 0 output layers"),
        ([layer("a", "Activation", ("x", 0))], [["a", 0, 1]], "puts out a state of layer 'a'"),
        ([{"class_name": "Activation", "name": "a", "config": {}, "inbound_nodes": [{"args": 5, "kwargs": 3}]}],
         [["a", 0, 0]], "model.h5"),
    ],
)  # fmt: skip
def test_a_model_that_is_no_chain_is_refused(layers, outputs, message, tmp_path):
    model = functional([layer("x", "InputLayer"), *layers], outputs)
    with pytest.raises(ValueError, match=message):
        cylstm.from_keras(changed("keras_3", "tagger.h5", tmp_path, lambda config: model))


NESTED = '{"class_name": "Sequential", "config": {"layers": ['


@pytest.mark.parametrize(
    "config",
    ["[" * 100_000, "{", "[]", "3", "null", '"LSTM"', "{}", '{"class_name": 3}', '{"class_name": "Sequential"}',
     '{"class_name": "Sequential", "config": 5}', '{"class_name": "Sequential", "config": {"layers": 7}}',
     '{"class_name": "Sequential", "config": {"layers": [8]}}', '{"class_name": "Sequential", "config": []}',
     '{"class_name": "Sequential", "config": {"layers": [{"class_name": "LSTM", "config": {}}]}}',
     '{"class_name": "Sequential", "config": {"layers": [{"class_name": "Masking", "config": {"mask_value": 1e999}}]}}',
     '{"class_name": "Sequential", "config": {"layers": [{"class_name": "RepeatVector", "config": {"n": -1}}]}}',
     NESTED * 300 + ']}}' * 300],
    ids=range(17),
)  # fmt: skip
def test_a_hostile_config_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match=r"model\.h5"):
        cylstm.from_keras(changed("keras_3", "tagger.h5", tmp_path, lambda _: config))


# Hostile and damaged files ----------------------------------------------------------------------


def h5_with(directory, make, name="layers/lstm/cell/vars/0"):
    """A file of weights alone, LSTM(3, 4), of which ``make(group, name)`` has made one array or group."""
    path = directory / "model.weights.h5"
    with h5py.File(path, "w") as file:
        for n, shape in enumerate([(3, 16), (4, 16), (16,)]):
            if name != f"layers/lstm/cell/vars/{n}":
                file[f"layers/lstm/cell/vars/{n}"] = np.ones(shape, np.float32)
        parent = file.require_group(name.rpartition("/")[0])
        make(parent, name.rpartition("/")[2])
    return path


def huge(group, name):
    group.create_dataset(name, (10**6, 10**6), np.float32, chunks=(64, 64))


def virtual(group, name):
    layout = h5py.VirtualLayout((3, 16), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "x", (3, 16))
    group.create_virtual_dataset(name, layout)


def external(group, name):
    group.create_dataset(name, (3, 16), np.float32, external=[("/etc/passwd", 0, 3 * 16 * 4)])


def bomb(group, name):
    group.create_dataset(name, (2000, 2000), np.float32, data=np.zeros((2000, 2000)), compression="gzip", chunks=True)


def reference(group, name):
    group.create_dataset(name, (1,), h5py.ref_dtype)[0] = group.ref


def linked_out(group, name):
    group[name] = h5py.ExternalLink("other.h5", "/x")


def linked(group, name):
    group[name] = h5py.SoftLink("/layers")


def integers(group, name):
    group[name] = np.ones((3, 16), np.int64)


def texts(group, name):
    group[name] = np.array([["a"] * 16] * 3, object)


def compound(group, name):
    group[name] = np.ones((3, 16), [("a", "f4"), ("b", "f4")])


def empty(group, name):
    group[name] = h5py.Empty("f4")


def group_instead(group, name):
    group.create_group(name)


@pytest.mark.parametrize(
    "make, message",
    [
        (huge, r"of shape \(1000000, 1000000\) needs 4000000000000 bytes, of which the file of .* bytes holds 0"),
        (virtual, "is in another file, which is not opened"),
        (external, "is in another file, which is not opened"),
        (bomb, "needs 16000000 bytes"),
        (reference, "is of dtype object, expected float16"),
        (linked_out, "is a link to somewhere else, which is not followed"),
        (linked, "is a link to somewhere else, which is not followed"),
        (integers, "is of dtype int64, expected float16"),
        (texts, "is of dtype object, expected float16"),
        (compound, "expected float16, float32 or float64"),
        (empty, "has no content"),
        (group_instead, "the kernel has shape"),
    ],
)
def test_an_array_that_is_not_plain_numbers_in_this_file_is_refused(make, message, tmp_path):
    path = h5_with(tmp_path, make)
    with pytest.raises(ValueError, match=message) as error:
        cylstm.from_keras(path, layer="lstm")
    assert str(path) in str(error.value)


def test_the_defaults_of_keras_stand_for_what_is_not_said(tmp_path):
    def without(config):
        del entry_of(config, "LeakyReLU")["config"]["negative_slope"]

    path = changed("keras_3", "activations.h5", tmp_path, without)
    assert cylstm.from_keras(path)["leaky_re_lu"].activation == ("leaky_relu", 0.3)
    path = tmp_path / "norm.weights.h5"
    with h5py.File(path, "w") as file:
        for n in range(2):
            file[f"layers/layer_normalization/vars/{n}"] = np.ones(3, np.float32)
    assert cylstm.from_keras(path).eps == 1e-3
    assert cylstm.from_keras(path, epsilon=0.5).eps == 0.5


def test_layers_of_a_model_of_ones_own_class_are_told_by_their_shapes(tmp_path):
    # Keras 3 calls their groups as the attributes of the model
    path = tmp_path / "mine.weights.h5"
    parts = {"first/cell": [(3, 12), (4, 12), (2, 12)], "second": [(4, 2), (2,)]}
    parts["several/lstm_1/cell"] = [(3, 8), (2, 8), (8,)]
    parts |= {f"twice/{direction}_layer/cell": [(2, 8), (2, 8)] for direction in ("forward", "backward")}
    with h5py.File(path, "w") as file:
        for name, shapes in parts.items():
            for n, shape in enumerate(shapes):
                file[f"{name}/vars/{n}"] = np.ones(shape, np.float32)
    assert [(entry.name, entry.kind) for entry in describe(path)] == [
        ("first", "GRU"), ("second", "Dense"), ("several/lstm_1", "LSTM"), ("twice", "Bidirectional")
    ]  # fmt: skip
    assert repr(cylstm.from_keras(path, "first")) == "GRU(3, 4, batch_first=True, padding='repeat')"
    assert repr(cylstm.from_keras(path, "twice", merge_mode="ave")) == (
        "LSTM(2, 2, bias=False, batch_first=True, bidirectional=True, merge='average')"
    )


def test_compressed_weights_load(tmp_path):
    path = h5_with(tmp_path, lambda group, name: group.create_dataset(
        name, data=np.full((3, 16), 2, np.float16), compression="gzip", shuffle=True, fletcher32=True))  # fmt: skip
    assert (cylstm.from_keras(path).parameters["weight_ih_l0"] == 2).all()


def test_weights_of_bfloat16_load(tmp_path):
    def make(group, name):
        # as Keras writes them: two bytes of no known type, and an attribute
        numbers = (np.full((3, 16), 1.5, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        group.create_dataset(name, data=numbers.view("V2")).attrs["dtype"] = "bfloat16"

    lstm = cylstm.from_keras(h5_with(tmp_path, make))
    assert lstm.dtype == np.float32 and (lstm.parameters["weight_ih_l0"] == 1.5).all()


def test_groups_in_a_circle_are_refused(tmp_path):
    def make(group, name):
        group[name] = group.file

    with pytest.raises(ValueError, match=r"model\.weights\.h5"):
        cylstm.from_keras(h5_with(tmp_path, make, "layers/lstm_1"), layer="none")


def zipped(directory, **members):
    path = directory / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_json", ".json").replace("_h5", ".weights.h5"), content)
    return path


@pytest.mark.parametrize(
    "members, message",
    [
        ({}, "without config.json: not a .keras file"),
        ({"config_json": "{}"}, "has no model.weights.h5"),
        ({"config_json": "{}", "model_h5": bytes(20_000_000)}, "model.weights.h5 would unpack .* bytes to 20000000"),
        ({"config_json": " " * 20_000_000, "model_h5": b""}, "config.json would unpack .* bytes to 20000000"),
        ({"config_json": "[" * 100_000, "model_h5": b""}, "config.json can not be read"),
        ({"config_json": "{}", "metadata_json": "[1]", "model_h5": b"\x89HDF"}, "damaged"),
        ({"config_json": "{}", "metadata_json": b"\xff", "model_h5": b""}, "metadata.json can not be read"),
    ],
    ids=range(7),
)
def test_a_hostile_archive_is_refused(members, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        cylstm.from_keras(zipped(tmp_path, **members))
    assert "model.keras" in str(error.value)


def test_what_is_no_file_of_keras_is_refused(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"is neither a zip archive \(.keras\) nor an HDF5 file"):
        cylstm.from_keras(path)
    with h5py.File(path, "w") as file:
        file["x"] = 3.0
    with pytest.raises(ValueError, match="is an HDF5 file, but not one of Keras"):
        cylstm.from_keras(path)
    with pytest.raises(FileNotFoundError):
        cylstm.from_keras(tmp_path / "none.h5")
    with pytest.raises(TypeError, match="layer is a int, expected the name of a layer"):
        cylstm.from_keras(path, layer=3)
    with pytest.raises(TypeError, match="from_keras got colour, expected options among class_name"):
        cylstm.from_keras(path, colour=3)


@pytest.mark.parametrize("name", ["classifier.keras", "classifier.h5", "weights_chain.weights.h5"])
@pytest.mark.parametrize("damage", ["cut", "bits", "bytes"])
def test_damage_is_refused_or_in_the_numbers(name, damage, tmp_path):
    rng = np.random.default_rng(0)
    path = file_of("keras_3", name, tmp_path)
    whole = np.fromfile(path, np.uint8)
    refused = 0
    for _ in range(15):
        content = whole[: rng.integers(len(whole))] if damage == "cut" else whole.copy()
        for place in rng.integers(0, len(whole), 3) if damage != "cut" else ():
            content[place] = content[place] ^ (1 << rng.integers(8)) if damage == "bits" else rng.integers(256)
        content.tofile(path)
        try:
            describe(path) if "weights" in name else cylstm.from_keras(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused == 15 if damage == "cut" or name.endswith(".keras") else refused > 0


@pytest.mark.parametrize("size", [0, 8, 2**64 - 1])
def test_a_heap_of_texts_with_steps_of_no_size_is_refused(size, tmp_path):
    # which libhdf5 would walk over for ever
    path = file_of("keras_3", "classifier.h5", tmp_path)
    content = bytearray(path.read_bytes())
    place = content.index(b"GCOL") + 16
    content[place : place + 16] = bytes(8) + size.to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"its heap of texts at \d+ has a step of"):
        cylstm.from_keras(path)


def places_in(value):
    """(container, key) of everything in what JSON made."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in pairs:
        yield value, key
        yield from places_in(part)


STRANGE = [None, -1, 3, 10**400, 1.5, True, "", "relu", "LSTM", [], [[]], [["a", 0, 0]], {}, {"class_name": "LSTM"}]


@pytest.mark.parametrize("name", ["classifier.h5", "functional.h5", "two_layers.h5"])
def test_any_value_may_be_of_another_type(name, tmp_path):
    rng = np.random.default_rng(0)

    def strange(config):
        places = list(places_in(config))
        for place in rng.integers(len(places), size=2):
            container, key = places[place]
            container[key] = STRANGE[rng.integers(len(STRANGE))]

    refused = 0
    for _ in range(25):
        path = changed("keras_2_15", name, tmp_path, strange)
        try:
            cylstm.from_keras(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused


# Live models ------------------------------------------------------------------------------------


def fake(kind, config, weights=(), **attributes):
    """An object that is like a layer of Keras as far as from_keras looks."""
    members = {"get_config": lambda self: config, "get_weights": lambda self: list(weights), "name": config["name"]}
    return type(kind, (), {"__module__": "keras.src.layers", **members, **attributes})()


def test_a_live_layer_and_a_live_model_load_without_keras():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 16), (4, 16), (16,))]
    config = {"name": "lstm", "units": 4, "return_sequences": True, "shape": (None, 3), "other": object()}
    lstm = fake("LSTM", config, arrays)
    loaded = cylstm.from_keras(lstm)
    assert (loaded.parameters["weight_hh_l0"] == arrays[1].T).all()
    entries = [{"class_name": "LSTM", "config": {"name": "lstm", "units": 4, "return_sequences": True}}]
    model = cylstm.from_keras(fake("Sequential", {"name": "m", "layers": entries}, layers=[lstm]))
    x = rng.normal(size=(2, 5, 3)).astype(np.float32)
    assert (model.forward(x)[0] == loaded.forward(x)[0]).all()


def test_a_live_model_without_a_config_is_refused():
    def get_config(self):
        raise NotImplementedError("a model of yours")

    with pytest.raises(ValueError, match="Mine has no config: a model of yours"):
        cylstm.from_keras(fake("Mine", {"name": "m"}, get_config=get_config))


def test_live_models_of_keras_load():
    keras = pytest.importorskip("keras")
    layers = keras.layers
    model = keras.Sequential([
        layers.Bidirectional(layers.GRU(4, return_sequences=True, recurrent_activation="hard_sigmoid")),
        layers.LSTM(3), layers.Dense(2),
    ])  # fmt: skip
    model.build((None, 5, 3))
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    assert_within("y", cylstm.from_keras(model).forward(x)[0], np.asarray(model.predict(x, verbose=0)), 2e-5)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have names")
def test_what_is_no_file_is_refused_before_it_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        cylstm.from_keras(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        cylstm.from_keras(tmp_path)
