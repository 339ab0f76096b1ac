"""Makes zero_position.npz, what examples/zero_position.py is compared with: the same training by Keras 3.

Run it from anywhere, after ``pip install keras torch``; the file lands beside it::

    python examples/data/make_zero_position.py

    weight_ih_l0 (16, 3), weight_hh_l0 (16, 4), bias_ih_l0 (16,)    Keras' initial weights of the LSTM, transposed
    weight (2, 4), bias (2,)                                        those of the Dense layer
    orders (EPOCHS, 15)                                             the order of the sequences in each epoch
    losses (EPOCHS,)                                                the loss of each epoch, as fit reports it
    accuracies (EPOCHS,)                                            and its accuracy
"""

import os
from pathlib import Path

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras

EPOCHS, BATCH_SIZE, LR = 100, 3, 5e-3


def main():
    keras.utils.set_random_seed(0)
    x = np.tile(np.arange(1, 16, dtype=np.float32), (15, 1))
    np.fill_diagonal(x, 0)
    x, y = x.reshape(15, 5, 3), np.eye(2, dtype=np.float32)[(np.arange(15) >= 8).astype(int)]
    model = keras.Sequential(
        [keras.Input((5, 3)), keras.layers.LSTM(4), keras.layers.Dense(2, activation="sigmoid")]
    )
    model.compile(keras.optimizers.Adam(LR), "binary_crossentropy", metrics=["categorical_accuracy"])
    kernel, recurrent_kernel, bias, dense_kernel, dense_bias = model.get_weights()
    start = {
        "weight_ih_l0": kernel.T, "weight_hh_l0": recurrent_kernel.T, "bias_ih_l0": bias, "weight": dense_kernel.T,
        "bias": dense_bias,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    orders = np.array([rng.permutation(15) for _ in range(EPOCHS)])
    losses, accuracies = [], []
    for order in orders:
        history = model.fit(x[order], y[order], batch_size=BATCH_SIZE, shuffle=False, verbose=0).history
        losses += history["loss"]
        accuracies += history["categorical_accuracy"]
    print(f"keras {keras.__version__}: loss {losses[0]:.3f} to {losses[-1]:.3f}, accuracy {accuracies[-1]:.3f}")
    np.savez(
        Path(__file__).with_name("zero_position.npz"), **start, orders=orders.astype(np.int8), losses=losses,
        accuracies=accuracies,
    )  # fmt: skip


if __name__ == "__main__":
    main()
