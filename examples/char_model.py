"""A model of characters: an LSTM learns a text by truncated back-propagation through time, and then writes on its own.

The text is cut into a few long rows, which are read side by side. ``tbptt`` cuts these into chunks: each makes a step
of the optimiser, and hands on the states of the layers, but no gradient. The model is judged by the last tenth of the
text, which it has not seen: how many bits does it take to say which character comes next? Its rivals are the counts of
pairs of characters and a uniform guess.

    python examples/char_model.py [TEXT] [--epochs N] [--temperature T] [--seed N]

TEXT is a file in UTF-8, Alice's Adventures in Wonderland if omitted.
"""

import argparse
import os
import time
from pathlib import Path

# Products this small are no faster on several threads, and much slower where other programs are busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import cylstm

ALICE = Path(__file__).with_name("data") / "alice.txt"
HIDDEN_SIZE, EMBEDDING_DIM = 160, 32
ROWS, CHUNK = 16, 50
LEAST = 1000  # characters: enough for the rows and the last tenth


def train(tokens, characters, epochs, rng):
    """A model that makes probabilities of the next token (n, T, characters) of tokens (n, T)."""
    model = cylstm.Sequential([
        cylstm.Embedding(characters, EMBEDDING_DIM, rng=rng),
        cylstm.LSTM(EMBEDDING_DIM, HIDDEN_SIZE, forget_bias=1.0, rng=rng),
        cylstm.Dropout(0.3),
        cylstm.Dense(HIDDEN_SIZE, characters, activation="softmax", rng=rng),
    ])  # fmt: skip
    print(model.summary())
    length = (len(tokens) - 1) // ROWS
    x = tokens[: ROWS * length].reshape(ROWS, length)
    y = tokens[1 : ROWS * length + 1].reshape(ROWS, length)
    steps = epochs * -(-length // CHUNK)
    model.fit(
        x, y, loss="sparse_categorical_crossentropy", optimizer=cylstm.Adam(lr=cylstm.schedules.cosine(1e-2, steps)),
        epochs=epochs, batch_size=ROWS, shuffle=False, tbptt=CHUNK, clip_norm=1.0, rng=rng,
    )  # fmt: skip
    return model


def pair_probabilities(tokens, characters):
    """How probable each token is after each, (characters, characters), from counts that begin at one."""
    counts = np.ones((characters, characters))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    return counts / counts.sum(axis=1, keepdims=True)


def bits(p, tokens):
    """The mean of -log2 of the probabilities p (T, characters) of tokens (T,)."""
    return -np.log2(p[np.arange(len(tokens)), tokens]).mean()


def write(model, start, count, temperature, rng):
    """``count`` tokens that follow those of ``start``, one at a time; more daring the higher the temperature."""
    stream = model.stream()
    for token in start:
        p = stream.step(token)
    for _ in range(count):
        p = (p / p.max()).astype(np.float64) ** (1 / temperature)
        token = rng.choice(len(p), p=p / p.sum())
        yield token
        p = stream.step(token)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", type=Path, default=ALICE, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.7, help="above 0, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args()
    try:
        text = options.text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"{options.text}: {error}")
    if len(text) < LEAST:
        parser.error(f"{options.text} has {len(text)} characters, expected at least {LEAST}")
    if options.epochs < 1 or options.temperature <= 0:
        parser.error("--epochs must be at least 1, --temperature above 0")

    alphabet = sorted(set(text))
    number = {character: n for n, character in enumerate(alphabet)}
    tokens = np.array([number[character] for character in text])
    seen, unseen = np.split(tokens, [len(tokens) * 9 // 10])
    rng = np.random.default_rng(options.seed)
    begin = time.perf_counter()
    model = train(seen, len(alphabet), options.epochs, rng)
    print(f"trained on {len(seen):,} characters in {time.perf_counter() - begin:.0f} s")

    stream = model.stream()
    begin = time.perf_counter()
    p = np.array([stream.step(token) for token in unseen[:-1]])
    microseconds = 1e6 * (time.perf_counter() - begin) / len(p)
    same = p.tobytes() == model.predict(unseen[None, :-1]).tobytes()
    pairs, uniform = bits(pair_probabilities(seen, len(alphabet))[unseen[:-1]], unseen[1:]), np.log2(len(alphabet))
    found = bits(p, unseen[1:])
    print(f"bits per character of the {len(p):,} after them: {found:.3f}; by counts of pairs {pairs:.3f}, "
          f"a uniform guess {uniform:.3f}")  # fmt: skip
    print(f"{microseconds:.1f} microseconds per streamed character, {'' if same else 'NOT '}the bits of predict")

    start = unseen[:40]
    written = write(model, start, 400, options.temperature, rng)
    print(f"\n{''.join(alphabet[token] for token in start)}|{''.join(alphabet[token] for token in written)}\n")
    if not same:
        raise SystemExit("the stream has other probabilities than predict")
    if not found < min(pairs, uniform):
        raise SystemExit("the model knows no more than its rivals")
    print("the model knows more than its rivals")


if __name__ == "__main__":
    main()
