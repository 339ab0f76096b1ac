"""The options of every cell, alone and in pairs: layers against the NumPy reference, gradients too, and the promises.

The reference's own gradients are held by central differences in test_reference_options.py; each option alone is again
here.
"""

import copy
import itertools
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import cylstm
from cylstm import reference
from cylstm._core import dispatch, noise, stack
from cylstm.testing import TOLERANCES, assert_close, gradcheck

LSTM_OPTIONS = {
    "projection": {"proj_size": 2},
    "projection-clip": {"proj_size": 2, "clip": {"projection": 0.3}},
    "peepholes": {"peepholes": True},
    "f=1-i": {"coupled": "f=1-i"},
    "i=1-f": {"coupled": "i=1-f"},
    "clip-gates": {"clip": {"gates": 0.5}},
    "clip-cell": {"clip": {"cell": 0.25}},
    "joint": {"layer_norm": "joint"},
    "per_gate": {"layer_norm": "per_gate"},
    "activations": {"activations": (("hard_sigmoid", 0.3, 0.4), "softsign", ("scaled_tanh", 1.5, 0.7))},
    "zoneout": {"zoneout_h": 0.3, "zoneout_c": 0.2},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "input_dropout": {"input_dropout": 0.3},
    "weight_dropout": {"weight_dropout": 0.4},
    "reverse": {"reverse": True},
    "bidirectional": {"bidirectional": True},
    "sum": {"bidirectional": True, "merge": "sum"},
    "mul": {"bidirectional": True, "merge": "mul"},
    "average": {"bidirectional": True, "merge": "average"},
    "layers": {"num_layers": 2, "dropout": 0.4},
    "repeat": {"padding": "repeat"},
    "number": {"padding": -1.5},
    "empty": {"empty": "zero"},
    "forget_bias": {"forget_bias": 0.5},
    "single": {"bias": "single"},
    "no bias": {"bias": False},
}
SHARED = ["reverse", "sum", "layers", "repeat", "recurrent_dropout", "input_dropout", "weight_dropout"]
GRU_OPTIONS = {
    "before": {"reset_after": False},
    "clip-gates": {"clip": {"gates": 0.5}},
    "activations": {"activations": (("hard_sigmoid", 0.3, 0.4), ("elu", 0.7))},
    "zoneout": {"zoneout_h": 0.3},
    **{name: LSTM_OPTIONS[name] for name in SHARED},
}
RNN_OPTIONS = {
    "relu": {"nonlinearity": "relu"},
    "swish": {"nonlinearity": "swish"},
    "clip-gates": {"clip": {"gates": 0.5}},
    "zoneout": {"zoneout_h": 0.3},
    **{name: LSTM_OPTIONS[name] for name in SHARED},
}
JORDAN_OPTIONS = {"sigmoid": {"activation": "sigmoid"}, **RNN_OPTIONS}
CELLS = {
    "lstm": (cylstm.LSTM, LSTM_OPTIONS),
    "gru": (cylstm.GRU, GRU_OPTIONS),
    "rnn": (cylstm.RNN, RNN_OPTIONS),
    "jordan": (cylstm.JordanRNN, JORDAN_OPTIONS),
}
# What the reference takes by the same name; the rest it reads off the parameters, or is told as noise.
OF_REFERENCE = {
    "activation", "activations", "clip", "coupled", "empty", "layer_norm", "merge", "nonlinearity", "padding",
    "reset_after", "reverse",
}  # fmt: skip


def merged(one, other):
    """Two dicts of options in one, or None where they contradict each other."""
    for name in one.keys() & other.keys():
        if name != "clip" and one[name] != other[name]:
            return None
    both = one | other
    if "clip" in one and "clip" in other:
        both["clip"] = one["clip"] | other["clip"]
    if both.get("bidirectional") and both.get("reverse"):
        return None
    if "forget_bias" in both and (both.get("coupled") == "f=1-i" or both.get("bias") is False):
        return None
    return both


