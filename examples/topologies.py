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

ROWS = 2000
SEEN, UNSEEN = slice(1500), slice(1500, ROWS)
LETTERS = 6  # 1 to 6; 0 is padding for the reader and the end for the writer, 7 starts it


def train(model, x, y, loss, rng, epochs=20, lr=0.01, lengths=None):
    optimizer = cylstm.Adam(lr=cylstm.schedules.cosine(lr, epochs * len(y) // 50))
    model.fit(
        x, y, loss=loss, optimizer=optimizer, epochs=epochs, batch_size=50, lengths=lengths, rng=rng, progress=False
    )


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
    train(model, x[SEEN], x[SEEN] ** 2, "mse", rng, epochs=40, lr=0.03)
    report("one to one", "rms error", model.evaluate(x[UNSEEN], x[UNSEEN] ** 2, metrics=["rmse"])["rmse"], 0.02)


def one_to_many(rng):
    x = rng.uniform(0.2, 1.0, (ROWS, 1)).astype(np.float32)
    y = np.sin(x[:, None] * np.arange(12, dtype=np.float32)[:, None])
    model = cylstm.Sequential([cylstm.Repeat(12), cylstm.GRU(1, 32, rng=rng), cylstm.Dense(32, 1, rng=rng)])
    train(model, x[SEEN], y[SEEN], "mse", rng)
    report("one to many", "rms error", model.evaluate(x[UNSEEN], y[UNSEEN], metrics=["rmse"])["rmse"], 0.05)


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
    train(model, x[SEEN], y[SEEN], "binary_crossentropy", rng)
    x, y, lengths = x[UNSEEN], y[UNSEEN], lengths[UNSEEN]
    report("many to one", "accuracy", model.evaluate(x, y, metrics=["accuracy"])["accuracy"], 0.95, least=True)
    check_padding("many to one", model.predict(x), lambda n: model.predict(x[n : n + 1, : lengths[n]]), lengths)


def many_to_many(rng):
    bits = rng.integers(0, 2, (ROWS, 12, 1))
    x = (2 * bits - 1).astype(np.float32)  # a zero is -1: 0 is padding
    lengths = ragged(x, rng, 4)
    y = bits.cumsum(axis=1) % 2
    model = cylstm.Sequential([
        cylstm.Masking(), cylstm.GRU(1, 16, rng=rng), cylstm.Dense(16, 1, activation="sigmoid", rng=rng)
    ])  # fmt: skip
    train(model, x[SEEN], y[SEEN], "binary_crossentropy", rng, epochs=30, lr=0.02)
    x, y, lengths = x[UNSEEN], y[UNSEEN], lengths[UNSEEN]
    accuracy = model.evaluate(x, y, metrics=["accuracy"])["accuracy"]  # of what is not masked
    report("many to many, aligned", "accuracy", accuracy, 0.99, least=True)
    check_padding("many to many", model.predict(x), lambda n: model.predict(x[n : n + 1, : lengths[n]]), lengths)


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
    train(
        model, (x[SEEN], y_in[SEEN]), y[SEEN], "sparse_categorical_crossentropy", rng, epochs=30,
        lengths=(None, lengths[SEEN] + 1),
    )  # fmt: skip
    x, y_in, y, lengths = (array[UNSEEN] for array in (x, y_in, y, lengths))
    tokens, _ = model.greedy(x, LETTERS + 1, 0, 6)
    report("many to many, encoder-decoder", "words right", (tokens == y).all(axis=1).mean(), 0.95, least=True)

    def alone(n):
        return model.predict((x[n : n + 1, : lengths[n]], y_in[n : n + 1, : lengths[n] + 1]))

    check_padding("many to many, encoder-decoder", model.predict((x, y_in)), alone, lengths + 1)


def main():
    begin = time.perf_counter()
    for task in (one_to_one, one_to_many, many_to_one, many_to_many, encoder_decoder):
        start = time.perf_counter()
        task(np.random.default_rng(0))
        print(f"{'':30} {time.perf_counter() - start:.1f} s")
    print(f"all learned, in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
