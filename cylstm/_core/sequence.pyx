# One layer, one direction, all of time, forwards and backwards: the only time loop there is. Counts in bytes,
# so it serves every dtype; holds no equation (those are the kernels' row functions) and knows no stack.
"""The time loop of one layer in one direction."""

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.pystate cimport PyThreadState
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from cylstm._core.cells cimport apart, cell
from cylstm._core.kernels cimport backward_rows, forward_rows, kernel_table
from cylstm._core.packing cimport ROWS_AT_ONCE, Weights, group_at, matrix, multiply, product_of_group

cnp.import_array()

cdef extern from "Python.h":
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *)

cdef enum:
    RELEASE_OPERATIONS = 100_000       # multiply-adds, some microseconds: below, keeping the GIL is cheaper
    QUANTUM_OPERATIONS = 100_000_000   # some milliseconds: how often Ctrl-C is looked for
    INPUT_BYTES = 65536                # bias + x W_ih of this many bytes are made at once, and stay in L2
    TOGETHER_BYTES = 16384             # pre-activations that wait in L1: for one row, those of many blocks
    ALIGNMENT = 64


cdef class Cancellation:
    """A flag shared by the parts of one call: set, they stop at the next quantum of steps."""

    def request(self):
        self.requested = True


cdef layer_description describe(Weights weights, Py_ssize_t rows):
    """The layer as steps of up to ``rows`` rows need it."""
    cdef layer_description layer
    layer.kernels = weights.kernels
    layer.cell = weights.cell
    layer.apart = apart(&layer.cell)
    layer.x = weights.x
    layer.h = weights.h
    layer.bias = weights.bias
    layer.bias_h = weights.bias_h
    layer.hidden_size = weights.hidden_size
    cdef Py_ssize_t group_bytes = (
        max(1, min(<Py_ssize_t>ROWS_AT_ONCE, rows)) * layer.h.group * layer.kernels.lanes * layer.kernels.itemsize
    )
    layer.together = layer.h.group * max(1, TOGETHER_BYTES // group_bytes)
    layer.units_together = layer.together // layer.cell.gates * layer.kernels.lanes
    layer.last_together = (layer.h.vectors - 1) // layer.together * layer.together
    layer.last_unit = layer.last_together // layer.cell.gates * layer.kernels.lanes
    return layer


cdef int allocate_rows(step_rows *rows, Py_ssize_t capacity) except -1 nogil:
    """One allocation for the nine arrays; rows.x owns it."""
    cdef void **memory = <void **>malloc(9 * (capacity + 1) * sizeof(void *))
    if memory == NULL:
        with gil:
            raise MemoryError
    rows.x = <const void **>memory
    rows.h_prev = <const void **>(memory + capacity)
    rows.start = <const void **>(memory + 2 * capacity)
    rows.gates = memory + 3 * capacity
    rows.c_prev = <const void **>(memory + 4 * capacity)
    rows.c = memory + 5 * capacity
    rows.h = memory + 6 * capacity
    rows.y = memory + 7 * capacity
    rows.recurrent = memory + 8 * capacity
    return 0


cdef step_rows from_row(const step_rows *rows, Py_ssize_t row) noexcept nogil:
    """The same arrays from that row on."""
    cdef step_rows part
    part.x = rows.x + row
    part.h_prev = rows.h_prev + row
    part.start = rows.start + row
    part.gates = rows.gates + row
    part.recurrent = rows.recurrent + row
    part.c_prev = rows.c_prev + row
    part.c = rows.c + row
    part.h = rows.h + row
    part.y = rows.y + row
    return part


cdef void free_rows(step_rows *rows) noexcept nogil:
    free(<void *>rows.x)
    rows.x = NULL


cdef Py_ssize_t scratch_row_bytes(const layer_description *layer) noexcept nogil:
    return min(layer.together, layer.h.vectors) * layer.kernels.lanes * layer.kernels.itemsize


cdef Py_ssize_t scratch_bytes(const layer_description *layer, Py_ssize_t rows) noexcept nogil:
    """For the pre-activations of what is worked on together, where there is no tape."""
    return min(<Py_ssize_t>ROWS_AT_ONCE, rows) * scratch_row_bytes(layer) * (2 if layer.apart else 1)


cdef void scratch_gates(
    const layer_description *layer, step_rows *rows, Py_ssize_t count, char *scratch
) noexcept nogil:
    """Let rows.gates, and rows.recurrent, take turns in the scratch."""
    cdef Py_ssize_t row_bytes = scratch_row_bytes(layer)
    cdef char *second = scratch + min(<Py_ssize_t>ROWS_AT_ONCE, count) * row_bytes
    cdef Py_ssize_t r
    for r in range(count):
        rows.gates[r] = scratch + (r % ROWS_AT_ONCE) * row_bytes
        if layer.apart:
            rows.recurrent[r] = second + (r % ROWS_AT_ONCE) * row_bytes


cdef void begin_anew(
    const layer_description *layer, Py_ssize_t vector, Py_ssize_t rows, const void *const *sums_of_x,
    Py_ssize_t x_vector, void *const *recurrent, Py_ssize_t vector_out,
) noexcept nogil:
    """What the sums of h W_hh begin with, for the blocks of one group: sums of x W_ih that go on, and b_hh."""
    cdef Py_ssize_t gates = layer.cell.gates
    cdef Py_ssize_t vector_bytes = layer.kernels.lanes * layer.kernels.itemsize
    cdef Py_ssize_t carried = layer.cell.carried * vector_bytes
    cdef Py_ssize_t rest = gates * vector_bytes - carried
    cdef Py_ssize_t blocks = min(layer.h.group, layer.h.vectors - vector) // gates
    cdef Py_ssize_t r, block, offset
    cdef char *to
    for block in range(blocks):
        offset = block * gates * vector_bytes
        for r in range(rows):
            to = <char *>recurrent[r] + vector_out * vector_bytes + offset
            memcpy(to, <const char *>sums_of_x[r] + x_vector * vector_bytes + offset, carried)
            memcpy(to + carried, layer.bias_h + vector * vector_bytes + offset + carried, rest)


cdef inline void step_of(
    const bint separate,       # layer.apart, known to the compiler: its other half costs nothing then
    const layer_description *layer,
    const step_rows *rows,
    Py_ssize_t count,          # active rows
    bint with_input,           # False: rows.start holds bias + x W_ih already
    bint taped,                # rows.gates, .recurrent are whole rows; False: scratch for what is worked on together
    bint downwards,            # from the last block to the first
) noexcept nogil:
    """One time step: for some blocks after the other, for some rows after the other, the products and then the cell.

        gates = start + x W_ih + h_prev W_hh;   c, h, y = cell(gates, c_prev)

    or, apart, with the sums of h W_hh in ``recurrent`` (then gates is rows.start, whole rows, where not with_input).
    Blocks are outside and rows inside, so weights come from afar once per step. Steps take turns in going up and down:
    what a step used last is still near when the next one begins with it. (No sum runs over blocks.)
    """
    cdef const kernel_table *kernels = layer.kernels
    cdef const matrix *leading = &layer.x if with_input else &layer.h
    cdef forward_rows cell_rows
    cdef Py_ssize_t lanes = kernels.lanes
    cdef Py_ssize_t units = layer.units_together
    cdef Py_ssize_t group = -layer.h.group if downwards else layer.h.group
    cdef Py_ssize_t together = -layer.together if downwards else layer.together
    cdef Py_ssize_t first = layer.last_together if downwards else 0      # vector of those worked on together
    cdef Py_ssize_t unit = layer.last_unit if downwards else 0           # its first hidden unit
    cdef Py_ssize_t last, row, some, vector, origin, sums_origin, start_vector
    cdef const void *const *start
    cdef const void *const *h_rows
    cdef const void *following
    cdef void *const *gates
    cdef void *const *sums
    cdef bint whole = taped or (separate and not with_input)
    cell_rows.gates = <void *const *>(<void **>rows.start if separate and not with_input else rows.gates)
    cell_rows.recurrent = <void *const *>rows.recurrent
    cell_rows.h_prev = <const void *const *>rows.h_prev
    cell_rows.c_prev = <const void *const *>rows.c_prev
    cell_rows.c = <void *const *>rows.c
    cell_rows.h = <void *const *>rows.h
    cell_rows.y = <void *const *>rows.y
    while 0 <= first < layer.h.vectors:
        last = min(layer.h.last_group, first + layer.together - layer.h.group)
        origin = 0 if whole else first        # the vector that gates begin with
        sums_origin = 0 if taped else first   # and that the sums of h W_hh begin with
        row = 0
        while row < count:
            some = min(<Py_ssize_t>ROWS_AT_ONCE, count - row)
            gates = <void *const *>(cell_rows.gates + row)
            sums = <void *const *>(rows.recurrent + row) if separate else gates
            vector = last if downwards else first
            while first <= vector <= last:
                start = <const void *const *>(rows.start + row)
                h_rows = <const void *const *>(rows.h_prev + row)
                following = group_at(kernels, leading, vector + group)
                if separate:
                    start_vector = vector
                    if with_input:
                        product_of_group(
                            kernels, &layer.x, <const void *const *>(rows.x + row), NULL, NULL, vector, some,
                            start, vector * lanes, gates, (vector - origin) * lanes,
                            group_at(kernels, &layer.h, vector),
                        )
                        start = <const void *const *>gates
                        start_vector = vector - origin
                    begin_anew(layer, vector, some, start, start_vector, sums, vector - sums_origin)
                    product_of_group(
                        kernels, &layer.h, h_rows, NULL, NULL, vector, some, <const void *const *>sums,
                        (vector - sums_origin) * lanes, sums, (vector - sums_origin) * lanes, following,
                    )
                elif with_input:
                    product_of_group(
                        kernels, &layer.x, <const void *const *>(rows.x + row), &layer.h, h_rows, vector, some,
                        start, vector * lanes, gates, (vector - origin) * lanes, following,
                    )
                else:
                    product_of_group(
                        kernels, &layer.h, h_rows, NULL, NULL, vector, some, start, vector * lanes, gates,
                        (vector - origin) * lanes, following,
                    )
                vector += group
            cell_rows.first = row
            cell_rows.count = some
            cell_rows.gates_offset = (first - origin) * lanes
            cell_rows.recurrent_offset = (first - sums_origin) * lanes
            cell_rows.unit_offset = unit
            cell_rows.units = min(units, layer.hidden_size - unit)
            layer.cell.forward(&cell_rows)
            row += some
        first += together
        unit += -units if downwards else units


cdef struct strided:
    # A (steps, rows, units) array whose last axis is contiguous.
    char *data
    Py_ssize_t step
    Py_ssize_t row


cdef void step(
    const layer_description *layer, const step_rows *rows, Py_ssize_t count, bint with_input, bint taped,
    bint downwards,
) noexcept nogil:
    if layer.apart:
        step_of(True, layer, rows, count, with_input, taped, downwards)
    else:
        step_of(False, layer, rows, count, with_input, taped, downwards)


cdef strided view(array):
    cdef strided a
    a.data = <char *>cnp.PyArray_DATA(array)
    a.step = cnp.PyArray_STRIDE(array, 0)
    a.row = cnp.PyArray_STRIDE(array, 1)
    return a


cdef inline char *at(const strided *a, Py_ssize_t t, Py_ssize_t row) noexcept nogil:
    return a.data + t * a.step + row * a.row


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
    const Py_ssize_t *lengths     # (B,) or NULL
    Py_ssize_t first_row          # the slice of the batch: first_row <= row < last_row
    Py_ssize_t last_row
    Py_ssize_t chunk              # steps whose x W_ih is made at once; 0: in the step itself
    bint taped
    strided x
    strided y
    strided h
    strided c
    strided gates
    strided recurrent
    step_rows rows
    step_rows inputs              # of a whole chunk
    char *scratch


cdef inline bint is_active(const Py_ssize_t *lengths, Py_ssize_t row, Py_ssize_t t) noexcept nogil:
    return lengths == NULL or t < lengths[row]


cdef void forward_steps(forward_pass *run, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Steps first .. last - 1 of the loop, in chunks."""
    cdef step_rows *rows = &run.rows
    cdef step_rows *inputs = &run.inputs
    cdef Py_ssize_t row_bytes = run.layer.hidden_size * run.layer.kernels.itemsize
    cdef Py_ssize_t gates_bytes = run.layer.h.vectors * run.layer.kernels.lanes * run.layer.kernels.itemsize
    cdef Py_ssize_t s, t, row, count, total, end, done, c_slot, c_next, h_slot, h_next
    s = first
    while s < last:
        end = min(last, s + max(run.chunk, 1))
        total = 0
        if run.chunk:
            for done in range(s, end):
                t = time_of(&run.now, done)
                for row in range(run.first_row, run.last_row):
                    if is_active(run.lengths, row, t):
                        inputs.x[total] = at(&run.x, t, row)
                        inputs.start[total] = run.layer.bias
                        inputs.gates[total] = (
                            at(&run.gates, t, row) if run.taped else run.scratch + total * gates_bytes
                        )
                        total += 1
            multiply(
                run.layer.kernels, &run.layer.x, total, <const void *const *>inputs.x,
                <const void *const *>inputs.start, <void *const *>inputs.gates, False,
            )
        total = 0
        while s < end:
            t = time_of(&run.now, s)
            h_slot = slot_before(&run.now, s, run.now.h_slots)
            h_next = slot_after(&run.now, s, run.now.h_slots)
            c_slot = slot_before(&run.now, s, run.now.c_slots)
            c_next = slot_after(&run.now, s, run.now.c_slots)
            count = 0
            for row in range(run.first_row, run.last_row):
                if is_active(run.lengths, row, t):
                    rows.x[count] = at(&run.x, t, row)
                    rows.h_prev[count] = at(&run.h, h_slot, row)
                    rows.h[count] = at(&run.h, h_next, row)
                    if run.layer.cell.has_c:
                        rows.c_prev[count] = at(&run.c, c_slot, row)
                        rows.c[count] = at(&run.c, c_next, row)
                    rows.y[count] = at(&run.y, t, row)
                    rows.start[count] = <const void *>inputs.gates[total] if run.chunk else <const void *>run.layer.bias
                    if run.taped:
                        rows.gates[count] = at(&run.gates, t, row)
                        if run.layer.apart:
                            rows.recurrent[count] = at(&run.recurrent, t, row)
                    count += 1
                    total += 1
                else:  # carries its state over
                    memcpy(at(&run.h, h_next, row), at(&run.h, h_slot, row), row_bytes)
                    if run.layer.cell.has_c and c_next != c_slot:
                        memcpy(at(&run.c, c_next, row), at(&run.c, c_slot, row), row_bytes)
            step(&run.layer, rows, count, run.chunk == 0, run.taped, s & 1)
            s += 1


cdef PyThreadState *release(Py_ssize_t operations) noexcept:
    """Give the GIL up for work that is worth it; NULL: kept."""
    return PyEval_SaveThread() if operations > RELEASE_OPERATIONS else NULL


cdef void take_back(PyThreadState *state) noexcept:
    if state != NULL:
        PyEval_RestoreThread(state)


cdef Py_ssize_t operations_per_step(Py_ssize_t rows, const matrix *x, const matrix *h, Py_ssize_t lanes) noexcept:
    """Multiply-adds, and 32 for each activation."""
    return rows * h.vectors * lanes * (x.depth + h.depth + 32) + 1


cdef Py_ssize_t rows_per_part(Py_ssize_t operations_of_a_row) noexcept:
    """Rows are independent through all of time, so a batch of which one step would take too long goes in parts."""
    return max(ROWS_AT_ONCE, QUANTUM_OPERATIONS // operations_of_a_row)


def forward(
    Weights weights,
    x,                 # (T, B, I)                     IN
    y,                 # (T, B, H)                     OUT    active steps only
    h,                 # (2 or T+1, B, H)              INOUT  slot 0 (reverse tape: T) in: h_0
    c,                 # (1 or T+1, B, H)              INOUT  likewise c_0; None: the cell has no c
    gates,             # (T, B, blocks, G, lanes)      OUT    the activations, or None
    recurrent,         # (T, B, blocks, G, lanes)      OUT    of a cell that keeps them apart, or None
    lengths,           # (B,) intp, or None            IN
    bint reverse,
    Py_ssize_t first_row,
    Py_ssize_t last_row,
    Cancellation cancellation,
):
    """Run the rows first_row .. last_row - 1 through all of time. The last axis of each array is contiguous.

    The final state is in slot T % slots of h and c; with a tape and in reverse, in slot 0.
    """
    cdef Py_ssize_t part = rows_per_part(operations_per_step(1, &weights.x, &weights.h, weights.lanes))
    while first_row < last_row:
        if not forward_part(
            weights, x, y, h, c, gates, recurrent, lengths, reverse, first_row,
            min(last_row, first_row + part), cancellation,
        ):
            return
        first_row += part


cdef bint forward_part(
    Weights weights, x, y, h, c, gates, recurrent, lengths, bint reverse, Py_ssize_t first_row, Py_ssize_t last_row,
    Cancellation cancellation,
) except -1:
    """As :func:`forward`; False: cancelled."""
    cdef forward_pass run
    cdef Py_ssize_t rows = last_row - first_row
    cdef Py_ssize_t steps = cnp.PyArray_DIM(x, 0)
    cdef Py_ssize_t s, end, operations, quantum, input_bytes, scratch
    cdef PyThreadState *state
    cdef char *memory
    if steps == 0:
        return True
    run.layer = describe(weights, rows)
    run.now.steps = steps
    run.now.reverse = reverse
    run.now.h_slots = cnp.PyArray_DIM(h, 0)
    run.now.c_slots = cnp.PyArray_DIM(c, 0) if c is not None else 1
    run.lengths = NULL if lengths is None else <Py_ssize_t *>cnp.PyArray_DATA(lengths)
    run.first_row = first_row
    run.last_row = last_row
    run.x = view(x)
    run.y = view(y)
    run.h = view(h)
    if c is not None:
        run.c = view(c)
    run.now.taped = run.taped = gates is not None
    if run.taped:
        run.gates = view(gates)
        if recurrent is not None:
            run.recurrent = view(recurrent)

    # Few rows: the input product of many steps fills the tiles that one step would leave empty.
    input_bytes = run.layer.h.vectors * run.layer.kernels.lanes * run.layer.kernels.itemsize
    run.chunk = 0
    if steps > 1 and rows < 2 * run.layer.kernels.tile_rows:
        run.chunk = min(steps, max(INPUT_BYTES // input_bytes, 2 * run.layer.kernels.tile_rows) // rows)
    scratch = scratch_bytes(&run.layer, rows)
    memory = <char *>malloc(ALIGNMENT + scratch + (run.chunk * rows * input_bytes if not run.taped else 0))
    if memory == NULL:
        raise MemoryError
    run.rows.x = NULL
    run.inputs.x = NULL
    operations = operations_per_step(rows, &run.layer.x, &run.layer.h, run.layer.kernels.lanes)
    quantum = max(QUANTUM_OPERATIONS // operations, 1)
    try:
        allocate_rows(&run.rows, rows)
        allocate_rows(&run.inputs, run.chunk * rows)
        run.scratch = memory + (-<Py_ssize_t>memory & (ALIGNMENT - 1))
        if not run.taped:
            scratch_gates(&run.layer, &run.rows, rows, run.scratch)
            run.scratch += scratch
        s = 0
        while s < steps:
            end = min(steps, s + quantum)
            state = release(operations * (end - s))
            forward_steps(&run, s, end)
            take_back(state)
            s = end
            if interrupted(cancellation):
                return False
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
    Py_ssize_t hidden_size
    clock now
    const Py_ssize_t *lengths
    Py_ssize_t first_row
    Py_ssize_t last_row
    strided gates
    strided recurrent
    strided h
    strided c
    strided dy
    strided dh                # one step
    strided dc                # one step
    const void **c_prev
    const void **c_rows
    const void **dy_rows
    const void **h_prev
    void **gates_rows
    void **recurrent_rows     # gates_rows where they are not apart: the dgates that h_prev gets
    void **dh_rows
    void **dc_rows
    const void **zeros


cdef void backward_steps(backward_pass *run, Py_ssize_t last, Py_ssize_t first) noexcept nogil:
    """Steps last - 1 .. first of the loop: the cell's derivatives for all rows, then dh = dgates W_hh."""
    cdef const kernel_table *kernels = run.kernels
    cdef backward_rows rows
    cdef Py_ssize_t gates_bytes = run.h_transposed.depth * kernels.itemsize
    cdef Py_ssize_t s, t, row, count
    cdef const void *const *start = <const void *const *>(run.dh_rows if run.cell.bypass else <void **>run.zeros)
    rows.gates = <void *const *>run.gates_rows
    rows.recurrent = <void *const *>run.recurrent_rows
    rows.h_prev = <const void *const *>run.h_prev
    rows.c_prev = <const void *const *>run.c_prev
    rows.c = <const void *const *>run.c_rows
    rows.dy = <const void *const *>run.dy_rows
    rows.dh = <void *const *>run.dh_rows
    rows.dc = <void *const *>run.dc_rows
    rows.first = rows.gates_offset = rows.unit_offset = 0
    rows.units = run.hidden_size
    s = last
    while s > first:
        s -= 1
        t = time_of(&run.now, s)
        count = 0
        for row in range(run.first_row, run.last_row):
            if is_active(run.lengths, row, t):
                run.gates_rows[count] = at(&run.gates, t, row)
                if apart(&run.cell):
                    run.recurrent_rows[count] = at(&run.recurrent, t, row)
                run.h_prev[count] = at(&run.h, slot_before(&run.now, s, run.now.h_slots), row)
                if run.cell.has_c:
                    run.c_prev[count] = at(&run.c, slot_before(&run.now, s, run.now.c_slots), row)
                    run.c_rows[count] = at(&run.c, slot_after(&run.now, s, run.now.c_slots), row)
                run.dy_rows[count] = at(&run.dy, t, row)
                run.dh_rows[count] = at(&run.dh, 0, row)
                run.dc_rows[count] = at(&run.dc, 0, row)
                count += 1
            else:  # its gradients carry over; this step has none
                memset(at(&run.gates, t, row), 0, gates_bytes)
                if apart(&run.cell):
                    memset(at(&run.recurrent, t, row), 0, gates_bytes)
        rows.count = count
        run.cell.backward(&rows)
        multiply(
            kernels, &run.h_transposed, count, <const void *const *>run.recurrent_rows, start,
            <void *const *>run.dh_rows, s & 1,
        )


def backward(
    Weights weights,
    gates,             # (T, B, blocks, G, lanes)   INOUT  in: activations, out: dgates
    recurrent,         # (T, B, blocks, G, lanes)   INOUT  in: as forward left it, out: the dgates that h gets; or None
    h,                 # (T+1, B, H)                IN
    c,                 # (T+1, B, H)                IN     or None
    dy,                # (T, B, H)                  IN
    dh,                # (B, blocks*lanes)          INOUT  in: dL/dh_n, zero past H; out: dL/dh_0
    dc,                # (B, blocks*lanes)          INOUT  likewise for c
    lengths,
    bint reverse,
    Py_ssize_t first_row,
    Py_ssize_t last_row,
    Cancellation cancellation,
):
    """Back through all of time; ``reverse`` is that of the forward pass. What is left is products: dweight, dx."""
    cdef Py_ssize_t part = rows_per_part(2 * operations_per_step(1, &weights.x, &weights.h, weights.lanes))
    weights.prepare_backward()
    while first_row < last_row:
        if not backward_part(
            weights, gates, recurrent, h, c, dy, dh, dc, lengths, reverse, first_row,
            min(last_row, first_row + part), cancellation,
        ):
            return
        first_row += part


cdef bint backward_part(
    Weights weights, gates, recurrent, h, c, dy, dh, dc, lengths, bint reverse, Py_ssize_t first_row,
    Py_ssize_t last_row, Cancellation cancellation,
) except -1:
    """As :func:`backward`; False: cancelled."""
    cdef backward_pass run
    cdef Py_ssize_t rows = last_row - first_row
    cdef Py_ssize_t steps = cnp.PyArray_DIM(gates, 0)
    cdef Py_ssize_t s, start, operations, quantum, r, zero_bytes
    cdef PyThreadState *state
    cdef void **memory
    if steps == 0:
        return True
    run.kernels = weights.kernels
    run.cell = weights.cell
    run.h_transposed = weights.h_transposed
    # Only where there is one row in all: a gradient may not depend on the number of threads or on lengths.
    run.h_transposed.any_order = cnp.PyArray_DIM(gates, 1) == 1 and run.h_transposed.depth % 8 == 0
    run.hidden_size = weights.hidden_size
    run.now.steps = steps
    run.now.reverse = reverse
    run.now.taped = True
    run.now.h_slots = run.now.c_slots = steps + 1
    run.lengths = NULL if lengths is None else <Py_ssize_t *>cnp.PyArray_DATA(lengths)
    run.first_row = first_row
    run.last_row = last_row
    run.gates = view(gates)
    run.h = view(h)
    if recurrent is not None:
        run.recurrent = view(recurrent)
    if c is not None:
        run.c = view(c)
    run.dy = view(dy)
    run.dh.data = <char *>cnp.PyArray_DATA(dh)
    run.dh.row = cnp.PyArray_STRIDE(dh, 0)
    run.dc.data = <char *>cnp.PyArray_DATA(dc)
    run.dc.row = cnp.PyArray_STRIDE(dc, 0)
    run.dh.step = run.dc.step = 0
    zero_bytes = run.h_transposed.vectors * run.kernels.lanes * run.kernels.itemsize
    memory = <void **>malloc(9 * rows * sizeof(void *) + zero_bytes)
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
    memset(memory + 9 * rows, 0, zero_bytes)
    for r in range(rows):
        run.zeros[r] = memory + 9 * rows
    operations = 2 * operations_per_step(rows, &weights.x, &weights.h, weights.lanes)
    quantum = max(QUANTUM_OPERATIONS // operations, 1)
    try:
        s = steps
        while s > 0:
            start = max(0, s - quantum)
            state = release(operations * (s - start))
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
            state = release(operations * (end - done))
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
