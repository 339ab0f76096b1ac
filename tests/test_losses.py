"""Losses and metrics: values worked out by hand and those of PyTorch and Keras 3, gradients by central differences, and
what must not count.

golden/make_losses.py made the golden file.
"""

import math
import runpy
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cylstm import losses, metrics
from cylstm.testing import TOLERANCES, assert_close, numerical_gradient

GOLDEN = Path(__file__).parent / "golden"
CASES = runpy.run_path(str(GOLDEN / "store.py"))["load"](GOLDEN / "losses.npz")
CENTRAL = TOLERANCES[np.dtype(np.float64)].central
T, B, F = 4, 3, 5
LENGTHS = [2, 4, 0]
VALID = np.arange(T)[:, None] < LENGTHS  # (T, B)
HOLES = np.array([[True, False, True], [False, True, False], [True, True, False], [False, False, True]])  # (T, B)

LOSSES = [losses.mse, losses.mae, partial(losses.huber, delta=0.7)]
for loss in (losses.binary_crossentropy, losses.categorical_crossentropy, losses.sparse_categorical_crossentropy):
    LOSSES += [loss, partial(loss, from_logits=True)]


def name_of(loss):
    return f"{loss.func.__name__}-{loss.keywords}" if isinstance(loss, partial) else loss.__name__


binary_from_logits, categorical_from_logits, sparse_from_logits = LOSSES[4::2]

every_loss = pytest.mark.parametrize("loss", LOSSES, ids=name_of)


def arguments(loss, shape=(T, B, F), dtype=np.float64, seed=0):
    """(first argument, second argument) of a loss, random and legal."""
    rng = np.random.default_rng(seed)
    name = name_of(loss)
    if "crossentropy" not in name:
        return (2 * rng.standard_normal(shape)).astype(dtype), rng.standard_normal(shape).astype(dtype)
    # probabilities of classes need not sum to one; small ones are too crooked for central differences
    y = 2 * rng.standard_normal(shape) if "from_logits" in name else rng.uniform(0.2, 0.8, shape)
    if "binary" in name:
        return y.astype(dtype), rng.random(shape).astype(dtype)
    if "sparse" in name:
        return y.astype(dtype), rng.integers(0, shape[-1], shape[:-1])
    return y.astype(dtype), rng.dirichlet(np.ones(shape[-1]), shape[:-1])


def test_every_loss_is_here():
    names = {name_of(loss).partition("-")[0] for loss in LOSSES}
    assert names | {"get", "total_weight"} == set(losses.__all__)


# Values ---------------------------------------------------------------------------------------


def test_mse_is_the_mean_of_squares_and_its_gradient_two_errors_over_their_number():
    value, dy = losses.mse(np.array([[1.0, 2.0], [3.0, 8.0]]), np.array([[0.0, 2.0], [5.0, 5.0]]))
    assert value == (1 + 0 + 4 + 9) / 4
    assert dy.tolist() == [[0.5, 0.0], [-1.0, 1.5]]


def test_mae_is_the_mean_of_sizes_and_its_gradient_their_signs_over_their_number():
    value, dy = losses.mae(np.array([[1.0, 2.0], [3.0, 8.0]]), np.array([[0.0, 2.0], [5.0, 5.0]]))
    assert value == (1 + 0 + 2 + 3) / 4
    assert dy.tolist() == [[0.25, 0.0], [-0.25, 0.25]]


def test_huber_is_half_a_square_up_to_delta_and_a_line_from_there():
    """At delta = 2: 1/2, 2 (on the border), 2 * 5 - 2 = 8, and again below."""
    y = np.array([[1.0, 2.0, 5.0, -5.0]])
    value, dy = losses.huber(y, np.zeros_like(y), delta=2.0)
    assert value == (0.5 + 2 + 8 + 8) / 4
    assert dy.tolist() == [[0.25, 0.5, 0.5, -0.5]]


def test_softmax_of_equal_logits_costs_the_log_of_the_number_of_classes():
    value, dlogits = sparse_from_logits(np.zeros((2, 4)), [1, 3])
    assert value == pytest.approx(math.log(4), rel=1e-15)
    np.testing.assert_allclose(8 * dlogits, [[1, -3, 1, 1], [1, 1, 1, -3]], rtol=1e-15)


