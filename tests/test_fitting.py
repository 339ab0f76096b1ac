"""fit: against loops written out here with the layers, to the same bits; and how a training is stopped and resumed."""

import functools
import inspect
import math
import os
import signal
import threading
import time

import numpy as np
import pytest

import cylstm
import cylstm.data
from cylstm import fitting, losses, schedules
from cylstm.fitting import Checkpoint, EarlyStopping

N, T, F = 22, 6, 3
cross_entropy = functools.partial(losses.sparse_categorical_crossentropy, from_logits=True)


def data(seed=0, steps=False):
    """x (N, T, F) and a number (N, 1) for each row, or (N, T, 1) for each step."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, T, F)).astype(np.float32)
    y = np.cumsum(x.sum(axis=2, keepdims=True), axis=1)
    return (x, y) if steps else (x, y[:, -1])


def many_to_one(dropout=0.0):
    between = [cylstm.Dropout(dropout)] if dropout else []
    return cylstm.Sequential([cylstm.LSTM(F, 5, rng=1), cylstm.Last(), *between, cylstm.Dense(5, 1, rng=2)])


def many_to_many(**options):
    return cylstm.Sequential([cylstm.GRU(F, 5, rng=1, **options), cylstm.Dense(5, 1, rng=2)])


def quiet(model, x, y, **options):
    return model.fit(x, y, **{"loss": "mse", "progress": False, "rng": 7} | options)


def assert_same_parameters(one, other):
    for name, value in one.parameters.items():
        np.testing.assert_array_equal(value, other.parameters[name], name)


class Recorder:
    """Notes in which order its hooks are called, and does something in one of them."""

    def __init__(self, hook=None, action=None):
        self.calls = []
        for name in ("on_fit_begin", "on_batch_end", "on_epoch_end", "on_fit_end"):
            setattr(self, name, functools.partial(self._note, name, action if name == hook else None))

    def _note(self, name, action, training):
        self.calls.append((name, training.epoch, training.batch))
        if action is not None:
            action(training)


# Against loops written out -------------------------------------------------------------------------------------------


def by_hand(model, x, y, epochs, batch_size, lengths=None, weight=None, optimizer=None, max_norm=None):
    """What fit does, one call after the other; the losses of the epochs."""
    rng = np.random.default_rng(7)
    tape = cylstm.Tape(seed=int(rng.integers(1 << 63)))
    optimizer = (optimizer or cylstm.Adam)([model])
    found = []
    for _ in range(epochs):
        order = rng.permutation(len(x))
        values, counts = [], []
        for first in range(0, len(x), batch_size):
            rows = order[first : first + batch_size]
            part = None if lengths is None else lengths[rows]
            y_pred, _ = model.forward(x[rows], lengths=part, tape=tape)
            target, kept = y[rows], None if weight is None else weight[rows]
            arguments = (y_pred, target, kept, part if y_pred.ndim == 3 else None)
            value, dy = losses.mse(*arguments, batch_first=True)
            gradients = model.backward(tape, dy)
            if max_norm is not None:
                cylstm.clip_grad_norm([gradients], max_norm)
            optimizer.step([gradients])
            values.append(float(value))
            counts.append(losses.total_weight(y_pred, kept, arguments[3], batch_first=True))
        found.append(sum(v * c for v, c in zip(values, counts, strict=True)) / sum(counts))
    return found


def test_fit_is_the_loop_written_out_to_the_same_bits():
    x, y = data()
    expected, model = many_to_one(dropout=0.3), many_to_one(dropout=0.3)
    values = by_hand(expected, x, y.astype(np.float32), 3, 8)
    history = quiet(model, x, y, epochs=3, batch_size=8)
    assert_same_parameters(model, expected)
    assert history["loss"] == pytest.approx(values, rel=1e-12)
    assert history["lr"] == [1e-3] * 3
    assert history is model.history and not history.interrupted


def test_ragged_rows_weights_and_clipping_are_those_of_the_loop_written_out():
    x, y = data(steps=True)
    lengths = np.arange(N) % (T + 1)
    weight = np.linspace(0.5, 2.0, N)
    expected, model = many_to_many(), many_to_many()
    sgd = functools.partial(cylstm.SGD, lr=0.1, momentum=0.5)
    values = by_hand(expected, x, y.astype(np.float32), 2, 8, lengths, weight, sgd, 0.5)
    history = quiet(
        model, x, y, epochs=2, batch_size=8, lengths=lengths.tolist(), sample_weight=weight.tolist(),
        optimizer=cylstm.SGD(lr=0.1, momentum=0.5), clip_norm=0.5,
    )  # fmt: skip
    assert_same_parameters(model, expected)
    assert history["loss"] == pytest.approx(values, rel=1e-12)


def test_what_is_past_a_length_or_masked_by_the_model_changes_nothing():
    x, y = data(steps=True)
    lengths = np.arange(N) % T + 1
    past = np.arange(T) >= lengths[:, None]
    found = []
    for x_past, y_past in ((0.0, 0.0), (100.0, -100.0)):
        model = many_to_many()
        spoilt = np.where(past[..., None], x_past, x), np.where(past[..., None], y_past, y)
        history = quiet(model, *spoilt, lengths=lengths, metrics=["mae"], epochs=2)
        found.append((model, history))
    assert_same_parameters(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]

    masked = cylstm.Sequential([cylstm.Masking(99.0), *many_to_many().layers])
    spoilt = np.where(past[..., None], 99.0, x), np.where(past[..., None], 1e6, y)
    history = quiet(masked, *spoilt, metrics=["mae"], epochs=2)
    assert_same_parameters(cylstm.Sequential(masked.layers[1:]), found[0][0])
    assert history == found[0][1]


def test_lists_and_float64_are_converted_and_integers_stay_classes():
    x, _ = data()
    labels = np.arange(N) % 3
    models = [cylstm.Sequential([cylstm.GRU(F, 4, rng=0), cylstm.Last(), cylstm.Dense(4, 3, rng=1)]) for _ in range(2)]
    first = quiet(models[0], x, labels, loss=cross_entropy, metrics=["accuracy"])
    second = quiet(models[1], x.astype(np.float64).tolist(), labels.astype(np.uint8).tolist(), loss=cross_entropy,
                   metrics=["accuracy"])  # fmt: skip
    assert first == second
    assert_same_parameters(*models)


def test_integers_go_through_an_embedding():
    tokens = np.arange(20).reshape(10, 2) % 5
    model = cylstm.Sequential([cylstm.Embedding(5, 3, rng=0), cylstm.RNN(3, 4, rng=1), cylstm.Dense(4, 5, rng=2)])
    history = quiet(model, tokens.tolist(), tokens, loss=cross_entropy, optimizer=cylstm.Adam(lr=0.05), epochs=20,
                    batch_size=5, metrics=["accuracy"])  # fmt: skip
    assert history["accuracy"][-1] == 1.0


def test_frozen_layers_stay_and_do_not_count_for_clipping():
    x, y = data()
    model, expected = many_to_one(), many_to_one()
    for m in (model, expected):
        m.layers[0].trainable = False
    before = dict(model.layers[0].parameters)
    quiet(model, x, y, clip_norm=0.01, clip_value=0.004, optimizer=cylstm.SGD(lr=1.0), batch_size=N, shuffle=False)
    for name, value in model.layers[0].parameters.items():
        np.testing.assert_array_equal(value, before[name])
    tape = cylstm.Tape(seed=0)
    y_pred, _ = expected.forward(x, tape=tape)
    gradients = expected.backward(tape, losses.mse(y_pred, y)[1]).parameters
    alone = {name: np.clip(gradients[name], -0.004, 0.004) for name in ("2.weight", "2.bias")}
    norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in alone.values()))
    for name, g in alone.items():
        step = expected.parameters[name] - model.parameters[name]
        np.testing.assert_allclose(step, g * min(1, 0.01 / norm), rtol=1e-4, atol=1e-8)


# Order ---------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not():
    x, y = data()
    models = [many_to_one(dropout=0.5) for _ in range(3)]
    for model, rng in zip(models, (3, np.random.default_rng(3), 4), strict=True):
        quiet(model, x, y, rng=rng, epochs=2, batch_size=8)
    assert_same_parameters(*models[:2])
    assert (models[0].parameters["3.weight"] != models[2].parameters["3.weight"]).any()


def test_given_permutations_are_the_order_of_the_rows():
    x, y = data()
    orders = [np.arange(N)[::-1], np.roll(np.arange(N), 5)]
    model, expected = many_to_one(), many_to_one()
    quiet(model, x, y, shuffle=iter(orders), epochs=2, batch_size=8)
    optimizer = cylstm.Adam()
    for order in orders:
        quiet(expected, x[order], y[order], shuffle=False, optimizer=optimizer, batch_size=8)
    assert_same_parameters(model, expected)


@pytest.mark.parametrize(
    ("shuffle", "message"),
    [
        ([np.arange(N)], "shuffle has 1 permutations, expected one for each of 2 epochs"),
        ([np.arange(N), np.zeros(N, int)], r"shuffle\[1\] is not a permutation of 0 to 21"),
        ([np.arange(N - 1)] * 2, r"shuffle\[0\] is not a permutation"),
        ([np.linspace(0, 1, N)] * 2, r"shuffle\[0\] is not a permutation"),
    ],
    ids=["few", "twice", "short", "floats"],
)
def test_a_wrong_order_is_refused(shuffle, message):
    with pytest.raises(ValueError, match=message):
        quiet(many_to_one(), *data(), shuffle=shuffle, epochs=2)


# Validation and history ----------------------------------------------------------------------------------------------


def test_the_last_share_of_the_rows_is_for_validation():
    x, y = data()
    weight = np.linspace(1, 2, N)
    model, expected = many_to_one(), many_to_one()
    options = {"metrics": ["mae"], "epochs": 2, "batch_size": 8}
    history = quiet(model, x, y, validation_split=0.25, sample_weight=weight, **options)
    kept = math.floor(N * 0.75)
    again = quiet(expected, x[:kept], y[:kept], sample_weight=weight[:kept],
                  validation_data=(x[kept:], y[kept:], weight[kept:]), **options)  # fmt: skip
    assert history == again
    assert_same_parameters(model, expected)
    judged = model.evaluate(x[kept:], y[kept:], "mse", ["mae"], sample_weight=weight[kept:])
    assert (history["val_loss"][-1], history["val_mae"][-1]) == (judged["loss"], judged["mae"])
    assert list(history) == ["loss", "mae", "val_loss", "val_mae", "lr"]
    assert all(len(values) == 2 for values in history.values())


def test_validation_knows_lengths():
    x, y = data(steps=True)
    lengths = np.arange(N) % T
    model = many_to_many()
    history = quiet(model, x, y, validation_data=(x, y, None, lengths))
    assert history["val_loss"] == [model.evaluate(x, y, "mse", lengths=lengths)["loss"]]


def test_the_learning_rate_follows_a_schedule_and_what_it_monitors():
    x, y = data()
    falling = cylstm.Adam(lr=lambda step: 1 / (step + 1))
    assert quiet(many_to_one(), x, y, optimizer=falling, epochs=2, batch_size=8)["lr"] == [1 / 3, 1 / 6]
    plateau = functools.partial(schedules.ReduceOnPlateau, 0.25, factor=0.5, patience=0)
    frozen = many_to_one()  # nothing becomes better
    frozen.trainable = False
    assert quiet(frozen, x, y, optimizer=cylstm.SGD(lr=plateau()), epochs=4)["lr"] == [0.25, 0.25, 0.125, 0.0625]
    watched = cylstm.SGD(lr=plateau(monitor="val_mae"))
    with pytest.raises(ValueError, match="monitor is 'val_mae', expected one of 'loss', 'lr'"):
        quiet(frozen, x, y, optimizer=watched)


def test_an_optimiser_goes_on_in_the_next_fit():
    x, y = data()
    model, expected = many_to_one(), many_to_one()
    optimizer = cylstm.Adam()
    for _ in range(2):
        quiet(model, x, y, optimizer=optimizer, shuffle=False)
    quiet(expected, x, y, shuffle=False, epochs=2)
    assert optimizer.steps == 2
    assert_same_parameters(model, expected)


def test_callbacks_are_called_in_order_and_functions_at_the_end_of_an_epoch():
    recorder, seen = Recorder(), []
    quiet(many_to_one(), *data(), epochs=2, batch_size=16, callbacks=[recorder, lambda t: seen.append(t.logs)])
    one = [("on_batch_end", 0, 1), ("on_batch_end", 0, 2), ("on_epoch_end", 1, 2)]
    two = [("on_batch_end", 1, 1), ("on_batch_end", 1, 2), ("on_epoch_end", 2, 2)]
    assert recorder.calls == [("on_fit_begin", 0, 0), *one, *two, ("on_fit_end", 2, 2)]
    assert [sorted(logs) for logs in seen] == [["loss", "lr"]] * 2


def test_logs_in_an_epoch_are_the_means_so_far():
    x, y = data()
    model, found = many_to_one(), []
    model.trainable = False
    quiet(model, x, y, epochs=2, batch_size=16, shuffle=False,
          callbacks=[Recorder("on_batch_end", lambda training: found.append(training.logs["loss"]))])  # fmt: skip
    expected = [model.evaluate(x[:n], y[:n], "mse")["loss"] for n in (16, N)]
    assert found == pytest.approx(expected * 2, rel=1e-6)


def test_the_bar_shows_epoch_loss_and_metrics(capsys):
    x, y = data()
    history = many_to_one().fit(x, y, loss="mse", epochs=2, batch_size=8, metrics=["mae"], validation_split=0.5, rng=0)
    captured = capsys.readouterr()
    shown = captured.err.split("\r")[-1]
    assert captured.out == ""
    assert "epoch 2/2" in shown and "4/4" in shown and captured.err.endswith("\n")
    for name in ("loss", "mae", "val_loss", "val_mae"):
        assert f"{name} {history[name][-1]:.4g}" in shown


def test_without_progress_nothing_is_written(capsys):
    quiet(many_to_one(), *data())
    assert capsys.readouterr() == ("", "")


# Ends ----------------------------------------------------------------------------------------------------------------


def test_early_stopping_restores_the_best_parameters():
    x, y = data()
    validation = data(1)
    values = [3.0, 2.0, 1.9999, 2.5, 0.1]  # what validation comes to, but for the model
    seen = []

    class Planned(EarlyStopping):
        def on_fit_begin(self, training):
            training.history["planned"] = []
            super().on_fit_begin(training)

        def on_epoch_end(self, training):
            seen.append(dict(training.model.parameters))
            training.history["planned"] = values[: training.epoch]
            super().on_epoch_end(training)

    for restore_best, kept in ((True, 1), (False, 3)):
        seen.clear()
        model = many_to_one()
        stopping = Planned("planned", patience=2, min_delta=0.01, restore_best=restore_best)
        history = quiet(model, x, y, epochs=9, validation_data=validation, callbacks=[stopping])
        assert len(history["loss"]) == 4
        assert (stopping.best, stopping.best_epoch) == (2.0, 2)
        for name, value in model.parameters.items():
            np.testing.assert_array_equal(value, seen[kept][name])


def test_early_stopping_takes_a_larger_accuracy_for_better_and_names_what_it_may_monitor():
    assert EarlyStopping("val_accuracy").mode == "max" and EarlyStopping("val_accuracy", mode="min").mode == "min"
    with pytest.raises(ValueError, match="monitor is 'val_loss', expected one of 'loss', 'lr'"):
        quiet(many_to_one(), *data(), callbacks=[EarlyStopping()])


def test_a_loss_that_is_not_finite_stops_and_the_parameters_are_those_before_the_step():
    x, y = data()
    y[8 * 1 + 3] = np.inf  # in the second batch
    model, expected = many_to_one(), many_to_one()
    with pytest.raises(FloatingPointError, match="the loss is inf in step 2 of epoch 1"):
        quiet(model, x, y, batch_size=8, shuffle=False, epochs=3)
    quiet(expected, x[:8], y[:8], batch_size=8, shuffle=False)
    assert_same_parameters(model, expected)
    assert model.history == {} and not model.history.interrupted


def test_a_gradient_that_is_not_finite_stops_before_it_spoils_the_parameters():
    def broken(y_pred, *arguments, **options):
        return 1.0, np.full_like(y_pred, np.nan)

    model, expected = many_to_one(), many_to_one()
    with pytest.raises(FloatingPointError, match=r"the gradient of \S+ is infinite or NaN in step 1 of epoch 1"):
        quiet(model, *data(), loss=broken)
    assert_same_parameters(model, expected)


@pytest.fixture
def interruptible():
    """Ctrl-C is KeyboardInterrupt: a parent, a shell that runs tests in its background, may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def raise_it():
    raise KeyboardInterrupt


