"""Sequence to sequence: dates as people write them are rewritten as ISO 8601 has them, character by character.

An encoder reads "3 march 1994", "march 3, 1994", "3rd of mar 1994", "3.3.1994" or "1994/3/3", forwards and backwards; a
decoder goes on from the states that it left and writes "1994-03-03". It is trained with the right characters given to
the decoder, and judged by what it writes on its own for dates that it has not seen in any format.

    python examples/seq2seq_dates.py
"""

import argparse
import os
import time
from datetime import date, timedelta

# Products this small are no faster on several threads, and much slower where other programs are busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import cylstm

MONTHS = [date(2000, month, 1).strftime("%B").lower() for month in range(1, 13)]
ENDINGS = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}
FORMATS = (
    lambda day: f"{day.year}/{day.month}/{day.day}",
    lambda day: f"{day.day}.{day.month}.{day.year}",
    lambda day: f"{day.day} {MONTHS[day.month - 1]} {day.year}",
    lambda day: f"{MONTHS[day.month - 1]} {day.day}, {day.year}",
    lambda day: f"{day.day}{ENDINGS.get(day.day, 'th')} of {MONTHS[day.month - 1][:3]} {day.year}",
)
READ = {character: n for n, character in enumerate(" .,/0123456789abcdefghijklmnopqrstuvwxyz", start=1)}  # 0 is padding
WRITTEN = "-0123456789"
END, START = len(WRITTEN), len(WRITTEN) + 1  # START is read, but never written
STEPS = len("1994-03-03") + 1  # with END
UNSEEN = 2000
GOAL = 0.99


def write(days, formats, rng):
    """Each day in a format drawn by lot."""
    return [FORMATS[choice](day) for choice, day in zip(rng.integers(formats, size=len(days)), days, strict=True)]


def as_numbers(texts):
    """What the encoder reads, (n, longest), and the lengths."""
    lengths = [len(text) for text in texts]
    x = np.zeros((len(texts), max(lengths)), int)
    for row, text in zip(x, texts, strict=True):
        row[: len(text)] = [READ[character] for character in text]
    return x, np.array(lengths)


def as_targets(days):
    """What the decoder shall write, (n, STEPS)."""
    return np.array([[WRITTEN.index(character) for character in day.isoformat()] + [END] for day in days])


def build(rng):
    return cylstm.EncoderDecoder(
        [
            cylstm.Embedding(1 + len(READ), 16, rng=rng),
            cylstm.LSTM(16, 48, bidirectional=True, forget_bias=1.0, rng=rng),
        ],
        [
            cylstm.Embedding(START + 1, 16, rng=rng),
            cylstm.LSTM(16, 96, forget_bias=1.0, rng=rng),
            cylstm.Dense(96, END + 1, activation="softmax", rng=rng),
        ],
    )


def train(model, x, lengths, y, epochs, rng):
    y_in = np.roll(y, 1, axis=1)
    y_in[:, 0] = START
    optimizer = cylstm.Adam(lr=cylstm.schedules.cosine(5e-3, epochs * -(-len(x) // 64)))
    model.fit(
        (x, y_in), y, loss="sparse_categorical_crossentropy", optimizer=optimizer, epochs=epochs, batch_size=64,
        lengths=(lengths, None), clip_norm=1.0, rng=rng, progress=False,
        callbacks=[lambda training: print(f"epoch {training.epoch}/{epochs}  loss {training.logs['loss']:.4f}")],
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--dates", type=int, default=6000, help="how many it learns, each in two ways of writing")
    parser.add_argument("--formats", type=int, default=len(FORMATS), help="how many of the formats it learns")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    first, end = date(1900, 1, 1), date(2100, 1, 1)
    days = [first + timedelta(int(n)) for n in rng.permutation((end - first).days)]
    unseen, seen = days[:UNSEEN], 2 * days[UNSEEN : UNSEEN + options.dates]
    x, lengths = as_numbers(write(seen, options.formats, rng))
    model = build(rng)
    print(f"{len(seen):,} examples to train on, {sum(p.size for p in model.parameters.values()):,} parameters")
    begin = time.perf_counter()
    train(model, x, lengths, as_targets(seen), options.epochs, rng)
    seconds = time.perf_counter() - begin

    texts, right = write(unseen, options.formats, rng), as_targets(unseen)
    x, lengths = as_numbers(texts)
    tokens, written = model.greedy(x, START, END, STEPS, lengths)
    exact = (tokens == right).all(axis=1)
    for n in [*range(3), *np.flatnonzero(~exact)[:3]]:
        found = "".join(WRITTEN[token] for token in tokens[n, : written[n]])
        print(f"{texts[n]!r} is rewritten as {found}{'' if exact[n] else ', which is wrong'}")
    searched, _, log_p = model.beam(x, START, END, STEPS, width=4, lengths=lengths)
    print(f"greedy: {exact.mean():.2%} of {UNSEEN:,} dates that it has not seen, exactly")
    print(f"a beam of 4: {(searched == right).all(axis=1).mean():.2%}, mean probability {np.exp(log_p).mean():.4f}")
    print(f"trained for {seconds:.0f} s")
    if exact.mean() < GOAL:
        raise SystemExit(f"less than {GOAL:.0%} were rewritten exactly")


if __name__ == "__main__":
    main()
