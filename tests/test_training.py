"""Optimisers and clipping: steps worked out by hand, a loop beside each rule, nothing half done."""

import contextlib
import math
from types import SimpleNamespace

import numpy as np
import pytest

from cylstm.training import SGD, Adam, clip_grad_norm


class Layer:
    """What an optimiser may use of a layer, and a count of what it does with it."""

    def __init__(self, **parameters):
        self.parameters = {name: np.array(value, ndmin=1) for name, value in parameters.items()}
        self.swaps = 0

    @contextlib.contextmanager
    def writable(self):
        copies = {name: value.copy() for name, value in self.parameters.items()}
        yield copies
        self.parameters = copies
        self.swaps += 1


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


both = pytest.mark.parametrize("optimizer", [SGD, Adam])


# Rules --------------------------------------------------------------------------------------------


def test_sgd_subtracts_the_learning_rate_times_the_gradient():
    layer = Layer(w=1.0)
    assert steps(SGD([layer], lr=0.5), layer, 1.0, -2.0) == [0.5, 1.5]


def test_sgd_with_momentum_adds_half_of_its_last_velocity():
    """v: 1, 0.5 + 1 = 1.5, 0.75 + 0 = 0.75."""
    layer = Layer(w=0.0)
    assert steps(SGD([layer], lr=1.0, momentum=0.5), layer, 1.0, 1.0, 0.0) == [-1.0, -2.5, -3.25]


@pytest.mark.parametrize("g", [1e-3, 1.0, -1e3])
def test_the_first_step_of_adam_is_the_learning_rate_whatever_the_gradient(g):
    """m / (1 - beta1) = g and sqrt(v / (1 - beta2)) = |g|."""
    layer = Layer(w=0.0)
    (w,) = steps(Adam([layer], lr=0.25, eps=0.0), layer, g)
    assert w == pytest.approx(-0.25 * np.sign(g), rel=1e-14)


def test_two_steps_of_adam_are_worked_out_by_hand():
    """betas 1/2, 3/4; g = 2, then 0.

    t = 1: m = 1, v = 1; corrected 2 and 4: w = -lr * 2 / 2
    t = 2: m = 1/2, v = 3/4; corrected (1/2)/(3/4) = 2/3 and (3/4)/(7/16) = 12/7
    """
    layer = Layer(w=0.0)
    path = steps(Adam([layer], lr=0.1, betas=(0.5, 0.75), eps=0.0), layer, 2.0, 0.0)
    assert path == pytest.approx([-0.1, -0.1 - 0.1 * (2 / 3) / math.sqrt(12 / 7)], rel=1e-14)


def test_adam_adds_epsilon_outside_the_root_of_the_corrected_moment():
    """At the first step the corrected v is g^2: 0.1 * 2 / (2 + 0.5), not / sqrt(4 + 0.5)."""
    layer = Layer(w=0.0)
    assert steps(Adam([layer], lr=0.1, eps=0.5), layer, 2.0) == pytest.approx([-0.08], rel=1e-14)


def test_adam_with_a_zero_gradient_from_the_start_does_not_move():
    layer = Layer(w=3.0)
    assert steps(Adam([layer]), layer, 0.0, 0.0) == [3.0, 3.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adam_is_the_algorithm_of_the_paper_written_as_a_plain_loop(dtype):
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((3, 2))
    layer = Layer(w=theta.astype(dtype))
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
    layer = Layer(w=p)
    optimizer = SGD([layer], lr=0.1, momentum=0.9)
    v = np.zeros(4)
    for _ in range(20):
        g = rng.standard_normal(4)
        optimizer.step([gradients(w=g)])
        v = 0.9 * v + g
        p = p - 0.1 * v
    np.testing.assert_allclose(layer.parameters["w"], p, rtol=1e-13)


@both
def test_a_new_learning_rate_counts_from_the_next_step(optimizer):
    layer = Layer(w=1.0)
    optimizer = optimizer([layer], lr=0.5)
    (before,) = steps(optimizer, layer, 1.0)
    optimizer.lr = 0.0
    assert steps(optimizer, layer, 1.0) == [before]


# Layers -------------------------------------------------------------------------------------------


@both
def test_every_layer_gets_its_own_gradients(optimizer):
    """Together as each alone: moments are not shared, though the names are the same."""
    together = Layer(w=1.0), Layer(w=[2.0, 3.0])
    alone = Layer(w=1.0), Layer(w=[2.0, 3.0])
    values = [(0.5, [1.0, -4.0]), (-2.0, [0.25, 0.0])]
    joint = optimizer(list(together), lr=0.1)
    single = [optimizer([layer], lr=0.1) for layer in alone]
    for pair in values:
        joint.step([gradients(w=value) for value in pair])
        for one, value in zip(single, pair, strict=True):
            one.step([gradients(w=value)])
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.parameters["w"], other.parameters["w"])