def send_it():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("interrupt", [raise_it, send_it])
def test_ctrl_c_leaves_the_last_whole_step_and_the_whole_epochs(interrupt, interruptible, capsys):
    x, y = data()
    model, expected = many_to_one(), many_to_one()

    def action(training):
        if (training.epoch, training.batch) == (1, 2):
            interrupt()

    early = EarlyStopping("loss")
    history = model.fit(x, y, loss="mse", shuffle=False, epochs=5, batch_size=8, rng=0,
                        callbacks=[Recorder("on_batch_end", action), early])  # fmt: skip
    assert history.interrupted and model.history is history
    assert [len(values) for values in history.values()] == [1, 1]
    assert capsys.readouterr().err.endswith("\n")  # the bar is closed

    optimizer = cylstm.Adam()
    quiet(expected, x, y, shuffle=False, batch_size=8, optimizer=optimizer)
    quiet(expected, x[:16], y[:16], shuffle=False, batch_size=8, optimizer=optimizer)
    assert_same_parameters(model, expected)


def test_ctrl_c_at_any_moment_leaves_a_model_that_trains_on(interruptible):
    x, y = data()
    model = many_to_one()
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    history = quiet(model, x, y, epochs=10**6, batch_size=4)
    timer.join()
    assert history.interrupted
    assert len(set(map(len, history.values()))) <= 1
    assert len(quiet(model, x, y)["loss"]) == 1 and np.isfinite(model.predict(x)).all()