def test_softmax_of_two_logits_is_worked_out_by_hand():
    """softmax(log 3, 0) = (3/4, 1/4); against (1/2, 1/2) it is (log 4/3 + log 4) / 2."""
    value, dlogits = categorical_from_logits(np.array([[math.log(3), 0.0]]), [[0.5, 0.5]])
    assert value == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-15)
    np.testing.assert_allclose(dlogits, [[0.25, -0.25]], rtol=1e-15)


def test_probabilities_of_classes_are_divided_by_their_sum():
    """(3, 1) is (3/4, 1/4). d/dy_k of -(log y_0 + log y_1) / 2 + log(y_0 + y_1) is 1/4 - 1 / (2 y_k)."""
    value, dy = losses.categorical_crossentropy(np.array([[3.0, 1.0]]), [[0.5, 0.5]])
    assert value == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-15)
    np.testing.assert_allclose(dy, [[1 / 4 - 1 / 6, 1 / 4 - 1 / 2]], rtol=1e-14)


@pytest.mark.parametrize("options", [{}, {"from_logits": True}], ids=str)
def test_class_labels_and_their_one_hot_probabilities_are_the_same_loss(options):
    y, labels = arguments(losses.sparse_categorical_crossentropy)
    value, dy = losses.sparse_categorical_crossentropy(y, labels, **options)
    value_onehot, dy_onehot = losses.categorical_crossentropy(y, np.eye(F, dtype=int)[labels], **options)
    assert value == value_onehot
    np.testing.assert_array_equal(dy, dy_onehot)


def test_the_layout_of_logits_and_targets_changes_no_bit():
    y, labels = arguments(losses.sparse_categorical_crossentropy)
    one_hot = np.eye(F, dtype=y.dtype)[labels]
    twice = np.repeat(np.repeat(y, 2, axis=0), 2, axis=2)[::2, :, ::2]
    for loss, target, strided in (
        (sparse_from_logits, labels, np.asfortranarray(labels)),
        (categorical_from_logits, one_hot, np.asfortranarray(one_hot)),
    ):
        value, dlogits = loss(y, target)
        for y_other, target_other in ((twice, target), (np.asfortranarray(y), strided)):
            value_other, dlogits_other = loss(y_other, target_other)
            assert value_other == value
            np.testing.assert_array_equal(dlogits_other, dlogits)


def test_binary_crossentropy_of_logits_is_worked_out_by_hand():
    """sigmoid(log 3) = 3/4; against 1 it costs log 4/3, against 0 log 4."""
    value, dlogits = binary_from_logits(np.full((1, 2), math.log(3)), [[1, 0]])
    assert value == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-15)
    np.testing.assert_allclose(dlogits, [[-0.125, 0.375]], rtol=1e-15)


def test_binary_crossentropy_of_probabilities_is_worked_out_by_hand():
    """d/dp of -log p is -1/p, of -log(1 - p) 1/(1 - p)."""
    value, dp = losses.binary_crossentropy(np.full((1, 2), 0.75), [[1, 0]])
    assert value == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-15)
    np.testing.assert_allclose(dp, [[-1 / 2 / 0.75, 1 / 2 / 0.25]], rtol=1e-15)


def test_binary_crossentropy_is_softmax_cross_entropy_of_two_classes():
    z = np.linspace(-9, 9, 7)[:, None]
    value, dz = binary_from_logits(z, np.ones_like(z))
    logits = np.concatenate([np.zeros_like(z), z], axis=1)
    value_two, dlogits = sparse_from_logits(logits, np.ones(7, int))
    assert value == pytest.approx(value_two, rel=1e-14)
    # relative to the largest: 1 - p cancels in both, but not alike
    np.testing.assert_allclose(dz, dlogits[:, 1:], rtol=0, atol=1e-16)


