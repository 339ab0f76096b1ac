"""Tests of the NumPy reference's GRU and RNN, which share the LSTM's loops (test_reference.py).

The witnesses are the LSTM's: steps worked by hand, files made with PyTorch
(golden/make_torch_family.py), and central differences. PyTorch has no GRU with reset_after=False;
for that one there is also the case in which both GRUs are the same.
"""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_reference import (
    BATCH,
    FLOAT64,
    HIDDEN_SIZE,
    INPUT_SIZE,
    LENGTHS,
    SEQ_LEN,
    ReferenceLayer,
    directions,
    past_the_end,
    stacks,
)
from test_reference import make_problem as make_lstm_problem

from cylstm import reference
from cylstm.testing import assert_close, gradcheck, numerical_gradient

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

GOLDEN = sorted(
    path
    for kind in ("gru", "rnn")
    for path in (Path(__file__).parent / "golden").glob(f"torch_{kind}_*.npz")
)


class Kind(NamedTuple):
    """One member of the family: its functions and the option that tells it from its sibling."""

    cell: str
    num_gates: int
    options: dict

    def forward(self, parameters, x, state=None, **options):
        function = getattr(reference, f"{self.cell}_forward")
        return function(parameters, x, state, **self.options, **options)

    def backward(self, cache, dy, dstate=None):
        return getattr(reference, f"{self.cell}_backward")(cache, dy, dstate)


KINDS = {
    "gru": Kind("gru", 3, {"reset_after": True}),
    "gru_reset_before": Kind("gru", 3, {"reset_after": False}),
    "rnn_tanh": Kind("rnn", 1, {"nonlinearity": "tanh"}),
    "rnn_relu": Kind("rnn", 1, {"nonlinearity": "relu"}),
}

kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def make_problem(kind, seed=0, **options):
    """An LSTM's problem without what a smaller cell has not: some gates, and c."""
    problem = make_lstm_problem(seed, **options)
    rows = kind.num_gates * HIDDEN_SIZE
    problem.parameters = {name: value[:rows] for name, value in problem.parameters.items()}
    problem.state, problem.dstate = problem.state[0], problem.dstate[0]
    return problem


def run(kind, problem, **options):
    """Every output and every gradient, as a dict of name to array."""
    y, h_n, cache = kind.forward(problem.parameters, problem.x, problem.state, **options)
    dx, dh_0, dparameters = kind.backward(cache, problem.dy, problem.dstate)
    return {
        **{"y": y, "h_n": h_n, "dx": dx, "dh_0": dh_0},
        **{f"d{name}": value for name, value in dparameters.items()},
    }


class Layer(ReferenceLayer):
    """As ReferenceLayer, of any kind."""

    def __init__(self, kind, parameters):
        super().__init__(parameters)
        self.kind = kind

    def forward(self, x, state=None, *, lengths=None, tape=None):
        y, state, cache = self.kind.forward(self.parameters, x, state, lengths=lengths)
        tape.append(cache)
        return y, state

    def backward(self, tape, dy, dstate=None):
        return self.kind.backward(tape.pop(), dy, dstate)


# One step, by hand ------------------------------------------------------------------------------
#
# Two units, so that W (r * h) is not r * (W h); one input, x = 2; h = (0.5, -1). The
# pre-activations a are chosen where the activations are simple:
#
#     sigmoid(0) = 1/2    sigmoid(ln 3) = 3/4    sigmoid(-ln 3) = 1/4
#     tanh(ln 2) = (2 - 1/2) / (2 + 1/2) = 0.6    tanh(ln 3) = (3 - 1/3) / (3 + 1/3) = 0.8
#
# GRU: a_r = (ln 3, -ln 3), a_z = (-ln 3, 0), a_n = (ln 3, ln 2), so
#     r = (3/4, 1/4)    z = (1/4, 1/2)    n = (0.8, 0.6)
#     h' = (1 - z) n + z h = (0.75 * 0.8 + 0.25 * 0.5, 0.5 * 0.6 - 0.5 * 1) = (0.725, -0.2)
# with
#     W_hr = [2 1]    W_hz = [-2 -1]    W_hn = [0 2]    b_hr = ( 1)  b_hz = ( 2)  b_hn = (4)
#            [4 2]           [ 2  1]           [4 0]           (-1)         (-2)         (2)
# The rows of W_hr and W_hz are orthogonal to h and add nothing to a_r and a_z; but
#     after:   q = W_hn h + b_hn    = (-2 + 4, 2 + 2)            = (2, 4)        r * q = (1.5, 1)
#     before:  q = r * h            = (0.75 * 0.5, 0.25 * (-1))  = (0.375, -0.25)
#              W_hn q + b_hn        = (-0.5 + 4, 1.5 + 2)        = (3.5, 3.5)
# and b_ih makes up for what is missing to a, with W_ih = (1, 2, 3, 4, 5, 6).

