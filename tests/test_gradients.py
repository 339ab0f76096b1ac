"""Every gradient of every layer, against the NumPy reference and against central differences.

The reference has tests of its own (test_reference.py); central differences need no reference, but have few
digits. Together they would both have to be wrong in the same way. Losses are tested elsewhere.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cylstm._core.gradients import WeightGradient
from cylstm._core.sequence import Cancellation
from numpy.testing import assert_array_equal

import cylstm
from cylstm import reference
from cylstm._core import dispatch, noise, stack
from cylstm.testing import TOLERANCES, assert_close, gradcheck

# T, B, I, H of most tests: all different, so that no two of these axes can be confused
SEQ_LEN, BATCH, INPUT_SIZE, HIDDEN_SIZE = 7, 4, 3, 2

DENSE_ACTIVATIONS = [None, "relu", "tanh", "sigmoid", "softmax"]

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
stacks = pytest.mark.parametrize("num_layers", [1, 2])
directions = pytest.mark.parametrize("bidirectional", [False, True])
biases = pytest.mark.parametrize("bias", [True, "single", False])
raggeds = pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
seq_lens = pytest.mark.parametrize("seq_len", [1, 2, SEQ_LEN])


def make_layer(dtype="float64", *, input_size=INPUT_SIZE, hidden_size=HIDDEN_SIZE, **options):
    """An LSTM whose parameters are U(-1, 1), whatever its size."""
    lstm = cylstm.LSTM(input_size, hidden_size, dtype=dtype, **options)
    rng = np.random.default_rng(1)
    with lstm.writable() as parameters:
        for name, value in parameters.items():
            parameters[name] = rng.uniform(-1, 1, value.shape).astype(dtype)
    return lstm


def make_arrays(lstm, seq_len=SEQ_LEN, batch=BATCH):
    """x, state, dy, dstate: time-major and random."""
    rng = np.random.default_rng(2)
    D = 2 if lstm.bidirectional else 1
    states = (lstm.num_layers * D, batch, lstm.hidden_size)

    def draw(*shape):
        return rng.standard_normal(shape).astype(lstm.dtype)

    x = draw(seq_len, batch, lstm.input_size)
    state = (draw(*states), draw(*states))
    return x, state, draw(seq_len, batch, D * lstm.hidden_size), (draw(*states), draw(*states))


def ragged_lengths(seq_len, batch):
    """Any lengths, among them ``seq_len`` and, in a batch of more than one, 0."""
    lengths = np.random.default_rng(3).integers(0, seq_len + 1, batch)
    lengths[-1] = 0
    lengths[0] = seq_len
    return lengths


def past_the_end(lengths, seq_len):
    """(T, B), True where the step is past the sequence's length."""
    return np.arange(seq_len)[:, None] >= np.asarray(lengths)


def as_dict(y, state_n, gradients):
    """Every output and every gradient by name."""
    return {
        **{"y": y, "h_n": state_n[0], "c_n": state_n[1]},
        **{"dx": gradients.dx, "dh_0": gradients.dstate[0], "dc_0": gradients.dstate[1]},
        **{f"d{name}": value for name, value in gradients.parameters.items()},
    }


def run(lstm, x, state, dy, dstate, *, lengths=None, tape=None):
    tape = cylstm.Tape(training=False) if tape is None else tape
    y, state_n = lstm.forward(x, state, lengths=lengths, tape=tape)
    return as_dict(y, state_n, lstm.backward(tape, dy, dstate))


def run_reference(lstm, x, state, dy, dstate, **options):
    """The same in float64, then rounded to the layer's dtype."""

    def wide(arrays):
        return tuple(array.astype(np.float64) for array in arrays)

    parameters = {name: value.astype(np.float64) for name, value in lstm.parameters.items()}
    y, state_n, cache = reference.lstm_forward(parameters, x.astype(np.float64), wide(state), **options)
    gradients = reference.lstm_backward(cache, dy.astype(np.float64), wide(dstate))
    return {name: value.astype(lstm.dtype) for name, value in as_dict(y, state_n, gradients).items()}


