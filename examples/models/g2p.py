"""g2p-en spells English words in phonemes, by an encoder and a decoder that are GRUs in NumPy: here they run in cylstm.

The weights are those of the package, which must be there (its own dependencies need not):

    pip install --no-deps g2p-en
    python examples/models/g2p.py

Its ``predict`` is what ours is held against, on 1,000 words: those of the package's list of homographs, and others made
up letter by letter after these, since the package keeps the network for words that no dictionary has.
"""

import argparse
import importlib
import importlib.util
import statistics
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path
from unittest import mock

import numpy as np

import cylstm

START, END, MOST_PHONEMES = 2, 3, 20  # the tokens <s> and </s> of its phonemes, and where its loop ends
ROUNDS, TIMED_WORDS = 7, 200


def reference():
    """The package's own object, without NLTK and its data, which ``predict`` does not use."""
    others = ("nltk", "nltk.corpus", "nltk.tokenize", "inflect")
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in others}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its regular expressions' escapes
        return importlib.import_module("g2p_en.g2p").G2p()


class Speller:
    """What G2p.predict does, by cylstm."""

    def __init__(self, theirs):
        weights = theirs.variables
        graphemes, features = weights["enc_emb"].shape
        phonemes, hidden = weights["fc_w"].shape
        self.indices, self.phonemes = theirs.g2idx, theirs.phonemes
        self.model = cylstm.EncoderDecoder(
            [cylstm.Embedding(graphemes, features), cylstm.GRU(features, hidden)],
            [cylstm.Embedding(phonemes, features), cylstm.GRU(features, hidden), cylstm.Dense(hidden, phonemes)],
        )
        # Its cell has the gates in the order r, z, n, and r acts on the recurrent product: PyTorch's GRU, and ours.
        ours = {"weight_ih_l0": "w_ih", "weight_hh_l0": "w_hh", "bias_ih_l0": "b_ih", "bias_hh_l0": "b_hh"}
        arrays = {"decoder.2.weight": weights["fc_w"], "decoder.2.bias": weights["fc_b"]}
        for part, short in (("encoder", "enc"), ("decoder", "dec")):
            arrays[f"{part}.0.weight"] = weights[f"{short}_emb"]
            arrays |= {f"{part}.1.{name}": weights[f"{short}_{other}"] for name, other in ours.items()}
        self.model.load_state_dict(arrays)
        self.stream = self.model.decoder.stream()

    def letters(self, word):
        return [self.indices.get(letter, self.indices["<unk>"]) for letter in [*word, "</s>"]]

    def predict(self, word):
        """The phonemes of one word."""
        _, (_, h_n) = self.model.encoder.forward(np.array([self.letters(word)]))
        self.stream.reset([None, h_n[:, 0], None])
        token, tokens = START, []
        while len(tokens) < MOST_PHONEMES:
            token = int(self.stream.step(token).argmax())
            if token == END:
                break
            tokens.append(token)
        return [self.phonemes[token] for token in tokens]

    def predict_all(self, words):
        """The phonemes of many words, in one batch."""
        letters = [self.letters(word) for word in words]
        lengths = [len(row) for row in letters]
        x = np.zeros((len(words), max(lengths)), int)
        for row, indices in zip(x, letters, strict=True):
            row[: len(indices)] = indices
        tokens, counts = self.model.greedy(x, START, END, MOST_PHONEMES, lengths)
        return [[self.phonemes[n] for n in row[:count]] for row, count in zip(tokens, counts, strict=True)]


def words_of(package, count):
    """The headwords of the homographs, then words whose letters follow each other as in these."""
    lines = (package / "homographs.en").read_text(encoding="utf-8").splitlines()
    words = list(dict.fromkeys(line.split("|")[0].lower() for line in lines if not line.startswith("#")))
    followers = defaultdict(list)
    for word in words:
        letters = ["", "", *word, ""]
        for before, last, letter in zip(letters, letters[1:], letters[2:], strict=False):
            followers[before, last].append(letter)
    rng = np.random.default_rng(0)
    while len(words) < count:
        word, pair = "", ("", "")
        while letter := rng.choice(followers[pair]):
            word, pair = word + letter, (pair[1], str(letter))
        if 2 < len(word) < 15 and word not in words:
            words.append(word)
    return words[:count]


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=1000, metavar="N", help="how many (default: %(default)s)")
    count = parser.parse_args(argv).words
    found = importlib.util.find_spec("g2p_en")
    if found is None:
        print("g2p-en is not installed: pip install --no-deps g2p-en", file=sys.stderr)
        return 2
    theirs = reference()
    ours = Speller(theirs)
    words = words_of(Path(found.origin).parent, count)

    wanted = [theirs.predict(word) for word in words]
    alike = sum(ours.predict(word) == phonemes for word, phonemes in zip(words, wanted, strict=True))
    batched = sum(a == b for a, b in zip(ours.predict_all(words), wanted, strict=True))
    print(f"{', '.join(words[-3:])}: {' | '.join(' '.join(phonemes) for phonemes in wanted[-3:])}")
    print(f"the same phonemes: {alike:,} of {len(words):,} words one by one, {batched:,} in one batch")
    if not alike == batched == len(words):
        raise SystemExit("not so: every word is spelt as the package spells it")

    some = words[-TIMED_WORDS:]
    ways = {
        "the package, NumPy": lambda: [theirs.predict(word) for word in some],
        "cylstm, word by word": lambda: [ours.predict(word) for word in some],
        "cylstm, one batch": lambda: ours.predict_all(some),
    }
    times = {name: [] for name in ways}
    for _ in range(ROUNDS):  # in turns, so that what else the machine does falls on all of them
        for name, way in ways.items():
            times[name].append(seconds(way) / len(some))
    for name, each in times.items():
        faster = statistics.median(a / b for a, b in zip(times["the package, NumPy"], each, strict=True))
        print(f"{name:22}{1e6 * statistics.median(each):9.1f} us per word  {faster:6.1f} times as fast")
    return 0


if __name__ == "__main__":
    sys.exit(main())