@pytest.mark.parametrize("eps", [1e-7, 1e-3])
def test_probabilities_are_clipped_and_have_no_gradient_there(eps):
    """Against 1, 0 costs -log eps and 1 costs -log(1 - eps); what is between is as it was."""
    p = np.array([[0.0, 1.0, 0.5]])
    value, dp = losses.binary_crossentropy(p, [[1, 1, 1]], eps=eps)
    assert value == pytest.approx(-(math.log(eps) + math.log1p(-eps) + math.log(0.5)) / 3, rel=1e-14)
    np.testing.assert_allclose(dp, [[0, 0, -2 / 3]], rtol=1e-15)

    p = np.array([[0.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    value, dp = losses.sparse_categorical_crossentropy(p, [0, 1, 1], eps=eps)
    assert value == pytest.approx(-(math.log(eps) + math.log1p(-eps) + math.log(0.5)) / 3, rel=1e-14)
    np.testing.assert_allclose(dp, [[0, 0], [0, 0], [1 / 3, -1 / 3]], rtol=1e-15)


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_those_of_pytorch_and_keras(case):
    """To a few roundings; where gradients cancel, of their size. Zero is exact: Keras clips the same probabilities."""
    about, arrays = CASES[case]
    y, dy_golden = arrays["y_pred"], arrays["gradient"]
    value, dy = losses.get(about["loss"])(y, arrays["target"], arrays.get("sample_weight"), **about["options"])
    rtol, atol = {"float64": (1e-13, 1e-16), "float32": (5e-7, 2e-8)}[y.dtype.name]
    assert value == pytest.approx(arrays["value"], rel=rtol)
    np.testing.assert_allclose(dy, dy_golden, rtol=rtol, atol=atol)
    np.testing.assert_array_equal(dy == 0, dy_golden == 0)


def test_the_golden_file_has_every_loss_of_both():
    found = {(about["source"].split()[0], about["loss"]) for about, _ in CASES.values()}
    names = {name_of(loss).partition("-")[0] for loss in LOSSES}
    assert found == {(source, name) for source in ("torch", "keras") for name in names}


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
        {"mask": HOLES},
        {"sample_weight": [[0.5, 2.0, 7.0]], "lengths": LENGTHS, "mask": HOLES},
        {"sample_weight": [0.5, 2.0, 7.0, 1.0], "lengths": [2, 3, 0, 1], "mask": HOLES, "batch_first": True},
    ],
    ids=["plain", "lengths", "weights", "weights and lengths", "mask", "all", "all, batch first"],
)
@every_loss
def test_the_gradient_agrees_with_central_differences(loss, options):
    y, target = arguments(loss)
    _, dy = loss(y, target, **options)
    assert_close(dy, numerical_gradient(lambda y: loss(y, target, **options)[0], y), CENTRAL, "dy")


@pytest.mark.parametrize("options", [{}, {"from_logits": True}], ids=str)
def test_the_gradient_is_that_of_the_value_even_where_probabilities_do_not_quite_sum_to_one(options):
    loss = partial(losses.categorical_crossentropy, **options)
    y, q = np.array([[0.3, 1.0]]), np.array([[0.6, 0.4008]])
    _, dy = loss(y, q)
    assert_close(dy, numerical_gradient(lambda y: loss(y, q)[0], y), CENTRAL, "dy")


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
    given = y, target, np.ones((T, B)), HOLES.copy()
    before = [array.copy() for array in given]
    loss(y, target, sample_weight=given[2], lengths=LENGTHS, mask=given[3])
    for array, original in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, original)


