"""tract: the ONNX graph made into a runnable, of a step with the state in and out as tract's own tensors."""

import os
import tempfile

import numpy as np
import tract

from . import Job
from .onnx_graph import model, states, time_major


def _runnable(case, data):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        with open(path, "wb") as file:
            file.write(model(case, data))
        return tract.onnx().load(path).into_model().into_runnable()


def prepare(case, data):
    run = _runnable(case, data).spawn_state().run
    x = tract.Tensor.from_numpy(data.x)
    if case.kind != "step":
        names = {"run": run, "inputs": [x]}
        return Job("run(inputs)", names, lambda: {"y": time_major(case, run([x])[0].to_numpy())}, alive=x)

    state = [tract.Tensor.from_numpy(np.zeros_like(data.h_0)) for _ in states(case)]

    def step():
        nonlocal state
        state = run([x, *state])
        return state[0]

    return Job("step()", {"step": step}, lambda: {"y": step().to_numpy()}, alive=x)
