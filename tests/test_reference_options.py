"""Tests of the NumPy reference's options: every activation, variant of a cell, kind of noise, and place without a step.

The witnesses share no code with it: numbers worked by hand and central differences. What no option changes is held in
test_reference.py and test_reference_family.py.
"""

import inspect
import math
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cylstm import reference
from cylstm.testing import TOLERANCES, assert_close, gradcheck, numerical_gradient

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

FLOAT64 = TOLERANCES[np.dtype("float64")]
LN2, LN3 = math.log(2), math.log(3)
CELLS = ("lstm", "gru", "rnn", "jordan")

# T, B, I, H, and P where it may differ from H. H > 2, or a row normalised over H would hold nothing but 1 and -1.
SEQ_LEN, BATCH, INPUT_SIZE, HIDDEN_SIZE, PROJECTED = 5, 3, 2, 3, 2
LENGTHS = [3, 0, 5]
# holes at the beginning, in the middle and at the end; a full row; a row without a step
MASK = np.array([[0, 1, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)

cells = pytest.mark.parametrize("cell", CELLS)


def width_of(cell, proj_size=0):
    """P."""
    return PROJECTED if proj_size or cell == "jordan" else HIDDEN_SIZE


def make_parameters(
    rng, cell, *, num_layers, bidirectional, merged, proj_size, peepholes, coupled, layer_norm, bias=True
):
    """Random parameters, by the names and shapes of the documentation."""
    G = {"lstm": 3 if coupled else 4, "gru": 3, "rnn": 1, "jordan": 1}[cell]
    H, P = HIDDEN_SIZE, width_of(cell, proj_size)
    shapes = {"weight_ih": (G * H, INPUT_SIZE), "weight_hh": (G * H, P)}
    if bias:
        shapes |= {"bias_ih": (G * H,), "bias_hh": (G * H,)}
    if cell == "jordan":
        shapes |= {"weight_ho": (P, H), "bias_ho": (P,)}
    if proj_size:
        shapes["weight_hr"] = (P, H)
    if peepholes:
        shapes["weight_peephole"] = ((G - 1) * H,)
    if layer_norm == "joint":
        shapes |= {"weight_ln_ih": (G * H,), "weight_ln_hh": (G * H,), "weight_ln_c": (H,), "bias_ln_c": (H,)}
    if layer_norm == "per_gate":
        shapes["weight_ln"] = (G * H,)
    parameters = {}
    for k in range(num_layers):
        for suffix in ("", "_reverse") if bidirectional else ("",):
            for name, shape in shapes.items():
                parameters[f"{name}_l{k}{suffix}"] = rng.uniform(-1, 1, shape)
        shapes["weight_ih"] = (G * H, P if merged or not bidirectional else 2 * P)
    return parameters


def make_problem(
    cell,
    seed=0,
    *,
    seq_len=SEQ_LEN,
    num_layers=1,
    bidirectional=False,
    proj_size=0,
    peepholes=False,
    noise=(),
    dropout=False,
    bias=True,
    **options,
):
    """Parameters, an input, an initial state and the options of forward, of everything that is asked for."""
    rng = np.random.default_rng(seed)
    merged = options.get("merge", "concat") != "concat"
    parameters = make_parameters(
        rng,
        cell,
        num_layers=num_layers,
        bidirectional=bidirectional,
        merged=merged,
        proj_size=proj_size,
        peepholes=peepholes,
        coupled=options.get("coupled"),
        layer_norm=options.get("layer_norm"),
        bias=bias,
    )
    count = num_layers * (2 if bidirectional else 1)
    P = width_of(cell, proj_size)
    state = [rng.standard_normal((count, BATCH, width)) for width in (P, HIDDEN_SIZE)]
    x = rng.standard_normal((seq_len, BATCH, INPUT_SIZE))
    if noise:
        # not only 0 and 1: an element of a gradient that is zero by chance would hide a wrong one
        draw = {
            "input": lambda name: rng.uniform(0, 2, (BATCH, parameters[f"weight_ih_{name}"].shape[1])),
            "recurrent": lambda name: rng.uniform(0, 2, (BATCH, P)),
            "weight_hh": lambda name: rng.uniform(0, 2, parameters[f"weight_hh_{name}"].shape),
            "zoneout_h": lambda name: rng.uniform(0, 1, (seq_len, BATCH, P)),
            "zoneout_c": lambda name: rng.uniform(0, 1, (seq_len, BATCH, HIDDEN_SIZE)),
        }
        suffixes = [name.removeprefix("weight_ih_") for name in parameters if name.startswith("weight_ih_")]
        options["noise"] = {name: [draw[name](suffix) for suffix in suffixes] for name in noise}
    if dropout:
        options["dropout_masks"] = [
            rng.uniform(0, 2, (seq_len, BATCH, P if merged or not bidirectional else 2 * P))
            for _ in range(num_layers - 1)
        ]
    return SimpleNamespace(
        cell=cell, parameters=parameters, x=x, state=tuple(state) if cell == "lstm" else state[0], options=options
    )


def forward(problem, **options):
    function = getattr(reference, f"{problem.cell}_forward")
    return function(problem.parameters, problem.x, problem.state, **{**problem.options, **options})


def backward(problem, cache, dy, dstate=None):
    return getattr(reference, f"{problem.cell}_backward")(cache, dy, dstate)


def arrays(state):
    return state if isinstance(state, tuple) else (state,)


class Layer:
    """The reference behind the interface of a layer, for gradcheck; a tape is a list."""

    def __init__(self, problem):
        self.problem = problem
        self.parameters = problem.parameters

    def forward(self, x, state=None, *, tape=None):
        y, state, cache = forward(SimpleNamespace(**{**vars(self.problem), "x": x, "state": state}))
        tape.append(cache)
        return np.concatenate(y, axis=2) if isinstance(y, tuple) else y, state

    def backward(self, tape, dy, dstate=None):
        if self.problem.options.get("merge", "concat") is None:
            dy = tuple(np.split(dy, 2, axis=2))
        return backward(self.problem, tape.pop(), dy, dstate)

    @contextmanager
    def writable(self):
        yield self.problem.parameters


# Activations ------------------------------------------------------------------------------------
#
# e^(ln 3) = 3, so sigmoid(ln 3) = 3/4, tanh(ln 3) = 0.8, softplus(ln 3) = ln 4; e^(-ln 2) - 1 = -1/2

ACTIVATIONS = [
    ("sigmoid", LN3, 3 / 4),
    ("tanh", LN3, 0.8),
    ("relu", 2.0, 2.0),
    ("relu", -2.0, 0.0),
    ("leaky_relu", 3.0, 3.0),
    ("leaky_relu", -3.0, -0.03),  # 0.01 * -3
    (("leaky_relu", 0.5), -3.0, -1.5),
    ("thresholded_relu", 1.25, 1.25),
    ("thresholded_relu", 0.75, 0.0),  # 0.75 <= 1
    (("thresholded_relu", 0.5), 0.75, 0.75),
    ("affine", 3.0, 3.0),
    (("affine", 2.0), 3.0, 6.0),
    (("affine", 2.0, -1.0), 3.0, 5.0),  # 2 * 3 - 1
    ("scaled_tanh", LN3, 0.8),
    (("scaled_tanh", 3.0, 0.5), 2 * LN3, 2.4),  # 3 tanh(ln 3)
    ("hard_sigmoid", 1.0, 0.7),  # 0.2 * 1 + 0.5
    ("hard_sigmoid", 2.75, 1.0),  # 0.2 * 2.75 + 0.5 = 1.05
    ("hard_sigmoid", -2.75, 0.0),
    (("hard_sigmoid", 1 / 6), 1.5, 0.75),  # 1.5 / 6 + 0.5
    (("hard_sigmoid", 0.25, 0.25), 2.0, 0.75),
    ("elu", 1.5, 1.5),
    ("elu", -LN2, -0.5),
    (("elu", 3.0), -LN2, -1.5),
    ("softsign", 3.0, 0.75),  # 3 / (1 + 3)
    ("softsign", -1.0, -0.5),
    ("softplus", LN3, 2 * LN2),
    ("linear", -5.0, -5.0),
    ("swish", LN3, 0.75 * LN3),
    ("swish", -LN3, -0.25 * LN3),
    # Phi(1) = 0.841344746068543 from a table of the normal distribution
    ("gelu", 1.0, 0.841344746068543),
    ("gelu", -1.0, -0.158655253931457),
]


def through_a_cell(spec, x, dtype="float64"):
    """The activation and its derivative at x, as an RNN with W_ih = 1, W_hh = 0 has them."""
    parameters = {"weight_ih_l0": np.ones((1, 1), dtype), "weight_hh_l0": np.zeros((1, 1), dtype)}
    x = np.asarray(x, dtype)
    y, _, cache = reference.rnn_forward(parameters, x.reshape(1, -1, 1), nonlinearity=spec)
    dx, _, _ = reference.rnn_backward(cache, np.ones_like(y))
    return y.reshape(x.shape), dx.reshape(x.shape)


@pytest.mark.parametrize(("spec", "x", "y"), ACTIVATIONS)
def test_an_activation_has_the_value_worked_by_hand(spec, x, y):
    assert_allclose(through_a_cell(spec, x)[0], y, rtol=1e-14)


@pytest.mark.parametrize(("spec", "x", "y"), ACTIVATIONS)
def test_the_derivative_of_an_activation_is_that_of_central_differences(spec, x, y):
    x = np.array(x)
    wanted = numerical_gradient(lambda x: through_a_cell(spec, x)[0], x)
    assert_close(through_a_cell(spec, x)[1], wanted, FLOAT64.central, "derivative")


@pytest.mark.parametrize(
    ("spec", "x", "derivative"),
    [
        ("relu", 0.0, 0.0),
        ("leaky_relu", 0.0, 1.0),
        ("thresholded_relu", 1.0, 0.0),
        ("hard_sigmoid", 2.5, 0.0),
        ("hard_sigmoid", -2.5, 0.0),
        (("elu", 3.0), 0.0, 1.0),
    ],
)
def test_the_derivative_at_a_kink_is_the_documented_one(spec, x, derivative):
    assert through_a_cell(spec, x)[1] == derivative


@pytest.mark.parametrize("spec", sorted({spec if isinstance(spec, str) else spec[0] for spec, _, _ in ACTIVATIONS}))
@pytest.mark.parametrize("dtype", ["float16", "float32", "longdouble"])
def test_an_activation_and_its_derivative_keep_the_dtype_and_do_not_overflow(spec, dtype):
    x = np.array([-60000, -1, 0, 1, 60000], dtype)
    with np.errstate(over="raise", invalid="raise", under="ignore"):
        parts = reference._activation(spec)
        if spec == "gelu" and dtype == "float16":
            x = x[1:4]  # x^2 is beyond the range
        results = parts.function(x), parts.derivative(x)
    for result in results:
        assert result.dtype == dtype
        assert np.isfinite(result).all()


def test_softplus_keeps_its_accuracy_in_both_tails():
    # log(1 + e^-40) = e^-40 to within e^-80; log(1 + e^1000) = 1000
    assert_allclose(through_a_cell("softplus", [-40.0, 1000.0])[0], [math.exp(-40), 1000], rtol=1e-15)


@pytest.mark.parametrize("spec", ["Tanh", "softmax", ("swish", 1.0), ("elu", 1.0, 2.0)])
def test_what_is_no_activation_is_refused(spec):
    with pytest.raises(ValueError, match="nonlinearity is "):
        through_a_cell(spec, 1.0)


# LSTM, one step of few units, by hand -----------------------------------------------------------
#
# With W = 0 the pre-activation of a gate is its bias, which is chosen where the activations are simple:
#     sigmoid(0) = 1/2   sigmoid(ln 3) = 3/4   sigmoid(-ln 3) = 1/4   tanh(ln 2) = 0.6   tanh(ln 3) = 0.8


def lstm_step(bias, c, *, x=0.0, h=0.0, **options):
    """h', c' of an LSTM whose weights are zero unless given."""
    bias, c = np.array(bias), np.atleast_1d(c)
    P = options["weight_hr"].shape[0] if "weight_hr" in options else c.size
    weights = {"weight_ih": np.zeros((bias.size, 1)), "weight_hh": np.zeros((bias.size, P)), **options}
    x, h = np.full((1, 1), x), np.full((1, P), h)
    h_next, c_next, _ = reference.lstm_cell(x, h, c[None], bias_ih=bias, **weights)
    return h_next[0], c_next[0]


def test_the_peepholes_of_i_and_f_see_the_old_c_and_that_of_o_the_new_one():
    # c = ln 3:  i = sigmoid(1 ln 3) = 3/4,  f = sigmoid(-1 ln 3) = 1/4,  g = (ln 2 - ln 3 / 4) / 0.75
    # c' = f c + i g = ln 3 / 4 + (ln 2 - ln 3 / 4) = ln 2
    # o = sigmoid((ln 3 / ln 2) c') = 3/4,  h' = 0.75 * 0.6 = 0.45
    bias = [0.0, 0.0, math.atanh((LN2 - LN3 / 4) / 0.75), 0.0]
    h, c = lstm_step(bias, LN3, weight_peephole=np.array([1.0, -1.0, LN3 / LN2]))
    assert_allclose([h, c], [[0.45], [LN2]], rtol=1e-14)


@pytest.mark.parametrize(
    ("coupled", "c"),
    [
        ("f=1-i", 0.7),  # i = 3/4, f = 1/4: 0.25 * 0.4 + 0.75 * 0.8
        ("i=1-f", 0.5),  # f = 3/4, i = 1/4: 0.75 * 0.4 + 0.25 * 0.8
    ],
)
def test_of_two_coupled_gates_one_has_the_weights_and_the_other_is_the_rest(coupled, c):
    h, c_next = lstm_step([LN3, LN3, 0.0], 0.4, coupled=coupled)
    assert_allclose([h, c_next], [[0.5 * math.tanh(c)], [c]], rtol=1e-14)


@pytest.mark.parametrize(
    ("coupled", "c"),
    [
        ("f=1-i", 0.25 * LN3 + 0.75 * 0.8),  # i = sigmoid(1 c) = 3/4
        ("i=1-f", 0.75 * LN3 + 0.25 * 0.8),  # f is
    ],
)
def test_with_coupled_gates_the_kept_one_has_the_first_peephole(coupled, c):
    _, c_next = lstm_step([0.0, LN3, 0.0], LN3, coupled=coupled, weight_peephole=np.array([1.0, 0.0]))
    assert_allclose(c_next, [c], rtol=1e-14)


def test_a_clip_of_the_gates_bounds_every_pre_activation_after_the_peephole():
    # v = ln 3: i = 3/4, f = 1/4, g = 0.8, o = 3/4;  c' = 0.25 * 0.8 + 0.75 * 0.8 = 0.8
    # of i the bias alone is 0 and the peephole makes it 10 * 0.8
    h, c = lstm_step([0.0, -10.0, 10.0, 10.0], 0.8, clip={"gates": LN3}, weight_peephole=np.array([10.0, 0, 0]))
    assert_allclose([h, c], [[0.75 * math.tanh(0.8)], [0.8]], rtol=1e-14)


def test_a_clip_of_the_cell_comes_before_every_use_of_it():
    # c' = 1/2 * 1 + 1/2 * 0.8 = 0.9, clipped to ln 2;  o = sigmoid(1 ln 2) = 2 / 3,  h' = 2 / 3 * 0.6 = 0.4
    h, c = lstm_step([0.0, 0.0, LN3, 0.0], 1.0, clip={"cell": LN2}, weight_peephole=np.array([0.0, 0, 1]))
    assert_allclose([h, c], [[0.4], [LN2]], rtol=1e-14)


@pytest.mark.parametrize(
    ("clip", "h"),
    [
        (None, [0.1, -0.8]),  # W_hr (0.3, 0.4) = (3 * 0.3 - 2 * 0.4, -2 * 0.4)
        ({"projection": 0.5}, [0.1, -0.5]),
        ({"cell": 0.1, "projection": 5.0}, [math.tanh(0.1) / 2, -math.tanh(0.1)]),
    ],
)
def test_a_projection_multiplies_h_and_its_clip_comes_after(clip, h):
    # o = 1/2, c' = (ln 2, ln 3) from f = 1/2, c = 2 c', g = 0: o tanh(c') = (0.3, 0.4)
    weight_hr = np.array([[3.0, -2.0], [0.0, -2.0]])
    h_next, c = lstm_step([0.0] * 8, [2 * LN2, 2 * LN3], weight_hr=weight_hr, clip=clip)
    assert_allclose(h_next, h, rtol=1e-14)
    assert_allclose(c, np.minimum([LN2, LN3], (clip or {}).get("cell", 9)), rtol=1e-14)


def test_a_joint_layer_norm_is_of_all_gates_of_each_product_and_of_c():
    # Two units, x = 1, h = (2, 0). W_ih x = (3, -3, 1, -1, -1, 1, -3, 3): mean 0, variance (9 + 1) / 2 = 5.
    # W_hh h = 2 + (2, 2, 2, 2, -2, -2, -2, -2): mean 2, variance 4. So
    #     N(W_ih x) = W_ih x / sqrt(5 + 1e-5),   N(W_hh h) = (1, 1, 1, 1, -1, -1, -1, -1) * 2 / sqrt(4 + 1e-5)
    # Of the pre-activation a the first is made to give a - 1, by its scale; the second 1/4; the bias 3/4.
    # a = (0, ln 3; ln 3, 0; ln 3, 0; ln 3, -ln 3):  i = (1/2, 3/4), f = (3/4, 1/2), g = (0.8, 0), o = (3/4, 1/4)
    # c = (0.8, -0.4):  c' = (0.75 * 0.8 + 0.5 * 0.8, -0.5 * 0.4 + 0) = (1, -0.2): mean 0.4, variance 0.36
    # N(c') = (1, -1) * 0.6 / sqrt(0.36 + 1e-5);  m = (ln 2, ln 3) by scales and shifts;  h' = (0.75 * 0.6, 0.25 * 0.8)
    w_x = np.array([3.0, -3, 1, -1, -1, 1, -3, 3])
    w_h = np.array([4.0, 4, 4, 4, 0, 0, 0, 0])
    a = np.array([0, LN3, LN3, 0, LN3, 0, LN3, -LN3])
    scale_c = 0.5 * math.sqrt(0.36 + 1e-5) / 0.6  # N(c') becomes (0.5, -0.5)
    h, c = lstm_step(
        np.full(8, 0.75),
        [0.8, -0.4],
        x=1.0,
        h=[2.0, 0.0],
        weight_ih=w_x[:, None],
        weight_hh=np.stack([w_h / 2, w_h], axis=1),
        weight_ln_ih=(a - 1) * math.sqrt(5 + 1e-5) / w_x,
        weight_ln_hh=0.25 * np.sign(w_h - 1) * math.sqrt(4 + 1e-5) / 2,
        weight_ln_c=np.full(2, scale_c),
        bias_ln_c=np.array([LN2 - 0.5, LN3 + 0.5]),
    )
    assert_allclose(c, [1, -0.2], rtol=1e-14)
    assert_allclose(h, [0.45, 0.2], rtol=1e-14)


def test_a_layer_norm_per_gate_is_of_both_products_and_the_peephole_together():
    # Two units, x = 1, h = (1, 1), c = (0.8, -0.4). With v = W_ih x + W_hh h + p c of each gate, (m + d, m - d),
    # N(v) = (1, -1) * d / sqrt(d^2 + 1e-8):
    #     i: (1, 1) + (2, 0) + (0.8 * 5, -0.4 * -5) = (7, 3), d = 2        o: as i without p, (3, 1), d = 1
    #     f: (2, 0) + (2, 0)                        = (4, 0), d = 2        g: (0, 2) + (0, 2) = (0, 4), d = -2
    # The scales make these the pre-activations of the joint norm above less 1, the biases add 1; the same
    # c', (1, -0.2). c' is not normalised: h' = (0.75 tanh(1), 0.25 tanh(-0.2))
    d = np.array([2.0, -2, 2, -2, -2, 2, 1, -1])
    a = np.array([0, LN3, LN3, 0, LN3, 0, LN3, -LN3])
    from_h = np.array([2.0, 0, 2, 0, 0, 2, 2, 0])
    h, c = lstm_step(
        np.ones(8),
        [0.8, -0.4],
        x=1.0,
        h=1.0,
        weight_ih=np.array([1.0, 1, 2, 0, 0, 2, 1, 1])[:, None],
        weight_hh=np.stack([from_h / 4, from_h * 3 / 4], axis=1),
        weight_peephole=np.array([5.0, -5, 0, 0, 0, 0]),
        weight_ln=(a - 1) * np.sqrt(d**2 + 1e-8) / d,
    )
    assert_allclose(c, [1, -0.2], rtol=1e-13)
    assert_allclose(h, [0.75 * math.tanh(1), 0.25 * math.tanh(-0.2)], rtol=1e-13)


def test_the_three_activations_are_those_of_the_gates_of_g_and_of_c():
    # i = f = o = hard_sigmoid(1) = 0.7, g = 3,  c' = 0.7 * -10 + 0.7 * 3 = -4.9,  h' = 0.7 * 0.1 * -4.9
    activations = ("hard_sigmoid", "linear", ("leaky_relu", 0.1))
    h, c = lstm_step([1.0, 1.0, 3.0, 1.0], -10.0, activations=activations)
    assert_allclose([h, c], [[-0.343], [-4.9]], rtol=1e-14)


# The other cells, by hand -----------------------------------------------------------------------


def gru_step(bias, h, weight_hh, **options):
    weights = {"weight_ih": np.zeros((3, 1)), "weight_hh": np.reshape(weight_hh, (3, 1)), "bias_ih": np.array(bias)}
    return reference.gru_cell(np.zeros((1, 1)), np.array([[h]]), **weights, **options)[0].item()


@pytest.mark.parametrize("reset_after", [True, False])
def test_a_gru_drops_h_from_its_products_and_keeps_it_where_it_passes_by(reset_after):
    # recurrent = 1/4, h = 8, u = 2:  r = sigmoid(u ln 3 / 2) = 3/4,  z = sigmoid(u ln 3 / 2) = 3/4
    # n = tanh(ln 2 / 1.5 * (r u)) = tanh(ln 2) = 0.6 either way,  h' = 0.25 * 0.6 + 0.75 * 8 = 6.15
    weight_hh = [LN3 / 2, LN3 / 2, LN2 / 1.5]
    h = gru_step([0.0, 0.0, 0.0], 8.0, weight_hh, reset_after=reset_after, recurrent=np.array([[0.25]]))
    assert_allclose(h, 6.15, rtol=1e-14)


def test_a_clip_of_a_gru_bounds_every_pre_activation():
    # v = ln 3: r = sigmoid(ln 3) = 3/4, z = sigmoid(-ln 3) = 1/4
    # q = W_hn h = 2, so n = tanh(ln 2 - 1.5 + r q) = tanh(ln 2) = 0.6,  h' = 0.75 * 0.6 + 0.25 * 1 = 0.7
    h = gru_step([5.0, -5.0, LN2 - 1.5], 1.0, [0.0, 0.0, 2.0], clip={"gates": LN3})
    assert_allclose(h, 0.7, rtol=1e-14)
    # n = tanh(ln 3) = 0.8:  h' = 0.75 * 0.8 + 0.25 * 1 = 0.85
    assert_allclose(gru_step([5.0, -5.0, 5.0], 1.0, [0.0, 0.0, 0.0], clip={"gates": LN3}), 0.85, rtol=1e-14)


def test_the_two_activations_of_a_gru_are_those_of_its_gates_and_of_n():
    # r = z = hard_sigmoid(0.5) = 0.6,  n = 2 + r * 5 = 5,  h' = 0.4 * 5 + 0.6 * 1 = 2.6
    h = gru_step([0.5, 0.5, 2.0], 1.0, [0.0, 0.0, 5.0], activations=("hard_sigmoid", "linear"))
    assert_allclose(h, 2.6, rtol=1e-14)


def test_a_clip_of_an_rnn_bounds_its_pre_activation():
    # a = 3 * 5, clipped to ln 3
    h, _ = reference.rnn_cell(np.full((1, 1), 3.0), np.ones((1, 1)), np.full((1, 1), 5.0), np.zeros((1, 1)))
    clipped, _ = reference.rnn_cell(
        np.full((1, 1), 3.0), np.ones((1, 1)), np.full((1, 1), 5.0), np.zeros((1, 1)), clip={"gates": LN3}
    )
    assert_allclose([h.item(), clipped.item()], [math.tanh(15), 0.8], rtol=1e-14)


def test_two_steps_of_a_jordan_rnn_give_the_numbers_worked_by_hand():
    # Two hidden units, one output; W_ih = (ln 3, -ln 2), W_hh = (0, ln 2 / 2), W_ho = (5, -10), b_ho = 1, b_ih = -b_hh
    # t = 1: x = 1, y_0 = 2:   a = (ln 3 + 0, -ln 2 + ln 2)       n = (0.8, 0)    y_1 = 2 (5 * 0.8 + 1) = 10
    # t = 2: x = 0, y_1 = 10:  a = (0, 5 ln 2), clipped to ln 3   n = (0, 0.8)    y_2 = 2 (-10 * 0.8 + 1) = -14
    parameters = {
        "weight_ih_l0": np.array([[LN3], [-LN2]]),
        "weight_hh_l0": np.array([[0.0], [LN2 / 2]]),
        "weight_ho_l0": np.array([[5.0, -10.0]]),
        "bias_ih_l0": np.array([1.0, 2.0]),
        "bias_hh_l0": np.array([-1.0, -2.0]),
        "bias_ho_l0": np.array([1.0]),
    }
    x, y_0 = np.array([1.0, 0.0]).reshape(2, 1, 1), np.full((1, 1, 1), 2.0)
    options = {"activation": ("affine", 2.0), "clip": {"gates": LN3}}
    y, y_n, cache = reference.jordan_forward(parameters, x, y_0, **options)
    assert_allclose(y.ravel(), [10, -14], rtol=1e-14)
    assert_array_equal(y_n, y[-1:])
    # dy_2 = 1:  de = 2,  dn = 2 W_ho = (10, -20),  da = (10, 0), as tanh'(0) = 1 and the second was clipped
    # dx_2 = 10 ln 3,  dW_ho = 2 n = (0, 1.6),  db_ho = 2;  dy_1 = W_hh^T da = 0, and so is all of t = 1
    dx, dy_0, gradients = reference.jordan_backward(cache, np.array([0.0, 1.0]).reshape(2, 1, 1))
    assert_allclose(dx.ravel(), [0, 10 * LN3], rtol=1e-14)
    assert_array_equal(dy_0, [[[0]]])
    assert_allclose(gradients["weight_ho_l0"], [[0, 1.6]], rtol=1e-14)
    assert_allclose(gradients["bias_ho_l0"], [2], rtol=1e-14)


# Zoneout, by hand: an RNN with y~ = x + h, a unit at a time ---------------------------------------

SUM = {"weight_ih_l0": np.ones((1, 1)), "weight_hh_l0": np.ones((1, 1))}


def test_zoneout_keeps_the_old_h_for_the_share_of_k():
    # h_0 = 1, x = 10, 20, 30, k = 1, 0, 1/4:  h~ = 11, h_1 = 1;  h_2 = 21;  h~ = 51, h_3 = 21 / 4 + 51 * 3 / 4 = 43.5
    x = np.array([10.0, 20.0, 30.0]).reshape(3, 1, 1)
    k = np.array([1, 0, 0.25]).reshape(3, 1, 1)
    options = {"nonlinearity": "linear", "noise": {"zoneout_h": [k]}}
    y, h_n, cache = reference.rnn_forward(SUM, x, np.ones((1, 1, 1)), **options)
    assert_array_equal(y.ravel(), [1, 21, 43.5])
    assert_array_equal(h_n.ravel(), [43.5])
    # h_3 = h_2 + 0.75 x_3,  h_2 = h_1 + x_2,  h_1 = h_0
    dx, dh_0, _ = reference.rnn_backward(cache, None, np.ones((1, 1, 1)))
    assert_array_equal(dx.ravel(), [0, 1, 0.75])
    assert_array_equal(dh_0.ravel(), [1])


def test_zoneout_of_c_does_not_reach_the_h_of_its_own_step():
    # i = f = o = 1/2, g = 0.8, c_0 = 2, h_0 = 1:  c~ = 0.5 * 2 + 0.5 * 0.8 = 1.4,  h~ = tanh(1.4) / 2
    # k_c = 1/4:  c_1 = 0.5 + 0.75 * 1.4 = 1.55;  k_h = 1/2:  h_1 = 0.5 + h~ / 2
    parameters = {
        "weight_ih_l0": np.zeros((4, 1)),
        "weight_hh_l0": np.zeros((4, 1)),
        "bias_ih_l0": np.array([0, 0, LN3, 0]),
    }
    state = np.ones((1, 1, 1)), np.full((1, 1, 1), 2.0)
    y, (h, c), _ = reference.lstm_forward(
        parameters, np.zeros((1, 1, 1)), state, noise={"zoneout_h": 0.5, "zoneout_c": 0.25}
    )
    assert_allclose(c.item(), 1.55, rtol=1e-14)
    assert_allclose([y.item(), h.item()], [0.5 + math.tanh(1.4) / 4] * 2, rtol=1e-14)


# Central differences ----------------------------------------------------------------------------

NOISE = ("input", "recurrent", "weight_hh", "zoneout_h")
LSTM_NOISE = (*NOISE, "zoneout_c")
TWO = {"num_layers": 2, "bidirectional": True}
CLIP = {"gates": 0.8, "cell": 0.6}  # of what is of unit size: some are clipped and some are not
ODD = (("hard_sigmoid", 0.3), "softsign", "swish")
ALL = {
    "seq_len": 3,
    "peepholes": True,
    "proj_size": 2,
    "clip": {**CLIP, "projection": 0.3},
    "noise": LSTM_NOISE,
    "mask": MASK[:, 1:4],
    "padding": "repeat",
}

LSTM_CASES = {
    # each alone
    "peepholes": {"peepholes": True},
    "f=1-i": {"coupled": "f=1-i"},
    "i=1-f": {"coupled": "i=1-f"},
    "clip gates": {"clip": {"gates": 0.8}},
    "clip cell": {"clip": {"cell": 0.6}},
    "projection": {"proj_size": 2},
    "clip projection": {"proj_size": 2, "clip": {"projection": 0.2}},
    "joint": {"layer_norm": "joint"},
    "per_gate": {"layer_norm": "per_gate"},
    "activations": {"activations": ODD},
    # pairs: every two options of the cell, and each with a way through time
    "peepholes, f=1-i, joint": {"peepholes": True, "coupled": "f=1-i", "layer_norm": "joint", "mask": MASK},
    "peepholes, i=1-f, per_gate": {"peepholes": True, "coupled": "i=1-f", "layer_norm": "per_gate", "reverse": True},
    "peepholes, clip, projection": {
        "peepholes": True,
        "clip": {**CLIP, "projection": 0.2},
        "proj_size": 2,
        "lengths": LENGTHS,
        "padding": "repeat",
    },
    "peepholes, activations, noise": {"peepholes": True, "activations": ODD, "noise": LSTM_NOISE, "empty": "zero"},
    "f=1-i, clip, per_gate": {"coupled": "f=1-i", "clip": CLIP, "layer_norm": "per_gate", "noise": LSTM_NOISE},
    "i=1-f, projection, joint": {
        "coupled": "i=1-f",
        "proj_size": 2,
        "layer_norm": "joint",
        "noise": LSTM_NOISE,
        "mask": MASK,
    },
    "clip, joint, activations": {"clip": CLIP, "layer_norm": "joint", "activations": ODD, "reverse": True},
    "projection, per_gate, activations": {"proj_size": 2, "layer_norm": "per_gate", "activations": ODD},
    "f=1-i, activations, single bias": {"coupled": "f=1-i", "activations": ODD, "bias": False},
    "all, both directions": {**ALL, "bidirectional": True, "layer_norm": "joint", "merge": "mul"},
    "all, stacked": {**ALL, "num_layers": 2, "layer_norm": "per_gate", "coupled": "f=1-i", "reverse": True},
}

OTHER_CASES = {
    "gru": {
        "reset before": {"reset_after": False},
        "clip": {"clip": {"gates": 0.8}},
        "reset before, clip, noise": {"reset_after": False, "clip": {"gates": 0.8}, "noise": NOISE},
        "activations, noise, mask": {"activations": ODD[:2], "noise": NOISE, "mask": MASK},
        "reset before, activations, reverse": {"reset_after": False, "activations": ODD[1:], "reverse": True},
        "stacked": {**TWO, "seq_len": 2, "noise": NOISE, "reset_after": False, "lengths": [2, 0, 1]},
    },
    "rnn": {
        "clip": {"clip": {"gates": 0.8}},
        "gelu": {"nonlinearity": "gelu"},
        "elu, clip, noise": {"nonlinearity": ("elu", 2.0), "clip": {"gates": 0.8}, "noise": NOISE},
        "stacked": {**TWO, "noise": NOISE, "mask": MASK, "padding": "repeat", "merge": "average"},
    },
    "jordan": {
        "plain": {},
        "no bias": {"bias": False},
        "one step": {"seq_len": 1},
        "clip": {"clip": {"gates": 0.8}},
        "activations": {"nonlinearity": "softplus", "activation": "tanh"},
        "ragged": {"lengths": LENGTHS},
        "noise": {"noise": NOISE, "activation": "softsign", "mask": MASK},
        "stacked": {**TWO, "noise": NOISE, "mask": MASK, "padding": "repeat"},
    },
}

# of the loops, which know no cell: an RNN is enough, and an LSTM where there are two states
TIME_CASES = {
    "mask": {"mask": MASK},
    "mask and lengths": {"mask": MASK, "lengths": [4, 3, 5]},
    "reverse": {"reverse": True},
    "reverse, stacked, ragged": {"reverse": True, "num_layers": 2, "lengths": LENGTHS},
    "repeat": {"mask": MASK, "padding": "repeat"},
    "repeat, reverse": {"mask": MASK, "padding": "repeat", "reverse": True},
    "a number": {"mask": MASK, "padding": -3.5},
    "empty zero": {"mask": MASK, "empty": "zero", "bidirectional": True},
    "sum": {"bidirectional": True, "merge": "sum", "mask": MASK, "padding": "repeat"},
    "mul": {"bidirectional": True, "merge": "mul", "mask": MASK, "padding": "repeat"},
    "average": {"bidirectional": True, "merge": "average", "lengths": LENGTHS},
    "apart": {"bidirectional": True, "merge": None, "mask": MASK, "padding": "repeat"},
    "mul, stacked, dropout": {**TWO, "merge": "mul", "dropout": True, "lengths": LENGTHS, "padding": 2.0},
    "repeat, zoneout": {"mask": MASK, "padding": "repeat", "noise": ("zoneout_h",)},
    **{f"{name} alone": {"noise": (name,)} for name in NOISE},
}

CASES = [
    *(pytest.param("lstm", case, id=f"lstm: {name}") for name, case in LSTM_CASES.items()),
    *(
        pytest.param("lstm", {**case, "seq_len": 1}, id=f"lstm: {name}, one step")
        for name, case in LSTM_CASES.items()
        if not {"mask", "lengths"} & set(case)
    ),
    *(
        pytest.param(cell, case, id=f"{cell}: {name}")
        for cell, members in OTHER_CASES.items()
        for name, case in members.items()
    ),
    *(pytest.param("rnn", case, id=f"rnn: {name}") for name, case in TIME_CASES.items()),
    pytest.param("lstm", {"mask": MASK, "empty": "zero", "padding": "repeat"}, id="lstm: empty zero, repeat"),
    pytest.param("lstm", {"noise": ("zoneout_c",)}, id="lstm: zoneout_c alone"),
    pytest.param("lstm", {"noise": ("zoneout_h", "zoneout_c"), "mask": MASK, "reverse": True}, id="lstm: zoneouts"),
]


@pytest.mark.parametrize(("cell", "case"), CASES)
def test_every_gradient_agrees_with_central_differences(cell, case):
    # A row of little variance bends N much: at the usual step truncation, eps^2 f''' / 6, is most of the error, up to
    # 2e-7. A twelfth of the step leaves 1e-9, cancellation included.
    eps = 5e-7 if "layer_norm" in case else None
    problem = make_problem(cell, **case)
    gradcheck(Layer(problem), problem.x, problem.state, tape=list, eps=eps)


# Time, directions, layers -----------------------------------------------------------------------


def assert_same(actual, expected):
    for one, other in zip(arrays(actual), arrays(expected), strict=True):
        assert_array_equal(one, other)


@cells
def test_reverse_is_forward_on_the_flipped_input_with_the_output_flipped_back(cell):
    problem = make_problem(cell, num_layers=2, reverse=True)
    y, state, cache = forward(problem)
    dx, dstate, dparameters = backward(problem, cache, y)
    problem.x = problem.x[::-1]
    flipped_y, flipped_state, cache = forward(problem, reverse=False)
    gradients = backward(problem, cache, flipped_y)
    assert_array_equal(y, flipped_y[::-1])
    assert_same(state, flipped_state)
    assert_array_equal(dx, gradients.dx[::-1])
    assert_same(dstate, gradients.dstate)
    for name, value in dparameters.items():
        assert_array_equal(value, gradients.parameters[name])


@cells
def test_a_mask_that_is_a_prefix_is_a_length(cell):
    problem = make_problem(cell, **TWO)
    y, state, cache = forward(problem, mask=np.arange(SEQ_LEN) < np.array(LENGTHS)[:, None])
    other_y, other_state, other_cache = forward(problem, lengths=LENGTHS)
    assert_array_equal(y, other_y)
    assert_same(state, other_state)
    assert_array_equal(backward(problem, cache, y).dx, backward(problem, other_cache, y).dx)


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"bidirectional": True}])
@cells
def test_masked_steps_do_not_happen(cell, options):
    # each row alone, its masked steps cut out
    problem = make_problem(cell, mask=MASK, **options)
    y, state, cache = forward(problem)
    problem.x[~MASK.T] = np.nan
    assert_array_equal(forward(problem)[0], y)
    dx = backward(problem, cache, y).dx
    assert not y[~MASK.T].any()
    assert not dx[~MASK.T].any()
    for b, steps in enumerate(MASK):
        alone = SimpleNamespace(**vars(problem))
        alone.x = problem.x[steps, b : b + 1]
        rows = tuple(s[:, b : b + 1] for s in arrays(problem.state))
        alone.state = rows if cell == "lstm" else rows[0]
        y_alone, state_alone, cache_alone = forward(alone, mask=None)
        assert_close(y[steps, b], y_alone[:, 0], FLOAT64.forward, "y")
        assert_close(dx[steps, b], backward(alone, cache_alone, y_alone).dx[:, 0], FLOAT64.backward, "dx")
        for s, s_alone in zip(arrays(state), arrays(state_alone), strict=True):
            assert_close(s[:, b], s_alone[:, 0], FLOAT64.forward, "state")


