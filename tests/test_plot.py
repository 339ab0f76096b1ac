"""Pictures of training and the numbers in them: gates against forward, norms of gradients against backward.

That the reference's gates are joined by the equations is held in test_reference_options.py.
"""

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import cylstm
from cylstm import plot
from cylstm.testing import TOLERANCES, assert_close, numerical_gradient

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FLOAT64 = TOLERANCES[np.dtype("float64")]
STEPS, INPUT_SIZE, HIDDEN_SIZE = 6, 3, 5

ODD = (("hard_sigmoid", 0.3, 0.4), "softsign", ("scaled_tanh", 1.5, 0.7))
TWO = {"num_layers": 2, "bidirectional": True}
LAYERS = {
    "lstm": (cylstm.LSTM, {}),
    "lstm, stack": (cylstm.LSTM, {"num_layers": 2, "proj_size": 3}),
    "lstm, reverse, one bias": (cylstm.LSTM, {"reverse": True, "bias": "single"}),
    "lstm, peepholes, f=1-i": (cylstm.LSTM, {"peepholes": True, "coupled": "f=1-i", "clip": {"gates": 0.5}}),
    "lstm, projected, i=1-f": (
        cylstm.LSTM, {"proj_size": 2, "coupled": "i=1-f", "clip": {"projection": 0.3, "cell": 0.4}}
    ),
    "lstm, joint, zoneout": (cylstm.LSTM, {"layer_norm": "joint", "zoneout_h": 0.3, "zoneout_c": 0.2}),
    "lstm, per gate, activations": (cylstm.LSTM, {"layer_norm": "per_gate", "activations": ODD}),
    "lstm, all of a stack": (cylstm.LSTM, {**TWO, "merge": "mul", "proj_size": 2, "dropout": 0.5}),
    "gru": (cylstm.GRU, {}),
    "gru, before": (cylstm.GRU, {"reset_after": False, "activations": ODD[:2], "clip": {"gates": 0.6}}),
    "gru, batch first": (cylstm.GRU, {"num_layers": 2, "batch_first": True}),
    "gru, all of a stack": (cylstm.GRU, {**TWO, "zoneout_h": 0.3, "batch_first": True}),
    "rnn": (cylstm.RNN, {"nonlinearity": "relu", "bias": False, "recurrent_dropout": 0.5}),
    "jordan": (cylstm.JordanRNN, {"activation": "sigmoid", "clip": {"gates": 0.4}}),
}
layers = pytest.mark.parametrize("name", LAYERS)


@pytest.fixture(autouse=True)
def no_figure_stays():
    yield
    plt.close("all")


def make_layer(name, dtype="float64"):
    kind, options = LAYERS[name]
    sizes = (INPUT_SIZE, HIDDEN_SIZE, 2) if kind is cylstm.JordanRNN else (INPUT_SIZE, HIDDEN_SIZE)
    layer = kind(*sizes, dtype=dtype, rng=0, **options)
    rng = np.random.default_rng(1)
    with layer.writable() as parameters:
        for key, value in parameters.items():
            parameters[key] = rng.uniform(-0.9, 0.9, value.shape).astype(dtype)
    return layer