def assert_all_close(actual, desired):
    assert set(actual) == set(desired)
    for name, value in desired.items():
        tolerances = TOLERANCES[value.dtype]
        tolerance = tolerances.backward if name.startswith("d") else tolerances.forward
        assert_close(actual[name], value, tolerance, name)


def assert_all_equal(actual, desired):
    assert set(actual) == set(desired)
    for name, value in desired.items():
        assert_array_equal(actual[name], value, err_msg=name)


# The whole matrix -------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("batch", [1, 13])
@seq_lens
@raggeds
@biases
@directions
@stacks
def test_every_gradient_agrees_with_the_reference(
    num_layers, bidirectional, bias, ragged, seq_len, batch, dtype
):
    lstm = make_layer(dtype, num_layers=num_layers, bidirectional=bidirectional, bias=bias)
    arrays = make_arrays(lstm, seq_len, batch)
    lengths = ragged_lengths(seq_len, batch) if ragged else None
    assert_all_close(run(lstm, *arrays, lengths=lengths), run_reference(lstm, *arrays, lengths=lengths))


@seq_lens
@raggeds
@biases
@directions
@stacks
def test_every_gradient_agrees_with_central_differences(num_layers, bidirectional, bias, ragged, seq_len):
    lstm = make_layer(num_layers=num_layers, bidirectional=bidirectional, bias=bias)
    x, state, _, _ = make_arrays(lstm, seq_len, 3)
    gradcheck(lstm, x, state, lengths=ragged_lengths(seq_len, 3) if ragged else None)


@seq_lens
@directions
@pytest.mark.parametrize("input_size", [3, 20])
def test_gradients_of_one_row_agree_with_central_differences(input_size, bidirectional, seq_len):
    # whose x W_ih is made in the step, and in advance
    lstm = make_layer(input_size=input_size, hidden_size=9, bidirectional=bidirectional)
    x, state, _, _ = make_arrays(lstm, seq_len, 1)
    gradcheck(lstm, x, state)


@directions
def test_gradients_of_units_that_fill_vectors_agree_with_central_differences(bidirectional):
    # 9 units: full vectors of float64 and one more lane, at every level
    lstm = make_layer(hidden_size=9, bidirectional=bidirectional)
    x, state, _, _ = make_arrays(lstm, 2, 2)
    gradcheck(lstm, x, state)


@directions
def test_float32_gradients_agree_with_central_differences(bidirectional):
    lstm = make_layer("float32", bidirectional=bidirectional)
    x, state, _, _ = make_arrays(lstm)
    gradcheck(lstm, x, state, lengths=ragged_lengths(SEQ_LEN, BATCH))


@dtypes
def test_gradients_of_a_batch_of_many_tiles_agree_with_the_reference(dtype):
    # 101 rows: two full batches of 48 and a part of one
    lstm = make_layer(dtype, hidden_size=19, num_layers=2, bidirectional=True)
    arrays = make_arrays(lstm, 3, 101)
    lengths = ragged_lengths(3, 101)
    assert_all_close(run(lstm, *arrays, lengths=lengths), run_reference(lstm, *arrays, lengths=lengths))


@raggeds
@directions
def test_gradients_of_three_layers_agree_with_central_differences(bidirectional, ragged):
    # the layer in the middle has both neighbours
    lstm = make_layer(num_layers=3, bidirectional=bidirectional)
    x, state, _, _ = make_arrays(lstm, 2, 2)
    gradcheck(lstm, x, state, lengths=[2, 1] if ragged else None)


# What may be left out ---------------------------------------------------------------------------


@directions
@raggeds
@pytest.mark.parametrize("omitted", ["dy", "dstate"])
def test_an_omitted_gradient_is_zero(omitted, ragged, bidirectional):
    lstm = make_layer(num_layers=2, bidirectional=bidirectional)
    x, state, dy, dstate = make_arrays(lstm)
    lengths = ragged_lengths(SEQ_LEN, BATCH) if ragged else None
    if omitted == "dy":
        omitting = run(lstm, x, state, None, dstate, lengths=lengths)
        with_zeros = run_reference(lstm, x, state, np.zeros_like(dy), dstate, lengths=lengths)
    else:
        omitting = run(lstm, x, state, dy, None, lengths=lengths)
        with_zeros = run_reference(lstm, x, state, dy, (np.zeros_like(dstate[0]),) * 2, lengths=lengths)
    assert_all_close(omitting, with_zeros)


