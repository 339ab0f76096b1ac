"""Makes the golden file losses.npz of tests/test_losses.py: losses of PyTorch and of Keras 3, with their gradients.

Run it from anywhere, after ``pip install keras torch``; the file lands beside it::

    python tests/golden/make_losses.py

store.py says how cases are kept. Here `about` has the name of the loss in this library, the options that it is called
with and the source, and `arrays` y_pred, target, sample_weight where there is one, value and gradient. Gradients are
those of automatic differentiation by PyTorch, Keras' too.

Keras clips probabilities; its cases have some that are clipped and, of classes, some that do not sum to one.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
from store import draw, save

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch
from keras.src.backend.common import dtypes
from torch.nn import functional

SHAPE = SEQ_LEN, BATCH, FEATURES = 4, 3, 5


def inputs():
    """Predictions and targets by what they are."""
    logits = 3 * draw("logits", *SHAPE)
    labels = np.abs(64 * draw("labels", SEQ_LEN, BATCH)).astype(int) % FEATURES
    softmax = torch.tensor(logits).softmax(-1).numpy()
    clipped = softmax.copy()
    clipped[0, 0] = np.eye(FEATURES)[labels[0, 0]]  # right, and sure of it
    clipped[0, 1] = np.eye(FEATURES)[labels[0, 1] - 1]  # wrong, and sure of it
    clipped[0, 2] = 1e-9
    clipped[1, 0] = [1e-9, 0.25, 0.5, 1e-6, 0.25]
    clipped[1] *= 3
    sigmoid = torch.tensor(logits).sigmoid().numpy()
    clipped_binary = sigmoid.copy()
    clipped_binary[0] = [0, 1, 1e-9, 1 - 1e-9, 1e-6]
    q = torch.tensor(draw("q", *SHAPE)).softmax(-1).numpy()
    return {
        "numbers": (draw("y_pred", *SHAPE), draw("target", *SHAPE)),
        "logits": (logits, labels),
        "logits_soft": (logits, q),
        "softmax": (softmax, labels),
        "clipped": (clipped, labels),
        "clipped_onehot": (clipped, np.eye(FEATURES)[labels]),
        "clipped_soft": (clipped, q),
        "logits_binary": (logits, np.abs(draw("target", *SHAPE)) / 1.5),
        "sigmoid": (sigmoid, np.abs(draw("target", *SHAPE)) / 1.5),
        "clipped_binary": (clipped_binary, np.round(np.abs(draw("target", *SHAPE)) / 1.5)),
    }


def flat(function):
    """A loss of PyTorch, whose classes are the second axis, of classes last."""
    return lambda y, t: function(y.reshape(-1, FEATURES), t.reshape(-1, *t.shape[2:]))


def nll_of_probabilities(y, t):
    """PyTorch's nll_loss of the logarithms of probabilities, divided by their sum for the sake of the gradient."""
    return flat(functional.nll_loss)((y / y.sum(-1, keepdim=True)).log(), t)


def torch_cases():
    """(name, our loss, our options, inputs, PyTorch's function of y_pred and target)."""
    yield "mse", "mse", {}, "numbers", functional.mse_loss
    yield "l1", "mae", {}, "numbers", functional.l1_loss
    for delta in (1.0, 0.5):
        yield f"huber_{delta}", "huber", {"delta": delta}, "numbers", partial(functional.huber_loss, delta=delta)
    yield "bce", "binary_crossentropy", {}, "sigmoid", functional.binary_cross_entropy
    from_logits = {"from_logits": True}
    bce_with_logits = functional.binary_cross_entropy_with_logits
    yield "bce_with_logits", "binary_crossentropy", from_logits, "logits_binary", bce_with_logits
    cross_entropy = flat(functional.cross_entropy)
    yield "cross_entropy", "sparse_categorical_crossentropy", from_logits, "logits", cross_entropy
    yield "cross_entropy_soft", "categorical_crossentropy", from_logits, "logits_soft", cross_entropy
    yield "nll", "sparse_categorical_crossentropy", {}, "softmax", nll_of_probabilities


def keras_cases():
    """(our loss, Keras' name of it, options of both, inputs)."""
    yield "mse", "mean_squared_error", {}, "numbers"
    yield "mae", "mean_absolute_error", {}, "numbers"
    for delta in (1.0, 0.5):
        yield "huber", "huber", {"delta": delta}, "numbers"
    for name, chosen in {
        "binary_crossentropy": ("logits_binary", "sigmoid", "clipped_binary"),
        "categorical_crossentropy": ("logits_soft", "clipped_onehot", "clipped_soft"),
        "sparse_categorical_crossentropy": ("logits", "softmax", "clipped"),
    }.items():
        for given in chosen:
            yield name, name, {"from_logits": "logits" in given}, given


def keras_mean(function, options, y, t, weight=None):
    """The mean of a loss of Keras, which has a value for each position."""
    loss = function(t, y, **options)
    return loss.mean() if weight is None else (loss * weight).sum() / weight.sum()


def result(function, y_pred, target, dtype, **arrays):
    """The arrays of a case."""
    y = torch.tensor(y_pred, dtype=dtype, requires_grad=True)
    t = torch.tensor(target, dtype=None if target.dtype.kind == "i" else dtype)
    value = function(y, t)
    value.backward()
    assert value.dtype == y.grad.dtype == dtype
    tensors = {"y_pred": y, "target": t, "value": value, "gradient": y.grad}
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()} | arrays


def main():
    given = inputs()
    cases = {}
    source = f"torch {torch.__version__.split('+')[0]}"
    for name, loss, options, kind, function in torch_cases():
        about = {"loss": loss, "options": options, "source": source}
        cases[f"torch_{name}"] = about, result(function, *given[kind], torch.float64)

    # By this table, means of every backend but TensorFlow's round to float32 on their way.
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    source = f"keras {keras.__version__}, {source}"
    weight = np.abs(draw("weight", SEQ_LEN, BATCH))
    weight[2] = 0
    for loss, keras_name, options, kind in keras_cases():
        function = getattr(keras.losses, keras_name)
        about = {"loss": loss, "options": options, "source": source}
        name = "_".join(["keras", loss, kind, *(str(x) for x in options.values() if type(x) is float)])
        for dtype in ("float64", "float32"):
            keras.config.set_floatx(dtype)
            mean = partial(keras_mean, function, options)
            cases[f"{name}_{dtype}"] = about, result(mean, *given[kind], getattr(torch, dtype))
        keras.config.set_floatx("float64")
        mean = partial(keras_mean, function, options, weight=torch.tensor(weight))
        cases[f"{name}_weighted"] = about, result(mean, *given[kind], torch.float64, sample_weight=weight)
    save(Path(__file__).parent / "losses.npz", cases)


if __name__ == "__main__":
    main()
