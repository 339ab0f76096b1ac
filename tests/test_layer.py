"""LSTM, Dense, Tape and Gradients as their user sees them: names, shapes, copies, what a change reaches."""

import copy
import math
import pickle
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from cylstm._core.turns import Turn

import cylstm
from cylstm import LSTM, Dense, Gradients, Tape
from cylstm._core import noise

T, B, I, H = 6, 3, 5, 7  # noqa: E741

LAYERS = {
    "LSTM": lambda rng=0: LSTM(I, H, rng=rng),
    "deep": lambda rng=0: LSTM(
        I, H, 2, bias="single", batch_first=True, dropout=0.25, bidirectional=True, rng=rng
    ),
    "float64": lambda rng=0: LSTM(I, H, bias=False, dtype="float64", rng=rng),
    "Dense": lambda rng=0: Dense(I, H, activation="tanh", rng=rng),
    "plain Dense": lambda rng=0: Dense(I, H, bias=False, dtype="float64", rng=rng),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def normal(*shape, dtype=np.float32, seed=5):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def output(layer, x=None):
    """y, whatever the layer."""
    x = normal(T, B, I, dtype=layer.dtype) if x is None else x
    result = layer.forward(x)
    return result[0] if isinstance(result, tuple) else result


def assert_same_bits(actual, expected):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


def assert_same_gradients(actual, expected):
    assert_same_bits(actual.dx, expected.dx)
    assert actual.parameters.keys() == expected.parameters.keys()
    for name, array in expected.parameters.items():
        assert_same_bits(actual.parameters[name], array)


# Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "LSTM(3, 4)",
        "LSTM(3, 4, num_layers=2, bias='single', batch_first=True, dropout=0.5, bidirectional=True)",
        "LSTM(3, 4, dtype='float64')",
        "LSTM(1, 1, bias=False)",
        "Dense(3, 4)",
        "Dense(3, 4, bias=False, activation='softmax', dtype='float64')",
    ],
)
def test_the_repr_of_a_layer_is_the_call_that_makes_it(text):
    assert repr(eval(text, {"LSTM": LSTM, "Dense": Dense})) == text


def test_the_repr_leaves_defaults_and_types_of_numpy_out():
    assert repr(LSTM(np.int64(3), np.int32(4), np.int8(1), np.True_, dtype=np.float32)) == "LSTM(3, 4)"


def test_the_repr_of_a_stream_is_the_call_that_makes_it():
    assert repr(LSTM(3, 4).stream()) == "LSTM(3, 4).stream()"
    assert repr(LSTM(3, 4).stream(5)) == "LSTM(3, 4).stream(5)"


@pytest.mark.parametrize("tape", [Tape(7), Tape(0, training=False)])
def test_the_repr_of_a_tape_is_the_call_that_makes_it(tape):
    assert repr(eval(repr(tape))) == repr(tape)


@pytest.mark.parametrize(
    ("bias", "names"),
    [
        (True, ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]),
        ("single", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"]),
        (False, ["weight_ih_l0", "weight_hh_l0"]),
    ],
)
def test_the_bias_option_decides_which_biases_there_are(bias, names):
    assert list(LSTM(I, H, bias=bias).parameters) == names


def test_parameters_have_the_names_shapes_and_order_of_pytorch():
    shapes = {name: array.shape for name, array in LSTM(I, H, 2, bidirectional=True).parameters.items()}
    assert shapes == {
        "weight_ih_l0": (4 * H, I), "weight_hh_l0": (4 * H, H),
        "bias_ih_l0": (4 * H,), "bias_hh_l0": (4 * H,),
        "weight_ih_l0_reverse": (4 * H, I), "weight_hh_l0_reverse": (4 * H, H),
        "bias_ih_l0_reverse": (4 * H,), "bias_hh_l0_reverse": (4 * H,),
        "weight_ih_l1": (4 * H, 2 * H), "weight_hh_l1": (4 * H, H),
        "bias_ih_l1": (4 * H,), "bias_hh_l1": (4 * H,),
        "weight_ih_l1_reverse": (4 * H, 2 * H), "weight_hh_l1_reverse": (4 * H, H),
        "bias_ih_l1_reverse": (4 * H,), "bias_hh_l1_reverse": (4 * H,),
    }  # fmt: skip
    first = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_ih_l0_reverse"]
    assert list(shapes)[:5] == first


def test_dense_has_a_weight_and_a_bias_in_pytorchs_layout():
    shapes = {name: array.shape for name, array in Dense(3, 4).parameters.items()}
    assert shapes == {"weight": (4, 3), "bias": (4,)}
    assert list(Dense(3, 4, bias=False).parameters) == ["weight"]


def test_one_bias_does_what_the_sum_of_two_does():
    both, single = LSTM(I, H, rng=1), LSTM(I, H, bias="single")
    p = both.state_dict()
    single.load_state_dict(
        {"weight_ih_l0": p["weight_ih_l0"], "weight_hh_l0": p["weight_hh_l0"],
         "bias_ih_l0": p["bias_ih_l0"] + p["bias_hh_l0"]}
    )  # fmt: skip
    assert_same_bits(output(single), output(both))


def test_no_bias_does_what_biases_of_zero_do():
    with_zeros, without = LSTM(I, H, rng=1), LSTM(I, H, bias=False)
    with with_zeros.writable() as p:
        p["bias_ih_l0"][:] = 0
        p["bias_hh_l0"][:] = 0
    without.load_state_dict({name: with_zeros.parameters[name] for name in without.parameters})
    assert_same_bits(output(without), output(with_zeros))


# Initial parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "fan"), [(LSTM(16, 64, 2, rng=0), 64), (Dense(64, 100, rng=0), 64)])
def test_initial_parameters_fill_the_interval_of_one_over_the_root_and_stay_inside(layer, fan):
    """Of n draws of U(-b, b) the largest is below 0.9 b with probability 0.9^n: 3e-5 for the least n, 100."""
    bound = 1 / math.sqrt(fan)
    for array in layer.parameters.values():
        assert 0.9 * bound < np.abs(array).max() <= bound


def test_initial_parameters_have_the_variance_of_a_uniform_distribution():
    """b^2 / 3; the relative standard error of a variance of n uniform draws is sqrt(0.8 / n)."""
    weight = LSTM(64, 64, dtype="float64", rng=0).parameters["weight_ih_l0"]
    assert weight.var() == pytest.approx(1 / 64 / 3, rel=5 * math.sqrt(0.8 / weight.size))


@every_layer
def test_a_seed_reproduces_the_parameters(make):
    one, other = make(3), make(3)
    for name, array in one.parameters.items():
        assert_same_bits(other.parameters[name], array)


@every_layer
def test_a_generator_draws_what_its_seed_draws_and_goes_on(make):
    rng = np.random.default_rng(3)
    first, second, by_seed = make(rng), make(rng), make(3)
    for name, array in by_seed.parameters.items():
        assert_same_bits(first.parameters[name], array)
        assert (second.parameters[name] != array).any()


@every_layer
def test_without_a_seed_two_layers_differ(make):
    one, other = make(None), make(None)
    assert all((one.parameters[name] != other.parameters[name]).any() for name in one.parameters)


def test_a_float32_layer_begins_with_the_rounded_parameters_of_the_float64_one():
    single, double = LSTM(I, H, rng=9), LSTM(I, H, dtype="float64", rng=9)
    for name, array in double.parameters.items():
        assert array.dtype == np.float64
        assert_same_bits(single.parameters[name], array.astype(np.float32))


# Parameters are a snapshot ------------------------------------------------------------------------


