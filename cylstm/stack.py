"""Layers x directions x dropout between layers, forwards and backwards. Knows no cell and loops over no step.

Everything is time-major here: x (T, B, I), y (T, B, D*H), states (L*D, B, H) in PyTorch's order: layer 0 forward,
layer 0 reverse, layer 1 forward, ...
"""

import math
from functools import partial

import numpy as np

from . import parallel
from ._core import sequence
from ._core.packing import aligned_empty

_blas = None

# Multiply-adds above which a second thread pays: some ten times what waking it costs.
PARALLEL_OPERATIONS = 10_000_000
# Rows that a thread's slice of the batch has at least: fewer would leave its tiles half empty.
SLICE_ROWS = 4


class Record:
    """What a forward leaves on a tape for :func:`backward`, besides the tape's own buffers."""

    __slots__ = (
        "batched", "c", "call", "dropout", "gates", "h", "inputs", "layer", "lengths", "outputs", "recurrent", "rows",
        "seed", "shape", "snapshot",
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


def forward(weights, num_directions, x, y, states_0, lengths):
    """Inference: fill y, return the final states, new arrays. ``weights``: packed, one per layer and direction.

    States are lists, [h] or [h, c], each (L*D, B, H); the initial ones may be None: zeros.
    """
    steps, batch, _ = x.shape
    layers = len(weights)
    hidden_size = weights[0].hidden_size
    has_c = weights[0].has_c
    dtype = y.dtype
    states = np.zeros((2 + has_c, layers, batch, hidden_size), dtype)  # h in two slots that take turns, and c
    if states_0 is not None:
        states[0] = states_0[0]
        if has_c:
            states[2] = states_0[1]
    for first in range(0, layers, num_directions):
        last = first + num_directions
        out = y if last == layers else np.empty((steps, batch, num_directions * hidden_size), dtype)
        if lengths is not None:
            out[...] = 0
        _run(sequence.forward, steps, batch, [
            (weights[k], x, _half(out, k - first, num_directions), states[:2, k], states[2:, k] if has_c else None,
             None, None, lengths, k > first)
            for k in range(first, last)
        ])  # fmt: skip
        x = out
    return [states[steps % 2], states[2]] if has_c else [states[steps % 2]]


def _half(array, direction, num_directions):
    """The columns of one direction."""
    if num_directions == 1:
        return array
    width = array.shape[2] // num_directions
    return array[:, :, direction * width : (direction + 1) * width]


def forward_on_tape(weights, num_directions, x, y, states_0, lengths, tape, dropout):
    """As :func:`forward`, leaving on ``tape`` what :func:`backward` needs; returns the final states and the Record."""
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
    record.recurrent = []
    record.h = []
    record.c = []
    has_c = weights[0].has_c
    states_n = np.empty((1 + has_c, len(weights), batch, hidden_size), dtype)
    for first in range(0, len(weights), num_directions):
        last = first + num_directions
        layer = first // num_directions
        out = y
        if last != len(weights):
            out = tape.buffer(("y", layer % 2), (steps, batch, num_directions * hidden_size), dtype)
        if lengths is not None:
            out[...] = 0
        arguments = []
        for k in range(first, last):
            packed = weights[k]
            reverse = k > first
            before = steps if reverse else 0
            width = packed.input_size
            blocks = (steps, batch, packed.blocks, packed.gates, packed.lanes)
            gates = tape.buffer(("gates", layer, reverse), blocks, dtype)
            recurrent = tape.buffer(("recurrent", layer, reverse), blocks, dtype) if packed.apart else None
            slots = tape.buffer(("rows", layer, reverse), (steps + 1, batch, width + 1 + hidden_size), dtype)
            rows = slots[1:] if reverse else slots[:steps]
            rows[:, :, :width] = x
            rows[:, :, width] = 1
            if lengths is not None:
                _clear_padding(rows[:, :, :width], lengths)
            h = slots[:, :, width + 1 :]
            h[before] = 0 if states_0 is None else states_0[0][k]
            c = None
            if has_c:
                c = tape.buffer(("c", layer, reverse), (steps + 1, batch, hidden_size), dtype)
                c[before] = 0 if states_0 is None else states_0[1][k]
            arguments.append((packed, x, _half(out, reverse, num_directions), h, c, gates, recurrent, lengths, reverse))
            record.rows.append(rows)
            record.gates.append(gates)
            record.recurrent.append(recurrent)
            record.h.append(h)
            record.c.append(c)
        _run(sequence.forward, steps, batch, arguments)
        for k in range(first, last):
            after = 0 if k > first else steps
            states_n[0, k] = record.h[k][after]
            if has_c:
                states_n[1, k] = record.c[k][after]
        if dropout and last != len(weights):
            _drop(out, record.seed, record.call, layer, dropout)
        x = out
    return list(states_n), record


def _clear_padding(x, lengths):
    """Zeros past each length: a product with a zero gradient must not meet a NaN."""
    for row, length in enumerate(lengths.tolist()):
        x[length:, row] = 0


def _drop(array, seed, call, layer, p):
    """Multiply by the mask of (seed, call, layer), forwards and backwards alike."""
    from ._core import noise

    noise.drop(array, seed, call, layer, p)


def load_blas():
    """SciPy's BLAS, once: an import statement, even of what is there, costs as much as a small product.

    Asked for before a tape is spent, so that where SciPy is missing the tape is whole after the ImportError.
    """
    global _blas
    if _blas is None:
        from ._core import blas as _blas


def backward(weights, num_directions, record, dy, dstates_n):
    """(dx, dstates_0, [(dweight_ih, dweight_hh, dbias_ih, dbias_hh)] per layer and direction), all new arrays.

    dy (T, B, D*H) or None. The tape's gates become dgates. After :func:`load_blas`.
    """
    steps, batch = record.shape
    hidden_size = weights[0].hidden_size
    dtype = weights[0].dtype
    number_of_states = 1 + weights[0].has_c
    dstates_0 = np.empty((number_of_states, len(weights), batch, hidden_size), dtype)
    products = [None] * len(weights)
    for first in range(len(weights) - num_directions, -1, -num_directions):
        last = first + num_directions
        if dy is None:
            dy = np.broadcast_to(np.zeros((1, 1, num_directions * hidden_size), dtype),
                                 (steps, batch, num_directions * hidden_size))  # fmt: skip
        arguments = []
        dstates = []
        for k in range(first, last):
            packed = weights[k]
            dstate = aligned_empty((number_of_states, batch, packed.blocks * packed.lanes), dtype, zero=True)
            if dstates_n is not None:
                for part, given in zip(dstate, dstates_n, strict=True):
                    part[:, :hidden_size] = given[k]
            dstates.append(dstate)
            arguments.append(
                (packed, record.gates[k], record.recurrent[k], record.h[k], record.c[k],
                 _half(dy, k > first, num_directions), dstate[0], dstate[-1], record.lengths, k > first)
            )  # fmt: skip
        _run(sequence.backward, steps, batch, arguments)

        dx = np.empty((steps, batch, weights[first].input_size), dtype)  # dx = dgates W_ih
        for k in range(first, last):
            dstates_0[:, k] = dstates[k - first][:, :, :hidden_size]
            products[k] = _parameter_gradients(weights[k], record.rows[k], record.gates[k], record.recurrent[k])
            _run(sequence.input_gradient, steps, batch, [(weights[k], record.gates[k], dx, k > first)])
        if record.dropout and first:
            _drop(dx, record.seed, record.call, first // num_directions - 1, record.dropout)
        dy = dx
    return dy, list(dstates_0), products


def _parameter_gradients(packed, rows, dgates, recurrent):
    """(dweight_ih, dweight_hh, dbias_ih, dbias_hh) of rows x | 1 | h_prev and the dgates that these get.

    One product, dgates^T (x | 1 | h_prev); or, if h_prev gets others than x, two: dgates^T (x | 1) and
    recurrent^T (1 | h_prev).
    """
    width, columns = packed.input_size, rows.shape[2]
    rows = rows.reshape(-1, columns)
    if packed.apart:
        of_x = _product(dgates, rows[:, : width + 1])
        of_h = _product(recurrent, rows[:, width:])
        dbias_hh = packed.deinterleave(of_h, 0, 1).reshape(-1)
    else:
        of_x = _product(dgates, rows)
        of_h = of_x[:, width:]
    dweight_ih = packed.deinterleave(of_x, 0, width)
    dweight_hh = packed.deinterleave(of_h, 1, columns - width)
    dbias_ih = packed.deinterleave(of_x, width, width + 1).reshape(-1)
    return dweight_ih, dweight_hh, dbias_ih, dbias_hh if packed.apart else dbias_ih.copy()


def _product(dgates, rows):
    """dgates^T rows, with one row of dgates (T, B, blocks, G, lanes) for each of rows (T*B, n)."""
    dgates = dgates.reshape(rows.shape[0], math.prod(dgates.shape[2:]))
    out = np.empty((dgates.shape[1], rows.shape[1]), dgates.dtype)
    _blas.matmul(dgates, rows, out, transpose_a=True)
    return out
