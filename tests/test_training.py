"""Optimisers and clipping: steps worked out by hand, the same bits as NumPy's, PyTorch's values, nothing half done."""

import copy
import math
import pickle
import runpy
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cylstm import LSTM, Dense, Tape, schedules
from cylstm.layers import Layer
from cylstm.training import SGD, Adam, AdamW, RMSprop, clip_grad_norm, clip_grad_value

GOLDEN = Path(__file__).parent / "golden"
CASES = runpy.run_path(str(GOLDEN / "store.py"))["load"](GOLDEN / "optimizers.npz")


def layer_of(**parameters):
    """A layer with these parameters, and nothing that it can do."""
    arrays = {name: np.array(value, ndmin=1) for name, value in parameters.items()}
    (dtype,) = {array.dtype for array in arrays.values()}
    return Layer({name: array.shape for name, array in arrays.items()}, dtype, ((), {}), arrays)


class Pair(Layer):
    """A container of two layers, as an optimiser sees one."""

    def __init__(self, one, other):
        self.parts = {"0.": one, "1.": other}
        super().__init__({}, one.dtype, ((one, other), {}), {})

    @property
    def parameters(self):
        return {prefix + name: p for prefix, part in self.parts.items() for name, p in part.parameters.items()}

    @property
    def _leaves(self):
        return tuple(leaf for part in self.parts.values() for leaf in part._leaves)

    def _trainable_names(self):
        named = ((prefix, part._trainable_names()) for prefix, part in self.parts.items())
        return {prefix + name for prefix, names in named for name in names} if self.trainable else ()


def gradients(**parameters):
    arrays = {name: np.array(value, ndmin=1) for name, value in parameters.items()}
    return SimpleNamespace(dx=None, dstate=None, parameters=arrays)


def steps(optimizer, layer, *values):
    """The scalar parameter ``w`` after each of these gradients."""
    path = []
    for value in values:
        optimizer.step([gradients(w=value)])
        path.append(layer.parameters["w"][0])
    return path


def momentum(layers=None, lr=1e-2):
    return SGD(layers, lr, momentum=0.9)


def all_of_rmsprop(layers=None, lr=1e-3):
    return RMSprop(layers, lr, centered=True, momentum=0.9)


both = pytest.mark.parametrize("optimizer", [SGD, Adam])
every = pytest.mark.parametrize("optimizer", [SGD, momentum, RMSprop, all_of_rmsprop, Adam, AdamW])


# Rules --------------------------------------------------------------------------------------------


def test_sgd_subtracts_the_learning_rate_times_the_gradient():
    layer = layer_of(w=1.0)
    assert steps(SGD([layer], lr=0.5), layer, 1.0, -2.0) == [0.5, 1.5]


def test_sgd_with_momentum_adds_half_of_its_last_velocity():
    """v: 1, 0.5 + 1 = 1.5, 0.75 + 0 = 0.75."""
    layer = layer_of(w=0.0)
    assert steps(SGD([layer], lr=1.0, momentum=0.5), layer, 1.0, 1.0, 0.0) == [-1.0, -2.5, -3.25]


@pytest.mark.parametrize("g", [1e-3, 1.0, -1e3])
def test_the_first_step_of_adam_is_the_learning_rate_whatever_the_gradient(g):
    """m / (1 - beta1) = g and sqrt(v / (1 - beta2)) = |g|."""
    layer = layer_of(w=0.0)
    (w,) = steps(Adam([layer], lr=0.25, eps=0.0), layer, g)
    assert w == pytest.approx(-0.25 * np.sign(g), rel=1e-14)


def test_two_steps_of_adam_are_worked_out_by_hand():
    """betas 1/2, 3/4; g = 2, then 0.

    t = 1: m = 1, v = 1; corrected 2 and 4: w = -lr * 2 / 2
    t = 2: m = 1/2, v = 3/4; corrected (1/2)/(3/4) = 2/3 and (3/4)/(7/16) = 12/7
    """
    layer = layer_of(w=0.0)
    path = steps(Adam([layer], lr=0.1, betas=(0.5, 0.75), eps=0.0), layer, 2.0, 0.0)
    assert path == pytest.approx([-0.1, -0.1 - 0.1 * (2 / 3) / math.sqrt(12 / 7)], rel=1e-14)


def test_adam_adds_epsilon_outside_the_root_of_the_corrected_moment():
    """At the first step the corrected v is g^2: 0.1 * 2 / (2 + 0.5), not / sqrt(4 + 0.5)."""
    layer = layer_of(w=0.0)
    assert steps(Adam([layer], lr=0.1, eps=0.5), layer, 2.0) == pytest.approx([-0.08], rel=1e-14)