def test_padding_repeats_the_last_output_in_the_order_of_each_direction():
    # y~ = x + h with x = 1, 2, 4, 8, 16 and steps at 1 and 3:
    # forward   0, 2, 2, 10, 10      backward, from the end   0, 8, 8, 10, 10
    parameters = {**SUM, **{f"{name}_reverse": value for name, value in SUM.items()}}
    x, mask = np.array([1.0, 2, 4, 8, 16]).reshape(5, 1, 1), MASK[:1]
    options = {"nonlinearity": "linear", "mask": mask, "padding": "repeat"}
    y, _, cache = reference.rnn_forward(parameters, x, **options)
    assert_array_equal(y[:, 0, 0], [0, 2, 2, 10, 10])
    assert_array_equal(y[:, 0, 1], [10, 10, 8, 8, 0])
    # dy = 1, 10, 100, ...: forward, the place 2 adds to step 1, the place 4 to step 3, the place 0 to nothing
    dy = 10.0 ** np.arange(5).reshape(5, 1, 1) * np.array([1.0, 0.0])
    dx, _, _ = reference.rnn_backward(cache, dy)
    assert_array_equal(dx.ravel(), [0, 11110, 0, 11000, 0])
    # backward, the place 2 adds to step 3, the place 0 to step 1
    dx, _, _ = reference.rnn_backward(cache, dy[:, :, ::-1])
    assert_array_equal(dx.ravel(), [0, 11, 0, 1111, 0])