LN2, LN3 = math.log(2), math.log(3)
X, H_0 = np.array([[2.0]]), np.array([[0.5, -1.0]])


def gru_by_hand(reset_after):
    """The weights of the example above."""
    weight_ih = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    weight_hh = np.array([[2.0, 1.0], [4.0, 2.0], [-2.0, -1.0], [2.0, 1.0], [0.0, 2.0], [4.0, 0.0]])
    bias_hh = np.array([1.0, -1.0, 2.0, -2.0, 4.0, 2.0])
    from_h = np.array([1, -1, 2, -2, *((1.5, 1) if reset_after else (3.5, 3.5))])
    a = np.array([LN3, -LN3, -LN3, 0, LN3, LN2])
    return {
        "weight_ih": weight_ih,
        "weight_hh": weight_hh,
        "bias_ih": a - from_h - 2 * weight_ih[:, 0],
        "bias_hh": bias_hh,
    }


def assert_gradients(gradients, dx, dh, **parameters):
    """What a cell's backward returned is what was worked by hand."""
    assert_allclose(gradients[0], dx, rtol=1e-13)
    assert_allclose(gradients[1], dh, rtol=1e-13)
    assert set(gradients[2]) == set(parameters)
    for name, value in parameters.items():
        assert_allclose(gradients[2][name], value, rtol=1e-13, err_msg=name)


@pytest.mark.parametrize(("reset_after", "q"), [(True, [2, 4]), (False, [0.375, -0.25])])
def test_one_step_of_a_gru_gives_the_numbers_worked_by_hand(reset_after, q):
    weights = gru_by_hand(reset_after)
    h, gates = reference.gru_cell(X, H_0, **weights, reset_after=reset_after)
    assert_allclose(gates, [[0.75, 0.25, 0.25, 0.5, 0.8, 0.6, *q]], rtol=1e-14)
    assert_allclose(h, [[0.725, -0.2]], rtol=1e-14)


# Backward with dh' = (10, 5). What both GRUs have in common:
#     dz   = dh' (h - n)       = (10 * (-0.3), 5 * (-1.6))     = (-3, -8)
#     dn   = dh' (1 - z)       = (10 * 0.75, 5 * 0.5)          = (7.5, 2.5)
#     da_z = dz z (1 - z)      = (-3 * 3/16, -8 * 1/4)         = (-0.5625, -2)
#     da_n = dn (1 - n^2)      = (7.5 * 0.36, 2.5 * 0.64)      = (2.7, 1.6)
#     z dh' = (2.5, 2.5)
#     W_hz^T da_z = (-2 * -0.5625 + 2 * -2, -1 * -0.5625 + 1 * -2) = (-2.875, -1.4375)

DH = np.array([[10.0, 5.0]])


def test_one_step_of_a_gru_gives_the_gradients_worked_by_hand():
    # dr   = da_n q       = (2.7 * 2, 1.6 * 4)          = (5.4, 6.4)
    # da_r = dr r (1 - r) = (5.4 * 3/16, 6.4 * 3/16)    = (1.0125, 1.2)
    # dq   = da_n r       = (2.7 * 0.75, 1.6 * 0.25)    = (2.025, 0.4)
    # dh   = z dh'          (2.5, 2.5)
    #      + W_hr^T da_r    (2 * 1.0125 + 4 * 1.2, 1 * 1.0125 + 2 * 1.2) = (6.825, 3.4125)
    #      + W_hz^T da_z    (-2.875, -1.4375)
    #      + W_hn^T dq      (4 * 0.4, 2 * 2.025)                         = (1.6, 4.05)
    #      = (8.05, 8.525)
    # dx   = 1.0125 + 2 * 1.2 - 3 * 0.5625 - 4 * 2 + 5 * 2.7 + 6 * 1.6   = 16.825
    weights = gru_by_hand(reset_after=True)
    _, gates = reference.gru_cell(X, H_0, **weights)
    da = np.array([1.0125, 1.2, -0.5625, -2, 2.7, 1.6])
    da_h = np.array([1.0125, 1.2, -0.5625, -2, 2.025, 0.4])  # dq in the place of da_n
    assert_gradients(
        reference.gru_cell_backward(DH, X, H_0, gates, **weights),
        dx=[[16.825]],
        dh=[[8.05, 8.525]],
        weight_ih=2 * da[:, None],
        weight_hh=np.stack([0.5 * da_h, -da_h], axis=1),
        bias_ih=da,
        bias_hh=da_h,
    )