def test_adam_with_a_zero_gradient_from_the_start_does_not_move():
    layer = layer_of(w=3.0)
    assert steps(Adam([layer]), layer, 0.0, 0.0) == [3.0, 3.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adam_is_the_algorithm_of_the_paper_written_as_a_plain_loop(dtype):
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((3, 2))
    layer = layer_of(w=theta.astype(dtype))
    optimizer = Adam([layer], lr=0.01, betas=(0.8, 0.95), eps=1e-3)
    theta = theta.astype(dtype).astype(float)
    m, v = np.zeros((3, 2)), np.zeros((3, 2))
    for t in range(1, 21):
        g = rng.standard_normal((3, 2)).astype(dtype)
        optimizer.step([gradients(w=g)])
        for j in np.ndindex(3, 2):
            m[j] = 0.8 * m[j] + 0.2 * float(g[j])
            v[j] = 0.95 * v[j] + 0.05 * float(g[j]) ** 2
            m_hat = m[j] / (1 - 0.8**t)
            v_hat = v[j] / (1 - 0.95**t)
            theta[j] -= 0.01 * m_hat / (math.sqrt(v_hat) + 1e-3)
    assert layer.parameters["w"].dtype == dtype
    # 20 steps of a few roundings each, of numbers of size 1
    np.testing.assert_allclose(layer.parameters["w"], theta, rtol=0, atol=100 * np.finfo(dtype).eps)


def test_sgd_with_momentum_is_its_formula_written_as_a_plain_loop():
    rng = np.random.default_rng(0)
    p = rng.standard_normal(4)
    layer = layer_of(w=p)
    optimizer = SGD([layer], lr=0.1, momentum=0.9)
    v = np.zeros(4)
    for _ in range(20):
        g = rng.standard_normal(4)
        optimizer.step([gradients(w=g)])
        v = 0.9 * v + g
        p = p - 0.1 * v
    np.testing.assert_allclose(layer.parameters["w"], p, rtol=1e-13)


def test_weight_decay_of_sgd_is_added_to_the_gradient():
    """2 - 0.5 (1 + 0.25 * 2), and with v = 1.5 then 0.5 * 1.5 + 1 + 0.25 * 1.25."""
    layer = layer_of(w=2.0)
    assert steps(SGD([layer], lr=0.5, weight_decay=0.25), layer, 1.0) == [1.25]
    layer = layer_of(w=2.0)
    path = steps(SGD([layer], lr=0.5, weight_decay=0.25, momentum=0.5), layer, 1.0, 1.0)
    assert path == [1.25, 1.25 - 0.5 * (0.75 + 1.3125)]


def test_nesterov_looks_one_step_ahead():
    """v: 1, 0.5 + 1 = 1.5; the step is d + v / 2: 1.5, 1.75."""
    layer = layer_of(w=0.0)
    assert steps(SGD([layer], lr=1.0, momentum=0.5, nesterov=True), layer, 1.0, 1.0) == [-1.5, -3.25]


def test_rmsprop_adds_epsilon_outside_the_root():
    """v = g^2 / 4: 2 / (1 + 0.25); Keras' would be 2 / sqrt(1 + 0.25)."""
    layer = layer_of(w=0.0)
    assert steps(RMSprop([layer], lr=1.0, alpha=0.75, eps=0.25), layer, 2.0) == [-1.6]


def test_rmsprop_centred_divides_by_the_standard_deviation():
    """v = 1 and 7/4, mean = 1/2 and 7/8: the variances are 3/4 and 63/64."""
    layer = layer_of(w=0.0)
    path = steps(RMSprop([layer], lr=1.0, alpha=0.75, eps=0.0, centered=True), layer, 2.0, 2.0)
    one = 2 / math.sqrt(3 / 4)
    assert path == pytest.approx([-one, -one - 2 / math.sqrt(63 / 64)], rel=1e-15)


def test_a_variance_that_rounding_makes_negative_counts_as_zero():
    """In float32 v - mean^2 is -6e-8 from the 55th of these steps on, and a step of PyTorch's NaN."""
    layer = layer_of(w=np.float32(0.0))
    optimizer = RMSprop([layer], lr=2.0**-20, alpha=0.75, eps=1.0, centered=True)
    path = steps(optimizer, layer, *[np.float32(0.7)] * 60)
    state = optimizer.state_dict()
    assert state["0.w.v"] - state["0.w.mean"] ** 2 < 0
    assert np.diff(path)[-1] == pytest.approx(-0.7 * 2.0**-20, rel=1e-2)


def test_decoupled_weight_decay_does_not_pass_through_the_moments():
    """The first step of Adam is the learning rate: 2 (1 - 0.25 * 0.5) - 0.25."""
    layer = layer_of(w=2.0)
    assert steps(AdamW([layer], lr=0.25, eps=0.0, weight_decay=0.5), layer, 7.0) == pytest.approx([1.5], rel=1e-14)


def test_eps_hat_is_added_to_the_root_of_the_moment_that_is_not_corrected():
    """sqrt(v) = sqrt(1/4) * 2 = 1, so alpha m = 0.1 sqrt(1/4) / (1/2) * 1 is divided by 1 + 1/4; m = 1."""
    layer = layer_of(w=0.0)
    path = steps(Adam([layer], lr=0.1, betas=(0.5, 0.75), eps=0.25, eps_hat=True), layer, 2.0)
    assert path == pytest.approx([-0.08], rel=1e-15)


@pytest.mark.parametrize("case", [name for name, (about, _) in CASES.items() if "torch" in about["source"]])
def test_every_rule_follows_the_path_of_pytorch(case):
    about, arrays = CASES[case]
    layer = layer_of(w=arrays["start"])
    optimizer = {"SGD": SGD, "RMSprop": RMSprop, "Adam": Adam, "AdamW": AdamW}[about["optimizer"]]
    optimizer = optimizer([layer], **about["options"])
    for gradient, expected in zip(arrays["gradients"], arrays["path"], strict=True):
        optimizer.step([gradients(w=gradient)])
        # the same few operations on numbers of size 1, in another order
        np.testing.assert_allclose(layer.parameters["w"], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("case", "eps_hat", "low", "high"), [
    ("keras", True, 0, 5e-5),
    ("keras", False, 0, 5e-5),
    ("keras_small", True, 0, 5e-5),
    ("keras_small", False, 0.01, 0.1),
])  # fmt: skip
def test_adam_with_eps_hat_loses_what_keras_loses_at_every_step(case, eps_hat, low, high):
    """Keras has 1 - 0.999^t in float32, of which four digits are right at first: more than 1.5e-5 of the loss."""
    about, arrays = CASES[case]
    x, y = arrays["x"], arrays["y"]
    options = about["options"]
    layer = layer_of(w=np.zeros(4, np.float32))
    optimizer = Adam([layer], lr=options["learning_rate"], eps=options["epsilon"], eps_hat=eps_hat)
    losses = []
    for _ in arrays["losses"]:
        error = x @ layer.parameters["w"] - y
        losses.append(np.mean(np.square(error, dtype=np.float64)))
        optimizer.step([gradients(w=x.T @ error * np.float32(2 / len(y)))])
    assert low <= np.abs(np.array(losses) / arrays["losses"] - 1).max() < high


# The kernels' rules, operation by operation. Each rounds once, so NumPy has the same bits.


def numpy_sgd(p, g, moments, lr, decay, mu, nesterov=False):
    d = g + decay * p if decay else g
    if not moments:
        return p - lr * d
    v = moments[0]
    v[...] = mu * v + d
    return p - lr * (d + mu * v if nesterov else v)


def numpy_rmsprop(p, g, moments, lr, eps, mu, alpha, rest):
    v, mean, b = moments
    v[...] = alpha * v + rest * (g * g)
    square = v
    if mean is not None:
        mean[...] = alpha * mean + rest * g
        square = np.maximum(v - mean * mean, 0)
    d = g / (np.sqrt(square) + eps)
    if b is not None:
        b[...] = mu * b + d
        d = b
    return p - lr * d


def numpy_adam(p, g, moments, keep, alpha, eps, beta1, rest1, beta2, rest2):
    m, v = moments
    m[...] = beta1 * m + rest1 * g
    v[...] = beta2 * v + rest2 * (g * g)
    return keep * p - alpha * m / (np.sqrt(v) + eps)


def adams(t, lr, betas, eps, decay=0.0):
    root = math.sqrt(1 - betas[1] ** t)
    return 1 - lr * decay, lr * root / (1 - betas[0] ** t), eps, betas[0], 1 - betas[0], betas[1], 1 - betas[1]


TWINS = {
    "sgd": (lambda layers: SGD(layers, 0.3), (), numpy_sgd, lambda t: (0.3, 0.0, 0.0)),
    "decay": (lambda layers: SGD(layers, 0.3, weight_decay=0.1), (), numpy_sgd, lambda t: (0.3, 0.1, 0.0)),
    "momentum": (lambda layers: SGD(layers, 0.3, 0.9), "v", numpy_sgd, lambda t: (0.3, 0.0, 0.9)),
    "nesterov": (
        lambda layers: SGD(layers, 0.3, 0.9, True, 0.1), "v", lambda *a: numpy_sgd(*a, nesterov=True),
        lambda t: (0.3, 0.1, 0.9),
    ),
    "rmsprop": (
        lambda layers: RMSprop(layers, 0.3, 0.9, 0.1), ("v", None, None), numpy_rmsprop,
        lambda t: (0.3, 0.1, 0.0, 0.9, 1 - 0.9),
    ),
    "rmsprop, centred": (
        lambda layers: RMSprop(layers, 0.3, 0.9, 0.1, centered=True), ("v", "mean", None), numpy_rmsprop,
        lambda t: (0.3, 0.1, 0.0, 0.9, 1 - 0.9),
    ),
    "rmsprop, momentum": (
        lambda layers: RMSprop(layers, 0.3, 0.9, 0.1, 0.7), ("v", None, "b"), numpy_rmsprop,
        lambda t: (0.3, 0.1, 0.7, 0.9, 1 - 0.9),
    ),
    "rmsprop, both": (
        lambda layers: RMSprop(layers, 0.3, 0.9, 0.1, 0.7, True), ("v", "mean", "b"), numpy_rmsprop,
        lambda t: (0.3, 0.1, 0.7, 0.9, 1 - 0.9),
    ),
    "adam": (
        lambda layers: Adam(layers, 0.3, (0.9, 0.99), 0.1, True), "mv", numpy_adam,
        lambda t: adams(t, 0.3, (0.9, 0.99), 0.1),
    ),
    "adamw": (
        lambda layers: AdamW(layers, 0.3, (0.9, 0.99), 0.1, 0.1, True), "mv", numpy_adam,
        lambda t: adams(t, 0.3, (0.9, 0.99), 0.1, 0.1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TWINS)
def test_a_step_has_the_bits_of_the_same_operations_in_numpy(name, dtype):
    """Of every size up to two vectors and more, so that vectors end anywhere."""
    make, letters, twin, numbers_of = TWINS[name]
    rng = np.random.default_rng(0)
    sizes = [*range(1, 36), 1000]
    layer = layer_of(**{f"w{size}": rng.standard_normal(size).astype(dtype) for size in sizes})
    optimizer = make([layer])
    expected = {key: p.copy() for key, p in layer.parameters.items()}
    moments = {key: [None if letter is None else np.zeros_like(p) for letter in letters] for key, p in expected.items()}
    for t in range(1, 4):
        g = {key: rng.standard_normal(p.shape).astype(dtype) for key, p in expected.items()}
        optimizer.step([gradients(**g)])
        numbers = [np.dtype(dtype).type(number) for number in numbers_of(t)]
        for key, p in expected.items():
            expected[key] = twin(p, g[key], moments[key], *numbers)
            np.testing.assert_array_equal(layer.parameters[key], expected[key])
            assert expected[key].dtype == dtype
    state = optimizer.state_dict()
    for key, arrays in moments.items():
        for letter, moment in zip(letters, arrays, strict=True):
            if letter is not None:
                np.testing.assert_array_equal(state[f"0.{key}.{letter}"], moment)


@every
def test_nan_in_a_gradient_reaches_its_own_parameter_alone(optimizer):
    layer, whole = layer_of(w=[1.0, 2.0, 3.0]), layer_of(w=[1.0, 2.0, 3.0])
    one, other = optimizer([layer]), optimizer([whole])
    for _ in range(2):
        one.step([gradients(w=[1.0, math.nan, -1.0])])
        other.step([gradients(w=[1.0, 1.0, -1.0])])
    assert np.isnan(layer.parameters["w"]).tolist() == [False, True, False]
    assert (layer.parameters["w"][::2] == whole.parameters["w"][::2]).all()


@both
def test_a_new_learning_rate_counts_from_the_next_step(optimizer):
    layer = layer_of(w=1.0)
    optimizer = optimizer([layer], lr=0.5)
    (before,) = steps(optimizer, layer, 1.0)
    optimizer.lr = 0.0
    assert steps(optimizer, layer, 1.0) == [before]


# Layers -------------------------------------------------------------------------------------------


@both
def test_every_layer_gets_its_own_gradients(optimizer):
    """Together as each alone: moments are not shared, though the names are the same."""
    together = layer_of(w=1.0), layer_of(w=[2.0, 3.0])
    alone = layer_of(w=1.0), layer_of(w=[2.0, 3.0])
    values = [(0.5, [1.0, -4.0]), (-2.0, [0.25, 0.0])]
    joint = optimizer(list(together), lr=0.1)
    single = [optimizer([layer], lr=0.1) for layer in alone]
    for pair in values:
        joint.step([gradients(w=value) for value in pair])
        for one, value in zip(single, pair, strict=True):
            one.step([gradients(w=value)])
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.parameters["w"], other.parameters["w"])


@every
def test_a_step_leaves_the_parameters_that_were_handed_out_before(optimizer):
    layer = layer_of(w=[1.0, 2.0], b=3.0)
    before = layer.parameters
    optimizer([layer]).step([gradients(w=[1.0, 1.0], b=1.0)])
    assert [before["w"].tolist(), before["b"].tolist()] == [[1.0, 2.0], [3.0]]
    assert (layer.parameters["w"] < before["w"]).all() and layer.parameters["b"] < before["b"]


@every
def test_new_parameters_can_not_be_written_to(optimizer):
    layer = layer_of(w=1.0)
    optimizer([layer]).step([gradients(w=1.0)])
    w = layer.parameters["w"]
    with pytest.raises(ValueError, match="read-only"):
        w[0] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        w.setflags(write=True)
    assert isinstance(w.base, bytes)


@every
def test_a_layer_that_is_not_trainable_stays_as_it_is(optimizer):
    frozen, other = layer_of(w=1.0), layer_of(w=1.0)
    frozen.trainable = False
    optimizer, snapshot = optimizer([frozen, other]), frozen._store.snapshot
    optimizer.step([gradients(w=1.0)] * 2)
    assert frozen._store.snapshot is snapshot  # what was packed from it stays too
    assert other.parameters["w"] < 1


@every
def test_what_becomes_trainable_later_begins_at_its_own_first_step(optimizer):
    """Adam's correction is that of a first step, whatever the others have made."""
    late, first = layer_of(w=1.0), layer_of(w=1.0)
    late.trainable = False
    one, other = optimizer([late]), optimizer([first])
    steps(one, late, 3.0, 3.0)
    late.trainable = True
    assert steps(one, late, 1.0, 2.0) == steps(other, first, 1.0, 2.0)
    assert one.steps == 4


@every
def test_a_container_is_updated_as_its_layers_are(optimizer):
    pair, alone = [Pair(layer_of(w=1.0, b=2.0), layer_of(w=3.0)) for _ in range(2)]
    one, other = optimizer([pair]), optimizer(list(alone.parts.values()))
    for g in (0.5, -1.0):
        one.step([gradients(**{"0.w": g, "0.b": 2 * g, "1.w": 3 * g})])
        other.step([gradients(w=g, b=2 * g), gradients(w=3 * g)])
    assert pair.parameters == alone.parameters


@pytest.mark.parametrize("whole", [True, False])
def test_in_a_container_a_part_or_all_may_be_frozen(whole):
    pair = Pair(Pair(layer_of(w=1.0), layer_of(w=1.0)), layer_of(w=1.0))
    (pair if whole else pair.parts["0."].parts["1."]).trainable = False
    SGD([pair], lr=0.5).step([gradients(**{"0.0.w": 1.0, "0.1.w": 1.0, "1.w": 1.0})])
    assert [p[0] for p in pair.parameters.values()] == ([1.0, 1.0, 1.0] if whole else [0.5, 1.0, 0.5])


def test_a_layer_within_a_container_is_not_given_again():
    layer = layer_of(w=1.0)
    with pytest.raises(ValueError, match=r"layers\[1\] is in the list twice, itself or in another"):
        SGD([layer, Pair(layer_of(w=1.0), layer)])


def test_layers_of_two_dtypes_are_updated_each_in_its_own():
    one, other = layer_of(w=np.float32(1)), layer_of(w=np.float64(1))
    SGD([one, other], lr=0.1).step([gradients(w=np.float32(1)), gradients(w=np.float64(1))])
    assert one.parameters["w"] == np.float32(1) - np.float32(0.1) and other.parameters["w"] == 1 - 0.1


def test_a_reader_sees_parameters_of_one_step_alone():
    """The arrays are large enough for the GIL to be released between the two."""
    layer = layer_of(w=np.zeros(1 << 17), b=np.zeros(1 << 17))
    optimizer, g = SGD([layer], lr=1.0), gradients(w=np.ones(1 << 17), b=np.ones(1 << 17))
    stepping = threading.Thread(target=lambda: [optimizer.step([g]) for _ in range(40)])
    stepping.start()
    seen = []
    while stepping.is_alive():
        parameters = layer.parameters
        seen.append(parameters["w"][-1] - parameters["b"][0])
    stepping.join()
    assert set(seen) <= {0.0} and layer.parameters["w"][0] == -40


@both
def test_a_step_does_not_write_to_the_gradients(optimizer):
    g = gradients(w=[1.0, -2.0])
    optimizer([layer_of(w=[0.0, 0.0])]).step([g])
    assert g.parameters["w"].tolist() == [1.0, -2.0]


@both
def test_read_only_and_strided_gradients_are_accepted(optimizer):
    g = gradients(w=np.arange(4.0)[::2])
    g.parameters["w"].setflags(write=False)
    layer = layer_of(w=[5.0, 5.0])
    optimizer([layer], lr=0.5).step([g])
    assert layer.parameters["w"][0] == 5.0 and layer.parameters["w"][1] < 5.0


def test_gradients_that_lie_askew_are_accepted():
    memory = np.zeros(17, np.uint8)
    g = SimpleNamespace(parameters={"w": np.ndarray((2,), np.float64, memory, 1)})
    g.parameters["w"][:] = 1.0
    assert not g.parameters["w"].flags.aligned
    layer = layer_of(w=[5.0, 5.0])
    SGD([layer], lr=0.5).step([g])
    assert layer.parameters["w"].tolist() == [4.5, 4.5]


@both
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_that_does_not_match_the_layers_is_refused(optimizer, count):
    optimizer = optimizer([layer_of(w=1.0), layer_of(w=1.0)])
    with pytest.raises(ValueError, match=f"gradients has {count} entries, expected 2"):
        optimizer.step([gradients(w=1.0)] * count)


@both
def test_one_gradients_object_instead_of_a_list_is_refused(optimizer):
    with pytest.raises(TypeError, match="gradients is a SimpleNamespace, expected a list"):
        optimizer([layer_of(w=1.0)]).step(gradients(w=1.0))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (gradients(v=1.0), ValueError, r"gradients\[1\] has the names v, expected w"),
        (gradients(w=1.0, v=1.0), ValueError, r"gradients\[1\] has the names w, v, expected w"),
        (
            gradients(w=[1.0, 2.0]),
            ValueError,
            r"gradients\[1\] w has shape \(2,\), expected \(1,\)",
        ),
        (
            gradients(w=np.float32(1.0)),
            TypeError,
            r"gradients\[1\] w is of dtype float32, expected float64: use \.astype\('float64'\)$",
        ),
        ({"w": np.ones(1)}, TypeError, r"gradients\[1\] is a dict, expected Gradients"),
    ],
    ids=["name", "one more", "shape", "dtype", "dict"],
)
@both
def test_no_layer_is_changed_if_any_gradient_is_wrong(optimizer, wrong, error, message):
    layers = [layer_of(w=1.0), layer_of(w=1.0)]
    before = [layer.parameters["w"] for layer in layers]
    optimizer = optimizer(layers)
    with pytest.raises(error, match=message):
        optimizer.step([gradients(w=1.0), wrong])
    assert all(layer.parameters["w"] is w for layer, w in zip(layers, before, strict=True))
    assert optimizer.steps == 0