def test_an_optimiser_of_ones_own_makes_the_steps():
    made = []

    class Own(cylstm.SGD):
        def step(self, gradients):
            made.append(len(gradients))
            super().step(gradients)

    x, y = data()
    quiet(many_to_one(), x, y, optimizer=Own(lr=0.1), batch_size=N, epochs=3)
    assert made == [1, 1, 1]


def test_an_update_that_is_not_finite_is_taken_back():
    x, y = data()
    model = many_to_one()
    before = dict(model.parameters)
    with pytest.raises(FloatingPointError, match=r"2.weight would become infinite or NaN in step 1 of epoch 1; the p"):
        quiet(model, x * 1e4, y * 1e15, optimizer=cylstm.SGD(lr=1e30))
    for name, value in before.items():
        np.testing.assert_array_equal(model.parameters[name], value)


def test_large_parameters_are_finite():
    """Of float64: their squares are not."""
    model = cylstm.Sequential([cylstm.Dense(1, 1, rng=0, dtype="float64")])
    model.load_state_dict({"0.weight": np.array([[1e-3]]), "0.bias": np.array([1e200])})
    rows = np.ones((2, 1))
    history = quiet(model, rows, rows * 1e200, optimizer=cylstm.SGD(lr=0.5))
    assert history["loss"] == [0.0]