def test_one_step_of_a_gru_with_reset_before_gives_the_gradients_worked_by_hand():
    # dq   = W_hn^T da_n  = (4 * 1.6, 2 * 2.7)              = (6.4, 5.4)
    # dr   = dq h         = (6.4 * 0.5, 5.4 * (-1))         = (3.2, -5.4)
    # da_r = dr r (1 - r) = (3.2 * 3/16, -5.4 * 3/16)       = (0.6, -1.0125)
    # dh   = z dh'          (2.5, 2.5)
    #      + W_hr^T da_r    (2 * 0.6 - 4 * 1.0125, 1 * 0.6 - 2 * 1.0125) = (-2.85, -1.425)
    #      + W_hz^T da_z    (-2.875, -1.4375)
    #      + dq r           (6.4 * 0.75, 5.4 * 0.25)                     = (4.8, 1.35)
    #      = (1.575, 0.9875)
    # dx   = 0.6 - 2 * 1.0125 - 3 * 0.5625 - 4 * 2 + 5 * 2.7 + 6 * 1.6   = 11.9875
    # dW_hn = da_n q^T, q = (0.375, -0.25)
    weights = gru_by_hand(reset_after=False)
    _, gates = reference.gru_cell(X, H_0, **weights, reset_after=False)
    da = np.array([0.6, -1.0125, -0.5625, -2, 2.7, 1.6])
    dweight_hh = np.stack([0.5 * da, -da], axis=1)
    dweight_hh[4:] = [[1.0125, -0.675], [0.6, -0.4]]
    assert_gradients(
        reference.gru_cell_backward(DH, X, H_0, gates, **weights, reset_after=False),
        dx=[[11.9875]],
        dh=[[1.575, 0.9875]],
        weight_ih=2 * da[:, None],
        weight_hh=dweight_hh,
        bias_ih=da,
        bias_hh=da,
    )


# RNN: W_ih = (3, -1), W_hh = [2 1], W_ih x = (6, -2), W_hh h = (0, -2.5), b_hh = (1, 2)
#                             [1 3]
#     tanh:  a = (ln 2, -ln 3)    h' = (0.6, -0.8)
#            dh' = (5, 10)        da = dh' (1 - h'^2) = (5 * 0.64, 10 * 0.36) = (3.2, 3.6)
#            dx = 3 * 3.2 - 1 * 3.6 = 6    dh = (2 * 3.2 + 1 * 3.6, 1 * 3.2 + 3 * 3.6) = (10, 14)
#     relu:  a = (4, -1)          h' = (4, 0)
#            dh' = (5, 10)        da = (5, 0)
#            dx = 3 * 5 = 15               dh = (2 * 5, 1 * 5) = (10, 5)