# Large numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_of_huge_logits_costs_their_difference(dtype):
    logits = np.array([[3e4, 0.0], [-3e4, -3e4 + 50]], dtype)
    value, dlogits = sparse_from_logits(logits, [1, 0])
    assert value == (3e4 + 50) / 2
    np.testing.assert_allclose(dlogits, [[0.5, -0.5], [-0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("target", [[0], [[1, 0, 0]]], ids=["sparse", "one-hot"])
def test_an_impossible_class_costs_nothing_if_it_is_not_wanted(target):
    loss = sparse_from_logits if len(np.shape(target)) == 1 else categorical_from_logits
    value, dlogits = loss(np.array([[0.0, 0.0, -np.inf]]), target)
    assert value == pytest.approx(math.log(2), rel=1e-15)
    np.testing.assert_allclose(dlogits, [[-0.5, 0.5, 0.0]], rtol=1e-15)


def test_an_impossible_class_that_is_wanted_costs_infinitely_much():
    value, _ = sparse_from_logits(np.array([[0.0, 0.0, -np.inf]]), [2])
    assert value == math.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_crossentropy_of_huge_logits_is_their_size_where_they_are_wrong(dtype):
    logits = np.array([[3e4, -3e4, 3e4, -3e4]], dtype)
    value, dlogits = binary_from_logits(logits, [[0, 1, 1, 0]])
    assert value == 6e4 / 4
    assert dlogits.tolist() == [[0.25, -0.25, 0.0, 0.0]]


def test_binary_crossentropy_keeps_the_tail():
    """log(1 + e^-60) is e^-60 to within its rounding, where 1 + e^-60 is 1."""
    value, dlogits = binary_from_logits(np.array([[-60.0]]), [[0]])
    assert value == pytest.approx(math.exp(-60), rel=1e-14)
    assert dlogits[0, 0] == pytest.approx(math.exp(-60), rel=1e-14)


def test_binary_crossentropy_of_a_small_probability_keeps_its_digits():
    """In float32 1 - 1.2345e-6 has four bits of the small number left."""
    p = np.float32(1.2345e-6)
    value, _ = losses.binary_crossentropy(np.array([[p]]), [[0]])
    assert value == pytest.approx(-math.log1p(-float(p)), rel=1e-6)


def test_the_sum_over_many_positions_is_taken_in_float64():
    """100,000 squares of 0.1 rounded to float32: added one by one in float32 they would drift."""
    y = np.full((100_000, 1), 0.1, np.float32)
    value, _ = losses.mse(y, np.zeros_like(y))
    assert value == np.float32(0.1) ** 2


# What counts --------------------------------------------------------------------------------------


COUNTED = {
    "lengths": ({"lengths": LENGTHS}, VALID),
    "mask": ({"mask": HOLES}, HOLES),
    "both": ({"lengths": LENGTHS, "mask": HOLES}, VALID & HOLES),
}
every_way = pytest.mark.parametrize("options, valid", COUNTED.values(), ids=COUNTED)


@every_way
@every_loss
def test_the_mean_is_over_the_valid_steps_alone(loss, options, valid):
    y, target = arguments(loss)
    value, dy = loss(y, target, **options)
    value_valid, dy_valid = loss(y[valid], target[valid])
    assert value == pytest.approx(value_valid, rel=1e-14)
    np.testing.assert_allclose(dy[valid], dy_valid, rtol=1e-14)
    assert not dy[~valid].any()


@every_way
@every_loss
def test_what_stands_where_nothing_is_valid_reaches_nothing(loss, options, valid):
    y, target = arguments(loss)
    clean = loss(y, target, **options)
    y[~valid] = np.nan
    target[~valid] = np.nan if target.dtype.kind == "f" else -100  # what PyTorch users pad classes with
    value, dy = loss(y, target, **options)
    assert value == clean[0]
    np.testing.assert_array_equal(dy, clean[1])


@every_way
@every_loss
def test_batch_first_arrays_have_the_same_loss(loss, options, valid):
    """The gradient comes in the layout of the predictions; so do mask and weights."""
    y, target = arguments(loss)
    weight = np.random.default_rng(3).random((T, B))
    value, dy = loss(y, target, weight, **options)
    turned = {name: given.T if name == "mask" else given for name, given in options.items()}
    value_turned, dy_turned = loss(y.swapaxes(0, 1), target.swapaxes(0, 1), weight.T, **turned, batch_first=True)
    assert value == pytest.approx(value_turned, rel=1e-14)
    np.testing.assert_allclose(dy_turned.swapaxes(0, 1), dy, rtol=1e-14)


@every_loss
def test_an_unbatched_sequence_takes_one_length_in_either_layout(loss):
    y, target = arguments(loss, (T, F))
    for batch_first in (False, True):
        value, dy = loss(y, target, lengths=2, batch_first=batch_first)
        value_cut, dy_cut = loss(y[:2], target[:2])
        assert value == pytest.approx(value_cut, rel=1e-15)
        np.testing.assert_allclose(dy[:2], dy_cut, rtol=1e-15)
        assert not dy[2:].any()


@every_loss
def test_predictions_without_time_take_a_mask_too(loss):
    y, target = arguments(loss, (3, F))
    value, dy = loss(y, target, mask=np.array([True, False, True]))
    value_cut, dy_cut = loss(y[[0, 2]], target[[0, 2]])
    assert value == pytest.approx(value_cut, rel=1e-15)
    np.testing.assert_allclose(dy, [dy_cut[0], np.zeros(F), dy_cut[1]], rtol=1e-15)


@every_loss
def test_a_single_position_counts_or_does_not(loss):
    y, target = arguments(loss, (F,))
    value, dy = loss(y, target)
    value_weighted, dy_weighted = loss(y, target, sample_weight=0.25, mask=np.array(True))
    assert value_weighted == pytest.approx(value, rel=1e-15)
    np.testing.assert_allclose(dy_weighted, dy, rtol=1e-15)
    value, dy = loss(y, target, mask=np.array(False))
    assert value == 0
    assert dy.tolist() == [0] * F


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
    [{"lengths": [0, 0, 0]}, {"sample_weight": np.zeros((T, B))}, {"mask": np.zeros((T, B), bool)}],
    ids=["lengths", "weights", "mask"],
)
@every_loss
def test_with_nothing_valid_value_and_gradient_are_zero(loss, options):
    y, target = arguments(loss)
    value, dy = loss(y, target, **options)
    assert value == 0
    assert dy.shape == y.shape
    assert not dy.any()


@pytest.mark.parametrize("options", [{}, {"lengths": True}], ids=["plain", "lengths"])
@pytest.mark.parametrize("shape", [(0, B, F), (T, 0, F)])
@every_loss
def test_an_empty_batch_costs_nothing(loss, shape, options):
    y, target = arguments(loss, shape)
    value, dy = loss(y, target, **{name: [0] * shape[1] for name in options})
    assert value == 0
    assert dy.shape == shape


def test_no_feature_costs_nothing():
    value, dy = losses.mse(np.ones((3, 0)), np.ones((3, 0)), sample_weight=[1, 2, 3])
    assert value == 0
    assert dy.shape == (3, 0)


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({}, 12),
        ({"lengths": LENGTHS}, 6),
        ({"mask": HOLES}, 6),
        ({"lengths": LENGTHS, "mask": HOLES}, 3),
        ({"lengths": [2, 3, 0, 1], "mask": HOLES, "batch_first": True}, 2),
        ({"lengths": LENGTHS, "sample_weight": [[0.5, 3.0, 100.0]]}, 13),
        ({"sample_weight": np.zeros((T, B))}, 0),
    ],
    ids=["plain", "lengths", "mask", "both", "batch first", "weights", "nothing"],
)
def test_the_total_weight_of_a_batch_is_the_sum_of_those_of_its_valid_positions(options, total):
    assert losses.total_weight(np.full((T, B, F), np.nan), **options) == total