def draw(shape, seed, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def draw_state(layer, *batch, scale=0.5, seed=3):
    shapes = [(layer.num_layers * layer._directions, *batch, width) for _, width in layer._widths]
    arrays = [scale * draw(shape, seed + k, layer.dtype) for k, shape in enumerate(shapes)]
    return as_state(arrays)


def as_state(arrays):
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


def as_list(state):
    return list(state) if isinstance(state, tuple) else [state]


# Gates ------------------------------------------------------------------------------------------


@layers
def test_the_last_layers_h_is_the_y_of_forward(name):
    layer = make_layer(name)
    x, state = draw((STEPS, INPUT_SIZE), 2), draw_state(layer)
    top = layer.num_layers - 1
    h = [plot.gate_values(layer, x, state, layer=top, direction=d)["h"] for d in range(layer._directions)]
    expected = h[0] * h[1] if layer.merge == "mul" else np.concatenate(h, axis=1)
    assert_close(expected, layer.forward(x, state)[0], FLOAT64.forward)


@layers
def test_every_layer_and_direction_ends_in_the_final_state_of_forward(name):
    layer = make_layer(name)
    x, state = draw((STEPS, INPUT_SIZE), 2), draw_state(layer)
    state_n = as_list(layer.forward(x, state)[1])
    for k in range(layer.num_layers):
        for d in range(layer._directions):
            values = plot.gate_values(layer, x, state, layer=k, direction=d)
            last = 0 if layer.reverse or d == 1 else -1
            for letter, array in zip("hc", state_n, strict=False):
                assert_close(values[letter][last], array[k * layer._directions + d], FLOAT64.forward, letter)


def test_gates_of_a_float32_layer_are_of_its_dtype_and_within_its_tolerance():
    layer = make_layer("lstm", "float32")
    x = draw((STEPS, INPUT_SIZE), 2, "float32")
    values = plot.gate_values(layer, x)
    assert {str(value.dtype) for value in values.values()} == {"float32"}
    assert_close(values["h"], layer.forward(x)[0], TOLERANCES[np.dtype("float32")].forward)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"recurrent": cylstm.Dense(3, 2)}, TypeError, "recurrent is a Dense, expected a recurrent layer"),
        ({"x": np.zeros((4, 1, 3))}, ValueError, r"x has shape \(4, 1, 3\), expected .*: one sequence"),
        ({"x": np.zeros((0, 3))}, ValueError, r"x has shape \(0, 3\), expected at least one step"),
        ({"x": np.zeros((4, 2))}, ValueError, r"x has shape \(4, 2\), expected"),
        ({"state": np.zeros((1, 5))}, TypeError, "state is a ndarray, expected a tuple"),
        ({"layer": 2}, ValueError, "layer is 2, expected 0 to num_layers - 1 = 0"),
        ({"direction": 1}, ValueError, "direction is 1, expected 0 to num_directions - 1 = 0"),
        ({"layer": -1}, ValueError, "layer is -1, expected an integer of at least 0"),
    ],
)
def test_wrong_arguments_of_gates_are_named(change, error, message):
    arguments = {"recurrent": make_layer("lstm"), "x": np.zeros((4, 3)), **change}
    with pytest.raises(error, match=message):
        plot.gates(**arguments)


def test_a_picture_of_gates_shows_the_values_units_by_time_in_the_colours_of_their_ranges():
    layer = make_layer("lstm")
    x, state = draw((STEPS, INPUT_SIZE), 2), draw_state(layer)
    figure = plot.gates(layer, x, state)
    values = plot.gate_values(layer, x, state)
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left")[-1] for axes in panels] == list("ifgoch")
    largest = np.abs(values["c"]).max()
    limits = {"i": (0, 1), "f": (0, 1), "g": (-1, 1), "o": (0, 1), "c": (-largest, largest), "h": (-1, 1)}
    for axes, (letter, value) in zip(panels, values.items(), strict=True):
        (image,) = axes.images
        np.testing.assert_array_equal(image.get_array(), value.T)
        assert image.get_clim() == pytest.approx(limits[letter], rel=1e-15)
        assert axes.get_ylabel() == "unit"
        assert axes.get_xlim() == (-0.5, STEPS - 0.5)
    assert panels[-1].get_xlabel() == "time step t"


MIXED = ("tanh", "sigmoid", "hard_sigmoid")


@pytest.mark.parametrize(
    ("layer", "limits"),
    [
        (cylstm.GRU(1, 1, rng=0), {"r": (0, 1), "z": (0, 1), "n": (-1, 1), "h": (-1, 1)}),
        (cylstm.LSTM(1, 1, activations=MIXED, rng=0), {"i": (-1, 1), "g": (0, 1), "h": (0, 1)}),
        (cylstm.RNN(1, 1, nonlinearity=("hard_sigmoid", 0.1), rng=0), {"h": (0, 1)}),
        (cylstm.JordanRNN(1, 1, 1, activation="softsign", rng=0), {"a": (-1, 1), "h": (-1, 1)}),
    ],
)
def test_colours_have_the_range_of_the_activation(layer, limits):
    for letter, expected in limits.items():
        assert plot._limits(layer, letter, np.array([[0.0, 1.0]])) == expected


def test_colours_reach_as_far_as_what_is_beyond_the_range_or_has_none_and_never_vanish():
    rnn, lstm = cylstm.RNN(1, 1, rng=0), cylstm.LSTM(1, 1, rng=0)
    assert plot._limits(rnn, "h", np.array([[0.5, -4.0]])) == (-4, 4)
    assert plot._limits(lstm, "c", np.array([[0.5, np.nan, -0.25, np.inf]])) == (-0.5, 0.5)
    assert plot._limits(lstm, "c", np.array([[0.0]])) == (-1, 1)