@pytest.mark.parametrize(
    ("nonlinearity", "a", "h", "da", "dx", "dh"),
    [
        ("tanh", [LN2, -LN3], [0.6, -0.8], [3.2, 3.6], 6, [10, 14]),
        ("relu", [4, -1], [4, 0], [5, 0], 15, [10, 5]),
    ],
)
def test_one_step_of_an_rnn_gives_the_numbers_worked_by_hand(nonlinearity, a, h, da, dx, dh):
    weights = {
        "weight_ih": np.array([[3.0], [-1.0]]),
        "weight_hh": np.array([[2.0, 1.0], [1.0, 3.0]]),
        "bias_ih": np.array(a) - [6 + 0 + 1, -2 - 2.5 + 2],
        "bias_hh": np.array([1.0, 2.0]),
    }
    h_next, gates = reference.rnn_cell(X, H_0, **weights, nonlinearity=nonlinearity)
    assert_allclose(h_next, [h], rtol=1e-14)
    da = np.array(da)
    dh_next = np.array([[5.0, 10.0]])
    assert_gradients(
        reference.rnn_cell_backward(dh_next, X, H_0, gates, **weights, nonlinearity=nonlinearity),
        dx=[[dx]],
        dh=[dh],
        weight_ih=2 * da[:, None],
        weight_hh=np.stack([0.5 * da, -da], axis=1),
        bias_ih=da,
        bias_hh=da,
    )


def test_the_derivative_of_an_rnn_s_relu_at_zero_is_zero():
    x = np.array([[[-1.0], [0.0], [2.0]]])
    parameters = {"weight_ih_l0": np.ones((1, 1)), "weight_hh_l0": np.ones((1, 1))}
    y, _, cache = reference.rnn_forward(parameters, x, nonlinearity="relu")
    assert_array_equal(y, [[[0], [0], [2]]])
    gradients = reference.rnn_backward(cache, np.full((1, 3, 1), 5.0))
    assert_array_equal(gradients.dx, [[[0], [0], [5]]])
    assert_array_equal(gradients.dstate, [[[0], [0], [5]]])


# PyTorch ----------------------------------------------------------------------------------------


def test_the_golden_files_are_there():
    assert len(GOLDEN) == 6  # as many as make_torch_family.py has configurations


@pytest.mark.parametrize("part", ["full", "packed"])
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem.removeprefix("torch_"))
def test_outputs_and_gradients_are_those_of_pytorch(path, part):
    kind = KINDS[path.stem.removeprefix("torch_").partition("_2layer")[0]]
    with np.load(path) as file:
        golden = dict(file)
    prefix = "parameters."
    problem = SimpleNamespace(
        parameters={k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)},
        x=golden["x"],
        state=golden["h_0"],
        dy=golden["dy"],
        dstate=golden["dh_n"],
    )
    results = run(kind, problem, lengths=golden["lengths"] if part == "packed" else None)
    expected = {k.removeprefix(f"{part}."): v for k, v in golden.items() if k.startswith(part)}
    assert set(results) == set(expected)
    for name, value in results.items():
        tolerance = FLOAT64.forward if name in ("y", "h_n") else FLOAT64.backward
        assert_close(value, expected[name], tolerance, name)


# Central differences ----------------------------------------------------------------------------


def distance_to_a_kink(kind, problem, **options):
    """The smallest |pre-activation| of a relu in all steps; infinite if there is no relu."""
    if kind.options.get("nonlinearity") != "relu":
        return np.inf
    _, _, cache = kind.forward(problem.parameters, problem.x, problem.state, **options)
    distance = np.inf
    for layer, runs in zip(cache.layers, cache.steps, strict=True):
        for weights, steps in zip(layer, runs, strict=True):
            for _, _, x, (h,), *_ in steps:
                a = x @ weights["weight_ih"].T + h @ weights["weight_hh"].T
                a = a + weights.get("bias_ih", 0) + weights.get("bias_hh", 0)
                distance = min(distance, np.abs(a).min(initial=np.inf))
    return distance


def make_smooth_problem(kind, problem_options, **options):
    """The first problem in which steps of a central difference, 6e-6, are far from every kink."""
    for seed in itertools.count():
        problem = make_problem(kind, seed, **problem_options)
        if distance_to_a_kink(kind, problem, **options) > 1e-3:
            return problem


@pytest.mark.parametrize("seq_len", [1, 2, 4])
@pytest.mark.parametrize("ragged", [False, True])
@directions
@stacks
@kinds
def test_every_gradient_agrees_with_central_differences(
    kind, num_layers, bidirectional, ragged, seq_len
):
    lengths = [min(length, seq_len) for length in LENGTHS] if ragged else None
    options = {"seq_len": seq_len, "num_layers": num_layers, "bidirectional": bidirectional}
    problem = make_smooth_problem(kind, options, lengths=lengths)
    layer = Layer(kind, problem.parameters)
    gradcheck(layer, problem.x, problem.state, lengths=lengths, tape=list)