def test_an_omitted_state_has_a_gradient():
    lstm = make_layer()
    x, state, dy, dstate = make_arrays(lstm)
    zeros = tuple(np.zeros_like(s) for s in state)
    assert_all_equal(run(lstm, x, None, dy, dstate), run(lstm, x, zeros, dy, dstate))


def test_both_gradients_omitted_are_refused_and_the_tape_is_not_spent():
    lstm = make_layer()
    x, state, dy, _ = make_arrays(lstm)
    tape = cylstm.Tape()
    lstm.forward(x, state, tape=tape)
    with pytest.raises(ValueError, match="dy and dstate are both None"):
        lstm.backward(tape, None)
    lstm.backward(tape, dy)


# Dropout ----------------------------------------------------------------------------------------


def masks_of(lstm, seed, call, seq_len=SEQ_LEN, batch=BATCH):
    """The masks of one forward, as the reference takes them."""
    width = (2 if lstm.bidirectional else 1) * lstm.hidden_size
    masks = [np.ones((seq_len, batch, width), lstm.dtype) for _ in range(lstm.num_layers - 1)]
    for layer, mask in enumerate(masks):
        noise.drop(mask, seed, call, layer, lstm.dropout)
    return masks


@directions
@raggeds
def test_gradients_with_dropout_agree_with_central_differences(ragged, bidirectional):
    lstm = make_layer(num_layers=3, dropout=0.4, bidirectional=bidirectional)
    x, state, _, _ = make_arrays(lstm, 2, 2)
    gradcheck(lstm, x, state, lengths=[2, 1] if ragged else None, tape=lambda: cylstm.Tape(seed=1))


@dtypes
@directions
@raggeds
def test_gradients_with_dropout_agree_with_the_reference(ragged, bidirectional, dtype):
    lstm = make_layer(dtype, num_layers=3, dropout=0.4, bidirectional=bidirectional)
    arrays = make_arrays(lstm)
    lengths = ragged_lengths(SEQ_LEN, BATCH) if ragged else None
    tape = cylstm.Tape(seed=5)
    lstm.forward(arrays[0], tape=tape)  # so that what is differentiated is the tape's second forward
    masks = masks_of(lstm, 5, 2)
    assert 0.2 < np.mean([mask == 0 for mask in masks]) < 0.6
    expected = run_reference(lstm, *arrays, lengths=lengths, dropout_masks=masks)
    assert_all_close(run(lstm, *arrays, lengths=lengths, tape=tape), expected)


def test_a_dropout_of_one_leaves_the_last_layer_without_input():
    lstm = make_layer(num_layers=2, dropout=1.0)
    x, state, dy, _ = make_arrays(lstm)
    results = run(lstm, x, state, dy, None, tape=cylstm.Tape(seed=1))
    assert not results["dx"].any()
    assert not results["dweight_ih_l1"].any()
    assert results["dweight_hh_l1"].all()


# Layouts ----------------------------------------------------------------------------------------


@directions
@raggeds
def test_batch_first_gradients_are_time_major_ones_with_two_axes_swapped(ragged, bidirectional):
    options = {"num_layers": 2, "bidirectional": bidirectional}
    lstm = make_layer(**options)
    x, state, dy, dstate = make_arrays(lstm)
    lengths = ragged_lengths(SEQ_LEN, BATCH) if ragged else None
    expected = run(lstm, x, state, dy, dstate, lengths=lengths)
    other = make_layer(batch_first=True, **options)
    results = run(other, x.swapaxes(0, 1).copy(), state, dy.swapaxes(0, 1).copy(), dstate, lengths=lengths)
    assert results["dx"].shape == (BATCH, SEQ_LEN, INPUT_SIZE)
    for name in ("y", "dx"):
        results[name] = results[name].swapaxes(0, 1)
    assert_all_close(results, expected)


