"""Tests of the NumPy reference and of the gradient checks: the oracle before what it judges.

Three witnesses share no code with it: an LSTM of one unit worked by hand, files made with PyTorch
(golden/make_torch_lstm.py), and central differences.
"""

import math
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cylstm import reference
from cylstm.testing import TOLERANCES, assert_close, gradcheck, numerical_gradient

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

FLOAT64 = TOLERANCES[np.dtype("float64")]
GOLDEN = sorted((Path(__file__).parent / "golden").glob("torch_lstm_*.npz"))

# T, B, I, H of most tests: all different, so that no two of these axes can be confused
SEQ_LEN, BATCH, INPUT_SIZE, HIDDEN_SIZE = 7, 4, 3, 2
LENGTHS = [3, 0, 7, 1]

stacks = pytest.mark.parametrize("num_layers", [1, 2])
directions = pytest.mark.parametrize("bidirectional", [False, True])


def make_parameters(
    rng, *, num_layers=1, bidirectional=False, bias=True, dtype="float64", hidden_size=HIDDEN_SIZE
):
    """Random parameters; ``bias`` as in cylstm.LSTM: True, "single" or False."""
    parameters = {}
    width = INPUT_SIZE
    for k in range(num_layers):
        for suffix in ("", "_reverse") if bidirectional else ("",):
            shapes = {
                "weight_ih": (4 * hidden_size, width),
                "weight_hh": (4 * hidden_size, hidden_size),
            }
            if bias:
                shapes["bias_ih"] = (4 * hidden_size,)
            if bias is True:
                shapes["bias_hh"] = (4 * hidden_size,)
            for name, shape in shapes.items():
                parameters[f"{name}_l{k}{suffix}"] = rng.uniform(-1, 1, shape).astype(dtype)
        width = (2 if bidirectional else 1) * hidden_size
    return parameters


def make_problem(seed=0, *, seq_len=SEQ_LEN, dtype="float64", **options):
    """Parameters, an input, an initial state, and the gradients of y and of the final state."""
    rng = np.random.default_rng(seed)
    parameters = make_parameters(rng, dtype=dtype, **options)
    D = 2 if options.get("bidirectional") else 1
    L = options.get("num_layers", 1)

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    return SimpleNamespace(
        parameters=parameters,
        x=draw(seq_len, BATCH, INPUT_SIZE),
        state=(draw(L * D, BATCH, HIDDEN_SIZE), draw(L * D, BATCH, HIDDEN_SIZE)),
        dy=draw(seq_len, BATCH, D * HIDDEN_SIZE),
        dstate=(draw(L * D, BATCH, HIDDEN_SIZE), draw(L * D, BATCH, HIDDEN_SIZE)),
    )


def run(problem, **options):
    """Every output and every gradient, as a dict of name to array."""
    y, (h_n, c_n), cache = reference.lstm_forward(
        problem.parameters, problem.x, problem.state, **options
    )
    dx, (dh_0, dc_0), dparameters = reference.lstm_backward(cache, problem.dy, problem.dstate)
    return {
        **{"y": y, "h_n": h_n, "c_n": c_n, "dx": dx, "dh_0": dh_0, "dc_0": dc_0},
        **{f"d{name}": value for name, value in dparameters.items()},
    }


def past_the_end(lengths, seq_len=SEQ_LEN):
    """(T, B), True where the step is past the sequence's length."""
    return np.arange(seq_len)[:, None] >= np.asarray(lengths)


class ReferenceLayer:
    """The reference behind the interface of a layer, for gradcheck; a tape is a list."""

    def __init__(self, parameters):
        self.parameters = parameters

    def forward(self, x, state=None, *, lengths=None, tape=None):
        y, state, cache = reference.lstm_forward(self.parameters, x, state, lengths=lengths)
        tape.append(cache)
        return y, state

    def backward(self, tape, dy, dstate=None):
        return reference.lstm_backward(tape.pop(), dy, dstate)

    @contextmanager
    def writable(self):
        parameters = {name: value.copy() for name, value in self.parameters.items()}
        yield parameters
        self.parameters = parameters


# Activations ------------------------------------------------------------------------------------


def test_sigmoid_of_zero_is_one_half():
    assert reference.sigmoid(0.0) == 0.5


@pytest.mark.parametrize("x", [-1.0, -17.0, -18.0, -37.0, -100.0, -700.0])
def test_sigmoid_has_full_relative_accuracy_in_the_lower_tail(x):
    # each side rounds an exponential, a sum and a quotient
    exact = 1 / (1 + math.exp(-x))
    assert_allclose(reference.sigmoid(x), exact, rtol=4 * np.finfo(np.float64).eps)


