"""A stack of Keras layers, a classifier of gestures, layer by layer, and what the NumPy reference computes for it.

In Keras::

    Sequential([Input((5, 126)),
                LSTM(64, activation="relu", return_sequences=True),
                LSTM(128, activation="relu", return_sequences=True),
                LSTM(64, activation="relu"),
                Dense(64, activation="relu"), Dense(32, activation="relu"), Dense(3, activation="softmax")])

Keras' ``activation`` is that of the candidate and of the output; its gates stay sigmoids, and it has one bias.

    python examples/keras_stack.py
"""

import numpy as np

import cylstm
from cylstm import Dense, Last, Sequential, reference
from cylstm.losses import sparse_categorical_crossentropy

BATCH, SEQ_LEN, FEATURES, CLASSES = 32, 5, 126, 3
RELU = ("sigmoid", "relu", "relu")
# The reference computes in float64, the model in float32, whose numbers are 6e-8 apart below 1: sums of up to 254
# products, through 15 steps and three layers. Relative to the largest number of an array.
ALLOWED = 1e-5


def check(what, holds):
    print(f"{what}: {'yes' if holds else 'NO'}")
    if not holds:
        raise SystemExit(f"not so: {what}")


def largest_difference(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def by_the_reference(parameters, x, labels):
    """Probabilities, the loss, and its gradients by the names of ``parameters``: the layers one by one."""
    of = {}
    for name, value in parameters.items():
        layer, _, inner = name.partition(".")
        of.setdefault(layer, {})[inner] = value.astype(np.float64)
    y, caches = x.swapaxes(0, 1).astype(np.float64), {}  # the reference has time first
    for layer in ("0", "1", "2"):
        y, _, caches[layer] = reference.lstm_forward(of[layer], y, activations=RELU)
    y = y[-1]
    for layer, activation in (("4", "relu"), ("5", "relu"), ("6", "softmax")):
        y, caches[layer] = reference.dense_forward(y, **of[layer], activation=activation)
    loss = -np.log(y[np.arange(len(y)), labels]).mean()

    gradients = {}
    dy = np.where(np.arange(CLASSES) == labels[:, None], -1 / (len(y) * y), 0.0)
    for layer in ("6", "5", "4"):
        dy, _, gradients[layer] = reference.dense_backward(caches[layer], dy)
    dy = np.concatenate([np.zeros((SEQ_LEN - 1, *dy.shape)), dy[None]])  # of the last step alone
    for layer in ("2", "1", "0"):
        dy, _, gradients[layer] = reference.lstm_backward(caches[layer], dy)
    return y, loss, {name: gradients[name[0]][name[2:]] for name in parameters}


def main():
    rng = np.random.default_rng(0)
    model = Sequential([
        cylstm.LSTM(FEATURES, 64, bias="single", activations=RELU, rng=rng),
        cylstm.LSTM(64, 128, bias="single", activations=RELU, rng=rng),
        cylstm.LSTM(128, 64, bias="single", activations=RELU, rng=rng),
        Last(),
        Dense(64, 64, activation="relu", rng=rng),
        Dense(64, 32, activation="relu", rng=rng),
        Dense(32, CLASSES, activation="softmax", rng=rng),
    ])  # fmt: skip
    print(model.summary())
    counts = [row.parameters for row in model.summary().rows]
    check("each layer has as many parameters as in Keras", counts == [48896, 98816, 49408, 0, 4160, 2080, 99])

    x = rng.standard_normal((BATCH, SEQ_LEN, FEATURES), dtype=np.float32)
    labels = rng.integers(CLASSES, size=BATCH)
    tape = cylstm.Tape()
    y, _ = model.forward(x, tape=tape)
    loss, dy = sparse_categorical_crossentropy(y, labels)
    gradients = model.backward(tape, dy).parameters

    y_reference, loss_reference, gradients_reference = by_the_reference(model.parameters, x, labels)
    print(f"\nloss {loss:.6f}, of the reference {loss_reference:.6f}")
    difference = largest_difference(y, y_reference)
    check(f"probabilities agree within {ALLOWED:g} ({difference:.1e})", difference <= ALLOWED)
    differences = {name: largest_difference(gradients[name], gradients_reference[name]) for name in gradients}
    worst = max(differences, key=differences.get)
    check(f"so do the gradients of all {len(differences)} parameters (worst: {worst}, {differences[worst]:.1e})",
          differences[worst] <= ALLOWED)  # fmt: skip

    stream = model.stream(BATCH)
    for t in range(SEQ_LEN):
        streamed = stream.step(np.ascontiguousarray(x[:, t]))
    check("step by step it computes the same bits", streamed.tobytes() == model.predict(x).tobytes())
    print("the stack computes what the reference computes")


if __name__ == "__main__":
    main()