@every_layer
def test_the_mapping_of_parameters_can_not_be_assigned_to(make):
    layer = make()
    with pytest.raises(TypeError):
        layer.parameters["weight_ih_l0"] = 0
    with pytest.raises(AttributeError):
        layer.parameters = {}


@every_layer
def test_a_parameter_can_not_be_written_to(make):
    for array in make().parameters.values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@every_layer
def test_a_parameter_and_what_it_is_a_view_of_can_not_be_made_writable(make):
    for array in make().parameters.values():
        while isinstance(array, np.ndarray):
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.setflags(write=True)
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
            array = array.base
        assert array is None or memoryview(array).readonly


@every_layer
def test_a_snapshot_is_not_touched_by_a_later_change(make):
    layer = make()
    snapshot = layer.parameters
    before = {name: array.copy() for name, array in snapshot.items()}
    with layer.writable() as p:
        for array in p.values():
            array[...] = 0
    layer.load_state_dict(make(1).state_dict())
    for name, array in before.items():
        assert_same_bits(snapshot[name], array)
        assert (layer.parameters[name] != array).any()


@every_layer
def test_writable_copies_can_be_edited_and_count_on_leaving(make):
    layer = make()
    name = next(iter(layer.parameters))
    with layer.writable() as p:
        p[name][0] = 1
        assert (layer.parameters[name][0] != 1).all()
    assert (layer.parameters[name][0] == 1).all()


def test_an_array_kept_from_writable_is_no_way_in_later():
    layer = LSTM(I, H, rng=0)
    with layer.writable() as p:
        kept = p["weight_ih_l0"]
    before = output(layer)
    kept[...] = 0
    assert (layer.parameters["weight_ih_l0"] != 0).any()
    assert_same_bits(output(layer), before)


def test_writable_takes_a_new_array_of_any_float_dtype():
    layer = LSTM(I, H, rng=0)
    with layer.writable() as p:
        p["bias_ih_l0"] = np.full(4 * H, 0.5)
        p["bias_hh_l0"] = np.full(4 * H, 0.25, np.float16)[::-1]
    assert_same_bits(layer.parameters["bias_ih_l0"], np.full(4 * H, 0.5, np.float32))
    assert_same_bits(layer.parameters["bias_hh_l0"], np.full(4 * H, 0.25, np.float32))


class Abandoned(Exception):
    pass


@pytest.mark.parametrize("error", [Abandoned, KeyboardInterrupt])
def test_an_exception_inside_writable_drops_every_edit(error):
    layer = LSTM(I, H, rng=0)
    before = layer.parameters
    with pytest.raises(error), layer.writable() as p:
        for array in p.values():
            array[...] = 0
        raise error
    assert layer.parameters is before or all((layer.parameters[k] == before[k]).all() for k in before)
    with layer.writable() as p:  # and the next writer need not wait
        p["bias_ih_l0"][:] = 2
    assert (layer.parameters["bias_ih_l0"] == 2).all()


def test_a_refused_edit_does_not_lock_the_next_writer_out():
    layer = LSTM(I, H, rng=0)
    with pytest.raises(ValueError, match="missing"), layer.writable() as p:
        p.clear()
    with layer.writable() as p:
        p["bias_ih_l0"][:] = 2
    assert (layer.parameters["bias_ih_l0"] == 2).all()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an alarm in microseconds")
def test_ctrl_c_leaves_no_lock_behind():
    """Interrupted 300 times at any moment; locks taken in Python were left in a third of these."""
    layers, tape, rng = [Dense(1, 1, rng=k) for k in range(3)], Tape(), np.random.default_rng(0)
    interrupts = 0

    def interrupt(*_):
        raise KeyboardInterrupt

    def go_in_and_out():  # by itself: Python 3.13.0 does not always see an interrupt of a loop's condition in its try
        end = time.monotonic() + 0.1  # an alarm that comes where nothing can be raised, in a finaliser, is lost
        while time.monotonic() < end:
            with Turn(layers):
                pass
            with tape.use():
                pass

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + 2e-4 * rng.random())
                go_in_and_out()
            except KeyboardInterrupt:
                interrupts += 1
            with tape.use():  # raises if one was left in use
                pass
            assert not any(layer._lock.locked() or layer._writer for layer in layers)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 250


def test_a_change_is_seen_whole_or_not_at_all_by_another_thread():
    """Every edit fills all parameters with one number: a snapshot of two numbers would be half of each."""
    layer, done, torn = LSTM(2, 3, 2, rng=0), threading.Event(), []

    def edit(value):
        with layer.writable() as p:
            for array in p.values():
                array[...] = value

    def read():
        while not done.is_set():
            snapshot = layer.parameters
            values = {float(value) for array in snapshot.values() for value in (array.min(), array.max())}
            if len(values) > 1:
                torn.append(values)

    edit(0)
    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for value in range(300):
        edit(value)
    done.set()
    for thread in threads:
        thread.join()
    assert not torn


def test_a_second_writer_waits_for_the_first():
    layer = LSTM(I, H, rng=0)
    order = []

    def second():
        with layer.writable() as p:
            order.append("second enters")
            assert (p["bias_ih_l0"] == 1).all()  # and begins from what the first left
            p["bias_ih_l0"] += 1

    thread = threading.Thread(target=second)
    with layer.writable() as p:
        thread.start()
        time.sleep(0.05)
        p["bias_ih_l0"][:] = 1
        order.append("first leaves")
    thread.join()
    assert order == ["first leaves", "second enters"]
    assert (layer.parameters["bias_ih_l0"] == 2).all()


def test_a_writer_inside_a_writer_of_the_same_thread_is_an_error_and_not_a_deadlock():
    layer = LSTM(I, H, rng=0)
    with layer.writable() as p:
        with pytest.raises(RuntimeError, match="already inside writable"), layer.writable():
            pass
        with pytest.raises(RuntimeError, match="already inside writable"):
            layer.load_state_dict(layer.state_dict())
        p["bias_ih_l0"][:] = 3
    assert (layer.parameters["bias_ih_l0"] == 3).all()


def test_writers_of_two_layers_may_be_nested():
    one, other = LSTM(I, H, rng=0), LSTM(I, H, rng=0)
    with one.writable() as p, other.writable() as q:
        p["bias_ih_l0"][:] = 1
        q["bias_ih_l0"][:] = 2
    assert (one.parameters["bias_ih_l0"] == 1).all()
    assert (other.parameters["bias_ih_l0"] == 2).all()


# state_dict ---------------------------------------------------------------------------------------


@every_layer
def test_a_state_dict_loaded_into_another_layer_makes_it_the_same(make):
    one, other = make(0), make(1)
    other.load_state_dict(one.state_dict())
    for name, array in one.parameters.items():
        assert_same_bits(other.parameters[name], array)
    assert_same_bits(output(other), output(one))


@every_layer
def test_a_state_dict_is_new_writable_arrays(make):
    layer = make()
    before = output(layer)
    for array in layer.state_dict().values():
        array[...] = 0
    assert_same_bits(output(layer), before)


def test_a_loaded_array_is_copied():
    layer = LSTM(I, H, rng=0)
    loaded = layer.state_dict()
    layer.load_state_dict(loaded)
    before = output(layer)
    for array in loaded.values():
        array[...] = 0
    assert_same_bits(output(layer), before)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f8", "longdouble"])
def test_load_state_dict_casts_any_float_dtype_and_keeps_the_layers_own(dtype):
    layer = LSTM(I, H, rng=0)
    source = LSTM(I, H, dtype="float64", rng=1)
    values = {name: array.astype(dtype) for name, array in source.parameters.items()}
    layer.load_state_dict(values)
    for name, array in values.items():
        assert_same_bits(layer.parameters[name], array.astype(np.float32))


