"""ONNX Runtime: the operator of the cell by ``run`` and by io_binding, its threads as many as are asked for.

A step is a graph of T = 1 with the state in and out; two bindings take turns, so that one call's
outputs are the next one's inputs without a copy.
"""

import numpy as np
import onnxruntime

from ..machine import threads
from . import Job
from .onnx_graph import model, states, time_major


def _session(case, data):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model(case, data), options, providers=["CPUExecutionProvider"])


def _feed(case, data):
    """The inputs of a sequence."""
    return {"x": data.x, **({"lengths": data.lengths.astype(np.int32)} if case.ragged else {})}


def prepare_run(case, data):
    run = _session(case, data).run
    if case.kind == "step":
        names = states(case)
        feed = {"x": data.x, "h": data.h_0, "c": data.c_0}
        feed = {name: feed[name] for name in ("x", *names)}

        def step():
            feed.update(zip(names, run(None, feed), strict=True))
            return feed["h"]

        return Job("step()", {"step": step}, lambda: {"y": step()})
    feed = _feed(case, data)
    return Job(
        "run(None, feed)",
        {"run": run, "feed": feed},
        lambda: {"y": time_major(case, run(None, feed)[0])},
    )


def prepare_io_binding(case, data):
    session = _session(case, data)
    run = session.run_with_iobinding
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    if case.kind != "step":
        binding = session.io_binding()
        feed = _feed(case, data)
        inputs = {name: value(array) for name, array in feed.items()}
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, array)
        y = value(np.empty(session.run(None, feed)[0].shape, np.float32))
        binding.bind_ortvalue_output(session.get_outputs()[0].name, y)

        def check():
            run(binding)
            return {"y": time_major(case, y.numpy())}

        return Job("run(binding)", {"run": run, "binding": binding}, check, alive=(inputs, y))

    x, names = value(data.x), states(case)
    slots = [[value(data.h_0.copy()), value(data.c_0.copy())][: len(names)] for _ in range(2)]
    bindings = []
    for here, there in (slots, slots[::-1]):
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", x)
        for name, before, after in zip(names, here, there, strict=True):
            binding.bind_ortvalue_input(name, before)
            binding.bind_ortvalue_output(f"{name}_n", after)
        bindings.append(binding)
    now, then = bindings
    h_now, h_then = slots[1][0], slots[0][0]

    def step():
        nonlocal now, then, h_now, h_then
        run(now)
        h = h_now
        now, then, h_now, h_then = then, now, h_then, h_now
        return h

    return Job("step()", {"step": step}, lambda: {"y": step().numpy()}, alive=(x, slots))