def test_padding_repeats_zeros_before_the_first_step_and_not_the_initial_state():
    y, _, _ = reference.rnn_forward(SUM, np.ones((2, 1, 1)), np.ones((1, 1, 1)), mask=[[False, True]], padding="repeat")
    assert y[0] == 0


def test_a_number_for_padding_stands_in_every_direction_before_they_are_merged():
    problem = make_problem("gru", bidirectional=True, mask=MASK, padding=3)
    holes = ~MASK.T
    assert (forward(problem)[0][holes] == 3).all()
    assert (forward(problem, merge="sum")[0][holes] == 6).all()
    assert (forward(problem, merge="mul")[0][holes] == 9).all()


@pytest.mark.parametrize("options", [{}, {"reverse": True}, TWO], ids=["forward", "reverse", "both, stacked"])
@cells
def test_empty_decides_the_final_state_of_a_row_without_a_step_and_whether_a_gradient_flows(cell, options):
    problem = make_problem(cell, mask=MASK, **options)
    _, state, cache = forward(problem)
    _, zero_state, zero_cache = forward(problem, empty="zero")
    ones = tuple(np.ones_like(s) for s in arrays(problem.state))
    ones = ones if cell == "lstm" else ones[0]
    kept = arrays(backward(problem, cache, None, ones).dstate)
    cut = arrays(backward(problem, zero_cache, None, ones).dstate)
    parts = zip(arrays(state), arrays(zero_state), arrays(problem.state), kept, cut, strict=True)
    for s, zero_s, s_0, ds_kept, ds_cut in parts:
        assert_array_equal(s[:, 2], s_0[:, 2])
        assert (ds_kept[:, 2] == 1).all()
        assert not zero_s[:, 2].any()
        assert not ds_cut[:, 2].any()
        assert_array_equal(s[:, :2], zero_s[:, :2])
        assert_array_equal(ds_kept[:, :2], ds_cut[:, :2])


