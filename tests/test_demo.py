"""The demo, the command line, the data and the examples: what a newcomer runs first."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import cylstm
from cylstm import demo
from cylstm.data import load_digits, load_elnino

ROOT = Path(cylstm.__file__).parents[1]
MNIST = Path(__file__).parents[1] / "examples" / "mnist_rows.py"
LEARNED_STATE = MNIST.with_name("learned_initial_state.py")
TEXTBOOK = MNIST.with_name("textbook_step.py")


def python(cwd, *arguments):
    """Run this interpreter with the cylstm under test; a CompletedProcess with text."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def accuracy_in(output):
    return float(re.search(r"it has not seen: +([\d.]+) %", output)[1])


# The digits ---------------------------------------------------------------------------------------


def test_the_digits_are_the_1797_images_of_the_uci_set():
    images, labels = load_digits()
    assert images.shape == (1797, 8, 8) and images.dtype == np.float32
    # as the set's own description counts them
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_pixels_go_from_zero_to_one_in_sixteenths():
    images, _ = load_digits()
    assert np.unique(16 * images).tolist() == list(range(17))


def test_the_first_image_is_the_zero_that_the_set_begins_with():
    images, labels = load_digits()
    assert labels[0] == 0
    assert (16 * images[0, 0]).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


def test_every_fifth_image_is_for_testing():
    images, labels = load_digits()
    test_images, test_labels = load_digits("test")
    np.testing.assert_array_equal(test_images, images[4::5])
    np.testing.assert_array_equal(test_labels, labels[4::5])


def test_the_training_images_are_all_the_others():
    images, labels = load_digits()
    training_images, training_labels = load_digits("train")
    np.testing.assert_array_equal(training_images, np.delete(images, np.s_[4::5], axis=0))
    np.testing.assert_array_equal(training_labels, np.delete(labels, np.s_[4::5]))


def test_an_unknown_part_of_the_digits_is_refused():
    with pytest.raises(ValueError, match="part is 'valid', expected"):
        load_digits("valid")


# The temperatures of the sea ----------------------------------------------------------------------


def test_the_sea_has_a_temperature_for_each_month_of_61_years():
    temperature, months = load_elnino()
    assert temperature.shape == (732,) and temperature.dtype == np.float32
    assert months.dtype == np.dtype("datetime64[M]")
    assert [str(months[k]) for k in (0, 11, 12, 731)] == ["1950-01", "1950-12", "1951-01", "2010-12"]
    assert temperature[[0, 11, 12, 731]].tolist() == np.float32([23.11, 21.80, 24.19, 22.07]).tolist()


def test_the_sea_was_warmest_for_its_season_in_the_el_nino_of_1983():
    temperature, months = load_elnino()
    departure = temperature.reshape(61, 12) - temperature.reshape(61, 12).mean(axis=0)
    assert str(months[departure.argmax()]) == "1983-06"
    assert departure.max() == pytest.approx(4.596, abs=5e-4)


def test_the_text_of_the_examples_is_what_its_readme_says():
    text = (MNIST.parent / "data" / "alice.txt").read_bytes()
    assert (len(text), len(set(text)), text.isascii()) == (148476, 72, True)


# The demo -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    """One run of the demo, with few epochs: (CompletedProcess, directory it ran in)."""
    directory = tmp_path_factory.mktemp("demo")
    return python(
        directory, "-m", "cylstm", "demo", "--epochs", "6", "--out", "trained.safetensors"
    ), directory


def test_the_demo_ends_well(demo_run):
    result, _ = demo_run
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_six_epochs_of_the_demo_classify_nine_of_ten_unseen_images(demo_run):
    """Chance is 10 %. Ten seeds reached 93.6 to 96.1 % after six epochs."""
    result, _ = demo_run
    assert accuracy_in(result.stdout) >= 90


def test_the_demo_prints_a_line_per_epoch_where_there_is_no_terminal(demo_run):
    result, _ = demo_run
    lines = re.findall(
        r"^epoch (\d)/6  loss \d+\.\d{4}  accuracy +[\d.]+ %  +[\d.]+ s$", result.stdout, re.M
    )
    assert lines == ["1", "2", "3", "4", "5", "6"]
    assert "\r" not in result.stdout


def test_the_demo_reports_the_time_of_a_streamed_step_and_the_speed_against_the_reference(demo_run):
    result, _ = demo_run
    found = re.search(
        r"([\d.]+) microseconds per step, ([\d.]+) times the speed of the NumPy reference",
        result.stdout,
    )
    assert float(found[1]) > 0 and float(found[2]) > 0