# The optimiser -------------------------------------------------------------------------------------------------------


def raise_error(training):
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"epochs": -1}, ValueError),
        ({"rng": "seed"}, TypeError),
        ({"resume": "missing"}, FileNotFoundError),
        ({"callbacks": [Recorder("on_fit_begin", raise_error)]}, ZeroDivisionError),
        ({"loss": lambda *arguments, **options: raise_error(None)}, ZeroDivisionError),
        ({"metrics": [lambda *arguments, **options: raise_error(None)]}, ZeroDivisionError),
    ],
    ids=["epochs", "rng", "resume", "callback", "loss", "metric"],
)
def test_an_optimiser_is_not_bound_by_a_fit_that_made_no_step(options, error):
    x, y = data()
    optimizer, fresh = cylstm.Adam(), cylstm.Adam()
    with pytest.raises(error):
        quiet(many_to_one(), x, y, optimizer=optimizer, **options)
    assert optimizer.layers is None and optimizer.steps == 0
    models = [many_to_one(), many_to_one()]
    for model, of_it in zip(models, (optimizer, fresh), strict=True):
        quiet(model, x, y, optimizer=of_it)
    assert_same_parameters(*models)


def test_an_optimiser_stays_bound_by_a_fit_that_made_a_step():
    model, optimizer = many_to_one(), cylstm.Adam()
    with pytest.raises(ZeroDivisionError):
        quiet(model, *data(), optimizer=optimizer, callbacks=[Recorder("on_batch_end", raise_error)])
    assert optimizer.layers == [model] and optimizer.steps == 1
    with pytest.raises(ZeroDivisionError):  # nor does one that was bound before forget it
        quiet(model, *data(), optimizer=optimizer, callbacks=[Recorder("on_fit_begin", raise_error)])
    assert optimizer.layers == [model] and optimizer.steps == 1


@pytest.mark.parametrize("tbptt", [None, 4])
def test_a_batch_without_a_valid_step_makes_no_step(tbptt):
    x, y = data(steps=True)
    lengths = np.where(np.arange(N) < 8, T, 0)  # those of the first batch
    model, expected = many_to_many(), many_to_many()
    first, second = (cylstm.AdamW(lr=0.1) for _ in range(2))
    options = {"batch_size": 8, "shuffle": False, "tbptt": tbptt, "metrics": ["mae"]}
    history = quiet(model, x, y, lengths=lengths, optimizer=first, **options)
    assert history == quiet(expected, x[:8], y[:8], optimizer=second, **options)
    assert first.steps == (1 if tbptt is None else 2)
    assert_same_parameters(model, expected)


def test_a_chunk_that_the_model_masks_hands_its_states_on_and_makes_no_step():
    x, y = data(steps=True)
    x[:, 2:4] = 0.0
    model = cylstm.Sequential([cylstm.Masking(), *many_to_many().layers])
    expected, optimizer = many_to_many(), cylstm.Adam()
    quiet(model, x, y, tbptt=2, batch_size=N, shuffle=False, optimizer=optimizer)
    quiet(expected, np.delete(x, (2, 3), 1), np.delete(y, (2, 3), 1), tbptt=2, batch_size=N, shuffle=False)
    assert optimizer.steps == 2
    assert_same_parameters(cylstm.Sequential(model.layers[1:]), expected)


