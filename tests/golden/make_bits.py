"""Digests of inference outputs, to hold every machine and version to the same bits: writes bits.txt.

    python tests/golden/make_bits.py            compare with bits.txt, exit code 1 on a difference
    python tests/golden/make_bits.py --write    record the bits of this machine

Inputs and parameters come from integer arithmetic, so they are the same everywhere. To be recorded anew only with a
new cylstm.MATH_VERSION or a new case, at a level with fused multiply-add.
"""

import hashlib
import math
import sys
from pathlib import Path

import numpy as np

import cylstm

FILE = Path(__file__).with_name("bits.txt")
FIRST_INFINITY = {"float32": 0x7F800000, "float64": 0x7FF0000000000000}
POINTS = 200_001


def numbers(shape, dtype, seed, scale=1.0):
    """In (-scale, scale), by a multiplicative hash of the index (Knuth, TAOCP 3, 6.4)."""
    index = np.arange(np.prod(shape, dtype=int), dtype=np.uint64) + np.uint64(1_000_003 * seed + 1)
    hashed = index * np.uint64(2654435761) % np.uint64(2**32)
    return ((hashed.astype(np.float64) / 2**31 - 1) * scale).astype(dtype).reshape(shape)


def every_magnitude(dtype):
    """Evenly spread bit patterns from 0 to infinity, and their negatives."""
    unsigned = np.uint32 if dtype == "float32" else np.uint64
    patterns = np.array([k * FIRST_INFINITY[dtype] // (POINTS - 1) for k in range(POINTS)], unsigned)
    positive = patterns.view(dtype)
    return np.concatenate([positive, -positive])


def digest(*arrays):
    result = hashlib.sha256()
    for array in arrays:
        result.update(str(array.shape).encode())
        result.update(np.ascontiguousarray(array).tobytes())
    return result.hexdigest()[:32]


def fill(layer, scale):
    """Give every parameter its numbers."""
    with layer.writable() as parameters:
        for seed, array in enumerate(parameters.values()):
            array[...] = numbers(array.shape, array.dtype, seed, scale)
    return layer


def cases():
    """(name, digest) pairs."""
    for dtype in ("float32", "float64"):
        for name in ("sigmoid", "tanh"):
            yield f"{name} {dtype}", digest(cylstm.Activation(name).forward(every_magnitude(dtype)))
        for input_size, hidden_size, layers, bidirectional, steps, batch in (
            (1, 1, 1, False, 3, 1),
            (3, 17, 1, False, 40, 1),
            (8, 32, 2, False, 25, 7),
            (5, 50, 2, True, 12, 33),
            (64, 128, 1, False, 50, 2),
        ):
            layer = cylstm.LSTM(input_size, hidden_size, layers, bidirectional=bidirectional, dtype=dtype, rng=0)
            fill(layer, 2 / math.sqrt(hidden_size))
            x = numbers((steps, batch, input_size), dtype, 99, 3.0)
            y, (h_n, c_n) = layer.forward(x)
            sizes = f"{input_size} {hidden_size} {layers} {2 if bidirectional else 1} {steps} {batch}"
            yield f"lstm {sizes} {dtype}", digest(y, h_n, c_n)
        for cell, layer in (
            ("gru", cylstm.GRU(5, 50, 2, bidirectional=True, dtype=dtype, rng=0)),
            ("gru step", cylstm.GRU(8, 32, dtype=dtype, rng=0)),
            ("rnn tanh", cylstm.RNN(5, 50, 2, bidirectional=True, dtype=dtype, rng=0)),
            ("rnn relu", cylstm.RNN(5, 50, 2, bidirectional=True, nonlinearity="relu", dtype=dtype, rng=0)),
        ):
            fill(layer, 1 / math.sqrt(layer.hidden_size))
            x = numbers((20, 1 if "step" in cell else 33, layer.input_size), dtype, 97, 3.0)
            yield f"{cell} {dtype}", digest(*layer.forward(x))
        for activation in (None, "relu", "sigmoid", "tanh", "softmax"):
            dense = fill(cylstm.Dense(37, 21, activation=activation, dtype=dtype, rng=0), 1.0)
            yield f"dense {activation} {dtype}", digest(dense.forward(numbers((19, 37), dtype, 98, 3.0)))


def main():
    lines = [f"{name}: {value}" for name, value in cases()]
    if "--write" in sys.argv:
        FILE.write_text("\n".join(lines) + "\n")
        return 0
    recorded = FILE.read_text().splitlines()
    for line in lines:
        print("same " if line in recorded else "OTHER", line)
    return int(lines != recorded)


if __name__ == "__main__":
    sys.exit(main())