@directions
@pytest.mark.parametrize("length", [None, 3])
@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched_gradients_are_those_of_a_batch_of_one(batch_first, length, bidirectional):
    lstm = make_layer(num_layers=2, bidirectional=bidirectional, batch_first=batch_first)
    x, state, dy, dstate = make_arrays(lstm, batch=1)
    results = run(
        lstm,
        x[:, 0],
        tuple(s[:, 0] for s in state),
        dy[:, 0],
        tuple(s[:, 0] for s in dstate),
        lengths=length,
    )
    expected = run_reference(lstm, x, state, dy, dstate, lengths=None if length is None else [length])
    for name in ("y", "h_n", "c_n", "dx", "dh_0", "dc_0"):
        expected[name] = expected[name][:, 0]
    assert_all_close(results, expected)


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
        lambda a: np.pad(a, 2)[2:-2, 2:-2, 2:-2],
    ],
    ids=["Fortran order", "every second feature", "every second step", "backwards", "a part of more"],
)
@directions
def test_any_memory_layout_has_the_same_gradients(bidirectional, change):
    lstm = make_layer(num_layers=2, bidirectional=bidirectional)
    x, state, dy, dstate = make_arrays(lstm)
    changed = (change(x), tuple(map(change, state)), change(dy), tuple(map(change, dstate)))
    for array in (changed[0], changed[2], *changed[1], *changed[3]):
        array.flags.writeable = False
    assert_all_close(run(lstm, *changed), run(lstm, x, state, dy, dstate))


def test_a_dy_that_repeats_one_element_through_strides_of_zero_is_accepted():
    lstm = make_layer(bidirectional=True)
    x, state, dy, dstate = make_arrays(lstm)
    ones = np.broadcast_to(np.float64(1), dy.shape)
    assert_all_close(run(lstm, x, state, ones, dstate), run(lstm, x, state, np.ones_like(dy), dstate))


@directions
def test_backward_writes_to_none_of_its_arguments(bidirectional):
    lstm = make_layer(num_layers=2, bidirectional=bidirectional)
    x, state, dy, dstate = make_arrays(lstm)
    before = [array.copy() for array in (x, dy, *state, *dstate)]
    run(lstm, x, state, dy, dstate, lengths=ragged_lengths(SEQ_LEN, BATCH))
    for array, copy in zip((x, dy, *state, *dstate), before, strict=True):
        assert_array_equal(array, copy)


def test_gradients_are_fresh_arrays_that_the_next_backward_leaves_alone():
    lstm = make_layer(num_layers=2, bidirectional=True)
    arrays = make_arrays(lstm)
    tape = cylstm.Tape(training=False)
    first = run(lstm, *arrays, tape=tape)
    copies = {name: value.copy() for name, value in first.items()}
    second = run(lstm, *(arrays[0] * 2, *arrays[1:]), tape=tape)
    assert_all_equal(first, copies)
    values = [*first.values(), *second.values()]
    for j, one in enumerate(values):
        assert one.flags.writeable
        assert not any(np.shares_memory(one, other) for other in values[:j])


def test_a_tape_serves_forwards_of_any_shape_one_after_the_other():
    lstm = make_layer(hidden_size=9, num_layers=2, bidirectional=True)
    tape = cylstm.Tape(training=False)
    for seq_len, batch in [(2, 3), (9, 11), (1, 1), (4, 30), (9, 2)]:
        arrays = make_arrays(lstm, seq_len, batch)
        lengths = ragged_lengths(seq_len, batch)
        assert_all_close(
            run(lstm, *arrays, lengths=lengths, tape=tape), run_reference(lstm, *arrays, lengths=lengths)
        )


# Padding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("filling", [np.nan, np.inf, 1e38])
@pytest.mark.parametrize("batch_first", [False, True])
@directions
@stacks
@dtypes
def test_what_the_padding_of_x_and_dy_holds_reaches_nothing(
    dtype, num_layers, bidirectional, batch_first, filling
):
    lstm = make_layer(dtype, num_layers=num_layers, bidirectional=bidirectional, batch_first=batch_first)
    x, state, dy, dstate = make_arrays(lstm)
    lengths = ragged_lengths(SEQ_LEN, BATCH)
    padding = past_the_end(lengths, SEQ_LEN)
    results = {}
    for value in (0, filling):
        x[padding] = value
        dy[padding] = value
        x_given, dy_given = (a.swapaxes(0, 1).copy() if batch_first else a for a in (x, dy))
        results[value] = run(lstm, x_given, state, dy_given, dstate, lengths=lengths)
    assert_all_equal(results[filling], results[0])


