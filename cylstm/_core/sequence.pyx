# One layer, one direction, all of time, forwards and backwards: the only time loop there is. Counts in bytes,
# so it serves every dtype; holds no equation (those are the kernels' row functions). Of a stack it knows infer_all:
# layers of one direction, one after the other, because a Python call for each costs a small one more than its work.
"""The time loop of one layer in one direction."""

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.pystate cimport PyThreadState
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from cylstm._core.cells cimport apart, cell
from cylstm._core.kernels cimport BESIDE_TERMS, VARIANT_SCRATCH, backward_rows, forward_rows, kernel_table
from cylstm._core.packing cimport (
    ROWS_AT_ONCE, Weights, aligned_empty, bytes_of_matrix, last_at_once, matrix, multiply, multiply_panels, panel_at,
    part_of, rows_now, set_product, take_panels, take_rows, vectors_at_once,
    vectors_of_tile,
)
from cylstm._core.team cimport Team

cnp.import_array()

cdef extern from "atomic.h" nogil:
    void number_write(Py_ssize_t *number, Py_ssize_t value)

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *)

cdef enum:
    RELEASE_OPERATIONS = 100_000       # multiply-adds, some microseconds: below, keeping the GIL is cheaper
    QUANTUM_OPERATIONS = 100_000_000   # some milliseconds: how often Ctrl-C is looked for
    # A W_ih this small is multiplied in the step: x W_ih waits for nothing, so the processor begins it while the cell
    # of the step before waits for itself (LSTMs of H = 16, one row to eight, 1.1 to 1.2 times the speed, one row of
    # (16, 32) 1.01, with 12 KiB 0.95). Few vectors of a deep one are a chain: an RNN (128, 16) took 1.7 times as long.
    INPUT_IN_STEP_BYTES = 8192
    INPUT_IN_STEP_DEPTH = 16
    INPUT_BYTES = 65536                # bias + x W_ih of this many bytes are made at once, and stay in L2
    # A W_ih over INPUT_NEAR_BYTES comes from afar each time, so it is multiplied with this many rows at least: 1.03 to
    # 1.15 times the speed for one row, 1.24 for eight of (256, 512), on a Xeon with 2 MiB of L2.
    INPUT_ROWS = 48
    INPUT_NEAR_BYTES = 262144
    # Over this it comes from L3, and is for 96 rows and for up to four tiles of a batch, if the sums have no more than
    # this: 12 to 24 rows of (256, 512) 1.10 times the speed (1.5 MB of sums, (512, 1024): 0.97).
    INPUT_FAR_BYTES = 1048576
    TOGETHER_BYTES = 16384             # pre-activations that wait in L1: for one row, those of many blocks
    # One row whose W_hh comes from L2: the cell of one block waits for itself, the product of the next for memory. Both
    # take 0.95 to 0.98 of the time side by side, on a Xeon with 48 KiB of L1 and 2 MiB of L2; of 36 KiB 1.07.
    BESIDE_OVER = 49152
    BESIDE_UP_TO = 1048576
    ALIGNMENT = 64


cdef class Cancellation:
    """Shared by the parts of one call: a flag, at which they stop before the next quantum of steps, and `released`."""

    def request(self):
        self.requested = True


cdef class Pass:
    """The arrays of one layer in one direction, T steps of B rows; the last axis of each is contiguous.

    ::

        x          (T, B, I)                   IN
        y          (T, B, P)                   OUT    zeros where a row is not active
        h          (T+1, B, P)                 INOUT  slot 0 (reverse: T) in: h_0
        c          (T+1, B, H)                 INOUT  likewise c_0; None: the cell has no c
        states     (slots, L*D, B, widest)     INOUT  without a tape in place of h and c: new_states(), of which those
        k                                             of layer and direction k are taken
        lengths    (B,) intp, or None          IN     a row is active while t < lengths[row],
        mask       (T, B) uint8, or None       IN     or where mask[t, row]
        gates      (T, B, blocks, G, lanes)    OUT    on a tape: activations, or of a cell with options sums
        x_kept     (T, B, I)                   OUT    x, with zeros where a row is not active; or None
        recurrent  (T, B, blocks, G, lanes)    OUT    of a cell that keeps them apart: what h adds to them
        inner      (T, B, H)                   OUT    of two phases: what the first leaves for the second product
        second     (T, B, state_blocks, lanes) OUT    and the sums of that
        drop_h     (B, P)                      IN     factors of h in the recurrent product,
        h_in       (T+1, B, P)                 OUT    and what that product gets: slots as in h
        keep_h     (T, B, P)                   IN     of zoneout in training; otherwise the packed weights know
        keep_c     (T, B, H)                   IN
        c_fresh    (T, B, H)                   OUT    the c that zoneout has not touched

    Without a tape all from gates on are None. The final state is that of final_states(); with a tape in slot T of h and
    c, or in reverse 0. Backward looks neither at x nor at y.
    """


cdef layer_description describe(Weights weights, Py_ssize_t rows):
    """The layer as steps of up to ``rows`` rows need it."""
    cdef layer_description layer
    layer.kernels = weights.kernels
    layer.cell = weights.cell
    layer.apart = apart(&layer.cell)
    layer.x = weights.x
    layer.h = weights.h
    layer.second = weights.second
    layer.bias = weights.bias
    layer.bias_h = weights.bias_h
    layer.bias_second = weights.bias_second
    layer.keep_h = weights.keep_h
    layer.keep_c = weights.keep_c
    layer.options = &weights.options
    layer.first_unit = 0
    layer.hidden_size = weights.hidden_size
    layer.state_size = weights.state_size
    work_together(&layer, rows)
    return layer