@every_loss
def test_batches_averaged_by_their_total_weight_are_one_batch(loss):
    y, target = arguments(loss)
    weight = np.random.default_rng(4).random((T, B))
    parts = [(y[:, n], target[:, n], weight[:, n]) for n in (slice(1), slice(1, 3))]
    values = [loss(*part)[0] for part in parts]
    totals = [losses.total_weight(part[0], part[2]) for part in parts]
    assert metrics.combine(loss, values, totals) == pytest.approx(loss(y, target, weight)[0], rel=1e-14)


# Overflow -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("loss", "y", "target"),
    [
        (losses.mse, [[1e30]], [[0.0]]),
        (losses.mse, [[0.0]], [[1e300]]),
        (losses.mae, [[3e38]], [[-3e38]]),
        (partial(losses.huber, delta=1e30), [[1e30]], [[0.0]]),
        (sparse_from_logits, [[3e38, -3e38]], [1]),
        (categorical_from_logits, [[3e38, -3e38]], [[0, 1]]),
    ],
    ids=["square", "target", "difference", "huber", "class", "classes"],
)
def test_a_loss_that_overflows_is_infinite_without_a_warning(loss, y, target):
    value, dy = loss(np.array(y, np.float32), target)
    assert value == math.inf
    assert value.dtype == dy.dtype == np.float32


@pytest.mark.filterwarnings("error")
def test_what_has_no_value_is_nan_without_a_warning():
    assert math.isnan(losses.sparse_categorical_crossentropy(np.zeros((1, 2)), [0])[0])
    assert math.isnan(binary_from_logits(np.array([[math.inf]]), [[0]])[0])
    assert math.isnan(losses.mse(np.array([[math.inf]]), [[math.inf]])[0])


# Metrics ------------------------------------------------------------------------------------------