def test_sigmoid_of_float32_rounds_that_of_float64():
    x = np.linspace(-87, 20, 10001, dtype=np.float32)  # exp(-87) is float32's last normal power
    exact = reference.sigmoid(x.astype(np.float64))
    assert_allclose(reference.sigmoid(x), exact, rtol=4 * np.finfo(np.float32).eps)


def test_sigmoid_saturates_without_a_warning():
    x = np.array([-np.inf, -1e300, 1e300, np.inf])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert_array_equal(reference.sigmoid(x), [0.0, 0.0, 1.0, 1.0])


@pytest.mark.parametrize("activation", [reference.sigmoid, reference.relu, reference.softmax])
def test_an_activation_of_nan_is_nan(activation):
    assert np.isnan(activation(np.array([np.nan]))).all()


def test_softmax_of_logarithms_is_their_numbers_in_proportion():
    x = np.log(np.array([[1.0, 2.0, 5.0], [6.0, 1.0, 1.0]]))
    assert_allclose(reference.softmax(x), np.array([[1, 2, 5], [6, 1, 1]]) / 8, rtol=1e-15)


def test_softmax_of_large_numbers_does_not_overflow():
    assert_array_equal(reference.softmax(np.array([1e4, -1e4])), [1.0, 0.0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("activation", [reference.sigmoid, reference.relu, reference.softmax])
def test_activations_keep_the_dtype(activation, dtype):
    assert activation(np.array([-1, 0, 2], dtype)).dtype == dtype


# One unit, two steps, by hand -------------------------------------------------------------------
#
# The pre-activations a are chosen where the activations are simple:
#
#     sigmoid(0) = 1/2    sigmoid(ln 3) = 3/4    sigmoid(-ln 3) = 1/4
#     tanh(ln 2) = (2 - 1/2) / (2 + 1/2) = 0.6    tanh(ln 3) = (3 - 1/3) / (3 + 1/3) = 0.8
#
# Step 1, with x = 1, h_0 = 0.5, c_0 = 2 ln 2 - 1.2:
#     i = sigmoid(ln 3) = 0.75   f = sigmoid(0) = 0.5   g = tanh(ln 3) = 0.8   o = sigmoid(0) = 0.5
#     c_1 = f c_0 + i g = (ln 2 - 0.6) + 0.6 = ln 2
#     h_1 = o tanh(c_1) = 0.5 * 0.6          = 0.3
# Step 2, with x = -1:
#     i = sigmoid(0) = 0.5   f = sigmoid(ln 3) = 0.75   g = ln 2 / 2   o = sigmoid(-ln 3) = 0.25
#     c_2 = f c_1 + i g = 0.75 ln 2 + 0.25 ln 2 = ln 2
#     h_2 = o tanh(c_2) = 0.25 * 0.6            = 0.15
#
# The weights w (on x), u (on h) and b that give these pre-activations, u chosen freely:
#     a_1 = w + 0.5 u + b,  a_2 = -w + 0.3 u + b
#     w = (a_1 - a_2 - 0.2 u) / 2,  b = (a_1 + a_2 - 0.8 u) / 2, of which b_ih takes a quarter

LN2, LN3 = math.log(2), math.log(3)


def by_hand():
    """Parameters, x and state of the example above, and w; all in the order i, f, g, o."""
    a_1 = np.array([LN3, 0.0, LN3, 0.0])
    a_2 = np.array([0.0, LN3, math.atanh(LN2 / 2), -LN3])
    u = np.array([1.0, -1.0, 0.5, 2.0])
    w = (a_1 - a_2 - 0.2 * u) / 2
    b = (a_1 + a_2 - 0.8 * u) / 2
    parameters = {
        "weight_ih_l0": w.reshape(4, 1),
        "weight_hh_l0": u.reshape(4, 1),
        "bias_ih_l0": b / 4,
        "bias_hh_l0": b * 3 / 4,
    }
    x = np.array([1.0, -1.0]).reshape(2, 1, 1)
    state = (np.array([[[0.5]]]), np.array([[[2 * LN2 - 1.2]]]))
    return parameters, x, state, w


def test_two_steps_of_one_unit_give_the_numbers_worked_by_hand():
    parameters, x, state, _ = by_hand()
    y, (h_n, c_n), _ = reference.lstm_forward(parameters, x, state)
    assert_allclose(y.ravel(), [0.3, 0.15], rtol=1e-14)
    assert_allclose(h_n.ravel(), [0.15], rtol=1e-14)
    assert_allclose(c_n.ravel(), [LN2], rtol=1e-14)


def test_one_step_of_the_cell_gives_the_gates_worked_by_hand():
    parameters, x, (h_0, c_0), _ = by_hand()
    weights = {name.removesuffix("_l0"): value for name, value in parameters.items()}
    h, c, gates = reference.lstm_cell(x[0], h_0[0], c_0[0], **weights)
    assert_allclose(gates, [[0.75, 0.5, 0.8, 0.5]], rtol=1e-14)
    assert_allclose([h, c], [[[0.3]], [[LN2]]], rtol=1e-14)


def test_two_steps_of_one_unit_give_the_gradients_worked_by_hand():
    # The loss has dy_1 = 0.3 + (ln 2 + ln^2 2) / 16, dy_2 = 1.5, dh_n = 0.5, dc_n = 0.68.
    #
    # Step 2:  dh_2 = dy_2 + dh_n                = 2
    #          do   = dh_2 tanh(c_2) = 2 * 0.6   = 1.2       da_o = 1.2 * 1/4 * 3/4     = 0.225
    #          dc_2 = dc_n + dh_2 o (1 - 0.6^2)
    #               = 0.68 + 2 * 0.25 * 0.64     = 1
    #          di   = dc_2 g                     = ln 2 / 2  da_i = ln 2 / 2 * 1/2 * 1/2 = ln 2 / 8
    #          df   = dc_2 c_1                   = ln 2      da_f = ln 2 * 3/4 * 1/4 = 3 ln 2 / 16
    #          dg   = dc_2 i                     = 0.5       da_g = (1 - (ln 2 / 2)^2) / 2
    #          dc_1 = dc_2 f                     = 0.75
    # Step 1:  dh_1 = dy_1 + da_i - da_f + 0.5 da_g + 2 da_o       (u = 1, -1, 0.5, 2)
    #               = dy_1 + (2 - 3) ln 2 / 16 + 0.25 - ln^2 2 / 16 + 0.45
    #               = dy_1 + 0.7 - (ln 2 + ln^2 2) / 16 = 1
    #          do   = dh_1 tanh(c_1)             = 0.6       da_o = 0.6 * 1/2 * 1/2     = 0.15
    #          dc_1 = 0.75 + 1 * 0.5 * 0.64      = 1.07
    #          di   = 1.07 * 0.8                 = 0.856     da_i = 0.856 * 3/4 * 1/4   = 0.1605
    #          df   = 1.07 c_0                               da_f = 1.07 c_0 / 4        = 0.2675 c_0
    #          dg   = 1.07 * 0.75                = 0.8025    da_g = 0.8025 (1 - 0.8^2)  = 0.2889
    #          dc_0 = 1.07 * 0.5                 = 0.535
    #          dh_0 = 0.1605 - 0.2675 c_0 + 0.5 * 0.2889 + 2 * 0.15 = 0.60495 - 0.2675 c_0
    parameters, x, state, w = by_hand()
    c_0 = 2 * LN2 - 1.2
    da_1 = np.array([0.1605, 0.2675 * c_0, 0.2889, 0.15])
    da_2 = np.array([LN2 / 8, 3 * LN2 / 16, (1 - LN2**2 / 4) / 2, 0.225])

    _, _, cache = reference.lstm_forward(parameters, x, state)
    dy = np.array([0.3 + (LN2 + LN2**2) / 16, 1.5]).reshape(2, 1, 1)
    gradients = reference.lstm_backward(cache, dy, (np.array([[[0.5]]]), np.array([[[0.68]]])))

    dh_0, dc_0 = gradients.dstate
    assert_allclose(dc_0.ravel(), [0.535], rtol=1e-13)
    assert_allclose(dh_0.ravel(), [0.60495 - 0.2675 * c_0], rtol=1e-13)
    assert_allclose(gradients.dx.ravel(), [w @ da_1, w @ da_2], rtol=1e-13)
    dparameters = {name: value.ravel() for name, value in gradients.parameters.items()}
    # x is 1 and -1, h before the steps is 0.5 and 0.3
    assert_allclose(dparameters["weight_ih_l0"], da_1 - da_2, rtol=1e-13)
    assert_allclose(dparameters["weight_hh_l0"], 0.5 * da_1 + 0.3 * da_2, rtol=1e-13)
    assert_allclose(dparameters["bias_ih_l0"], da_1 + da_2, rtol=1e-13)
    assert_allclose(dparameters["bias_hh_l0"], da_1 + da_2, rtol=1e-13)


# PyTorch ----------------------------------------------------------------------------------------


def test_the_golden_files_are_there():
    assert len(GOLDEN) == 7  # as many as make_torch_lstm.py has configurations


@pytest.mark.parametrize("kind", ["full", "packed"])
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem.removeprefix("torch_lstm_"))
def test_outputs_and_gradients_are_those_of_pytorch(path, kind):
    with np.load(path) as file:
        golden = dict(file)
    prefix = "parameters."
    problem = SimpleNamespace(
        parameters={k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)},
        x=golden["x"],
        state=(golden["h_0"], golden["c_0"]),
        dy=golden["dy"],
        dstate=(golden["dh_n"], golden["dc_n"]),
    )
    results = run(problem, lengths=golden["lengths"] if kind == "packed" else None)
    expected = {k.removeprefix(f"{kind}."): v for k, v in golden.items() if k.startswith(kind)}
    assert set(results) == set(expected)
    tolerances = TOLERANCES[problem.x.dtype]
    for name, value in results.items():
        is_output = name in ("y", "h_n", "c_n")
        tolerance = tolerances.forward if is_output else tolerances.backward
        assert_close(value, expected[name], tolerance, name)


