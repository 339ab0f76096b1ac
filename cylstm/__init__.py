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
    "encoder_decoder", "feedforward", "fitting", "initializers", "interop", "losses", "metrics", "plot", "reference",
    "saving", "schedules", "sequential", "testing", "training", "verification", "wrappers",
)  # fmt: skip
# Not among the names of this module: it needs PyTorch.
_OPTIONAL_MODULES = ("torch",)
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
    **dict.fromkeys(("from_torch", "load_torch", "to_torch_state_dict"), "interop.torch"),
    "Sequential": "sequential",
    "from_keras": "interop.keras",
    "from_onnx": "interop.onnx",
    "to_onnx": "interop.to_onnx",
    "load": "saving",
    "verify": "verification",
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
    "from_keras",
    "from_onnx",
    "from_torch",
    "get_num_threads",
    "initializers",
    "interop",
    "load",
    "load_torch",
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
    "to_torch_state_dict",
    "training",
    "verification",
    "verify",
    "wrappers",
]


def __getattr__(name):
    if name in _LAZY_MODULES or name in _OPTIONAL_MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY_MODULES, *_LAZY_NAMES])
