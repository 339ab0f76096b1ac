"""Losses: values worked out by hand, gradients by central differences, and what must not count."""

import math

import numpy as np
import pytest

from cylstm import losses
from cylstm.testing import TOLERANCES, assert_close, numerical_gradient

CENTRAL = TOLERANCES[np.dtype(np.float64)].central
T, B, F = 4, 3, 5
LENGTHS = [2, 4, 0]
VALID = np.arange(T)[:, None] < LENGTHS  # (T, B)


def arguments(loss, shape=(T, B, F), dtype=np.float64, seed=0):
    """(first argument, second argument) of a loss, random and legal."""
    rng = np.random.default_rng(seed)
    y = (2 * rng.standard_normal(shape)).astype(dtype)
    if loss is losses.mse:
        return y, rng.standard_normal(shape).astype(dtype)
    if loss is losses.sigmoid_cross_entropy:
        return y, rng.random(shape).astype(dtype)
    return y, rng.integers(0, shape[-1], shape[:-1])


every_loss = pytest.mark.parametrize(
    "loss",
    [losses.mse, losses.softmax_cross_entropy, losses.sigmoid_cross_entropy],
    ids=lambda f: f.__name__,
)


# Values ---------------------------------------------------------------------------------------


def test_mse_is_the_mean_of_squares_and_its_gradient_two_errors_over_their_number():
    value, dy = losses.mse(np.array([[1.0, 2.0], [3.0, 8.0]]), np.array([[0.0, 2.0], [5.0, 5.0]]))
    assert value == (1 + 0 + 4 + 9) / 4
    assert dy.tolist() == [[0.5, 0.0], [-1.0, 1.5]]


def test_softmax_cross_entropy_of_equal_logits_is_the_log_of_the_number_of_classes():
    value, dlogits = losses.softmax_cross_entropy(np.zeros((2, 4)), [1, 3])
    assert value == pytest.approx(math.log(4), rel=1e-15)
    np.testing.assert_allclose(8 * dlogits, [[1, -3, 1, 1], [1, 1, 1, -3]], rtol=1e-15)


def test_softmax_cross_entropy_of_two_classes_is_worked_out_by_hand():
    """softmax(log 3, 0) = (3/4, 1/4); against (1/2, 1/2) it is (log 4/3 + log 4) / 2."""
    value, dlogits = losses.softmax_cross_entropy(np.array([[math.log(3), 0.0]]), [[0.5, 0.5]])
    assert value == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-15)
    np.testing.assert_allclose(dlogits, [[0.25, -0.25]], rtol=1e-15)


def test_class_labels_and_their_one_hot_probabilities_are_the_same_loss():
    logits, labels = arguments(losses.softmax_cross_entropy)
    value, dlogits = losses.softmax_cross_entropy(logits, labels)
    value_onehot, dlogits_onehot = losses.softmax_cross_entropy(
        logits, np.eye(F, dtype=int)[labels]
    )
    assert value == value_onehot
    np.testing.assert_array_equal(dlogits, dlogits_onehot)


def test_sigmoid_cross_entropy_is_worked_out_by_hand():
    """sigmoid(log 3) = 3/4; against 1 it costs log 4/3, against 0 log 4."""
    logits = np.full((1, 2), math.log(3))
    value, dlogits = losses.sigmoid_cross_entropy(logits, [[1, 0]])
    assert value == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-15)
    np.testing.assert_allclose(dlogits, [[-0.125, 0.375]], rtol=1e-15)


def test_sigmoid_cross_entropy_is_softmax_cross_entropy_of_two_classes():
    z = np.linspace(-9, 9, 7)[:, None]
    value, dz = losses.sigmoid_cross_entropy(z, np.ones_like(z))
    logits = np.concatenate([np.zeros_like(z), z], axis=1)
    value_two, dlogits = losses.softmax_cross_entropy(logits, np.ones(7, int))
    assert value == pytest.approx(value_two, rel=1e-14)
    # relative to the largest: 1 - p cancels in both, but not alike
    np.testing.assert_allclose(dz, dlogits[:, 1:], rtol=0, atol=1e-16)


@pytest.mark.parametrize("shape", [(F,), (B, F), (T, B, F), (2, T, B, F)])
@every_loss
def test_every_axis_but_the_last_is_a_batch_axis(loss, shape):
    y, target = arguments(loss, shape)
    value, dy = loss(y, target)
    flat_target = np.asarray(target).reshape((-1, F) if np.shape(target) == shape else -1)
    value_flat, dy_flat = loss(y.reshape(-1, F), flat_target)
    assert value == pytest.approx(value_flat, rel=1e-15)
    np.testing.assert_allclose(dy, dy_flat.reshape(shape), rtol=1e-15)


# Gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lengths": LENGTHS},
        {"sample_weight": [[0.5], [1.0], [0.0], [3.0]]},
        {"sample_weight": [[0.5, 2.0, 7.0]], "lengths": LENGTHS},
    ],
    ids=["plain", "lengths", "weights", "both"],
)
@every_loss
def test_the_gradient_agrees_with_central_differences(loss, options):
    y, target = arguments(loss)
    _, dy = loss(y, target, **options)
    assert_close(dy, numerical_gradient(lambda y: loss(y, target, **options)[0], y), CENTRAL, "dy")


def test_the_gradient_agrees_with_central_differences_for_soft_labels():
    logits, _ = arguments(losses.softmax_cross_entropy)
    q = np.random.default_rng(1).dirichlet(np.ones(F), (T, B))
    _, dlogits = losses.softmax_cross_entropy(logits, q)
    wanted = numerical_gradient(lambda z: losses.softmax_cross_entropy(z, q)[0], logits)
    assert_close(dlogits, wanted, CENTRAL, "dlogits")


def test_the_gradient_is_that_of_the_value_even_where_probabilities_do_not_quite_sum_to_one():
    logits = np.array([[0.3, -1.0]])
    q = np.array([[0.6, 0.4008]])
    _, dlogits = losses.softmax_cross_entropy(logits, q)
    wanted = numerical_gradient(lambda z: losses.softmax_cross_entropy(z, q)[0], logits)
    assert_close(dlogits, wanted, CENTRAL, "dlogits")


@every_loss
def test_value_and_gradient_have_the_dtype_of_the_predictions(loss):
    y, target = arguments(loss)
    value, dy = loss(y, target)
    value_single, dy_single = loss(y.astype(np.float32), target)
    assert value_single.dtype == dy_single.dtype == np.float32
    assert value.dtype == dy.dtype == np.float64
    # a handful of float32 roundings (6e-8 each) of the inputs, exp and log
    assert value_single == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(dy_single, dy, rtol=0, atol=1e-7)


@every_loss
def test_the_arguments_are_not_written_to(loss):
    y, target = arguments(loss)
    before = y.copy(), target.copy()
    loss(y, target, sample_weight=np.ones((T, B)), lengths=LENGTHS)
    np.testing.assert_array_equal(y, before[0])
    np.testing.assert_array_equal(target, before[1])


# Large numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_cross_entropy_of_huge_logits_is_their_difference(dtype):
    logits = np.array([[3e4, 0.0], [-3e4, -3e4 + 50]], dtype)
    value, dlogits = losses.softmax_cross_entropy(logits, [1, 0])
    assert value == (3e4 + 50) / 2
    np.testing.assert_allclose(dlogits, [[0.5, -0.5], [-0.5, 0.5]], rtol=1e-6)