@every
def test_moments_stay_as_they_were_if_a_layer_can_not_be_changed(optimizer):
    layer, untouched = layer_of(w=1.0), layer_of(w=1.0)
    refused, plain = optimizer([layer]), optimizer([untouched])
    with layer.writable(), pytest.raises(RuntimeError, match="already inside writable"):
        steps(refused, layer, 5.0)
    assert steps(refused, layer, 1.0, 2.0) == steps(plain, untouched, 1.0, 2.0)


@every
def test_moments_stay_as_they_were_if_the_schedule_raises(optimizer):
    def broken(step):
        raise ZeroDivisionError

    layer, untouched = layer_of(w=1.0), layer_of(w=1.0)
    refused, plain = optimizer([layer], lr=broken), optimizer([untouched])
    with pytest.raises(ZeroDivisionError):
        steps(refused, layer, 5.0)
    refused.lr = plain.lr
    assert steps(refused, layer, 1.0, 2.0) == steps(plain, untouched, 1.0, 2.0)


def test_a_step_waits_for_a_writer_in_another_thread():
    layer = layer_of(w=1.0)
    optimizer, entered = SGD([layer], lr=0.5), threading.Event()

    def write():
        with layer.writable() as p:
            entered.set()
            time.sleep(0.05)
            p["w"][:] = 10.0

    writer = threading.Thread(target=write)
    writer.start()
    assert entered.wait(10)
    assert steps(optimizer, layer, 1.0) == [9.5]
    writer.join()