# Central differences ----------------------------------------------------------------------------


@pytest.mark.parametrize("seq_len", [1, 2, 4])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("bias", [True, "single", False])
@directions
@stacks
def test_every_gradient_agrees_with_central_differences(
    num_layers, bidirectional, bias, ragged, seq_len
):
    problem = make_problem(
        seq_len=seq_len, num_layers=num_layers, bidirectional=bidirectional, bias=bias
    )
    lengths = [min(length, seq_len) for length in LENGTHS] if ragged else None
    layer = ReferenceLayer(problem.parameters)
    gradcheck(layer, problem.x, problem.state, lengths=lengths, tape=list)


def test_gradients_through_dropout_masks_agree_with_central_differences():
    problem = make_problem(num_layers=2, bidirectional=True)
    rng = np.random.default_rng(1)
    masks = [2.0 * rng.integers(0, 2, (SEQ_LEN, BATCH, 2 * HIDDEN_SIZE))]
    options = {"lengths": LENGTHS, "dropout_masks": masks}

    def loss(x, parameters):
        y, _, _ = reference.lstm_forward(parameters, x, problem.state, **options)
        return np.sum(problem.dy * y)

    _, _, cache = reference.lstm_forward(problem.parameters, problem.x, problem.state, **options)
    gradients = reference.lstm_backward(cache, problem.dy)
    wanted = numerical_gradient(lambda x: loss(x, problem.parameters), problem.x)
    assert_close(gradients.dx, wanted, FLOAT64.central, "dx")
    for name, value in problem.parameters.items():
        wanted = numerical_gradient(
            lambda w, name=name: loss(problem.x, {**problem.parameters, name: w}), value
        )
        assert_close(gradients.parameters[name], wanted, FLOAT64.central, f"d{name}")