def test_every_merge_is_made_of_the_two_outputs():
    problem = make_problem("lstm", bidirectional=True, lengths=LENGTHS)
    one, other = forward(problem, merge=None)[0]
    assert_array_equal(forward(problem)[0], np.concatenate([one, other], axis=2))
    assert_array_equal(forward(problem, merge="sum")[0], one + other)
    assert_array_equal(forward(problem, merge="mul")[0], one * other)
    assert_array_equal(forward(problem, merge="average")[0], (one + other) / 2)


@cells
def test_directions_merged_after_each_layer_are_layers_one_after_the_other(cell):
    problem = make_problem(cell, **TWO, merge="sum", mask=MASK)
    y, _, _ = forward(problem)
    x = problem.x
    for k in range(2):
        layer = SimpleNamespace(**vars(problem))
        layer.x = x
        layer.parameters = {
            name.replace(f"_l{k}", "_l0"): value for name, value in problem.parameters.items() if f"_l{k}" in name
        }
        states = tuple(s[2 * k : 2 * k + 2] for s in arrays(problem.state))
        layer.state = states if cell == "lstm" else states[0]
        x, _, _ = forward(layer)
    assert_array_equal(y, x)


# Noise ------------------------------------------------------------------------------------------


@cells
def test_noise_that_changes_nothing_changes_nothing(cell):
    names = LSTM_NOISE if cell == "lstm" else NOISE
    problem = make_problem(cell, **TWO, noise=names)
    y, _, _ = forward(problem, noise=None)
    for name, values in problem.options["noise"].items():
        for value in values:
            value[...] = 0 if name.startswith("zoneout") else 1
    assert_array_equal(forward(problem)[0], y)
    assert_array_equal(forward(problem, noise={name: [None] * 4 for name in names})[0], y)