def test_two_optimisers_of_the_same_layers_in_two_orders_do_not_wait_for_each_other():
    layers = layer_of(w=1.0), layer_of(w=1.0)

    def run(optimizer):
        for _ in range(500):
            optimizer.step([gradients(w=1.0)] * 2)

    optimizers = [SGD(list(order), lr=0.25) for order in (layers, layers[::-1])]
    threads = [threading.Thread(target=run, args=[optimizer], daemon=True) for optimizer in optimizers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [layer.parameters["w"][0] for layer in layers] == [-249.0, -249.0]


@both
def test_a_layer_given_twice_is_refused(optimizer):
    layer = layer_of(w=1.0)
    with pytest.raises(ValueError, match=r"layers\[1\] is in the list twice"):
        optimizer([layer, layer])


@both
@pytest.mark.parametrize(
    "layers", [layer_of(w=1.0), [np.ones(3)], "none"], ids=["one layer", "array", "string"]
)
def test_what_is_not_a_list_of_layers_is_refused(optimizer, layers):
    with pytest.raises(TypeError, match=r"^layers.* expected a l"):
        optimizer(layers)


@pytest.mark.parametrize(
    ("optimizer", "options", "name"),
    [
        (SGD, {"lr": -1.0}, "lr"),
        (SGD, {"lr": math.inf}, "lr"),
        (SGD, {"momentum": 1.0}, "momentum"),
        (SGD, {"weight_decay": -1.0}, "weight_decay"),
        (SGD, {"nesterov": True}, "nesterov is True, but momentum is 0"),
        (RMSprop, {"alpha": 1.0}, "alpha"),
        (RMSprop, {"eps": -1e-8}, "eps"),
        (RMSprop, {"momentum": -0.1}, "momentum"),
        (Adam, {"lr": math.nan}, "lr"),
        (Adam, {"betas": (1.0, 0.9)}, "betas"),
        (Adam, {"betas": (0.9, -0.1)}, "betas"),
        (Adam, {"betas": 0.9}, "betas"),
        (Adam, {"eps": -1e-8}, "eps"),
        (AdamW, {"weight_decay": math.inf}, "weight_decay"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_name(optimizer, options, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        optimizer([layer_of(w=1.0)], **options)


# Binding ------------------------------------------------------------------------------------------


@every
def test_an_optimiser_that_is_bound_later_does_the_same(optimizer):
    one, other = layer_of(w=1.0), layer_of(w=1.0)
    late = optimizer()
    late.bind([one])
    assert steps(late, one, 1.0, -2.0) == steps(optimizer([other]), other, 1.0, -2.0)


@pytest.mark.parametrize("call", [
    lambda o: o.step([]), lambda o: o.state_dict(), lambda o: o.load_state_dict({}),
], ids=["step", "state_dict", "load_state_dict"])  # fmt: skip
@both
def test_without_layers_there_is_nothing_to_do(optimizer, call):
    with pytest.raises(RuntimeError, match=r"has no layers yet: make it as (SGD|Adam)\(layers, ...\), or bind"):
        call(optimizer())


@both
def test_binding_the_same_layers_again_changes_nothing_and_others_are_refused(optimizer):
    layer, other = layer_of(w=1.0), layer_of(w=1.0)
    optimizer = optimizer([layer])
    steps(optimizer, layer, 1.0)
    optimizer.bind((layer,))
    assert optimizer.steps == 1
    for layers in ([other], [layer, other], []):
        with pytest.raises(ValueError, match="layers are not those that this optimiser has"):
            optimizer.bind(layers)
    assert optimizer.layers == [layer]


@pytest.mark.parametrize("text", [
    "SGD(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0)",
    "RMSprop(lr=0.1, alpha=0.9, eps=1e-07, momentum=0.5, centered=True)",
    "Adam(lr=0.1, betas=(0.9, 0.99), eps=1e-07, eps_hat=True)",
    "AdamW(lr=0.1, betas=(0.9, 0.99), eps=1e-07, eps_hat=True, weight_decay=0.5)",
    "Adam(lr=schedules.cosine(lr=0.1, total_steps=10, lr_min=0.0), betas=(0.9, 0.99), eps=1e-07, eps_hat=False)",
    "SGD([Dense(2, 1)], lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0)",
])  # fmt: skip
def test_the_repr_is_the_call_that_makes_it(text):
    assert repr(eval(text)) == text.replace("schedules.", "")


# Schedules ----------------------------------------------------------------------------------------


@both
def test_every_step_has_the_learning_rate_that_the_schedule_gives_its_number(optimizer):
    layer, twin = layer_of(w=1.0), layer_of(w=1.0)
    scheduled, plain = optimizer([layer], lr=lambda step: 2.0**-step), optimizer([twin])
    for n, value in enumerate((1.0, -3.0, 2.0)):
        plain.lr = 2.0**-n
        assert scheduled.lr == plain.lr
        assert steps(scheduled, layer, value) == steps(plain, twin, value)


def test_decay_follows_the_schedule():
    """2 (1 - lr / 2) - lr, of Adam's first step, where lr is 0.5."""
    layer = layer_of(w=2.0)
    optimizer = AdamW([layer], lr=lambda step: 0.5, eps=0.0, weight_decay=0.5)
    assert steps(optimizer, layer, 1.0) == pytest.approx([1.0], rel=1e-14)


@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf])
def test_a_schedule_that_gives_no_learning_rate_is_refused_before_the_step(rate):
    layer = layer_of(w=1.0)
    with pytest.raises(ValueError, match=r"^lr is"):
        steps(SGD([layer], lr=lambda step: rate), layer, 1.0)
    assert layer.parameters["w"] == 1.0


# State --------------------------------------------------------------------------------------------


def trained(optimizer, layer, seed, count):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        g = {name: rng.standard_normal(p.shape).astype(layer.dtype) for name, p in layer.parameters.items()}
        optimizer.step([SimpleNamespace(parameters=g)])


def resumed(optimizer, layer, make):
    """A new optimiser of a new layer, from the state of both."""
    other = copy.deepcopy(layer)
    new = make([other])
    new.load_state_dict(optimizer.state_dict())
    return new, other


def pickled(optimizer, layer, make):
    new = pickle.loads(pickle.dumps(optimizer))
    return new, new.layers[0]


def copied(optimizer, layer, make):
    new = copy.deepcopy(optimizer)
    return new, new.layers[0]


@pytest.mark.parametrize("again", [resumed, pickled, copied])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every
def test_training_goes_on_to_the_same_bits(optimizer, dtype, again):
    def make(layers):
        return optimizer(layers, lr=schedules.warmup(schedules.ReduceOnPlateau(0.1, patience=0), 5))

    layer = LSTM(3, 4, dtype=dtype, rng=0)
    one = make([layer])
    trained(one, layer, 0, 3)
    one.schedule.update(1.0)
    one.schedule.update(2.0)  # from here on a tenth
    other, twin = again(one, layer, make)
    for each, of in ((one, layer), (other, twin)):
        trained(each, of, 1, 3)
    assert (one.steps, one.lr) == (other.steps, other.lr) == (6, 0.1 * 0.1)
    assert all((twin.parameters[name] == p).all() for name, p in layer.parameters.items())
    assert twin.parameters is not layer.parameters


def test_the_state_is_flat_and_names_what_it_is_of():
    layer, dense = layer_of(w=[1.0, 2.0]), Dense(2, 1, bias=False)
    optimizer = Adam([layer, dense], lr=0.5, betas=(0.5, 0.75))
    dense.trainable = False
    optimizer.step([gradients(w=[2.0, 4.0]), gradients(weight=np.ones((1, 2), np.float32))])
    state = optimizer.state_dict()
    numbers = {key: value for key, value in state.items() if not isinstance(value, np.ndarray)}
    assert numbers == {"steps": 1, "lr": 0.5, "0.w.steps": 1, "1.weight.steps": 0}
    assert state.keys() - numbers.keys() == {"0.w.m", "0.w.v", "1.weight.m", "1.weight.v"}
    assert (state["0.w.m"].tolist(), state["0.w.v"].tolist()) == ([1.0, 2.0], [1.0, 4.0])
    assert state["1.weight.v"].shape == (1, 2) and not state["1.weight.v"].any()


def test_a_state_is_a_copy():
    layer = layer_of(w=1.0)
    optimizer = SGD([layer], momentum=0.5)
    state = optimizer.state_dict()
    steps(optimizer, layer, 1.0)
    assert state["0.w.v"] == 0
    optimizer.load_state_dict(state)
    state["0.w.v"][:] = 100.0
    assert optimizer.state_dict()["0.w.v"] == 0


def test_moments_are_cast_from_any_float_dtype():
    layer = layer_of(w=np.float32(1))
    optimizer = SGD([layer], momentum=0.5)
    optimizer.load_state_dict({"steps": np.int64(3), "lr": np.float32(0.5), "0.w.steps": 3, "0.w.v": np.array([2.0])})
    assert optimizer.state_dict() == {"steps": 3, "lr": 0.5, "0.w.steps": 3, "0.w.v": np.float32(2)}
    assert steps(optimizer, layer, np.float32(0)) == [0.5]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"0.w.v": None}, ValueError, "state names do not match this SGD; missing: 0.w.v"),
        ({"1.w.v": np.zeros(1)}, ValueError, "state names do not match this SGD; unexpected: 1.w.v"),
        ({"0.w.v": np.zeros(2)}, ValueError, r"0.w.v has shape \(2,\), expected \(1,\)"),
        ({"0.w.v": np.zeros(1, int)}, TypeError, "0.w.v is of dtype int64, expected a float dtype"),
        ({"0.w.v": np.array([math.nan])}, ValueError, "0.w.v has values from nan to nan, expected finite numbers$"),
        ({"0.w.v": np.array([-math.inf])}, ValueError, "0.w.v has values from -inf to 0.0, expected finite numbers$"),
        ({"0.w.steps": -1}, ValueError, "0.w.steps is -1, expected an integer of at least 0"),
        ({"steps": 1.5}, TypeError, "steps is 1.5, expected an integer"),
        ({"lr": -1.0}, ValueError, "lr is -1.0, expected a number in"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_whole(change, error, message):
    layer = layer_of(w=1.0)
    optimizer = SGD([layer], lr=0.25, momentum=0.5)
    given = {"steps": 7, "lr": 0.5, "0.w.steps": 7, "0.w.v": np.ones(1)} | change
    before = optimizer.state_dict()
    with pytest.raises(error, match=message):
        optimizer.load_state_dict({key: value for key, value in given.items() if value is not None})
    assert optimizer.state_dict() == before


def test_adam_has_no_weight_decay():
    assert not hasattr(Adam, "weight_decay") and AdamW().weight_decay == 0.01


@pytest.mark.parametrize("optimizer", [RMSprop, Adam, AdamW])
def test_a_mean_of_squares_is_not_negative(optimizer):
    optimizer = optimizer([layer_of(w=1.0)])
    state = optimizer.state_dict() | {"0.w.v": np.array([-1.0])}
    with pytest.raises(ValueError, match=r"^0\.w\.v has values from -1\.0 to 0\.0, expected finite .* at least 0$"):
        optimizer.load_state_dict(state)


def test_a_velocity_may_be_negative():
    optimizer = SGD([layer_of(w=1.0)], momentum=0.5)
    optimizer.load_state_dict(optimizer.state_dict() | {"0.w.v": np.array([-1.0])})
    assert optimizer.state_dict()["0.w.v"] == -1


def test_a_copy_of_an_optimiser_that_has_overflowed_is_one_too():
    optimizer = Adam([Dense(1, 1, bias=False)])
    optimizer.step([gradients(weight=np.full((1, 1), 1e30, np.float32))])
    assert copy.deepcopy(optimizer).state_dict()["0.weight.v"] == math.inf


# Clipping -----------------------------------------------------------------------------------------


def test_clipping_scales_all_layers_as_one_vector_and_returns_the_norm_before():
    """|(2, 3, 6)| = 7."""
    one, two = gradients(w=[2.0, 3.0]), gradients(w=0.0, b=6.0)
    assert clip_grad_norm([one, two], 3.5) == 7.0
    assert one.parameters["w"].tolist() == [1.0, 1.5]
    assert two.parameters["w"].tolist() == [0.0]
    assert two.parameters["b"].tolist() == [3.0]


@pytest.mark.parametrize("max_norm", [5.0, 6.0, math.inf])
def test_a_norm_within_the_limit_changes_no_bit(max_norm):
    g = gradients(w=[3.0, 4.0])
    assert clip_grad_norm([g], max_norm) == 5.0
    assert g.parameters["w"].tolist() == [3.0, 4.0]


def test_clipping_leaves_dx_and_dstate_alone():
    g = gradients(w=[3.0, 4.0])
    g.dx, g.dstate = np.ones(2), (np.ones(2), np.ones(2))
    assert clip_grad_norm([g], 1.0) == 5.0
    assert (g.dx == 1).all() and (g.dstate[0] == 1).all() and (g.dstate[1] == 1).all()


def test_clipping_changes_the_arrays_in_place():
    g = gradients(w=[3.0, 4.0])
    array = g.parameters["w"]
    clip_grad_norm([g], 1.0)
    assert g.parameters["w"] is array


def test_the_norm_of_float32_gradients_is_taken_in_float64():
    """Their squares, 9e60, overflow float32; their scale, 2e-43, has only 7 bits there."""
    g = gradients(w=np.array([3e30, 4e30], np.float32))
    assert clip_grad_norm([g], 1e-12) == pytest.approx(5e30, rel=1e-7)
    assert g.parameters["w"].dtype == np.float32
    np.testing.assert_allclose(g.parameters["w"], [6e-13, 8e-13], rtol=3e-7)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200], ids=["nan", "inf", "overflow"])