# Directions and layers --------------------------------------------------------------------------


def test_the_reverse_direction_is_the_forward_one_on_the_flipped_input():
    problem = make_problem(bidirectional=True)
    y, (h_n, c_n), _ = reference.lstm_forward(problem.parameters, problem.x, problem.state)
    reverse = {
        name.removesuffix("_reverse"): value
        for name, value in problem.parameters.items()
        if name.endswith("_reverse")
    }
    state = tuple(s[1:] for s in problem.state)
    flipped_y, (flipped_h, flipped_c), _ = reference.lstm_forward(reverse, problem.x[::-1], state)
    assert_array_equal(y[:, :, HIDDEN_SIZE:], flipped_y[::-1])
    assert_array_equal(h_n[1:], flipped_h)
    assert_array_equal(c_n[1:], flipped_c)


def test_two_layers_are_one_after_the_other():
    problem = make_problem(num_layers=2)
    h_0, c_0 = problem.state
    y = problem.x
    for k in range(2):
        layer = {
            name.replace(f"_l{k}", "_l0"): value
            for name, value in problem.parameters.items()
            if name.endswith(f"_l{k}")
        }
        y, _, _ = reference.lstm_forward(layer, y, (h_0[k : k + 1], c_0[k : k + 1]))
    assert_array_equal(reference.lstm_forward(problem.parameters, problem.x, problem.state)[0], y)


def test_a_mask_of_zeros_hides_the_first_layer_from_the_second():
    problem = make_problem(num_layers=2)
    mask = np.zeros((SEQ_LEN, BATCH, HIDDEN_SIZE))
    options = {"dropout_masks": [mask]}
    y, _, _ = reference.lstm_forward(problem.parameters, problem.x, **options)
    other_y, _, _ = reference.lstm_forward(problem.parameters, problem.x + 1, **options)
    assert_array_equal(y, other_y)


def test_a_mask_of_ones_changes_nothing():
    problem = make_problem(num_layers=2)
    mask = np.ones((SEQ_LEN, BATCH, HIDDEN_SIZE))
    results, masked = run(problem), run(problem, dropout_masks=[mask])
    for name, value in results.items():
        assert_array_equal(masked[name], value)