def test_the_demo_streams_what_the_reference_computes(demo_run):
    """|h| < 1, eight steps, sums of 104 products: some tens of float32 roundings of 6e-8."""
    result, _ = demo_run
    assert (
        float(re.search(r"largest difference from the reference: (\S+);", result.stdout)[1]) < 1e-5
    )


def test_the_demo_streams_the_same_bits_as_it_computes_in_one_batch(demo_run):
    result, _ = demo_run
    assert "from the same images in one batch: none, bit for bit" in result.stdout


def test_the_demo_saves_its_parameters_under_the_names_of_pytorch(demo_run):
    result, directory = demo_run
    assert "model saved to trained.safetensors" in result.stdout
    saved = cylstm.load(directory / "trained.safetensors").state_dict()
    shapes = {name: value.shape for name, value in saved.items()}
    H = demo.HIDDEN_SIZE
    assert shapes == {
        "lstm.weight_ih_l0": (4 * H, 8),
        "lstm.weight_hh_l0": (4 * H, H),
        "lstm.bias_ih_l0": (4 * H,),
        "lstm.bias_hh_l0": (4 * H,),
        "dense.weight": (10, H),
        "dense.bias": (10,),
    }


def test_the_saved_model_classifies_as_the_demo_said(demo_run):
    result, directory = demo_run
    images, labels = load_digits("test")
    logits, _ = cylstm.load(directory / "trained.safetensors").forward(images)
    correct = logits.argmax(axis=-1) == labels
    assert round(100 * correct.mean(), 1) == accuracy_in(result.stdout)


def test_the_same_seed_trains_the_same_parameters():
    images, labels = load_digits("test")
    first, second = (demo.train(images, labels, epochs=1, seed=3) for _ in range(2))
    for name, value in first.parameters.items():
        np.testing.assert_array_equal(value, second.parameters[name])


def at(epoch, epochs):
    """A training, as a callback sees it."""
    return SimpleNamespace(epoch=epoch, epochs=epochs, logs={"loss": 0.5, "accuracy": 0.25})


def test_on_a_terminal_one_line_is_written_over(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(demo, "REFRESH_SECONDS", 0.0)
    progress = demo._Progress(sys.stdout)
    for epoch in range(2):
        progress.on_batch_end(at(epoch, 2))
        progress.on_epoch_end(at(epoch + 1, 2))
    written = capsys.readouterr().out
    assert written.count("\r") == 4
    assert written.count("\n") == 1 and written.endswith("\n")
    assert "epoch 2/2  loss 0.5000  accuracy  25.0 %" in written


def test_a_terminal_is_not_written_to_more_often_than_it_can_be_read(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(demo, "REFRESH_SECONDS", 3600.0)
    progress = demo._Progress(sys.stdout)
    for _ in range(100):
        progress.on_batch_end(at(0, 1))
    progress.on_epoch_end(at(1, 1))
    assert capsys.readouterr().out.count("\r") == 2  # the first and the last


# The command line ---------------------------------------------------------------------------------


def test_no_command_prints_the_help(tmp_path):
    result = python(tmp_path, "-m", "cylstm")
    assert result.returncode == 0
    assert "demo" in result.stdout and "examples:" in result.stdout


def test_an_unknown_command_prints_the_help_and_fails(tmp_path):
    result = python(tmp_path, "-m", "cylstm", "dmeo")
    assert result.returncode == 2
    assert "examples:" in result.stderr and "dmeo" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]], ids=" ".join)
def test_the_help_has_an_example(tmp_path, arguments):
    result = python(tmp_path, "-m", "cylstm", *arguments)
    assert result.returncode == 0
    assert "python -m cylstm demo --epochs" in result.stdout


@pytest.mark.parametrize(
    "arguments", [["--epochs", "0"], ["--epochs", "x"], ["--seed", "-1"]], ids=" ".join
)
def test_a_wrong_number_is_a_usage_error(tmp_path, arguments):
    result = python(tmp_path, "-m", "cylstm", "demo", *arguments)
    assert result.returncode == 2
    assert arguments[0] in result.stderr.splitlines()[-1]


def test_an_output_that_can_not_be_written_is_reported_before_training(tmp_path):
    result = python(tmp_path, "-m", "cylstm", "demo", "--out", "missing/trained.safetensors")
    assert result.returncode == 1
    assert "missing" in result.stderr and "Traceback" not in result.stderr
    assert "epoch" not in result.stdout