@directions
@raggeds
@stacks
def test_y_and_dx_are_zero_past_a_length_and_nowhere_else(num_layers, ragged, bidirectional):
    lstm = make_layer(num_layers=num_layers, bidirectional=bidirectional)
    lengths = ragged_lengths(SEQ_LEN, BATCH) if ragged else [3] * BATCH
    results = run(lstm, *make_arrays(lstm), lengths=lengths)
    padding = past_the_end(lengths, SEQ_LEN)
    for name in ("y", "dx"):
        assert not results[name][padding].any()
        assert results[name][~padding].all()


# Nothing to do ----------------------------------------------------------------------------------


@directions
@pytest.mark.parametrize("seq_len", [0, 3])
def test_a_length_of_zero_passes_the_gradient_of_the_state_through(seq_len, bidirectional):
    lstm = make_layer(num_layers=2, bidirectional=bidirectional)
    x, state, dy, dstate = make_arrays(lstm, seq_len)
    results = run(lstm, x, state, dy, dstate, lengths=[0] * BATCH)
    assert_array_equal((results["h_n"], results["c_n"]), state)
    assert_array_equal((results["dh_0"], results["dc_0"]), dstate)
    assert results["dx"].shape == (seq_len, BATCH, INPUT_SIZE)
    assert not results["dx"].any()
    for name in lstm.parameters:
        assert not results[f"d{name}"].any()


@directions
def test_no_steps_pass_the_gradient_of_the_state_through(bidirectional):
    lstm = make_layer(num_layers=2, bidirectional=bidirectional)
    x, state, dy, dstate = make_arrays(lstm, 0)
    results = run(lstm, x, state, dy, dstate)
    assert_array_equal((results["h_n"], results["c_n"]), state)
    assert_array_equal((results["dh_0"], results["dc_0"]), dstate)
    for name, value in lstm.parameters.items():
        assert_array_equal(results[f"d{name}"], np.zeros_like(value))


@directions
@pytest.mark.parametrize("seq_len", [0, 1, 3])
@pytest.mark.parametrize("lengths", [None, []])
def test_an_empty_batch_has_gradients_of_zero(lengths, seq_len, bidirectional):
    lstm = make_layer(num_layers=2, bidirectional=bidirectional)
    x, state, dy, dstate = make_arrays(lstm, seq_len, 0)
    results = run(lstm, x, state, dy, dstate, lengths=lengths)
    assert results["dx"].shape == x.shape
    assert results["dh_0"].shape == state[0].shape
    for name, value in lstm.parameters.items():
        assert_array_equal(results[f"d{name}"], np.zeros_like(value))


# Threads ----------------------------------------------------------------------------------------


@dtypes
@directions
@raggeds
def test_the_number_of_threads_changes_no_gradient(ragged, bidirectional, dtype, monkeypatch):
    lstm = make_layer(dtype, input_size=20, hidden_size=40, num_layers=2, bidirectional=bidirectional)
    with lstm.writable() as parameters:  # U(-1, 1) in 60 terms would make a chaotic system of it
        for value in parameters.values():
            value *= 0.2
    arrays = make_arrays(lstm, 31, 61)
    assert stack.PARALLEL_OPERATIONS < 31 * 61 * 4 * 40 * (20 + 40)
    lengths = ragged_lengths(31, 61) if ragged else None
    counts = []
    original = stack.parallel.run

    def counting(tasks, *rest):
        counts.append(len(tasks))
        return original(tasks, *rest)

    monkeypatch.setattr(stack.parallel, "run", counting)
    before = cylstm.get_num_threads()
    try:
        cylstm.set_num_threads(1)
        expected = run(lstm, *arrays, lengths=lengths)
        counts.clear()
        cylstm.set_num_threads(3)
        results = run(lstm, *arrays, lengths=lengths)
    finally:
        cylstm.set_num_threads(before)
    # Two layers: forwards, backwards, and of each direction dx and the gradients of the parameters.
    assert len(counts) == 4 + 4 * lstm._directions
    assert min(counts) >= 2
    for name, value in expected.items():
        assert_array_equal(results[name], value, err_msg=name)


