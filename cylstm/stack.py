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

    __slots__ = (
        "batched", "c", "call", "dropout", "gates", "inputs", "layer", "lengths", "outputs", "rows", "seed", "shape",
        "snapshot",
    )  # fmt: skip


def _slices(batch, directions):
    """[(first_row, last_row)]: how the batch is shared out to threads."""
    parts = max(1, min(parallel.get_num_threads() // directions, batch // SLICE_ROWS))
    return [(batch * part // parts, batch * (part + 1) // parts) for part in range(parts)]


def _run(function, steps, batch, directions):
    """function(*arguments, first_row, last_row, cancellation) for every direction and slice of the batch.

    ``directions``: the arguments of each, its packed weights first.
    """
    work = steps * batch * len(directions) * directions[0][0].operations
    if work > PARALLEL_OPERATIONS and parallel.get_num_threads() > 1:
        cancellation = sequence.Cancellation()
        tasks = [
            partial(function, *arguments, first, last, cancellation)
            for first, last in _slices(batch, len(directions))
            for arguments in directions
        ]
        parallel.run(tasks, cancellation)
        return
    for arguments in directions:
        function(*arguments, 0, batch, None)


def forward(weights, num_directions, x, y, h_0, c_0, lengths):
    """Inference: fill y, return (h_n, c_n), new arrays. ``weights``: packed, one per layer and direction."""
    steps, batch, _ = x.shape
    layers = len(weights)
    hidden_size = weights[0].hidden_size
    dtype = y.dtype
    states = np.zeros((3, layers, batch, hidden_size), dtype)  # h in two slots that take turns, and c
    if h_0 is not None:
        states[0] = h_0
        states[2] = c_0
    for first in range(0, layers, num_directions):
        last = first + num_directions
        out = y if last == layers else np.empty((steps, batch, num_directions * hidden_size), dtype)
        if lengths is not None:
            out[...] = 0
        _run(sequence.forward, steps, batch, [
            (weights[k], x, _half(out, k - first, num_directions), states[:2, k], states[2:, k], None, lengths,
             k > first)
            for k in range(first, last)
        ])  # fmt: skip
        x = out
    return states[steps % 2], states[2]


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
    record.seed = tape.seed
    record.dropout = dropout
    record.rows = []
    record.gates = []
    record.c = []
    h_n = np.empty((len(weights), batch, hidden_size), dtype)
    c_n = np.empty((len(weights), batch, hidden_size), dtype)
    for first in range(0, len(weights), num_directions):
        last = first + num_directions
        layer = first // num_directions
        out = y
        if last != len(weights):
            out = tape.buffer(("y", layer % 2), (steps, batch, num_directions * hidden_size), dtype)
        if lengths is not None:
            out[...] = 0
        arguments = []
        states = []
        for k in range(first, last):
            packed = weights[k]
            reverse = k > first
            before, after = (steps, 0) if reverse else (0, steps)
            width = packed.input_size
            gates = tape.buffer(
                ("gates", layer, reverse), (steps, batch, packed.blocks, packed.gates, packed.lanes), dtype
            )
            c = tape.buffer(("c", layer, reverse), (steps + 1, batch, hidden_size), dtype)
            slots = tape.buffer(("rows", layer, reverse), (steps + 1, batch, width + hidden_size + 1), dtype)
            rows = slots[1:] if reverse else slots[:steps]
            rows[:, :, :width] = x
            rows[:, :, width + hidden_size] = 1
            if lengths is not None:
                _clear_padding(rows[:, :, :width], lengths)
            h = slots[:, :, width : width + hidden_size]
            h[before] = 0 if h_0 is None else h_0[k]
            c[before] = 0 if c_0 is None else c_0[k]
            arguments.append((packed, x, _half(out, reverse, num_directions), h, c, gates, lengths, reverse))
            states.append((h[after], c[after]))
            record.rows.append(rows)
            record.gates.append(gates)
            record.c.append(c)
        _run(sequence.forward, steps, batch, arguments)
        for k, (h, c) in enumerate(states, first):
            h_n[k] = h
            c_n[k] = c
        if dropout and last != len(weights):
            _drop(out, record.seed, record.call, layer, dropout)
        x = out
    return (h_n, c_n), record


def _clear_padding(x, lengths):
    """Zeros past each length: a product with a zero gradient must not meet a NaN."""
    for row, length in enumerate(lengths.tolist()):
        x[length:, row] = 0


def _drop(array, seed, call, layer, p):
    """Multiply by the mask of (seed, call, layer), forwards and backwards alike."""
    from ._core import noise

    noise.drop(array, seed, call, layer, p)


def backward(weights, num_directions, record, dy, dh_n, dc_n):
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
                (packed, record.gates[k], record.c[k], _half(dy, k > first, num_directions), dstate[0], dstate[1],
                 record.lengths, k > first)
            )  # fmt: skip
        _run(sequence.backward, steps, batch, arguments)

        # (dweight_ih | dweight_hh | dbias) = dgates^T (x | h_prev | 1),  dx = dgates W_ih
        dx = np.empty((steps, batch, weights[first].input_size), dtype)
        for k in range(first, last):
            packed = weights[k]
            width = packed.input_size
            dh_0[k] = states[k - first][0, :, :hidden_size]
            dc_0[k] = states[k - first][1, :, :hidden_size]
            dgates = record.gates[k].reshape(steps * batch, packed.blocks * packed.gates * packed.lanes)
            rows = record.rows[k].reshape(steps * batch, width + hidden_size + 1)
            dweight = np.empty((dgates.shape[1], rows.shape[1]), dtype)
            blas.matmul(dgates, rows, dweight, transpose_a=True)
            products[k] = (
                packed.deinterleave(dweight, 0, width),
                packed.deinterleave(dweight, width, width + hidden_size),
                packed.deinterleave(dweight, width + hidden_size, width + hidden_size + 1).reshape(-1),
            )
            _run(sequence.input_gradient, steps, batch, [(packed, record.gates[k], dx, k > first)])
        if record.dropout and first:
            _drop(dx, record.seed, record.call, first // num_directions - 1, record.dropout)
        dy = dx
    return dy, (dh_0, dc_0), products