def test_accuracy_counts_the_largest_number():
    y = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.2, 0.2, 0.6], [0.4, 0.4, 0.2]])
    labels = [1, 2, 2, 0]  # the last one: of equal ones the first
    assert metrics.accuracy(y, labels) == 3 / 4
    assert metrics.accuracy(y, np.eye(3)[labels]) == 3 / 4
    assert metrics.accuracy(y, labels, sample_weight=[1, 5, 1, 1]) == 3 / 8
    assert metrics.accuracy(y, [1, 2, 0, 0], mask=np.array([True, True, False, True])) == 2 / 3


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_accuracy_of_one_feature_is_yes_or_no(shape):
    y = np.array([[0.4], [0.6], [0.5], [0.9]])  # a half is a no
    assert metrics.accuracy(y, np.reshape([0, 1, 1, 0], shape)) == 2 / 4
    assert metrics.accuracy(y, np.reshape([0.0, 1.0, 1.0, 0.0], shape), [1, 1, 1, 0]) == 2 / 3


def test_binary_accuracy_counts_elements():
    y = np.array([[0.4, 0.6, 0.3], [0.5, 0.9, 0.1]])
    target = [[0, 1, 1], [0, 1, 1]]
    assert metrics.binary_accuracy(y, target) == 4 / 6
    assert metrics.binary_accuracy(y, target, threshold=0.35) == 2 / 6
    assert metrics.binary_accuracy(np.log(y / (1 - y)), target, threshold=0.0) == 4 / 6
    assert metrics.binary_accuracy(y, target, sample_weight=[3, 1]) == 4 / 6
    assert metrics.binary_accuracy(y, [[0, 0, 1], [0, 1, 1]], sample_weight=[3, 1]) == (3 * 1 + 2) / 12


def test_nan_is_wrong_whatever_the_class():
    y = np.array([[np.nan, np.nan], [0.9, np.nan], [0.1, 0.9]])
    assert metrics.accuracy(y, [0, 1, 1]) == 1 / 3
    assert metrics.accuracy(y, [[1, 0], [0, 1], [0, 1]]) == 1 / 3
    assert metrics.accuracy(y, [[np.nan, np.nan], [0, 1], [0, np.nan]]) == 0
    assert metrics.accuracy(y[:, 1:], [0, 0, 1]) == 1 / 3
    assert metrics.binary_accuracy(y, [[0, 0], [1, 0], [0, np.nan]]) == 2 / 6
    assert metrics.accuracy(y, [0, 1, 1], sample_weight=[0, 0, 1]) == 1


@pytest.mark.parametrize("metric", [metrics.mse, metrics.mae, metrics.rmse, metrics.binary_accuracy, metrics.accuracy])
@every_way
def test_a_metric_is_over_the_valid_steps_alone_and_a_float(metric, options, valid):
    y, target = arguments(losses.mse)
    expected = metric(y[valid], target[valid])
    y[~valid] = target[~valid] = np.nan
    value = metric(y, target, **options)
    assert type(value) is float
    assert value == pytest.approx(expected, rel=1e-14)
    assert expected > 0


def test_errors_as_metrics_are_worked_out_by_hand():
    y, target = np.array([[1.0, 2.0], [3.0, 8.0]], np.float32), np.array([[0.0, 2.0], [5.0, 5.0]])
    assert metrics.mse(y, target) == 14 / 4
    assert metrics.rmse(y, target) == math.sqrt(14 / 4)
    assert metrics.mae(y, target) == 6 / 4


@pytest.mark.parametrize("metric", [metrics.rmse, metrics.mse, metrics.accuracy], ids=name_of)
def test_combined_batches_are_one_batch(metric):
    y, target = arguments(losses.mse, (5, F))
    parts = [slice(2), slice(2, 5)]
    values = [metric(y[n], target[n]) for n in parts]
    assert metrics.combine(metric, values, [2, 3]) == pytest.approx(metric(y, target), rel=1e-14)
    assert metrics.combine(metric, [*values, math.nan], [2, 3, 0]) == pytest.approx(metric(y, target), rel=1e-14)
    assert metrics.combine(metric, [], []) == 0
    with pytest.raises(ValueError, match=r"^weights has 2 entries, expected 1, one per value$"):
        metrics.combine(metric, [1.0], [1.0, 2.0])


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [losses, metrics])
def test_names_are_looked_up_and_functions_pass(module):
    assert module.get("mse") is module.mse
    assert module.get(math.hypot) is math.hypot
    for name in set(module.__all__) - {"by_name", "combine", "get", "total_weight"}:
        assert module.get(name) is getattr(module, name)