@both
def test_a_step_swaps_each_layer_once(optimizer):
    layer = Layer(w=1.0, b=2.0)
    optimizer([layer]).step([gradients(w=1.0, b=1.0)])
    assert layer.swaps == 1


@both
def test_a_step_does_not_write_to_the_gradients(optimizer):
    g = gradients(w=[1.0, -2.0])
    optimizer([Layer(w=[0.0, 0.0])]).step([g])
    assert g.parameters["w"].tolist() == [1.0, -2.0]


@both
def test_read_only_and_strided_gradients_are_accepted(optimizer):
    g = gradients(w=np.arange(4.0)[::2])
    g.parameters["w"].setflags(write=False)
    layer = Layer(w=[5.0, 5.0])
    optimizer([layer], lr=0.5).step([g])
    assert layer.parameters["w"][0] == 5.0 and layer.parameters["w"][1] < 5.0


@both
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_that_does_not_match_the_layers_is_refused(optimizer, count):
    optimizer = optimizer([Layer(w=1.0), Layer(w=1.0)])
    with pytest.raises(ValueError, match=f"gradients has {count} entries, expected 2"):
        optimizer.step([gradients(w=1.0)] * count)


@both
def test_one_gradients_object_instead_of_a_list_is_refused(optimizer):
    with pytest.raises(TypeError, match="gradients is a SimpleNamespace, expected a list"):
        optimizer([Layer(w=1.0)]).step(gradients(w=1.0))


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
            r"gradients\[1\] w is of dtype float32, expected float64",
        ),
        ({"w": np.ones(1)}, TypeError, r"gradients\[1\] is a dict, expected Gradients"),
    ],
    ids=["name", "one more", "shape", "dtype", "dict"],
)
@both
def test_no_layer_is_changed_if_any_gradient_is_wrong(optimizer, wrong, error, message):
    layers = [Layer(w=1.0), Layer(w=1.0)]
    optimizer = optimizer(layers)
    with pytest.raises(error, match=message):
        optimizer.step([gradients(w=1.0), wrong])
    assert [layer.swaps for layer in layers] == [0, 0]


@both
def test_moments_stay_as_they_were_if_a_layer_refuses_its_update(optimizer):
    class Refusing(Layer):
        refuse = False

        @contextlib.contextmanager
        def writable(self):
            with super().writable() as copies:
                yield copies
                if self.refuse:
                    raise RuntimeError

    options = {"momentum": 0.9} if optimizer is SGD else {}
    layer, untouched = Refusing(w=1.0), Layer(w=1.0)
    refused, plain = optimizer([layer], **options), optimizer([untouched], **options)
    layer.refuse = True
    with pytest.raises(RuntimeError):
        steps(refused, layer, 5.0)
    layer.refuse = False
    assert steps(refused, layer, 1.0, 2.0) == steps(plain, untouched, 1.0, 2.0)


@both
def test_a_layer_given_twice_is_refused(optimizer):
    layer = Layer(w=1.0)
    with pytest.raises(ValueError, match=r"layers\[1\] is in the list twice"):
        optimizer([layer, layer])


@both
@pytest.mark.parametrize(
    "layers", [Layer(w=1.0), [np.ones(3)], None], ids=["one layer", "array", "none"]
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
        (Adam, {"lr": math.nan}, "lr"),
        (Adam, {"betas": (1.0, 0.9)}, "betas"),
        (Adam, {"betas": (0.9, -0.1)}, "betas"),
        (Adam, {"betas": 0.9}, "betas"),
        (Adam, {"eps": -1e-8}, "eps"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_name(optimizer, options, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        optimizer([Layer(w=1.0)], **options)


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


def test_clipping_wants_a_list():
    with pytest.raises(TypeError, match="grads is a SimpleNamespace, expected a list"):
        clip_grad_norm(gradients(w=1.0), 1.0)