@cells
def test_noise_on_the_input_and_on_weight_hh_is_noise_on_x_and_on_the_parameter(cell):
    problem = make_problem(cell, noise=("input", "weight_hh"))
    y, _, _ = forward(problem)
    noise = problem.options.pop("noise")
    problem.x = problem.x * noise["input"][0]
    problem.parameters["weight_hh_l0"] = problem.parameters["weight_hh_l0"] * noise["weight_hh"][0]
    assert_array_equal(forward(problem)[0], y)


@pytest.mark.parametrize("cell", ["lstm", "rnn", "jordan"])
def test_recurrent_noise_is_noise_on_the_columns_of_weight_hh(cell):
    # of a batch of one: a row has its own; not of a GRU, where h also passes by
    problem = make_problem(cell)
    problem.x = problem.x[:, :1]
    rows = tuple(s[:, :1] for s in arrays(problem.state))
    problem.state = rows if cell == "lstm" else rows[0]
    recurrent = np.array([[0.0, 2.0, 0.5]])[:, : width_of(cell)]
    y, _, _ = forward(problem, noise={"recurrent": [recurrent]})
    problem.parameters["weight_hh_l0"] = problem.parameters["weight_hh_l0"] * recurrent
    assert_close(y, forward(problem)[0], FLOAT64.forward, "y")