def test_load_state_dict_takes_arrays_of_any_layout_and_lists():
    layer, source = Dense(3, 4, rng=0), Dense(3, 4, rng=1)
    p = source.state_dict()
    layer.load_state_dict({"bias": p["bias"].tolist(), "weight": np.asfortranarray(p["weight"])})
    assert_same_bits(layer.parameters["weight"], p["weight"])
    assert_same_bits(layer.parameters["bias"], p["bias"])


def test_infinities_and_nans_are_loaded_as_they_are():
    layer = Dense(1, 3, rng=0)
    layer.load_state_dict({"weight": np.zeros((3, 1)), "bias": np.array([np.inf, -np.inf, np.nan])})
    np.testing.assert_array_equal(layer.parameters["bias"], np.array([np.inf, -np.inf, np.nan], np.float32))


# Never stale --------------------------------------------------------------------------------------


def load(layer, values):
    layer.load_state_dict(values)


def write(layer, values):
    with layer.writable() as p:
        for name, array in values.items():
            p[name][...] = array


changes = pytest.mark.parametrize("change", [load, write])


@changes
@every_layer
def test_forward_after_a_change_is_that_of_a_fresh_layer_with_the_new_parameters(make, change):
    layer, other = make(0), make(1)
    old = output(layer)  # packs the old weights
    change(layer, other.state_dict())
    assert_same_bits(output(layer), output(other))
    assert (output(layer) != old).any()


@changes
def test_forward_on_a_tape_and_its_gradients_after_a_change_are_those_of_a_fresh_layer(change):
    layer, other, tape = LSTM(I, H, rng=0), LSTM(I, H, rng=1), Tape()
    x, dy = normal(T, B, I), normal(T, B, H)
    layer.forward(x, tape=tape)
    layer.backward(tape, dy)  # packs what backward needs of the old weights
    change(layer, other.state_dict())
    y, _ = layer.forward(x, tape=tape)
    other_tape = Tape()
    assert_same_bits(y, other.forward(x, tape=other_tape)[0])
    assert_same_gradients(layer.backward(tape, dy), other.backward(other_tape, dy))


@changes
def test_a_stream_uses_new_weights_from_the_next_step(change):
    layer, other, x = LSTM(I, H, 2, rng=0), LSTM(I, H, 2, rng=1), normal(I)
    stream = layer.stream()
    stream.step(x)
    expected = other.stream()
    expected.reset(stream.state)
    change(layer, other.state_dict())
    assert_same_bits(stream.step(x), expected.step(x))
    assert_same_bits(stream.run(x[None]), expected.run(x[None]))


# Copies -------------------------------------------------------------------------------------------

copies = pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))],
    ids=["copy", "deepcopy", "pickle"],
)  # fmt: skip


@copies
@every_layer
def test_a_copy_of_a_layer_gives_the_same_bits(make, duplicate):
    layer = make()
    assert_same_bits(output(duplicate(layer)), output(layer))


@copies
@every_layer
def test_a_copy_of_a_layer_has_the_same_repr(make, duplicate):
    layer = make()
    assert repr(duplicate(layer)) == repr(layer)


@copies
@every_layer
def test_a_copy_of_a_layer_does_not_change_with_it(make, duplicate):
    layer = make(0)
    twin, before = duplicate(layer), output(layer)
    layer.load_state_dict(make(1).state_dict())
    assert_same_bits(output(twin), before)


@every_layer
def test_help_says_what_trainable_is(make):
    assert "an optimiser" in type(make()).trainable.__doc__


@copies
@every_layer
def test_a_copy_is_as_trainable_as_the_layer(make, duplicate):
    layer = make()
    assert layer.trainable and duplicate(layer).trainable
    layer.trainable = False
    assert not duplicate(layer).trainable


@copies
def test_a_copy_of_a_layer_can_be_written_to_while_the_layer_is(duplicate):
    layer = LSTM(I, H, rng=0)
    with layer.writable():
        twin = duplicate(layer)
        with twin.writable() as p:
            p["bias_ih_l0"][:] = 1
    assert (twin.parameters["bias_ih_l0"] == 1).all()


