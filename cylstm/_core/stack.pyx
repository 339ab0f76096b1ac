# cython: boundscheck=True, wraparound=True
# (lists are indexed here, from their ends too)
# Layers x directions x dropout between layers, forwards and backwards. Knows no cell and loops over no step. It is
# compiled because interpreting it took most of the time of a small call: docs/performance.md.
#
# Everything is time-major here: x (T, B, I), y (T, B, D*P), states (L*D, B, P or H) in PyTorch's order: layer 0
# forward, layer 0 reverse, layer 1 forward, ...
"""Stacks of recurrent layers."""

import math
import time
from functools import partial
from typing import NamedTuple

import numpy as np

from cylstm import parallel
from cylstm._core import sequence
from cylstm._core.packing import aligned_empty
from cylstm._core.team import Team

from cylstm._core.gradients cimport WeightGradient
from cylstm._core.packing cimport Weights
from cylstm._core.sequence cimport Pass, infer_all

# Multiply-adds above which a second thread pays: a few times what waking it costs.
PARALLEL_OPERATIONS = 10_000_000
# Rows that a thread's slice of the batch has at least: fewer would leave its tiles half empty.
SLICE_ROWS = 4
# W_hh of this many bytes fills the L2 of a core, or overflows it: two threads, each with the weights of half of the
# units, take less time for a step, their meeting at its end included.
SHARED_BYTES = 500_000
BUSY_SECONDS = 0.1
_busy_until = 0.0


class Scheme(NamedTuple):
    """How the layers of a stack are run, whatever their cell: what the options of every layer say."""

    directions: tuple = (False,)  # of each, whether it walks time from the end
    merge: str | None = "concat"
    padding: str | float = "zero"
    empty: str = "initial"


class Noise(NamedTuple):
    """The probabilities of what acts in training."""

    dropout: float = 0.0
    input_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    weight_dropout: float = 0.0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0


QUIET = Noise()
# What tells the masks of one (seed, call) apart, besides layer, direction and position.
_BETWEEN_LAYERS, _INPUT, _RECURRENT, _WEIGHT, _ZONEOUT_H, _ZONEOUT_C = range(6)


cdef class Record:
    """What a forward leaves on a tape for :func:`backward`, besides the tape's own buffers."""

    cdef public object layer      # these three are of the layer that made the call: whose it is,
    cdef public object snapshot   # of which parameters,
    cdef public bint batched      # and whether x came with a batch axis
    cdef public tuple shape       # (T, B)
    cdef public object scheme
    cdef public object noise
    cdef public object seed
    cdef public object call
    cdef public list weights      # packed, with what weight dropout has left of them
    cdef public list factors      # of weight dropout, for each of them
    cdef public list views
    cdef public list masks
    cdef public list outputs      # of each layer, what its directions gave before these were multiplied


cdef class _Views:
    """The arrays of one layer in one direction over the buffers of a tape, which calls of one form have in common.

    ``rows`` (T, B, I + 1 + P) are x | 1 | h_prev, of which ``x`` is the first part. ``states`` has (before the first
    step, after the last) of h and, where there is one, of c. ``products`` has the (dgates, rows) of the products that
    make the gradients of the parameters.
    """

    cdef readonly Pass arrays
    cdef readonly object rows
    cdef readonly object x
    cdef readonly list states
    cdef readonly list products
    cdef tuple form


