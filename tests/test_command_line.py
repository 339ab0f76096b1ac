"""cylstm info, convert and verify: what they print, what they refuse, and their exit codes."""

import inspect
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import cylstm
from cylstm.__main__ import main
from cylstm.interop import files
from cylstm.interop.gates import reorder

ROWS = np.random.default_rng(0).standard_normal((3, 6, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Names of files without directories."""
    monkeypatch.chdir(tmp_path)


def model():
    return cylstm.Sequential([("rnn", cylstm.GRU(5, 4, rng=1)), ("out", cylstm.Dense(4, 2, rng=2))])


def run(capsys, *arguments):
    """(exit code, printed, complained)"""
    try:
        code = main(list(arguments))
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def write(name, content):
    with open(name, "wb") as file:
        file.write(content)


def foreign_safetensors(name, arrays):
    from safetensors.numpy import save_file

    save_file(arrays, name)


# Kinds


def test_the_contents_of_a_file_say_what_it_is_and_its_suffix_does_not():
    model().save("a.onnx")
    foreign_safetensors("b.pt", {"weight_ih_l0": np.zeros((4, 1), np.float32)})
    np.savez("c.npz", x=np.zeros(1))
    os.rename("c.npz", "c.h5")
    write("d", b"\x89HDF\r\n\x1a\n" + bytes(99))
    write("e", pickle.dumps({}, protocol=2))
    for name, inner in (("f", "archive/data.pkl"), ("g", "config.json")):
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr(inner, b"")
    write("h", b"\x08\x08\x12\x07pytorch:")
    kinds = {name: files.kind_of(name) for name in ("a.onnx", "b.pt", "c.h5", *"defgh")}
    assert kinds == {"a.onnx": "cylstm", "b.pt": "safetensors", "c.h5": "npz", "d": "hdf5", "e": "torch", "f": "torch",
                     "g": "keras", "h": "onnx"}  # fmt: skip


def test_the_length_of_a_header_is_not_taken_for_the_beginning_of_a_pickle():
    """Safetensors begin with that length, padded to a multiple of 8: one in 32 begins with the byte of a pickle."""
    beginnings = set()
    for letters in range(8, 400, 8):
        model = cylstm.Sequential([("n" * letters, cylstm.Dense(1, 1, rng=0))])
        model.save("model")
        with open("model", "rb") as file:
            beginnings.add(file.read(1))
        assert files.kind_of("model") == "cylstm" and files.describe("model")[0].kind == "Dense"
        assert cylstm.load_torch("model").parameters.keys() == {"weight", "bias"}
    assert b"\x80" in beginnings


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"\x93NUMPY\x01\x00" + bytes(99), "one array without a name"),
     (b"hello, world, hello", "no kind"), (b"\x1c\0\0\0TFL3" + bytes(99), "TensorFlow Lite"),
     (b"PK\x03\x04" + bytes(99), "a damaged zip archive"),
     (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}" + bytes(9), "no kind")],
)  # fmt: skip
def test_what_is_no_file_of_a_model_is_named(content, words, capsys):
    write("strange", content)
    with pytest.raises(ValueError, match=f"strange .*{words}"):
        files.kind_of("strange")
    for command in (["info", "strange"], ["convert", "strange", "out.onnx"], ["verify", "strange", "strange"]):
        code, out, err = run(capsys, *command)
        assert (code, out) == (1, "") and words in err


def test_a_zip_of_something_else_is_named():
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("notes.txt", b"")
    with pytest.raises(ValueError, match=r"a\.zip is a zip archive with 'notes\.txt', expected one of PyTorch"):
        files.kind_of("a.zip")


def test_every_first_byte_and_every_truncation_is_a_kind_or_an_error_that_names_the_file():
    model().save("whole")
    with open("whole", "rb") as file:
        content = file.read()
    for n in [*range(16), 100, len(content) // 2, len(content) - 1]:
        write("cut", content[:n])
        try:
            files.describe("cut")
        except ValueError as error:
            assert "cut" in str(error)
        else:
            raise AssertionError(f"the first {n} bytes are a model")


# .npz


def zipped(name, **contents):
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
        for inner, content in contents.items():
            archive.writestr(f"{inner}.npy", content)


def npy(shape, data=b"", descr="'<f4'", columns=False):
    header = f"{{'descr': {descr}, 'fortran_order': {columns}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def test_arrays_come_back_in_every_order_and_dtype():
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.asfortranarray(np.arange(6, dtype="f4").reshape(2, 3)),
              "c": np.arange(3, dtype=">i4"), "d": np.float64(2), "e": np.zeros((0, 3))}  # fmt: skip
    np.savez_compressed("all.npz", **arrays)
    found = files.read_npz("all.npz")
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        assert np.array_equal(found[name], value) and found[name].dtype.isnative
    np.save("one.npy", arrays["b"])
    assert np.array_equal(files.read_npy("one.npy"), arrays["b"])


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"x": npy((10**12,))}, "x claims the shape (1000000000000,) of float32, but has 0 bytes"),
        ({"x": npy((-1, -2), bytes(8))}, "claims the shape (-1, -2)"),
        ({"x": npy((2,), bytes(8), "'|O'")}, "x is of dtype object, expected numbers"),
        ({"x": npy((2,), bytes(8), "[('a', '<f4')]")}, "expected numbers"),
        ({"x": npy((2,), bytes(8), "exit(1)")}, "x"),
        ({"x": b"\x93NUMPY\x03\x00" + bytes(99)}, "version (3, 0)"),
        ({"x": b""}, "x"),
        ({"x": npy((1 << 27,), bytes(1 << 27), "'|u1'")}, "more than the file can hold"),
    ],
)  # fmt: skip
def test_hostile_arrays_are_refused_before_memory_is_taken(contents, words, capsys):
    zipped("hostile.npz", **contents)
    with pytest.raises(ValueError, match=r"hostile\.npz") as caught:
        files.read_npz("hostile.npz")
    assert words in str(caught.value)
    for command in (["info", "hostile.npz"], ["convert", "hostile.npz", "a.onnx"]):
        assert run(capsys, *command)[0] == 1


def test_a_name_that_comes_twice_is_refused():
    with zipfile.ZipFile("twice.npz", "w") as archive:
        archive.writestr("x.npy", npy((0,)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", npy((0,)))
    with pytest.raises(ValueError, match=r"an entry 'x\.npy', expected \.npy files, each once"):
        files.read_npz("twice.npz")


def test_damaged_arrays_are_a_value_error_or_what_they_were():
    np.savez("whole.npz", **cylstm.RNN(2, 2, rng=0).state_dict())
    with open("whole.npz", "rb") as file:
        content = bytearray(file.read())
    rng = np.random.default_rng(0)
    whole = files.read_npz("whole.npz")
    for _ in range(300):
        damaged = content.copy()
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        write("damaged.npz", damaged[: rng.choice([len(damaged), rng.integers(len(damaged))])])
        try:
            found = files.read_npz("damaged.npz")
        except ValueError as error:
            assert "damaged.npz" in str(error)
        else:  # a name, a date or another thing that is not the numbers
            assert all(np.array_equal(a, b) for a, b in zip(found.values(), whole.values(), strict=True))


@pytest.mark.parametrize("place", range(1, 23))
def test_the_end_of_an_archive_is_damaged(place, capsys):
    """Where sizes and offsets of its directory stand: zipfile may be sent to a negative place."""
    np.savez("whole.npz", x=np.zeros(3))
    with open("whole.npz", "rb") as file:
        content = bytearray(file.read())
    content[-place] ^= 0x80
    write("damaged.npz", content)
    code, _, err = run(capsys, "info", "damaged.npz")
    assert code == 0 or (code == 1 and "damaged.npz" in err)


# Options


def test_every_option_is_one_of_the_loaders_and_has_a_flag():
    from cylstm.__main__ import _SAID
    from cylstm.interop import keras

    flags = {option for _, option, _, _ in _SAID}
    for kind, loader in {"torch": cylstm.load_torch, "onnx": cylstm.from_onnx, "keras": cylstm.from_keras}.items():
        known = {*inspect.signature(loader).parameters, *(keras._SAYABLE if kind == "keras" else ())}
        assert set(files.OPTIONS[kind]) <= known & flags
    assert set().union(*files.OPTIONS.values()) == flags


def test_a_model_of_cylstm_has_no_options():
    model().save("model.safetensors")
    with pytest.raises(ValueError, match="which says all itself: expected no prefix"):
        files.load("model.safetensors", prefix="x")


# info


def test_info_lists_the_layers_of_a_model(capsys):
    model().save("model.safetensors")
    cylstm.EncoderDecoder([cylstm.GRU(3, 4)], [cylstm.GRU(2, 4), cylstm.Dense(4, 2)]).save("both.safetensors")
    code, out, _ = run(capsys, "info", "model.safetensors", "both.safetensors")
    assert code == 0
    assert out.splitlines() == [
        "model.safetensors: a model of cylstm",
        "  rnn  GRU    5, 4, float32",
        "  out  Dense  4, 2, float32",
        "",
        "both.safetensors: a model of cylstm",
        "  encoder.0  GRU    3, 4, float32",
        "  decoder.0  GRU    2, 4, float32",
        "  decoder.1  Dense  4, 2, float32",
    ]


def test_info_goes_on_behind_a_file_that_can_not_be_read(capsys):
    model().save("model.safetensors")
    write("strange", b"hello")
    code, out, err = run(capsys, "info", "strange", "model.safetensors", "missing")
    assert code == 1 and "model.safetensors: a model of cylstm" in out
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "error"]
    assert "strange is of no kind that is known" in err and "missing" in err


def test_info_lists_the_layers_that_arrays_and_tensors_make(capsys):
    arrays = {f"net.{name}": value for name, value in cylstm.LSTM(5, 4, num_layers=2, rng=0).state_dict().items()}
    np.savez("lstm.npz", **arrays)
    foreign_safetensors("lstm.safetensors", arrays)
    for name, kind in (("lstm.npz", "arrays of NumPy"), ("lstm.safetensors", "tensors in the safetensors format")):
        code, out, _ = run(capsys, "info", name)
        first, line = out.splitlines()
        assert code == 0 and first == f"{name}: {kind}"
        assert line.split()[:2] == ["net", "LSTM"]
        assert "input_size=5, hidden_size=4, num_layers=2" in line


# convert


def test_convert_takes_one_layer_out_of_a_state_dict(capsys):
    lstm = cylstm.LSTM(5, 4, batch_first=True, rng=0)
    foreign_safetensors("net.st", {f"net.lstm.{name}": value for name, value in lstm.state_dict().items()})
    code, out, _ = run(capsys, "convert", "net.st", "lstm.safetensors", "--prefix", "net.lstm", "--batch-first")
    assert (code, out) == (0, "lstm.safetensors: LSTM(5, 4, batch_first=True)\n")
    assert np.array_equal(cylstm.load("lstm.safetensors").forward(ROWS)[0], lstm.forward(ROWS)[0])
    code, _, err = run(capsys, "convert", "net.st", "lstm.safetensors", "--prefix", "net.lstm")
    assert code == 1 and err.endswith("expected batch_first= (here: --batch-first)\n")


def test_convert_to_npz_and_back_keeps_every_number(capsys):
    gru = cylstm.GRU(5, 4, dtype="float64", rng=0)
    gru.save("gru.safetensors")
    assert run(capsys, "convert", "gru.safetensors", "gru.npz")[0] == 0
    assert run(capsys, "convert", "gru.npz", "again.safetensors", "--no-batch-first")[0] == 0
    again = cylstm.load("again.safetensors")
    assert repr(again) == "GRU(5, 4, dtype='float64')"
    assert all(np.array_equal(again.parameters[name], value) for name, value in gru.parameters.items())


def test_a_random_x_that_does_not_fit_may_be_given_another_shape(capsys):
    pytest.importorskip("onnxruntime")
    model().save("model.safetensors")
    assert run(capsys, "convert", "model.safetensors", "model.onnx")[0] == 0
    code, _, err = run(capsys, "verify", "model.safetensors", "model.onnx", "--lengths", "1,2")
    assert code == 1 and "(x is random, of shape (3, 12, 5): --shape gives it another one)" in err
    code, _, err = run(capsys, "verify", "model.safetensors", "model.onnx", "--shape", "0,2,5")
    assert code == 2 and "--shape is 0,2,5, expected sizes of at least 1" in err


def test_convert_to_onnx_is_verified_by_verify(capsys):
    pytest.importorskip("onnxruntime")
    model().save("model.safetensors")
    assert run(capsys, "convert", "model.safetensors", "model.onnx")[0] == 0
    code, out, _ = run(capsys, "verify", "model.safetensors", "model.onnx")
    assert code == 0 and "agrees, tolerance 2e-05" in out
    cylstm.GRU(5, 4, rng=0).save("gru.safetensors")  # time-major
    assert run(capsys, "convert", "gru.safetensors", "gru.onnx")[0] == 0
    code, out, _ = run(capsys, "verify", "gru.safetensors", "gru.onnx")
    assert code == 0 and "(3, 12, 4)" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["model.safetensors", "model.safetensors"], 2, "SRC and DST are one file"),
        (["model.safetensors", "./model.safetensors"], 2, "SRC and DST are one file"),
        (["model.safetensors", "out.txt"], 1, "expected .safetensors, .onnx or .npz"),
        (["model.safetensors", "out.pt"], 1, "writes no pickles; the arrays of an .npz are a state dict"),
        (["model.safetensors", "out.npz", "--node", "x"], 2, "--node came with model.safetensors, a model of cylstm"),
        (["model.safetensors", "missing/out.safetensors"], 1, "missing"),
        (["missing.pt", "out.safetensors"], 1, "missing.pt"),
        (["model.safetensors", "directory.npz"], 1, "directory"),
        (["model.safetensors", "directory.safetensors"], 1, "directory"),
        (["model.safetensors"], 2, "the following arguments are required: DST"),
        (["model.safetensors", "out.npz", "--dtype", "int8"], 2, "invalid choice: 'int8'"),
    ],
)  # fmt: skip
def test_convert_refuses(arguments, code, words, capsys):
    model().save("model.safetensors")
    for suffix in (".npz", ".safetensors"):
        os.mkdir(f"directory{suffix}")
    before = set(os.listdir())
    found, out, err = run(capsys, "convert", *arguments)
    assert (found, out) == (code, "") and words in err
    assert set(os.listdir()) == before


# verify


def expected(**more):
    y, _ = model().forward(ROWS)
    np.savez("expected.npz", x=ROWS, y=y, **more)


def test_verify_by_arrays(capsys):
    model().save("model.safetensors")
    expected()
    code, out, _ = run(capsys, "verify", "model.safetensors", "expected.npz")
    assert code == 0 and "agrees" in out
    swapped = cylstm.Sequential([("rnn", with_gates("zrn")), ("out", cylstm.Dense(4, 2, rng=2))])
    swapped.save("swapped.safetensors")
    code, out, _ = run(capsys, "verify", "swapped.safetensors", "expected.npz")
    assert code == 1
    assert "DIFFERS" in out and "suspect: gate order of layer rnn" in out and "read as z, r, n" in out


def with_gates(order):
    arrays = {name: reorder(value, "rzn", order) for name, value in cylstm.GRU(5, 4, rng=1).parameters.items()}
    return cylstm.GRU._of(5, 4, arrays=arrays)


def test_verify_takes_x_and_lengths_and_a_tolerance(capsys):
    model().save("model.safetensors")
    y, _ = model().forward(ROWS, lengths=[6, 2, 3])
    np.savez("y.npz", y=y + 0.001)
    np.save("x.npy", ROWS.astype(np.float64))
    np.savez("x.npz", x=ROWS)
    given = ["verify", "model.safetensors", "y.npz", "--lengths", "6,2,3", "--tolerance"]
    for x in ("x.npy", "x.npz"):
        assert run(capsys, *given, "0.01", "--x", x)[0] == 0
        assert run(capsys, *given, "0.0001", "--x", x)[0] == 1


def test_verify_takes_lengths_from_the_arrays_and_the_order_of_axes_from_its_flag(capsys):
    model().save("model.safetensors")
    y, _ = model().forward(ROWS, lengths=[6, 2, 3])
    np.savez("y.npz", x=ROWS, y=y.swapaxes(0, 1), lengths=[6, 2, 3])
    given = ["verify", "model.safetensors", "y.npz"]
    code, out, _ = run(capsys, *given)
    assert code == 0 and "the reference's arrays were read as time-major" in out
    assert run(capsys, *given, "--time-major")[0] == 0
    assert run(capsys, *given, "--no-time-major")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["model.safetensors", "expected.npz", "--shape", "1,2,5"], 2, "--shape is of a random x"),
        (["model.safetensors", "model.safetensors"], 2, "expected a model of ONNX or an .npz"),
        (["model.safetensors", "y.npz"], 2, "has no array x: expected --x FILE"),
        (["model.safetensors", "y.npz", "--x", "y.npz"], 1, "expected one called x"),
        (["model.safetensors", "y.npz", "--x", "model.safetensors"], 1, "holds more than arrays of numbers"),
        (["model.safetensors", "strange.npz"], 1, "reference has 'Y'"),
        (["model.safetensors", "expected.npz", "--lengths", "1,x"], 2, "invalid list of integers"),
        (["model.safetensors", "expected.npz", "--lengths", "7,1,1"], 1, "lengths"),
        (["model.safetensors", "expected.npz", "--tolerance", "-1"], 1, "tolerance"),
    ],
)  # fmt: skip
def test_verify_refuses(arguments, code, words, capsys):
    model().save("model.safetensors")
    expected()
    np.savez("y.npz", y=ROWS)
    np.savez("strange.npz", Y=ROWS, x=ROWS)
    found, out, err = run(capsys, "verify", *arguments)
    assert (found, out) == (code, "") and words in err


# The line itself


@pytest.mark.parametrize("command", ["demo", "info", "convert", "verify"])
def test_the_help_of_each_command_has_examples(command, capsys):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0 and f"cylstm {command} " in out.split("example")[-1]


def test_an_interrupt_ends_with_130(monkeypatch, capsys):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "kind_of", interrupted)
    code, _, err = run(capsys, "info", "x")
    assert code == 130 and "interrupted" in err


@pytest.mark.parametrize("error", [MemoryError("too large"), ImportError("pip install cylstm"), TypeError("what")])
def test_an_expected_error_is_a_message(error, monkeypatch, capsys):
    def failing(path):
        raise error

    monkeypatch.setattr(files, "kind_of", failing)
    for command in (["info", "x"], ["convert", "x", "y"]):
        code, _, err = run(capsys, *command)
        assert code == 1 and err.endswith(f"error: {error}\n")


def test_processes_of_their_own_end_with_these_codes():
    model().save("model.safetensors")
    expected()
    root = os.path.dirname(os.path.dirname(cylstm.__file__))
    environment = {**os.environ, "PYTHONPATH": root}
    for arguments, code, words in (
        (["verify", "model.safetensors", "expected.npz"], 0, "agrees"), (["info", "missing"], 1, "missing")
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "cylstm", *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == code and words in done.stdout + done.stderr and "Traceback" not in done.stderr