def test_softmax_cross_entropy_ignores_an_impossible_class():
    value, dlogits = losses.softmax_cross_entropy(np.array([[0.0, 0.0, -np.inf]]), [0])
    assert value == pytest.approx(math.log(2), rel=1e-15)
    np.testing.assert_allclose(dlogits, [[-0.5, 0.5, 0.0]], rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_cross_entropy_of_huge_logits_is_their_size_where_they_are_wrong(dtype):
    logits = np.array([[3e4, -3e4, 3e4, -3e4]], dtype)
    value, dlogits = losses.sigmoid_cross_entropy(logits, [[0, 1, 1, 0]])
    assert value == 6e4 / 4
    assert dlogits.tolist() == [[0.25, -0.25, 0.0, 0.0]]


def test_sigmoid_cross_entropy_keeps_the_tail():
    """log(1 + e^-60) is e^-60 to within its rounding, where 1 + e^-60 is 1."""
    value, dlogits = losses.sigmoid_cross_entropy(np.array([[-60.0]]), [[0]])
    assert value == pytest.approx(math.exp(-60), rel=1e-14)
    assert dlogits[0, 0] == pytest.approx(math.exp(-60), rel=1e-14)


def test_the_sum_over_many_positions_is_taken_in_float64():
    """100,000 squares of 0.1 rounded to float32: added one by one in float32 they would drift."""
    y = np.full((100_000, 1), 0.1, np.float32)
    value, _ = losses.mse(y, np.zeros_like(y))
    assert value == np.float32(0.1) ** 2


# What counts --------------------------------------------------------------------------------------


@every_loss
def test_lengths_give_the_mean_over_the_valid_steps_alone(loss):
    y, target = arguments(loss)
    value, dy = loss(y, target, lengths=LENGTHS)
    value_valid, dy_valid = loss(y[VALID], target[VALID])
    assert value == pytest.approx(value_valid, rel=1e-14)
    np.testing.assert_allclose(dy[VALID], dy_valid, rtol=1e-14)
    assert not dy[~VALID].any()


@every_loss
def test_nan_past_a_length_reaches_nothing(loss):
    y, target = arguments(loss)
    clean = loss(y, target, lengths=LENGTHS)
    y[~VALID] = np.nan
    if target.dtype.kind == "f":
        target[~VALID] = np.nan
    else:
        target[~VALID] = -100  # what PyTorch users pad classes with
    value, dy = loss(y, target, lengths=LENGTHS)
    assert value == clean[0]
    np.testing.assert_array_equal(dy, clean[1])


def test_nan_in_the_probabilities_past_a_length_reaches_nothing():
    logits, labels = arguments(losses.softmax_cross_entropy)
    q = np.eye(F)[labels]
    clean = losses.softmax_cross_entropy(logits, q, lengths=LENGTHS)
    q[~VALID] = np.nan
    value, dlogits = losses.softmax_cross_entropy(logits, q, lengths=LENGTHS)
    assert value == clean[0]
    np.testing.assert_array_equal(dlogits, clean[1])


@every_loss
def test_an_unbatched_sequence_takes_one_length(loss):
    y, target = arguments(loss, (T, F))
    value, dy = loss(y, target, lengths=2)
    value_cut, dy_cut = loss(y[:2], target[:2])
    assert value == pytest.approx(value_cut, rel=1e-15)
    np.testing.assert_allclose(dy[:2], dy_cut, rtol=1e-15)
    assert not dy[2:].any()


@every_loss
def test_a_weight_of_two_counts_as_two_copies(loss):
    y, target = arguments(loss, (3, F))
    value, dy = loss(y, target, sample_weight=[1, 2, 1])
    repeated = [0, 1, 1, 2]
    value_copies, dy_copies = loss(y[repeated], target[repeated])
    assert value == pytest.approx(value_copies, rel=1e-14)
    np.testing.assert_allclose(dy, [dy_copies[0], 2 * dy_copies[1], dy_copies[3]], rtol=1e-14)


@every_loss
def test_a_weight_of_zero_is_as_if_the_position_were_not_there(loss):
    y, target = arguments(loss, (3, F))
    clean = loss(y[[0, 2]], target[[0, 2]])
    y[1] = np.nan
    value, dy = loss(y, target, sample_weight=[1.0, 0.0, 1.0])
    assert value == pytest.approx(clean[0], rel=1e-15)
    np.testing.assert_allclose(dy, [clean[1][0], np.zeros(F), clean[1][1]], rtol=1e-15)


@pytest.mark.parametrize("scale", [1e-320, 0.1, 1e308])
@every_loss
def test_only_the_proportions_of_weights_matter(loss, scale):
    """Also where their sum overflows; 1e-320 has 11 bits, so that half of it is off by 1e-3."""
    y, target = arguments(loss, (3, F))
    value, dy = loss(y, target, sample_weight=[1.0, 1.0, 0.5])
    value_scaled, dy_scaled = loss(y, target, sample_weight=scale * np.array([1.0, 1.0, 0.5]))
    rtol = 1e-3 if scale == 1e-320 else 1e-14
    assert value_scaled == pytest.approx(value, rel=rtol)
    np.testing.assert_allclose(dy_scaled, dy, rtol=rtol)


@pytest.mark.parametrize(
    ("shape", "full"),
    [
        ((T,), (T, 1)),  # from the left: one per time step
        ((T, 1), (T, 1)),
        ((1, B), (1, B)),  # one per sequence
        ((T, B), (T, B)),
        ((), (1, 1)),
    ],
)
@every_loss
def test_weights_belong_to_the_leading_axes_from_the_left(loss, shape, full):
    y, target = arguments(loss)
    weight = np.random.default_rng(2).random(shape)
    value, dy = loss(y, target, sample_weight=weight)
    everywhere = np.broadcast_to(weight.reshape(full), (T, B))
    value_full, dy_full = loss(y, target, sample_weight=everywhere)
    assert value == value_full
    np.testing.assert_array_equal(dy, dy_full)


@pytest.mark.parametrize(
    "options",
    [{"lengths": [0, 0, 0]}, {"sample_weight": np.zeros((T, B))}],
    ids=["lengths", "weights"],
)
@every_loss
def test_with_nothing_valid_value_and_gradient_are_zero(loss, options):
    y, target = arguments(loss)
    value, dy = loss(y, target, **options)
    assert value == 0
    assert not dy.any()


@pytest.mark.parametrize("shape", [(0, B, F), (T, 0, F)])
@every_loss
def test_an_empty_batch_costs_nothing(loss, shape):
    y, target = arguments(loss, shape)
    value, dy = loss(y, target, lengths=[0] * shape[1])
    assert value == 0
    assert dy.shape == shape


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[1.0]], "is a list, expected"),
        (np.ones((2, 3), np.float16), "is of dtype float16, expected"),
        (np.ones((2, 3), np.float64).astype(">f8"), "is of dtype >f8, expected"),
        (np.ones((2, 3), int), "is of dtype int64, expected"),
        (np.ma.masked_array(np.ones((2, 3))), "masked array"),
    ],
    ids=["list", "half", "byte order", "integers", "masked"],
)
@every_loss
def test_predictions_are_float_arrays(loss, y, message):
    name = "y_pred" if loss is losses.mse else "logits"
    with pytest.raises(TypeError, match=f"^{name} .*{message}"):
        loss(y, np.zeros((2, 3)))