# MNIST --------------------------------------------------------------------------------------------


def write_idx(path, array):
    """``array`` of uint8 as an IDX file, packed if the name says so."""
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    data = head + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def mnist(tmp_path):
    """Tiny IDX files under all four kinds of name: the digits, each pixel made two by two."""
    images, labels = load_digits()
    pixels = np.kron(images, np.ones((2, 2), np.float32))
    pixels, labels = (255 * pixels).astype(np.uint8), labels.astype(np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", pixels[:600])
    write_idx(tmp_path / "train-labels.idx1-ubyte", labels[:600])
    write_idx(tmp_path / "t10k-images.idx3-ubyte.gz", pixels[600:700])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", labels[600:700])
    return tmp_path


def test_the_mnist_example_trains_on_idx_files(mnist):
    """Chance is 10 %; ten seeds reached 72 to 82 % in twelve epochs of five batches."""
    result = python(mnist, MNIST, ".", "--epochs", "12", "--out", "trained.safetensors")
    assert result.returncode == 0, result.stderr
    assert (
        "600 images to train on, 100 to test on, each read as 16 rows of 16 pixels" in result.stdout
    )
    assert accuracy_in(result.stdout) >= 50
    assert (mnist / "trained.safetensors").is_file()


def assert_refused(result, *words):
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_a_missing_mnist_directory_is_named(tmp_path):
    assert_refused(python(tmp_path, MNIST, "nowhere"), "nowhere is not a directory")


def test_missing_mnist_files_are_named_and_the_others_not(mnist):
    (mnist / "t10k-labels-idx1-ubyte").unlink()
    result = python(mnist, MNIST, ".")
    assert_refused(result, "t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte.gz")
    assert "images" not in result.stderr


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("t10k-labels-idx1-ubyte", lambda data: data[:-1], "100 bytes, and 99 follow"),
        ("t10k-labels-idx1-ubyte", lambda data: data + b"0", "100 bytes, and 101 follow"),
        ("t10k-labels-idx1-ubyte", lambda data: b"", "is not an IDX file"),
        ("t10k-labels-idx1-ubyte", lambda data: b"\0\0\x0d\1" + data[4:], "is not an IDX file"),
        ("t10k-labels-idx1-ubyte", lambda data: data[:-1] + b"\x0a", "has the label 10"),
        ("train-images-idx3-ubyte.gz", lambda data: data[:-100], "can not be read"),
        ("train-images-idx3-ubyte.gz", lambda data: b"<html>not found</html>", "can not be read"),
        (
            "train-images-idx3-ubyte.gz",
            lambda data: data[:500] + b"\xff" * 50 + data[550:],
            "can not be read",
        ),
    ],
    ids=["cut", "longer", "empty", "floats", "label", "packed cut", "not packed", "packed damaged"],
)
def test_a_damaged_mnist_file_is_named(mnist, name, damage, message):
    path = mnist / name
    path.write_bytes(damage(path.read_bytes()))
    assert_refused(python(mnist, MNIST, "."), name, message)


def test_as_many_mnist_labels_as_images_are_wanted(mnist):
    write_idx(mnist / "train-labels.idx1-ubyte", np.zeros(599, np.uint8))
    assert_refused(python(mnist, MNIST, "."), "(600, 16, 16)", "(599,)")


def test_the_example_of_a_learned_initial_state_finds_it(tmp_path):
    result = python(tmp_path, LEARNED_STATE)
    assert result.returncode == 0, result.stderr
    assert "the learned state explains the recording" in result.stdout


def test_the_textbook_example_has_the_parameters_and_the_values_of_the_loop(tmp_path):
    result = python(tmp_path, TEXTBOOK)
    assert result.returncode == 0, result.stderr
    assert "4,464 parameters in all: yes" in result.stdout
    assert len(re.findall(r"^step \d:  f\[0\] 0\.\d{4} ", result.stdout, re.M)) == 10
    assert "the library reproduces the loop" in result.stdout


def test_the_textbook_example_fails_where_the_loop_is_another(tmp_path):
    wrong = tmp_path / "wrong.py"
    source = TEXTBOOK.read_text(encoding="utf-8")
    wrong.write_text(source.replace("c = f * c + i * g", "c = i * c + f * g"), encoding="utf-8")
    result = python(tmp_path, wrong)
    assert result.returncode == 1
    assert "not so: they agree within 1e-06" in result.stderr
