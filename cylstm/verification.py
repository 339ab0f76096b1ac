"""verify: a model held against a reference; where they first differ, by how much, and which usual mistake explains it.

Runs and compares. What a reference is and how it is run is in ``interop/references.py``, what a mistake is in
``interop/suspects.py``.
"""

import math
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np

from . import validation
from .interop import references, suspects
from .interop.references import Given, Layout, arrays_of, leaves_of, run_leaves, state_names, state_of_zeros
from .layers import Layer
from .sequential import Sequential
from .steps import Steps
from .testing import TOLERANCES

_ROWS = 4  # on which suspects are tried: a mistake in a layer shows in any row
_PAIRS = 1000  # suspects of two mistakes that are tried at most,
_PAIRS_WORK = 5e10  # and of so many multiplications in all: a few seconds


class Comparison(NamedTuple):
    """One array of the model against that of the reference."""

    name: str  # of a layer, "y", or of a state
    shape: tuple  # of the model's array, batch-first
    expected_shape: tuple
    max_abs: float  # largest |d|; NaN where shapes differ, infinite where one of the two alone is NaN
    scaled: float  # largest |d| / max(1, |y|), y the reference's
    first: dict  # where it first exceeds the tolerance: {"step": 3, "row": 0, "unit": 5}; {} where it does not
    by_step: np.ndarray  # the largest scaled difference of each step; () where there are none
    ok: bool


class Suspect(NamedTuple):
    """A mistake that explains a difference: with this change the model's numbers are the reference's."""

    name: str  # "gate order"
    layer: str  # in which, or "" for the whole model
    detail: str
    scaled: float  # what is left of the difference


