"""dgaintel's model, a Keras 2 .h5, scores as it does in TensorFlow 2.15. ``pip install --no-deps dgaintel`` for it."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from test_demo import python

import cylstm

pytest.importorskip("h5py")

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "models" / "dgaintel_scores.py"
SCORES = json.loads((ROOT / "tests" / "golden" / "interop" / "dgaintel.json").read_text(encoding="utf-8"))

example = runpy.run_path(str(EXAMPLE))
PATH = example["installed_model"]()

needs_the_package = pytest.mark.skipif(PATH is None, reason="needs dgaintel: pip install --no-deps dgaintel")


@needs_the_package
def test_the_scores_are_those_of_tensorflow():
    scores = example["Detector"](PATH).scores(list(SCORES))
    assert np.abs(scores - list(SCORES.values())).max() <= 1e-5


@needs_the_package
def test_the_whole_model_is_refused_with_a_hint():
    with pytest.raises(ValueError, match=r"'conv1d_4' \(Conv1D\).*layer='lstm_4'"):
        cylstm.from_keras(PATH)


@needs_the_package
def test_the_example_prints_what_it_checked(tmp_path):
    result = python(tmp_path, EXAMPLE, "wikipedia.org", "qzvkxwpfjt.com")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].endswith("chosen   wikipedia.org") and lines[1].endswith("made up  qzvkxwpfjt.com")
    assert [line.rpartition(": ")[2] for line in lines[2:]] == ["yes", "yes"]
