"""The cases: what is run, and on which numbers. A case is made from its name, and any name of this form is one.

    [CELL-]KIND-[BxT-]I-H[-biL][-f64][-ragged]          step-64-128, gru-batch-8x50-16-32-bi2

    step    batch 1, one time step, the state carried from call to call
    seq     T steps from a zero state, all of y; 1x100 if BxT is left out
    batch   the same for a batch; 32x100
    train   forward, then the gradient of sum(y * dy) for x, the initial state, every weight and every bias,
            with one bias changed before each forward pass, so that repacking weights counts; 16x50

    CELL    gru (reset_after) or rnn (tanh); an LSTM if left out
    biL     L bidirectional layers
    ragged  lengths from T / 10 to T, y zero past them

Knows nothing of any contender.
"""

import re
from dataclasses import dataclass

KINDS = ("step", "seq", "batch", "train")
GATES = {"lstm": 4, "gru": 3, "rnn": 1}  # by cell
SIZES = {"step": (1, 1), "seq": (1, 100), "batch": (32, 100), "train": (16, 50)}  # (B, T) where a name has none

_NAME = re.compile(
    r"(?:(?P<cell>gru|rnn)-)?(?P<kind>step|seq|batch|train)(?:-(?P<batch>[1-9]\d*)x(?P<seq_len>[1-9]\d*))?"
    r"-(?P<input_size>[1-9]\d*)-(?P<hidden_size>[1-9]\d*)(?:-bi(?P<layers>[1-9]))?(?P<double>-f64)?(?P<ragged>-ragged)?"
)

# Calls before a result is checked: a step that dropped h or c would still pass its first call.
CHECK_CALLS = {"step": 8, "seq": 1, "batch": 1, "train": 1}

# What a training iteration adds to bias_ih_l0, before its forward pass: above float32's rounding of a bias, and too
# little for a million iterations to lead anywhere.
BIAS_CHANGE = 1e-6


@dataclass(frozen=True)
class Case:
    """One shape."""

    kind: str
    batch: int
    seq_len: int
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    cell: str = "lstm"
    dtype: str = "float32"
    ragged: bool = False

    @property
    def name(self):
        """The name that :func:`parse` makes this case of."""
        shape = (self.batch, self.seq_len)
        parts = [self.cell] if self.cell != "lstm" else []
        parts += [self.kind] + ([f"{self.batch}x{self.seq_len}"] if shape != SIZES[self.kind] else [])
        parts += [str(self.input_size), str(self.hidden_size)]
        parts += [f"bi{self.num_layers}"] if self.bidirectional else []
        parts += ["f64"] if self.dtype == "float64" else []
        return "-".join(parts + (["ragged"] if self.ragged else []))

    @property
    def directions(self):
        return 2 if self.bidirectional else 1

    def layers(self):
        """Yield (suffix of the parameters' names, layer, input size) in PyTorch's order."""
        for layer in range(self.num_layers):
            width = self.input_size if layer == 0 else self.directions * self.hidden_size
            for suffix in ("", "_reverse")[: self.directions]:
                yield f"l{layer}{suffix}", layer, width

    @property
    def weights(self):
        """Numbers in the weights that multiply: what a step reads."""
        H = self.hidden_size
        return sum(GATES[self.cell] * H * (width + H) for _, _, width in self.layers())

    @property
    def flops(self):
        """Of the two products: 2 G H (I + H) per row and step, padding included; three times that for training."""
        return 2 * self.weights * self.batch * self.seq_len * (3 if self.kind == "train" else 1)


def parse(name):
    """Return the case of this name.

    Raises
    ------
    ValueError
        If the name is not of the form that the head of this module gives.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(
            f"no case {name!r}, expected [CELL-]KIND-[BxT-]I-H[-biL][-f64][-ragged] with the kinds {', '.join(KINDS)}"
        )
    part = found.groupdict()
    default = dict(zip(("batch", "seq_len"), SIZES[part["kind"]], strict=True))
    batch, seq_len = (int(part[key] or size) for key, size in default.items())
    if (part["kind"] == "step" and (batch, seq_len) != (1, 1)) or (part["kind"] == "seq" and batch != 1):
        raise ValueError(f"{name} has {batch} sequences of {seq_len}, expected 1x1 of a step and 1xT of a seq")
    if (part["ragged"] and part["kind"] != "batch") or (part["kind"] == "step" and part["layers"]):
        raise ValueError(f"{name}: ragged is of a batch alone, and a step has one layer of one direction")
    return Case(
        part["kind"], batch, seq_len, int(part["input_size"]), int(part["hidden_size"]),
        num_layers=int(part["layers"] or 1), bidirectional=bool(part["layers"]), cell=part["cell"] or "lstm",
        dtype="float64" if part["double"] else "float32", ragged=bool(part["ragged"]),
    )  # fmt: skip


@dataclass(frozen=True)
class Data:
    """The numbers of a case, of its dtype, the same in every process."""

    parameters: dict  # PyTorch's names and shapes
    x: object  # (T, B, I)
    h_0: object  # (L*D, B, H), zero but in training
    c_0: object  # (L*D, B, H), which only an LSTM has
    dy: object  # (T, B, D*H)
    lengths: object  # (B,) int64, or None if the case is not ragged


def make_data(case):
    """Draw a case's numbers from a fixed seed: weights as PyTorch initialises them."""
    import numpy as np

    rng = np.random.default_rng(20240229)
    H = case.hidden_size

    def uniform(*shape):
        return (rng.uniform(-1, 1, shape) / H**0.5).astype(case.dtype)

    parameters = {}
    for suffix, _, width in case.layers():
        rows = GATES[case.cell] * H
        parameters[f"weight_ih_{suffix}"] = uniform(rows, width)
        parameters[f"weight_hh_{suffix}"] = uniform(rows, H)
        parameters[f"bias_ih_{suffix}"] = uniform(rows)
        parameters[f"bias_hh_{suffix}"] = uniform(rows)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=case.dtype)

    state = (case.num_layers * case.directions, case.batch, H)
    x = normal(case.seq_len, case.batch, case.input_size)
    dy = normal(case.seq_len, case.batch, case.directions * H)
    h_0, c_0 = (0.5 * normal(*state) if case.kind == "train" else np.zeros(state, case.dtype) for _ in range(2))
    lengths = None
    if case.ragged:
        lengths = rng.integers(max(1, case.seq_len // 10), case.seq_len + 1, case.batch)
        lengths[0] = case.seq_len  # what the padding is for
    return Data(parameters, x, h_0, c_0, dy, lengths)


def states_of(case, data):
    """{"h_0": ..., "c_0": ...}, or h_0 alone."""
    return {"h_0": data.h_0, "c_0": data.c_0} if case.cell == "lstm" else {"h_0": data.h_0}


def as_state(arrays):
    """A state as the public interfaces have it: (h, c), or h alone."""
    arrays = tuple(arrays)
    return arrays if len(arrays) > 1 else arrays[0]


def by_name(case, state):
    """The inverse: {"h_0": ..., "c_0": ...}, or h_0 alone."""
    return dict(zip(("h_0", "c_0"), state, strict=True)) if case.cell == "lstm" else {"h_0": state}