@copies
def test_a_copy_does_not_repeat_the_warning_about_dropout(duplicate):
    with pytest.warns(UserWarning):
        layer = LSTM(I, H, dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert duplicate(layer).dropout == 0.5


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_parameters_from_a_pickle_can_not_be_changed(protocol):
    layer = pickle.loads(pickle.dumps(cylstm.LSTM(8, 64, rng=0), protocol))
    state_dict = pickle.loads(pickle.dumps(cylstm.LSTM(8, 64, rng=1).state_dict(), protocol))
    assert not any(value.flags.writeable for value in layer.parameters.values())
    with pytest.raises(ValueError, match="read-only"):
        layer.parameters["weight_hh_l0"][...] = 0
    layer.load_state_dict(state_dict)
    before = layer.state_dict()
    for value in state_dict.values():
        value[...] = 9
    for name, value in layer.parameters.items():
        np.testing.assert_array_equal(value, before[name])


@every_layer
def test_a_pickle_of_another_version_is_refused_by_number(make):
    layer = make()
    state = layer.__getstate__()
    assert isinstance(state["version"], int)
    state["version"] = 999
    with pytest.raises(ValueError, match=r"pickled with version 999, expected \d+"):
        type(layer).__new__(type(layer)).__setstate__(state)


def test_a_layer_that_occurs_twice_is_copied_once():
    layer = LSTM(I, H, rng=0)
    one, other = copy.deepcopy([layer, layer])
    assert one is other
    assert one is not layer


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_of_a_tape_goes_on_with_its_seed_and_its_count_of_calls(duplicate):
    layer, x, tape = LSTM(I, H, 2, dropout=0.5, rng=0), normal(T, B, I), Tape(seed=3)
    layer.forward(x, tape=tape)
    twin = duplicate(tape)
    assert_same_bits(layer.forward(x, tape=twin)[0], layer.forward(x, tape=tape)[0])


# forward: states and shapes -----------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
def test_no_initial_state_is_a_state_of_zeros(bidirectional):
    layer, x = LSTM(I, H, 2, bidirectional=bidirectional, rng=0), normal(T, B, I)
    zeros = np.zeros((4 if bidirectional else 2, B, H), np.float32)
    (y, (h, c)), (y_0, (h_0, c_0)) = layer.forward(x), layer.forward(x, (zeros, zeros))
    assert_same_bits(y, y_0)
    assert_same_bits(h, h_0)
    assert_same_bits(c, c_0)


def test_calling_a_layer_is_forward():
    lstm, dense, x = LSTM(I, H, rng=0), Dense(I, H, rng=0), normal(T, B, I)
    assert_same_bits(lstm(x)[0], lstm.forward(x)[0])
    assert_same_bits(dense(x), dense.forward(x))


def test_the_initial_state_may_be_a_list_and_is_not_written_to():
    layer, x = LSTM(I, H, rng=0), normal(T, B, I)
    state = [normal(1, B, H), normal(1, B, H, seed=6)]
    before = [array.copy() for array in state]
    layer.forward(x, state)
    for array, expected in zip(state, before, strict=True):
        assert_same_bits(array, expected)


@pytest.mark.parametrize("tape", [None, Tape()])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_no_time_steps_give_an_empty_output_and_the_initial_state(bidirectional, tape):
    layer = LSTM(I, H, 2, bidirectional=bidirectional, rng=0)
    D = layer.bidirectional + 1
    state = (normal(2 * D, B, H), normal(2 * D, B, H, seed=6))
    y, (h_n, c_n) = layer.forward(normal(0, B, I), state, tape=tape)
    assert y.shape == (0, B, D * H)
    assert_same_bits(h_n, state[0])
    assert_same_bits(c_n, state[1])


@pytest.mark.parametrize("tape", [None, Tape()])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_empty_batch_gives_empty_arrays_of_the_right_shapes(bidirectional, tape):
    layer = LSTM(I, H, 2, bidirectional=bidirectional, rng=0)
    D = layer.bidirectional + 1
    y, (h_n, c_n) = layer.forward(normal(T, 0, I), lengths=[], tape=tape)
    assert (y.shape, h_n.shape, c_n.shape) == ((T, 0, D * H), (2 * D, 0, H), (2 * D, 0, H))


@pytest.mark.parametrize(("steps", "batch"), [(0, 2), (3, 0), (0, 0)])
def test_backward_over_nothing_gives_gradients_of_zero_and_hands_that_of_the_state_on(steps, batch):
    layer, tape = LSTM(I, H, 2, bidirectional=True, rng=0), Tape()
    layer.forward(normal(steps, batch, I), tape=tape)
    dstate = (normal(4, batch, H), normal(4, batch, H, seed=6))
    gradients = layer.backward(tape, normal(steps, batch, 2 * H), dstate)
    assert gradients.dx.shape == (steps, batch, I)
    assert all((array == 0).all() for array in gradients.parameters.values())
    assert_same_bits(gradients.dstate[0], dstate[0])
    assert_same_bits(gradients.dstate[1], dstate[1])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_unbatched_sequence_is_a_batch_of_one_without_the_axis(batch_first, bidirectional):
    layer = LSTM(I, H, 2, batch_first=batch_first, bidirectional=bidirectional, rng=0)
    D, batch_axis = layer.bidirectional + 1, 0 if batch_first else 1
    x, state = normal(T, I), (normal(2 * D, H), normal(2 * D, H, seed=6))
    y, (h_n, c_n) = layer.forward(x, state)
    assert (y.shape, h_n.shape, c_n.shape) == ((T, D * H), (2 * D, H), (2 * D, H))
    batched = layer.forward(np.expand_dims(x, batch_axis), tuple(array[:, None] for array in state))
    assert_same_bits(y, np.squeeze(batched[0], batch_axis))
    assert_same_bits(h_n, batched[1][0][:, 0])
    assert_same_bits(c_n, batched[1][1][:, 0])


def test_gradients_of_an_unbatched_sequence_have_no_batch_axis():
    layer, tape = LSTM(I, H, 2, bidirectional=True, rng=0), Tape()
    y, _ = layer.forward(normal(T, I), tape=tape)
    gradients = layer.backward(tape, y, (normal(4, H), normal(4, H)))
    assert gradients.dx.shape == (T, I)
    assert [array.shape for array in gradients.dstate] == [(4, H), (4, H)]


def test_batch_first_exchanges_two_axes_of_x_and_y_and_none_of_the_states():
    plain = LSTM(I, H, 2, bidirectional=True, rng=0)
    layer = LSTM(I, H, 2, bidirectional=True, batch_first=True, rng=0)
    x, state = normal(T, B, I), (normal(4, B, H), normal(4, B, H, seed=6))
    y, (h_n, c_n) = plain.forward(x, state, lengths=[T, 0, 2])
    x_first = np.ascontiguousarray(x.swapaxes(0, 1))
    y_first, (h_first, c_first) = layer.forward(x_first, state, lengths=[T, 0, 2])
    assert y_first.shape == (B, T, 2 * H)
    assert_same_bits(y_first.swapaxes(0, 1), y)
    assert_same_bits(h_first, h_n)
    assert_same_bits(c_first, c_n)


def test_batch_first_exchanges_two_axes_of_dy_and_dx():
    plain, layer = LSTM(I, H, rng=0), LSTM(I, H, batch_first=True, rng=0)
    x, dy, tape, tape_first = normal(T, B, I), normal(T, B, H), Tape(), Tape()
    plain.forward(x, tape=tape)
    layer.forward(x.swapaxes(0, 1), tape=tape_first)
    gradients = layer.backward(tape_first, dy.swapaxes(0, 1))
    assert gradients.dx.shape == (B, T, I)
    assert_same_bits(gradients.dx.swapaxes(0, 1), plain.backward(tape, dy).dx)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_that_comes_out_is_of_the_layers_dtype(dtype):
    layer, tape = LSTM(I, H, dtype=dtype, rng=0), Tape()
    y, state = layer.forward(normal(T, B, I, dtype=dtype), tape=tape)
    gradients = layer.backward(tape, y)
    arrays = [y, *state, *layer.stream(B).state]
    arrays += [gradients.dx, *gradients.dstate, *gradients.parameters.values()]
    assert {array.dtype for array in arrays} == {np.dtype(dtype)}


def test_a_float64_layer_agrees_with_the_float32_one_of_the_same_seed():
    """To the accuracy of float32: 50 of its ulps."""
    x = normal(T, B, I)
    single, _ = LSTM(I, H, 2, rng=0).forward(x)
    double, _ = LSTM(I, H, 2, dtype="float64", rng=0).forward(x.astype("f8"))
    np.testing.assert_allclose(single, double, atol=50 * np.finfo(np.float32).eps)
    assert (single != double).any()


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "reversed and turned back": lambda x: x[::-1].copy()[::-1],
    "every second feature": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "wide rows": lambda x: np.concatenate([x, x], axis=-1)[..., : x.shape[-1]],
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    "a subclass": lambda x: x.view(np.recarray),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("make", [LAYERS["LSTM"], LAYERS["Dense"]], ids=["LSTM", "Dense"])
def test_the_layout_of_x_does_not_matter(make, layout):
    layer, x = make(), normal(T, B, I)
    changed = layout(x)
    changed.flags.writeable = False
    assert_same_bits(output(layer, changed), output(layer, x))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_layout_of_states_and_gradients_does_not_matter(layout):
    layer, x, dy = LSTM(I, H, rng=0), normal(T, B, I), normal(T, B, H)
    h, c = normal(1, B, H), normal(1, B, H, seed=6)
    tape, plain = Tape(), Tape()
    y, _ = layer.forward(x, (layout(h), layout(c)), tape=tape)
    assert_same_bits(y, layer.forward(x, (h, c), tape=plain)[0])
    gradients = layer.backward(tape, layout(dy), (layout(c), layout(h)))
    expected = layer.backward(plain, dy, (c, h))
    assert_same_bits(gradients.dx, expected.dx)
    assert_same_bits(gradients.dstate[0], expected.dstate[0])


def test_a_broadcast_x_is_read_where_it_lies():
    layer, x = LSTM(I, H, rng=0), normal(I)
    assert_same_bits(output(layer, np.broadcast_to(x, (T, B, I))), output(layer, np.tile(x, (T, B, 1))))


# lengths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lengths",
    [[4, 0, 6], (4, 0, 6), np.array([4, 0, 6]), np.array([4, 0, 6], np.int8), np.array([4, 0, 6], np.uint64),
     np.array([4, 9, 0, 9, 6])[::2], [np.int32(4), 0, 6]],
    ids=["list", "tuple", "int64", "int8", "uint64", "strided", "scalars"],
)  # fmt: skip
def test_lengths_may_be_integers_of_any_kind(lengths):
    layer, x = LSTM(I, H, rng=0), normal(T, B, I)
    expected, _ = layer.forward(x, lengths=np.array([4, 0, 6], np.intp))
    assert_same_bits(layer.forward(x, lengths=lengths)[0], expected)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("tape", [None, Tape()])
