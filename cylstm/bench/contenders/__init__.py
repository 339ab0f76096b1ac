"""Who runs: one entry per contender. Each is imported in its own process only.

A module offers functions ``(case, data) -> Job``, one per way of calling its library, and raises
``Unsupported`` for a case that the library or that way has no answer to.
"""

import importlib
from dataclasses import dataclass

OURS = "ours"
BEFORE = "before"  # another build of cylstm
OURS_OR_BEFORE = (OURS, BEFORE)


class Unsupported(Exception):
    """This contender does not run this case."""


@dataclass
class Job:
    """One call, ready to be timed.

    ``statement`` is what a user would write in a loop; it is compiled into the timing loop, so no
    wrapper is timed with it. ``names`` are its globals. ``check`` does what the statement does
    once more and returns its results as NumPy arrays: y (T, B, D*H) and, from training, the
    gradients too: ``x``, ``h_0``, ``c_0`` and the parameters' names. ``alive`` holds what a
    library reads or writes without owning it: freed, its memory would be used all the same.
    """

    statement: str
    names: dict
    check: object
    alive: object = None


_CELLS = ("lstm", "gru", "rnn")
_KINDS = ("step", "seq", "batch", "train")
_DTYPES = ("float32", "float64")
_SEQUENCES = ("seq", "batch")
_INFERENCE = ("step", *_SEQUENCES)


@dataclass(frozen=True)
class Contender:
    """A way of calling a library, and what it is for."""

    name: str  # library, or library:way
    module: str
    prepare: str  # the function in it
    requires: tuple  # packages, the library itself first
    kinds: tuple = _INFERENCE
    cells: tuple = ("lstm",)
    dtypes: tuple = ("float32",)
    ragged: bool = False
    threaded: bool = True
    like_ours: bool = False  # all of it

    def runs(self, case, threads=1):
        """Whether this contender is for the case. One that has no use for a second thread runs with one alone."""
        return self.like_ours or (
            case.kind in self.kinds
            and case.cell in self.cells
            and case.dtype in self.dtypes
            and (self.ragged or not case.ragged)
            and (self.threaded or threads == 1)
        )

    @property
    def package(self):
        return self.name.split(":")[0]

    def load(self):
        return getattr(importlib.import_module(f".{self.module}", __name__), self.prepare)


def called(name):
    """Return the contender of this name."""
    return next(contender for contender in CONTENDERS if contender.name == (OURS if name == BEFORE else name))


_ONNX = ("onnxruntime", "onnx")
_KERAS = ("tensorflow", "keras")
_ALL = (_CELLS, _DTYPES)

CONTENDERS = [
    Contender(OURS, "ours", "prepare", ("cylstm",), like_ours=True),
    Contender("reference", "reference", "prepare", ("numpy",), _KINDS, *_ALL, ragged=True, threaded=False),
    Contender("numpy", "by_hand_numpy", "prepare", ("numpy",), _INFERENCE, *_ALL, ragged=True),
    Contender("numba:arrays", "by_hand_numba", "prepare", ("numba",), ("step", "seq"), *_ALL, threaded=False),
    Contender("numba:packed", "by_hand_numba", "prepare_packed", ("numba",), ("step",), *_ALL, threaded=False),
    Contender("torch:layer", "pytorch", "prepare_layer", ("torch",), _KINDS, *_ALL, ragged=True),
    Contender("torch:traced-layer", "pytorch", "prepare_traced_layer", ("torch",), _SEQUENCES, *_ALL),
    Contender("torch:cell", "pytorch", "prepare_cell", ("torch",), ("step",), *_ALL),
    Contender("torch:traced-cell", "pytorch", "prepare_traced_cell", ("torch",), ("step",), *_ALL),
    Contender("onnxruntime:run", "onnx_runtime", "prepare_run", _ONNX, cells=_CELLS, ragged=True),
    Contender("onnxruntime:io_binding", "onnx_runtime", "prepare_io_binding", _ONNX, cells=_CELLS, ragged=True),
    Contender("openvino:bound", "open_vino", "prepare_bound", ("openvino",), cells=_CELLS, ragged=True),
    Contender("openvino:stateful", "open_vino", "prepare_stateful", ("openvino",), ("step",), _CELLS),
    Contender("litert", "litert", "prepare", ("ai_edge_litert", "flatbuffers"), ("step",), _CELLS),
    Contender("jax:unroll=1", "jax_scan", "prepare_unroll_1", ("jax",), _KINDS, *_ALL, ragged=True),
    Contender("jax:unroll=10", "jax_scan", "prepare_unroll_10", ("jax",), (*_SEQUENCES, "train"), *_ALL, ragged=True),
    Contender("tensorflow:function", "tf_keras_layers", "prepare_function", _KERAS, _KINDS, *_ALL, ragged=True),
    Contender("tensorflow:xla", "tf_keras_layers", "prepare_xla", _KERAS, _KINDS, *_ALL, ragged=True),
    Contender("tract", "tract_runnable", "prepare", ("tract", "onnx"), cells=_CELLS, threaded=False),
    Contender("ncnn", "ncnn_net", "prepare", ("ncnn",), ("step", "seq"), _CELLS),
]
