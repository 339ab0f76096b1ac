"""Layers x directions x dropout between layers, forwards and backwards. Knows no cell and loops over no step.

Everything is time-major here: x (T, B, I), y (T, B, D*H), states (L*D, B, H) in PyTorch's order: layer 0 forward,
layer 0 reverse, layer 1 forward, ...
"""

from functools import partial

import numpy as np

from . import parallel
from ._core import sequence
from ._core.packing import aligned_empty

# Multiply-adds above which a second thread pays: some ten times what waking it costs.
PARALLEL_OPERATIONS = 10_000_000
# Rows that a thread's slice of the batch has at least: fewer would leave its tiles half empty.
SLICE_ROWS = 4


class Record:
    """What a forward leaves on a tape for :func:`backward`, besides the tape's own buffers."""

    __slots__ = ("batched", "c", "call", "gates", "h", "inputs", "layer", "lengths", "shape", "snapshot")


def _slices(batch, directions):
    """[(first_row, last_row)]: how the batch is shared out to threads."""
    parts = max(1, min(parallel.get_num_threads() // directions, batch // SLICE_ROWS))
    return [(batch * part // parts, batch * (part + 1) // parts) for part in range(parts)]


def _run(function, weights, steps, batch, arguments):
    """function(weights, *arguments, first_row, last_row, cancellation) for every direction and slice.

    ``weights`` and ``arguments``: one per direction.
    """
    directions = len(weights)
    if steps * batch * directions * weights[0].operations > PARALLEL_OPERATIONS and parallel.get_num_threads() > 1:
        cancellation = sequence.Cancellation()
        tasks = [
            partial(function, packed, *rest, first, last, cancellation)
            for first, last in _slices(batch, directions)
            for packed, rest in zip(weights, arguments, strict=True)
        ]
        parallel.run(tasks, cancellation)
        return
    for packed, rest in zip(weights, arguments, strict=True):
        function(packed, *rest, 0, batch, None)


def forward(weights, num_directions, x, y, h_0, c_0, lengths):
    """Inference: fill y, return (h_n, c_n), new arrays. ``weights``: packed, one per layer and direction."""
    steps, batch, _ = x.shape
    layers = len(weights)
    hidden_size = weights[0].hidden_size
    dtype = y.dtype
    h = np.zeros((layers, 2, batch, hidden_size), dtype)  # two slots take turns
    c = np.zeros((layers, 1, batch, hidden_size), dtype)
    if h_0 is not None:
        h[:, 0] = h_0
        c[:, 0] = c_0
    for first in range(0, layers, num_directions):
        last = first + num_directions
        out = y if last == layers else np.empty((steps, batch, num_directions * hidden_size), dtype)
        if lengths is not None:
            out[...] = 0
        arguments = [
            (x, _half(out, k - first, num_directions), h[k], c[k], None, lengths, k > first)
            for k in range(first, last)
        ]
        _run(sequence.forward, weights[first:last], steps, batch, arguments)
        x = out
    return np.ascontiguousarray(h[:, steps % 2]), c[:, 0]


def _half(array, direction, num_directions):
    """The columns of one direction."""
    if num_directions == 1:
        return array
    width = array.shape[2] // num_directions
    return array[:, :, direction * width : (direction + 1) * width]


def forward_on_tape(weights, num_directions, x, y, h_0, c_0, lengths, tape, dropout):
    """As :func:`forward`, leaving on ``tape`` what :func:`backward` needs; returns (h_n, c_n) and the Record."""
    steps, batch, _ = x.shape
    hidden_size = weights[0].hidden_size
    dtype = y.dtype
    record = Record()
    record.shape = (steps, batch)
    record.lengths = lengths
    record.call = tape.calls
    record.inputs = []
    record.gates = []
    record.h = []
    record.c = []
    h_n = np.empty((len(weights), batch, hidden_size), dtype)
    c_n = np.empty((len(weights), batch, hidden_size), dtype)
    if lengths is not None:
        x = _without_padding(x, lengths, tape.buffer(("input", 0), x.shape, dtype))
    for first in range(0, len(weights), num_directions):
        last = first + num_directions
        layer = first // num_directions
        out = y
        if last != len(weights):
            out = tape.buffer(("output", layer), (steps, batch, num_directions * hidden_size), dtype)
        if lengths is not None:
            out[...] = 0
        arguments = []
        for k in range(first, last):
            packed = weights[k]
            reverse = k > first
            gates = tape.buffer(
                ("gates", layer, reverse), (steps, batch, packed.blocks, packed.gates, packed.lanes), dtype
            )
            h = tape.buffer(("h", layer, reverse), (steps + 1, batch, hidden_size), dtype)
            c = tape.buffer(("c", layer, reverse), (steps + 1, batch, hidden_size), dtype)
            before = steps if reverse else 0
            h[before] = 0 if h_0 is None else h_0[k]
            c[before] = 0 if c_0 is None else c_0[k]
            arguments.append((x, _half(out, reverse, num_directions), h, c, gates, lengths, reverse))
            record.gates.append(gates)
            record.h.append(h)
            record.c.append(c)
        _run(sequence.forward, weights[first:last], steps, batch, arguments)
        for k in range(first, last):
            after = 0 if k > first else steps
            h_n[k] = record.h[k][after]
            c_n[k] = record.c[k][after]
        record.inputs.append(x)
        if dropout and last != len(weights):
            _drop(out, tape.seed, record.call, layer, dropout)
        x = out
    return (h_n, c_n), record


def _drop(array, seed, call, layer, p):
    """Multiply by the mask of (seed, call, layer), forwards and backwards alike."""
    from ._core import noise

    noise.drop(array, seed, call, layer, p)


def _without_padding(x, lengths, out):
    """x with zeros past each length: a product with a zero gradient must not meet a NaN."""
    out[...] = x
    for row, length in enumerate(lengths.tolist()):
        out[length:, row] = 0
    return out


def backward(weights, num_directions, record, dy, dh_n, dc_n, seed, dropout):
    """(dx, (dh_0, dc_0), [(dweight_ih, dweight_hh, dbias)] per layer and direction), all new arrays.

    dy (T, B, D*H) or None. The tape's gates become dgates.
    """
    from ._core import blas

    steps, batch = record.shape
    hidden_size = weights[0].hidden_size
    dtype = weights[0].dtype
    dh_0 = np.empty((len(weights), batch, hidden_size), dtype)
    dc_0 = np.empty((len(weights), batch, hidden_size), dtype)
    products = [None] * len(weights)
    ones = np.ones((1, steps * batch), dtype)
    for first in range(len(weights) - num_directions, -1, -num_directions):
        last = first + num_directions
        if dy is None:
            dy = np.broadcast_to(np.zeros((1, 1, num_directions * hidden_size), dtype),
                                 (steps, batch, num_directions * hidden_size))  # fmt: skip
        arguments = []
        states = []
        for k in range(first, last):
            packed = weights[k]
            dstate = aligned_empty((2, batch, packed.blocks * packed.lanes), dtype, zero=True)
            if dh_n is not None:
                dstate[0, :, :hidden_size] = dh_n[k]
            if dc_n is not None:
                dstate[1, :, :hidden_size] = dc_n[k]
            states.append(dstate)
            arguments.append(
                (record.gates[k], record.c[k], _half(dy, k > first, num_directions), dstate[0], dstate[1],
                 record.lengths, k > first)
            )  # fmt: skip
        _run(sequence.backward, weights[first:last], steps, batch, arguments)

        # dweight_ih = dgates^T x,  dweight_hh = dgates^T h_prev,  dbias = sum dgates,  dx = dgates W_ih
        x = np.ascontiguousarray(record.inputs[first // num_directions])
        x = x.reshape(steps * batch, x.shape[2])
        dx = np.empty((steps, batch, x.shape[1]), dtype)
        for k in range(first, last):
            packed = weights[k]
            dh_0[k] = states[k - first][0, :, :hidden_size]
            dc_0[k] = states[k - first][1, :, :hidden_size]
            dgates = record.gates[k].reshape(steps * batch, packed.blocks * packed.gates * packed.lanes)
            h_prev = record.h[k][1:] if k > first else record.h[k][:steps]
            h_prev = h_prev.reshape(steps * batch, hidden_size)
            rows = dgates.shape[1]
            dweight_ih = np.empty((rows, x.shape[1]), dtype)
            dweight_hh = np.empty((rows, hidden_size), dtype)
            dbias = np.empty((1, rows), dtype)
            blas.matmul(dgates, x, dweight_ih, transpose_a=True)
            blas.matmul(dgates, h_prev, dweight_hh, transpose_a=True)
            blas.matmul(ones, dgates, dbias)
            blas.matmul(dgates, packed.interleaved_ih, dx.reshape(x.shape), add=k > first)
            products[k] = (
                packed.deinterleave(dweight_ih),
                packed.deinterleave(dweight_hh),
                packed.deinterleave(dbias.reshape(rows, 1)).reshape(-1),
            )
        if dropout and first:
            _drop(dx, seed, record.call, first // num_directions - 1, dropout)
        dy = dx
    return dy, (dh_0, dc_0), products