def problems():
    """(cell, options) of each option alone and of each pair that there can be."""
    for cell, (_, options) in CELLS.items():
        yield pytest.param(cell, {}, id=cell)
        for name, one in options.items():
            yield pytest.param(cell, one, id=f"{cell}-{name}")
        for (name, one), (other_name, other) in itertools.combinations(options.items(), 2):
            both = merged(one, other)
            if both is not None:
                yield pytest.param(cell, both, id=f"{cell}-{name}-{other_name}")


PROBLEMS = list(problems())
ALONE = [problem for problem in PROBLEMS if problem.values[1] in ({}, *CELLS[problem.values[0]][1].values())]
each_problem = pytest.mark.parametrize(("cell", "options"), PROBLEMS)
each_option = pytest.mark.parametrize(("cell", "options"), ALONE)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def make_layer(cell, options, dtype="float64", input_size=3, hidden_size=5):
    sizes = (input_size, hidden_size, 2) if cell == "jordan" else (input_size, hidden_size)
    layer = CELLS[cell][0](*sizes, dtype=dtype, **options)
    rng = np.random.default_rng(1)
    with layer.writable() as parameters:
        for name, value in parameters.items():
            parameters[name] = rng.uniform(-0.8, 0.8, value.shape).astype(dtype)
    return layer


