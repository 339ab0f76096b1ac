"""The scripts in examples/: each checks itself, and these checks fail where something is wrong."""

import math
import re
from pathlib import Path

import pytest
from test_demo import accuracy_in, python

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ("parameter_counts.py",
         ["4 * ((126 + 64) * 64 + 64) = 48,896: yes", "4 * ((128 + 64) * 64 + 64) = 49,408: yes",
          "4 * ((4096 + 256) * 256 + 256) = 4,457,472: yes", "4 * ((3 + 4) * 4 + 4) = 128: yes",
          "total 138, trainable 138, frozen 0", "the counts are those of the textbooks"]),
        ("keras_stack.py",
         ["total 203,459, trainable 203,459, frozen 0", "the stack computes what the reference computes"]),
        ("zero_position.py",
         ["epoch   1  loss 0.809811  Keras' 0.809811", "the zero is found"]),
        ("forecast.py",
         ["naive: last month                             0.991  1.171",
          "seasonal naive: the month a year ago          0.875  1.151", "the same bits as predict's: yes",
          "the LSTM forecasts better than both naive ways"]),
    ],
)  # fmt: skip
def test_an_example_prints_what_it_checked(tmp_path, script, lines):
    result = python(tmp_path, EXAMPLES / script)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    printed = result.stdout.splitlines()
    assert [line for line in lines if line not in printed] == []
    assert "NO" not in result.stdout


@pytest.mark.parametrize(
    ("script", "right", "wrong", "message"),
    [
        ("parameter_counts.py", "bias=bias", "bias=True", "4 * ((126 + 64) * 64 + 64) = 48,896"),
        ("keras_stack.py", "bias=\"single\", activations=RELU", "bias=\"single\"", "probabilities agree within 1e-05"),
        ("keras_stack.py", "-1 / (len(y) * y)", "-1 / y", "so do the gradients"),
        ("zero_position.py", "eps_hat=True", "eps_hat=False", "each of the 100 losses is Keras' within 0.0001"),
        ("zero_position.py", "0.47, 0.93", "0.02, 0.93", "the loss falls to 0.02 or lower"),
        ("forecast.py", "x[starts], y[starts]", "x[starts], -y[starts]", "less than naive: last month"),
        ("forecast.py", "stream.run(x[: VALIDATION - 1])", "stream.reset()", "the same bits as predict's"),
        ("elman_jordan_gru_lstm.py", "(1 - h_t**2)", "(1 - h_t)", "the product of its Jacobians within 0.0001"),
    ],
)  # fmt: skip
def test_an_example_fails_where_it_is_wrong(tmp_path, script, right, wrong, message):
    source = (EXAMPLES / script).read_text(encoding="utf-8")
    assert right in source
    source = source.replace("Path(__file__).parent ", f"Path({str(EXAMPLES)!r}) ").replace(right, wrong)
    (tmp_path / "wrong.py").write_text(source, encoding="utf-8")
    result = python(tmp_path, tmp_path / "wrong.py")
    assert result.returncode == 1
    assert "not so: " in result.stderr and message in result.stderr


def test_the_example_of_dates_rewrites_those_of_one_format(tmp_path):
    """All formats are in a stage of .ci/run; of one, two seeds reached 99.9 and 100 %."""
    result = python(tmp_path, EXAMPLES / "seq2seq_dates.py", "--formats", "1", "--epochs", "4")
    assert result.returncode == 0, result.stdout + result.stderr
    assert float(re.search(r"greedy: ([\d.]+)% of 2,000 dates", result.stdout)[1]) >= 99


def test_the_example_of_dates_fails_if_it_has_not_learned(tmp_path):
    result = python(tmp_path, EXAMPLES / "seq2seq_dates.py", "--formats", "1", "--epochs", "1", "--dates", "200")
    assert result.returncode == 1
    assert "less than 99% were rewritten exactly" in result.stderr


def test_the_example_of_topologies_learns_each_of_them(tmp_path):
    result = python(tmp_path, EXAMPLES / "topologies.py")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("wanted") == 5 and result.stdout.count("the same bits as 500 rows alone") == 3


