"""ncnn: a net of its recurrent layers, float32 throughout; for a step the state goes in and comes out.

One sequence alone: its recurrent layers know no batch.
"""

import os
import tempfile

import ncnn
import numpy as np

from ..cases import states_of
from ..machine import threads
from . import Job

# PyTorch's gates, by number, in the order of ncnn.
_ORDER = {"lstm": (0, 1, 3, 2), "gru": (0, 1, 2), "rnn": (0,)}


def _reordered(case, array):
    parts = np.split(array, len(_ORDER[case.cell]))
    return np.concatenate([parts[number] for number in _ORDER[case.cell]])


def _bias(case, parameters, suffix):
    """(G*H,), of a GRU (4*H,): r, z, n of x, n of h."""
    of_x, of_h = (_reordered(case, parameters[f"bias_{of}_{suffix}"]) for of in ("ih", "hh"))
    if case.cell != "gru":
        return of_x + of_h
    H = case.hidden_size
    return np.concatenate([of_x[: 2 * H] + of_h[: 2 * H], of_x[2 * H :], of_h[2 * H :]])


def _arrays(case, parameters, layer):
    suffixes = [f"l{layer}", f"l{layer}_reverse"][: case.directions]
    yield np.stack([_reordered(case, parameters[f"weight_ih_{suffix}"]) for suffix in suffixes])
    yield np.stack([_bias(case, parameters, suffix) for suffix in suffixes])
    yield np.stack([_reordered(case, parameters[f"weight_hh_{suffix}"]) for suffix in suffixes])


def _net(case, data):
    """x (T, I) to y (T, D*H); of a step also the states, each (1, H), in and out."""
    net = ncnn.Net()
    net.opt.num_threads = threads()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    states = [name[0] for name in states_of(case, data)] if case.kind == "step" else []
    lines, model, last = ["Input x 0 1 x", *(f"Input {name} 0 1 {name}" for name in states)], [], "x"
    for layer in range(case.num_layers):
        arrays = list(_arrays(case, data.parameters, layer))
        for array in arrays:
            model += [np.zeros(1, np.uint32).tobytes(), array.tobytes()]  # 0: float32
        out = "y" if layer == case.num_layers - 1 else f"y{layer}"
        blobs = [last, *states, out, *(f"{name}_n" for name in states)]
        count, direction = 1 + len(states), 2 if case.bidirectional else 0
        lines.append(
            f"{case.cell.upper()} layer{layer} {count} {count} {' '.join(blobs)} "
            f"0={case.hidden_size} 1={arrays[0].size} 2={direction}"
        )
        last = out
    blobs = 1 + case.num_layers + 2 * len(states)
    net.load_param_mem("\n".join(["7767517", f"{len(lines)} {blobs}", *lines, ""]))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "weights.bin")
        with open(path, "wb") as file:
            file.write(b"".join(model))
        net.load_model(path)
    return net


def _mat(array):
    """A Mat of its own: one of an array shares its memory, and does not keep it alive."""
    array = np.ascontiguousarray(array)
    return ncnn.Mat(array).clone()


def prepare(case, data):
    net = _net(case, data)
    x = _mat(data.x[:, 0])
    create = net.create_extractor

    def forward():
        extractor = create()
        extractor.input("x", x)
        return extractor.extract("y")[1]

    names = [name[0] for name in states_of(case, data)]
    state = [_mat(array[0]) for array in states_of(case, data).values()]

    def step():
        nonlocal state
        extractor = create()
        extractor.input("x", x)
        for name, value in zip(names, state, strict=True):
            extractor.input(name, value)
        y = extractor.extract("y")[1]
        state = [extractor.extract(f"{name}_n")[1] for name in names]
        return y

    if case.kind == "step":
        return Job("step()", {"step": step}, lambda: {"y": np.array(step())[:, None]}, alive=net)
    return Job("forward()", {"forward": forward}, lambda: {"y": np.array(forward())[:, None]}, alive=net)
