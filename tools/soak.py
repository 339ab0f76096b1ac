"""Memory over many calls of random shapes: `python tools/soak.py [PART [CALLS]]`, if not told all, a million.

Every part calls the library with shapes drawn anew and compares the memory after all calls with that after
half of them: what the process holds (resident size, Linux) and, in a fifth as many calls again because it
slows all of them down, what Python and NumPy hold (tracemalloc). Ends with an error if either has grown.

tests/test_promises.py runs each part for some thousands of calls.
"""

import gc
import sys
import time
import tracemalloc

import numpy as np

import cylstm

RESIDENT_LIMIT = 8 << 20  # bytes: the pools of malloc and of Python settle somewhere within this
TRACED_LIMIT = 16 << 10  # bytes: one array or dict entry kept per call would be more after two hundred calls
MOST_STEPS, MOST_ROWS, SIZES = 24, 12, (1, 5, 16, 33)


def resident():
    """Bytes of this process in memory; 0 where /proc does not tell."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096
    except OSError:
        return 0


class Soak:
    """Layers of some sizes and dtypes, and a way to make one call of each part."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.layers = [
            cylstm.LSTM(size, size, layers, bidirectional=bidirectional, dtype=dtype, rng=0)
            for size in SIZES
            for dtype in ("float32", "float64")
            for layers, bidirectional in ((1, False), (2, True))
        ]
        self.causal = [layer for layer in self.layers if not layer.bidirectional]
        self.denses = [cylstm.Dense(size, 7, activation="tanh", rng=0) for size in SIZES]
        self.tape = cylstm.Tape(seed=1)
        self.noise = self.rng.standard_normal(MOST_STEPS * MOST_ROWS * max(SIZES))
        for layer in self.layers:  # the tape keeps its largest buffers: let it have them
            x = self.array(MOST_STEPS, MOST_ROWS, layer.input_size, dtype=layer.dtype)
            layer.forward(x, lengths=[MOST_STEPS] * MOST_ROWS, tape=self.tape)

    def choose(self, things):
        return things[self.rng.integers(len(things))]

    def array(self, *shape, dtype):
        return self.noise[: int(np.prod(shape))].reshape(shape).astype(dtype)

    def sequence(self, layer):
        """(x, lengths): sometimes empty, sometimes without a batch, often ragged."""
        steps, rows = (int(n) for n in self.rng.integers((0, 0), (MOST_STEPS + 1, MOST_ROWS + 1)))
        if self.rng.random() < 0.2:
            return self.array(steps, layer.input_size, dtype=layer.dtype), None
        lengths = self.rng.integers(0, steps + 1, rows) if self.rng.random() < 0.5 else None
        return self.array(steps, rows, layer.input_size, dtype=layer.dtype), lengths

    def inference(self):
        layer = self.choose(self.layers)
        x, lengths = self.sequence(layer)
        layer.forward(x, lengths=lengths)
        dense = self.choose(self.denses)
        dense.forward(self.array(int(self.rng.integers(50)), dense.in_features, dtype="float32"))

    def training(self):
        layer = self.choose(self.layers)
        x, lengths = self.sequence(layer)
        y, state = layer.forward(x, lengths=lengths, tape=self.tape)
        layer.backward(self.tape, y, state)

    def streams(self):
        layer = self.choose(self.causal)
        rows = int(self.rng.integers(1, MOST_ROWS + 1))
        stream = layer.stream(rows)
        stream.step(self.array(rows, layer.input_size, dtype=layer.dtype))
        stream.run(self.array(int(self.rng.integers(MOST_STEPS)), rows, layer.input_size, dtype=layer.dtype))
        stream.reset(stream.copy().state)

    def writers(self):
        layer = self.choose(self.layers)
        with layer.writable() as p:
            p["bias_ih_l0"] += 1e-6
        x, _ = self.sequence(layer)
        layer.forward(x)
        layer.load_state_dict(layer.state_dict())


PARTS = ("inference", "training", "streams", "writers")


def grown(call, calls, measure):
    """What ``measure`` has grown by between half of the calls and all of them."""
    for _ in range(calls // 2):
        call()
    gc.collect()
    before = measure()
    for _ in range(calls - calls // 2):
        call()
    gc.collect()
    return measure() - before


def soak(part, calls):
    """One line of results; True if memory is flat."""
    began = time.perf_counter()
    call = getattr(Soak(), part)
    by_process = grown(call, calls, resident)
    tracemalloc.start()
    by_python = grown(call, max(calls // 5, 400), lambda: tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    flat = by_process <= RESIDENT_LIMIT and by_python <= TRACED_LIMIT
    print(
        f"{part:<10} {calls:>9,} calls in {time.perf_counter() - began:6.1f} s: "
        f"resident {by_process / 1e6:+.2f} MB, traced {by_python / 1e3:+.1f} kB:",
        "flat" if flat else "GROWN",
    )
    return flat


def main(arguments):
    parts = arguments[:1] or PARTS
    calls = int(arguments[1]) if len(arguments) > 1 else 1_000_000
    if not set(parts) <= set(PARTS):
        raise SystemExit(f"PART is {parts[0]!r}, expected one of {', '.join(PARTS)}")
    return 0 if all([soak(part, calls) for part in parts]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
