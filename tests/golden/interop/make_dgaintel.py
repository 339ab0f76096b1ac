"""Makes dgaintel.json: scores that dgaintel's own model gives, by TensorFlow 2.15.

    python make_dgaintel.py PATH          PATH is that of dgaintel 2.3's domain_classifier_model.h5

Ran with tensorflow-cpu 2.15. The encoding is the package's: CHAR2IDX of its predict.py, 82 characters.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

NAMES = """wikipedia.org microsoft.com squarespace.com github.com python.org bbc.co.uk my-site.net a.b under_score.com
0123456789.com qzvkxwpfjt.com hsfkjdshfjasdhfk.com fdkhakshfda.com xn3k9vq7z2hj.net kdjfhgkwqmzx.info
foilfencersarebad.com discojjfdsf.com fasddafhkj.com wikipedai.com zzzzzzzzzzzzzzzzzzzzzzzz.biz *odd/one*.com
the-longest-name-of-them-all-has-two-and-eighty-characters-in-it-and-not-one-m.com""".split()  # noqa: SIM905
CHARACTERS = "-.0123456789_abcdefghijklmnopqrstuvwxyz"

model = tf.keras.models.load_model(sys.argv[1])
x = np.zeros((len(NAMES), 82))
for row, name in zip(x, NAMES, strict=True):
    row[: len(name)] = [CHARACTERS.index(c) if c in CHARACTERS else 1 for c in name]
scores = model(x).numpy()[:, 0]
text = json.dumps(dict(zip(NAMES, map(float, scores), strict=True)), indent=1)
Path(__file__).with_name("dgaintel.json").write_text(text + "\n")