# The product of dgates and rows -----------------------------------------------------------------


def weight_gradient(terms, width, depth, dtype, first=0):
    """A WeightGradient of ``depth`` columns of wider rows, and its operands."""
    rng = np.random.default_rng(terms)
    dgates = rng.standard_normal((terms, width)).astype(dtype)
    rows = rng.standard_normal((terms, first + depth + 2)).astype(dtype)[:, first : first + depth]
    return WeightGradient(dgates, rows), dgates, rows


@dtypes
@pytest.mark.parametrize("terms", [0, 1, 15, 16, 17, 255, 256, 257, 511, 512, 513, 1100])
@pytest.mark.parametrize(
    ("width", "depth"), [(16, 1), (48, 2), (64, 9), (80, 49), (144, 97), (16, 200), (16, 300), (16, 520)]
)
def test_the_product_of_gates_and_rows_is_that_of_numpy(width, depth, terms, dtype):
    product, dgates, rows = weight_gradient(terms, width, depth, dtype, first=3)
    product.fill(0, product.parts, None)
    dgates, rows = dgates.astype(np.float64), rows.astype(np.float64)
    found = product.columns(1, width, 0, depth)
    assert found.shape == (width, depth) and found.dtype == dtype
    assert (np.abs(found - dgates.T @ rows) <= 8 * np.finfo(dtype).eps * (np.abs(dgates).T @ np.abs(rows))).all()
    assert_array_equal(product.columns(1, width, depth - 1, -1), found[:, depth - 1])
    assert_array_equal(product.columns(1, width - 1, 0, 1), found[: width - 1, :1])


@dtypes
def test_rows_of_gates_come_out_in_the_order_of_pytorch(dtype):
    lanes = dispatch.lanes(dtype)
    gates, units = 3, 2 * lanes - 1
    product, _, _ = weight_gradient(20, 2 * gates * lanes, 7, dtype)
    product.fill(0, product.parts, None)
    packed = product.columns(1, 2 * gates * lanes, 0, 7).reshape(2, gates, lanes, 7)
    expected = packed.transpose(1, 0, 2, 3).reshape(gates, 2 * lanes, 7)[:, :units].reshape(gates * units, 7)
    assert_array_equal(product.columns(gates, units, 0, 7), expected)


@dtypes
def test_the_parts_of_a_product_may_be_made_in_any_order_and_give_the_same_bits(dtype):
    product, dgates, rows = weight_gradient(600, 272, 50, dtype)
    product.fill(0, product.parts, None)
    other = WeightGradient(dgates, rows)
    assert other.parts == product.parts > 2
    for part in reversed(range(other.parts)):
        other.fill(part, part + 1, None)
    assert_array_equal(other.columns(1, 272, 0, 50), product.columns(1, 272, 0, 50))


@dtypes
def test_two_threads_may_make_the_parts_of_a_product_at_once(dtype):
    expected, dgates, rows = weight_gradient(600, 640, 300, dtype)
    expected.fill(0, expected.parts, None)
    half = expected.parts // 2
    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            product = WeightGradient(dgates, rows)
            list(pool.map(product.fill, (0, half), (half, product.parts), (None, None)))
            assert_array_equal(product.columns(1, 640, 0, 300), expected.columns(1, 640, 0, 300))


def test_what_another_thread_has_cancelled_is_not_made():
    product, _, _ = weight_gradient(10, 640, 3, "float32")
    before = product.columns(1, 640, 0, 3).view(np.uint32)  # of memory that nobody has written
    cancellation = Cancellation()
    cancellation.request()
    product.fill(0, product.parts, cancellation)
    panel = 4 * dispatch.lanes("float32")
    assert_array_equal(product.columns(1, 640, 0, 3).view(np.uint32)[panel:], before[panel:])