@cells
def test_a_zoneout_of_one_holds_the_state(cell):
    names = ("zoneout_h", "zoneout_c") if cell == "lstm" else ("zoneout_h",)
    problem = make_problem(cell)
    y, state, _ = forward(problem, noise=dict.fromkeys(names, 1.0))
    assert_same(state, problem.state)
    assert_array_equal(y, np.broadcast_to(arrays(problem.state)[0], y.shape))


def test_a_float_of_zoneout_is_that_k_everywhere():
    problem = make_problem("lstm", bidirectional=True)
    y, _, _ = forward(problem, noise={"zoneout_h": 0.25, "zoneout_c": [0.5, None]})
    k_h, k_c = np.full((SEQ_LEN, BATCH, HIDDEN_SIZE), 0.25), np.full((1, 1, 1), 0.5)
    assert_array_equal(forward(problem, noise={"zoneout_h": [k_h, k_h], "zoneout_c": [k_c, 0.0]})[0], y)


# What comes in and goes out ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "longdouble"])
@pytest.mark.parametrize("layer_norm", ["joint", "per_gate"])
def test_every_output_and_gradient_keeps_the_dtype(layer_norm, dtype):
    clip = {**CLIP, "projection": 0.5}
    options = {"peepholes": True, "proj_size": 2, "layer_norm": layer_norm, "clip": clip, "activations": ODD}
    problem = make_problem("lstm", **TWO, **options, noise=LSTM_NOISE, mask=MASK, merge="average", padding="repeat")
    problem.x = problem.x.astype(dtype)
    problem.state = tuple(s.astype(dtype) for s in problem.state)
    problem.parameters = {name: value.astype(dtype) for name, value in problem.parameters.items()}
    y, state, cache = forward(problem)
    gradients = backward(problem, cache, y, state)
    results = [y, *state, gradients.dx, *gradients.dstate, *gradients.parameters.values()]
    assert {str(array.dtype) for array in results} == {str(np.dtype(dtype))}


