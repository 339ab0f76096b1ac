"""What goes in and what comes out: one or many, each way a small task that a small model learns.

    one to one      a number is squared                                     Dense - Dense
    one to many     a frequency becomes a wave                              Repeat - GRU - Dense
    many to one     was the first number larger than the last?              Masking - LSTM - Last - Dense
    many to many    at each step: is the number of ones so far odd?         Masking - GRU - Dense
    many to many    a word is written backwards when it has been read       Embedding - GRU, Embedding - GRU - Dense

Sequences of different lengths are padded with zeros, which Masking and Embedding(mask_zero=True) know: for each row the
padded batch gives the same bits as the row alone without padding.

    python examples/topologies.py
"""

import os
import time

# Products this small are no faster on several threads, and much slower where other programs are busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import cylstm
from cylstm.losses import binary_crossentropy, mse, sparse_categorical_crossentropy

ROWS, UNSEEN = 2000, 500
LETTERS = 6  # 1 to 6; 0 is padding for the reader and the end for the writer, 7 starts it


def train(model, inputs, y, loss, rng, epochs=20, lr=0.01, batch_size=50, **options):
    """The rows but the last UNSEEN, in a new order each epoch."""
    count = len(y) - UNSEEN
    optimizer = cylstm.Adam([model], lr=cylstm.schedules.cosine(lr, epochs * count // batch_size))
    tape = cylstm.Tape()
    for _ in range(epochs):
        for rows in rng.permutation(count).reshape(-1, batch_size):
            y_pred, _ = model.forward(*(x[rows] for x in inputs), tape=tape)
            _, dy = loss(y_pred, y[rows], **{name: value[rows] for name, value in options.items()}, batch_first=True)
            optimizer.step([model.backward(tape, dy)])


def report(name, what, value, goal, least=False):
    good = value >= goal if least else value <= goal
    print(f"{name:30} {what} {value:.4g}, wanted {'at least' if least else 'at most'} {goal:g}")
    if not good:
        raise SystemExit(f"{name}: not learned")


def check_padding(name, padded, alone, lengths):
    """That each row of a padded batch is, as far as it is valid, what ``alone(n)`` gives: the row without padding."""
    for n, length in enumerate(lengths):
        if padded[n, :length].tobytes() != alone(n)[0, :length].tobytes():
            raise SystemExit(f"{name}: row {n} differs from the row without padding")
    print(f"{'':30} padded: the same bits as {len(lengths)} rows alone, {lengths.min()} to {lengths.max()} steps long")


def one_to_one(rng):
    x = rng.uniform(-1, 1, (ROWS, 1)).astype(np.float32)
    model = cylstm.Sequential([cylstm.Dense(1, 16, activation="tanh", rng=rng), cylstm.Dense(16, 1, rng=rng)])
    train(model, [x], x**2, mse, rng, epochs=40, lr=0.03)
    report("one to one", "rms error", np.sqrt(mse(model.predict(x[-UNSEEN:]), x[-UNSEEN:] ** 2)[0]), 0.02)


def one_to_many(rng):
    x = rng.uniform(0.2, 1.0, (ROWS, 1)).astype(np.float32)
    y = np.sin(x[:, None] * np.arange(12, dtype=np.float32)[:, None])
    model = cylstm.Sequential([cylstm.Repeat(12), cylstm.GRU(1, 32, rng=rng), cylstm.Dense(32, 1, rng=rng)])
    train(model, [x], y, mse, rng)
    report("one to many", "rms error", np.sqrt(mse(model.predict(x[-UNSEEN:]), y[-UNSEEN:])[0]), 0.05)


def ragged(x, rng, least):
    """Zeros behind a length drawn by lot, which is returned."""
    lengths = rng.integers(least, x.shape[1] + 1, len(x))
    x[np.arange(x.shape[1]) >= lengths[:, None]] = 0
    return lengths


def many_to_one(rng):
    x = rng.uniform(-1, 1, (ROWS, 10, 1)).astype(np.float32)
    lengths = ragged(x, rng, 3)
    y = x[:, :1, 0] > x[np.arange(ROWS), lengths - 1]
    model = cylstm.Sequential([
        cylstm.Masking(), cylstm.LSTM(1, 24, forget_bias=1.0, rng=rng), cylstm.Last(),
        cylstm.Dense(24, 1, activation="sigmoid", rng=rng),
    ])  # fmt: skip
    train(model, [x], y, binary_crossentropy, rng)
    y_pred = model.predict(x[-UNSEEN:])
    report("many to one", "accuracy", ((y_pred > 0.5) == y[-UNSEEN:]).mean(), 0.95, least=True)
    lengths = lengths[-UNSEEN:]
    check_padding("many to one", y_pred, lambda n: model.predict(x[n - UNSEEN, None, : lengths[n]]), lengths)


def many_to_many(rng):
    bits = rng.integers(0, 2, (ROWS, 12, 1))
    x = (2 * bits - 1).astype(np.float32)  # a zero is -1: 0 is padding
    lengths = ragged(x, rng, 4)
    y = bits.cumsum(axis=1) % 2
    model = cylstm.Sequential([
        cylstm.Masking(), cylstm.GRU(1, 16, rng=rng), cylstm.Dense(16, 1, activation="sigmoid", rng=rng)
    ])  # fmt: skip
    train(model, [x], y, binary_crossentropy, rng, epochs=30, lr=0.02, lengths=lengths)
    y_pred, lengths = model.predict(x[-UNSEEN:]), lengths[-UNSEEN:]
    valid = np.arange(12) < lengths[:, None]
    report("many to many, aligned", "accuracy", ((y_pred > 0.5) == y[-UNSEEN:])[valid].mean(), 0.99, least=True)
    check_padding("many to many", y_pred, lambda n: model.predict(x[n - UNSEEN, None, : lengths[n]]), lengths)


def encoder_decoder(rng):
    x = rng.integers(1, LETTERS + 1, (ROWS, 5))
    lengths = ragged(x, rng, 2)
    y = np.zeros((ROWS, 6), int)
    for row, word, length in zip(y, x, lengths, strict=True):
        row[:length] = word[:length][::-1]
    y_in = np.hstack([np.full((ROWS, 1), LETTERS + 1), y[:, :-1]])
    model = cylstm.EncoderDecoder(
        [cylstm.Embedding(LETTERS + 1, 16, mask_zero=True, rng=rng), cylstm.GRU(16, 64, rng=rng)],
        [cylstm.Embedding(LETTERS + 2, 16, rng=rng), cylstm.GRU(16, 64, rng=rng),
         cylstm.Dense(64, LETTERS + 1, activation="softmax", rng=rng)],
    )  # fmt: skip
    train(model, [x, y_in], y, sparse_categorical_crossentropy, rng, epochs=30, lengths=lengths + 1)
    x, y_in, y, lengths = (array[-UNSEEN:] for array in (x, y_in, y, lengths))
    tokens, _ = model.greedy(x, LETTERS + 1, 0, 6)
    report("many to many, encoder-decoder", "words right", (tokens == y).all(axis=1).mean(), 0.95, least=True)
    y_pred, _ = model.forward(x, y_in)

    def alone(n):
        return model.forward(x[n : n + 1, : lengths[n]], y_in[n : n + 1, : lengths[n] + 1])[0]

    check_padding("many to many, encoder-decoder", y_pred, alone, lengths + 1)


def main():
    begin = time.perf_counter()
    for task in (one_to_one, one_to_many, many_to_one, many_to_many, encoder_decoder):
        start = time.perf_counter()
        task(np.random.default_rng(0))
        print(f"{'':30} {time.perf_counter() - start:.1f} s")
    print(f"all learned, in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