@pytest.mark.parametrize("name", ["nll", None, 3, "get"])
def test_an_unknown_name_lists_those_there_are(name):
    names = "binary_crossentropy', 'categorical_crossentropy', 'sparse_categorical_crossentropy'"
    with pytest.raises(ValueError, match=f"^loss is {name!r}, expected one of 'mse', 'mae', 'huber', '{names}$"):
        losses.get(name)
    names = "'accuracy', 'binary_accuracy', 'mae', 'mse', 'rmse'"
    with pytest.raises(ValueError, match=f"^metric is {name!r}, expected one of {names}$"):
        metrics.get(name)


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
    with pytest.raises(TypeError, match=f"^y_pred .*{message}"):
        loss(y, np.zeros((2, 3)))


@every_loss
def test_a_scalar_has_no_features(loss):
    with pytest.raises(ValueError, match=r"has shape \(\), expected \(\.\.\., features\)"):
        loss(np.array(1.0), 0)


@pytest.mark.parametrize("loss", [losses.mse, losses.mae, losses.huber, losses.binary_crossentropy])
def test_targets_are_not_broadcast(loss):
    """(batch, 1) against (batch,) would otherwise be batch^2 differences."""
    with pytest.raises(ValueError, match=r"^target has shape \(3,\), expected \(3, 1\), that of y_pred"):
        loss(np.zeros((3, 1)), np.zeros(3))


@pytest.mark.parametrize("target", [["a"], [1j], [None]], ids=["text", "complex", "object"])
def test_targets_are_real_numbers(target):
    with pytest.raises(TypeError, match=r"^target is of dtype"):
        losses.mse(np.zeros(1), target)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
@pytest.mark.parametrize("options", [{}, {"from_logits": True}], ids=str)
def test_binary_targets_are_from_zero_to_one(options, value):
    with pytest.raises(ValueError, match=r"^target has values from .* expected 0 to 1"):
        losses.binary_crossentropy(np.zeros((1, 2)), [[0.5, value]], **options)


CLASSES = [losses.sparse_categorical_crossentropy, metrics.accuracy]


def test_a_class_is_named_as_it_came():
    with pytest.raises(ValueError, match=r"^target has values from 18446744073709551615 to 18446744073709551615, exp"):
        losses.sparse_categorical_crossentropy(np.zeros((1, 2)), np.array([2**64 - 1], np.uint64))


@pytest.mark.parametrize(
    ("loss", "y", "target"),
    [
        (losses.binary_crossentropy, [[0.5], [5.0]], [[1], [1]]),
        (losses.binary_crossentropy, [[0.5], [-0.1]], [[1], [1]]),
        (losses.categorical_crossentropy, [[0.5, 0.5], [-1.0, 5.0]], [[1, 0], [1, 0]]),
        (losses.sparse_categorical_crossentropy, [[0.5, 0.5], [-1.0, 5.0]], [1, 0]),
    ],
)
def test_logits_are_no_probabilities_where_they_count(loss, y, target):
    y = np.array(y, np.float32)
    with pytest.raises(ValueError, match=r"^y_pred has values from -?[\d.]+ to [\d.]+, expected .* from_logits=True$"):
        loss(y, target)
    assert loss(y, target, mask=np.array([True, False]))[0] == pytest.approx(math.log(2))
    y[0] = np.nan
    assert np.isnan(loss(y, target)[0])


def test_probabilities_may_be_beyond_one_by_what_rounding_does():
    value, dy = losses.binary_crossentropy(np.array([[1 + 1e-4, -1e-4]]), [[1, 0]])
    assert value == pytest.approx(1e-7, rel=1e-3)
    assert not dy.any()


@pytest.mark.parametrize("label", [-1, 4])
@pytest.mark.parametrize("function", CLASSES)
def test_a_class_that_does_not_exist_is_refused(function, label):
    with pytest.raises(ValueError, match=r"^target has values from .* expected 0 to classes - 1 = 3"):
        function(np.zeros((2, 4)), [0, label])


@pytest.mark.parametrize("function", CLASSES)
def test_class_labels_are_integers(function):
    with pytest.raises(TypeError, match=r"^target is of dtype float64, expected integers"):
        function(np.zeros((2, 4)), [0.0, 1.0])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 1), ()])
