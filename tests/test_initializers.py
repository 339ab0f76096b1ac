"""Initialisers: what each distribution is known by, and the forget bias."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cylstm
from cylstm import initializers

NAMES = ["glorot_uniform", "orthogonal", "torch_uniform", "zeros"]


def draw(name, shape, dtype="float64", seed=0):
    return initializers.get(name)(
        np.random.default_rng(seed), shape, dtype, hidden_size=shape[0] // 4
    )


def assert_uniform(values, bound):
    """Inside the bound, with the mean and the variance of U(-bound, bound): 0 and bound^2 / 3."""
    assert np.abs(values).max() <= bound
    # five standard errors: of the mean sqrt(1/3n), of the mean square sqrt((1/5 - 1/9)/n), in units
    # of the bound
    n = values.size
    assert abs(values.mean()) < 5 * bound * np.sqrt(1 / 3 / n)
    assert abs((values**2).mean() - bound**2 / 3) < 5 * bound**2 * np.sqrt((1 / 5 - 1 / 9) / n)


def test_torch_uniform_is_uniform_within_one_over_the_root_of_hidden_size():
    assert_uniform(draw("torch_uniform", (400, 50)), 1 / np.sqrt(100))


def test_torch_uniform_takes_hidden_size_and_not_the_shape():
    rng = np.random.default_rng(0)
    assert_uniform(initializers.torch_uniform(rng, (1000,), "float64", hidden_size=16), 0.25)


def test_torch_uniform_without_hidden_size_is_refused():
    with pytest.raises(ValueError, match="hidden_size is None, expected"):
        initializers.torch_uniform(np.random.default_rng(0), (4, 4))


def test_glorot_uniform_is_uniform_within_the_root_of_six_over_rows_plus_columns():
    assert_uniform(draw("glorot_uniform", (400, 50)), np.sqrt(6 / 450))


@pytest.mark.parametrize("shape", [(40, 10), (10, 40), (7, 7), (4, 1)])
def test_orthogonal_has_orthonormal_vectors_along_its_shorter_side(shape):
    weight = draw("orthogonal", shape)
    gram = weight.T @ weight if shape[0] >= shape[1] else weight @ weight.T
    # Householder QR leaves Q orthogonal to a small multiple of the rounding unit, 1.1e-16
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-14)


def test_orthogonal_favours_no_sign():
    """LAPACK's Q alone has a fixed sign in one dimension: Haar measure takes both equally."""
    signs = [draw("orthogonal", (1, 1), seed=seed)[0, 0] for seed in range(200)]
    # 200 fair coins: 100 +- 7.1; five standard deviations
    assert 65 <= sum(sign > 0 for sign in signs) <= 135


def test_zeros_is_zero_and_draws_nothing():
    rng = np.random.default_rng(3)
    assert not initializers.zeros(rng, (4, 3)).any()
    assert rng.random() == np.random.default_rng(3).random()


@pytest.mark.parametrize("name", ["glorot_uniform", "orthogonal"])
def test_a_bias_is_refused_where_a_matrix_is_wanted(name):
    with pytest.raises(ValueError, match=r"shape is \(8,\), expected \(rows, columns\)"):
        draw(name, (8,))


@pytest.mark.parametrize("name", NAMES)
def test_a_float32_draw_is_the_float64_draw_rounded(name):
    double = draw(name, (12, 3), "float64")
    single = draw(name, (12, 3), "float32")
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, double.astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_generator_state_gives_the_same_array(name):
    np.testing.assert_array_equal(draw(name, (12, 3), seed=5), draw(name, (12, 3), seed=5))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(12, 3), (3, 12), (0, 3), (12, 0)])
def test_the_result_is_contiguous_and_of_the_shape_asked_for(name, shape):
    weight = initializers.get(name)(np.random.default_rng(0), shape, hidden_size=3)
    assert weight.shape == shape
    assert weight.flags.c_contiguous and weight.flags.writeable


@pytest.mark.parametrize("name", NAMES)
def test_a_dtype_that_layers_do_not_have_is_refused(name):
    with pytest.raises(TypeError, match="float16"):
        draw(name, (4, 4), "float16")


@pytest.mark.parametrize("name", ["he_normal", "Zeros", None, ["zeros"]])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError) as error:
        initializers.get(name)
    assert repr(name) in str(error.value)
    assert all(repr(known) in str(error.value) for known in NAMES)


def biases(**shapes):
    return {name: np.full(shape, 9.0) for name, shape in shapes.items()}


def test_the_forget_bias_is_the_second_block_of_four():
    p = biases(bias_ih_l0=8)
    initializers.set_forget_bias(p, 1.5)
    assert p["bias_ih_l0"].tolist() == [9, 9, 1.5, 1.5, 9, 9, 9, 9]


def test_with_two_biases_bias_ih_alone_gets_the_value_so_that_their_sum_is_it():
    p = biases(bias_ih_l0=8, bias_hh_l0=8)
    initializers.set_forget_bias(p)
    assert p["bias_ih_l0"].tolist() == [9, 9, 1, 1, 9, 9, 9, 9]
    assert p["bias_hh_l0"].tolist() == [9, 9, 0, 0, 9, 9, 9, 9]


def test_every_layer_and_direction_gets_its_forget_bias():
    p = biases(bias_ih_l0=4, bias_ih_l0_reverse=4, bias_ih_l1=4, bias_ih_l1_reverse=4)
    initializers.set_forget_bias(p)
    assert all(bias.tolist() == [9, 1, 9, 9] for bias in p.values())


def test_the_forget_bias_leaves_weights_alone():
    p = biases(weight_ih_l0=(4, 3), bias_ih_l0=4)
    initializers.set_forget_bias(p)
    assert (p["weight_ih_l0"] == 9).all()


@pytest.mark.parametrize("p", [biases(weight=(4, 3), bias=4), biases(weight_ih_l0=(4, 3)), {}])
def test_parameters_without_a_recurrent_bias_are_refused(p):
    with pytest.raises(ValueError, match="expected an LSTM's with bias_ih_l0"):
        initializers.set_forget_bias(p)


def test_a_bias_that_is_not_four_blocks_is_refused_before_any_is_changed():
    p = biases(bias_ih_l0=8, bias_ih_l1=6)
    with pytest.raises(
        ValueError, match=r"bias_ih_l1 has shape \(6,\), expected \(4\*hidden_size,\)"
    ):
        initializers.set_forget_bias(p)
    assert (p["bias_ih_l0"] == 9).all()


def test_importing_initializers_does_not_import_numpy_random():
    program = "import cylstm.initializers, sys; sys.exit('numpy.random' in sys.modules)"
    root = Path(cylstm.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root).returncode == 0
