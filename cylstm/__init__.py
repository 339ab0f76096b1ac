"""LSTM at the speed of the machine: recurrent layers for CPUs, forwards, backwards and one step at a time."""

import importlib

from .config import show_config
from .layers import GRU, LSTM, RNN, JordanRNN
from .parallel import get_num_threads, set_num_threads
from .stream import Stream
from .tape import Gradients, Tape

__version__ = "0.1.0"

#: Counts changes of the last bits of sigmoid and tanh. Within one version they are frozen.
MATH_VERSION = 1

# Imported when first used: inference needs none of them.
_LAZY_MODULES = (
    "encoder_decoder", "feedforward", "fitting", "initializers", "losses", "metrics", "plot", "reference", "saving",
    "schedules", "sequential", "testing", "training", "wrappers",
)  # fmt: skip
_LAZY_NAMES = {
    **dict.fromkeys(
        (
            "Activation", "Dense", "Dropout", "Embedding", "Flatten", "LayerNorm", "Last", "Masking", "Repeat",
            "Reverse",
        ),
        "feedforward",
    ),
    "EncoderDecoder": "encoder_decoder",
    **dict.fromkeys(("Bidirectional", "Final"), "wrappers"),
    "Sequential": "sequential",
    "from_onnx": "interop.onnx",
    "to_onnx": "interop.to_onnx",
    "load": "saving",
    **dict.fromkeys(("Checkpoint", "EarlyStopping"), "fitting"),
    **dict.fromkeys(("SGD", "Adam", "AdamW", "RMSprop", "clip_grad_norm", "clip_grad_value"), "training"),
}

__all__ = [
    "GRU",
    "LSTM",
    "MATH_VERSION",
    "RNN",
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "Bidirectional",
    "Checkpoint",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "EncoderDecoder",
    "Final",
    "Flatten",
    "Gradients",
    "JordanRNN",
    "Last",
    "LayerNorm",
    "Masking",
    "RMSprop",
    "Repeat",
    "Reverse",
    "Sequential",
    "Stream",
    "Tape",
    "clip_grad_norm",
    "clip_grad_value",
    "encoder_decoder",
    "feedforward",
    "fitting",
    "from_onnx",
    "get_num_threads",
    "initializers",
    "load",
    "losses",
    "metrics",
    "plot",
    "reference",
    "saving",
    "schedules",
    "sequential",
    "set_num_threads",
    "show_config",
    "testing",
    "to_onnx",
    "training",
    "wrappers",
]


def __getattr__(name):
    if name in _LAZY_MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY_MODULES, *_LAZY_NAMES])