# Checkpoints ---------------------------------------------------------------------------------------------------------


def resumable(path, epochs, resume=None, rng=7):
    x, y = data()
    model = many_to_one(dropout=0.4)
    schedule = schedules.warmup(schedules.ReduceOnPlateau(0.02, factor=0.5, patience=0, threshold=0.9), 4)
    stopping = EarlyStopping("val_loss", patience=4)
    history = quiet(model, x, y, epochs=epochs, batch_size=4, optimizer=cylstm.Adam(lr=schedule), validation_split=0.2,
                    metrics=["mae"], callbacks=[Checkpoint(path), stopping], resume=resume, rng=rng)  # fmt: skip
    return model, history, stopping


@pytest.mark.parametrize("generator", [np.random.PCG64, np.random.MT19937])
def test_a_resumed_training_gives_the_bits_of_an_uninterrupted_one(tmp_path, generator):
    def rng():
        return np.random.Generator(generator(5))

    path = tmp_path / "run.safetensors"
    expected, whole, stopping = resumable(tmp_path / "whole.safetensors", 6, rng=rng())
    resumable(path, 3, rng=rng())
    model, history, again = resumable(path, 6, resume=path, rng=rng())
    assert history == whole and len(set(whole["lr"])) > 2
    assert (again.best, again.best_epoch) == (stopping.best, stopping.best_epoch)
    assert_same_parameters(model, expected)
    assert sorted(os.listdir(tmp_path)) == ["run.safetensors", "whole.safetensors"]


def test_a_training_that_stopped_early_does_not_go_on(tmp_path):
    path = tmp_path / "run.safetensors"
    x, y = data()
    model, again = many_to_one(), many_to_one()
    options = {"epochs": 9, "callbacks": [Checkpoint(path, every=5), EarlyStopping("loss", patience=1, mode="max")]}
    history = quiet(model, x, y, **options)
    assert quiet(again, x, y, resume=path, **options) == history and len(history["loss"]) == 2
    assert_same_parameters(model, again)


def test_given_orders_go_on_where_a_checkpoint_left_them(tmp_path):
    x, y = data()
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(N), (4, 1)), axis=1)
    models = [many_to_one() for _ in range(3)]
    options = {"shuffle": orders, "batch_size": 8}
    quiet(models[0], x, y, epochs=4, **options)
    quiet(models[1], x, y, epochs=2, callbacks=[Checkpoint(tmp_path / "c")], **options)
    quiet(models[2], x, y, epochs=4, callbacks=[Checkpoint(tmp_path / "d")], resume=tmp_path / "c", **options)
    assert_same_parameters(models[0], models[2])


def test_checkpoints_are_written_every_so_many_epochs_and_after_the_last(tmp_path):
    path, seen = tmp_path / "run", []
    look = Recorder("on_batch_end", lambda training: seen.append(path.exists() and path.read_bytes()))
    quiet(many_to_one(), *data(), epochs=5, callbacks=[Checkpoint(path, every=2), look])
    seen.append(path.read_bytes())
    assert [bool(content) for content in seen] == [False, False, True, True, True, True]
    assert seen[2] == seen[3] and len(set(seen[2:])) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "sgd"}, "its optimiser and callbacks are .*Adam.* expected .*SGD"),
        ({"rng": np.random.Generator(np.random.MT19937(0))}, "its generator"),
        ({"model": many_to_many(), "y": data(steps=True)[1]}, "missing"),
    ],
    ids=["optimiser", "generator", "model"],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, change, message):
    path = tmp_path / "run"
    x, y = data()
    quiet(many_to_one(), x, y, callbacks=[Checkpoint(path)])
    options = {"model": many_to_one(), "y": y} | change
    with pytest.raises(ValueError, match=f"run does not fit this training: .*{message}"):
        quiet(options.pop("model"), x, options.pop("y"), callbacks=[Checkpoint(path)], resume=path, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "mae"}, "its loss is 'mse', but 'mae' is given"),
        ({"metrics": ["rmse"]}, r"its history is \['loss', 'mae', 'lr'\], but \['loss', 'rmse', 'lr'\] is given"),
        ({"validation_split": 0.5}, r"but \['loss', 'mae', 'val_loss', 'val_mae', 'lr'\] is given"),
        ({"batch_size": 8}, "its batch_size is 11, but 8 is given"),
        ({"tbptt": 3}, "its tbptt is 2, but 3 is given"),
        ({"stateful": True, "tbptt": None}, "its tbptt is 2, but None is given; its stateful is False, but True is"),
        ({"epochs": 1}, "it has 2 epochs, but epochs=1 is given"),
        ({"dtype": "float64"}, "its dtype is 'float32', but 'float64' is given"),
    ],
)
def test_a_checkpoint_of_other_arguments_is_refused(tmp_path, change, message):
    path = tmp_path / "run"
    x, y = data(steps=True)
    options = {"epochs": 2, "metrics": ["mae"], "batch_size": 11, "tbptt": 2, "shuffle": False,
               "callbacks": [Checkpoint(path)]}  # fmt: skip
    quiet(cylstm.Sequential([cylstm.RNN(F, 1, rng=0)]), x, y, **options)
    options |= change
    model = cylstm.Sequential([cylstm.RNN(F, 1, rng=0, dtype=options.pop("dtype", "float32"))])
    before = dict(model.parameters)
    with pytest.raises(ValueError, match=f"run does not fit this training: .*{message}"):
        quiet(model, x, y, resume=path, **options)
    assert all(model.parameters[name] is value for name, value in before.items())


