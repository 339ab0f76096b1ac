"""The same bits: outputs and states do not depend on cuts, batches, padding, layout, tape, threads or level.

Every comparison is of bytes. What is compared is the library with itself, and once with exact arithmetic,
which fixes the order of accumulation; that the values are right is for test_sizes.py to say. Run as a script
with a file name, this file saves the outputs of the level in force, for a comparison of levels.
"""

import os
import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest

import cylstm
from cylstm._core import cells, dispatch, stack
from cylstm.testing import TOLERANCES, assert_close

# A tile has 6 rows at most and 48 rows are worked on together: each count here is on one side of an edge.
BATCHES = [*range(1, 14), 47, 48, 49, 50, 100]

# (input_size, hidden_size): less than a vector; full vectors and one lane; an odd number of panels at every level
SIZES = [(3, 5), (7, 33), (20, 100)]

ACTIVATIONS = [None, "relu", "tanh", "sigmoid", "softmax"]

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"I{size[0]}-H{size[1]}")
directions = pytest.mark.parametrize("bidirectional", [False, True])


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if actual.tobytes() != expected.tobytes():
        differ = np.flatnonzero(
            np.ascontiguousarray(actual).ravel() != np.ascontiguousarray(expected).ravel()
        )
        raise AssertionError(
            f"{differ.size} of {actual.size} elements differ, the first is number {differ[:1]}"
        )


def assert_same_results(actual, expected):
    """Both (y, (h_n, c_n))."""
    for one, other in zip((actual[0], *actual[1]), (expected[0], *expected[1]), strict=True):
        assert_same_bits(one, other)


