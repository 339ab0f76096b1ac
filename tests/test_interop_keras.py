"""Keras' models as ours: small ones of Keras 3.15, 2.15 and 2.2.4 with what they compute, which golden/interop made."""

from pathlib import Path

import pytest
from interop_keras_cases import assert_like_keras, load, written

pytest.importorskip("h5py")

GOLDEN = Path(__file__).parent / "golden" / "interop"
VERSIONS = ("keras_3", "keras_2_15", "keras_2_2")
CASES = {version: load(GOLDEN / f"{version}.npz.xz") for version in VERSIONS}

every_case = pytest.mark.parametrize(
    "version, name", [(version, name) for version, cases in CASES.items() for name in cases]
)


def file_of(version, name, directory):
    return written(name, CASES[version][name], directory)


@every_case
def test_a_model_computes_what_it_computes_in_keras(version, name, tmp_path):
    assert_like_keras(name, CASES[version][name], tmp_path, old=version == "keras_2_2")
