"""Digits read row by row: an LSTM takes an image of 8 x 8 pixels as eight time steps, and then names the digit.

The training of ``python -m cylstm demo`` in a few lines; mnist_rows.py has the one of the 60,000 images of MNIST.

    python examples/digits_rows.py
"""

import os

# Products this small are no faster on several threads, and much slower where other programs are busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import cylstm
from cylstm.data import load_digits

HIDDEN_SIZE, EPOCHS, BATCH_SIZE = 96, 25, 32
GOAL = 0.97


def main():
    images, labels = load_digits("train")  # (1438, 8, 8), (1438,)
    rng = np.random.default_rng(0)
    model = cylstm.Sequential([
        cylstm.LSTM(8, HIDDEN_SIZE, rng=rng),
        cylstm.Last(),
        cylstm.Dense(HIDDEN_SIZE, 10, activation="softmax", rng=rng),
    ])  # fmt: skip
    print(model.summary())
    steps = EPOCHS * -(-len(images) // BATCH_SIZE)
    model.fit(
        images, labels, loss="sparse_categorical_crossentropy", metrics=["accuracy"],
        optimizer=cylstm.Adam(lr=cylstm.schedules.cosine(1e-2, steps)), clip_norm=1.0,
        epochs=EPOCHS, batch_size=BATCH_SIZE, rng=rng,
    )  # fmt: skip

    images, labels = load_digits("test")
    accuracy = model.evaluate(images, labels, metrics=["accuracy"])["accuracy"]
    print(f"accuracy on {len(images)} images it has not seen: {100 * accuracy:.1f} %")

    print(f"a {labels[0]}, one row at a time:")
    stream = model.stream()
    for row in images[0]:
        p = stream.step(row)
        ink = "".join(" .:*#"[round(4 * pixel)] for pixel in row)
        print(f"  |{ink}|  a {p.argmax()}, with a probability of {p.max():.2f}")
    if p.tobytes() != model.predict(images)[0].tobytes():
        raise SystemExit("the stream ends with other probabilities than those of the whole image")
    print("the stream ends with the bits of the probabilities of the whole image")
    if accuracy < GOAL:
        raise SystemExit(f"less than {GOAL:.0%} of the images were read right")
    print(f"{GOAL:.0%} or more were read right")


if __name__ == "__main__":
    main()