def test_a_checkpoint_needs_a_directory_before_training(tmp_path):
    for path in (tmp_path / "missing" / "run", tmp_path):
        model = many_to_one()
        before = dict(model.parameters)
        with pytest.raises(OSError, match=str(path)):
            quiet(model, *data(), callbacks=[Checkpoint(path)])
        assert all(model.parameters[name] is value for name, value in before.items())


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    from cylstm import saving

    saving.write_file(tmp_path / "other", {}, {})
    with pytest.raises(ValueError, match="other is not a checkpoint of fit"):
        quiet(many_to_one(), *data(), resume=tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="missing"):
        quiet(many_to_one(), *data(), resume=tmp_path / "missing")


# Through time --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
def test_truncated_back_propagation_is_the_loop_over_chunks_written_out(ragged):
    x, y = data(steps=True)
    y = y.astype(np.float32)
    lengths = np.arange(N) % 5 if ragged else None
    model, expected = many_to_many(), many_to_many()
    history = quiet(model, x, y, epochs=2, batch_size=8, tbptt=4, lengths=lengths, shuffle=False)
    tape, optimizer, found = cylstm.Tape(), cylstm.Adam([expected]), []
    for _ in range(2):
        values, counts = [], []
        for first in range(0, N, 8):
            states = None
            for t, t_end in ((0, 4), (4, 6)):
                rows = slice(first, first + 8)
                left = None if lengths is None else np.clip(lengths[rows] - t, 0, t_end - t)
                if left is not None and not left.any():
                    continue
                y_pred, states = expected.forward(x[rows, t:t_end], states, lengths=left, tape=tape)
                value, dy = losses.mse(y_pred, y[rows, t:t_end], None, left, batch_first=True)
                optimizer.step([expected.backward(tape, dy)])
                values.append(float(value))
                counts.append(losses.total_weight(y_pred, None, left, batch_first=True))
        found.append(np.average(values, weights=counts))
    assert_same_parameters(model, expected)
    assert history["loss"] == pytest.approx(found, rel=1e-12)
    assert ragged or optimizer.steps == 2 * 3 * 2


def test_weights_of_steps_are_cut_with_them():
    x, y = data(steps=True)
    weight = 1.0 + np.arange(N * T).reshape(N, T) % 5
    weight[:, :2] = 0.0
    found, expected = many_to_many(), many_to_many()
    quiet(found, x, y, tbptt=2, sample_weight=weight, shuffle=False, batch_size=N, optimizer=cylstm.SGD(lr=0.1))
    optimizer, tape, states = cylstm.SGD([expected], lr=0.1), cylstm.Tape(), None
    for first in range(0, T, 2):
        chunk = np.s_[:, first : first + 2]
        y_pred, states = expected.forward(x[chunk], states, tape=tape)
        if first:  # in the first chunk nothing counts
            _, dy = losses.mse(y_pred, y[chunk], weight[chunk], batch_first=True)
            optimizer.step([expected.backward(tape, dy)])
    assert_same_parameters(found, expected)


def test_metrics_of_an_epoch_are_combined_as_evaluate_combines_them():
    """A root of means is no mean of roots: with a last batch of another size the two differ."""
    x, y = data()
    model = many_to_one()
    model.trainable = False
    expected = model.evaluate(x, y, "mse", metrics=["rmse"])["rmse"]
    for metric in "rmse", functools.partial(cylstm.metrics.rmse):
        history = quiet(model, x, y, metrics=[metric], batch_size=N - 1)
        assert history["rmse"] == pytest.approx([expected])


def test_a_layer_that_was_set_free_is_free_after_a_resume(tmp_path):
    def free(training):
        if training.epoch == 1:
            training.model[0].trainable = True

    def train(epochs, **options):
        model = many_to_one()
        model[0].trainable = False
        x, y = data()
        quiet(model, x, y, epochs=epochs, rng=3, callbacks=[free, Checkpoint(tmp_path / "c")], **options)
        return model

    whole = train(4)
    train(2)
    assert_same_parameters(whole, train(4, resume=tmp_path / "c"))


def test_a_schedule_may_return_a_number_of_numpy(tmp_path):
    x, y = data()
    optimizer = cylstm.Adam(lr=lambda step: np.float32(0.1))
    history = quiet(many_to_one(), x, y, optimizer=optimizer, callbacks=[Checkpoint(tmp_path / "c")])
    assert [type(value) for value in history["lr"]] == [float]


def test_fit_of_a_model_has_the_arguments_of_fit():
    arguments = list(inspect.signature(fitting.fit).parameters.values())
    assert list(inspect.signature(cylstm.Sequential.fit).parameters.values())[1:] == arguments[1:]


@pytest.mark.parametrize(("rows", "share", "trained"), [(10, 0.9, 1), (10, 0.8, 2), (10, 0.75, 2), (7, 0.2, 5)])
def test_a_share_for_validation_leaves_whole_rows_rounded_down(rows, share, trained):
    seen = []

    def loss(y_pred, target, *_, **__):
        seen.append(len(target))
        return 0.0, np.zeros_like(y_pred)

    quiet(many_to_one(), *(array[:rows] for array in data()), loss=loss, validation_split=share, batch_size=rows)
    assert seen[0] == trained


def test_stateful_rows_go_on_from_the_batch_before_and_epochs_from_zeros():
    """One long sequence in pieces, without a change of the parameters: the loss is that of the whole."""
    x, y = data(steps=True)
    rows, pieces = 2, N // 2
    model = many_to_many()
    model.trainable = False
    history = quiet(model, x, y, stateful=True, shuffle=False, batch_size=rows, epochs=2)
    whole = [array.reshape(pieces, rows, T, -1).swapaxes(0, 1).reshape(rows, pieces * T, -1) for array in (x, y)]
    value = model.evaluate(*whole, "mse")["loss"]
    assert history["loss"] == pytest.approx([value, value], rel=1e-6)
    assert quiet(model, x, y, batch_size=rows)["loss"][0] != pytest.approx(value, rel=1e-3)