def test_long_sums_lose_no_more_than_their_parts():
    """100,000 equal terms: one after the other, each sum rounded in the same direction, they would lose 1e-4."""
    dgates, rows = np.full((100_000, 16), 0.1, np.float32), np.ones((100_000, 1), np.float32)
    product = WeightGradient(dgates, rows)
    product.fill(0, product.parts, None)
    exact = 100_000 * float(np.float32(0.1))
    one_by_one = np.cumsum(dgates[:, 0])[-1]
    error = abs(product.columns(1, 16, 0, -1)[0] / exact - 1)
    assert error < 1e-5 < abs(one_by_one / exact - 1)


# Sums and multiples -----------------------------------------------------------------------------


def test_gradients_of_two_losses_add_to_those_of_their_sum():
    lstm = make_layer(num_layers=2, bidirectional=True)
    x, state, dy, dstate = make_arrays(lstm)

    def gradients(dy, dstate):
        tape = cylstm.Tape()
        lstm.forward(x, state, tape=tape)
        return lstm.backward(tape, dy, dstate)

    total = gradients(3 * dy, None) + 0.5 * gradients(None, dstate)
    expected = gradients(3 * dy, tuple(0.5 * d for d in dstate))
    backward = TOLERANCES[np.dtype("float64")].backward
    assert_close(total.dx, expected.dx, backward, "dx")
    for one, other in zip(total.dstate, expected.dstate, strict=True):
        assert_close(one, other, backward, "dstate")
    for name, value in expected.parameters.items():
        assert_close(total.parameters[name], value, backward, f"d{name}")


# Dense ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", DENSE_ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(), (1,), (5,), (3, 2)])
def test_every_gradient_of_dense_agrees_with_central_differences(leading, bias, activation):
    dense = cylstm.Dense(3, 4, bias=bias, activation=activation, dtype="float64", rng=1)
    gradcheck(dense, np.random.default_rng(2).standard_normal((*leading, 3)))


@dtypes
@pytest.mark.parametrize("activation", DENSE_ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "size", [(1, 1), (5, 17), (40, 33), (7, 100)], ids=lambda size: f"{size[0]}-{size[1]}"
)
def test_every_gradient_of_dense_agrees_with_the_reference(size, bias, activation, dtype):
    dense = cylstm.Dense(*size, bias=bias, activation=activation, dtype=dtype, rng=1)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((5, 11, size[0])).astype(dtype)
    dy = rng.standard_normal((5, 11, size[1])).astype(dtype)
    wide = {name: value.astype(np.float64) for name, value in dense.parameters.items()}
    y, cache = reference.dense_forward(x.astype(np.float64), **wide, activation=activation)
    expected = reference.dense_backward(cache, dy.astype(np.float64))
    tape = cylstm.Tape()
    tolerances = TOLERANCES[dense.dtype]
    assert_close(dense.forward(x, tape=tape), y.astype(dtype), tolerances.forward, "y")
    gradients = dense.backward(tape, dy)
    assert gradients.dstate is None
    assert_close(gradients.dx, expected.dx.astype(dtype), tolerances.backward, "dx")
    assert set(gradients.parameters) == set(expected.parameters)
    for name, value in expected.parameters.items():
        assert_close(gradients.parameters[name], value.astype(dtype), tolerances.backward, f"d{name}")


@pytest.mark.parametrize("activation", DENSE_ACTIVATIONS)
@pytest.mark.parametrize("leading", [(0,), (0, 3), (3, 0)])
def test_dense_without_rows_has_gradients_of_zero(leading, activation):
    dense = cylstm.Dense(3, 4, activation=activation, rng=1)
    tape = cylstm.Tape()
    y = dense.forward(np.zeros((*leading, 3), np.float32), tape=tape)
    assert y.shape == (*leading, 4)
    gradients = dense.backward(tape, y)
    assert gradients.dx.shape == (*leading, 3)
    for name, value in dense.parameters.items():
        assert_array_equal(gradients.parameters[name], np.zeros_like(value))


def test_the_derivative_of_relu_at_zero_is_zero():
    dense = cylstm.Dense(1, 1, bias=False, activation="relu", dtype="float64", rng=1)
    with dense.writable() as parameters:
        parameters["weight"][:] = 1
    tape = cylstm.Tape()
    dense.forward(np.array([[-1.0], [0.0], [2.0]]), tape=tape)
    assert_array_equal(dense.backward(tape, np.full((3, 1), 5.0)).dx, [[0], [0], [5]])