def test_a_sequence_cut_in_two_is_the_whole_sequence():
    problem = make_problem(num_layers=2)
    y, state, _ = reference.lstm_forward(problem.parameters, problem.x, problem.state)
    first, middle, _ = reference.lstm_forward(problem.parameters, problem.x[:3], problem.state)
    second, last, _ = reference.lstm_forward(problem.parameters, problem.x[3:], middle)
    assert_array_equal(np.concatenate([first, second]), y)
    assert_array_equal(last, state)


def test_a_single_bias_is_the_sum_of_two():
    problem = make_problem()
    parameters = dict(problem.parameters)
    y, _, _ = reference.lstm_forward(parameters, problem.x)
    parameters["bias_ih_l0"] = parameters["bias_ih_l0"] + parameters.pop("bias_hh_l0")
    single_y, _, _ = reference.lstm_forward(parameters, problem.x)
    assert_close(single_y, y, FLOAT64.forward, "y")


def test_an_omitted_state_is_zero():
    problem = make_problem(num_layers=2, bidirectional=True)
    y, _, _ = reference.lstm_forward(problem.parameters, problem.x)
    zeros = tuple(np.zeros_like(s) for s in problem.state)
    zeros_y, _, _ = reference.lstm_forward(problem.parameters, problem.x, zeros)
    assert_array_equal(y, zeros_y)


@pytest.mark.parametrize("omitted", ["dy", "dstate"])
def test_an_omitted_gradient_is_zero(omitted):
    problem = make_problem(num_layers=2, bidirectional=True)
    _, _, cache = reference.lstm_forward(problem.parameters, problem.x, problem.state)
    zeros = {"dy": np.zeros_like(problem.dy), "dstate": (np.zeros_like(problem.state[0]),) * 2}
    given = {"dy": problem.dy, "dstate": problem.dstate}
    omitting = reference.lstm_backward(cache, **{**given, omitted: None})
    with_zeros = reference.lstm_backward(cache, **{**given, omitted: zeros[omitted]})
    assert_array_equal(omitting.dx, with_zeros.dx)
    assert_array_equal(omitting.dstate, with_zeros.dstate)
    for name, value in with_zeros.parameters.items():
        assert_array_equal(omitting.parameters[name], value)


# Lengths ----------------------------------------------------------------------------------------


@stacks
@directions
def test_a_ragged_batch_is_each_sequence_alone_cut_to_its_length(num_layers, bidirectional):
    problem = make_problem(num_layers=num_layers, bidirectional=bidirectional)
    batch = run(problem, lengths=LENGTHS)
    totals = {}
    for b, length in enumerate(LENGTHS):
        alone = run(
            SimpleNamespace(
                parameters=problem.parameters,
                x=problem.x[:length, b : b + 1],
                state=tuple(s[:, b : b + 1] for s in problem.state),
                dy=problem.dy[:length, b : b + 1],
                dstate=tuple(s[:, b : b + 1] for s in problem.dstate),
            )
        )
        for name in ("y", "dx"):
            assert_close(batch[name][:length, b], alone.pop(name)[:, 0], FLOAT64.backward, name)
        for name in ("h_n", "c_n", "dh_0", "dc_0"):
            assert_close(batch[name][:, b], alone.pop(name)[:, 0], FLOAT64.backward, name)
        for name, value in alone.items():
            totals[name] = totals.get(name, 0) + value
    for name, total in totals.items():
        assert_close(batch[name], total, FLOAT64.backward, name)


@directions
def test_y_and_dx_are_zero_past_a_length(bidirectional):
    problem = make_problem(num_layers=2, bidirectional=bidirectional)
    results = run(problem, lengths=LENGTHS)
    padding = past_the_end(LENGTHS)
    assert not results["y"][padding].any()
    assert not results["dx"][padding].any()
    assert results["y"][~padding].all()
    assert results["dx"][~padding].all()


@directions
def test_a_length_of_zero_returns_the_initial_state(bidirectional):
    problem = make_problem(num_layers=2, bidirectional=bidirectional)
    _, state_n, _ = reference.lstm_forward(
        problem.parameters, problem.x, problem.state, lengths=[0] * BATCH
    )
    assert_array_equal(state_n, problem.state)


@directions
def test_a_length_of_zero_passes_the_gradient_of_the_state_through(bidirectional):
    problem = make_problem(num_layers=2, bidirectional=bidirectional)
    results = run(problem, lengths=[0] * BATCH)
    assert_array_equal((results["dh_0"], results["dc_0"]), problem.dstate)
    for name in problem.parameters:
        assert not results[f"d{name}"].any()