def test_each_sequence_of_a_ragged_batch_is_what_it_is_alone(bidirectional, tape):
    layer = LSTM(I, H, 2, bidirectional=bidirectional, rng=0)
    x, lengths = normal(T, 4, I), [2, T, 0, 1]
    y, (h_n, c_n) = layer.forward(x, lengths=lengths, tape=tape)
    for row, length in enumerate(lengths):
        alone, (h_alone, c_alone) = layer.forward(x[:length, row])
        assert_same_bits(y[:length, row], alone)
        assert_same_bits(h_n[:, row], h_alone)
        assert_same_bits(c_n[:, row], c_alone)


@pytest.mark.parametrize("tape", [None, Tape()], ids=["inference", "tape"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_reverse_direction_is_the_forward_one_over_the_reversed_sequence(steps, tape):
    """Of one step too, where both begin and end at the same place."""
    layer, single = LSTM(I, H, bidirectional=True, rng=0), LSTM(I, H)
    single.load_state_dict({name: layer.parameters[name + "_reverse"] for name in single.parameters})
    x, h_0, c_0 = normal(steps, B, I), normal(2, B, H), normal(2, B, H, seed=6)
    y, (h_n, c_n) = layer.forward(x, (h_0, c_0), tape=tape)
    y_single, (h_single, c_single) = single.forward(x[::-1], (h_0[1:], c_0[1:]))
    assert_same_bits(np.ascontiguousarray(y[..., H:]), np.ascontiguousarray(y_single[::-1]))
    assert_same_bits(h_n[1:], h_single)
    assert_same_bits(c_n[1:], c_single)


@pytest.mark.parametrize("batch_first", [False, True])
def test_y_and_dx_are_zero_past_a_length(batch_first):
    layer, tape = LSTM(I, H, 2, bidirectional=True, batch_first=batch_first, rng=0), Tape()
    x = normal(T, B, I).swapaxes(0, int(batch_first))
    y, _ = layer.forward(x, lengths=[2, 0, 5], tape=tape)
    dx = layer.backward(tape, np.ones_like(y)).dx
    for array in (y, dx):
        time_major = array.swapaxes(0, int(batch_first))
        for row, length in enumerate([2, 0, 5]):
            assert (time_major[length:, row] == 0).all()
            assert (time_major[:length, row] != 0).any(axis=-1).all()


def test_what_x_and_dy_hold_past_a_length_reaches_nothing():
    layer, lengths = LSTM(I, H, 2, bidirectional=True, rng=0), [2, 0, 5]
    x, dy = normal(T, B, I), normal(T, B, 2 * H)
    tape, plain = Tape(), Tape()
    layer.forward(x, lengths=lengths, tape=plain)
    expected = layer.backward(plain, dy)
    for row, length in enumerate(lengths):
        x[length:, row] = np.nan
        dy[length:, row] = np.inf
    y, (h_n, c_n) = layer.forward(x, lengths=lengths, tape=tape)
    assert np.isfinite(y).all() and np.isfinite(h_n).all() and np.isfinite(c_n).all()
    assert_same_gradients(layer.backward(tape, dy), expected)


def test_a_length_of_zero_returns_the_initial_state():
    layer, state = LSTM(I, H, 2, bidirectional=True, rng=0), (normal(4, B, H), normal(4, B, H, seed=6))
    _, (h_n, c_n) = layer.forward(normal(T, B, I), state, lengths=[0, T, 0])
    for row in (0, 2):
        assert_same_bits(h_n[:, row], state[0][:, row])
        assert_same_bits(c_n[:, row], state[1][:, row])


def test_full_lengths_change_nothing():
    layer, x = LSTM(I, H, 2, bidirectional=True, rng=0), normal(T, B, I)
    assert_same_bits(layer.forward(x, lengths=[T] * B)[0], layer.forward(x)[0])


@pytest.mark.parametrize("length", [0, 1, 4, T])
def test_the_length_of_an_unbatched_sequence_is_one_number(length):
    layer, x = LSTM(I, H, bidirectional=True, rng=0), normal(T, I)
    y, (h_n, _) = layer.forward(x, lengths=length)
    alone, (h_alone, _) = layer.forward(x[:length])
    assert_same_bits(y[:length], alone)
    assert (y[length:] == 0).all()
    assert_same_bits(h_n, h_alone)


def test_lengths_may_be_overwritten_before_backward():
    layer, x, lengths = LSTM(I, H, rng=0), normal(T, B, I), np.array([2, 0, 5], np.intp)
    tape, plain = Tape(), Tape()
    layer.forward(x, lengths=lengths.copy(), tape=plain)
    layer.forward(x, lengths=lengths, tape=tape)
    lengths[:] = T
    dy = normal(T, B, H)
    assert_same_gradients(layer.backward(tape, dy), layer.backward(plain, dy))


# Tapes and gradients ------------------------------------------------------------------------------


def test_a_tape_without_noise_does_not_change_the_result():
    layer, x = LSTM(I, H, 2, bidirectional=True, rng=0), normal(T, B, I)
    (y, (h, c)), (y_tape, (h_tape, c_tape)) = layer.forward(x), layer.forward(x, tape=Tape())
    assert_same_bits(y_tape, y)
    assert_same_bits(h_tape, h)
    assert_same_bits(c_tape, c)


def test_a_used_tape_gives_what_a_fresh_one_gives():
    """After larger, smaller and other shapes and dtypes, whose buffers it still has."""
    layer, other, tape = LSTM(I, H, 2, bidirectional=True, rng=0), LSTM(2, 20, dtype="float64", rng=1), Tape()
    for steps, batch in ((20, 9), (2, 1), (T, B)):
        other.forward(normal(steps, batch, 2, dtype="f8"), tape=tape)
        x, dy, fresh = normal(steps, batch, I), normal(steps, batch, 2 * H), Tape()
        lengths = [steps // 2] * batch
        y, _ = layer.forward(x, lengths=lengths, tape=tape)
        assert_same_bits(y, layer.forward(x, lengths=lengths, tape=fresh)[0])
        assert_same_gradients(layer.backward(tape, dy), layer.backward(fresh, dy))


def test_a_used_tape_keeps_its_buffers():
    """A second forward of the same size asks for no new memory: what is traced is the arrays it returns."""
    import tracemalloc

    layer, x, tape = LSTM(I, 64, rng=0), normal(200, 8, I), Tape()
    layer.forward(x, tape=tape)
    tracemalloc.start()
    try:
        y, _ = layer.forward(x, tape=tape)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * y.nbytes  # the gates alone, if made anew, would be four times y


def test_a_used_tape_is_whole_after_rows_without_a_valid_step():
    """Backward clears the states of these: not the ones beside them, which make the gradients of the biases."""
    layer, tape, x, dy = LSTM(I, H, rng=0), Tape(), normal(T, B, I), normal(T, B, H)
    layer.forward(x, lengths=np.zeros(B, int), tape=tape)
    layer.backward(tape, dy)
    fresh = Tape()
    for used in (tape, fresh):
        layer.forward(x, tape=used)
    assert_same_gradients(layer.backward(tape, dy), layer.backward(fresh, dy))


def test_a_tape_keeps_neither_the_x_nor_the_y_of_the_caller():
    import weakref

    layer, tape, x = LSTM(I, H, rng=0), Tape(), normal(T, B, I)
    y, _ = layer.forward(x, tape=tape)
    kept = [weakref.ref(x), weakref.ref(y)]
    del x, y
    assert [reference() for reference in kept] == [None, None]


def test_a_tape_is_spent_by_one_backward():
    layer, tape = LSTM(I, H, rng=0), Tape()
    y, _ = layer.forward(normal(T, B, I), tape=tape)
    layer.backward(tape, y)
    with pytest.raises(RuntimeError, match="already spent"):
        layer.backward(tape, y)


def test_gradients_are_fresh_arrays_that_a_later_pass_over_the_tape_does_not_touch():
    layer, tape, x, dy = LSTM(I, H, 2, rng=0), Tape(), normal(T, B, I), normal(T, B, H)
    layer.forward(x, tape=tape)
    gradients = layer.backward(tape, dy)
    arrays = [gradients.dx, *gradients.dstate, *gradients.parameters.values()]
    before = [array.copy() for array in arrays]
    layer.forward(10 * x, tape=tape)
    layer.backward(tape, -dy)
    for array, expected in zip(arrays, before, strict=True):
        assert_same_bits(array, expected)


@pytest.mark.parametrize("make", [LAYERS["LSTM"], LAYERS["Dense"]], ids=["LSTM", "Dense"])
def test_gradients_share_no_memory_with_each_other_or_with_the_arguments(make):
    layer, tape, x = make(), Tape(), normal(T, B, I)
    layer.forward(x, tape=tape)
    dy = normal(T, B, H)
    gradients = layer.backward(tape, dy)
    arrays = [x, dy, gradients.dx, *(gradients.dstate or ()), *gradients.parameters.values()]
    for n, array in enumerate(arrays):
        assert not any(np.shares_memory(array, other) for other in arrays[n + 1 :])


@pytest.mark.parametrize("make", [LAYERS["LSTM"], LAYERS["Dense"]], ids=["LSTM", "Dense"])
def test_backward_does_not_write_to_dy(make):
    layer, tape, dy = make(), Tape(), normal(T, B, H)
    layer.forward(normal(T, B, I), tape=tape)
    before = dy.copy()
    layer.backward(tape, dy)
    assert_same_bits(dy, before)


@pytest.mark.parametrize("make", [LAYERS["LSTM"], LAYERS["Dense"]], ids=["LSTM", "Dense"])
def test_y_and_the_states_may_be_overwritten_before_backward(make):
    layer, tape, plain, x, dy = make(), Tape(), Tape(), normal(T, B, I), normal(T, B, H)
    layer.forward(x, tape=plain)
    result = layer.forward(x, tape=tape)
    for array in (result[0], *result[1]) if isinstance(result, tuple) else (result,):
        array[...] = np.nan
    assert_same_gradients(layer.backward(tape, dy), layer.backward(plain, dy))


def test_the_initial_state_may_be_overwritten_before_backward():
    layer, tape, plain, x, dy = LSTM(I, H, rng=0), Tape(), Tape(), normal(T, B, I), normal(T, B, H)
    h_0, c_0 = normal(1, B, H), normal(1, B, H, seed=6)
    layer.forward(x, (h_0.copy(), c_0.copy()), tape=plain)
    layer.forward(x, (h_0, c_0), tape=tape)
    h_0[...] = c_0[...] = np.nan
    assert_same_gradients(layer.backward(tape, dy), layer.backward(plain, dy))


def test_no_dy_is_a_dy_of_zero():
    layer, x, tape, plain = LSTM(I, H, 2, bidirectional=True, rng=0), normal(T, B, I), Tape(), Tape()
    dstate = (normal(4, B, H), normal(4, B, H, seed=6))
    for each in (tape, plain):
        layer.forward(x, tape=each)
    zero = np.zeros((T, B, 2 * H), np.float32)
    assert_same_gradients(layer.backward(tape, None, dstate), layer.backward(plain, zero, dstate))


def test_no_dstate_is_a_dstate_of_zero_and_the_gradient_of_the_state_is_always_there():
    layer, x, dy, tape, plain = LSTM(I, H, rng=0), normal(T, B, I), normal(T, B, H), Tape(), Tape()
    for each in (tape, plain):
        layer.forward(x, tape=each)
    zeros = np.zeros((1, B, H), np.float32)
    without, with_zeros = layer.backward(tape, dy), layer.backward(plain, dy, (zeros, zeros))
    assert_same_gradients(without, with_zeros)
    for one, other in zip(without.dstate, with_zeros.dstate, strict=True):
        assert one.shape == (1, B, H)
        assert_same_bits(one, other)


def test_dense_has_no_gradient_of_a_state():
    dense, tape = Dense(I, H, rng=0), Tape()
    y = dense.forward(normal(T, I), tape=tape)
    assert dense.backward(tape, y).dstate is None


def test_gradients_have_the_keys_and_shapes_of_the_parameters():
    for make in LAYERS.values():
        layer, tape = make(), Tape()
        y = layer.forward(normal(T, B, I, dtype=layer.dtype), tape=tape)
        gradients = layer.backward(tape, y[0] if isinstance(y, tuple) else y)
        assert {k: v.shape for k, v in gradients.parameters.items()} == {
            k: v.shape for k, v in layer.parameters.items()
        }


def gradients_of(layer, x, dy):
    tape = Tape()
    layer.forward(x, tape=tape)
    return layer.backward(tape, dy)


def test_gradients_add():
    layer, x = LSTM(I, H, rng=0), normal(T, B, I)
    one, other = gradients_of(layer, x, normal(T, B, H)), gradients_of(layer, -x, normal(T, B, H, seed=6))
    total = one + other
    assert_same_bits(total.dx, one.dx + other.dx)
    assert_same_bits(total.dstate[1], one.dstate[1] + other.dstate[1])
    for name, array in one.parameters.items():
        assert_same_bits(total.parameters[name], array + other.parameters[name])


@pytest.mark.parametrize("factor", [0.5, 2, np.float64(0.5), np.float32(0.5), np.int64(3)])
def test_gradients_scale_from_either_side_and_keep_their_dtype(factor):
    gradients = gradients_of(LSTM(I, H, rng=0), normal(T, B, I), normal(T, B, H))
    for scaled in (factor * gradients, gradients * factor):
        assert isinstance(scaled, Gradients)
        assert_same_bits(scaled.dx, gradients.dx * np.float32(factor))
        assert_same_bits(scaled.dstate[0], gradients.dstate[0] * np.float32(factor))
        for name, array in gradients.parameters.items():
            assert_same_bits(scaled.parameters[name], array * np.float32(factor))


def test_gradients_of_different_batches_add_where_adding_has_a_meaning():
    layer = LSTM(I, H, rng=0)
    total = gradients_of(layer, normal(T, B, I), normal(T, B, H))
    total += gradients_of(layer, normal(2, 1, I), normal(2, 1, H))
    assert total.dx is None
    assert total.dstate is None
    assert (0.5 * total).parameters.keys() == layer.parameters.keys()


def test_gradients_of_different_layers_do_not_add():
    lstm, dense = LSTM(I, H, rng=0), Dense(I, H, rng=0)
    with pytest.raises(ValueError, match="different parameters"):
        gradients_of(lstm, normal(T, B, I), normal(T, B, H)) + gradients_of(dense, normal(T, I), normal(T, H))
    with pytest.raises(TypeError):
        gradients_of(dense, normal(T, I), normal(T, H)) + 1
    with pytest.raises(TypeError):
        gradients_of(dense, normal(T, I), normal(T, H)) * "2"


def test_gradients_of_halves_of_a_batch_add_up_to_those_of_the_whole():
    """In another order of summation, hence to rounding."""
    layer = LSTM(I, H, dtype="float64", rng=0)
    x, dy = normal(T, 4, I, dtype="f8"), normal(T, 4, H, dtype="f8")
    whole = gradients_of(layer, x, dy)
    halves = gradients_of(layer, x[:, :2], dy[:, :2]) + gradients_of(layer, x[:, 2:], dy[:, 2:])
    for name, array in whole.parameters.items():
        np.testing.assert_allclose(halves.parameters[name], array, atol=1e-13)


# Noise --------------------------------------------------------------------------------------------


def philox(counter, key):
    """Philox4x32-10 as its paper has it, in Python's integers."""
    c, k = list(counter), [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        high_0, low_0 = divmod(0xD2511F53 * c[0], 2**32)
        high_1, low_1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high_1 ^ c[1] ^ k[0], low_1, high_0 ^ c[3] ^ k[1], low_0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


KNOWN_ANSWERS = [  # of Random123, the library of philox's authors: counter, key, words
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
@pytest.mark.parametrize("function", [noise.random_words, philox], ids=["compiled", "reference"])
def test_philox_gives_the_known_answers_of_its_authors(function, counter, key, expected):
    low, high = (int(word, 16) for word in key.split())
    words = function([int(word, 16) for word in counter.split()], low | high << 32)
    assert [f"{word:08x}" for word in words] == expected.split()


def mix(z):
    """The finaliser of splitmix64."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def mask(shape, seed, call, layer, p):
    """The mask that dropout multiplies by, one element at a time."""
    kept = np.zeros(shape)
    for t, row, unit in np.ndindex(shape):
        word = philox([unit // 4, row, t, layer], mix(seed ^ mix(call)))[unit % 4]
        kept[t, row, unit] = 0 if word < p * 2**32 else 1 / (1 - p)
    return kept


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_a_mask_is_the_documented_function_of_seed_call_layer_time_row_and_unit(dtype, p):
    array = np.ones((3, 2, 6), dtype)
    noise.drop(array, 12345678901234567890, 3, 1, p)
    expected = mask((3, 2, 6), 12345678901234567890, 3, 1, p) if p < 1 else np.zeros((3, 2, 6))
    np.testing.assert_allclose(array, expected, rtol=1e-7)


def ones_dropped(seed=1, call=1, layer=0, p=0.5, shape=(4, 3, 8)):
    array = np.ones(shape, np.float32)
    noise.drop(array, seed, call, layer, p)
    return array


@pytest.mark.parametrize("other", [{"seed": 2}, {"call": 2}, {"layer": 1}])
def test_a_mask_changes_with_each_of_seed_call_and_layer(other):
    assert_same_bits(ones_dropped(), ones_dropped())
    assert (ones_dropped(**other) != ones_dropped()).any()


def test_a_mask_differs_between_times_rows_and_units():
    array = ones_dropped(shape=(4, 4, 64))
    for axis in range(3):
        a, b = np.take(array, 0, axis), np.take(array, 1, axis)
        assert (a != b).any()


def test_a_row_of_a_larger_mask_is_the_row_of_a_smaller_one():
    """By its number in its batch: the second half of a batch, called alone, begins at row 0 again."""
    large, small = ones_dropped(shape=(6, 5, 12)), ones_dropped(shape=(4, 2, 9))
    assert_same_bits(np.ascontiguousarray(large[:4, :2, :9]), small)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_kept_fraction_is_one_minus_p_and_the_mean_is_kept(p):
    """n = 200,000 draws: five standard errors of a binomial."""
    array = ones_dropped(p=p, shape=(100, 20, 100))
    kept = np.count_nonzero(array) / array.size
    error = 5 * math.sqrt(p * (1 - p) / array.size)
    assert abs(kept - (1 - p)) < error
    assert abs(array.mean(dtype="f8") - 1) < error / (1 - p) + 1e-6


def dropping(p=0.5, layers=2, **options):
    return LSTM(I, H, layers, dropout=p, rng=0, **options)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout_acts_on_the_output_of_every_layer_but_the_last(bidirectional):
    """Layer by layer, each in an LSTM of its own, with the mask in between."""
    layer, x = dropping(0.3, 3, bidirectional=bidirectional), normal(T, B, I)
    value = x
    for k in range(3):
        single = LSTM(value.shape[2], H, bidirectional=bidirectional)
        single.load_state_dict(
            {
                name.replace(f"_l{k}", "_l0"): array
                for name, array in layer.parameters.items()
                if f"_l{k}" in name
            }
        )
        value, _ = single.forward(value)
        if k < 2:
            noise.drop(value, 11, 1, k, 0.3)
    assert_same_bits(layer.forward(x, tape=Tape(seed=11))[0], value)


def test_the_same_seed_gives_the_same_output_and_another_seed_another():
    layer, x = dropping(), normal(T, B, I)
    y = layer.forward(x, tape=Tape(seed=1))[0]
    assert_same_bits(layer.forward(x, tape=Tape(seed=1))[0], y)
    assert (layer.forward(x, tape=Tape(seed=2))[0] != y).any()


def test_a_tape_without_a_seed_draws_one():
    seeds = {Tape().seed for _ in range(8)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_every_call_of_a_tape_has_masks_of_its_own():
    layer, x, tape = dropping(), normal(T, B, I), Tape(seed=1)
    assert (layer.forward(x, tape=tape)[0] != layer.forward(x, tape=tape)[0]).any()


def test_a_row_has_the_same_mask_whatever_the_rest_of_the_batch_and_of_the_sequence():
    layer, x = dropping(), normal(T, B, I)
    y = layer.forward(x, tape=Tape(seed=1))[0]
    assert_same_bits(layer.forward(x[:4, :2], tape=Tape(seed=1))[0], np.ascontiguousarray(y[:4, :2]))


def test_dropout_does_not_depend_on_the_number_of_threads(request):
    """Of a size that is shared out to threads."""
    before = cylstm.get_num_threads()
    request.addfinalizer(lambda: cylstm.set_num_threads(before))
    layer, x = LSTM(16, 64, 2, dropout=0.5, rng=0), normal(40, 32, 16)
    results = []
    for threads in (1, 3):
        cylstm.set_num_threads(threads)
        results.append(layer.forward(x, tape=Tape(seed=1))[0])
    assert_same_bits(*results)


@pytest.mark.parametrize("tape", [None, Tape(seed=1, training=False)], ids=["no tape", "training=False"])
def test_without_training_nothing_is_dropped(tape):
    layer, plain, x = dropping(), LSTM(I, H, 2, rng=0), normal(T, B, I)
    assert_same_bits(layer.forward(x, tape=tape)[0], plain.forward(x)[0])


def test_backward_without_training_differentiates_the_inference_pass():
    layer, plain, x, dy = dropping(), LSTM(I, H, 2, rng=0), normal(T, B, I), normal(T, B, H)
    tape, plain_tape = Tape(training=False), Tape()
    layer.forward(x, tape=tape)
    plain.forward(x, tape=plain_tape)
    assert_same_gradients(layer.backward(tape, dy), plain.backward(plain_tape, dy))


def test_everything_dropped_leaves_the_second_layer_without_input_and_the_first_without_gradient():
    layer, tape, x, dy = dropping(1.0), Tape(seed=1), normal(T, B, I), normal(T, B, H)
    y, _ = layer.forward(x, tape=tape)
    y_zero, _ = layer.forward(0 * x, tape=Tape(seed=1))
    assert_same_bits(y, y_zero)
    gradients = layer.backward(tape, dy)
    assert (gradients.dx == 0).all()
    assert (gradients.parameters["weight_hh_l0"] == 0).all()
    assert (gradients.parameters["weight_hh_l1"] != 0).any()


def test_dropout_in_an_lstm_of_one_layer_warns():
    with pytest.warns(UserWarning, match=r"dropout acts between layers, so with num_layers=1") as caught:
        LSTM(I, H, dropout=0.5)
    assert caught[0].filename == __file__


def test_no_dropout_and_dropout_between_layers_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LSTM(I, H, dropout=0.0)
        LSTM(I, H, 2, dropout=0.5)


# Dense --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (5,), (0,), (2, 3), (2, 0, 3), (1, 2, 3, 4)])
def test_dense_works_over_the_last_axis_of_any_number_of_axes(shape):
    dense, tape = Dense(I, H, activation="sigmoid", rng=0), Tape()
    x = normal(*shape, I)
    y = dense.forward(x, tape=tape)
    assert y.shape == (*shape, H)
    for index in np.ndindex(shape):
        assert_same_bits(np.ascontiguousarray(y[index]), dense.forward(x[index]))
    assert dense.backward(tape, y).dx.shape == (*shape, I)


ACTIVATIONS = {
    None: lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softmax": lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_dense_is_the_activation_of_x_times_the_transposed_weight_plus_bias(activation, bias):
    dense = Dense(I, H, bias, activation, dtype="float64", rng=0)
    x, p = normal(T, B, I, dtype="f8"), dense.parameters
    expected = ACTIVATIONS[activation](x @ p["weight"].T + p.get("bias", 0))
    np.testing.assert_allclose(dense.forward(x), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradients_of_dense_agree_with_central_differences(activation):
    dense = Dense(4, 5, activation=activation, dtype="float64", rng=0)
    cylstm.testing.gradcheck(dense, normal(3, 2, 4, dtype="f8"))


# The state that stands for one that is not given


RECURRENT = [
    cylstm.LSTM(3, 4, 2, bidirectional=True, rng=0), cylstm.LSTM(3, 4, proj_size=2, dtype="float64", rng=0),
    cylstm.GRU(3, 4, 2, batch_first=True, rng=0), cylstm.RNN(3, 4, reverse=True, rng=0),
    cylstm.JordanRNN(3, 4, 2, rng=0),
]  # fmt: skip


def default_for(layer):
    rng = np.random.default_rng(4)
    outer = layer.num_layers * layer._directions
    parts = [rng.standard_normal((outer, width)).astype(layer.dtype) for _, width in layer._widths]
    return tuple(parts) if len(parts) > 1 else parts[0]


def with_rows(state, count):
    """A state without a batch axis, for each of so many rows."""
    if isinstance(state, tuple):
        return tuple(with_rows(part, count) for part in state)
    return np.repeat(state[:, None], count, axis=1)


def arrays_of(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("layer", RECURRENT, ids=repr)
def test_a_default_state_is_the_state_where_none_is_given(layer):
    layer = copy.deepcopy(layer)
    assert layer.default_state is None
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, 5, 3)).astype(layer.dtype)
    default = default_for(layer)
    zeros = layer.forward(x)[0]
    expected, expected_n = layer.forward(x, with_rows(default, 5), lengths=[5, 0, 3, 1, 2])
    one_expected, _ = layer.forward(x[0], default)
    tape = cylstm.Tape(training=False)
    layer.forward(x, with_rows(default, 5), tape=tape)
    gradients = layer.backward(tape, expected)
    layer.default_state = default
    y, state_n = layer.forward(x, lengths=[5, 0, 3, 1, 2])
    np.testing.assert_array_equal(y, expected)
    for one, other in zip(arrays_of(state_n), arrays_of(expected_n), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(layer.forward(x[0])[0], one_expected)
    layer.forward(x, tape=tape)
    found = layer.backward(tape, expected)
    for one, other in zip(arrays_of(found.dstate), arrays_of(gradients.dstate), strict=True):
        np.testing.assert_array_equal(one, other)
    for name, gradient in gradients.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], gradient)
    zero = tuple(np.zeros_like(part) for part in arrays_of(with_rows(default, 5)))
    np.testing.assert_array_equal(layer.forward(x, zero if len(zero) > 1 else zero[0])[0], zeros)
    layer.default_state = None
    np.testing.assert_array_equal(layer.forward(x)[0], zeros)


def test_a_default_state_belongs_to_the_layer():
    layer, default = cylstm.LSTM(3, 4, rng=0), default_for(cylstm.LSTM(3, 4))
    layer.default_state = default
    expected = layer.forward(np.ones((1, 3), np.float32))[0]
    default[0][:] = np.nan
    np.testing.assert_array_equal(layer.forward(np.ones((1, 3), np.float32))[0], expected)
    for part in layer.default_state:
        assert not part.flags.writeable
        with pytest.raises(ValueError):
            part.flags.writeable = True
        with pytest.raises(ValueError):
            part.base.flags.writeable = True
    layer.default_state = list(layer.default_state)
    assert isinstance(layer.default_state, tuple)


@pytest.mark.parametrize("layer", RECURRENT, ids=repr)
def test_a_default_state_is_kept_by_pickle_copies_and_files(layer, tmp_path):
    layer = copy.deepcopy(layer)
    layer.default_state = default_for(layer)
    path = tmp_path / "model.safetensors"
    cylstm.Sequential([cylstm.Sequential([("inner", layer)])]).save(path)
    layer.save(tmp_path / "layer.safetensors")
    for other in (
        pickle.loads(pickle.dumps(layer)), copy.copy(layer), cylstm.load(path)[0]["inner"],
        cylstm.load(tmp_path / "layer.safetensors"),
    ):  # fmt: skip
        for one, expected in zip(arrays_of(other.default_state), arrays_of(layer.default_state), strict=True):
            np.testing.assert_array_equal(one, expected)
        assert repr(other) == repr(layer)
        assert other.parameters.keys() == layer.parameters.keys()
        other.default_state = None
        assert layer.default_state is not None


@pytest.mark.parametrize(("value", "error", "words"), [
    (np.zeros((2, 4), np.float32), TypeError, "default_state is a ndarray, expected a tuple"),
    ((np.zeros((2, 4), np.float32),), ValueError, "default_state is a tuple of 1"),
    ((np.zeros((2, 4), np.float32), np.zeros((2, 5), np.float32)), ValueError,
     r"default_state c has shape \(2, 5\), expected \(num_layers \* num_directions=2, hidden_size=4\)$"),
    ((np.zeros((2, 1, 4), np.float32),) * 2, ValueError, "default_state h has shape"),
    ((np.zeros((2, 4)),) * 2, TypeError, "default_state h is of dtype float64"),
    (([[0.0] * 4] * 2,) * 2, TypeError, "default_state h"),
])  # fmt: skip
def test_a_default_state_that_does_not_fit_changes_nothing(value, error, words):
    layer = cylstm.LSTM(3, 4, 2)
    layer.default_state = default = default_for(layer)
    with pytest.raises(error, match=words):
        layer.default_state = value
    np.testing.assert_array_equal(layer.default_state[1], default[1])


def test_gradcheck_of_a_layer_with_a_default_state():
    layer = cylstm.GRU(2, 3, dtype="float64", rng=0)
    layer.default_state = default_for(layer)
    cylstm.testing.gradcheck(layer, np.ones((3, 2, 2)), lengths=[3, 1])


def test_plots_begin_with_the_default_state():
    layer = cylstm.LSTM(3, 4, rng=0)
    default, x = default_for(layer), np.ones((5, 3), np.float32)
    values = cylstm.plot.gate_values(layer, x, default), cylstm.plot.gradient_norms(layer, x, state=default)
    layer.default_state = default
    np.testing.assert_array_equal(cylstm.plot.gate_values(layer, x)["h"], values[0]["h"])
    np.testing.assert_array_equal(cylstm.plot.gradient_norms(layer, x)["c"], values[1]["c"])
