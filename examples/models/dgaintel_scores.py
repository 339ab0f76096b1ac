"""A detector of domain names that a program made up: dgaintel's model, which Keras 2 saved and Keras 3 can not open.

The package dgaintel [1]_ has a model of TensorFlow 2.0's Keras in an .h5 file: an embedding of characters, a
convolution, a pooling, an LSTM and a Dense. The file is opened without TensorFlow:
``cylstm.from_keras(path, layer=...)`` takes out the layers that cylstm has, one by one, and NumPy does the convolution
between them. The names are encoded as the package does it: 82 characters, of which the missing ones are index 0.

    python examples/models/dgaintel_scores.py [NAME ...] [--model PATH]

PATH is that of the .h5 file, by default in the installed package, which is looked for and not imported (it needs
TensorFlow): ``pip install --no-deps dgaintel``. It prints a score for each name, 0 for one that people would choose to
1 for one that a program made, and what it checked; it exits with 1 where a check fails.

.. [1] https://pypi.org/project/dgaintel/
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

# Products this small are no faster on several threads, and much slower where other programs are busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import cylstm
from cylstm import reference

FILE = "domain_classifier_model.h5"
CHARACTERS = "-.0123456789_abcdefghijklmnopqrstuvwxyz"  # in the order of their indices
UNKNOWN = CHARACTERS.index(".")  # what stands for any other character
LENGTH = 82
NAMES = ("wikipedia.org", "microsoft.com", "squarespace.com", "qzvkxwpfjt.com", "xn3k9vq7z2hj.net", "kdjfhgkwqmzx.info")


def installed_model():
    """The path of the model in the installed package; None where it is not installed."""
    found = importlib.util.find_spec("dgaintel")
    places = (found.submodule_search_locations or []) if found is not None else []
    return next((path for path in (Path(place) / FILE for place in places) if path.is_file()), None)


def encoded(names):
    """(N, LENGTH) of indices: a row for each name."""
    indices = np.zeros((len(names), LENGTH), np.intp)
    for row, name in zip(indices, names, strict=True):
        if len(name) > LENGTH:
            raise ValueError(f"{name!r} has {len(name)} characters, expected at most {LENGTH}")
        for n, character in enumerate(name.lower()):
            row[n] = CHARACTERS.index(character) if character in CHARACTERS else UNKNOWN
    return indices


class Detector:
    """The model: the layers of cylstm, and the convolution and pooling between them."""

    def __init__(self, path):
        import h5py

        self.embedding = cylstm.from_keras(path, layer="embedding_4")
        self.end = cylstm.Sequential([
            (name, cylstm.from_keras(path, layer=name)) for name in ("lstm_4", "dropout", "dense_4")
        ])  # fmt: skip
        with h5py.File(path) as file:  # which cylstm has no layer for
            weights = file["model_weights/conv1d_4/conv1d_4"]
            self.kernel, self.bias = weights["kernel:0"][()], weights["bias:0"][()]

    def sequences(self, names):
        """(N, LENGTH / 2, 128): what the LSTM is given."""
        x = self.embedding.forward(encoded(names))
        padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
        x = sum(padded[:, k : k + LENGTH] @ self.kernel[k] for k in range(len(self.kernel))) + self.bias
        return np.maximum(x, 0).reshape(len(names), LENGTH // 2, 2, -1).max(axis=2)

    def scores(self, names):
        """(N,)"""
        return self.end.predict(self.sequences(names))[:, 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=NAMES, help="domain names")
    parser.add_argument("--model", help=f"path of {FILE}; by default that of the installed package")
    arguments = parser.parse_args()
    path = arguments.model or installed_model()
    if path is None:
        sys.exit("dgaintel is not installed: pip install --no-deps dgaintel, or give --model")
    detector = Detector(path)
    names = list(arguments.names)
    scores = detector.scores(names)
    for name, score in zip(names, scores, strict=True):
        print(f"{score:8.6f}  {'made up' if score >= 0.5 else 'chosen ':7s}  {name}")

    lstm = detector.end["lstm_4"].layer
    x = detector.sequences(names)
    expected, _, _ = reference.lstm_forward(
        {name: value.astype(np.float64) for name, value in lstm.parameters.items()},
        x.swapaxes(0, 1).astype(np.float64),
    )
    error = abs(lstm.forward(x)[0].swapaxes(0, 1) - expected).max()
    alone = [float(detector.scores([name])[0]) for name in names]
    checks = {
        f"the LSTM is within 1e-5 of its reference in float64: {error:.1e}": error <= 1e-5,
        "a name by itself has the score that it has among others, within 1e-6": np.allclose(alone, scores, 0, 1e-6),
    }
    for words, holds in checks.items():
        print(f"{words}: {'yes' if holds else 'NO'}")
    if not all(checks.values()):
        sys.exit("not so: see above")


if __name__ == "__main__":
    main()