class Report:
    """What :func:`verify` found; printed, a table.

    Attributes
    ----------
    ok : bool
        Whether all arrays agree within the tolerance; ``bool(report)``, too.
    rows : tuple of Comparison
        The layers in order, as far as the reference tells of them, then y and the states.
    first : Comparison or None
        The first of them that does not agree.
    suspects : tuple of Suspect
        What explains it; each was tried.
    tried : int
        How many changes were tried.
    notes : tuple of str
    tolerance : float
    """

    def __init__(self, rows, found, tried, notes, tolerance):
        self.rows = tuple(rows)
        self.suspects = tuple(found)
        self.tried = tried
        self.notes = tuple(notes)
        self.tolerance = tolerance

    @property
    def first(self):
        """The first comparison that does not agree, or None."""
        return next((row for row in self.rows if not row.ok), None)

    @property
    def ok(self):
        """Whether all arrays agree."""
        return self.first is None

    def __bool__(self):
        return self.ok

    @property
    def scaled(self):
        """The largest |d| / max(1, |y|) of all rows; NaN where shapes differ."""
        return float(np.max([row.scaled for row in self.rows], initial=0.0))

    def __repr__(self):
        lines = [("array", "shape", "max |d|", "scaled", "first beyond the tolerance")]
        for row in self.rows:
            lines.append((row.name, str(row.shape), f"{row.max_abs:.3g}", f"{row.scaled:.3g}", _where(row)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = ("<", "<", ">", ">", "<")
        table = [
            "  ".join(f"{word:{side}{width}}" for word, side, width in zip(line, aligned, widths, strict=True)).rstrip()
            for line in lines
        ]
        rule = "-" * max(map(len, table))
        ending = [f"{'agrees' if self.ok else 'DIFFERS'}, tolerance {self.tolerance:g} * max(1, |y|)", *self.notes]
        for suspect in self.suspects:
            where = f" of layer {suspect.layer}" if suspect.layer else ""
            ending.append(f"suspect: {suspect.name}{where}: agrees to {suspect.scaled:.2g} with {suspect.detail}")
        if not self.ok and not self.suspects:
            ending.append(f"no usual mistake explains it ({self.tried} were tried)")
        return "\n".join([table[0], rule, *table[1:], rule, *ending])


def _where(row):
    if row.ok:
        return "-"
    if row.shape != row.expected_shape:
        return f"the reference's shape is {row.expected_shape}"
    return ", ".join(f"{name} {index}" for name, index in row.first.items())


def verify(model, reference, x, *, lengths=None, state=None, tolerance=None, time_major=None):
    """Run a model and a reference, and say where they first differ, by how much, and why.

    Where they differ, the usual mistakes are tried in the layer where they first do (gate order, transposed kernels,
    bias split, reset_after, hard_sigmoid and other activations, direction, padding, axes, epsilon): those that make the
    numbers agree are named.

    Parameters
    ----------
    model : layer
        A recurrent layer, a :class:`Sequential` or any other layer but an EncoderDecoder.
    reference
        What it is held against; every array as the model's own lies:

        - a callable: given x alone, it gives y, or (y, state) as ``forward`` does;
        - an ``onnxruntime.InferenceSession``: lengths and initial states go to its inputs of their rank;
        - a ``torch.nn.Module``: run in eval mode without gradients, of an ``nn.Sequential`` each child by itself;
        - a model of Keras: what its ``predict`` gives;
        - arrays, or tensors of PyTorch: y; (y, state); a list with one array (or None) for each layer; a mapping with
          names of layers, "y", "h_n" and "c_n" among its keys, as an opened ``.npz`` is;
        - another layer or model of cylstm.
    x : ndarray
        As ``model.forward`` takes it.
    lengths, state : optional
        As ``model.forward`` takes them (``state`` is a Sequential's ``states``).
    tolerance : float, optional
        On |d| / max(1, |y|): 2e-5 in float32 and 1e-12 in float64 if omitted, or that of the reference where it is
        of fewer digits, 1e-3 in float16.
    time_major : bool, optional
        Whether the reference has (seq_len, batch, features). If omitted it is found out where it says so itself;
        elsewhere the order of the model is tried, then the other, and the report says which it was.

    Returns
    -------
    Report
        ``report.ok``, ``report.first``, ``report.suspects``; printed, a table.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit, or the reference can not be run on x. Outputs of another shape are no error: the
        report has them.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> lstm, x = cylstm.LSTM(3, 4, rng=0), np.ones((5, 2, 3), np.float32)
    >>> cylstm.verify(lstm, lstm.forward(x), x).ok
    True
    >>> carried = cylstm.LSTM(3, 4)
    >>> with carried.writable() as p:  # the blocks of the weights in another framework's order
    ...     for name, value in lstm.parameters.items():
    ...         p[name] = cylstm.interop.gates.reorder(value, "ifgo", "iofg")
    >>> report = cylstm.verify(carried, lstm.forward, x)
    >>> report.ok, report.suspects[0].detail
    (False, "the gates read as i, o, f, g (ONNX's) instead of i, f, g, o")
    """
    given = _given(model, x, lengths, state)
    results = run_leaves(given.leaves, given.rows, given.states, given.steps)
    candidates = references.answers(reference, given, time_major)
    tolerance = _tolerance(tolerance, results[-1][0], candidates[0])
    compared = [(_compare(results, answer, given, tolerance), answer) for answer in candidates]
    rows, answer = next((pair for pair in compared if all(row.ok for row in pair[0])), None) or min(
        compared, key=lambda pair: sum(row.shape != row.expected_shape for row in pair[0])
    )
    if not rows:
        raise ValueError("reference has no array to compare: expected y, or that of a layer, or the states")
    notes = [answer.note] if answer.note else []
    if answer.states is not None and len(answer.states) != len(state_names(given)):
        came, has = len(answer.states), len(state_names(given))
        notes.append(f"states were not compared: the reference has {came} of them, the model {has}")
    found, tried = [], 0
    if not all(row.ok for row in rows):
        notes += _notes_of_numbers(rows, results, answer)
        found, tried = _explain(results, answer, given, rows, tolerance)
    return Report(rows, found, tried, notes, tolerance)


def _given(model, x, lengths, state):
    """The arguments, checked by the model, and in the order of its layers."""
    if not isinstance(model, Layer) or not hasattr(model, "forward"):
        raise TypeError(f"model is a {type(model).__name__}, expected a layer of cylstm")
    if type(model).__name__ == "EncoderDecoder":
        raise TypeError("model is an EncoderDecoder, which takes two inputs: verify its encoder and its decoder")
    if getattr(model, "merge", "concat") is None:
        raise ValueError(f"model is {model!r}, whose y is a pair: expected another merge than None")
    options = {"states" if isinstance(model, Sequential) else "state": state} if state is not None else {}
    if lengths is not None:
        options["lengths"] = lengths
    model.forward(x, **options)  # which checks all of them
    layout = Layout.of(model, x)
    rows = layout.rows(x)
    leaves = leaves_of(model, layout.rows_of_state(state))
    if lengths is not None:
        lengths = validation.lengths_array(lengths if layout.batched else [lengths], *rows.shape[:2], True)
    steps = None if lengths is None else Steps(lengths)
    named = [leaf[:2] for leaf in leaves]
    return Given(model, named, layout, x, rows, lengths, [leaf[2] for leaf in leaves], steps)


def _tolerance(tolerance, y, answer):
    if tolerance is not None:
        return validation.number("tolerance", tolerance, 0.0, np.inf)
    dtypes = [np.dtype(y.dtype), *(array.dtype for array in (answer.y, *answer.layers.values()) if array is not None)]
    if np.float16 in dtypes:
        return float(np.finfo(np.float16).eps)  # numbers below 1 are rounded by a quarter of it
    return TOLERANCES[np.dtype(np.float32 if np.float32 in dtypes else np.float64)].frameworks


# Comparing


def _compare(results, answer, given, tolerance):
    """Rows of the report."""
    rows = []
    for (name, layer), (y, _) in zip(given.leaves, results, strict=True):
        if name in answer.layers:
            words = name if len(given.leaves) == 1 else f"{name} ({type(layer).__name__})"
            rows.append(_comparison(words, y, answer.layers[name], tolerance, _axes(y), _backwards(layer)))
    if answer.y is not None:
        y = results[-1][0]
        rows.append(_comparison("y", y, answer.y, tolerance, _axes(y), _backwards(given.leaves[-1][1])))
    names = iter(state_names(given))
    for (_, state), expected in zip(results, _states_by_leaf(results, answer), strict=True):
        for got, array in zip(arrays_of(state), expected, strict=False):
            rows.append(_comparison(next(names), got, array, tolerance, ("layer", "row", "unit"), False))
    return rows


def _axes(y):
    return {1: ("row",), 2: ("row", "unit")}.get(y.ndim, ("row", "step", "unit"))


def _backwards(layer):
    """Whether the layer's first step is the last of y."""
    return bool(getattr(layer, "reverse", False))


def _scaled(got, expected):
    """(|d|, |d| / max(1, |y|)) of arrays of one shape: 0 where both are NaN, infinite where one is."""
    got, expected = got.astype(np.float64), np.asarray(expected, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.where(got == expected, 0.0, np.abs(got - expected))
        distance[np.isnan(distance)] = np.inf
        distance[np.isnan(got) & np.isnan(expected)] = 0.0
        scaled = distance / np.fmax(1.0, np.abs(expected))
    scaled[np.isinf(distance)] = np.inf
    return distance, scaled


def _comparison(name, got, expected, tolerance, axes, backwards):
    if got.shape != expected.shape:
        return Comparison(name, got.shape, expected.shape, np.nan, np.nan, {}, np.zeros(0), False)
    distance, scaled = _scaled(got, expected)
    first, by_step = {}, np.zeros(0)
    if "step" in axes:
        by_step = scaled.max(axis=tuple(n for n in range(scaled.ndim) if n != 1), initial=0.0)
        axes, scaled_first = ("step", "row", *axes[2:]), scaled.swapaxes(0, 1)
        if backwards:
            scaled_first = scaled_first[::-1]
    else:
        scaled_first = scaled
    beyond = np.argwhere(scaled_first > tolerance)
    if len(beyond):
        first = dict(zip(axes, map(int, beyond[0]), strict=False))
        if backwards and "step" in first:
            first["step"] = scaled_first.shape[0] - 1 - first["step"]
    largest = float(scaled.max(initial=0.0))
    return Comparison(
        name, got.shape, expected.shape, float(distance.max(initial=0.0)), largest, first, by_step, largest <= tolerance
    )


def _notes_of_numbers(rows, results, answer):
    """What shapes and NaN say by themselves."""
    notes = []
    for row in rows:
        if row.shape != row.expected_shape and sorted(row.shape) == sorted(row.expected_shape):
            notes.append(f"{row.name}: the reference's shape is that of the model with axes in another order")
    y = results[-1][0]
    if answer.y is not None and y.shape == answer.y.shape:
        ours, theirs = np.isnan(y), np.isnan(np.asarray(answer.y, np.float64))
        for words, only in (("the model", ours & ~theirs), ("the reference", theirs & ~ours)):
            if only.any():
                notes.append(f"{words} alone has NaN at {only.sum():,} of {only.size:,} places of y")
    return notes


# Explaining


class _Trial(NamedTuple):
    """The part of the model that is run again for each suspect, and what it should give."""

    leaves: list  # (name, layer)
    x: np.ndarray
    states: list
    steps: Steps | None
    wanted: list  # (index among the leaves, 0 for y or the number of the state, array)

    def has_rows(self):
        """Whether there are any, and those of x are those of what is wanted."""
        rows = len(self.x)
        return rows > 0 and all(array.ndim > bool(of) and array.shape[bool(of)] == rows for _, of, array in self.wanted)

    def of_rows(self, rows):
        steps = self.steps
        if steps is not None:
            steps = Steps(*(None if part is None else part[rows] for part in steps))
        return self._replace(
            x=self.x[rows],
            states=[_rows_of_state(state, rows) for state in self.states],
            steps=steps,
            wanted=[(n, of, array[:, rows] if of else array[rows]) for n, of, array in self.wanted],
        )


def _rows_of_state(state, rows):
    if isinstance(state, (tuple, list)):
        return type(state)(_rows_of_state(part, rows) for part in state)
    return None if state is None else state[:, rows]


def _explain(results, answer, given, rows, tolerance):
    """(suspects that explain the first difference, how many were tried)"""
    trial = _trial(results, answer, given, tolerance)
    tried = 0
    found = []
    for name, detail, changed in _of_the_run(trial):
        tried += 1
        _note(found, Suspect(name, "", detail, _distance(changed, {})), tolerance)
    if not trial.has_rows():
        return found, tried
    worst = next(row for row in rows if not row.ok).first.get("row", 0)
    few = trial.of_rows(sorted({*range(min(_ROWS, len(trial.x))), worst}))
    for of_two in (False, True):
        if found:
            break
        for n, change, run in islice(_all_changes(few, of_two), _most_pairs(few) if of_two else None):
            tried += 1
            name = few.leaves[n][0] if len(given.leaves) > 1 else ""
            _note(found, Suspect(change.name, name, change.detail, _distance(few, {n: run})), tolerance)
    return sorted(found, key=lambda suspect: suspect.scaled > tolerance / 4), tried


def _note(found, suspect, tolerance):
    if suspect.scaled <= tolerance:
        found.append(suspect)


def _trial(results, answer, given, tolerance):
    """From behind the last layer whose y is known to agree to the first of which something is known to differ."""
    names = [name for name, _ in given.leaves]
    known = {n: answer.layers[name] for n, name in enumerate(names) if name in answer.layers}
    if answer.y is not None:
        known[len(names) - 1] = answer.y
    states = _states_by_leaf(results, answer)
    differ = [
        not _agree(arrays_of(state_n), states[n], tolerance) or not _agree([y], [known.get(n, y)], tolerance)
        for n, (y, state_n) in enumerate(results)
    ]
    end = differ.index(True)
    begin = max((n + 1 for n in known if n < end), default=0)
    wanted = [(end - begin, 0, known[end])] if end in known else []
    for n in range(begin, end + 1):
        wanted += [(n - begin, k + 1, array) for k, array in enumerate(states[n])]
    x, steps = given.rows, given.steps
    for (_, layer), state in zip(given.leaves[:begin], given.states[:begin], strict=True):
        x, _, steps = layer._pass(x, state, steps, None)
    return _Trial(given.leaves[begin : end + 1], x, given.states[begin : end + 1], steps, wanted)


def _agree(got, expected, tolerance):
    """Whether those arrays agree that are expected."""
    return all(
        a.shape == b.shape and bool((_scaled(a, b)[1] <= tolerance).all()) for a, b in zip(got, expected, strict=False)
    )


def _states_by_leaf(results, answer):
    """The expected final states of each layer; nothing where they were not compared."""
    counts = [len(arrays_of(state)) for _, state in results]
    if answer.states is None or len(answer.states) != sum(counts):
        return [[] for _ in counts]
    rest = iter(answer.states)
    return [list(islice(rest, count)) for count in counts]


def _distance(trial, runs):
    """The largest scaled difference if these layers run so; infinite if they can not."""
    x, steps, outputs = trial.x, trial.steps, []
    try:
        for n, ((_, layer), state) in enumerate(zip(trial.leaves, trial.states, strict=True)):
            x, state_n, steps = runs[n](x, state, steps) if n in runs else layer._pass(x, state, steps, None)
            outputs.append([x, *arrays_of(state_n)])
    except (ValueError, TypeError):  # there is no such layer, or the next one does not take what it makes
        return np.inf
    largest = 0.0
    for n, place, expected in trial.wanted:
        if place >= len(outputs[n]) or outputs[n][place].shape != expected.shape:
            return np.inf
        largest = max(largest, _scaled(outputs[n][place], expected)[1].max(initial=0.0))
    return float(largest)


def _most_pairs(trial):
    """How many suspects of two mistakes are worth their time."""
    parameters = sum(array.size for _, layer in trial.leaves for array in layer.parameters.values())
    return int(min(_PAIRS, _PAIRS_WORK / max(1, parameters * math.prod(trial.x.shape[:2]))))


def _all_changes(trial, of_two):
    """(number of the layer, Change, how the layer runs with it)"""
    for n, (_, layer) in enumerate(trial.leaves):
        for change, run in _changes(layer, of_two):
            yield n, change, run


def _changes(layer, of_two):
    """(Change, how the layer runs with it)"""
    if not layer._parts:
        for change in _of_one(layer, of_two):
            yield change, change.case.run
        return
    for change, make in _of_parts(layer, of_two):
        yield change, lambda x, state, steps, make=make: make()._pass(x, state, steps, None)


def _of_one(layer, of_two):
    case = suspects.Case.of(layer)
    return suspects.pairs(case) if of_two else suspects.changes(case)


def _of_parts(layer, of_two):
    """(Change, what makes the layer with it) for a layer that may be made of others."""
    if not layer._parts:
        for change in _of_one(layer, of_two):
            if not change.case.after:
                yield change, change.case.layer
        return
    for n, (name, part) in enumerate(layer._parts):
        where = f", in its {name} layer" if len(layer._parts) > 1 else ""
        for change, make in _of_parts(part, of_two):
            yield change._replace(detail=change.detail + where), partial(_with_part, layer, n, make)


def _with_part(container, place, make):
    layers = [make() if n == place else layer for n, (_, layer) in enumerate(container._parts)]
    return type(container)(*layers, **container._arguments[1])


def _of_the_run(trial):
    """(name, detail, trial) of mistakes in how a model is called."""
    if trial.steps is not None:
        yield "padding", "lengths ignored", trial._replace(steps=None)
    elif trial.x.ndim == 3 and trial.x.dtype.kind == "f":
        valid = (trial.x != 0).any(axis=2)
        if not valid.all():
            last = Steps(mask=valid).last(valid.shape[1]) + 1
            if (last < valid.shape[1]).any():
                words = "lengths up to the last step of x that is not all zeros"
                yield "padding", words, trial._replace(steps=Steps(last))
            yield "padding", "steps of x that are all zeros masked", trial._replace(steps=Steps(mask=valid))
    layers, rows = [layer for _, layer in trial.leaves], len(trial.x)
    if any(state is not None for state in trial.states):
        yield "state", "the initial state ignored", trial._replace(states=[None] * len(layers))
    elif any(getattr(leaf, "default_state", None) is not None for layer in layers for leaf in layer._leaves):
        zeros = [state_of_zeros(layer, rows) for layer in layers]
        yield "state", "zeros instead of the default state", trial._replace(states=zeros)
    if trial.x.ndim == 3 and trial.steps is None and not any(of for _, of, _ in trial.wanted):
        wanted = [(n, of, array.swapaxes(0, 1)) for n, of, array in trial.wanted if array.ndim > 2]
        if len(wanted) == len(trial.wanted):
            swapped = trial._replace(x=trial.x.swapaxes(0, 1), wanted=wanted, states=[None] * len(trial.states))
            yield "axes", "batch taken for time, and time for batch", swapped
    if trial.x.ndim == 3:
        yield "direction", "x with time flipped", trial._replace(x=trial.x[:, ::-1])