@pytest.mark.parametrize("bias", ["single", False])
@kinds
def test_every_gradient_without_a_bias_agrees_with_central_differences(kind, bias):
    options = {"seq_len": 2, "num_layers": 2, "bidirectional": True, "bias": bias}
    problem = make_smooth_problem(kind, options)
    gradcheck(Layer(kind, problem.parameters), problem.x, problem.state, tape=list)


@kinds
def test_gradients_through_dropout_masks_agree_with_central_differences(kind):
    rng = np.random.default_rng(1)
    masks = [2.0 * rng.integers(0, 2, (SEQ_LEN, BATCH, 2 * HIDDEN_SIZE))]
    options = {"lengths": LENGTHS, "dropout_masks": masks}
    problem = make_smooth_problem(kind, {"num_layers": 2, "bidirectional": True}, **options)

    def loss(x, parameters):
        y, _, _ = kind.forward(parameters, x, problem.state, **options)
        return np.sum(problem.dy * y)

    _, _, cache = kind.forward(problem.parameters, problem.x, problem.state, **options)
    gradients = kind.backward(cache, problem.dy)
    wanted = numerical_gradient(lambda x: loss(x, problem.parameters), problem.x)
    assert_close(gradients.dx, wanted, FLOAT64.central, "dx")
    for name, value in problem.parameters.items():
        wanted = numerical_gradient(
            lambda w, name=name: loss(problem.x, {**problem.parameters, name: w}), value
        )
        assert_close(gradients.parameters[name], wanted, FLOAT64.central, f"d{name}")


# The gates --------------------------------------------------------------------------------------


def test_the_place_of_the_reset_gate_does_not_matter_where_w_hn_is_diagonal():
    # and b_hn is zero: r * (W_hn h) = W_hn (r * h)
    after, before = KINDS["gru"], KINDS["gru_reset_before"]
    problem = make_problem(after)
    diagonal = np.eye(HIDDEN_SIZE, dtype=bool)
    problem.parameters["weight_hh_l0"][2 * HIDDEN_SIZE :][~diagonal] = 0
    problem.parameters["bias_hh_l0"][2 * HIDDEN_SIZE :] = 0
    results, expected = run(before, problem, lengths=LENGTHS), run(after, problem, lengths=LENGTHS)
    # of what was made zero the gradients differ: they see the two places of r
    for results_of_one in (results, expected):
        results_of_one["dweight_hh_l0"][2 * HIDDEN_SIZE :][~diagonal] = 0
        results_of_one["dbias_hh_l0"][2 * HIDDEN_SIZE :] = 0
    for name, value in expected.items():
        assert_close(results[name], value, FLOAT64.backward, name)


@pytest.mark.parametrize("name", ["gru", "gru_reset_before"])
def test_an_update_gate_of_one_keeps_the_state(name):
    problem = make_problem(KINDS[name])
    problem.parameters["bias_ih_l0"][HIDDEN_SIZE : 2 * HIDDEN_SIZE] = 1000
    y, _, _ = KINDS[name].forward(problem.parameters, problem.x, problem.state)
    assert_array_equal(y, np.broadcast_to(problem.state, y.shape))


@pytest.mark.parametrize("name", ["gru", "gru_reset_before"])
def test_a_reset_gate_of_zero_hides_the_state_from_n(name):
    # and the recurrent bias with it, if the gate comes after; z = 0, so that h' is n
    problem = make_problem(KINDS[name], seq_len=1)
    problem.parameters["bias_ih_l0"][: 2 * HIDDEN_SIZE] = -1000
    parameters = {k: v[2 * HIDDEN_SIZE :] for k, v in problem.parameters.items()}
    a = problem.x @ parameters["weight_ih_l0"].T + parameters["bias_ih_l0"]
    if name == "gru_reset_before":
        a = a + parameters["bias_hh_l0"]
    y, _, _ = KINDS[name].forward(problem.parameters, problem.x, problem.state)
    assert_close(y, np.tanh(a), FLOAT64.forward, "y")


def test_the_defaults_are_those_of_pytorch():
    for name in ("gru", "rnn_tanh"):
        problem = make_problem(KINDS[name])
        y, _, _ = KINDS[name].forward(problem.parameters, problem.x)
        function = getattr(reference, f"{KINDS[name].cell}_forward")
        assert_array_equal(function(problem.parameters, problem.x)[0], y)