def test_a_norm_that_is_not_finite_is_returned_and_nothing_scaled(value):
    g = gradients(w=[value, 4.0])
    assert not math.isfinite(clip_grad_norm([g], 1.0))
    assert g.parameters["w"][1] == 4.0


def test_a_limit_of_zero_gives_zero_gradients():
    g = gradients(w=[3.0, 4.0])
    clip_grad_norm([g], 0.0)
    assert g.parameters["w"].tolist() == [0.0, 0.0]


def test_no_gradients_have_the_norm_zero():
    assert clip_grad_norm([], 1.0) == 0.0


@pytest.mark.parametrize("max_norm", [-1.0, math.nan])
def test_a_negative_limit_is_refused(max_norm):
    with pytest.raises(ValueError, match=r"^max_norm"):
        clip_grad_norm([gradients(w=1.0)], max_norm)


@pytest.mark.parametrize("clip", [clip_grad_norm, clip_grad_value])
def test_clipping_wants_a_list(clip):
    with pytest.raises(TypeError, match="grads is a SimpleNamespace, expected a list"):
        clip(gradients(w=1.0), 1.0)


@pytest.mark.parametrize("clip", [clip_grad_norm, clip_grad_value])
def test_clipping_changes_nothing_if_an_array_can_not_be_changed(clip):
    good, bad = gradients(w=[3.0, 4.0]), gradients(w=[3.0, 4.0])
    bad.parameters["w"].setflags(write=False)
    with pytest.raises(ValueError, match=r"grads\[1\] w is read-only"):
        clip([good, bad], 1.0)
    with pytest.raises(TypeError, match=r"grads\[1\] w is of dtype float16, expected float32"):
        clip([good, gradients(w=np.float16(3))], 1.0)
    assert good.parameters["w"].tolist() == [3.0, 4.0]