@directions
def test_lengths_of_seq_len_are_no_lengths(bidirectional):
    problem = make_problem(num_layers=2, bidirectional=bidirectional)
    full, ragged = run(problem), run(problem, lengths=np.full(BATCH, SEQ_LEN))
    for name, value in full.items():
        assert_array_equal(ragged[name], value)


@pytest.mark.parametrize("filling", [np.nan, np.inf, 1e300])
@directions
@stacks
def test_what_the_padding_holds_reaches_nothing(num_layers, bidirectional, filling):
    problem = make_problem(num_layers=num_layers, bidirectional=bidirectional)
    expected = run(problem, lengths=LENGTHS)
    padding = past_the_end(LENGTHS)
    problem.x[padding] = filling
    problem.dy[padding] = filling
    with np.errstate(all="raise"):
        results = run(problem, lengths=LENGTHS)
    for name, value in expected.items():
        assert_array_equal(results[name], value)


# What comes in and goes out ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_every_output_and_gradient_keeps_the_dtype(dtype):
    problem = make_problem(num_layers=2, bidirectional=True, dtype=dtype)
    masks = [np.ones((SEQ_LEN, BATCH, 2 * HIDDEN_SIZE), dtype)]
    results = run(problem, lengths=LENGTHS, dropout_masks=masks)
    assert {name: value.dtype for name, value in results.items()} == dict.fromkeys(results, dtype)


def test_the_arguments_are_not_written_to():
    problem = make_problem(num_layers=2, bidirectional=True)
    arrays = [problem.x, problem.dy, *problem.state, *problem.dstate, *problem.parameters.values()]
    for array in arrays:
        array.flags.writeable = False
    run(problem, lengths=LENGTHS)


def test_a_cache_serves_a_second_backward_and_outlives_a_change_of_the_arguments():
    problem = make_problem(num_layers=2, bidirectional=True)
    _, _, cache = reference.lstm_forward(problem.parameters, problem.x, problem.state)
    first = reference.lstm_backward(cache, problem.dy)
    for array in [problem.x, *problem.state, *problem.parameters.values()]:
        array[...] = 0
    second = reference.lstm_backward(cache, problem.dy)
    assert_array_equal(second.dx, first.dx)
    assert_array_equal(second.dstate, first.dstate)
    for name, value in first.parameters.items():
        assert_array_equal(second.parameters[name], value)


@directions
def test_no_steps_leave_the_state_and_its_gradient_alone(bidirectional):
    problem = make_problem(num_layers=2, bidirectional=bidirectional, seq_len=0)
    results = run(problem)
    assert_array_equal((results["h_n"], results["c_n"]), problem.state)
    assert_array_equal((results["dh_0"], results["dc_0"]), problem.dstate)


def test_an_empty_batch_has_gradients_of_zero():
    parameters = make_problem().parameters
    x = np.zeros((SEQ_LEN, 0, INPUT_SIZE))
    y, (h_n, _), cache = reference.lstm_forward(parameters, x, lengths=[])
    assert y.shape == (SEQ_LEN, 0, HIDDEN_SIZE)
    assert h_n.shape == (1, 0, HIDDEN_SIZE)
    for value in reference.lstm_backward(cache, y).parameters.values():
        assert not value.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_ho_l0": np.zeros((2, 2))}, "unexpected names: weight_ho_l0"),
        ({"weight_hr_l0": np.zeros((1, 2))}, r"weight_hr_l0 has shape \(1, 2\), expected \(2, 2\)"),
        ({"weight_ih_l2": np.zeros((8, 2))}, "unexpected names: weight_ih_l2"),
        ({"weight_ih_l1": np.zeros((8, 2))}, "no weight_hh_l1"),
        ({"weight_ih_l0_reverse": np.zeros((8, 3))}, "no weight_hh_l0_reverse"),
        ({"weight_ih_l0": np.zeros((8, 5))}, r"weight_ih_l0 has shape \(8, 5\), expected \(8, 3\)"),
        ({"bias_ih_l0": np.zeros(1)}, r"bias_ih_l0 has shape \(1,\), expected \(8,\)"),
    ],
)
def test_wrong_parameters_are_named(change, message):
    problem = make_problem()
    with pytest.raises(ValueError, match=message):
        reference.lstm_forward({**problem.parameters, **change}, problem.x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.zeros((7, 3))}, r"x has shape \(7, 3\), expected \(seq_len, batch, input_size\)"),
        ({"state": (np.zeros((1, 4, 2)),)}, r"state has shapes .* expected 2 arrays"),
        ({"state": (np.zeros((1, 1, 2)),) * 2}, r"expected 2 arrays of shape \(1, 4, 2\)"),
        ({"lengths": [1, 2]}, r"lengths has shape \(2,\), expected \(batch=4,\)"),
        ({"lengths": [1, 2, 3, 8]}, "expected 0 to seq_len=7"),
        ({"lengths": [1, 2, 3, -1]}, "expected 0 to seq_len=7"),
        ({"dropout_masks": [np.ones((7, 4, 2))]}, "expected num_layers - 1 = 0 arrays"),
    ],
)
def test_wrong_arguments_of_forward_are_named(arguments, message):
    problem = make_problem()
    with pytest.raises(ValueError, match=message):
        reference.lstm_forward(problem.parameters, **{"x": problem.x, **arguments})