def test_targets_of_classes_name_the_shape_that_would_do_and_what_takes_the_other(shape):
    target = np.zeros(shape, int)
    with pytest.raises(ValueError, match=r"^target has shape .* expected \(2,\).* \(categorical_crossentropy takes"):
        losses.sparse_categorical_crossentropy(np.zeros((2, 4)), target)
    with pytest.raises(ValueError, match=r"^target has shape .* expected \(2, 4\).* \(sparse_categorical_crossentropy"):
        losses.categorical_crossentropy(np.zeros((2, 4)), target)
    with pytest.raises(ValueError, match=r"^target has shape .* expected \(2,\), one class each, or \(2, 4\)"):
        metrics.accuracy(np.zeros((2, 4)), target)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.5, 0.6], "expected 1"),
        ([1.5, -0.5], "expected probabilities"),
        ([np.nan, 1], "expected probabilities"),
    ],
)
def test_label_probabilities_are_a_distribution(row, message):
    with pytest.raises(ValueError, match=f"^target has .*{message}"):
        categorical_from_logits(np.zeros((1, 2)), [row])


@pytest.mark.parametrize("function", [losses.categorical_crossentropy, *CLASSES])
def test_no_class_is_refused(function):
    with pytest.raises(ValueError, match="at least one class"):
        function(np.zeros((2, 0)), [0, 0])


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


@pytest.mark.parametrize("batch_first, words", [(False, "seq_len, batch"), (True, "batch, seq_len")])
@every_loss
def test_lengths_need_a_time_axis(loss, batch_first, words):
    y, target = arguments(loss, (F,))
    with pytest.raises(ValueError, match=rf"expected \({words}, features\) or \(seq_len, features\)"):
        loss(y, target, lengths=1, batch_first=batch_first)


def test_a_mask_is_bool_and_lies_as_the_predictions_do():
    y = np.zeros((T, B, F))
    with pytest.raises(ValueError, match=r"^mask has shape \(3, 4\), expected \(seq_len=4, batch=3\)"):
        losses.mse(y, y, mask=HOLES.T)
    with pytest.raises(ValueError, match=r"^mask has shape \(4, 3\), expected \(batch=3, seq_len=4\)"):
        losses.mse(y.swapaxes(0, 1), y.swapaxes(0, 1), mask=HOLES, batch_first=True)
    with pytest.raises(ValueError, match=r"^mask has shape \(4, 3\), expected \(4,\), that of y_pred without"):
        losses.mse(y[:, 0], y[:, 0], mask=HOLES)
    with pytest.raises(TypeError, match=r"^mask is of dtype int64, expected bool"):
        losses.mse(y, y, mask=HOLES.astype(int))
    with pytest.raises(TypeError, match=r"^mask is a list, expected a bool ndarray"):
        losses.mse(y, y, mask=HOLES.tolist())


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (losses.huber, {"delta": 0}, r"^delta is 0, expected a number in"),
        (losses.huber, {"delta": np.inf}, r"^delta is inf, expected a number in"),
        (losses.binary_crossentropy, {"eps": 0.0}, r"^eps is 0.0, expected a number in"),
        (losses.binary_crossentropy, {"eps": 0.6}, r"^eps is 0.6, expected a number in"),
        (losses.sparse_categorical_crossentropy, {"eps": 1e-8}, r"^eps is 1e-08, expected a number in"),
        (metrics.binary_accuracy, {"threshold": np.nan}, r"^threshold is nan, expected a number"),
    ],
)
def test_options_out_of_range_are_refused(loss, options, message):
    """1 - 1e-8 is 1 in float32."""
    y = np.full((2, 2), 0.5, np.float32)
    with pytest.raises(ValueError, match=message):
        loss(y, [0, 1] if loss is losses.sparse_categorical_crossentropy else y, **options)


@pytest.mark.parametrize("given", [None, 3, "mae"])
def test_metrics_come_as_a_list(given):
    with pytest.raises(TypeError, match=r"^metrics is .*, expected a list$"):
        metrics.by_name(given)


def test_flags_are_bools():
    y = np.full((2, 2), 0.5)
    with pytest.raises(TypeError, match=r"^from_logits is 1, expected True or False"):
        losses.binary_crossentropy(y, y, from_logits=1)
    with pytest.raises(TypeError, match=r"^batch_first is 'no', expected True or False"):
        losses.mse(y, y, batch_first="no")