def test_strided_gradients_are_clipped_where_they_are():
    memory = np.array([3.0, 100.0, 4.0, 100.0])
    g = SimpleNamespace(parameters={"w": memory[::2]})
    assert clip_grad_norm([g], 1.0) == 5.0
    assert memory.tolist() == [3.0 * 0.2, 100.0, 4.0 * 0.2, 100.0]
    clip_grad_value([g], 0.7)
    assert memory.tolist() == [3.0 * 0.2, 100.0, 0.7, 100.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [*range(40), 1000])
def test_the_norm_adds_up_in_the_order_that_its_kernel_says(size, dtype):
    """Sixteen chains of squares, then halves of them: the same bits at every level."""
    x = np.random.default_rng(size).standard_normal(size).astype(dtype)
    squares = np.zeros((size // 16 + 1) * 16)
    squares[:size] = np.square(x, dtype=np.float64)
    chains = np.zeros(16)
    for part in squares.reshape(-1, 16):
        chains += part
    while len(chains) > 1:
        half = len(chains) // 2
        chains = chains[:half] + chains[half:]
    assert clip_grad_norm([gradients(w=x)], math.inf) == math.sqrt(chains[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_rounds_each_element_once(dtype):
    x = np.random.default_rng(0).standard_normal(100).astype(dtype)
    g = gradients(w=x)
    norm = clip_grad_norm([g], 0.1)
    np.testing.assert_array_equal(g.parameters["w"], (x * np.float64(0.1 / norm)).astype(dtype))


def test_the_same_gradients_have_the_same_norm_wherever_they_lie():
    tape, lstm = Tape(), LSTM(3, 5, rng=0)
    norms = set()
    for offset in range(4):
        memory = np.zeros(4096 + offset, np.float32)
        y, _ = lstm.forward(np.ones((4, 2, 3), np.float32), tape=tape)
        g = lstm.backward(tape, np.ones_like(y)).parameters
        moved = {name: np.ndarray(a.shape, a.dtype, memory, 4 * offset) for name, a in g.items()}
        for name in g:
            moved[name][...] = g[name]
            norms.add((name, clip_grad_norm([SimpleNamespace(parameters={name: moved[name]})], math.inf)))
    assert len(norms) == len(g)


# By value


def test_every_element_is_brought_between_the_limits():
    g = gradients(w=[3.0, -0.5, -4.0], b=np.array([1.0, -1.0, math.inf]))
    g.dx = np.full(2, 9.0)
    assert clip_grad_value([g], 2) is None
    assert g.parameters["w"].tolist() == [2.0, -0.5, -2.0] and g.parameters["b"].tolist() == [1.0, -1.0, 2.0]
    assert g.dx.tolist() == [9.0, 9.0]


@pytest.mark.parametrize("limit", [math.inf, 1e300])
def test_a_limit_beyond_the_dtype_changes_nothing(limit):
    g = gradients(w=np.array([3e38, -math.inf, 0.0], np.float32))
    clip_grad_value([g], limit)
    assert g.parameters["w"].tolist() == [np.float32(3e38), -math.inf, 0.0]


def test_clipping_by_value_passes_nan_on():
    g = gradients(w=[math.nan, 3.0])
    clip_grad_value([g], 1.0)
    assert np.isnan(g.parameters["w"][0]) and g.parameters["w"][1] == 1


@pytest.mark.parametrize("limit", [-1.0, math.nan])
def test_a_negative_value_is_refused(limit):
    with pytest.raises(ValueError, match=r"^clip_value"):
        clip_grad_value([gradients(w=1.0)], limit)