# The loops, with a state of one array -----------------------------------------------------------


@kinds
def test_the_state_and_its_gradient_are_arrays(kind):
    problem = make_problem(kind, num_layers=2, bidirectional=True)
    results = run(kind, problem)
    assert results["h_n"].shape == results["dh_0"].shape == (4, BATCH, HIDDEN_SIZE)


@kinds
def test_the_reverse_direction_is_the_forward_one_on_the_flipped_input(kind):
    problem = make_problem(kind, bidirectional=True)
    y, h_n, _ = kind.forward(problem.parameters, problem.x, problem.state)
    reverse = {
        name.removesuffix("_reverse"): value
        for name, value in problem.parameters.items()
        if name.endswith("_reverse")
    }
    flipped_y, flipped_h, _ = kind.forward(reverse, problem.x[::-1], problem.state[1:])
    assert_array_equal(y[:, :, HIDDEN_SIZE:], flipped_y[::-1])
    assert_array_equal(h_n[1:], flipped_h)


@kinds
def test_a_sequence_cut_in_two_is_the_whole_sequence(kind):
    problem = make_problem(kind, num_layers=2)
    y, state, _ = kind.forward(problem.parameters, problem.x, problem.state)
    first, middle, _ = kind.forward(problem.parameters, problem.x[:3], problem.state)
    second, last, _ = kind.forward(problem.parameters, problem.x[3:], middle)
    assert_array_equal(np.concatenate([first, second]), y)
    assert_array_equal(last, state)


@kinds
def test_an_omitted_state_is_zero(kind):
    problem = make_problem(kind, num_layers=2, bidirectional=True)
    y, _, _ = kind.forward(problem.parameters, problem.x)
    zeros_y, _, _ = kind.forward(problem.parameters, problem.x, np.zeros_like(problem.state))
    assert_array_equal(y, zeros_y)


@pytest.mark.parametrize("omitted", ["dy", "dstate"])
@kinds
def test_an_omitted_gradient_is_zero(kind, omitted):
    problem = make_problem(kind, num_layers=2, bidirectional=True)
    _, _, cache = kind.forward(problem.parameters, problem.x, problem.state)
    given = {"dy": problem.dy, "dstate": problem.dstate}
    omitting = kind.backward(cache, **{**given, omitted: None})
    with_zeros = kind.backward(cache, **{**given, omitted: np.zeros_like(given[omitted])})
    assert_array_equal(omitting.dx, with_zeros.dx)
    assert_array_equal(omitting.dstate, with_zeros.dstate)
    for name, value in with_zeros.parameters.items():
        assert_array_equal(omitting.parameters[name], value)


@kinds
def test_a_ragged_batch_is_each_sequence_alone_cut_to_its_length(kind):
    problem = make_problem(kind, num_layers=2, bidirectional=True)
    batch = run(kind, problem, lengths=LENGTHS)
    totals = {}
    for b, length in enumerate(LENGTHS):
        alone = run(
            kind,
            SimpleNamespace(
                parameters=problem.parameters,
                x=problem.x[:length, b : b + 1],
                state=problem.state[:, b : b + 1],
                dy=problem.dy[:length, b : b + 1],
                dstate=problem.dstate[:, b : b + 1],
            ),
        )
        for name in ("y", "dx"):
            assert_close(batch[name][:length, b], alone.pop(name)[:, 0], FLOAT64.backward, name)
            assert not batch[name][length:, b].any()
        for name in ("h_n", "dh_0"):
            assert_close(batch[name][:, b], alone.pop(name)[:, 0], FLOAT64.backward, name)
        for name, value in alone.items():
            totals[name] = totals.get(name, 0) + value
    for name, total in totals.items():
        assert_close(batch[name], total, FLOAT64.backward, name)


@kinds
def test_a_length_of_zero_passes_the_state_and_its_gradient_through(kind):
    problem = make_problem(kind, num_layers=2, bidirectional=True)
    results = run(kind, problem, lengths=[0] * BATCH)
    assert_array_equal(results["h_n"], problem.state)
    assert_array_equal(results["dh_0"], problem.dstate)
    for name in problem.parameters:
        assert not results[f"d{name}"].any()


