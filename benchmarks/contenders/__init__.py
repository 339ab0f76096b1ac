"""Who runs: one entry per contender. Each is imported in its own process only.

A module offers functions ``(case, data) -> Job``, one per way of calling its library, and raises
``Unsupported`` for a case that the library or that way has no answer to.
"""

import importlib
from dataclasses import dataclass

OURS = "ours"
BEFORE = "before"


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


@dataclass(frozen=True)
class Contender:
    name: str
    module: str
    prepare: str  # the function in it
    requires: tuple  # packages, the library itself first
    kinds: tuple
    cells: tuple = ("lstm",)

    def runs(self, case):
        return case.kind in self.kinds and case.cell in self.cells

    @property
    def package(self):
        return self.name.split(":")[0]

    def load(self):
        return getattr(importlib.import_module(f"contenders.{self.module}"), self.prepare)


_CELLS = ("lstm", "gru", "rnn")
_EVERY = ("step", "seq", "batch", "train")
_SEQUENCES = ("seq", "batch")
_INFERENCE = ("step", *_SEQUENCES)
_ONNX = ("onnxruntime", "onnx")

CONTENDERS = [
    Contender(OURS, "ours", "prepare", ("cylstm",), _EVERY, _CELLS),
    Contender("numpy", "by_hand_numpy", "prepare", ("numpy",), _INFERENCE),
    Contender("numba:arrays", "by_hand_numba", "prepare", ("numba",), ("step", "seq")),
    Contender("numba:packed", "by_hand_numba", "prepare_packed", ("numba",), ("step",)),
    Contender("torch:layer", "pytorch", "prepare_layer", ("torch",), _EVERY, _CELLS),
    Contender("torch:traced-layer", "pytorch", "prepare_traced_layer", ("torch",), _SEQUENCES, _CELLS),
    Contender("torch:cell", "pytorch", "prepare_cell", ("torch",), ("step",), _CELLS),
    Contender("torch:traced-cell", "pytorch", "prepare_traced_cell", ("torch",), ("step",), _CELLS),
    Contender("onnxruntime:run", "onnx_runtime", "prepare_run", _ONNX, _INFERENCE, _CELLS),
    Contender("onnxruntime:io_binding", "onnx_runtime", "prepare_io_binding", _ONNX, _INFERENCE, _CELLS),
    Contender("openvino:bound", "open_vino", "prepare_bound", ("openvino",), _INFERENCE),
    Contender("openvino:stateful", "open_vino", "prepare_stateful", ("openvino",), ("step",)),
    Contender("litert", "litert", "prepare", ("ai_edge_litert", "flatbuffers"), ("step",)),
    Contender("jax:unroll=1", "jax_scan", "prepare_unroll_1", ("jax",), _EVERY),
    Contender("jax:unroll=10", "jax_scan", "prepare_unroll_10", ("jax",), (*_SEQUENCES, "train")),
]
