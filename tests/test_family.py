"""GRU and RNN: the promises that the LSTM's tests make of the driver, asked again of the cells that it did not know.

Values against the NumPy reference, gradients also against central differences, bits against the library itself.
"""

import copy
import pickle

import numpy as np
import pytest

import cylstm
from cylstm import reference
from cylstm._core import stack
from cylstm.testing import TOLERANCES, assert_close, gradcheck

CELLS = {
    "gru": (cylstm.GRU, {}),
    "rnn_tanh": (cylstm.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (cylstm.RNN, {"nonlinearity": "relu"}),
}
SIZES = [(1, 1), (3, 5), (7, 33), (20, 100)]
BATCHES = [1, 2, 5, 6, 7, 13, 47, 49]

cells = pytest.mark.parametrize("cell", CELLS)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"I{size[0]}-H{size[1]}")
directions = pytest.mark.parametrize("bidirectional", [False, True])
raggeds = pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])


def make_layer(cell, size, dtype, **options):
    """Its parameters are U(-a, a), a like PyTorch's for small sizes, so that no relu grows without bound."""
    kind, more = CELLS[cell]
    layer = kind(*size, dtype=dtype, **more, **options)
    rng = np.random.default_rng(1)
    bound = min(1.0, 1.7 / np.sqrt(sum(size)))
    with layer.writable() as parameters:
        for name, value in parameters.items():
            parameters[name] = rng.uniform(-bound, bound, value.shape).astype(dtype)
    return layer