def test_the_example_of_lags_finds_where_each_network_stops(tmp_path):
    """Two lags of seven. At 40 the gated cells took 2 to 12 of 20 epochs for three seeds; the median of them counts."""
    result = python(tmp_path, EXAMPLES / "elman_jordan_gru_lstm.py", "--lags", "10", "40", "--plot", "lags.png")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(": yes") == 7 and "NO" not in result.stdout
    assert (tmp_path / "lags.png").read_bytes().startswith(b"\x89PNG")


def test_the_example_of_the_digits_reads_97_percent_of_unseen_images(tmp_path):
    """Seven seeds reached 98.1 to 99.4 %."""
    result = python(tmp_path, EXAMPLES / "digits_rows.py")
    assert result.returncode == 0, result.stdout + result.stderr
    assert accuracy_in(result.stdout) >= 97
    assert "the stream ends with the bits of the probabilities of the whole image" in result.stdout


@pytest.mark.parametrize(
    ("streamed", "message"),
    [("images[0]", "less than 97% of the images were read right"),
     ("images[0, :-1]", "the stream ends with other probabilities")],
)  # fmt: skip
def test_the_example_of_the_digits_fails_after_one_epoch_and_where_the_stream_is_another(tmp_path, streamed, message):
    source = (EXAMPLES / "digits_rows.py").read_text(encoding="utf-8")
    source = source.replace("EPOCHS, BATCH_SIZE = 96, 25, 32", "EPOCHS, BATCH_SIZE = 96, 1, 32")
    (tmp_path / "wrong.py").write_text(source.replace("in images[0]:", f"in {streamed}:"), encoding="utf-8")
    result = python(tmp_path, "wrong.py")
    assert result.returncode == 1
    assert message in result.stderr


def bits_in(output):
    """Bits per character by the model, by the counts of pairs and by a uniform guess."""
    pattern = r"bits per character of .*: ([\d.]+); by counts of pairs ([\d.]+), a uniform guess ([\d.]+)$"
    return [float(number) for number in re.search(pattern, output, re.M).groups()]


def test_the_example_of_characters_learns_the_text_of_the_examples(tmp_path):
    """One pass of twelve, which a stage of .ci/run makes; three seeds came to 2.84 to 2.90 bits."""
    result = python(tmp_path, EXAMPLES / "char_model.py", "--epochs", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    model, pairs, uniform = bits_in(result.stdout)
    assert (pairs, uniform) == (3.557, 6.170)
    assert model < 3.2
    assert "the bits of predict" in result.stdout and "NOT the bits" not in result.stdout


@pytest.fixture
def rhyme(tmp_path):
    """A text of one line again and again: what follows a character, those before it say."""
    path = tmp_path / "rhyme.txt"
    path.write_text("the cat sat on a mat and ran, é\n" * 150, encoding="utf-8")
    return path


def test_the_example_of_characters_learns_a_text_by_heart_and_writes_it(tmp_path, rhyme):
    result = python(tmp_path, EXAMPLES / "char_model.py", rhyme, "--epochs", "10")
    assert result.returncode == 0, result.stdout + result.stderr
    model, pairs, uniform = bits_in(result.stdout)
    assert uniform == pytest.approx(math.log2(len(set(rhyme.read_text(encoding="utf-8")))), abs=5e-4)
    assert model < 0.2 < pairs
    assert result.stdout.count("the cat sat on a mat and ran, é\n") >= 8  # of 13 lines


def test_the_example_of_characters_fails_where_nothing_was_learned(tmp_path, rhyme):
    source = (EXAMPLES / "char_model.py").read_text(encoding="utf-8")
    (tmp_path / "wrong.py").write_text(source.replace("cosine(1e-2, ", "cosine(0.0, "), encoding="utf-8")
    result = python(tmp_path, "wrong.py", rhyme, "--epochs", "1")
    assert result.returncode == 1
    assert "the model knows no more than its rivals" in result.stderr


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [(b"too short", [], "short.txt has 9 characters, expected at least 1000"), (b"\xff" * 2000, [], "can't decode"),
     (None, [], "No such file"), (b"a b" * 500, ["--temperature", "0"], "--temperature above 0")],
)  # fmt: skip
def test_the_example_of_characters_says_what_is_wrong_with_its_arguments(tmp_path, text, options, message):
    if text is not None:
        (tmp_path / "short.txt").write_bytes(text)
    result = python(tmp_path, EXAMPLES / "char_model.py", "short.txt", *options)
    assert result.returncode == 2
    assert message in result.stderr and "Traceback" not in result.stderr