def test_gates_of_a_layer_that_has_diverged_are_drawn():
    rnn = cylstm.RNN(1, 1, nonlinearity="linear", rng=0)
    with rnn.writable() as parameters:
        parameters["weight_ih_l0"][...], parameters["weight_hh_l0"][...] = np.inf, -1
    figure = plot.gates(rnn, np.ones((2, 1), np.float32))
    assert figure.axes[0].images[0].get_clim() == (-1, 1)


# The flow of the gradient -----------------------------------------------------------------------

ONE_DIRECTION = [name for name, (_, options) in LAYERS.items() if "bidirectional" not in options]
one_direction = pytest.mark.parametrize("name", ONE_DIRECTION)


def norms_of(arrays):
    """(L,) each, of (L, ...)."""
    return [np.sqrt((array**2).reshape(len(array), -1).sum(axis=1)) for array in arrays]


@one_direction
def test_the_first_norm_is_that_of_the_dstate_of_backward(name):
    layer = make_layer(name)
    x, state = draw((4, STEPS, INPUT_SIZE) if layer.batch_first else (STEPS, 4, INPUT_SIZE), 2), draw_state(layer, 4)
    tape = cylstm.Tape(training=False)
    y, _ = layer.forward(x, state, tape=tape)
    dy = draw(y.shape, 5)
    expected = norms_of(as_list(layer.backward(tape, dy).dstate))
    found = plot.gradient_norms(layer, x, dy, state)
    assert list(found) == ["h", "c"][: len(expected)]
    for norm, wanted in zip(found.values(), expected, strict=True):
        assert norm.shape == (layer.num_layers, STEPS + 1)
        assert_close(norm[:, 0], wanted, FLOAT64.backward)


@one_direction
def test_every_norm_is_that_of_central_differences(name):
    layer = make_layer(name)
    x, dy = draw((3, INPUT_SIZE), 2), draw((3, layer._output_size), 5)
    state_0 = draw_state(layer)
    found = plot.gradient_norms(layer, x, dy, state_0)
    for taken in range(4):
        done, left = slice(0, taken), slice(taken, 3)
        own = dy[taken - 1] if taken else np.zeros(dy.shape[1])
        if layer.reverse:
            done, left = slice(3 - taken, 3), slice(0, 3 - taken)
            own = dy[3 - taken] if taken else own
        state = as_list(layer.forward(x[done], state_0)[1])
        for n, letter in enumerate(found):

            def loss(value, n=n, state=state, left=left, own=own):
                arrays = [*state[:n], value, *state[n + 1 :]]
                return arrays[0][-1] @ own + (layer.forward(x[left], as_state(arrays))[0] * dy[left]).sum()

            (expected,) = norms_of([numerical_gradient(loss, state[n])])
            assert_close(found[letter][:, taken], expected, FLOAT64.central, f"{letter} after {taken} steps")


def test_without_dy_the_loss_is_the_sum_of_what_the_layer_outputs_last():
    for name, last in (("lstm", -1), ("lstm, reverse, one bias", 0)):
        layer = make_layer(name)
        x = draw((STEPS, INPUT_SIZE), 2)
        dy = np.zeros((STEPS, HIDDEN_SIZE))
        dy[last] = 1
        found, expected = plot.gradient_norms(layer, x), plot.gradient_norms(layer, x, dy)
        np.testing.assert_array_equal(found["h"], expected["h"])
        assert found["h"][0, -1] == pytest.approx(np.sqrt(HIDDEN_SIZE), rel=1e-15)


def test_an_rnn_of_one_unit_hands_down_its_weight_at_each_step():
    """y_t = w y_{t-1} + x_t and L = 2 y_1 + 3 y_3: 3, 3 w, 2 + 3 w^2, w times that."""
    rnn = cylstm.RNN(1, 1, nonlinearity="linear", bias=False, dtype="float64", rng=0)
    with rnn.writable() as parameters:
        parameters["weight_hh_l0"][:] = 0.5
    norms = plot.gradient_norms(rnn, np.ones((3, 1)), np.array([[2.0], [0.0], [3.0]]))
    assert norms["h"].tolist() == [[1.375, 2.75, 1.5, 3.0]]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"recurrent": cylstm.Dense(3, 2)}, TypeError, "recurrent is a Dense"),
        ({"recurrent": make_layer("gru, all of a stack")}, ValueError, "recurrent is bidirectional, expected one"),
        ({"x": np.zeros((0, 3))}, ValueError, r"x has shape \(0, 3\), expected at least one step"),
        ({"dy": np.zeros((4, 4))}, ValueError, r"dy has shape \(4, 4\), expected \(4, 5\)"),
        ({"state": np.zeros((1, 5))}, TypeError, "state is a ndarray, expected a tuple"),
    ],
)
def test_wrong_arguments_of_gradient_norms_are_named(change, error, message):
    arguments = {"recurrent": make_layer("lstm"), "x": np.zeros((4, 3)), **change}
    with pytest.raises(error, match=message):
        plot.gradient_flow(**arguments)