def draw(shape, dtype, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def make_problem(cell, size, dtype, steps=7, batch=5, **options):
    """A layer, x, h_0, dy, dh_n."""
    layer = make_layer(cell, size, dtype, **options)
    directions = 1 + layer.bidirectional
    states = (layer.num_layers * directions, batch, size[1])
    x, dy = draw((steps, batch, size[0]), dtype, 2), draw((steps, batch, directions * size[1]), dtype, 3)
    return layer, x, draw(states, dtype, 4), dy, draw(states, dtype, 5)


def ragged_lengths(steps, batch):
    lengths = np.random.default_rng(6).integers(0, steps + 1, batch)
    lengths[-1], lengths[0] = 0, steps
    return lengths


def as_dict(y, h_n, gradients):
    return {
        "y": y,
        "h_n": h_n,
        "dx": gradients.dx,
        "dh_0": gradients.dstate,
        **{f"d{name}": value for name, value in gradients.parameters.items()},
    }


def run(layer, x, h_0, dy, dh_n, lengths=None):
    tape = cylstm.Tape(training=False)
    y, h_n = layer.forward(x, h_0, lengths=lengths, tape=tape)
    return as_dict(y, h_n, layer.backward(tape, dy, dh_n))


def run_reference(cell, layer, x, h_0, dy, dh_n, lengths=None):
    """In float64, then rounded to the layer's dtype."""
    x, h_0, dy, dh_n = (array.astype(np.float64) for array in (x, h_0, dy, dh_n))
    parameters = {name: value.astype(np.float64) for name, value in layer.parameters.items()}
    name = "gru" if cell == "gru" else "rnn"
    options = {} if cell == "gru" else CELLS[cell][1]
    y, h_n, cache = getattr(reference, f"{name}_forward")(parameters, x, h_0, lengths=lengths, **options)
    gradients = getattr(reference, f"{name}_backward")(cache, dy, dh_n)
    return {name: value.astype(layer.dtype) for name, value in as_dict(y, h_n, gradients).items()}


def assert_all_close(actual, desired):
    assert set(actual) == set(desired)
    for name, value in desired.items():
        tolerances = TOLERANCES[value.dtype]
        assert_close(actual[name], value, tolerances.backward if name[0] == "d" else tolerances.forward, name)


def assert_same_bits(actual, expected):
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert actual.tobytes() == expected.tobytes()


# Values and gradients ---------------------------------------------------------------------------


@cells
@dtypes
@directions
@raggeds
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_everything_agrees_with_the_reference(cell, dtype, bidirectional, ragged, num_layers, bias, steps):
    problem = make_problem(
        cell, (3, 5), dtype, steps, num_layers=num_layers, bidirectional=bidirectional, bias=bias
    )
    lengths = ragged_lengths(steps, 5) if ragged else None
    assert_all_close(run(*problem, lengths), run_reference(cell, *problem, lengths))


@cells
@dtypes
@pytest.mark.parametrize("batch", [1, 3, 49])
@pytest.mark.parametrize("hidden_size", [*range(1, 18), 31, 32, 33, 63, 64, 65, 100])
def test_sizes_that_are_no_multiple_of_the_lanes(cell, dtype, batch, hidden_size):
    problem = make_problem(cell, (4, hidden_size), dtype, 3, batch)
    assert_all_close(run(*problem), run_reference(cell, *problem))


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu"])
def test_a_single_bias_is_the_sum_of_two(cell):
    two, x, h_0, dy, dh_n = make_problem(cell, (3, 5), "float64")
    one = make_layer(cell, (3, 5), "float64", bias="single")
    with one.writable() as parameters:
        for name in parameters:
            parameters[name] = two.parameters[name].copy()
        parameters["bias_ih_l0"] += two.parameters["bias_hh_l0"]
    expected = run(two, x, h_0, dy, dh_n)
    assert_same_bits(expected["dbias_ih_l0"], expected.pop("dbias_hh_l0"))
    for name, value in run(one, x, h_0, dy, dh_n).items():
        assert_same_bits(value, expected[name])


@cells
@directions
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("lengths", [None, [1, 0, 1]], ids=["full", "ragged"])
def test_gradients_agree_with_central_differences(cell, bidirectional, steps, lengths):
    layer, x, h_0, _, _ = make_problem(
        cell, (3, 2), "float64", steps, 3, num_layers=2, bidirectional=bidirectional
    )
    gradcheck(layer, x, h_0, lengths=None if lengths is None else [min(n * steps, steps) for n in lengths])


@cells
def test_dropout_between_layers_has_its_gradient(cell):
    layer, x, h_0, _, _ = make_problem(cell, (3, 4), "float64", 3, 3, num_layers=2, dropout=0.4)
    gradcheck(layer, x, h_0, tape=lambda: cylstm.Tape(seed=1))


@cells
def test_sums_of_h_that_overflow_give_no_silent_zero(cell):
    """An infinite input makes NaN or a bound, as PyTorch's equations do, and leaves the other rows alone."""
    layer, x, _, _, _ = make_problem(cell, (3, 20), "float32")
    alone, _ = layer.forward(x[:, 1:])
    x[2, 0] = np.inf
    y, _ = layer.forward(x)
    assert_same_bits(np.ascontiguousarray(y[:, 1:]), alone)
    assert not np.isfinite(y[2, 0]).all() or cell != "rnn_relu"


# The same bits ----------------------------------------------------------------------------------


@cells
@sizes
@dtypes
@pytest.mark.parametrize("num_layers", [1, 2])
def test_step_and_run_are_forward(cell, size, dtype, num_layers):
    layer, x, h_0, _, _ = make_problem(cell, size, dtype, 12, 1, num_layers=num_layers)
    y, h_n = layer.forward(x[:, 0], h_0[:, 0])
    stepped, whole = layer.stream(), layer.stream()
    stepped.reset(h_0[:, 0])
    whole.reset(h_0[:, 0])
    out = np.empty(size[1], dtype)
    steps = [(stepped.step(x_t, out=out) if t % 2 else stepped.step(x_t)).copy() for t, x_t in enumerate(x[:, 0])]
    assert_same_bits(np.stack(steps), y)
    assert_same_bits(stepped.state, h_n)
    assert_same_bits(whole.run(x[:5, 0]), y[:5])
    assert_same_bits(whole.run(x[5:, 0]), y[5:])
    assert_same_bits(whole.state, h_n)


@cells
@sizes
@dtypes
@directions
def test_a_row_alone_is_that_row_in_a_batch_of_any_size(cell, size, dtype, bidirectional):
    layer, x, h_0, _, _ = make_problem(cell, size, dtype, 6, max(BATCHES), bidirectional=bidirectional)
    lengths = ragged_lengths(6, max(BATCHES))
    alone = [
        layer.forward(x[:, b : b + 1], h_0[:, b : b + 1], lengths=lengths[b : b + 1]) for b in range(max(BATCHES))
    ]
    for batch in BATCHES:
        y, h_n = layer.forward(x[:, :batch], h_0[:, :batch], lengths=lengths[:batch])
        assert_same_bits(y, np.concatenate([y_1 for y_1, _ in alone[:batch]], axis=1))
        assert_same_bits(h_n, np.concatenate([h_1 for _, h_1 in alone[:batch]], axis=1))


@cells
@sizes
@dtypes
@pytest.mark.parametrize("batch", [1, 7, 50])
def test_a_tape_changes_nothing(cell, size, dtype, batch):
    layer, x, h_0, _, _ = make_problem(cell, size, dtype, 6, batch, num_layers=2, bidirectional=True)
    y, h_n = layer.forward(x, h_0)
    y_taped, h_taped = layer.forward(x, h_0, tape=cylstm.Tape())
    assert_same_bits(y_taped, y)
    assert_same_bits(h_taped, h_n)


@cells
@dtypes
@directions
@raggeds
def test_the_number_of_threads_changes_nothing(cell, dtype, bidirectional, ragged, monkeypatch):
    monkeypatch.setattr(stack, "PARALLEL_OPERATIONS", 1000)
    problem = make_problem(cell, (9, 20), dtype, 9, 30, bidirectional=bidirectional)
    lengths = ragged_lengths(9, 30) if ragged else None
    before = cylstm.get_num_threads()
    try:
        cylstm.set_num_threads(1)
        expected = run(*problem, lengths)
        for threads in (2, 3, 4):
            cylstm.set_num_threads(threads)
            found = run(*problem, lengths)
            for name, value in expected.items():
                assert_same_bits(found[name], value)
    finally:
        cylstm.set_num_threads(before)


@cells
@directions
@pytest.mark.parametrize("taped", [False, True])
def test_what_the_padding_holds_reaches_nothing(cell, bidirectional, taped):
    layer, x, h_0, dy, dh_n = make_problem(cell, (3, 5), "float32", bidirectional=bidirectional)
    lengths = ragged_lengths(7, 5)
    past = np.arange(7)[:, None] >= lengths
    expected = run(layer, x, h_0, dy, dh_n, lengths)
    x[past], dy[past] = np.nan, np.inf
    if taped:
        for name, value in run(layer, x, h_0, dy, dh_n, lengths).items():
            assert_same_bits(value, expected[name])
    else:
        y, h_n = layer.forward(x, h_0, lengths=lengths)
        assert_same_bits(y, expected["y"])
        assert_same_bits(h_n, expected["h_n"])


# The interface ----------------------------------------------------------------------------------


@cells
def test_empty_inputs_return_the_initial_state(cell):
    layer, _, h_0, _, _ = make_problem(cell, (3, 5), "float32")
    y, h_n = layer.forward(np.empty((0, 5, 3), np.float32), h_0)
    assert y.shape == (0, 5, 5)
    assert_same_bits(h_n, h_0)
    y, h_n = layer.forward(np.empty((4, 0, 3), np.float32))
    assert y.shape == (4, 0, 5) and h_n.shape == (1, 0, 5)


@cells
def test_layers_and_streams_are_copied_and_pickled(cell):
    layer, x, _, _, _ = make_problem(cell, (3, 5), "float32", bias=False)
    stream = layer.stream(5)
    stream.run(x)
    for other in (pickle.loads(pickle.dumps(stream)), copy.deepcopy(stream), stream.copy()):
        assert repr(other.layer) == repr(layer)
        assert_same_bits(other.state, stream.state)
        assert_same_bits(other.copy().run(x), stream.copy().run(x))


def test_repr_is_the_call():
    assert repr(cylstm.GRU(3, 5, 2)) == "GRU(3, 5, num_layers=2)"
    assert repr(cylstm.RNN(3, 5)) == "RNN(3, 5)"
    assert repr(cylstm.RNN(3, 5, nonlinearity="relu", bias="single")) == "RNN(3, 5, bias='single', nonlinearity='relu')"
    assert cylstm.RNN(3, 5, nonlinearity="relu").nonlinearity == "relu"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cylstm.RNN(3, 5, nonlinearity="tan"), ValueError, "nonlinearity is 'tan', expected one of sigm"),
        (lambda: cylstm.RNN(3, 5, nonlinearity=None), TypeError, "nonlinearity is None, expected a name"),
        (lambda: cylstm.GRU(3, 5, bias="single"), ValueError, "bias is 'single', but with reset_after"),
        (lambda: cylstm.GRU(3, 5, reset_after=1), TypeError, "reset_after is 1, expected True or False"),
        (lambda: cylstm.GRU(3, 5, proj_size=2), TypeError, "proj_size"),
    ],
)
def test_wrong_options_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@cells
def test_a_state_is_one_array(cell):
    layer, x, h_0, dy, _ = make_problem(cell, (3, 5), "float32")
    tape = cylstm.Tape()
    layer.forward(x, tape=tape)
    for call in (
        lambda state: layer.forward(x, state),
        lambda state: layer.stream(5).reset(state),
        lambda state: layer.backward(tape, dy, state),
    ):
        with pytest.raises(TypeError, match="is a tuple, expected one array: this cell has no c"):
            call((h_0, h_0))
        with pytest.raises(ValueError, match=r"state has shape \(1, 4, 5\), expected \(num_layers"):
            call(h_0[:, :4])