def test_stateful_training_is_truncated_back_propagation_over_the_whole():
    x, y = data(steps=True)
    model, expected = many_to_many(), many_to_many()
    quiet(model, x, y, stateful=True, shuffle=False, batch_size=1)
    quiet(expected, x.reshape(1, N * T, F), y.reshape(1, N * T, 1), tbptt=T)
    assert_same_parameters(model, expected)


# What is refused -----------------------------------------------------------------------------------------------------

_X, _Y = data()
_YS = data(steps=True)[1]
_LATE = np.where(np.arange(N) < N - 1, 1.0, -1.0)  # wrong in the last row


def classifier():
    return cylstm.Sequential([cylstm.GRU(F, 5, rng=1), cylstm.Last(), cylstm.Dense(5, 2, rng=2, activation="softmax")])


def _repeating():
    return cylstm.Sequential([cylstm.GRU(F, 5, rng=1), cylstm.Last(), cylstm.Repeat(T), cylstm.Dense(5, 1, rng=2)])


def _half(*arguments, **options):
    return "0,5"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "mean"}, ValueError, "loss is 'mean', expected one of 'mse'"),
        ({"metrics": "accuracy"}, TypeError, "metrics is 'accuracy', expected a list"),
        ({"metrics": ["mae", losses.mae]}, ValueError, "a second function called 'mae'"),
        ({"optimizer": "adamax"}, ValueError, "optimizer is 'adamax', expected one of 'sgd'"),
        ({"optimizer": cylstm.Adam}, TypeError, "optimizer is a type, expected a name or an optimiser"),
        ({"optimizer": cylstm.Adam([cylstm.Dense(1, 1)])}, ValueError, "layers are not those"),
        ({"epochs": -1}, ValueError, "epochs is -1"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"x": _X[:0], "y": _Y[:0]}, ValueError, "x has no rows"),
        ({"x": _X[..., :2]}, ValueError, r"x has shape \(22, 6, 2\), expected"),
        ({"x": [[[0.0] * 3], [[0.0] * 3] * 2]}, ValueError, "x is not an array of numbers"),
        ({"y": _Y[1:]}, ValueError, r"y has shape \(21, 1\), expected \(22, ...\)"),
        ({"y": _Y[:, 0]}, ValueError, "target has shape"),
        ({"sample_weight": [1.0]}, ValueError, "sample_weight has shape"),
        ({"lengths": [1]}, ValueError, "lengths has shape"),
        ({"validation_split": 1.0}, ValueError, "validation_split is 1.0"),
        ({"validation_split": 1e-17}, ValueError, "of 22 rows, which leaves none for validation"),
        ({"validation_split": 0.99}, ValueError, "of 22 rows, which leaves none to train on"),
        ({"validation_split": 0.5, "validation_data": (_X, _Y)}, ValueError, "both given"),
        ({"validation_data": _X}, ValueError, "validation_data is a ndarray, expected a tuple"),
        ({"validation_data": (_X, _Y[1:])}, ValueError, "validation_data: y has shape"),
        ({"validation_data": (_X,)}, ValueError, r"validation_data is a tuple of 1, expected a tuple \(x, y\)"),
        ({"validation_data": (_X, _YS)}, ValueError, "validation_data: target has shape"),
        ({"validation_data": (_X, _Y, _LATE)}, ValueError, "validation_data: sample_weight has values from -1"),
        ({"loss": functools.partial(losses.huber, delta=2), "y": _Y[:, 0], "batch_size": 4}, ValueError, "target has"),
        ({"metrics": ["accuracy"], "loss": _half, "y": _YS}, ValueError, "target has shape"),
        ({"sample_weight": _LATE, "batch_size": 4, "shuffle": False}, ValueError, "sample_weight has values from -1"),
        ({"sample_weight": _LATE * np.nan, "loss": _half}, ValueError, "sample_weight has values from nan"),
        (
            {
                "model": classifier(), "y": 1 - _LATE.astype(int), "loss": "sparse_categorical_crossentropy",
                "batch_size": 4, "shuffle": False,
            },
            ValueError,
            "target has values from 0 to 2, expected 0 to classes - 1 = 1",
        ),
        (
            {
                "model": classifier(), "loss": "binary_crossentropy", "y": _X[:, 0, :2] > 0,
                "validation_data": (_X, _X[:, 0, :2]),
            },
            ValueError,
            "validation_data: target has values from .*, expected 0 to 1",
        ),
        ({"loss": lambda *_, **__: 1.0}, TypeError, r"loss <lambda> returned a float, expected a pair \(value, grad"),
        ({"loss": lambda *_, **__: (1.0, None)}, TypeError, "loss <lambda> returned a NoneType for the gradient"),
        (
            {"loss": lambda *_, **__: (1.0, np.ones((N, 1)))},
            TypeError,
            r"returned \(22, 1\) of float64 for the gradient, expected an array \(22, 1\) of float32",
        ),
        ({"loss": lambda y_pred, *_, **__: (None, y_pred)}, TypeError, "loss <lambda> returned None, expected a num"),
        ({"metrics": [_half]}, TypeError, "metric _half returned '0,5', expected a number"),
        ({"resume": 3}, TypeError, "resume is 3, expected a string or a path"),
        ({"model": cylstm.Dense(3, 1, rng=0)}, TypeError, "model is a Dense, expected a Sequential or"),
        ({"callbacks": [EarlyStopping("val_mae")]}, ValueError, "monitor is 'val_mae', expected one of 'loss', 'lr'"),
        (
            {"optimizer": cylstm.SGD(lr=schedules.ReduceOnPlateau(0.1, monitor="acc")), "metrics": ["mae"]},
            ValueError,
            "monitor is 'acc', expected one of 'loss', 'mae', 'lr'",
        ),
        ({"shuffle": [np.arange(N)], "epochs": 2}, ValueError, "shuffle has 1 permutations, expected one for each"),
        ({"model": _repeating(), "y": _YS, "tbptt": 3}, ValueError, r"makes \(22, 6, 1\) of \(22, 3, 3\), .* Repeat"),
        ({"y": _Y * np.nan}, FloatingPointError, "look for such values in x or y"),
        ({"clip_norm": -1}, ValueError, "clip_norm is -1"),
        ({"clip_value": "1"}, TypeError, "clip_value is '1'"),
        ({"progress": 1}, TypeError, "progress is 1"),
        ({"shuffle": None}, TypeError, "shuffle is None, expected True, False or a permutation"),
        ({"callbacks": EarlyStopping()}, TypeError, "callbacks is a EarlyStopping, expected a list"),
        ({"callbacks": [3]}, TypeError, r"callbacks\[0\] is a int, expected a function or an object with on_fit_begin"),
        ({"callbacks": [EarlyStopping]}, TypeError, r"callbacks\[0\] is the class EarlyStopping"),
        ({"tbptt": 0}, ValueError, "tbptt is 0"),
        ({"tbptt": 2}, ValueError, r"tbptt is given, but the model makes \(22, 1\)"),
        ({"stateful": True}, ValueError, "give shuffle=False"),
        ({"stateful": True, "shuffle": False, "batch_size": 4}, ValueError, "batch_size=4 does not divide the 22 rows"),
        ({"model": many_to_many(), "tbptt": 2}, ValueError, r"y has shape \(22, 1\), expected \(22, 6, ...\)"),
        ({"model": many_to_many(reverse=True), "y": _YS, "tbptt": 2}, ValueError, "goes backwards in time"),
        (
            {"model": many_to_many(reverse=True), "y": _YS, "stateful": True, "shuffle": False},
            ValueError,
            "stateful is given, but .* goes backwards",
        ),
    ],
)
def test_a_wrong_argument_is_named(options, error, message):
    options = {"model": many_to_one(), "x": _X, "y": _Y} | options
    model = options.pop("model")
    before = dict(model.parameters)
    with pytest.raises(error, match=message):
        fitting.fit(model, options.pop("x"), options.pop("y"), **{"loss": "mse", "progress": False, "rng": 7} | options)
    assert all(model.parameters[name] is value for name, value in before.items())