cdef void work_together(layer_description *layer, Py_ssize_t rows) noexcept nogil:
    """Set what depends on how many rows there are: the vectors that are worked on together."""
    cdef Py_ssize_t vector_bytes = layer.kernels.lanes * layer.kernels.itemsize
    layer.sole = rows == 1 and not layer.apart and not two_phases(layer)
    layer.beside = (
        layer.sole and layer.cell.forward_beside != NULL and not layer.cell.whole and layer.state_size >= BESIDE_TERMS
        and BESIDE_OVER < bytes_of_matrix(&layer.h) <= BESIDE_UP_TO
    )
    layer.at_once = layer.h.panel if layer.beside else vectors_at_once(&layer.h, rows)
    layer.together = layer.at_once
    if layer.cell.whole:
        layer.together += last_at_once(&layer.h, layer.at_once)
    elif not layer.beside:
        rows = max(1, min(<Py_ssize_t>ROWS_AT_ONCE, rows))
        layer.together *= max(1, TOGETHER_BYTES // (rows * layer.at_once * vector_bytes))
    layer.units_together = layer.together // layer.cell.gates * layer.kernels.lanes
    layer.last_together = (layer.h.vectors - 1) // layer.together * layer.together
    layer.last_unit = layer.last_together // layer.cell.gates * layer.kernels.lanes


cdef layer_description some_units(const layer_description *layer, Py_ssize_t rows, bint second_half):
    """The first half of the panels of hidden units, or the second: a layer of fewer units, which reads all of h."""
    cdef layer_description part = layer[0]
    cdef Py_ssize_t middle = (layer.h.vectors // layer.h.panel + 1) // 2 * layer.h.panel
    cdef Py_ssize_t first = middle if second_half else 0
    cdef Py_ssize_t last = layer.h.vectors if second_half else middle
    cdef Py_ssize_t vector_bytes = layer.kernels.lanes * layer.kernels.itemsize
    part.x = part_of(layer.kernels, &layer.x, first, last)
    part.h = part_of(layer.kernels, &layer.h, first, last)
    part.bias += first * vector_bytes
    if part.bias_h != NULL:
        part.bias_h += first * vector_bytes
    part.first_unit = first // layer.cell.gates * layer.kernels.lanes
    part.hidden_size = min(layer.hidden_size, last // layer.cell.gates * layer.kernels.lanes) - part.first_unit
    work_together(&part, rows)
    return part


cdef enum:
    ROW_ARRAYS = 16


cdef Py_ssize_t blocks_of_plan(Weights weights, Py_ssize_t rows):
    """For allocate_rows: 0 if no step of so many rows is planned."""
    return weights.blocks if rows == 1 else 0


cdef int allocate_rows(step_rows *rows, Py_ssize_t capacity, Py_ssize_t blocks) except -1 nogil:
    """One allocation for all arrays; rows.x owns it. ``blocks``: blocks_of_plan."""
    cdef Py_ssize_t pointers = ROW_ARRAYS * (capacity + 1)
    cdef void **memory = <void **>malloc(
        pointers * sizeof(void *) + blocks * (sizeof(planned) + sizeof(forward_rows))
    )
    if memory == NULL:
        with gil:
            raise MemoryError
    rows.x = <const void **>memory
    rows.h_prev = <const void **>(memory + capacity)
    rows.h_in = <const void **>(memory + 2 * capacity)
    rows.start = <const void **>(memory + 3 * capacity)
    rows.gates = memory + 4 * capacity
    rows.recurrent = memory + 5 * capacity
    rows.c_prev = <const void **>(memory + 6 * capacity)
    rows.c = memory + 7 * capacity
    rows.c_next = memory + 8 * capacity
    rows.h = memory + 9 * capacity
    rows.y = memory + 10 * capacity
    rows.inner = memory + 11 * capacity
    rows.second = memory + 12 * capacity
    rows.second_start = <const void **>(memory + 13 * capacity)
    rows.keep_h = <const void **>(memory + 14 * capacity)
    rows.keep_c = <const void **>(memory + 15 * capacity)
    rows.plan = <planned *>(memory + pointers)
    rows.plan_rows = <forward_rows *>(rows.plan + blocks)
    return 0


cdef step_rows from_row(const step_rows *rows, Py_ssize_t row) noexcept nogil:
    """The same arrays from that row on."""
    cdef step_rows part
    part.plan = NULL  # its layer is of several rows, of which no step is planned
    part.x = rows.x + row
    part.h_prev = rows.h_prev + row
    part.h_in = rows.h_in + row
    part.start = rows.start + row
    part.gates = rows.gates + row
    part.recurrent = rows.recurrent + row
    part.c_prev = rows.c_prev + row
    part.c = rows.c + row
    part.c_next = rows.c_next + row
    part.h = rows.h + row
    part.y = rows.y + row
    part.inner = rows.inner + row
    part.second = rows.second + row
    part.second_start = rows.second_start + row
    part.keep_h = rows.keep_h + row
    part.keep_c = rows.keep_c + row
    return part


cdef void free_rows(step_rows *rows) noexcept nogil:
    free(<void *>rows.x)
    rows.x = NULL


cdef Py_ssize_t scratch_row_bytes(const layer_description *layer) noexcept nogil:
    return min(layer.together, layer.h.vectors) * layer.kernels.lanes * layer.kernels.itemsize


cdef inline bint two_phases(const layer_description *layer) noexcept nogil:
    return layer.cell.second_forward != NULL


cdef inline Py_ssize_t second_row_bytes(const layer_description *layer) noexcept nogil:
    return layer.second.vectors * layer.kernels.lanes * layer.kernels.itemsize


cdef inline Py_ssize_t inner_row_bytes(const layer_description *layer) noexcept nogil:
    return layer.h.vectors // layer.cell.gates * layer.kernels.lanes * layer.kernels.itemsize


cdef Py_ssize_t scratch_bytes(const layer_description *layer, Py_ssize_t rows) noexcept nogil:
    """For the pre-activations of what is worked on together, where there is no tape, and what is between two phases."""
    cdef Py_ssize_t row_bytes = scratch_row_bytes(layer) * (2 if layer.apart else 1)
    if two_phases(layer):
        row_bytes += inner_row_bytes(layer) + second_row_bytes(layer)
    return min(<Py_ssize_t>ROWS_AT_ONCE, rows) * row_bytes


cdef void scratch_rows(
    const layer_description *layer, step_rows *rows, Py_ssize_t count, char *scratch
) noexcept nogil:
    """Let rows.gates, and what else a tape would keep, take turns in the scratch."""
    cdef Py_ssize_t row_bytes = scratch_row_bytes(layer)
    cdef Py_ssize_t at_once = min(<Py_ssize_t>ROWS_AT_ONCE, count)
    cdef char *recurrent = scratch + at_once * row_bytes
    cdef char *inner = recurrent + (at_once * row_bytes if layer.apart else 0)
    cdef char *second = inner + at_once * inner_row_bytes(layer)
    cdef Py_ssize_t r, turn
    for r in range(count):
        turn = r % ROWS_AT_ONCE
        rows.gates[r] = scratch + turn * row_bytes
        if layer.apart:
            rows.recurrent[r] = recurrent + turn * row_bytes
        if two_phases(layer):
            rows.inner[r] = inner + turn * inner_row_bytes(layer)
            rows.second[r] = second + turn * second_row_bytes(layer)
            rows.second_start[r] = <const void *>rows.second[r] if layer.cell.begun else layer.bias_second


cdef Py_ssize_t work_bytes(const layer_description *layer) noexcept nogil:
    """What the row functions of cells with options work in."""
    return VARIANT_SCRATCH * layer.options.width * layer.kernels.itemsize


cdef void begin_anew(
    const layer_description *layer, Py_ssize_t vector, Py_ssize_t vectors, Py_ssize_t rows,
    const void *const *sums_of_x, Py_ssize_t x_vector, void *const *recurrent, Py_ssize_t vector_out,
) noexcept nogil:
    """What the sums of h W_hh begin with, for some blocks: sums of x W_ih that go on, and b_hh."""
    cdef Py_ssize_t gates = layer.cell.gates
    cdef Py_ssize_t vector_bytes = layer.kernels.lanes * layer.kernels.itemsize
    cdef Py_ssize_t carried = layer.cell.carried * vector_bytes
    cdef Py_ssize_t rest = gates * vector_bytes - carried
    cdef Py_ssize_t r, block, offset
    cdef char *to
    for block in range(vectors // gates):
        offset = block * gates * vector_bytes
        for r in range(rows):
            to = <char *>recurrent[r] + vector_out * vector_bytes + offset
            memcpy(to, <const char *>sums_of_x[r] + x_vector * vector_bytes + offset, carried)
            memcpy(to + carried, layer.bias_h + vector * vector_bytes + offset + carried, rest)


cdef void second_phase(
    const layer_description *layer, const step_rows *rows, bint downwards
) noexcept nogil:
    """The rows of the first phase go on: second = second_start + inner W;  h, y = cell(second)."""
    cdef forward_rows now = rows.cell
    multiply(
        layer.kernels, &layer.second, now.count, <const void *const *>(rows.inner + now.first),
        <const void *const *>(rows.second_start + now.first), <void *const *>(rows.second + now.first), downwards,
    )
    now.h_prev = <const void *const *>rows.h_prev
    now.h = <void *const *>rows.h
    now.y = <void *const *>rows.y
    now.units = layer.state_size
    layer.cell.second_forward(&now)


cdef void zone_out(const layer_description *layer, const step_rows *rows, Py_ssize_t count) noexcept nogil:
    """h = keep h_prev + (1 - keep) h, and likewise c."""
    cdef Py_ssize_t r
    for r in range(count):
        layer.kernels.blend(layer.state_size, rows.keep_h[r], rows.h_prev[r], rows.h[r], rows.h[r], rows.y[r])
        if layer.cell.has_c:
            layer.kernels.blend(
                layer.hidden_size, rows.keep_c[r], rows.c_prev[r], rows.c[r], rows.c_next[r], rows.c_next[r]
            )


cdef void prepare(
    const layer_description *layer,
    step_rows *rows,
    bint with_input,           # False: rows.start holds bias + x W_ih already
    bint taped,                # rows.gates, .recurrent are whole rows; False: scratch for what is worked on together
    char *work,                # work_bytes(layer)
) noexcept nogil:
    """Set what is the same in all steps of these arrays."""
    cdef bint halfway = two_phases(layer)
    cdef forward_rows *cell_rows = &rows.cell
    rows.with_input = with_input
    rows.taped = taped
    rows.entire = taped or (layer.apart and not with_input)
    cell_rows.gates = <void *const *>(<void **>rows.start if layer.apart and not with_input else rows.gates)
    cell_rows.recurrent = <void *const *>rows.recurrent
    cell_rows.h_prev = <const void *const *>(rows.h_in if halfway else rows.h_prev)
    cell_rows.c_prev = <const void *const *>rows.c_prev
    cell_rows.c = <void *const *>rows.c
    cell_rows.h = <void *const *>(rows.inner if halfway else rows.h)
    cell_rows.y = <void *const *>(rows.inner if halfway else rows.y)
    cell_rows.second = <void *const *>rows.second
    cell_rows.options = layer.options
    cell_rows.scratch = work
    if layer.apart:
        set_product(&rows.product, layer.kernels, &layer.x, NULL)
        set_product(&rows.product_h, layer.kernels, &layer.h, NULL)
    elif with_input:
        set_product(&rows.product, layer.kernels, &layer.x, &layer.h)
    else:
        set_product(&rows.product, layer.kernels, &layer.h, NULL)
    if layer.sole:
        make_plan(layer, rows)


cdef inline void take_rows_of_step(step_rows *rows, Py_ssize_t row, Py_ssize_t count) noexcept nogil:
    """For rows.product: those from row on."""
    cdef const void *const *h_in = <const void *const *>(rows.h_in + row)
    take_rows(
        &rows.product, count, <const void *const *>(rows.x + row) if rows.with_input else h_in, h_in,
        <const void *const *>(rows.start + row), <void *const *>(rows.cell.gates + row),
    )


cdef void make_plan(const layer_description *layer, step_rows *rows) noexcept nogil:
    """All products of a step of one row, and the cells that follow: what step_of would find anew in every step."""
    cdef Py_ssize_t lanes = layer.kernels.lanes
    cdef Py_ssize_t first, last, vector, vectors
    cdef forward_rows *cell_rows = rows.plan_rows
    cdef planned *now = rows.plan
    take_rows_of_step(rows, 0, 1)
    first = 0
    while first < layer.h.vectors:
        last = min(layer.h.vectors, first + layer.together)
        cell_rows[0] = rows.cell
        cell_rows.first = cell_rows.gates_offset = cell_rows.recurrent_offset = cell_rows.ahead = 0
        cell_rows.count = 1
        if rows.entire:
            cell_rows.gates_offset = first * lanes
        cell_rows.unit_offset = first // layer.cell.gates * lanes
        cell_rows.units = min(layer.units_together, layer.hidden_size - cell_rows.unit_offset)
        vector = first
        while vector < last:
            vectors = vectors_of_tile(&layer.h, min(layer.at_once, last - vector))
            take_panels(
                &rows.product, vector, min(layer.h.panel, vectors), vector * lanes,
                cell_rows.gates_offset + (vector - first) * lanes,
            )
            now.vectors = vectors
            now.tile = rows.product.tile
            now.rows = cell_rows
            now += 1
            vector += vectors
        cell_rows += 1
        first = last
    rows.plan_length = now - rows.plan


cdef void step_of_plan(
    const layer_description *layer, const step_rows *rows, bint downwards
) noexcept nogil:
    """As step_of, for one row.

    ``beside``: the cell of one block waits for the product of the next, and runs beside it; that of the last does not.
    """
    cdef Py_ssize_t pace = -1 if downwards else 1
    cdef const planned *now = rows.plan + (rows.plan_length - 1 if downwards else 0)
    cdef const forward_rows *waiting = NULL
    cdef Py_ssize_t left = rows.plan_length
    while left > 0:
        if waiting != NULL:
            layer.cell.forward_beside(waiting, &now.tile)
            waiting = NULL
        else:
            layer.kernels.tile(1, now.vectors, &now.tile)
        left -= 1
        if left == 0 or now[pace].rows != now.rows:  # those were all products of its units
            if left > 0 and layer.beside:
                waiting = now.rows
            else:
                layer.cell.forward(now.rows)
        now += pace


cdef inline void step_of(
    const bint separate,       # layer.apart, known to the compiler: its other half costs nothing then
    const layer_description *layer,
    step_rows *rows,           # prepared
    Py_ssize_t count,          # active rows
    bint downwards,            # from the last block to the first
) noexcept nogil:
    """One time step: for some blocks after the other, for some rows after the other, the products and then the cell.

        gates = start + x W_ih + h_prev W_hh;   c, h, y = cell(gates, c_prev)

    or, apart, with the sums of h W_hh in ``recurrent`` (then gates is rows.start, whole rows, where not with_input).
    Blocks are outside and rows inside, so weights come from afar once per step. Steps take turns in going up and down:
    what a step used last is still near when the next one begins with it. (No sum runs over blocks.)

    A cell in two phases writes what the first makes of the gates, all of it, into ``inner``, and goes on from there.
    """
    cdef const kernel_table *kernels = layer.kernels
    cdef const matrix *leading = &layer.x if rows.with_input else &layer.h
    cdef forward_rows *cell_rows = &rows.cell
    cdef panel_product *product = &rows.product
    cdef panel_product *product_h = &rows.product_h
    cdef Py_ssize_t lanes = kernels.lanes
    cdef Py_ssize_t units = layer.units_together
    cdef Py_ssize_t pace = -layer.at_once if downwards else layer.at_once
    cdef Py_ssize_t together = -layer.together if downwards else layer.together
    cdef Py_ssize_t first = layer.last_together if downwards else 0      # vector of those worked on together
    cdef Py_ssize_t unit = layer.last_unit if downwards else 0           # its first hidden unit
    cdef Py_ssize_t last, row, some, vector, vectors, origin, sums_origin, start_vector
    cdef const void *const *start
    cdef const void *const *h_rows
    cdef const void *following
    cdef void *const *gates
    cdef void *const *sums
    while 0 <= first < layer.h.vectors:
        last = min(last_at_once(&layer.h, layer.at_once), first + layer.together - layer.at_once)
        origin = 0 if rows.entire else first       # the vector that gates begin with
        sums_origin = 0 if rows.taped else first   # and that the sums of h W_hh begin with
        row = 0
        while row < count:
            some = rows_now(kernels, count - row)
            start = <const void *const *>(rows.start + row)
            gates = <void *const *>(cell_rows.gates + row)
            h_rows = <const void *const *>(rows.h_in + row)
            take_rows_of_step(rows, row, some)
            if separate:
                sums = <void *const *>(rows.recurrent + row)
                take_rows(product_h, some, h_rows, NULL, <const void *const *>sums, sums)
            vector = last if downwards else first
            while first <= vector <= last:
                following = panel_at(leading, vector + pace)
                vectors = min(layer.at_once, layer.h.vectors - vector)
                if separate:
                    start_vector = vector
                    if rows.with_input:
                        multiply_panels(
                            product, vector, vectors, vector * lanes, (vector - origin) * lanes,
                            panel_at(&layer.h, vector), NULL,
                        )
                        start = <const void *const *>gates
                        start_vector = vector - origin
                    begin_anew(layer, vector, vectors, some, start, start_vector, sums, vector - sums_origin)
                    multiply_panels(
                        product_h, vector, vectors, (vector - sums_origin) * lanes, (vector - sums_origin) * lanes,
                        following, NULL,
                    )
                else:
                    multiply_panels(
                        product, vector, vectors, vector * lanes, (vector - origin) * lanes, following,
                        panel_at(&layer.h, vector + pace),
                    )
                vector += pace
            cell_rows.ahead = 0
            # (Without a tape those lines are near, and of few rows too; behind a row is what another thread writes.)
            if rows.taped and count > 2 and 0 <= first + together <= layer.h.vectors - layer.together:
                cell_rows.ahead = -units if downwards else units
            cell_rows.first = row
            cell_rows.count = some
            cell_rows.gates_offset = (first - origin) * lanes
            cell_rows.recurrent_offset = (first - sums_origin) * lanes
            cell_rows.unit_offset = unit
            cell_rows.units = min(units, layer.hidden_size - unit)
            layer.cell.forward(cell_rows)
            if two_phases(layer):
                second_phase(layer, rows, downwards)
            row += some
        first += together
        unit += -units if downwards else units


cdef void step(
    const layer_description *layer, step_rows *rows, Py_ssize_t count, bint downwards
) noexcept nogil:
    if layer.sole:
        if count > 0:
            step_of_plan(layer, rows, downwards)
    elif layer.apart:
        step_of(True, layer, rows, count, downwards)
    else:
        step_of(False, layer, rows, count, downwards)
    if layer.keep_h != NULL:
        zone_out(layer, rows, count)


cdef struct strided:
    # A (steps, rows, units) array whose last axis is contiguous.
    char *data
    Py_ssize_t step
    Py_ssize_t row


cdef strided view(array):
    cdef strided a
    a.data = <char *>cnp.PyArray_DATA(array)
    a.step = cnp.PyArray_STRIDE(array, 0)
    a.row = cnp.PyArray_STRIDE(array, 1)
    return a


cdef strided rows_view(array):
    """An array (rows, units), or None, as if it had a first axis."""
    cdef strided a
    a.data = NULL
    a.step = a.row = 0
    if array is not None:
        a.data = <char *>cnp.PyArray_DATA(array)
        a.row = cnp.PyArray_STRIDE(array, 0)
    return a


cdef strided everywhere(const char *units) noexcept:
    """The same units for every step and row."""
    cdef strided a
    a.data = <char *>units
    a.step = a.row = 0
    return a


cdef inline char *at(const strided *a, Py_ssize_t t, Py_ssize_t row) noexcept nogil:
    return a.data + t * a.step + row * a.row


cdef inline strided view_or_none(array):
    """data is NULL where there is none."""
    cdef strided a
    a.data = NULL
    if array is not None:
        a = view(array)
    return a


cdef struct activity:
    # Which rows take part in a step; either may be NULL, not both are set.
    const Py_ssize_t *lengths     # (B,)
    const char *mask              # (T, B)
    Py_ssize_t batch


cdef activity activity_of(Pass arrays, Py_ssize_t batch):
    cdef activity a
    a.lengths = NULL if arrays.lengths is None else <Py_ssize_t *>cnp.PyArray_DATA(arrays.lengths)
    a.mask = NULL if arrays.mask is None else <char *>cnp.PyArray_DATA(arrays.mask)
    a.batch = batch
    return a


cdef inline bint is_active(const activity *a, Py_ssize_t row, Py_ssize_t t) noexcept nogil:
    if a.lengths != NULL:
        return t < a.lengths[row]
    return a.mask == NULL or a.mask[t * a.batch + row]


cdef struct clock:
    # Step number s of the loop -> time t, and the slots of h and c before and after that step.
    Py_ssize_t steps
    bint reverse
    bint taped
    Py_ssize_t h_slots
    Py_ssize_t c_slots


cdef inline Py_ssize_t time_of(const clock *now, Py_ssize_t s) noexcept nogil:
    return now.steps - 1 - s if now.reverse else s


cdef inline Py_ssize_t slot_before(const clock *now, Py_ssize_t s, Py_ssize_t slots) noexcept nogil:
    """A tape has steps + 1 slots in the order of time; otherwise one is used, or two take turns."""
    if now.taped:
        return now.steps - s if now.reverse else s
    return s & (slots - 1)


cdef inline Py_ssize_t slot_after(const clock *now, Py_ssize_t s, Py_ssize_t slots) noexcept nogil:
    return slot_before(now, s + 1, slots)


cdef struct forward_pass:
    layer_description layer
    clock now
    activity active
    Py_ssize_t first_row          # the slice of the batch: first_row <= row < last_row
    Py_ssize_t last_row
    Py_ssize_t chunk              # steps whose x W_ih is made at once; 0: in the step itself
    Py_ssize_t chunk_alone        # likewise before the helper of a team comes, who is looked for after each
    Py_ssize_t next_input         # the first of those sums that no step has begun with
    bint taped
    bint steady                   # no tape, all rows take all steps, and nothing special
    strided x
    strided x_kept
    strided y
    strided h
    strided c
    strided gates
    strided recurrent
    bint special                  # some of the following are there
    strided inner
    strided second
    strided drop_h
    strided h_in
    strided keep_h
    strided keep_c
    strided c_fresh
    step_rows rows
    step_rows inputs              # of a whole chunk
    char *scratch
    char *work
    bint helper                   # of the two threads of a team
    bint shared                   # which share out the units of this step


cdef void take_on(forward_pass *run, const layer_description *layer) noexcept nogil:
    """From now on make the units of ``layer``: all, or some_units of them."""
    cdef Py_ssize_t units = layer.first_unit - run.layer.first_unit
    cdef Py_ssize_t unit_bytes = units * layer.kernels.itemsize
    run.layer = layer[0]
    run.y.data += unit_bytes
    run.c.data += unit_bytes
    run.gates.data += unit_bytes * layer.cell.gates
    run.recurrent.data += unit_bytes * layer.cell.gates
    prepare(&run.layer, &run.rows, run.chunk == 0, run.taped, run.work)


cdef void special_row(
    forward_pass *run, Py_ssize_t r, Py_ssize_t row, Py_ssize_t t, Py_ssize_t h_slot
) noexcept nogil:
    """What an active row needs in a cell of two phases, and for noise; h_prev and c are set."""
    cdef step_rows *rows = &run.rows
    cdef void *h_in
    if run.inner.data != NULL:
        rows.inner[r] = at(&run.inner, t, row)
        rows.second[r] = at(&run.second, t, row)
        rows.second_start[r] = <const void *>rows.second[r] if run.layer.cell.begun else run.layer.bias_second
    if run.drop_h.data != NULL:
        h_in = at(&run.h_in, h_slot, row)
        run.layer.kernels.scale(run.layer.state_size, at(&run.drop_h, 0, row), rows.h_prev[r], h_in)
        rows.h_in[r] = h_in
    if run.layer.keep_h != NULL:
        rows.keep_h[r] = at(&run.keep_h, t, row)
        if run.layer.cell.has_c:
            rows.keep_c[r] = at(&run.keep_c, t, row)
            rows.c_next[r] = rows.c[r]
            if run.c_fresh.data != NULL:
                rows.c[r] = at(&run.c_fresh, t, row)


cdef void special_rest(forward_pass *run, Py_ssize_t row, Py_ssize_t t, Py_ssize_t h_slot) noexcept nogil:
    """Of a step that a row does not take: zeros, where a product of the backward pass must not meet a NaN."""
    cdef Py_ssize_t itemsize = run.layer.kernels.itemsize
    if run.inner.data != NULL:
        memset(at(&run.inner, t, row), 0, run.layer.hidden_size * itemsize)
    if run.drop_h.data != NULL:
        memset(at(&run.h_in, h_slot, row), 0, run.layer.state_size * itemsize)


cdef void multiply_inputs(forward_pass *run, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """bias + x W_ih of the steps first .. last - 1."""
    cdef step_rows *inputs = &run.inputs
    cdef Py_ssize_t gates_bytes = gates_row_bytes(&run.layer)
    cdef Py_ssize_t total = 0
    cdef Py_ssize_t s, t, row
    for s in range(first, last):
        t = time_of(&run.now, s)
        for row in range(run.first_row, run.last_row):
            if is_active(&run.active, row, t):
                inputs.x[total] = at(&run.x, t, row)
                inputs.start[total] = run.layer.bias
                inputs.gates[total] = at(&run.gates, t, row) if run.taped else run.scratch + total * gates_bytes
                total += 1
    multiply(
        run.layer.kernels, &run.layer.x, total, <const void *const *>inputs.x, <const void *const *>inputs.start,
        <void *const *>inputs.gates, False,
    )
    run.next_input = 0


cdef inline const void *next_start(forward_pass *run) noexcept nogil:
    """What the sums of an active row begin with."""
    if not run.chunk:
        return run.layer.bias
    run.next_input += 1
    return run.inputs.gates[run.next_input - 1]


cdef inline Py_ssize_t set_rows(forward_pass *run, Py_ssize_t s) noexcept nogil:
    """Point to the rows that take step s, and let the others carry over what they have; how many take it."""
    cdef step_rows *rows = &run.rows
    cdef Py_ssize_t x_bytes = run.layer.x.depth * run.layer.kernels.itemsize
    cdef Py_ssize_t h_bytes = run.layer.state_size * run.layer.kernels.itemsize
    cdef Py_ssize_t c_bytes = run.layer.hidden_size * run.layer.kernels.itemsize
    cdef Py_ssize_t first_byte = run.layer.first_unit * run.layer.kernels.itemsize
    cdef Py_ssize_t t = time_of(&run.now, s)
    cdef Py_ssize_t h_slot = slot_before(&run.now, s, run.now.h_slots)
    cdef Py_ssize_t h_next = slot_after(&run.now, s, run.now.h_slots)
    cdef Py_ssize_t c_slot = slot_before(&run.now, s, run.now.c_slots)
    cdef Py_ssize_t c_next = slot_after(&run.now, s, run.now.c_slots)
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t row
    for row in range(run.first_row, run.last_row):
        if is_active(&run.active, row, t):
            rows.x[count] = at(&run.x, t, row)
            if run.x_kept.data != NULL:
                memcpy(at(&run.x_kept, t, row), rows.x[count], x_bytes)
            rows.h_in[count] = at(&run.h, h_slot, row)
            rows.h_prev[count] = at(&run.h, h_slot, row) + first_byte
            rows.h[count] = at(&run.h, h_next, row) + first_byte
            if run.layer.cell.has_c:
                rows.c_prev[count] = at(&run.c, c_slot, row)
                rows.c[count] = at(&run.c, c_next, row)
            rows.y[count] = at(&run.y, t, row)
            rows.start[count] = next_start(run)
            if run.taped:
                rows.gates[count] = at(&run.gates, t, row)
                if run.layer.apart:
                    rows.recurrent[count] = at(&run.recurrent, t, row)
            if run.special:
                special_row(run, count, row, t, h_slot)
            count += 1
        else:
            memset(at(&run.y, t, row), 0, h_bytes)
            if run.x_kept.data != NULL:
                memset(at(&run.x_kept, t, row), 0, x_bytes)
            # It carries its state over. Slots that take turns both have it after the first such step.
            if run.taped or s == 0 or is_active(&run.active, row, time_of(&run.now, s - 1)):
                memcpy(at(&run.h, h_next, row), at(&run.h, h_slot, row), h_bytes)
                if run.layer.cell.has_c and c_next != c_slot:
                    memcpy(at(&run.c, c_next, row), at(&run.c, c_slot, row), c_bytes)
            if run.special:
                special_rest(run, row, t, h_slot)
    return count


cdef inline void move(void **pointer, Py_ssize_t by) noexcept nogil:
    pointer[0] = <char *>pointer[0] + by


cdef inline void move_rows(forward_pass *run, Py_ssize_t s) noexcept nogil:
    """As set_rows in a pass without a tape that is `steady`, once step s - 1 was set: every pointer goes one step on.

    (Even for one row half of the instructions; the fewer there are, the further the processor sees.)
    """
    cdef step_rows *rows = &run.rows
    cdef Py_ssize_t way = -1 if run.now.reverse else 1
    cdef Py_ssize_t x_by = way * run.x.step
    cdef Py_ssize_t y_by = way * run.y.step
    cdef Py_ssize_t h_by = run.h.step if s & 1 else -run.h.step  # two slots, which take turns; c has one
    cdef Py_ssize_t r
    for r in range(run.last_row - run.first_row):
        move(<void **>&rows.x[r], x_by)
        move(<void **>&rows.h_in[r], h_by)
        move(<void **>&rows.h_prev[r], h_by)
        move(&rows.h[r], -h_by)
        move(&rows.y[r], y_by)
        if run.chunk:
            rows.start[r] = next_start(run)


cdef Py_ssize_t forward_steps(forward_pass *run, Py_ssize_t first, Py_ssize_t last, Team team) noexcept nogil:
    """Steps first .. last - 1 of the loop, in chunks; the step before which it stopped.

    That is earlier than ``last`` where the team begins to share out the units, or ends to.
    """
    cdef Py_ssize_t s = first
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t chunk = run.chunk if team is None or run.shared else run.chunk_alone
    cdef Py_ssize_t end
    while s < last:
        end = min(last, s + max(chunk, 1))
        if run.chunk:
            multiply_inputs(run, s, end)
        while s < end:
            if run.steady and s > first:
                move_rows(run, s)
            else:
                count = set_rows(run, s)
            step(&run.layer, &run.rows, count, s & 1)
            s += 1
            if run.shared and not team.meet(s, run.helper):
                return s
        if team is not None and not run.shared and team.could_begin():
            return s
    return s


cdef void help_out(forward_pass *run, const layer_description *half, Team team) noexcept nogil:
    """The steps that are shared, of half of the units."""
    cdef Py_ssize_t s = team.join()
    run.shared = True
    take_on(run, half)
    if s < run.now.steps:
        forward_steps(run, s, run.now.steps, team)


cdef PyThreadState *release(Py_ssize_t operations, Cancellation cancellation) noexcept:
    """Give the GIL up for work that is worth it, and let the other parts of the call know; NULL: kept."""
    if operations <= RELEASE_OPERATIONS:
        return NULL
    cdef PyThreadState *state = PyEval_SaveThread()
    if cancellation is not None:
        number_write(&cancellation.released, True)
    return state


cdef void take_back(PyThreadState *state) noexcept:
    if state != NULL:
        PyEval_RestoreThread(state)


cdef Py_ssize_t operations_per_step(Weights weights, Py_ssize_t rows) noexcept:
    """Multiply-adds, and 32 for each activation, or 256 for one by name."""
    cdef Py_ssize_t activations = (weights.h.vectors + weights.second.vectors) * weights.lanes
    return rows * (weights.operations + activations * (32 if weights.options.width == 0 else 256)) + 1


cdef Py_ssize_t rows_per_part(Py_ssize_t operations_of_a_row) noexcept:
    """Rows are independent through all of time, so a batch of which one step would take too long goes in parts."""
    return max(ROWS_AT_ONCE, QUANTUM_OPERATIONS // operations_of_a_row)


cpdef new_states(Weights weights, Py_ssize_t layers, Py_ssize_t batch, given):
    """Where inference keeps the states of all layers, (slots, L*D, B, widest): h in two slots that take turns, then c.

    They begin at a line of the cache, lest two slices of the batch have one in common: 1.02 times the speed of 16 rows
    in two threads. Of c one slot is enough unless zoneout needs what it was. ``given``: [h_0] or [h_0, c_0]; None:
    zeros.
    """
    cdef tuple shape = (weights.state_slots, layers, batch, weights.widest_state)
    states = aligned_empty(shape, weights.dtype, True)
    if given is not None:
        states[0, :, :, :weights.state_size] = given[0]
        if weights.has_c:
            states[2, :, :, :weights.hidden_size] = given[1]
    return states


cpdef final_states(Weights weights, states, Py_ssize_t steps):
    """[h_n] or [h_n, c_n], each (L*D, B, its width), after so many steps: views of :func:`new_states`, or copies."""
    cdef list found = [slot_of(states, steps % 2)]
    if weights.has_c:
        found.append(slot_of(states, 2 + steps % 2 if weights.zoneout else 2))
    if weights.projected:
        sizes = weights.state_size, weights.hidden_size
        return [part[:, :, :size].copy() for part, size in zip(found, sizes)]
    return found


cdef slot_of(states, Py_ssize_t slot):
    """states[slot]"""
    cdef cnp.npy_intp *strides = cnp.PyArray_STRIDES(states)
    view_ = cnp.PyArray_New(
        cnp.ndarray, 3, cnp.PyArray_DIMS(states) + 1, cnp.PyArray_TYPE(states), strides + 1,
        <char *>cnp.PyArray_DATA(states) + slot * strides[0], 0, cnp.NPY_ARRAY_WRITEABLE, None,
    )
    cnp.set_array_base(view_, states)
    return view_


cdef strided slots_from(states, Py_ssize_t slot, Py_ssize_t k):
    """states[slot:, k]"""
    cdef cnp.npy_intp *strides = cnp.PyArray_STRIDES(states)
    cdef strided a
    a.data = <char *>cnp.PyArray_DATA(states) + slot * strides[0] + k * strides[1]
    a.step = strides[0]
    a.row = strides[2]
    return a


cpdef infer_all(
    list weights,      # of each layer
    x,                 # (T, B, I)             IN
    y,                 # (T, B, P)             OUT
    states_0,          # [h_0] or [h_0, c_0], or None: zeros
    lengths,
    mask,
    bint reverse,
    Py_ssize_t most,
):
    """The layers of a stack of one direction, one after the other in this thread: [h_n] or [h_n, c_n].

    None, and nothing is done, if that takes more than ``most`` multiply-adds.
    """
    cdef Weights packed
    cdef Py_ssize_t layers = len(weights)
    cdef Py_ssize_t steps = cnp.PyArray_DIM(x, 0)
    cdef Py_ssize_t batch = cnp.PyArray_DIM(x, 1)
    cdef Py_ssize_t operations = 0
    cdef Py_ssize_t k
    for packed in weights:
        operations += packed.operations
    if operations > most // max(steps * batch, 1):
        return None
    states = new_states(packed, layers, batch, states_0)
    for k in range(layers):
        out = y if k == layers - 1 else cnp.PyArray_EMPTY(3, cnp.PyArray_DIMS(y), cnp.PyArray_TYPE(y), 0)
        infer(weights[k], x, out, states, k, lengths, mask, reverse, 0, batch, None)
        x = out
    return final_states(packed, states, steps)


cpdef infer(
    Weights weights,
    x,                 # (T, B, I)             IN
    y,                 # (T, B, P)             OUT
    states,            # (slots, L*D, B, widest)  INOUT  of all layers: see new_states
    Py_ssize_t k,      # the number of this layer and direction
    lengths,
    mask,
    bint reverse,
    Py_ssize_t first_row,
    Py_ssize_t last_row,
    Cancellation cancellation,
    Team team=None,
    bint helper=False,
):
    """:func:`forward` without a tape."""
    cdef Pass arrays = Pass.__new__(Pass)
    arrays.x = x
    arrays.y = y
    arrays.states = states
    arrays.k = k
    arrays.lengths = lengths
    arrays.mask = mask
    arrays.reverse = reverse
    forward(weights, arrays, first_row, last_row, cancellation, team, helper)


cpdef forward(
    Weights weights, Pass arrays, Py_ssize_t first_row, Py_ssize_t last_row, Cancellation cancellation, Team team=None,
    bint helper=False,
):
    """Run the rows first_row .. last_row - 1 through all of time.

    With a team, two threads make this call, one of them as its ``helper``: see :func:`can_share_units`. The rows are
    then so few that they go in one part.
    """
    cdef Py_ssize_t part = rows_per_part(operations_per_step(weights, 1))
    while first_row < last_row:
        if not forward_part(
            weights, arrays, first_row, min(last_row, first_row + part), cancellation, team, helper
        ):
            return
        first_row += part


def can_share_units(Weights weights):
    """Whether two threads can share out the units of each step, all rows taking all steps, without noise of training.

    Each needs h of the others, and nothing else.
    """
    return weights.h.vectors > weights.h.panel and not (
        weights.options.width or weights.two_phases or weights.zoneout
    )


cdef inline Py_ssize_t gates_row_bytes(const layer_description *layer) noexcept nogil:
    """Of the sums of all units of a row."""
    return layer.h.vectors * layer.kernels.lanes * layer.kernels.itemsize


cdef Py_ssize_t steps_in_advance(const layer_description *layer, Py_ssize_t steps, Py_ssize_t rows) noexcept nogil:
    """Of how many steps x W_ih is made at once, to fill the tiles that few rows leave empty; 0: in the step itself.

    The steps are shared out evenly, so that the last time is no poor rest.
    """
    cdef Py_ssize_t x_bytes = bytes_of_matrix(&layer.x)
    cdef Py_ssize_t row_bytes = gates_row_bytes(layer)
    cdef Py_ssize_t most = 2 * layer.kernels.tile_rows - 1   # rows of a batch that has few
    cdef Py_ssize_t at_once = 2 * layer.kernels.tile_rows    # rows of x, at least
    cdef Py_ssize_t times
    if x_bytes > INPUT_FAR_BYTES and 2 * INPUT_ROWS * row_bytes <= INPUT_FAR_BYTES:
        most = 4 * layer.kernels.tile_rows
        at_once = 2 * INPUT_ROWS
    elif x_bytes > INPUT_NEAR_BYTES:
        at_once = INPUT_ROWS
    if steps == 1 or rows > most or (x_bytes <= INPUT_IN_STEP_BYTES and layer.x.depth <= INPUT_IN_STEP_DEPTH):
        return 0
    at_once = max(INPUT_BYTES // row_bytes, at_once) // rows
    times = (steps + at_once - 1) // at_once
    return (steps + times - 1) // times


cdef bint forward_part(
    Weights weights, Pass arrays, Py_ssize_t first_row, Py_ssize_t last_row, Cancellation cancellation, Team team,
    bint helper,
) except -1:
    """As :func:`forward`; False: cancelled."""
    cdef forward_pass run
    cdef Py_ssize_t rows = last_row - first_row
    cdef Py_ssize_t steps = cnp.PyArray_DIM(arrays.x, 0)
    cdef Py_ssize_t s, end, operations, quantum, input_bytes, scratch, work
    cdef PyThreadState *state
    cdef char *memory
    if steps == 0:
        return True
    cdef layer_description whole = describe(weights, rows)
    cdef layer_description half
    memset(&run, 0, sizeof(run))
    run.layer = whole
    run.now.steps = steps
    run.now.reverse = arrays.reverse
    run.active = activity_of(arrays, cnp.PyArray_DIM(arrays.x, 1))
    run.first_row = first_row
    run.last_row = last_row
    run.x = view(arrays.x)
    if not helper:
        run.x_kept = view_or_none(arrays.x_kept)
    run.y = view(arrays.y)
    run.now.taped = run.taped = arrays.gates is not None
    if run.taped:
        run.h = view(arrays.h)
        run.c = view_or_none(arrays.c)
    else:
        run.h = slots_from(arrays.states, 0, arrays.k)
        run.now.h_slots = 2
        run.now.c_slots = 1
        if weights.has_c:
            run.c = slots_from(arrays.states, 2, arrays.k)
            run.now.c_slots = weights.state_slots - 2
    if run.taped:
        run.gates = view(arrays.gates)
        if arrays.recurrent is not None:
            run.recurrent = view(arrays.recurrent)
    run.special = run.layer.keep_h != NULL or (run.taped and (weights.two_phases or arrays.drop_h is not None))
    run.steady = not run.taped and not run.special and arrays.lengths is None and arrays.mask is None
    if run.special:
        run.inner = view_or_none(arrays.inner)
        run.second = view_or_none(arrays.second)
        run.drop_h = rows_view(arrays.drop_h)
        run.h_in = view_or_none(arrays.h_in)
        run.keep_h = view_or_none(arrays.keep_h) if arrays.keep_h is not None else everywhere(run.layer.keep_h)
        run.keep_c = view_or_none(arrays.keep_c) if arrays.keep_c is not None else everywhere(run.layer.keep_c)
        run.c_fresh = view_or_none(arrays.c_fresh)

    run.chunk = steps_in_advance(&run.layer, steps, rows)
    run.chunk_alone = min(run.chunk, 2 * run.layer.kernels.tile_rows // rows)
    input_bytes = gates_row_bytes(&run.layer)
    scratch = scratch_bytes(&run.layer, rows)
    if team is not None:
        half = some_units(&whole, rows, helper)
        scratch = max(scratch, scratch_bytes(&half, rows))  # which may have more blocks at a time
    work = work_bytes(&run.layer)
    memory = <char *>malloc(ALIGNMENT + work + scratch + (run.chunk * rows * input_bytes if not run.taped else 0))
    if memory == NULL:
        raise MemoryError
    run.rows.x = NULL
    run.inputs.x = NULL
    operations = operations_per_step(weights, rows)
    quantum = max(QUANTUM_OPERATIONS // operations, 1)
    try:
        allocate_rows(&run.rows, rows, blocks_of_plan(weights, rows))
        if run.layer.keep_h == NULL:
            run.rows.c_next = run.rows.c
        allocate_rows(&run.inputs, run.chunk * rows, 0)
        run.work = memory + (-<Py_ssize_t>memory & (ALIGNMENT - 1))
        run.scratch = run.work + work
        if not run.taped:
            scratch_rows(&run.layer, &run.rows, rows, run.scratch)
            run.scratch += scratch
        prepare(&run.layer, &run.rows, run.chunk == 0, run.taped, run.work)
        run.helper = helper
        run.shared = False
        if helper:
            with nogil:
                help_out(&run, &half, team)
            return True
        s = 0
        while s < steps:
            end = min(steps, s + quantum)
            # A helper that waits for the GIL may not be waited for by whoever has it.
            state = release(PY_SSIZE_T_MAX if team is not None else operations * (end - s), cancellation)
            s = forward_steps(&run, s, end, team)
            take_back(state)
            if interrupted(cancellation):
                return False
            if run.shared and not team.shares(s):
                run.shared = False
                take_on(&run, &whole)
                team = None
            elif team is not None and not run.shared and team.begin(s):
                run.shared = True
                take_on(&run, &half)
        if team is not None:
            team.end()
    finally:
        free_rows(&run.rows)
        free_rows(&run.inputs)
        free(memory)
    return True


cdef bint interrupted(Cancellation cancellation) except -1:
    """Raises KeyboardInterrupt on Ctrl-C (in the main thread); True where another part of the call was."""
    PyErr_CheckSignals()
    return cancellation is not None and cancellation.requested


cdef struct backward_pass:
    const kernel_table *kernels
    cell cell
    matrix h_transposed
    matrix second_transposed
    Py_ssize_t hidden_size
    Py_ssize_t state_size
    clock now
    activity active
    Py_ssize_t first_row
    Py_ssize_t last_row
    strided gates
    strided recurrent
    strided h
    strided c
    strided c_fresh           # with zoneout
    strided dy
    strided dh                # one step
    strided dc                # one step
    strided second
    strided drop_h
    strided h_in
    strided keep_h_rows
    strided keep_c_rows
    strided dextras           # one step
    backward_rows rows
    const void **h_prev
    const void **h_in_rows    # h_prev, or that with dropout
    const void **c_prev
    const void **c_rows
    const void **dy_rows
    const void **drop_rows
    void **gates_rows
    void **recurrent_rows     # gates_rows where they are not apart: the dgates that h_prev gets
    void **dh_rows
    void **dc_rows
    void **second_rows
    void **dinner_rows
    void **dh_in_rows         # dh_rows, or where dh_prev is made before dropout's factors
    void **dextras_rows
    void **carry_h_rows       # what zoneout keeps
    void **carry_c_rows
    const void **zeros


cdef enum:
    BACKWARD_ARRAYS = 17


cdef struct backward_widths:
    # Bytes of a row of what a pass needs beside its arrays; 0: not needed.
    Py_ssize_t zeros          # one row for all
    Py_ssize_t dinner
    Py_ssize_t dh_in
    Py_ssize_t carry_h
    Py_ssize_t carry_c


cdef void backward_steps(backward_pass *run, Py_ssize_t last, Py_ssize_t first) noexcept nogil:
    """Steps last - 1 .. first of the loop: the cell's derivatives for all rows, then dh = dgates W_hh."""
    cdef const kernel_table *kernels = run.kernels
    cdef backward_rows *rows = &run.rows
    cdef Py_ssize_t gates_bytes = run.h_transposed.depth * kernels.itemsize
    cdef Py_ssize_t second_bytes = run.second_transposed.depth * kernels.itemsize
    cdef bint halfway = run.cell.second_backward != NULL
    cdef bint zoneout = run.keep_h_rows.data != NULL
    cdef bint dropped = run.drop_h.data != NULL
    cdef Py_ssize_t s, t, row, r, count, h_slot
    cdef const void *const *start = <const void *const *>(
        run.dh_in_rows if run.cell.bypass or dropped else <void **>run.zeros
    )
    rows.recurrent = <void *const *>run.recurrent_rows
    rows.c_prev = <const void *const *>run.c_prev
    rows.c = <const void *const *>run.c_rows
    rows.dc = <void *const *>run.dc_rows
    s = last
    while s > first:
        s -= 1
        t = time_of(&run.now, s)
        h_slot = slot_before(&run.now, s, run.now.h_slots)
        count = 0
        for row in range(run.first_row, run.last_row):
            if is_active(&run.active, row, t):
                run.gates_rows[count] = at(&run.gates, t, row)
                if apart(&run.cell):
                    run.recurrent_rows[count] = at(&run.recurrent, t, row)
                run.h_prev[count] = at(&run.h, h_slot, row)
                if run.cell.has_c:
                    run.c_prev[count] = at(&run.c, slot_before(&run.now, s, run.now.c_slots), row)
                    run.c_rows[count] = at(&run.c, slot_after(&run.now, s, run.now.c_slots), row)
                    if run.c_fresh.data != NULL:
                        run.c_rows[count] = at(&run.c_fresh, t, row)
                run.dy_rows[count] = at(&run.dy, t, row)
                run.dh_rows[count] = at(&run.dh, 0, row)
                run.dc_rows[count] = at(&run.dc, 0, row)
                if run.dextras.data != NULL:
                    run.dextras_rows[count] = at(&run.dextras, 0, row)
                if halfway:
                    run.second_rows[count] = at(&run.second, t, row)
                if dropped:
                    run.h_in_rows[count] = at(&run.h_in, h_slot, row)
                    run.drop_rows[count] = at(&run.drop_h, 0, row)
                    memset(run.dh_in_rows[count], 0, run.state_size * kernels.itemsize)
                if zoneout:
                    kernels.unblend(
                        run.state_size, at(&run.keep_h_rows, t, row), run.dy_rows[count], run.dh_rows[count],
                        run.carry_h_rows[count],
                    )
                    run.dy_rows[count] = run.zeros[0]
                    if run.cell.has_c:
                        kernels.unblend(
                            run.hidden_size, at(&run.keep_c_rows, t, row), run.zeros[0], run.dc_rows[count],
                            run.carry_c_rows[count],
                        )
                count += 1
            else:  # its gradients carry over; this step has none
                memset(at(&run.gates, t, row), 0, gates_bytes)
                if apart(&run.cell):
                    memset(at(&run.recurrent, t, row), 0, gates_bytes)
                if halfway:
                    memset(at(&run.second, t, row), 0, second_bytes)
        rows.count = count
        rows.gates = <void *const *>run.gates_rows
        rows.h_prev = <const void *const *>run.h_prev
        rows.dy = <const void *const *>run.dy_rows
        rows.dh = <void *const *>run.dh_rows
        rows.units = run.hidden_size
        if halfway:
            rows.units = run.state_size
            run.cell.second_backward(rows)
            multiply(
                kernels, &run.second_transposed, count, <const void *const *>run.second_rows,
                <const void *const *>run.zeros, <void *const *>run.dinner_rows, s & 1,
            )
            rows.h_prev = <const void *const *>run.h_in_rows
            rows.dy = <const void *const *>run.zeros
            rows.dh = <void *const *>run.dinner_rows
            rows.units = run.hidden_size
        run.cell.backward(rows)
        multiply(
            kernels, &run.h_transposed, count, <const void *const *>run.recurrent_rows, start,
            <void *const *>run.dh_in_rows, s & 1,
        )
        for r in range(count if dropped or zoneout else 0):
            if dropped:
                kernels.scale(run.state_size, run.drop_rows[r], run.dh_in_rows[r], run.dh_in_rows[r])
                if run.cell.bypass:
                    kernels.add(run.state_size, run.dh_in_rows[r], run.dh_rows[r])
                else:
                    memcpy(run.dh_rows[r], run.dh_in_rows[r], run.state_size * kernels.itemsize)
            if zoneout:
                kernels.add(run.state_size, run.carry_h_rows[r], run.dh_rows[r])
                if run.cell.has_c:
                    kernels.add(run.hidden_size, run.carry_c_rows[r], run.dc_rows[r])


def backward(
    Weights weights,
    Pass arrays,       # gates INOUT in: as forward left it, out: dgates; recurrent: those that h gets; second likewise
    dy,                # (T, B, P)                       IN
    dh,                # (B, state_blocks*lanes)         INOUT  in: dL/dh_n, zero past P; out: dL/dh_0
    dc,                # (B, blocks*lanes)               INOUT  likewise for c; None: the cell has no c
    dextras,           # (B, extra_rows, blocks*lanes)   INOUT  gradients are added, for each row apart; or None
    Py_ssize_t first_row,
    Py_ssize_t last_row,
    Cancellation cancellation,
):
    """Back through all of time. What is left is products: dweight, dx."""
    cdef Py_ssize_t part = rows_per_part(2 * operations_per_step(weights, 1))
    weights.prepare_backward()
    while first_row < last_row:
        if not backward_part(
            weights, arrays, dy, dh, dc, dextras, first_row, min(last_row, first_row + part), cancellation
        ):
            return
        first_row += part


cdef bint backward_part(
    Weights weights, Pass arrays, dy, dh, dc, dextras, Py_ssize_t first_row, Py_ssize_t last_row,
    Cancellation cancellation,
) except -1:
    """As :func:`backward`; False: cancelled."""
    cdef backward_pass run
    cdef backward_widths widths
    cdef Py_ssize_t rows = last_row - first_row
    cdef Py_ssize_t steps = cnp.PyArray_DIM(arrays.gates, 0)
    cdef Py_ssize_t s, start, operations, quantum, r, work
    cdef PyThreadState *state
    cdef void **memory
    cdef char *bytes_
    if steps == 0:
        return True
    run.kernels = weights.kernels
    run.cell = weights.cell
    run.h_transposed = weights.h_transposed
    # Only where there is one row in all: a gradient may not depend on the number of threads or on lengths.
    run.h_transposed.any_order = cnp.PyArray_DIM(arrays.gates, 1) == 1 and run.h_transposed.depth % 8 == 0
    run.second_transposed = weights.second_transposed
    run.hidden_size = weights.hidden_size
    run.state_size = weights.state_size
    run.now.steps = steps
    run.now.reverse = arrays.reverse
    run.now.taped = True
    run.now.h_slots = run.now.c_slots = steps + 1
    run.active = activity_of(arrays, cnp.PyArray_DIM(arrays.h, 1))
    run.first_row = first_row
    run.last_row = last_row
    run.gates = view(arrays.gates)
    run.h = view(arrays.h)
    if arrays.recurrent is not None:
        run.recurrent = view(arrays.recurrent)
    if arrays.c is not None:
        run.c = view(arrays.c)
    run.c_fresh = view_or_none(arrays.c_fresh)
    run.second = view_or_none(arrays.second)
    run.drop_h = rows_view(arrays.drop_h)
    run.h_in = view_or_none(arrays.h_in)
    run.keep_h_rows = everywhere(weights.keep_h) if arrays.keep_h is None else view(arrays.keep_h)
    run.keep_c_rows = everywhere(weights.keep_c) if arrays.keep_c is None else view(arrays.keep_c)
    run.dextras = rows_view(dextras)
    run.dy = view(dy)
    run.dh = rows_view(dh)
    run.dc = rows_view(dc)

    widths.zeros = max(run.h_transposed.vectors, weights.blocks) * weights.lanes * run.kernels.itemsize
    widths.dinner = weights.blocks * weights.lanes * run.kernels.itemsize if weights.two_phases else 0
    widths.dh_in = weights.state_blocks * weights.lanes * run.kernels.itemsize if run.drop_h.data != NULL else 0
    widths.carry_h = weights.state_size * run.kernels.itemsize if weights.zoneout else 0
    widths.carry_c = weights.hidden_size * run.kernels.itemsize if weights.zoneout and weights.has_c else 0
    work = VARIANT_SCRATCH * weights.options.width * run.kernels.itemsize
    memory = <void **>malloc(
        BACKWARD_ARRAYS * rows * sizeof(void *) + ALIGNMENT + work + widths.zeros
        + rows * (widths.dinner + widths.dh_in + widths.carry_h + widths.carry_c)
    )
    if memory == NULL:
        raise MemoryError
    run.c_prev = <const void **>memory
    run.c_rows = <const void **>(memory + rows)
    run.dy_rows = <const void **>(memory + 2 * rows)
    run.gates_rows = memory + 3 * rows
    run.dh_rows = memory + 4 * rows
    run.dc_rows = memory + 5 * rows
    run.h_prev = <const void **>(memory + 6 * rows)
    run.recurrent_rows = memory + 7 * rows if apart(&run.cell) else run.gates_rows
    run.zeros = <const void **>(memory + 8 * rows)
    run.second_rows = memory + 9 * rows
    run.dinner_rows = memory + 10 * rows
    run.h_in_rows = <const void **>(memory + 11 * rows) if widths.dh_in else run.h_prev
    run.drop_rows = <const void **>(memory + 12 * rows)
    run.dh_in_rows = memory + 13 * rows if widths.dh_in else run.dh_rows
    run.dextras_rows = memory + 14 * rows
    run.carry_h_rows = memory + 15 * rows
    run.carry_c_rows = memory + 16 * rows
    bytes_ = <char *>(memory + BACKWARD_ARRAYS * rows)
    bytes_ += -<Py_ssize_t>bytes_ & (ALIGNMENT - 1)
    run.rows.second = <void *const *>run.second_rows
    run.rows.dh_prev = <void *const *>run.dh_in_rows
    run.rows.dextras = <void *const *>run.dextras_rows
    run.rows.options = &weights.options
    run.rows.scratch = bytes_
    bytes_ += work
    memset(bytes_, 0, widths.zeros)
    for r in range(rows):
        run.zeros[r] = bytes_
    bytes_ += widths.zeros
    for r in range(rows):
        run.dinner_rows[r] = bytes_ + r * widths.dinner
    bytes_ += rows * widths.dinner
    if widths.dh_in:
        for r in range(rows):
            run.dh_in_rows[r] = bytes_ + r * widths.dh_in
        bytes_ += rows * widths.dh_in
    for r in range(rows):
        run.carry_h_rows[r] = bytes_ + r * widths.carry_h
    bytes_ += rows * widths.carry_h
    for r in range(rows):
        run.carry_c_rows[r] = bytes_ + r * widths.carry_c
    operations = 2 * operations_per_step(weights, rows)
    quantum = max(QUANTUM_OPERATIONS // operations, 1)
    try:
        s = steps
        while s > 0:
            start = max(0, s - quantum)
            state = release(operations * (s - start), cancellation)
            backward_steps(&run, s, start)
            take_back(state)
            s = start
            if interrupted(cancellation):
                return False
    finally:
        free(memory)
    return True


def input_gradient(
    Weights weights,
    dgates,            # (T, B, blocks, G, lanes)   IN
    dx,                # (T, B, I)                  OUT, or INOUT if ``add``
    bint add,
    Py_ssize_t first_row,
    Py_ssize_t last_row,
    Cancellation cancellation,
):
    """dx = dgates W_ih, or dx += that, for the rows first_row .. last_row - 1 of every step."""
    cdef const kernel_table *kernels = weights.kernels
    cdef strided from_ = view(dgates)
    cdef strided to = view(dx)
    cdef Py_ssize_t steps = cnp.PyArray_DIM(dgates, 0)
    cdef Py_ssize_t x_bytes = weights.input_size * kernels.itemsize
    cdef Py_ssize_t sums_bytes, total, done, count, end, part, operations
    cdef PyThreadState *state
    cdef char *memory
    weights.prepare_backward()
    sums_bytes = weights.x_transposed.vectors * kernels.lanes * kernels.itemsize
    memory = <char *>malloc(ROWS_AT_ONCE * sums_bytes + ALIGNMENT)
    if memory == NULL:
        raise MemoryError
    operations = weights.x_transposed.depth * weights.x_transposed.vectors * kernels.lanes
    part = rows_per_part(operations)
    total = steps * (last_row - first_row)
    done = 0
    try:
        while done < total:
            end = min(total, done + part)
            state = release(operations * (end - done), cancellation)
            while done < end:
                count = min(<Py_ssize_t>ROWS_AT_ONCE, end - done)
                input_gradient_rows(
                    weights, &from_, &to, add, first_row, last_row - first_row, done, count, x_bytes, sums_bytes,
                    memory + (-<Py_ssize_t>memory & (ALIGNMENT - 1)),
                )
                done += count
            take_back(state)
            if interrupted(cancellation):
                return
    finally:
        free(memory)


cdef void input_gradient_rows(
    Weights weights, const strided *dgates, const strided *dx, bint add, Py_ssize_t first_row, Py_ssize_t batch,
    Py_ssize_t done, Py_ssize_t count, Py_ssize_t x_bytes, Py_ssize_t sums_bytes, char *scratch,
) noexcept nogil:
    """Rows number done .. done + count - 1 in the order of (step, row); sums are made in scratch, padded to vectors."""
    cdef void *dgates_rows[ROWS_AT_ONCE]
    cdef void *dx_rows[ROWS_AT_ONCE]
    cdef void *sums[ROWS_AT_ONCE]
    cdef Py_ssize_t t = done // batch
    cdef Py_ssize_t row = done - t * batch
    cdef Py_ssize_t r
    memset(scratch, 0, count * sums_bytes)
    for r in range(count):
        dgates_rows[r] = at(dgates, t, first_row + row)
        dx_rows[r] = at(dx, t, first_row + row)
        sums[r] = scratch + r * sums_bytes
        if add:
            memcpy(sums[r], dx_rows[r], x_bytes)
        row += 1
        if row == batch:
            row = 0
            t += 1
    multiply(
        weights.kernels, &weights.x_transposed, count, <const void *const *>dgates_rows, <const void *const *>sums,
        <void *const *>sums, False,
    )
    for r in range(count):
        memcpy(dx_rows[r], sums[r], x_bytes)