def draw(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def make_problem(size, dtype, *, steps=6, batch=5, num_layers=2, bidirectional=False, **options):
    """A layer, an input, an initial state; the layer's initial parameters, three times as large."""
    lstm = cylstm.LSTM(
        *size, num_layers=num_layers, bidirectional=bidirectional, dtype=dtype, rng=1, **options
    )
    with lstm.writable() as parameters:
        for value in parameters.values():
            value *= 3
    states = (num_layers * (1 + bidirectional), batch, size[1])
    x = draw((steps, batch, size[0]), dtype, 2)
    return lstm, x, (draw(states, dtype, 3), draw(states, dtype, 4))


def rows_of(state, rows):
    return tuple(s[:, rows] for s in state)


def ragged(steps, batch):
    """A length for every row; 0 and ``steps`` among them."""
    lengths = np.random.default_rng(5).integers(0, steps + 1, batch)
    lengths[0] = steps
    lengths[batch // 2] = 0 if batch > 1 else steps
    return lengths


@pytest.fixture
def num_threads():
    before = cylstm.get_num_threads()
    yield cylstm.set_num_threads
    cylstm.set_num_threads(before)


# Cut anywhere -----------------------------------------------------------------------------------


@sizes
@dtypes
@pytest.mark.parametrize("num_layers", [1, 2])
def test_step_and_run_are_forward(num_layers, dtype, size):
    lstm, x, state = make_problem(size, dtype, steps=21, batch=1, num_layers=num_layers)
    x, state = x[:, 0], rows_of(state, 0)
    y, state_n = lstm.forward(x, state)
    stepped, run = lstm.stream(), lstm.stream()
    stepped.reset(state)
    run.reset(state)
    out = np.empty(size[1], dtype)
    steps = [
        stepped.step(x_t).copy() if t % 2 else stepped.step(x_t, out=out).copy() for t, x_t in enumerate(x)
    ]
    assert_same_results((np.stack(steps), stepped.state), (y, state_n))
    assert_same_results((run.run(x), run.state), (y, state_n))


@sizes
@dtypes
@pytest.mark.parametrize("batch", [1, 5, 13])
def test_two_calls_are_one_wherever_the_sequence_is_cut(batch, dtype, size):
    lstm, x, state = make_problem(size, dtype, steps=13, batch=batch)
    whole = lstm.forward(x, state)
    for cut in range(len(x) + 1):
        y_1, between = lstm.forward(x[:cut], state)
        y_2, state_n = lstm.forward(x[cut:], between)
        assert_same_results((np.concatenate([y_1, y_2]), state_n), whole)


@sizes
@dtypes
def test_many_calls_are_one(dtype, size):
    lstm, x, state = make_problem(size, dtype, steps=150, batch=3)
    whole = lstm.forward(x, state)
    for pieces in (2, 7, 40, 150):
        parts = []
        now = state
        for part in np.array_split(x, pieces):
            y, now = lstm.forward(part, now)
            parts.append(y)
        assert_same_results((np.concatenate(parts), now), whole)


@sizes
@dtypes
def test_a_stream_may_mix_steps_and_runs(dtype, size):
    lstm, x, _ = make_problem(size, dtype, steps=20, batch=4)
    stream = lstm.stream(4)
    parts = [
        stream.run(x[:3]),
        stream.step(x[3])[None],
        stream.run(x[4:4]),
        stream.step(x[4])[None],
        stream.run(x[5:]),
    ]
    assert_same_results((np.concatenate(parts), stream.state), lstm.forward(x))


@sizes
@dtypes
@pytest.mark.parametrize("batch", [1, 2, 7, 13, 49])
def test_a_stream_of_many_rows_is_as_many_streams(batch, dtype, size):
    lstm, x, _ = make_problem(size, dtype, steps=4, batch=batch)
    together = lstm.stream(batch)
    y = np.stack([together.step(x_t) for x_t in x])
    for row in range(batch):
        alone = lstm.stream()
        y_alone = np.stack([alone.step(x_t) for x_t in x[:, row]])
        assert_same_results((y[:, row], rows_of(together.state, row)), (y_alone, alone.state))


@directions
@dtypes
def test_a_single_step_is_the_first_of_a_longer_sequence(dtype, bidirectional):
    # The reverse direction ends with step 0, so there it is the length that makes the sequence short.
    lstm, x, state = make_problem((7, 33), dtype, steps=9, batch=5, bidirectional=bidirectional)
    y, state_n = lstm.forward(x, state, lengths=[1] * 5)
    assert_same_results(lstm.forward(x[:1], state), (y[:1], state_n))


# In any batch -----------------------------------------------------------------------------------


@sizes
@dtypes
@directions
def test_a_row_alone_is_that_row_in_a_batch_of_any_size(bidirectional, dtype, size):
    lstm, x, state = make_problem(size, dtype, steps=5, batch=100, bidirectional=bidirectional)
    alone = [lstm.forward(x[:, b : b + 1], rows_of(state, slice(b, b + 1))) for b in range(100)]
    y = np.concatenate([result[0] for result in alone], axis=1)
    state_n = tuple(np.concatenate([result[1][k] for result in alone], axis=1) for k in range(2))
    for batch in BATCHES:
        rows = slice(100 - batch, 100)
        result = lstm.forward(x[:, rows], rows_of(state, rows))
        assert_same_results(result, (y[:, rows], rows_of(state_n, rows)))


@dtypes
@pytest.mark.parametrize("size", [(270, 260), (700, 590)])
def test_a_row_of_a_layer_that_fits_no_cache_is_that_row_in_a_batch(size, dtype):
    # 1.1 MB of weights or more, so deep that a batch goes through them in stretches; 12 MB or more
    lstm, x, state = make_problem(size, dtype, steps=3, batch=50, num_layers=1)
    y, state_n = lstm.forward(x, state)
    for batch in (1, 2, 3, 6, 7, 12, 13, 48, 49):
        rows = slice(50 - batch, 50)
        assert_same_results(
            lstm.forward(x[:, rows], rows_of(state, rows)), (y[:, rows], rows_of(state_n, rows))
        )
        stream = lstm.stream(batch)
        stream.reset(rows_of(state, rows))
        steps = np.stack([stream.step(x_t) for x_t in x[:, rows]])
        assert_same_results((steps, stream.state), (y[:, rows], rows_of(state_n, rows)))


@sizes
@dtypes
def test_a_row_alone_is_that_row_in_a_ragged_batch(dtype, size):
    lstm, x, state = make_problem(size, dtype, steps=7, batch=50, bidirectional=True)
    lengths = ragged(7, 50)
    y, state_n = lstm.forward(x, state, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        y_row, state_row = lstm.forward(x[:length, row], rows_of(state, row))
        assert_same_results((y[:length, row], rows_of(state_n, row)), (y_row, state_row))
        assert not y[length:, row].any()


@dtypes
@directions
@pytest.mark.parametrize("lengths", [None, ragged(6, 50)], ids=["full", "ragged"])
def test_a_permuted_batch_gives_permuted_results(lengths, bidirectional, dtype):
    lstm, x, state = make_problem((7, 33), dtype, batch=50, bidirectional=bidirectional)
    y, state_n = lstm.forward(x, state, lengths=lengths)
    order = np.random.default_rng(6).permutation(50)
    result = lstm.forward(
        np.ascontiguousarray(x[:, order]),
        rows_of(state, order),
        lengths=None if lengths is None else lengths[order],
    )
    assert_same_results(result, (y[:, order], rows_of(state_n, order)))


@dtypes
@directions
def test_two_batches_are_one_wherever_the_batch_is_split(bidirectional, dtype):
    lstm, x, state = make_problem((7, 33), dtype, batch=50, bidirectional=bidirectional)
    whole = lstm.forward(x, state)
    for cut in range(51):
        y_1, state_1 = lstm.forward(x[:, :cut], rows_of(state, slice(cut)))
        y_2, state_2 = lstm.forward(x[:, cut:], rows_of(state, slice(cut, None)))
        state_n = tuple(np.concatenate(pair, axis=1) for pair in zip(state_1, state_2, strict=True))
        assert_same_results((np.concatenate([y_1, y_2], axis=1), state_n), whole)


# Padding ----------------------------------------------------------------------------------------


@sizes
@dtypes
@directions
def test_more_padding_changes_nothing(bidirectional, dtype, size):
    lstm, x, state = make_problem(size, dtype, steps=6, batch=9, bidirectional=bidirectional)
    lengths = ragged(6, 9)
    y, state_n = lstm.forward(x, state, lengths=lengths)
    for more in (1, 2, 30):
        padded = np.concatenate([x, draw((more, *x.shape[1:]), dtype, 7)])
        y_padded, state_padded = lstm.forward(padded, state, lengths=lengths)
        assert_same_results((y_padded[:6], state_padded), (y, state_n))
        assert not y_padded[6:].any()


@pytest.mark.parametrize("taped", [False, True])
@pytest.mark.parametrize("filling", [np.nan, np.inf, 1e38])
@directions
@dtypes
def test_what_the_padding_holds_reaches_nothing(dtype, bidirectional, filling, taped):
    lstm, x, state = make_problem((7, 33), dtype, batch=9, bidirectional=bidirectional)
    lengths = ragged(6, 9)
    expected = lstm.forward(x, state, lengths=lengths)
    x[np.arange(6)[:, None] >= lengths] = filling
    tape = cylstm.Tape(training=False) if taped else None
    assert_same_results(lstm.forward(x, state, lengths=lengths, tape=tape), expected)


@directions
@dtypes
def test_lengths_of_seq_len_are_no_lengths(dtype, bidirectional):
    lstm, x, state = make_problem((7, 33), dtype, bidirectional=bidirectional)
    assert_same_results(lstm.forward(x, state, lengths=[6] * 5), lstm.forward(x, state))


@directions
@dtypes
def test_an_omitted_state_is_zeros(dtype, bidirectional):
    lstm, x, state = make_problem((7, 33), dtype, bidirectional=bidirectional)
    zeros = tuple(np.zeros_like(s) for s in state)
    assert_same_results(lstm.forward(x), lstm.forward(x, zeros))


# On a tape --------------------------------------------------------------------------------------


@sizes
@dtypes
@directions
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("batch", [1, 5, 13, 50])
def test_a_tape_changes_nothing(batch, steps, bidirectional, dtype, size):
    lstm, x, state = make_problem(size, dtype, steps=steps, batch=batch, bidirectional=bidirectional)
    tape = cylstm.Tape()
    for lengths in (None, ragged(steps, batch)):
        expected = lstm.forward(x, state, lengths=lengths)
        assert_same_results(lstm.forward(x, state, lengths=lengths, tape=tape), expected)


@dtypes
def test_a_tape_that_does_not_train_drops_nothing(dtype):
    lstm, x, state = make_problem((7, 33), dtype, bidirectional=True, dropout=0.5)
    expected = lstm.forward(x, state)
    assert_same_results(lstm.forward(x, state, tape=cylstm.Tape(training=False)), expected)
    assert (lstm.forward(x, state, tape=cylstm.Tape(seed=1))[0] != expected[0]).any()


# Layouts ----------------------------------------------------------------------------------------


@sizes
@dtypes
@directions
def test_batch_first_is_time_major_with_two_axes_swapped(bidirectional, dtype, size):
    lstm, x, state = make_problem(size, dtype, bidirectional=bidirectional)
    y, state_n = lstm.forward(x, state)
    other, _, _ = make_problem(size, dtype, bidirectional=bidirectional, batch_first=True)
    y_other, state_other = other.forward(np.ascontiguousarray(x.swapaxes(0, 1)), state)
    assert_same_results((y_other.swapaxes(0, 1), state_other), (y, state_n))


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "every second step": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every second row": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "every second feature": lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
    "backwards": lambda x: x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "a part of more": lambda x: np.pad(x, 3)[3:-3, 3:-3, 3:-3],
    "odd addresses": lambda x: unaligned(x),
}


def unaligned(x):
    memory = np.empty(x.nbytes + 1, np.uint8)
    copy = memory[1:].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("batch", [5, 13])
@dtypes
def test_any_memory_layout_gives_the_same(dtype, batch, steps, layout):
    lstm, x, state = make_problem((7, 33), dtype, steps=steps, batch=batch, bidirectional=True)
    expected = lstm.forward(x, state)
    change = LAYOUTS[layout]
    other = change(x)
    assert_same_bits(np.ascontiguousarray(other), x)
    result = lstm.forward(other, tuple(change(s) for s in state))
    assert_same_results(result, expected)
    assert_same_results(lstm.forward(other, state, tape=cylstm.Tape()), expected)


@dtypes
def test_read_only_arrays_are_accepted(dtype):
    lstm, x, state = make_problem((7, 33), dtype)
    expected = lstm.forward(x, state)
    for array in (x, *state):
        array.flags.writeable = False
    assert_same_results(lstm.forward(x, state), expected)


@pytest.mark.parametrize(
    "change", [lambda x: np.repeat(x, 2, axis=-1)[..., ::2], unaligned, np.asfortranarray]
)
@dtypes
def test_a_stream_accepts_any_memory_layout(dtype, change):
    lstm, x, _ = make_problem((7, 33), dtype, batch=4)
    expected = lstm.forward(x)
    stepped, run = lstm.stream(4), lstm.stream(4)
    y = np.stack([stepped.step(change(x_t)) for x_t in x])
    assert_same_results((y, stepped.state), expected)
    assert_same_results((run.run(change(x)), run.state), expected)


# On any number of threads -----------------------------------------------------------------------


def spy_on_tasks(monkeypatch):
    """A list that gets the number of tasks of each call that is shared out to threads."""
    counts = []
    run = stack.parallel.run

    def counting(tasks, *rest):
        counts.append(len(tasks))
        return run(tasks, *rest)

    monkeypatch.setattr(stack.parallel, "run", counting)
    return counts


@dtypes
@directions
@pytest.mark.parametrize("lengths", [None, ragged(30, 61)], ids=["full", "ragged"])
def test_the_number_of_threads_changes_nothing(lengths, bidirectional, dtype, num_threads, monkeypatch):
    lstm, x, state = make_problem((30, 70), dtype, steps=30, batch=61, bidirectional=bidirectional)
    assert stack.PARALLEL_OPERATIONS < 30 * 61 * 4 * 70 * (30 + 70)
    num_threads(1)
    expected = lstm.forward(x, state, lengths=lengths)
    for n in (2, 3, 4):
        num_threads(n)
        counts = spy_on_tasks(monkeypatch)
        assert_same_results(lstm.forward(x, state, lengths=lengths), expected)
        assert_same_results(lstm.forward(x, state, lengths=lengths, tape=cylstm.Tape()), expected)
        assert len(counts) == 4  # two layers, twice
        assert min(counts) >= 2


@dtypes
def test_the_number_of_threads_does_not_change_a_dropout_mask(dtype, num_threads, monkeypatch):
    lstm, x, state = make_problem((30, 70), dtype, steps=30, batch=61, dropout=0.4)
    num_threads(1)
    expected = lstm.forward(x, state, tape=cylstm.Tape(seed=8))
    num_threads(4)
    counts = spy_on_tasks(monkeypatch)
    assert_same_results(lstm.forward(x, state, tape=cylstm.Tape(seed=8)), expected)
    assert min(counts) >= 2


# Dense ------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "size", [(3, 5), (40, 33), (5, 100), (600, 70)], ids=lambda size: f"{size[0]}-{size[1]}"
)
def test_a_row_through_dense_alone_is_that_row_in_a_batch(size, activation, dtype):
    dense = cylstm.Dense(*size, activation=activation, dtype=dtype, rng=1)
    x = 3 * draw((100, size[0]), dtype)
    alone = np.stack([dense.forward(row) for row in x])
    for batch in BATCHES:
        assert_same_bits(dense.forward(x[-batch:]), alone[-batch:])
    assert_same_bits(dense.forward(x.reshape(4, 25, -1)), alone.reshape(4, 25, -1))
    assert_same_bits(dense.forward(x, tape=cylstm.Tape()), alone)
    assert_same_bits(dense.forward(np.asfortranarray(x)), alone)


@dtypes
def test_a_row_through_dense_alone_is_that_row_in_a_batch_for_any_number_of_panels(dtype):
    # One row takes two panels of 4 vectors at once; the last one may be alone, or have fewer vectors.
    for outputs in [*range(1, 12), *range(15, 140, 8)]:
        dense = cylstm.Dense(7, outputs, dtype=dtype, rng=1)
        x = draw((3, 7), dtype)
        assert_same_bits(np.stack([dense.forward(row) for row in x]), dense.forward(x))


@dtypes
@pytest.mark.parametrize("hidden_size", [37, 65, 83, 100])
@pytest.mark.parametrize(
    "make",
    [
        lambda hidden_size, dtype: cylstm.GRU(6, hidden_size, dtype=dtype, rng=1),
        lambda hidden_size, dtype: cylstm.GRU(6, hidden_size, reset_after=False, dtype=dtype, rng=1),
        lambda hidden_size, dtype: cylstm.RNN(6, hidden_size, dtype=dtype, rng=1),
        lambda hidden_size, dtype: cylstm.LSTM(6, hidden_size, proj_size=hidden_size - 7, dtype=dtype, rng=1),
        lambda hidden_size, dtype: cylstm.LSTM(6, hidden_size, layer_norm="joint", dtype=dtype, rng=1),
        lambda hidden_size, dtype: cylstm.LSTM(6, hidden_size, coupled="f=1-i", dtype=dtype, rng=1),
    ],
    ids=["gru", "gru-reset-before", "rnn", "projection", "layer-norm", "coupled"],
)
def test_a_row_of_any_cell_alone_is_that_row_in_a_batch(make, hidden_size, dtype):
    layer = make(hidden_size, dtype)
    x = draw((5, 3, 6), dtype)  # five steps: up and down through the panels
    y, _ = layer.forward(x)
    for row in range(3):
        assert_same_bits(layer.forward(x[:, row : row + 1])[0], y[:, row : row + 1])


@dtypes
def test_the_weights_that_all_rows_use_before_the_next_fit_a_cache(dtype):
    assert 2**13 <= dispatch.stretch_bytes(dtype) <= 2**19


@dtypes
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", [cylstm.LSTM, cylstm.RNN])
@pytest.mark.parametrize("size", [(1, 1), (4, 16), (4, 40), (70, 40), (2, 129), (40, 129)])
def test_a_row_alone_with_holes_is_that_row_of_two(size, cell, reverse, dtype):
    # x W_ih in each step where W_ih is small, else in advance; steps that a row does not take; none that it takes.
    layer = cell(*size, reverse=reverse, dtype=dtype, rng=1)
    x = draw((9, 2, size[0]), dtype)
    for mask in [None, np.arange(18).reshape(2, 9) % 3 > 0, np.zeros((2, 9), bool)]:
        y, _ = layer.forward(x, mask=mask)
        for row in range(2):
            one = {"mask": None if mask is None else mask[row : row + 1]}
            for tape in (None, cylstm.Tape(0)):
                assert_same_bits(layer.forward(x[:, row : row + 1], tape=tape, **one)[0], y[:, row : row + 1])


# The order of accumulation ----------------------------------------------------------------------


def rounded_fma(precision, a, b, c):
    """a * b + c, rounded once."""
    product = mpmath.fmul(float(a), float(b), exact=True)
    return float(mpmath.fadd(product, float(c), prec=precision))


def accumulate(start, vector, matrix):
    """start (n,) + matrix (n, k) vector (k,), in the order of k, each term by one fused multiply-add."""
    precision = np.finfo(start.dtype).nmant + 1
    sums = []
    for first, weights in zip(start, matrix, strict=True):
        total = first
        for value, weight in zip(vector, weights, strict=True):
            total = rounded_fma(precision, value, weight, total)
        sums.append(total)
    return np.array(sums, start.dtype)


fused = pytest.mark.skipif(
    dispatch.level == "baseline",
    reason="the portable level has no fused multiply-add: outside of the promise",
)


@fused
@dtypes
@pytest.mark.parametrize("rows", [1, 7])
def test_dense_begins_with_the_bias_and_adds_x_in_order(rows, dtype):
    dense = cylstm.Dense(30, 11, dtype=dtype, rng=1)
    x = draw((rows, 30), dtype)
    expected = [accumulate(dense.parameters["bias"], row, dense.parameters["weight"]) for row in x]
    assert_same_bits(dense.forward(x), np.stack(expected))


@fused
@dtypes
@pytest.mark.parametrize("batch", [1, 7, 13])
def test_gates_begin_with_the_sum_of_the_biases_and_add_x_and_then_h_in_order(batch, dtype):
    lstm, x, (h_0, c_0) = make_problem((6, 5), dtype, steps=2, batch=batch, num_layers=1)
    y, (_, c_n) = lstm.forward(x, (h_0, c_0))
    p = lstm.parameters
    precision = np.finfo(dtype).nmant + 1
    for b in {0, batch - 1}:
        h, c = h_0[0, b], c_0[0, b]
        for t in range(2):
            z = accumulate(p["bias_ih_l0"] + p["bias_hh_l0"], x[t, b], p["weight_ih_l0"])
            z = accumulate(z, h, p["weight_hh_l0"])
            i, f, o = (cylstm.Activation("sigmoid").forward(z[5 * k : 5 * k + 5]) for k in (0, 1, 3))
            g = cylstm.Activation("tanh").forward(z[10:15])
            c = np.array([rounded_fma(precision, *terms) for terms in zip(f, c, i * g, strict=True)], dtype)
            h = o * cylstm.Activation("tanh").forward(c)
            assert_same_bits(y[t, b], h)
        assert_same_bits(c_n[0, b], c)


# At every level ---------------------------------------------------------------------------------


def outputs_of_this_level():
    """name -> array: what every level with a fused multiply-add computes to the bit."""
    outputs = {}
    for dtype in ("float32", "float64"):
        for size in [(1, 1), (3, 5), (2, 17), (9, 31), (7, 33), (20, 100), (30, 270)]:
            for batch in (1, 7, 50):
                for bidirectional in (False, True):
                    lstm, x, state = make_problem(
                        size, dtype, steps=9, batch=batch, bidirectional=bidirectional
                    )
                    for lengths in (None, ragged(9, batch)):
                        y, (h_n, c_n) = lstm.forward(x, state, lengths=lengths)
                        kind = f"{'bi' if bidirectional else 'uni'}-{'full' if lengths is None else 'ragged'}"
                        for name, value in (("y", y), ("h_n", h_n), ("c_n", c_n)):
                            outputs[f"lstm-{dtype}-{size[0]}-{size[1]}-{batch}-{kind}-{name}"] = value
        for name, layer in (
            ("gru", cylstm.GRU(7, 33, 2, bidirectional=True, dtype=dtype, rng=1)),
            ("rnn_tanh", cylstm.RNN(7, 33, 2, bidirectional=True, dtype=dtype, rng=1)),
            ("rnn_relu", cylstm.RNN(7, 33, 2, bidirectional=True, nonlinearity="relu", dtype=dtype, rng=1)),
        ):
            for batch in (1, 7, 50):
                y, h_n = layer.forward(draw((9, batch, 7), dtype, 2), lengths=ragged(9, batch))
                outputs[f"{name}-{dtype}-{batch}-y"], outputs[f"{name}-{dtype}-{batch}-h_n"] = y, h_n
        for activation in ACTIVATIONS:
            dense = cylstm.Dense(19, 37, activation=activation, dtype=dtype, rng=1)
            outputs[f"dense-{dtype}-{activation}"] = dense.forward(4 * draw((23, 19), dtype))
        for activation in cells.ROW_ACTIVATIONS:
            outputs[f"{activation}-{dtype}"] = cylstm.Activation(activation).forward(4 * draw((23, 19), dtype))
        for features in (19, 40):
            norm = cylstm.LayerNorm(features, dtype=dtype)
            outputs[f"layer_norm-{dtype}-{features}"] = norm.forward(3 + draw((23, features), dtype))
            for kind in ("joint", "per_gate"):
                lstm = cylstm.LSTM(7, features, layer_norm=kind, dtype=dtype, rng=1)
                outputs[f"lstm-{dtype}-{features}-{kind}"] = lstm.forward(draw((9, 7, 7), dtype, 2))[0]
        tiny = np.geomspace(1e-300 if dtype == "float64" else 1e-44, 1e-2, 5003)
        x = np.concatenate([np.linspace(-120, 120, 200003), -tiny, tiny, [0.0, -0.0, np.inf, -np.inf]])
        for name in ("relu", "sigmoid", "tanh"):
            outputs[f"{name}-{dtype}-many"] = cylstm.Activation(name).forward(x.astype(dtype))
    return outputs


@pytest.fixture(scope="module")
def outputs_of_levels(tmp_path_factory):
    """level -> outputs_of_this_level() of a process in which that level is forced."""
    package = str(Path(cylstm.__file__).parents[1])
    outputs = {}
    for level in dispatch.supported_levels():
        path = tmp_path_factory.mktemp("levels") / f"{level}.npz"
        search = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        subprocess.run(
            [sys.executable, __file__, path],
            env={**os.environ, "CYLSTM_ISA": level, "PYTHONPATH": search},
            check=True,
            timeout=1800,  # long enough for an emulated processor
        )
        with np.load(path) as file:
            outputs[level] = dict(file)
    return outputs


def test_every_level_with_a_fused_multiply_add_gives_the_same(outputs_of_levels):
    levels = [level for level in outputs_of_levels if level != "baseline"]
    for level in levels[1:]:
        for name, expected in outputs_of_levels[levels[0]].items():
            assert outputs_of_levels[level][name].tobytes() == expected.tobytes(), (level, name)


def test_the_portable_level_is_within_the_tolerance_of_another_order(outputs_of_levels):
    baseline = outputs_of_levels["baseline"]
    for level, outputs in outputs_of_levels.items():
        for name, expected in outputs.items():
            finite = np.isfinite(expected)
            tolerance = TOLERANCES[expected.dtype].forward
            assert_close(baseline[name][finite], expected[finite], tolerance, f"{name} of {level}")


if __name__ == "__main__":
    np.savez(sys.argv[1], **outputs_of_this_level())