@cells
def test_a_cache_outlives_a_change_of_the_arguments_and_of_the_output(cell):
    problem = make_problem(cell, bidirectional=True, merge=None, noise=NOISE, mask=MASK.copy())
    y, _, cache = forward(problem)
    dy = tuple(np.ones_like(y_d) for y_d in y)
    first = backward(problem, cache, dy)
    noise = [value for values in problem.options["noise"].values() for value in values]
    for array in (*y, problem.x, *noise, problem.options["mask"], *problem.parameters.values()):
        array[...] = 0
    second = backward(problem, cache, dy)
    assert_array_equal(first.dx, second.dx)
    for name, value in first.parameters.items():
        assert_array_equal(value, second.parameters[name])


@cells
def test_no_steps_leave_the_state_or_zero(cell):
    problem = make_problem(cell, seq_len=0, padding="repeat")
    assert_same(forward(problem)[1], problem.state)
    assert not any(s.any() for s in arrays(forward(problem, empty="zero")[1]))


@pytest.mark.parametrize("direction", [0, 1], ids=["forward", "reverse"])
@cells
def test_gate_values_are_joined_by_the_equations_and_stand_at_their_times(cell, direction):
    problem = make_problem(cell, **TWO, mask=MASK)
    y, _, cache = forward(problem)
    values = reference.gate_values(cache, 1, direction)
    assert "".join(values) == {"lstm": "ifgoch", "gru": "rznh", "rnn": "h", "jordan": "ah"}[cell]
    for value in values.values():
        assert_array_equal(np.isnan(value).all(axis=2), ~MASK.T)
        assert_array_equal(np.isnan(value).any(axis=2), ~MASK.T)
    assert_array_equal(values["h"][MASK.T], np.split(y, 2, axis=2)[direction][MASK.T])

    row = 1  # which has every step
    order = slice(None, None, -1) if direction else slice(None)
    now = {letter: value[order, row] for letter, value in values.items()}
    before = {
        letter: np.vstack([s[2 + direction, row], now[letter][:-1]])
        for letter, s in zip("hc", arrays(problem.state), strict=False)
    }
    if cell == "lstm":
        assert_allclose(now["c"], now["f"] * before["c"] + now["i"] * now["g"], rtol=1e-15)
        assert_allclose(now["h"], now["o"] * np.tanh(now["c"]), rtol=1e-15)
    if cell == "gru":
        assert_allclose(now["h"], (1 - now["z"]) * now["n"] + now["z"] * before["h"], rtol=1e-15)
    if cell == "jordan":
        suffix = "_l1_reverse" if direction else "_l1"
        weight, bias = (problem.parameters[name + suffix] for name in ("weight_ho", "bias_ho"))
        assert_allclose(now["h"], now["a"] @ weight.T + bias, rtol=1e-13)