@every_loss
def test_a_scalar_has_no_features(loss):
    with pytest.raises(ValueError, match=r"has shape \(\), expected \(\.\.\., features\)"):
        loss(np.array(1.0), 0)


@pytest.mark.parametrize("loss", [losses.mse, losses.sigmoid_cross_entropy])
def test_targets_are_not_broadcast(loss):
    """(batch, 1) against (batch,) would otherwise be batch^2 differences."""
    with pytest.raises(ValueError, match=r"^targets? has shape \(3,\), expected \(3, 1\)"):
        loss(np.zeros((3, 1)), np.zeros(3))


@pytest.mark.parametrize("target", [["a"], [1j], [None]], ids=["text", "complex", "object"])
def test_targets_are_real_numbers(target):
    with pytest.raises(TypeError, match=r"^target is of dtype"):
        losses.mse(np.zeros(1), target)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_sigmoid_targets_are_from_zero_to_one(value):
    with pytest.raises(ValueError, match=r"^targets has values from .* expected 0 to 1"):
        losses.sigmoid_cross_entropy(np.zeros((1, 2)), [[0.5, value]])


@pytest.mark.parametrize("label", [-1, 4])
def test_a_class_that_does_not_exist_is_refused(label):
    with pytest.raises(
        ValueError, match=r"^labels has values from .* expected 0 to classes - 1 = 3"
    ):
        losses.softmax_cross_entropy(np.zeros((2, 4)), [0, label])


def test_class_labels_are_integers():
    with pytest.raises(TypeError, match=r"^labels is of dtype float64, expected integers"):
        losses.softmax_cross_entropy(np.zeros((2, 4)), [0.0, 1.0])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 1), ()])
def test_labels_of_another_shape_name_both_shapes_that_would_do(shape):
    with pytest.raises(ValueError, match=r"^labels has shape .* expected \(2,\) .* or \(2, 4\)"):
        losses.softmax_cross_entropy(np.zeros((2, 4)), np.zeros(shape, int))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.5, 0.6], "expected 1"),
        ([1.5, -0.5], "expected probabilities"),
        ([np.nan, 1], "expected probabilities"),
    ],
)
def test_label_probabilities_are_a_distribution(row, message):
    with pytest.raises(ValueError, match=f"^labels has .*{message}"):
        losses.softmax_cross_entropy(np.zeros((1, 2)), [row])


def test_no_class_is_refused():
    with pytest.raises(ValueError, match="at least one class"):
        losses.softmax_cross_entropy(np.zeros((2, 0)), [0, 0])


@pytest.mark.parametrize("shape", [(B,), (T, B, F), (T, B, 1), (B, T), (T, 2)])
@every_loss
def test_weights_that_do_not_fit_are_refused(loss, shape):
    y, target = arguments(loss)
    with pytest.raises(ValueError, match=r"^sample_weight has shape .* leading axes of \(4, 3\)"):
        loss(y, target, sample_weight=np.ones(shape))


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
@every_loss
def test_weights_are_finite_and_not_negative(loss, weight):
    y, target = arguments(loss, (2, F))
    with pytest.raises(ValueError, match=r"^sample_weight has values"):
        loss(y, target, sample_weight=[1.0, weight])


@pytest.mark.parametrize("lengths", [[1, 2, 5], [-1, 0, 0], [1, 2], 3], ids=str)
@every_loss
def test_lengths_that_do_not_fit_are_refused(loss, lengths):
    y, target = arguments(loss)
    with pytest.raises(ValueError, match=r"^lengths"):
        loss(y, target, lengths=lengths)


@every_loss
def test_lengths_are_integers(loss):
    y, target = arguments(loss)
    with pytest.raises(TypeError, match=r"^lengths"):
        loss(y, target, lengths=[1.0, 2.0, 3.0])


@every_loss
def test_lengths_need_a_time_axis(loss):
    y, target = arguments(loss, (F,))
    with pytest.raises(
        ValueError, match=r"expected \(seq_len, batch, features\) or \(seq_len, features\)"
    ):
        loss(y, target, lengths=1)
