"""The scripts in examples/: each checks itself, and these checks fail where something is wrong."""

from pathlib import Path

import pytest
from test_demo import python

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
