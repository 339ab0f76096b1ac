"""The named cases: what is run, on which numbers, and the ratio each has to reach.

Knows nothing of any contender. NumPy is imported only where arrays are made, so that the parent
process can name cases before the thread variables of its children are set.

    step   batch 1, one time step, the state carried from call to call
    seq    batch 1, T steps from a zero state, all of y
    batch  the same for B sequences
    train  forward, then the gradient of sum(y * dy) for x, the initial state, every weight and every bias,
           with one bias changed before each forward pass, so that repacking weights counts

A case is one of an LSTM unless its name begins with another cell's.
"""

from dataclasses import dataclass

KINDS = ("step", "seq", "batch", "train")
GATES = {"lstm": 4, "gru": 3, "rnn": 1}  # by cell; gru: reset_after; rnn: tanh

# Calls before a result is checked: a step that dropped h or c would still pass its first call.
CHECK_CALLS = {"step": 8, "seq": 1, "batch": 1, "train": 1}

# What a training iteration adds to bias_ih_l0: far below the tolerances of a check, and above
# float32's rounding of a bias.
BIAS_CHANGE = 1e-6


@dataclass(frozen=True)
class Case:
    """One shape. ``target`` is best peer's time / our time, the least that we want."""

    kind: str
    batch: int
    seq_len: int
    input_size: int
    hidden_size: int
    target: float
    num_layers: int = 1
    bidirectional: bool = False
    cell: str = "lstm"

    @property
    def name(self):
        name = f"{self.kind}-{self.input_size}-{self.hidden_size}"
        if self.kind == "train":
            name = f"train-{self.batch}x{self.seq_len}-{self.input_size}-{self.hidden_size}"
        if self.cell != "lstm":
            name = f"{self.cell}-{name}"
        return name + (f"-bi{self.num_layers}" if self.bidirectional else "")

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
    def flops(self):
        """Of the two products: 2 G H (I + H) per row and step, G gates; three times that for training."""
        H = self.hidden_size
        per_row = sum(2 * GATES[self.cell] * H * (width + H) for _, _, width in self.layers())
        return per_row * self.batch * self.seq_len * (3 if self.kind == "train" else 1)


def _cases():
    sizes = [(1, 8), (8, 16), (16, 32), (40, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    for (i, h), target in zip(sizes, (2.4, 2.4, 3.5, 3.0, 1.8, 1.15, 1.1, 1.1), strict=True):
        yield Case("step", 1, 1, i, h, target)
    for (i, h), target in zip(sizes[2:7], (2.0, 1.5, 1.35, 1.1, 1.1), strict=True):
        yield Case("seq", 1, 100, i, h, target)
    yield Case("seq", 1, 100, 64, 128, 1.3, num_layers=2, bidirectional=True)
    for (i, h), target in zip(sizes[4:], (1.03, 1.03, 0.97, 1.08), strict=True):
        yield Case("batch", 32, 100, i, h, target)
    yield Case("train", 1, 100, 16, 32, 2.5)
    yield Case("train", 16, 50, 32, 64, 1.4)
    yield Case("train", 32, 100, 64, 128, 1.15)
    yield Case("train", 32, 100, 128, 256, 1.3)
    yield Case("train", 64, 50, 256, 512, 1.1)
    for cell in ("gru", "rnn"):  # the LSTM's factors
        for kind, batch, seq_len, i, h, target in (
            ("step", 1, 1, 8, 16, 2.4),
            ("step", 1, 1, 64, 128, 1.8),
            ("step", 1, 1, 256, 512, 1.1),
            ("seq", 1, 100, 16, 32, 2.0),
            ("seq", 1, 100, 64, 128, 1.35),
            ("seq", 1, 100, 256, 512, 1.1),
            ("batch", 32, 100, 64, 128, 1.03),
            ("batch", 32, 100, 256, 512, 0.97),
            ("train", 16, 50, 32, 64, 1.4),
            ("train", 32, 100, 128, 256, 1.3),
        ):
            yield Case(kind, batch, seq_len, i, h, target, cell=cell)


CASES = {case.name: case for case in _cases()}


def select(names):
    """Return the cases called ``names``, each the name of a case or of a kind."""
    chosen = []
    for name in names:
        found = [case for case in CASES.values() if name in (case.name, case.kind, case.cell)]
        if not found:
            cells = ", ".join(GATES)
            raise SystemExit(f"no case {name!r}; kinds: {', '.join(KINDS)}; cells: {cells}; {', '.join(CASES)}")
        chosen += [case for case in found if case not in chosen]
    return chosen


@dataclass(frozen=True)
class Data:
    """The numbers of a case, float32, the same in every process."""

    parameters: dict  # PyTorch's names and shapes
    x: object  # (T, B, I)
    h_0: object  # (L*D, B, H), zero but in training
    c_0: object  # (L*D, B, H), which only an LSTM has
    dy: object  # (T, B, D*H)


def make_data(case):
    """Draw a case's numbers from a fixed seed: weights as PyTorch initialises them."""
    import numpy as np

    rng = np.random.default_rng(20240229)
    H = case.hidden_size

    def uniform(*shape):
        return rng.uniform(-1, 1, shape).astype(np.float32) / np.float32(H**0.5)

    parameters = {}
    for suffix, _, width in case.layers():
        rows = GATES[case.cell] * H
        parameters[f"weight_ih_{suffix}"] = uniform(rows, width)
        parameters[f"weight_hh_{suffix}"] = uniform(rows, H)
        parameters[f"bias_ih_{suffix}"] = uniform(rows)
        parameters[f"bias_hh_{suffix}"] = uniform(rows)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    state = (case.num_layers * case.directions, case.batch, H)
    x = normal(case.seq_len, case.batch, case.input_size)
    dy = normal(case.seq_len, case.batch, case.directions * H)
    if case.kind == "train":
        return Data(parameters, x, 0.5 * normal(*state), 0.5 * normal(*state), dy)
    zeros = np.zeros(state, dtype=np.float32)
    return Data(parameters, x, zeros, zeros.copy(), dy)


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