def draw(shape, dtype, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def as_list(value):
    return list(value) if isinstance(value, tuple) else [value]


def valid_steps(steps, batch):
    """A mask with holes, a row that is never valid, and one that always is."""
    mask = np.random.default_rng(6).random((batch, steps)) < 0.6
    mask[0], mask[-1] = True, False
    return mask


def noise_of(tape, layer):
    """What the reference must be told of the masks that a forward has drawn."""
    record, found = tape._record, {}
    for name, read in {
        "input": lambda k: record.masks[k].get("x", [None])[0],
        "recurrent": lambda k: record.views[k].arrays.drop_h,
        "weight_hh": lambda k: record.factors[k],
        "zoneout_h": lambda k: record.views[k].arrays.keep_h,
        "zoneout_c": lambda k: record.views[k].arrays.keep_c,
    }.items():
        values = [read(k) for k in range(len(record.views))]
        if values[0] is not None:
            found[name] = [value.astype(np.float64) for value in values]
    if not tape.training:
        found = {name: getattr(layer, name) for name in ("zoneout_h", "zoneout_c") if getattr(layer, name, 0)}
    return found


def between_layers(tape, layer, shape, dtype):
    """The masks of dropout between layers."""
    if not layer.dropout or not tape.training:
        return None
    masks = [np.ones(shape, dtype) for _ in range(layer.num_layers - 1)]
    for k, mask in enumerate(masks):
        noise.drop(mask, tape.seed, tape.calls, k, layer.dropout)
    return [mask.astype(np.float64) for mask in masks]


def run_both(cell, options, dtype, steps, training, batch=4, hidden_size=5):
    """[(name, ours, the reference's, tolerance)] of everything that forward and backward return."""
    layer = make_layer(cell, options, dtype, hidden_size=hidden_size)
    states = [
        draw((layer.num_layers * layer._directions, batch, width), dtype, 4 + k)
        for k, (_, width) in enumerate(layer._widths)
    ]
    x = draw((steps, batch, 3), dtype, 2)
    dy = draw((steps, batch, layer._output_size), dtype, 3)
    dstates = [draw(part.shape, dtype, 8 + k) for k, part in enumerate(states)]
    mask = valid_steps(steps, batch)
    poisoned = x.copy()
    poisoned[~mask.T] = np.nan
    tape = cylstm.Tape(seed=7, training=training)
    give = (lambda parts: tuple(parts)) if len(states) > 1 else (lambda parts: parts[0])
    y, state_n = layer.forward(poisoned, give(states), mask=mask, tape=tape)
    told_noise = noise_of(tape, layer)
    dropped = between_layers(tape, layer, (steps, batch, layer._output_size), dtype)
    ours = layer.backward(tape, dy, give(dstates))
    told = {name: value for name, value in options.items() if name in OF_REFERENCE}
    y_ref, state_ref, cache = getattr(reference, f"{cell}_forward")(
        {name: value.astype(np.float64) for name, value in layer.parameters.items()},
        x.astype(np.float64), give([part.astype(np.float64) for part in states]), None, dropped,
        mask=mask, noise=told_noise, **told,
    )  # fmt: skip
    theirs = getattr(reference, f"{cell}_backward")(
        cache, dy.astype(np.float64), give([part.astype(np.float64) for part in dstates])
    )
    tolerances = TOLERANCES[np.dtype(dtype)]
    found = [("y", y, y_ref, tolerances.forward)]
    found += [("state_n", a, b, tolerances.forward) for a, b in zip(as_list(state_n), as_list(state_ref), strict=True)]
    found += [("dx", ours.dx, theirs.dx, tolerances.backward)]
    found += [
        ("dstate", a, b, tolerances.backward)
        for a, b in zip(as_list(ours.dstate), as_list(theirs.dstate), strict=True)
    ]
    assert ours.parameters.keys() == theirs.parameters.keys() == layer.parameters.keys()
    found += [(name, ours.parameters[name], theirs.parameters[name], tolerances.backward) for name in ours.parameters]
    return found


@each_problem
@dtypes
def test_values_and_gradients_are_the_references(cell, options, dtype):
    for name, actual, desired, tolerance in run_both(cell, options, dtype, 5, training=True):
        assert_close(actual, desired.astype(dtype), tolerance, name)


@each_option
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("hidden_size", [2, 16, 19, 33])
def test_other_sizes_and_one_step_in_inference(cell, options, steps, hidden_size):
    for name, actual, desired, tolerance in run_both(
        cell, options, "float64", steps, training=False, hidden_size=hidden_size
    ):
        # sums over more units, and a normalisation divides by a deviation: a few times what is allowed small sizes
        assert_close(actual, desired, 4 * tolerance, name)


# ------------------------------------------------------------------------------------------------ the promises

causal = pytest.mark.parametrize(
    ("cell", "options"),
    [p for p in PROBLEMS if not (p.values[1].get("bidirectional") or p.values[1].get("reverse"))][::3],
)


@causal
@dtypes
def test_step_and_run_have_the_bits_of_forward(cell, options, dtype):
    layer = make_layer(cell, options, dtype, hidden_size=19)
    x = draw((9, 7, 3), dtype, 2)
    y, state = layer.forward(x)
    stream = layer.stream(7)
    parts = [stream.run(x[:4]), *(stream.step(x_t)[None] for x_t in x[4:])]
    assert np.array_equal(np.concatenate(parts), y)
    for a, b in zip(as_list(stream.state), as_list(state), strict=True):
        assert np.array_equal(a, b)


@each_option
def test_a_row_has_the_same_bits_in_any_batch_with_any_padding_and_a_tape(cell, options):
    layer = make_layer(cell, options, "float32", hidden_size=19)
    x, lengths = draw((9, 53, 3), "float32", 2), np.random.default_rng(3).integers(0, 10, 53)
    y, state = layer.forward(x, lengths=lengths)
    taped, taped_state = layer.forward(x, lengths=lengths, tape=cylstm.Tape(training=False))
    assert np.array_equal(y, taped)
    for a, b in zip(as_list(state), as_list(taped_state), strict=True):
        assert np.array_equal(a, b)
    for row in (0, 6, 52):
        alone, state_alone = layer.forward(x[:, row : row + 1], lengths=lengths[row : row + 1])
        assert np.array_equal(alone[:, 0], y[:, row])
        for a, b in zip(as_list(state_alone), as_list(state), strict=True):
            assert np.array_equal(a[:, 0], b[:, row])


@each_option
def test_a_mask_of_the_first_steps_is_lengths(cell, options):
    layer = make_layer(cell, options)
    x, lengths = draw((6, 5, 3), "float64", 2), np.array([6, 0, 3, 1, 5])
    mask = np.arange(6) < lengths[:, None]
    results = []
    for valid in ({"lengths": lengths}, {"mask": mask}, {"lengths": lengths, "mask": np.ones_like(mask)}):
        tape = cylstm.Tape(seed=1)
        y, state = layer.forward(x, tape=tape, **valid)
        grads = layer.backward(tape, np.ones_like(y))
        results.append([y, *as_list(state), grads.dx, *grads.parameters.values()])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert np.array_equal(a, b)


@each_option
def test_threads_change_nothing(cell, options, monkeypatch):
    layer = make_layer(cell, options, "float32", hidden_size=19)
    x = draw((5, 24, 3), "float32", 2)
    results = []
    monkeypatch.setattr(stack, "PARALLEL_OPERATIONS", 0)
    before = cylstm.get_num_threads()
    try:
        for threads in (1, 3):
            cylstm.set_num_threads(threads)
            tape = cylstm.Tape(seed=5)
            y, _ = layer.forward(x, tape=tape)
            grads = layer.backward(tape, y)
            results.append([y, grads.dx, *grads.parameters.values()])
    finally:
        cylstm.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)


