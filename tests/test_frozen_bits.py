"""The bits of inference are those recorded once, on whatever machine: tests/golden/make_bits.py."""

import runpy
from pathlib import Path

import pytest

import cylstm

MAKE = Path(__file__).parent / "golden" / "make_bits.py"
RECORDED = [line.split(": ") for line in MAKE.with_name("bits.txt").read_text().splitlines()]


@pytest.fixture(scope="module")
def found():
    return dict(runpy.run_path(str(MAKE))["cases"]())


@pytest.mark.skipif(
    cylstm.show_config()["level"] == "baseline", reason="the portable level has no fused multiply-add, so other bits"
)
@pytest.mark.parametrize("case, expected", RECORDED, ids=[case for case, _ in RECORDED])
def test_the_bits_are_those_recorded(found, case, expected):
    assert found[case] == expected, "either the bits changed (then MATH_VERSION must) or a promise is broken"


def test_every_case_is_recorded(found):
    assert list(found) == [case for case, _ in RECORDED]
