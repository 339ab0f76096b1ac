"""Laws that hold for every LSTM and every input, on examples that Hypothesis draws.

All but the last compare bytes: the order of accumulation is fixed, so two ways to the same sums give the
same bits.
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import cylstm
from cylstm.testing import TOLERANCES, assert_close

settings.register_profile("here", max_examples=25, deadline=None, derandomize=True, database=None)
properties = settings.get_profile("here")


@st.composite
def problems(draw, num_layers=None, bidirectional=None, least_batch=0):
    """A layer, x, a state, lengths: of any size, lengths None in half of all."""
    lstm = cylstm.LSTM(
        draw(st.integers(1, 6)),
        draw(st.integers(1, 40)),
        num_layers=draw(st.integers(1, 3)) if num_layers is None else num_layers,
        bias=draw(st.sampled_from([True, "single", False])),
        bidirectional=draw(st.booleans()) if bidirectional is None else bidirectional,
        dtype=draw(st.sampled_from(["float32", "float64"])),
        rng=draw(st.integers(0, 1000)),
    )
    steps, batch = draw(st.integers(0, 9)), draw(st.integers(least_batch, 15))
    states = (lstm.num_layers * (1 + lstm.bidirectional), batch, lstm.hidden_size)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    scale = draw(st.sampled_from([0.0, 1.0, 100.0]))
    x = (scale * rng.standard_normal((steps, batch, lstm.input_size))).astype(lstm.dtype)
    state = tuple(rng.standard_normal(states).astype(lstm.dtype) for _ in range(2))
    lengths = draw(st.none() | st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    return lstm, x, state, None if lengths is None else np.array(lengths, np.intp)


def assert_same_bits(actual, expected):
    """Both (y, (h_n, c_n))."""
    for one, other in zip((actual[0], *actual[1]), (expected[0], *expected[1]), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()


def one_layer(lstm, layer, direction):
    """The layer of one direction with the parameters that ``lstm`` has there, and where its state is."""
    directions = 1 + lstm.bidirectional
    suffix = f"_l{layer}{'_reverse' if direction else ''}"
    single = cylstm.LSTM(
        lstm.input_size if layer == 0 else directions * lstm.hidden_size,
        lstm.hidden_size,
        bias=lstm.bias,
        dtype=lstm.dtype.name,
    )
    names = [name for name in lstm.parameters if name.endswith(suffix)]
    single.load_state_dict({name.removesuffix(suffix) + "_l0": lstm.parameters[name] for name in names})
    at = layer * directions + direction
    return single, slice(at, at + 1)


def flipped(x, lengths):
    """Each row's valid steps in reverse; what is past them stays where it is."""
    flip = x.copy()
    for row in range(x.shape[1]):
        length = len(x) if lengths is None else lengths[row]
        flip[:length, row] = x[:length, row][::-1]
    return flip


def chained(lstm, x, state, lengths):
    """The forward of ``lstm``, by layers of one direction that know nothing of each other."""
    ends = []
    for layer in range(lstm.num_layers):
        halves = []
        for direction in range(1 + lstm.bidirectional):
            single, at = one_layer(lstm, layer, direction)
            begin = tuple(s[at] for s in state)
            y, end = single.forward(flipped(x, lengths) if direction else x, begin, lengths=lengths)
            halves.append(flipped(y, lengths) if direction else y)
            ends.append(end)
        x = np.concatenate(halves, axis=2)
    return x, tuple(np.concatenate(arrays) for arrays in zip(*ends, strict=True))


@properties
@given(problems(bidirectional=False), st.data())
def test_a_sequence_may_be_split_anywhere(problem, data):
    lstm, x, state, lengths = problem
    cut = data.draw(st.integers(0, len(x)))
    first = second = None
    if lengths is not None:
        first, second = np.minimum(lengths, cut), np.maximum(lengths - cut, 0)
    y_1, between = lstm.forward(x[:cut], state, lengths=first)
    y_2, state_n = lstm.forward(x[cut:], between, lengths=second)
    assert_same_bits((np.concatenate([y_1, y_2]), state_n), lstm.forward(x, state, lengths=lengths))


@properties
@given(problems(), st.data())
def test_a_batch_may_be_permuted(problem, data):
    lstm, x, state, lengths = problem
    order = np.array(data.draw(st.permutations(range(x.shape[1]))), np.intp)
    y, state_n = lstm.forward(x, state, lengths=lengths)
    result = lstm.forward(
        x[:, order],
        tuple(s[:, order] for s in state),
        lengths=None if lengths is None else lengths[order],
    )
    assert_same_bits(result, (y[:, order], tuple(s[:, order] for s in state_n)))