def test_gate_values_have_both_of_two_gates_that_are_coupled():
    for coupled in ("f=1-i", "i=1-f"):
        values = reference.gate_values(forward(make_problem("lstm", coupled=coupled))[2])
        assert_allclose(values["f"] + values["i"], np.ones_like(values["i"]), rtol=1e-15)


BOTH = {"bidirectional": True}


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        ({}, {"mask": MASK[:2]}, r"mask has shape \(2, 5\), expected \(batch=3, seq_len=5\)"),
        ({}, {"merge": "sum"}, "merge is 'sum' with one direction"),
        ({}, {"merge": None}, "merge is None with one direction"),
        (BOTH, {"merge": "ave"}, "merge is 'ave', expected 'concat'"),
        (TWO, {"merge": "concat", "reverse": True}, "reverse is True with two directions"),
        ({**TWO, "merge": "sum"}, {"merge": None}, "merge is None with 2 layers"),
        ({}, {"padding": "same"}, "padding is 'same', expected 'zero', 'repeat' or a number"),
        ({}, {"empty": "last"}, "empty is 'last', expected 'initial' or 'zero'"),
        ({}, {"coupled": "f"}, "coupled is 'f', expected one of"),
        ({}, {"layer_norm": "batch"}, "layer_norm is 'batch', expected None, 'joint' or 'per_gate'"),
        ({}, {"layer_norm": "joint"}, "parameters have no weight_ln_ih_l0"),
        ({"layer_norm": "joint"}, {"layer_norm": None}, "unexpected names: bias_ln_c_l0"),
        ({}, {"clip": {"projection": 1.0}}, "clip has 'projection': 1.0"),
        ({}, {"clip": {"gates": 0.0}}, "clip has 'gates': 0.0, expected positive numbers"),
        ({}, {"activations": ("tanh", "tanh")}, r"activations is \('tanh', 'tanh'\), expected 3"),
        ({}, {"activations": ("tanh", "tanh", "Tanh")}, "activation is 'Tanh', expected one of"),
        ({}, {"noise": {"h": [None]}}, "noise has unexpected names: h"),
        ({}, {"noise": {"input": [None] * 2}}, r"noise\['input'\] has 2 entries, expected 1"),
        ({}, {"noise": {"recurrent": [np.ones((1, 3))]}}, r"noise\['recurrent'\] .* \(1, 3\), expected \(3, 3\)"),
    ],
)
def test_wrong_options_are_named(made, options, message):
    problem = make_problem("lstm", **made)
    with pytest.raises(ValueError, match=message):
        forward(problem, **options)


def test_a_mask_that_is_not_of_bool_is_refused():
    with pytest.raises(TypeError, match="mask has dtype int64, expected bool"):
        forward(make_problem("rnn"), mask=MASK.astype(np.int64))


@cells
def test_every_cell_takes_the_options_of_all(cell):
    common = ("mask", "reverse", "merge", "padding", "empty", "noise")
    defaults = {name: inspect.signature(reference.lstm_forward).parameters[name].default for name in common}
    problem = make_problem(cell)
    assert_array_equal(forward(problem, **defaults)[0], forward(problem)[0])


@pytest.mark.parametrize("dy", [(np.zeros((5, 3, 3)),), (np.zeros((5, 3, 3)), np.zeros((5, 3, 6)))])
def test_outputs_apart_want_a_tuple_of_two_gradients(dy):
    problem = make_problem("lstm", bidirectional=True, merge=None)
    _, _, cache = forward(problem)
    with pytest.raises(ValueError, match="expected a tuple of two of shape"):
        backward(problem, cache, dy)