@each_option
def test_a_layer_is_what_its_repr_and_its_pickle_say(cell, options):
    layer = make_layer(cell, options)
    x = draw((4, 2, 3), "float64", 2)
    again = eval(repr(layer), {kind.__name__: kind for kind, _ in CELLS.values()})
    assert repr(again) == repr(layer)
    again.load_state_dict(layer.state_dict())
    for other in (again, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert np.array_equal(other.forward(x)[0], layer.forward(x)[0])


@each_option
@pytest.mark.parametrize("steps", [1, 3])
def test_every_gradient_is_that_of_central_differences(cell, options, steps):
    layer = make_layer(cell, options, hidden_size=4)
    # a normalisation divides by a small deviation, so that f''' is large and the step must be smaller
    eps = 5e-7 if "layer_norm" in options else None
    gradcheck(
        layer, draw((steps, 2, 3), "float64", 2), lengths=[steps, steps - 1], tape=lambda: cylstm.Tape(seed=3), eps=eps
    )


OUTPUTS_OF_A_LEVEL = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import test_options as t
outputs = {}
for problem in t.ALONE:
    cell, options = problem.values
    for dtype in ("float32", "float64"):
        layer = t.make_layer(cell, options, dtype, hidden_size=19)
        y, state = layer.forward(t.draw((5, 7, 3), dtype, 2), lengths=[5, 0, 3, 1, 5, 4, 2])
        for n, part in enumerate((y, *t.as_list(state))):
            outputs[f"{problem.id}-{dtype}-{n}"] = part
np.savez(sys.argv[2], **outputs)
"""


def test_every_level_with_a_fused_multiply_add_gives_the_same(tmp_path):
    package = str(Path(cylstm.__file__).parents[1])
    found = {}
    for level in dispatch.supported_levels():
        path = tmp_path / f"{level}.npz"
        search = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        subprocess.run(
            [sys.executable, "-c", OUTPUTS_OF_A_LEVEL, str(Path(__file__).parent), path],
            env={**os.environ, "CYLSTM_ISA": level, "PYTHONPATH": search},
            check=True,
            timeout=1800,  # long enough for an emulated processor
        )
        with np.load(path) as file:
            found[level] = dict(file)
    baseline = found.pop("baseline")
    for level, outputs in found.items():
        for name, value in outputs.items():
            assert_close(baseline[name], value, TOLERANCES[value.dtype].forward, f"{name} of {level}")
            assert value.tobytes() == next(iter(found.values()))[name].tobytes(), (level, name)


# -------------------------------------------------------------------------------------------- what options mean


@pytest.mark.parametrize(
    "rates",
    [{"input_dropout": 0.3}, {"recurrent_dropout": 0.3}, {"weight_dropout": 0.3}, {"zoneout_h": 0.3, "zoneout_c": 0.3}],
    ids=lambda rates: next(iter(rates)),
)
def test_noise_depends_on_seed_and_call_and_is_still_without_training(rates):
    layer, x = make_layer("lstm", rates), draw((6, 5, 3), "float64", 2)
    first, again = cylstm.Tape(seed=1), cylstm.Tape(seed=1)
    y = layer.forward(x, tape=first)[0]
    assert np.array_equal(layer.forward(x, tape=again)[0], y)
    assert not np.array_equal(layer.forward(x, tape=first)[0], y)  # the next call
    assert not np.array_equal(layer.forward(x, tape=cylstm.Tape(seed=2))[0], y)
    assert np.array_equal(layer.forward(x, tape=cylstm.Tape(training=False))[0], layer.forward(x)[0])


def test_masks_have_the_share_they_should_and_differ_from_place_to_place():
    layer = cylstm.LSTM(
        40, 50, 2, bidirectional=True, rng=0, input_dropout=0.3, recurrent_dropout=0.4, weight_dropout=0.2,
        zoneout_h=0.25, zoneout_c=0.1,
    )  # fmt: skip
    tape = cylstm.Tape(seed=1)
    layer.forward(draw((30, 100, 40), "float32", 2), tape=tape)
    record = tape._record
    passes = [views.arrays for views in record.views]
    shares = {
        "x": (0.7, [masks["x"] > 0 for masks in record.masks]),
        "h": (0.6, [arrays.drop_h > 0 for arrays in passes]),
        "weight_hh": (0.8, [factors > 0 for factors in record.factors]),
        "keep_h": (0.25, [arrays.keep_h > 0 for arrays in passes]),
        "keep_c": (0.1, [arrays.keep_c > 0 for arrays in passes]),
    }
    for name, (share, masks) in shares.items():
        for mask in masks:
            # five standard deviations of a binomial's share
            assert abs(mask.mean() - share) < 5 * np.sqrt(share * (1 - share) / mask.size), name
        for one, other in itertools.combinations(masks, 2):
            assert one.shape != other.shape or not np.array_equal(one, other), name
    assert not np.array_equal(shares["keep_h"][1][0], shares["keep_c"][1][0])


def test_what_a_masked_step_holds_reaches_nothing_and_the_state_is_held():
    layer, x = make_layer("lstm", {}), draw((4, 2, 3), "float64", 2)
    mask = np.array([[True, False, True, True], [True, True, True, True]])
    y, (h_n, c_n) = layer.forward(x, mask=mask)
    short, (h_short, c_short) = layer.forward(x[[0, 2, 3], :1])
    assert np.array_equal(y[[0, 2, 3], 0], short[:, 0])
    assert (y[1, 0] == 0).all()
    assert np.array_equal(h_n[:, 0], h_short[:, 0]) and np.array_equal(c_n[:, 0], c_short[:, 0])


@pytest.mark.parametrize("cell", CELLS)
def test_a_state_that_no_step_has_seen_reaches_no_gradient(cell):
    layer, x = make_layer(cell, {}), np.ones((5, 2, 3))
    state = [np.zeros((1, 2, width)) for _, width in layer._widths]
    state[0][0, 1] = np.nan
    tape = cylstm.Tape()
    y, _ = layer.forward(x, tuple(state) if len(state) > 1 else state[0], lengths=[5, 0], tape=tape)
    grads = layer.backward(tape, np.ones_like(y))
    assert all(np.isfinite(value).all() for value in grads.parameters.values())


def test_a_forget_bias_is_not_set_where_there_are_other_gates():
    coupled = cylstm.LSTM(3, 4, coupled="i=1-f", rng=0)
    with pytest.raises(ValueError, match="use its forget_bias option"), coupled.writable() as p:
        cylstm.initializers.set_forget_bias(p, 7.0)


def test_presets_of_padding():
    for semantics, bidirectional, padding, empty in [
        ("torch", False, "zero", "initial"),
        ("keras", False, "repeat", "initial"),
        ("keras", True, "zero", "initial"),
        ("onnx", False, "zero", "zero"),
    ]:
        layer = cylstm.GRU(2, 3, bidirectional=bidirectional, semantics=semantics)
        assert (layer.padding, layer.empty) == (padding, empty)
    assert cylstm.GRU(2, 3, semantics="keras", padding=0.5).padding == 0.5


def test_directions_that_are_not_merged_come_as_a_pair():
    layer, x = make_layer("gru", {"bidirectional": True, "merge": None}), draw((4, 2, 3), "float64", 2)
    both = make_layer("gru", {"bidirectional": True})
    tape, other = cylstm.Tape(), cylstm.Tape()
    y, _ = layer.forward(x, tape=tape)
    concatenated, _ = both.forward(x, tape=other)
    assert np.array_equal(np.concatenate(y, axis=2), concatenated)
    dy = draw(concatenated.shape, "float64", 3)
    one, two = layer.backward(tape, (dy[:, :, :5], dy[:, :, 5:])), both.backward(other, dy)
    assert np.array_equal(one.dx, two.dx)
    layer.forward(x, tape=tape)
    with pytest.raises(ValueError, match="dy is not a pair"):
        layer.backward(tape, dy)


def test_the_forget_bias_is_where_the_forget_gate_is():
    layer = cylstm.LSTM(3, 4, forget_bias=1.5, rng=0)
    assert (layer.parameters["bias_ih_l0"][4:8] == 1.5).all() and (layer.parameters["bias_hh_l0"][4:8] == 0).all()
    coupled = cylstm.LSTM(3, 4, forget_bias=1.5, coupled="i=1-f", rng=0)
    assert (coupled.parameters["bias_ih_l0"][:4] == 1.5).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cylstm.LSTM(2, 3, coupled="f"), ValueError, "coupled is 'f', expected one of None, 'f=1-i', 'i=1-f'"),
        (lambda: cylstm.LSTM(2, 3, peepholes=1), TypeError, "peepholes is 1, expected True or False"),
        (lambda: cylstm.LSTM(2, 3, clip=3.0), TypeError, "clip is 3.0, expected a dict such as"),
        (lambda: cylstm.LSTM(2, 3, clip={"gate": 1}), ValueError, "clip has 'gate', expected some of 'gates'"),
        (lambda: cylstm.LSTM(2, 3, clip={"cell": 0}), ValueError, r"clip\['cell'\] is 0, expected a number in \["),
        (lambda: cylstm.LSTM(2, 3, clip={"projection": 1}), ValueError, "clip has 'projection', but proj_size is 0"),
        (lambda: cylstm.GRU(2, 3, clip={"cell": 1}), ValueError, "clip has 'cell', expected some of 'gates'"),
        (lambda: cylstm.LSTM(2, 3, layer_norm=True), ValueError, "layer_norm is True, expected one of None, 'joint'"),
        (lambda: cylstm.LSTM(2, 3, activations=("tanh",)), ValueError, "expected 3 of them"),
        (lambda: cylstm.RNN(2, 3, nonlinearity=("elu", 1, 2)), ValueError, "but elu has alpha alone"),
        (lambda: cylstm.RNN(2, 3, nonlinearity=("tanh", 1)), ValueError, "but tanh has no alpha or beta"),
        (lambda: cylstm.RNN(2, 3, nonlinearity=("elu", "x")), TypeError, "alpha of nonlinearity is 'x'"),
        (lambda: cylstm.LSTM(2, 3, forget_bias=1, bias=False), ValueError, "forget_bias is 1.0, but bias is False"),
        (lambda: cylstm.LSTM(2, 3, forget_bias=1, coupled="f=1-i"), ValueError, "f has no weights"),
        (lambda: cylstm.GRU(2, 3, reverse=True, bidirectional=True), ValueError, "reverse is True and so is bidir"),
        (lambda: cylstm.GRU(2, 3, merge="sum"), ValueError, "merge is 'sum', but there is one direction"),
        (lambda: cylstm.GRU(2, 3, 2, bidirectional=True, merge=None), ValueError, "merge is None with num_layers=2"),
        (lambda: cylstm.GRU(2, 3, padding="same"), ValueError, "padding is 'same', expected one of 'zero', 'repeat'"),
        (lambda: cylstm.GRU(2, 3, padding=True), TypeError, "padding is True, expected 'zero', 'repeat' or a number"),
        (lambda: cylstm.GRU(2, 3, padding=1e300), ValueError, r"padding is 1e\+300, expected a number in"),
        (lambda: cylstm.GRU(2, 3, padding=np.complex64(1)), TypeError, "expected 'zero', 'repeat' or a number"),
        (lambda: cylstm.LSTM(2, 3, forget_bias=1e39), ValueError, r"forget_bias is 1e\+39, expected a number in"),
        (lambda: cylstm.GRU(2, 3, empty="none"), ValueError, "empty is 'none', expected one of 'initial', 'zero'"),
        (lambda: cylstm.GRU(2, 3, semantics="tf"), ValueError, "semantics is 'tf', expected one of None, 'torch'"),
        (lambda: cylstm.GRU(2, 3, zoneout_h=1.0), ValueError, r"zoneout_h is 1.0, expected a number in \[0.0, 1.0\)"),
        (lambda: cylstm.GRU(2, 3, zoneout_c=0.1), ValueError, "zoneout_c is 0.1, but this cell has no c"),
        (lambda: cylstm.GRU(2, 3, weight_dropout="a"), TypeError, "weight_dropout is 'a', expected a number"),
        (lambda: cylstm.JordanRNN(2, 3, 0), ValueError, "output_size is 0"),
        (lambda: cylstm.LSTM(2, 3, reverse=True).stream(), ValueError, "reverse=True can not stream"),
        (lambda: cylstm.LSTM(2, 3, peephole=True), TypeError, "LSTM got peephole, expected options among activations"),
        (lambda: cylstm.RNN(2, 3, arrays={}), TypeError, "RNN got arrays, expected options among clip"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones((4, 2), bool), ValueError, r"mask has shape \(4, 2\), expected \(batch=2, seq_len=4\)"),
        (np.ones((2, 4)), TypeError, "mask is of dtype float64, expected bool"),
        ([[True] * 4] * 2, TypeError, "mask is a list, expected a bool ndarray"),
    ],
)
def test_wrong_masks_are_named(mask, error, message):
    with pytest.raises(error, match=message):
        make_layer("lstm", {}).forward(draw((4, 2, 3), "float64", 2), mask=mask)


def test_a_state_has_the_width_of_the_projection():
    layer, x = make_layer("lstm", {"proj_size": 2}), draw((4, 2, 3), "float64", 2)
    y, (h_n, c_n) = layer.forward(x)
    assert (y.shape, h_n.shape, c_n.shape) == ((4, 2, 2), (1, 2, 2), (1, 2, 5))
    with pytest.raises(ValueError, match=r"state h has shape \(1, 2, 5\), expected .*proj_size=2"):
        layer.forward(x, (c_n, c_n))


@causal
def test_a_step_allocates_nothing(cell, options):
    layer = make_layer(cell, options, "float32")
    stream, x = layer.stream(), draw((3,), "float32", 2)
    out = np.empty(layer._state_size, np.float32)
    stream.step(x, out)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            stream.step(x, out)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 100  # the loop's own variable; a step that kept 1 byte would be 100


@pytest.mark.parametrize("merge", ["concat", "sum", "average", "mul"])
def test_an_infinite_dy_in_the_padding_reaches_nothing_and_warns_of_nothing(merge):
    layer = cylstm.LSTM(3, 4, bidirectional=True, merge=merge, rng=0)
    x, tape = np.ones((5, 2, 3), np.float32), cylstm.Tape()
    results = []
    for padding in (0, np.inf):
        y, _ = layer.forward(x, lengths=[5, 2], tape=tape)
        dy = np.ones_like(y)
        dy[2:, 1] = padding
        results.append(layer.backward(tape, dy))
    np.testing.assert_array_equal(results[0].dx, results[1].dx)
    for name, gradient in results[0].parameters.items():
        np.testing.assert_array_equal(results[1].parameters[name], gradient)