@properties
@given(problems(), st.data())
def test_a_batch_may_be_split_anywhere(problem, data):
    lstm, x, state, lengths = problem
    cut = data.draw(st.integers(0, x.shape[1]))
    parts = [
        lstm.forward(
            x[:, rows],
            tuple(s[:, rows] for s in state),
            lengths=None if lengths is None else lengths[rows],
        )
        for rows in (slice(cut), slice(cut, None))
    ]
    y = np.concatenate([part[0] for part in parts], axis=1)
    state_n = tuple(np.concatenate([part[1][k] for part in parts], axis=1) for k in range(2))
    assert_same_bits((y, state_n), lstm.forward(x, state, lengths=lengths))


@properties
@given(problems(), st.integers(0, 20), st.sampled_from([0.0, np.nan, np.inf]))
def test_a_sequence_may_be_padded_with_anything(problem, more, filling):
    lstm, x, state, lengths = problem
    y, state_n = lstm.forward(x, state, lengths=lengths)
    padding = np.full((more, *x.shape[1:]), filling, x.dtype)
    lengths = np.full(x.shape[1], len(x), np.intp) if lengths is None else lengths
    y_padded, state_padded = lstm.forward(np.concatenate([x, padding]), state, lengths=lengths)
    assert_same_bits((y_padded[: len(x)], state_padded), (y, state_n))
    assert not y_padded[len(x) :].any()


@properties
@given(problems(num_layers=1, bidirectional=True))
def test_the_reverse_direction_is_a_forward_one_over_flipped_steps(problem):
    lstm, x, state, lengths = problem
    single, at = one_layer(lstm, 0, 1)
    y, state_n = single.forward(flipped(x, lengths), tuple(s[at] for s in state), lengths=lengths)
    y_both, both_n = lstm.forward(x, state, lengths=lengths)
    reverse = np.ascontiguousarray(y_both[:, :, lstm.hidden_size :])
    assert_same_bits((reverse, tuple(s[at] for s in both_n)), (flipped(y, lengths), state_n))


@properties
@given(problems(bidirectional=False))
def test_a_stack_is_a_chain_of_single_layers(problem):
    lstm, x, state, lengths = problem
    assert_same_bits(lstm.forward(x, state, lengths=lengths), chained(lstm, x, state, lengths))


@properties
@given(problems(bidirectional=True))
def test_a_bidirectional_stack_is_a_chain_of_pairs_of_single_layers(problem):
    lstm, x, state, lengths = problem
    assert_same_bits(lstm.forward(x, state, lengths=lengths), chained(lstm, x, state, lengths))


@properties
@given(problems(bidirectional=False, least_batch=1))
def test_a_stream_is_forward(problem):
    lstm, x, state, _ = problem
    expected = lstm.forward(x, state)
    stream = lstm.stream(x.shape[1])
    stream.reset(state)
    y = np.empty_like(expected[0])
    for t, x_t in enumerate(x):
        stream.step(x_t, out=y[t])
    assert_same_bits((y, stream.state), expected)


@properties
@given(problems())
def test_a_tape_changes_nothing(problem):
    lstm, x, state, lengths = problem
    expected = lstm.forward(x, state, lengths=lengths)
    assert_same_bits(lstm.forward(x, state, lengths=lengths, tape=cylstm.Tape()), expected)


@properties
@given(problems(), st.floats(-4, 4), st.floats(-4, 4))
def test_backward_is_linear_in_the_gradient_it_is_given(problem, a, b):
    lstm, x, state, lengths = problem
    rng = np.random.default_rng(3)
    shape = (*x.shape[:2], (1 + lstm.bidirectional) * lstm.hidden_size)
    one, other = (rng.standard_normal(shape).astype(x.dtype) for _ in range(2))

    def gradients(dy):
        tape = cylstm.Tape()
        lstm.forward(x, state, lengths=lengths, tape=tape)
        return lstm.backward(tape, dy.astype(x.dtype))

    combined = gradients(a * one + b * other)
    expected = a * gradients(one) + b * gradients(other)
    # sums of up to eight times what the table's tolerance is for
    tolerance = 8 * TOLERANCES[x.dtype].backward
    assert_close(combined.dx, expected.dx, tolerance, "dx")
    for name, value in expected.parameters.items():
        assert_close(combined.parameters[name], value, tolerance, f"d{name}")
