"""What a user may do by mistake neither corrupts memory nor gives a silent wrong answer."""

import copy
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import cylstm
from cylstm import reference

SETTINGS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "dtype")


@pytest.mark.parametrize("name", SETTINGS)
def test_what_an_lstm_was_made_with_can_not_be_changed(name):
    lstm = cylstm.LSTM(3, 4, rng=0)
    before = getattr(lstm, name)
    with pytest.raises(AttributeError):
        setattr(lstm, name, before)
    assert getattr(copy.deepcopy(lstm), name) == before


@pytest.mark.parametrize("name", ["in_features", "out_features", "bias", "activation", "dtype"])
def test_what_a_dense_layer_was_made_with_can_not_be_changed(name):
    dense = cylstm.Dense(3, 4, rng=0)
    with pytest.raises(AttributeError):
        setattr(dense, name, getattr(dense, name))


@pytest.mark.parametrize("hidden_size", [4, 16, 17])
def test_an_infinite_input_makes_the_same_gradients_infinite_or_not_at_every_width(hidden_size):
    lstm = cylstm.LSTM(3, hidden_size, dtype="float64", rng=0)
    x = np.random.default_rng(1).normal(size=(4, 2, 3))
    x[1, 0, 0] = np.inf
    tape = cylstm.Tape()
    y, _ = lstm.forward(x, tape=tape)
    gradients = lstm.backward(tape, np.ones_like(y))
    with np.errstate(invalid="ignore"):
        _, _, cache = reference.lstm_forward(lstm.parameters, x)
        expected = reference.lstm_backward(cache, np.ones_like(y))
    assert np.isfinite(expected.dx).all()
    np.testing.assert_allclose(gradients.dx, expected.dx, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(gradients.dstate[0], expected.dstate[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", [lambda: cylstm.LSTM(3, 4, rng=0), lambda: cylstm.Dense(3, 4, rng=0)])
def test_x_may_be_overwritten_before_backward(make):
    layer = make()
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("float32")
    weight = "weight_ih_l0" if isinstance(layer, cylstm.LSTM) else "weight"
    results = []
    for overwrite in (False, True):
        mine = x.copy()
        tape = cylstm.Tape()
        y = layer.forward(mine, tape=tape)
        y = y[0] if isinstance(y, tuple) else y
        if overwrite:
            mine[...] = 0
        results.append(layer.backward(tape, np.ones_like(y)).parameters[weight])
    assert (results[0] == results[1]).all()


def test_a_tape_remembers_that_it_trained_when_its_setting_is_changed_before_backward():
    lstm = cylstm.LSTM(3, 4, 2, dropout=0.5, rng=0)
    x = np.ones((5, 2, 3), np.float32)
    results = []
    for change in (False, True):
        tape = cylstm.Tape(seed=1)
        y, _ = lstm.forward(x, tape=tape)
        if change:
            tape.training, tape.seed = False, 2
        results.append(lstm.backward(tape, np.ones_like(y)).dx)
    assert (results[0] == results[1]).all()


def test_a_tape_in_use_is_refused_to_another_forward():
    lstm, tape = cylstm.LSTM(3, 4, rng=0), cylstm.Tape()
    x = np.ones((5, 2, 3), np.float32)
    with tape.use(), pytest.raises(RuntimeError, match="another thread is using this tape"):
        lstm.forward(x, tape=tape)
    y, _ = lstm.forward(x, tape=tape)
    with tape.use(), pytest.raises(RuntimeError, match="another thread is using this tape"):
        lstm.backward(tape, y)
    lstm.backward(tape, y)


def test_an_optimiser_that_can_not_step_every_layer_steps_none():
    lstm, dense = cylstm.LSTM(3, 4, rng=0), cylstm.Dense(4, 2, rng=0)
    tapes = cylstm.Tape(), cylstm.Tape()
    y, _ = lstm.forward(np.ones((5, 2, 3), np.float32), tape=tapes[0])
    z = dense.forward(y, tape=tapes[1])
    g_dense = dense.backward(tapes[1], np.ones_like(z))
    g_lstm = lstm.backward(tapes[0], g_dense.dx)
    optimiser = cylstm.SGD([lstm, dense], lr=0.1)
    before = lstm.state_dict()
    with dense.writable(), pytest.raises(RuntimeError, match="already inside writable"):
        optimiser.step([g_lstm, g_dense])
    assert all((lstm.parameters[name] == value).all() for name, value in before.items())
    optimiser.step([g_lstm, g_dense])
    assert any((lstm.parameters[name] != value).any() for name, value in before.items())


def test_a_thread_that_outlives_the_main_one_still_gets_its_answer():
    script = """
        import threading, time
        import numpy as np, cylstm
        cylstm.set_num_threads(2)
        lstm = cylstm.LSTM(64, 64, rng=0)
        x = np.ones((100, 32, 64), np.float32)
        def serve():
            threading.main_thread().join()
            time.sleep(0.2)
            print(lstm(x)[0].shape, flush=True)
        threading.Thread(target=serve).start()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "(100, 32, 64)\n", done.stderr


def test_a_loss_says_what_it_wants_instead_of_a_list():
    with pytest.raises(TypeError, match=r"y_pred is a list, expected a float32 ndarray"):
        cylstm.losses.mse([[1.0]], [[1.0]])