def test_lengths_that_are_not_integers_are_refused():
    problem = make_problem()
    with pytest.raises(TypeError, match="lengths has dtype float64, expected integers"):
        reference.lstm_forward(problem.parameters, problem.x, lengths=[1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize(
    ("dy", "dstate", "message"),
    [
        (None, None, "dy and dstate are both None"),
        (np.zeros((7, 4, 3)), None, r"dy has shape \(7, 4, 3\), expected \(7, 4, 2\)"),
        (None, (np.zeros((1, 4)),) * 2, r"dstate has shapes .* expected 2 arrays"),
    ],
)
def test_wrong_arguments_of_backward_are_named(dy, dstate, message):
    problem = make_problem()
    _, _, cache = reference.lstm_forward(problem.parameters, problem.x)
    with pytest.raises(ValueError, match=message):
        reference.lstm_backward(cache, dy, dstate)


# Layers without a state -------------------------------------------------------------------------


def test_dense_gives_the_numbers_worked_by_hand():
    # z = [1*2 + 3*(-1) + 0.5, -2*2 + 1*(-1) + 1] = [-0.5, -4]
    x, weight = np.array([[2.0, -1.0]]), np.array([[1.0, 3.0], [-2.0, 1.0]])
    y, _ = reference.dense_forward(x, weight, np.array([0.5, 1.0]))
    assert_array_equal(y, [[-0.5, -4.0]])


def test_the_derivative_of_relu_at_zero_is_zero():
    x = np.array([[-1.0], [0.0], [2.0]])
    _, cache = reference.dense_forward(x, np.array([[1.0]]), activation="relu")
    assert_array_equal(reference.dense_backward(cache, np.full((3, 1), 5.0)).dx, [[0], [0], [5]])


@pytest.mark.parametrize("activation", [None, "relu", "tanh", "sigmoid", "softmax"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("leading", [(), (2,), (3, 2)])
def test_every_gradient_of_dense_agrees_with_central_differences(leading, has_bias, activation):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((*leading, 3))
    dy = rng.standard_normal((*leading, 4))
    parameters = {"weight": rng.standard_normal((4, 3))}
    if has_bias:
        parameters["bias"] = rng.standard_normal(4)

    def loss(x, parameters):
        return np.sum(dy * reference.dense_forward(x, **parameters, activation=activation)[0])

    _, cache = reference.dense_forward(x, **parameters, activation=activation)
    gradients = reference.dense_backward(cache, dy)
    wanted = numerical_gradient(lambda x: loss(x, parameters), x)
    assert_close(gradients.dx, wanted, FLOAT64.central, "dx")
    assert set(gradients.parameters) == set(parameters)
    for name, value in parameters.items():
        wanted = numerical_gradient(lambda w, name=name: loss(x, {**parameters, name: w}), value)
        assert_close(gradients.parameters[name], wanted, FLOAT64.central, f"d{name}")


@pytest.mark.parametrize("activation", [None, "relu", "tanh", "sigmoid", "softmax"])
def test_dense_keeps_the_dtype(activation):
    x, weight = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    y, cache = reference.dense_forward(x, weight, np.ones(4, np.float32), activation)
    gradients = reference.dense_backward(cache, y)
    arrays = [y, gradients.dx, *gradients.parameters.values()]
    assert [array.dtype for array in arrays] == [np.float32] * 4


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match="activation is 'mish', expected one of"):
        reference.dense_forward(np.ones((1, 1)), np.ones((1, 1)), activation="mish")


@pytest.mark.parametrize(
    ("x", "bias", "message"),
    [
        (np.ones((2, 5)), None, r"x has shape \(2, 5\) and weight \(4, 3\)"),
        (np.ones((2, 3)), np.ones(1), r"bias has shape \(1,\), expected \(4,\)"),
    ],
)
def test_wrong_shapes_of_dense_are_named(x, bias, message):
    with pytest.raises(ValueError, match=message):
        reference.dense_forward(x, np.ones((4, 3)), bias)


def test_layer_norm_gives_the_numbers_worked_by_hand():
    # mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5, and 0.5 more make 4
    y, _ = reference.layer_norm_forward(np.array([[1.0, 2.0, 3.0, 6.0]]), np.array([1.0, 2, 3, 4]), np.ones(4), 0.5)
    assert_array_equal(y, [[0.0, 0.0, 1.0, 7.0]])


@pytest.mark.parametrize("leading", [(), (2,), (3, 2)])
def test_every_gradient_of_layer_norm_agrees_with_central_differences(leading):
    rng = np.random.default_rng(2)
    x, dy = rng.standard_normal((2, *leading, 5))
    parameters = dict(zip(("weight", "bias"), rng.standard_normal((2, 5)), strict=True))

    def loss(x, parameters):
        return np.sum(dy * reference.layer_norm_forward(x, **parameters)[0])

    gradients = reference.layer_norm_backward(reference.layer_norm_forward(x, **parameters)[1], dy)
    wanted = numerical_gradient(lambda x: loss(x, parameters), x)
    assert_close(gradients.dx, wanted, FLOAT64.central, "dx")
    for name, value in parameters.items():
        wanted = numerical_gradient(lambda w, name=name: loss(x, {**parameters, name: w}), value)
        assert_close(gradients.parameters[name], wanted, FLOAT64.central, f"d{name}")


# The checks themselves --------------------------------------------------------------------------


def test_the_numerical_gradient_of_a_cube_is_three_squares():
    x = np.array([[1.0, -2.0], [0.0, 10.0]])
    gradient = numerical_gradient(lambda value: np.sum(value**3), x)
    assert_close(gradient, 3 * x**2, FLOAT64.central, "gradient")


def test_assert_close_names_the_worst_element():
    with pytest.raises(AssertionError, match=r"dx\[1, 0\] is .*2.5.*, expected .*2.0"):
        assert_close(np.array([[1.0], [2.5]]), np.array([[1.001], [2.0]]), 1e-6, "dx")


@pytest.mark.parametrize(
    "actual", [np.array([np.nan, 0.0]), np.zeros(2, np.float32), np.zeros((2, 1))]
)
def test_assert_close_refuses_nan_and_another_dtype_or_shape(actual):
    with pytest.raises(AssertionError):
        assert_close(actual, np.zeros(2), 1.0)


class WrongLayer(ReferenceLayer):
    """Negates the gradients that ``select`` picks out of all."""

    def __init__(self, parameters, select):
        super().__init__(parameters)
        self.select = select

    def backward(self, tape, dy, dstate=None):
        gradients = super().backward(tape, dy, dstate)
        self.select(gradients)[...] *= -1
        return gradients


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (lambda g: g.dx[0], r"dx\[0, "),
        (lambda g: g.dstate[0], r"dstate\[0\]\["),
        (lambda g: g.dstate[1], r"dstate\[1\]\["),
        (lambda g: g.parameters["weight_hh_l0"][3], r"dweight_hh_l0\[3, "),
        (lambda g: g.parameters["bias_hh_l0"], r"dbias_hh_l0\["),
    ],
    ids=["dx at the first step", "dh_0", "dc_0", "a row of dweight_hh", "dbias_hh"],
)
def test_gradcheck_names_a_gradient_of_the_wrong_sign(select, message):
    problem = make_problem()
    layer = WrongLayer(problem.parameters, select)
    with pytest.raises(AssertionError, match=message):
        gradcheck(layer, problem.x, problem.state, tape=list)


def test_gradcheck_names_a_missing_gradient():
    class Forgetful(ReferenceLayer):
        def backward(self, tape, dy, dstate=None):
            gradients = super().backward(tape, dy, dstate)
            del gradients.parameters["bias_hh_l0"]
            return gradients

    problem = make_problem()
    with pytest.raises(AssertionError, match=r"expected \['bias_hh_l0', 'bias_ih_l0', "):
        gradcheck(Forgetful(problem.parameters), problem.x, tape=list)


def test_gradcheck_leaves_the_parameters_as_they_were():
    problem = make_problem()
    layer = ReferenceLayer(problem.parameters)
    gradcheck(layer, problem.x, tape=list)
    for name, value in make_problem().parameters.items():
        assert_array_equal(layer.parameters[name], value)


def test_gradcheck_passes_right_gradients_in_float32():
    problem = make_problem(dtype="float32")
    gradcheck(ReferenceLayer(problem.parameters), problem.x, problem.state, tape=list)


def test_gradcheck_finds_a_wrong_sign_in_float32():
    problem = make_problem(dtype="float32")
    layer = WrongLayer(problem.parameters, lambda g: g.dx)
    with pytest.raises(AssertionError, match=r"dx\["):
        gradcheck(layer, problem.x, problem.state, tape=list)