def _slices(batch, directions):
    """[(first_row, last_row)]: how the batch is shared out to threads."""
    return _shares(batch, min(parallel.get_num_threads() // directions, batch // SLICE_ROWS))


def _shares(count, parts):
    """[(first, last)] of up to so many parts of the numbers below count, each with one at least."""
    parts = max(1, min(parts, count))
    return [(count * part // parts, count * (part + 1) // parts) for part in range(parts)]


cdef _run(function, Py_ssize_t steps, Py_ssize_t batch, list directions, bint plain=False, bint copied=False):
    """function(*arguments, first_row, last_row, cancellation) for every direction and slice of the batch.

    ``directions``: the arguments of each, its packed weights first. ``plain``: it is a forward pass in which every row
    takes every step, without noise. ``copied``: the parameters are as likely as not those of the next call too, so each
    slice may have a copy of them.
    """
    cdef double work = <double>steps * batch * len(directions) * (<Weights?>directions[0][0]).operations
    if work <= PARALLEL_OPERATIONS or parallel.get_num_threads() == 1:
        for arguments in directions:
            function(*arguments, 0, batch, None)
        return
    cancellation = sequence.Cancellation()
    tasks = [
        partial(_run_slice, n if copied else 0, function, *arguments, first, last, cancellation)
        for n, (first, last) in enumerate(_slices(batch, len(directions)))
        for arguments in directions
    ]
    if plain and len(tasks) == 1 and batch < 2 * SLICE_ROWS and _can_share_units(directions[0][0]):
        _share_units(tasks[0], Team(steps, cancellation), cancellation)
    else:
        parallel.run(tasks, cancellation)


def _run_slice(n, function, packed, *arguments):
    function(packed.of_slice(n), *arguments)


def _can_share_units(packed):
    large = packed.arrays["weight_hh"].nbytes >= SHARED_BYTES
    return large and sequence.can_share_units(packed) and time.monotonic() >= _busy_until


def _share_units(forward, team, cancellation):
    """Two threads share out the units of each step; not soon again, if one had to wait for a core."""
    global _busy_until
    parallel.run([partial(forward, team, False), partial(forward, team, True)], cancellation, helpers=True)
    if team.slow:
        _busy_until = time.monotonic() + BUSY_SECONDS


def forward(weights, scheme, x, y, states_0, lengths, mask):
    """Inference: fill y, return the final states, new arrays. ``weights``: packed, one per layer and direction.

    y (T, B, D*P), or (T, B, P) if directions are merged into one, or a pair of those if not at all. States are lists,
    [h] or [h, c], each (L*D, B, P or H); the initial ones may be None: zeros. ``lengths`` (B,) and ``mask`` (T, B) say
    which steps are valid; one of them, or both, is None.
    """
    directions, _, padding, empty = scheme
    states_n = None
    if len(directions) == 1:
        states_n = infer_all(weights, x, y, states_0, lengths, mask, directions[0], PARALLEL_OPERATIONS)
    if states_n is None:
        states_n = _forward_in_parts(weights, scheme, x, y, states_0, lengths, mask)
    elif padding != "zero":
        _pad_parts([y], scheme, lengths, mask)
    if empty == "zero":
        _clear_empty(states_n, x.shape[0], lengths, mask)
    return states_n


def _forward_in_parts(weights, scheme, x, y, states_0, lengths, mask):
    """:func:`forward` for any number of directions, each of which, and each slice of the batch, may have its thread."""
    steps, batch, _ = x.shape
    layers = len(weights)
    directions, merge, padding, _ = scheme
    num_directions = len(directions)
    packed = weights[0]
    states = sequence.new_states(packed, layers, batch, states_0)
    for first in range(0, layers, num_directions):
        last = first + num_directions
        out = y if last == layers else np.empty((steps, batch, weights[last].input_size), packed.dtype)
        parts = [out] if num_directions == 1 else _parts(out, merge, packed.state_size)
        arguments = []
        for d, part in enumerate(parts):
            k = first + d
            arguments.append((weights[k], x, part, states, k, lengths, mask, directions[d]))
        _run(sequence.infer, steps, batch, arguments, lengths is None and mask is None, True)
        if padding != "zero" and last == layers:
            _pad_parts(parts, scheme, lengths, mask)
        if num_directions == 2:
            _merge(out, parts, merge)
        x = out
    return sequence.final_states(packed, states, steps)


def _parts(out, merge, width):
    """Where each of two directions writes: halves of ``out``, or arrays of their own."""
    if merge == "concat":
        return [out[:, :, :width], out[:, :, width:]]
    if merge is None:
        return list(out)
    return [np.empty_like(out), np.empty_like(out)]


def _merge(out, parts, merge):
    """Fill ``out`` from what two directions have written, unless they wrote there."""
    if merge == "sum":
        np.add(*parts, out=out)
    elif merge == "average":
        np.add(*parts, out=out)
        out *= 0.5
    elif merge == "mul":
        np.multiply(*parts, out=out)


def _merge_backward(dy, merge, parts, width):
    """dy of each of two directions, from that of what :func:`_merge` made."""
    if merge == "concat":
        return [dy[:, :, :width], dy[:, :, width:]]
    if merge is None:
        return list(dy)
    if merge == "mul":
        with np.errstate(invalid="ignore"):  # in the padding, where dy may be anything and reaches nothing
            return [dy * parts[1], dy * parts[0]]
    return [dy, dy] if merge == "sum" else [dy * dy.dtype.type(0.5)] * 2


def _pad_parts(parts, scheme, lengths, mask):
    """What steps that are not valid output, instead of the zeros that are there."""
    if lengths is not None or mask is not None:
        valid = _valid(parts[0].shape[0], lengths, mask)
        for part, reverse in zip(parts, scheme.directions, strict=True):
            _pad(part, valid, scheme.padding, reverse)


def _valid(steps, lengths, mask):
    """(T, B) of bool."""
    return np.arange(steps)[:, None] < lengths if mask is None else mask.astype(bool)


def _repeated(valid, reverse):
    """(T, B): the last valid step up to each, in the order of processing; -1: none yet."""
    times = np.arange(len(valid))[:, None]
    if reverse:
        found = np.minimum.accumulate(np.where(valid, times, len(valid))[::-1], axis=0)[::-1]
        return np.where(found == len(valid), -1, found)
    return np.maximum.accumulate(np.where(valid, times, -1), axis=0)


def _pad(y, valid, padding, reverse):
    """What steps that are not valid output."""
    if padding != "repeat":
        y[~valid] = padding
        return
    source = _repeated(valid, reverse)
    t, row = np.nonzero(~valid & (source >= 0))
    y[t, row] = y[source[t, row], row]


def _pad_backward(dy, valid, reverse):
    """dy of repeated outputs, added to that of the steps they repeat: a new array."""
    total = np.zeros(dy.shape, dy.dtype)
    carried = np.zeros(dy.shape[1:], dy.dtype)  # (B, P): of the steps that repeat the next one to come
    for t in range(len(dy)) if reverse else range(len(dy) - 1, -1, -1):
        here = valid[t, :, None]
        carried += dy[t]
        np.copyto(total[t], carried, where=here)
        np.copyto(carried, 0, where=here)
    return total


def _rows_without_steps(steps, lengths, mask):
    """An index of the rows of the batch that have no valid step; None where each has one."""
    if steps == 0:
        return slice(None)
    if lengths is None and mask is None:
        return None
    return ~_valid(steps, lengths, mask).any(axis=0)


def _clear_empty(states, steps, lengths, mask):
    """Zeros in the final states, or in the gradients of those, of rows without a valid step."""
    rows = _rows_without_steps(steps, lengths, mask)
    if rows is not None:
        for state in states:
            state[:, rows] = 0


def forward_on_tape(list weights not None, scheme, noise, x, y, states_0, lengths, mask, tape):
    """As :func:`forward`, leaving on ``tape`` what :func:`backward` needs; returns the final states and the Record."""
    cdef Py_ssize_t steps = x.shape[0]
    cdef Py_ssize_t batch = x.shape[1]
    cdef Py_ssize_t layers = len(weights)
    cdef Py_ssize_t num_directions = len(scheme.directions)
    cdef Py_ssize_t first, last, layer, k
    cdef Weights packed = weights[0]
    cdef _Views views
    cdef list arguments
    cdef Record record = Record()
    dtype = packed.dtype
    record.shape = (steps, batch)
    record.scheme = scheme
    record.noise = noise
    record.call = tape.calls
    record.seed = tape.seed
    record.views = []
    record.outputs = []
    record.masks = []
    record.weights = weights
    record.factors = [None] * layers
    if noise.weight_dropout:
        record.factors = [_weight_factors(packed, record, k) for k, packed in enumerate(weights)]
        record.weights = [_thinned(*pair) for pair in zip(weights, record.factors, strict=True)]
    states_n = [np.empty((layers, batch, packed.state_size), dtype)]
    if packed.has_c:
        states_n.append(np.empty((layers, batch, packed.hidden_size), dtype))
    for first in range(0, layers, num_directions):
        last = first + num_directions
        layer = first // num_directions
        out = y
        if last != layers:
            out = tape.buffer(("y", layer % 2), (steps, batch, weights[last].input_size), dtype)
        parts = [out] if num_directions == 1 else _parts(out, scheme.merge, packed.state_size)
        arguments = []
        for k in range(first, last):
            packed = record.weights[k]
            views, masks = _taped_pass(tape, record, packed, k, x, parts[k - first], lengths, mask)
            for number, (before, _) in enumerate(views.states):
                if states_0 is None:
                    before.fill(0)
                else:
                    before[...] = states_0[number][k]
            arguments.append((packed, views.arrays))
            record.views.append(views)
            record.masks.append(masks)
        plain = lengths is None and mask is None and not noise.recurrent_dropout
        try:
            _run(sequence.forward, steps, batch, arguments, plain)
        finally:
            for views in record.views[first:last]:
                views.arrays.x = views.arrays.y = None  # the caller's: backward has no use for them
        for k in range(first, last):
            views = record.views[k]
            for states, (_, after) in zip(states_n, views.states, strict=True):
                states[k] = after
        if scheme.padding != "zero" and last == layers:
            _pad_parts(parts, scheme, lengths, mask)
        if num_directions == 2:
            _merge(out, parts, scheme.merge)
        record.outputs.append(parts if scheme.merge == "mul" else None)
        if noise.dropout and last != layers:
            _drop(out, record, layer, noise.dropout)
        x = out
    if scheme.empty == "zero":
        _clear_empty(states_n, steps, lengths, mask)
    return states_n, record


cdef tuple _taped_pass(tape, Record record, Weights packed, Py_ssize_t k, x, y, lengths, mask):
    """(views, masks by what they are for) of number k of the layers and directions: all that its pass needs is set."""
    cdef _Views views
    cdef Pass arrays
    steps, batch = record.shape
    noise = record.noise
    key = divmod(k, len(record.scheme.directions))
    form = (steps, batch, record.scheme.directions[key[1]], noise, packed.form)
    views = tape.views.get(key)
    if views is None or views.form != form:
        views = tape.views[key] = _views(tape, key, form, packed)
    arrays = views.arrays
    arrays.x = x
    arrays.y = y
    arrays.lengths = lengths
    arrays.mask = mask
    arrays.x_kept = views.x
    if noise is QUIET:
        return views, {}
    dtype, state_size = packed.dtype, packed.state_size
    masks = {}
    if noise.input_dropout:
        masks["x"] = _factors((1, batch, packed.input_size), dtype, record, _INPUT, k, noise.input_dropout)
        views.x[...] = x
        if lengths is not None or mask is not None:
            _clear_padding(views.x, lengths, mask)
        views.x *= masks["x"]
        arrays.x = views.x
        arrays.x_kept = None
    if noise.recurrent_dropout:
        arrays.drop_h = _factors((1, batch, state_size), dtype, record, _RECURRENT, k, noise.recurrent_dropout)[0]
    if noise.zoneout_h:
        arrays.keep_h = _kept((steps, batch, state_size), dtype, record, _ZONEOUT_H, k, noise.zoneout_h)
    if noise.zoneout_c:
        arrays.keep_c = _kept((steps, batch, packed.hidden_size), dtype, record, _ZONEOUT_C, k, noise.zoneout_c)
    return views, masks


cdef _Views _views(tape, key, form, Weights packed):
    """New :class:`_Views` over the buffers that ``tape`` has for ``key``, (layer, direction)."""
    steps, batch, reverse, noise, _ = form
    dtype = packed.dtype
    width, state_size = packed.input_size, packed.state_size
    blocks = (steps, batch, packed.blocks, packed.gates, packed.lanes)
    slots = tape.buffer(("rows", *key), (steps + 1, batch, width + 1 + state_size), dtype)
    cdef _Views views = _Views()
    cdef Pass arrays = sequence.Pass()
    views.form = form
    views.rows = slots[1:] if reverse else slots[:steps]
    views.rows[:, :, width] = 1
    views.x = views.rows[:, :, :width]
    views.arrays = arrays
    arrays.reverse = reverse
    arrays.gates = tape.buffer(("gates", *key), blocks, dtype)
    arrays.h = slots[:, :, width + 1 :]
    states = [arrays.h]
    if noise.recurrent_dropout:
        arrays.h_in = arrays.h
        arrays.h = states[0] = tape.buffer(("h", *key), (steps + 1, batch, state_size), dtype)
    if packed.has_c:
        arrays.c = tape.buffer(("c", *key), (steps + 1, batch, packed.hidden_size), dtype)
        states.append(arrays.c)
    if packed.zoneout and packed.has_c:
        arrays.c_fresh = tape.buffer(("c_fresh", *key), (steps, batch, packed.hidden_size), dtype)
    views.states = [(part[steps], part[0]) if reverse else (part[0], part[steps]) for part in states]
    flat = views.rows.reshape(steps * batch, width + 1 + state_size)
    if packed.apart:
        arrays.recurrent = tape.buffer(("recurrent", *key), blocks, dtype)
        products = [(arrays.gates, flat[:, : width + 1]), (arrays.recurrent, flat[:, width:])]
    else:
        products = [(arrays.gates, flat)]
    if packed.two_phases:
        inner = tape.buffer(("inner", *key), (steps, batch, 1 + packed.hidden_size), dtype)
        inner[:, :, 0] = 1
        arrays.inner = inner[:, :, 1:]
        arrays.second = tape.buffer(("second", *key), (steps, batch, packed.state_blocks, packed.lanes), dtype)
        products.append((arrays.second, inner.reshape(steps * batch, 1 + packed.hidden_size)))
    views.products = [(dgates.reshape(len(rows), math.prod(dgates.shape[2:])), rows) for dgates, rows in products]
    return views


def _clear_padding(x, lengths, mask):
    """Zeros where a step is not valid: a product with a zero gradient must not meet a NaN."""
    np.copyto(x, 0, where=~_valid(len(x), lengths, mask)[:, :, None])


def _drop(array, record, layer, p):
    """Multiply by the mask of (seed, call, layer), forwards and backwards alike."""
    from cylstm._core import noise

    noise.drop(array, record.seed, record.call, layer, p)


def _mask(shape, dtype, record, kind, k, p, chosen, others):
    """An array that is ``chosen`` with probability p, by (seed, call, kind, layer, direction) and position."""
    from cylstm._core import noise

    layer, direction = divmod(k, len(record.scheme.directions))
    out = np.empty(shape, dtype)
    noise.choose(out, record.seed, record.call, kind << 24 | direction << 20 | layer, p, chosen, others)
    return out


def _factors(shape, dtype, record, kind, k, p):
    return _mask(shape, dtype, record, kind, k, p, 0.0, 1 / (1 - p))


def _kept(shape, dtype, record, kind, k, p):
    return _mask(shape, dtype, record, kind, k, p, 1.0, 0.0)


def _weight_factors(packed, record, k):
    shape = packed.arrays["weight_hh"].shape
    return _factors((1, *shape), packed.dtype, record, _WEIGHT, k, record.noise.weight_dropout)[0]


def _thinned(packed, factors):
    """DropConnect (Wan et al. 2013; on W_hh: Merity, Keskar & Socher 2018): the packed weights without some of W_hh."""
    return packed.replaced(weight_hh=packed.arrays["weight_hh"] * factors)


def backward(Record record not None, dy, dstates_n):
    """(dx, dstates_0, [{name without suffix: gradient}] per layer and direction), all new arrays.

    dy as y of :func:`forward`, or None. The tape's gates become dgates.
    """
    cdef Py_ssize_t steps = record.shape[0]
    cdef Py_ssize_t batch = record.shape[1]
    cdef list weights = record.weights
    cdef Py_ssize_t layers = len(weights)
    cdef Py_ssize_t num_directions = len(record.scheme.directions)
    cdef Py_ssize_t first, last, k
    cdef Weights packed = weights[0]
    cdef _Views views = record.views[0]
    cdef list arguments, gradients
    scheme, noise = record.scheme, record.noise
    lengths, mask = views.arrays.lengths, views.arrays.mask
    unseen = _rows_without_steps(steps, lengths, mask)
    dtype = packed.dtype
    dstates = [aligned_empty((layers, batch, packed.state_blocks * packed.lanes), dtype, zero=True)]
    if packed.has_c:
        dstates.append(aligned_empty((layers, batch, packed.blocks * packed.lanes), dtype, zero=True))
    if dstates_n is not None:
        for part, given in zip(dstates, dstates_n, strict=True):
            part[:, :, : given.shape[2]] = given
        if scheme.empty == "zero":
            _clear_empty(dstates, steps, lengths, mask)
    gradients = [None] * layers
    for first in range(layers - num_directions, -1, -num_directions):
        last = first + num_directions
        parts = _dy_parts(record, dy, first)
        if scheme.padding == "repeat" and last == layers and (lengths is not None or mask is not None):
            valid = _valid(steps, lengths, mask)
            parts = [_pad_backward(part, valid, scheme.directions[d]) for d, part in enumerate(parts)]
        arguments = []
        for k in range(first, last):
            packed = weights[k]
            dstate = dstates[0][k], dstates[1][k] if packed.has_c else None
            dextras = None
            if packed.extra_rows:
                dextras = aligned_empty((batch, packed.extra_rows, packed.blocks * packed.lanes), dtype, zero=True)
            arguments.append((packed, record.views[k].arrays, parts[k - first], *dstate, dextras))
        _run(sequence.backward, steps, batch, arguments)

        dx = np.empty((steps, batch, packed.input_size), dtype)  # dx = dgates W_ih
        for k in range(first, last):
            packed, *_, dextras = arguments[k - first]
            views = record.views[k]
            if unseen is not None:
                views.rows[:, unseen, packed.input_size + 1 :] = 0  # a state that no step has seen may be NaN
            gradients[k] = _parameter_gradients(packed, views.products, dextras)
            if noise.weight_dropout:
                gradients[k]["weight_hh"] *= record.factors[k]
            if noise.input_dropout:
                part = np.empty_like(dx)
                _run(sequence.input_gradient, steps, batch, [(packed, views.arrays.gates, part, False)])
                part *= record.masks[k]["x"]
                dx = dx + part if k > first else part
            else:
                _run(sequence.input_gradient, steps, batch, [(packed, views.arrays.gates, dx, k > first)])
        if noise.dropout and first:
            _drop(dx, record, first // num_directions - 1, noise.dropout)
        dy = dx
    return dy, list(map(_without_padding, dstates, (packed.state_size, packed.hidden_size))), gradients


def _without_padding(array, size):
    return array if array.shape[2] == size else array[:, :, :size].copy()


cdef list _dy_parts(Record record, dy, Py_ssize_t first):
    """dy of each direction of the layer that begins with number ``first``; zeros if dy is None."""
    cdef Py_ssize_t num_directions = len(record.scheme.directions)
    cdef Py_ssize_t width = (<Weights?>record.weights[first]).state_size
    if dy is None:
        zeros = np.broadcast_to(np.zeros((1, 1, width), record.weights[first].dtype), (*record.shape, width))
        return [zeros] * num_directions
    if num_directions == 1:
        return [dy]
    return _merge_backward(dy, record.scheme.merge, record.outputs[first // 2], width)


cdef dict _parameter_gradients(Weights packed, list products, dextras):
    """{name: gradient} from the (dgates, rows) of ``products``, each of which gives dgates^T rows.

    One, with rows x | 1 | h_prev; or, if h_prev gets others than x, two: with x | 1 and with 1 | h_prev. A second phase
    has one of its own, with 1 | inner.
    """
    cdef list made = [_product(dgates, rows) for dgates, rows in products]
    cdef WeightGradient of_x = made[0]
    cdef WeightGradient of_h = made[1] if packed.apart else of_x
    cdef WeightGradient of_inner
    cdef Py_ssize_t width = packed.input_size
    cdef Py_ssize_t ones = 0 if packed.apart else width
    cdef Py_ssize_t gates = packed.gates
    cdef Py_ssize_t units = packed.hidden_size
    dbias_ih = of_x.columns(gates, units, width, -1)
    cdef dict gradients = {
        "weight_ih": of_x.columns(gates, units, 0, width),
        "weight_hh": of_h.columns(gates, units, ones + 1, ones + 1 + packed.state_size),
        "bias_ih": dbias_ih,
        "bias_hh": of_h.columns(gates, units, ones, -1) if packed.apart else dbias_ih.copy(),
    }
    if packed.two_phases:
        of_inner = made[-1]
        units = packed.state_size
        packed.place_second(
            gradients, of_inner.columns(1, units, 1, 1 + packed.hidden_size), of_inner.columns(1, units, 0, -1)
        )
    if dextras is not None:
        gradients |= packed.extra_gradients(dextras)
        if "shift" in gradients:  # the bias after a normalisation
            gradients["bias_ih"] = gradients.pop("shift")
            gradients["bias_hh"] = gradients["bias_ih"].copy()
    return gradients


def _product(dgates, rows):
    """A WeightGradient of dgates (T*B, m) and rows (T*B, n), made."""
    cdef WeightGradient product = WeightGradient(dgates, rows)
    threads = parallel.get_num_threads() if product.operations > PARALLEL_OPERATIONS else 1
    if threads == 1:
        product.fill(0, product.parts, None)
    else:
        cancellation = sequence.Cancellation()
        parallel.run(
            [partial(product.fill, *part, cancellation) for part in _shares(product.parts, threads)], cancellation
        )
    return product
