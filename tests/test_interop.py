"""What the loaders share: layers of given arrays, and orders of gates."""

import numpy as np
import pytest

import cylstm
from cylstm import layers
from cylstm.interop import Entry
from cylstm.interop.gates import reorder


def test_layer_of_arrays(monkeypatch):
    lstm = cylstm.LSTM(3, 4, 2, bidirectional=True, peepholes=True, dtype="float64", rng=0)
    monkeypatch.setattr(layers.validation, "generator", None)  # which nobody may ask for random numbers
    same = cylstm.LSTM._of(
        3, 4, 2, arrays=lstm.state_dict(), bidirectional=True, peepholes=True, dtype="float64"
    )
    assert repr(same) == repr(lstm)
    for name, value in lstm.parameters.items():
        np.testing.assert_array_equal(same.parameters[name], value)
    x = np.random.default_rng(1).standard_normal((5, 2, 3))
    np.testing.assert_array_equal(same.forward(x)[0], lstm.forward(x)[0])


def test_layer_of_arrays_casts_and_copies():
    weight = np.full((1, 2), 3, np.float16)
    dense = cylstm.Dense._of(2, 1, False, arrays={"weight": weight})
    weight[:] = 0
    assert dense.parameters["weight"].dtype == np.float32
    assert dense.parameters["weight"].tolist() == [[3.0, 3.0]]


def test_layer_of_arrays_is_checked():
    arrays = cylstm.GRU(3, 4).state_dict()
    with pytest.raises(ValueError, match="hidden_size"):
        cylstm.GRU._of(3, 0, arrays=arrays)
    with pytest.raises(ValueError, match="weight_ih_l0 has shape"):
        cylstm.GRU._of(2, 4, arrays=arrays)
    with pytest.raises(ValueError, match="missing: bias_hh_l0"):
        cylstm.GRU._of(3, 4, arrays={name: arrays[name] for name in arrays if name != "bias_hh_l0"})
    with pytest.raises(TypeError, match="peepholes"):
        cylstm.GRU._of(3, 4, arrays=arrays, peepholes=True)


def test_layer_of_no_arrays():
    assert repr(cylstm.Last._of(arrays={})) == "Last()"
    with pytest.raises(ValueError, match="weight"):
        cylstm.LayerNorm._of(3, arrays={})


@pytest.mark.parametrize(("given", "wanted", "expected"), [
    ("ifgo", "ifgo", [0, 1, 2, 3]), ("iofc", "ifgo", [0, 2, 3, 1]), ("ifco", "iofc", [0, 3, 1, 2]),
    ("fgio", "oigf", [3, 2, 1, 0]),
])  # fmt: skip
def test_reorder_of_four_gates(given, wanted, expected):
    array = np.arange(24.0).reshape(8, 3)
    blocks = array.reshape(4, 2, 3)
    found = reorder(array, given, wanted)
    np.testing.assert_array_equal(found, blocks[expected].reshape(8, 3))
    np.testing.assert_array_equal(reorder(array.T, given, wanted, axis=1), found.T)
    np.testing.assert_array_equal(reorder(array.T, given, wanted, axis=-1), found.T)
    np.testing.assert_array_equal(reorder(found, wanted, given), array)
    assert not np.shares_memory(found, array)


def test_reorder_of_three_gates_and_of_blocks_that_are_arrays():
    array = np.arange(3 * 2 * 5).reshape(1, 3, 2, 5)
    np.testing.assert_array_equal(reorder(array, "zrh", "rzn", axis=1), array[:, [1, 0, 2]])
    np.testing.assert_array_equal(reorder(np.zeros((0, 5)), "zrh", "rzn"), np.zeros((0, 5)))
    np.testing.assert_array_equal(reorder(np.arange(2), "i", "i"), [0, 1])


@pytest.mark.parametrize(("given", "wanted", "axis", "words"), [
    ("ifgo", "ifg", 0, "'ifgo' can not be put in the order 'ifg'"), ("iffo", "offi", 0, "each once"),
    ("rzn", "rzg", 0, "expected its letters"), ("rzn", "zrn", 0, r"shape \(8, 2\) has no 3 gates 'rzn' along axis 0"),
    ("ifgo", "iofg", 1, "axis 1"), ("ifgo", "iofg", 2, "axis 2"), ("ifgo", "iofg", -3, "axis -3"), ("", "", 0, "gates"),
])  # fmt: skip
def test_reorder_says_what_is_wrong(given, wanted, axis, words):
    with pytest.raises(ValueError, match=words):
        reorder(np.zeros((8, 2)), given, wanted, axis)


def test_entry():
    assert Entry("a", "LSTM", "input_size=1").documented == ""
