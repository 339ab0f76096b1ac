"""examples/models/g2p.py: the words of g2p-en, spelt by cylstm. Most needs the package, of the extra ``models``."""

import importlib.util
import runpy
from pathlib import Path

import pytest

from cylstm.interop.gates import reorder

EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "models" / "g2p.py"))
needs_the_package = pytest.mark.skipif(
    importlib.util.find_spec("g2p_en") is None, reason="pip install --no-deps g2p-en"
)


@pytest.fixture(scope="module")
def theirs():
    return EXAMPLE["reference"]()


@pytest.fixture(scope="module")
def words(theirs):
    package = Path(importlib.util.find_spec("g2p_en").origin).parent
    return EXAMPLE["words_of"](package, 1000)


@pytest.fixture(scope="module")
def wanted(theirs, words):
    return [theirs.predict(word) for word in words]


@needs_the_package
def test_a_thousand_words_are_spelt_as_the_package_spells_them(theirs, words, wanted):
    ours = EXAMPLE["Speller"](theirs)
    assert len(set(words)) == 1000
    assert [ours.predict(word) for word in words] == wanted
    assert ours.predict_all(words) == wanted
    assert ours.predict("cylstm") == theirs.predict("cylstm")


@needs_the_package
def test_another_order_of_gates_spells_otherwise(theirs, words, wanted):
    ours = EXAMPLE["Speller"](theirs)
    with ours.model.writable() as parameters:
        for name, value in parameters.items():
            if ".1." in name:
                parameters[name] = reorder(value, "rzn", "zrn")
    assert sum(a == b for a, b in zip(ours.predict_all(words), wanted, strict=True)) < 100


@needs_the_package
def test_the_example_prints_what_it_checked(capsys):
    assert EXAMPLE["main"](["--words", "60"]) == 0
    printed = capsys.readouterr().out
    assert "the same phonemes: 60 of 60 words one by one, 60 in one batch" in printed
    assert printed.count("times as fast") == 3


def test_without_the_package_the_example_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert EXAMPLE["main"]([]) == 2
    assert "g2p-en is not installed: pip install --no-deps g2p-en" in capsys.readouterr().err