def test_a_picture_of_the_gradient_shows_the_norms_on_a_log_scale():
    layer = make_layer("lstm, stack")
    x = draw((STEPS, INPUT_SIZE), 2)
    figure = plot.gradient_flow(layer, x)
    (axes,) = figure.axes
    expected = plot.gradient_norms(layer, x)
    for line, norm in zip(axes.lines, [*expected["h"], *expected["c"]], strict=True):
        np.testing.assert_array_equal(line.get_ydata(), norm)
    assert [text.get_text()[-7:] for text in axes.get_legend().get_texts()] == ["layer 0", "layer 1"] * 2
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("steps taken, 0 at the initial state", "norm of the gradient")


def test_a_gradient_of_zero_is_drawn_on_axes_that_were_given():
    _, axes = plt.subplots()
    figure = plot.gradient_flow(make_layer("rnn"), np.ones((2, 3)), np.zeros((2, 5)), ax=axes)
    assert figure is axes.figure
    assert axes.get_yscale() == "linear"
    assert axes.lines[0].get_ydata().tolist() == [0, 0, 0]


# History ----------------------------------------------------------------------------------------

HISTORY = {
    "accuracy": [0.5, 0.7], "loss": [3.0, 2.0], "val_accuracy": [0.4, 0.6], "val_loss": [3.5, np.nan], "lr": [1, 2],
}  # fmt: skip


def test_a_history_has_a_panel_of_losses_and_one_for_each_other_metric():
    figure = plot.history(HISTORY)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy", "lr"]
    shown = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    for name, values in HISTORY.items():
        np.testing.assert_array_equal(shown[name].get_ydata(), values)
        assert shown[name].get_xdata().tolist() == [1, 2]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 1]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "epoch"]


def test_every_kind_of_picture_can_be_painted():
    """Fonts, formulas and layout are looked at when a picture is painted, and not before."""
    rnn, x = make_layer("rnn"), draw((STEPS, INPUT_SIZE), 2)
    for figure in (plot.gates(rnn, x), plot.gradient_flow(rnn, x), plot.history({"loss": [1.0]})):
        figure.canvas.draw()


def test_a_history_is_drawn_on_axes_that_were_given():
    figure, axes = plt.subplots(1, 3)
    assert plot.history(HISTORY, axes) is figure
    assert [one.get_ylabel() for one in axes] == ["loss", "accuracy", "lr"]
    _, alone = plt.subplots()
    assert plot.history({"loss": [1.0]}, alone) is alone.figure


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        ([1.0], TypeError, "history is a list, expected a dict of lists"),
        ({}, ValueError, "history is empty"),
        ({3: [1.0]}, TypeError, "history has the name 3, expected strings"),
        ({"loss": 1.0}, ValueError, r"history\['loss'\] has shape \(\), expected one number for each epoch"),
        ({"loss": ["low"]}, ValueError, r"history\['loss'\] is \['low'\], expected a list of numbers"),
    ],
)
def test_wrong_histories_are_named(history, error, message):
    with pytest.raises(error, match=message):
        plot.history(history)


def test_too_few_axes_are_refused():
    with pytest.raises(ValueError, match="ax has 1 axes, expected 3: loss, accuracy, lr"):
        plot.history(HISTORY, plt.subplots()[1])


@pytest.mark.parametrize("ax", [3, "ax", [None]])
def test_what_are_no_axes_is_refused(ax):
    with pytest.raises(TypeError, match=r"^ax is .*, expected matplotlib Axes"):
        plot.history({"loss": [1.0]}, ax)


# matplotlib -------------------------------------------------------------------------------------


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delattr(matplotlib, "pyplot")
    with pytest.raises(ImportError, match=r"pip install 'cylstm\[plot\]'"):
        plot.history(HISTORY)


def test_the_numbers_need_no_matplotlib():
    code = (
        "import sys, numpy as np; sys.modules['matplotlib'] = None\n"
        "import cylstm; lstm = cylstm.LSTM(3, 4, rng=0); x = np.ones((2, 3), np.float32)\n"
        "print(sorted(cylstm.plot.gate_values(lstm, x)), sorted(cylstm.plot.gradient_norms(lstm, x)))"
    )
    root = Path(cylstm.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert result.stdout == "['c', 'f', 'g', 'h', 'i', 'o'] ['c', 'h']\n", result.stderr