def test_targets_are_not_looked_at_before_training_where_they_do_not_count():
    x, _ = data()
    labels = np.where(np.arange(T) < 3, 1, -1) * np.ones((N, 1), int)
    found = []
    for masking, lengths in (([], [3] * N), ([cylstm.Masking(0.0)], None)):
        layers = [cylstm.GRU(F, 5, rng=1), cylstm.Dense(5, 2, rng=2)]
        model = cylstm.Sequential([*masking, *layers])
        x_masked = x * (np.arange(T) < 3)[:, None]
        found.append(quiet(model, x_masked, labels, loss=cross_entropy, lengths=lengths, validation_split=0.5))
    assert found[0] == found[1]


def test_targets_of_an_encoder_decoder_are_looked_at_where_they_count():
    model = cylstm.EncoderDecoder([cylstm.GRU(F, 4, rng=0)], [cylstm.GRU(1, 4, rng=1), cylstm.Dense(4, 2, rng=2)])
    x, y_in, labels = data()[0], np.ones((N, 4, 1)), np.where(np.arange(4) < 3, 1, -1) * np.ones((N, 1), int)
    history = quiet(model, (x, y_in), labels, loss=cross_entropy, lengths=(None, [3] * N))
    assert len(history["loss"]) == 1
    with pytest.raises(ValueError, match="target has values from -1 to 1"):
        quiet(model, (x, y_in), labels, loss=cross_entropy, lengths=(None, [3] * (N - 1) + [4]))


def test_callbacks_and_schedules_name_a_wrong_monitor_or_path():
    for kind in (EarlyStopping, functools.partial(schedules.ReduceOnPlateau, 0.1)):
        with pytest.raises(TypeError, match="monitor is 3, expected a string"):
            kind(monitor=3)
    with pytest.raises(TypeError, match="path is 3, expected a string or a path"):
        Checkpoint(3)


def test_metrics_may_be_none():
    assert list(quiet(many_to_one(), *data(), metrics=None)) == ["loss", "lr"]


def test_fit_of_no_epoch_trains_nothing():
    model = many_to_one()
    before = dict(model.parameters)
    assert quiet(model, *data(), epochs=0) == {}
    assert all(model.parameters[name] is value for name, value in before.items())


def test_fit_spends_its_time_inside_the_layers(monkeypatch):
    """LSTM(8, 96) and Dense on the digits, batches of 32: inside the passes of the model, which is a layer itself."""
    images, labels = cylstm.data.load_digits("test")
    inside = 0.0

    def timed(function):
        def call(*arguments):
            nonlocal inside
            start = time.perf_counter()
            result = function(*arguments)
            inside += time.perf_counter() - start
            return result

        return call

    monkeypatch.setattr(cylstm.Sequential, "_pass", timed(cylstm.Sequential._pass))
    monkeypatch.setattr(cylstm.Sequential, "_pass_backward", timed(cylstm.Sequential._pass_backward))
    model = cylstm.Sequential([cylstm.LSTM(8, 96, rng=0), cylstm.Last(), cylstm.Dense(96, 10, rng=1)])
    shares = []
    for _ in range(6):
        inside, start = 0.0, time.perf_counter()
        quiet(model, images, labels, loss=cross_entropy, epochs=3)
        shares.append(inside / (time.perf_counter() - start))
    assert max(shares) > 0.85


def test_the_public_names_are_there():
    assert cylstm.EarlyStopping is fitting.EarlyStopping and cylstm.Checkpoint is fitting.Checkpoint