@pytest.mark.parametrize("filling", [np.nan, np.inf, 1e300])
@kinds
def test_what_the_padding_holds_reaches_nothing(kind, filling):
    problem = make_problem(kind, num_layers=2, bidirectional=True)
    expected = run(kind, problem, lengths=LENGTHS)
    padding = past_the_end(LENGTHS)
    problem.x[padding] = filling
    problem.dy[padding] = filling
    with np.errstate(all="raise"):
        results = run(kind, problem, lengths=LENGTHS)
    for name, value in expected.items():
        assert_array_equal(results[name], value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@kinds
def test_every_output_and_gradient_keeps_the_dtype(kind, dtype):
    problem = make_problem(kind, num_layers=2, bidirectional=True, dtype=dtype)
    masks = [np.ones((SEQ_LEN, BATCH, 2 * HIDDEN_SIZE), dtype)]
    results = run(kind, problem, lengths=LENGTHS, dropout_masks=masks)
    assert {name: value.dtype for name, value in results.items()} == dict.fromkeys(results, dtype)


@kinds
def test_the_arguments_are_not_written_to(kind):
    problem = make_problem(kind, num_layers=2, bidirectional=True)
    arrays = [problem.x, problem.dy, problem.state, problem.dstate, *problem.parameters.values()]
    for array in arrays:
        array.flags.writeable = False
    run(kind, problem, lengths=LENGTHS)


@kinds
def test_a_cache_serves_a_second_backward_and_outlives_a_change_of_the_arguments(kind):
    problem = make_problem(kind, num_layers=2, bidirectional=True)
    _, _, cache = kind.forward(problem.parameters, problem.x, problem.state)
    first = kind.backward(cache, problem.dy)
    for array in [problem.x, problem.state, *problem.parameters.values()]:
        array[...] = 0
    second = kind.backward(cache, problem.dy)
    assert_array_equal(second.dx, first.dx)
    assert_array_equal(second.dstate, first.dstate)
    for name, value in first.parameters.items():
        assert_array_equal(second.parameters[name], value)


@kinds
def test_no_steps_leave_the_state_and_its_gradient_alone(kind):
    problem = make_problem(kind, num_layers=2, bidirectional=True, seq_len=0)
    results = run(kind, problem)
    assert_array_equal(results["h_n"], problem.state)
    assert_array_equal(results["dh_0"], problem.dstate)


@kinds
def test_an_empty_batch_has_gradients_of_zero(kind):
    parameters = make_problem(kind).parameters
    y, h_n, cache = kind.forward(parameters, np.zeros((SEQ_LEN, 0, INPUT_SIZE)), lengths=[])
    assert y.shape == (SEQ_LEN, 0, HIDDEN_SIZE)
    assert h_n.shape == (1, 0, HIDDEN_SIZE)
    for value in kind.backward(cache, y).parameters.values():
        assert not value.any()


@kinds
def test_the_weights_of_an_lstm_are_refused(kind):
    problem = make_lstm_problem()
    rows = kind.num_gates * HIDDEN_SIZE
    message = rf"weight_ih_l0 has shape \(8, 3\), expected \({rows}, 3\)"
    with pytest.raises(ValueError, match=message):
        kind.forward(problem.parameters, problem.x)


@kinds
def test_the_state_of_an_lstm_is_refused(kind):
    problem = make_problem(kind)
    message = r"state has shapes \[\(2, 1, 4, 2\)\], expected one array of shape \(1, 4, 2\)"
    with pytest.raises(ValueError, match=message):
        kind.forward(problem.parameters, problem.x, (problem.state, problem.state))
    _, _, cache = kind.forward(problem.parameters, problem.x)
    with pytest.raises(ValueError, match=f"d{message}"):
        kind.backward(cache, None, (problem.state, problem.state))


@pytest.mark.parametrize("seq_len", [0, SEQ_LEN])
def test_an_unknown_nonlinearity_is_named(seq_len):
    problem = make_problem(KINDS["rnn_tanh"], seq_len=seq_len)
    with pytest.raises(ValueError, match="nonlinearity is 'softmax', expected one of"):
        reference.rnn_forward(problem.parameters, problem.x, nonlinearity="softmax")
