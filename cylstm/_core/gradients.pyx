# The gradients of weights, dgates^T rows: products with as many terms as there are rows in all steps, and no
# recurrence. Knows rows, not time.
"""Gradients of packed weights."""

cimport numpy as cnp
from cpython.pystate cimport PyThreadState
from libc.string cimport memcpy, memset

from cylstm._core.dispatch cimport table_of
from cylstm._core.kernels cimport kernel_table
from cylstm._core.packing cimport (
    ROWS_AT_ONCE,
    aligned,
    matrix,
    matrix_of,
    multiply_panels,
    panel_product,
    raw_bytes,
    rows_now,
    set_product,
    take_rows,
    vector_at,
)
from cylstm._core.sequence cimport Cancellation, interrupted, release, take_back

cnp.import_array()

cdef enum:
    PANEL = 4                  # vectors of a tile of many rows
    # Terms that are summed before their sum is added to that of those before, so that the rounding errors of long
    # sums stay small. Half as many where the columns of rows of these fit in L2, beside a panel of dgates, and of all
    # do not. (Where not even these do, the sums are in L3 or memory, and with 512 terms are fetched less often: 1.03
    # to 1.1 times the speed at H = 1024. Where all fit, 512 against 256: 1.03 at H = 64 and 128.)
    TERMS_AT_ONCE = 512
    COLUMNS_BYTES = 524288     # half of an L2 of 1 MiB


cdef class WeightGradient:
    """dgates^T rows, packed as the weights are whose inputs ``rows`` has: a matrix as deep as rows is wide.

    ``dgates`` (K, m), C-contiguous, m a multiple of the lanes; ``rows`` (K, n), of the same dtype, each contiguous,
    with any stride from one to the next. It has ``parts``, which :meth:`fill` makes, in several threads at once if that
    pays; the numbers are the same. Each call of that puts all columns of rows side by side for itself: n K numbers
    moved, beside its share of n K m multiply-adds.
    """

    def __init__(self, dgates, rows):
        cdef const kernel_table *kernels = table_of(dgates.dtype)
        cdef Py_ssize_t terms = cnp.PyArray_DIM(rows, 0)
        cdef Py_ssize_t n = cnp.PyArray_DIM(rows, 1)
        cdef Py_ssize_t vectors = cnp.PyArray_DIM(dgates, 1) // kernels.lanes
        self.kernels = kernels
        self.dgates = dgates
        self.rows = rows
        self.memory = raw_bytes(n * vectors * kernels.lanes * kernels.itemsize, terms == 0)
        self.sums = matrix_of(kernels, aligned(self.memory), n, vectors, PANEL)
        self.parts = (vectors + PANEL - 1) // PANEL
        self.operations = terms * n * vectors * kernels.lanes

    def fill(self, Py_ssize_t first, Py_ssize_t last, Cancellation cancellation):
        """Make the parts first .. last - 1."""
        cdef const kernel_table *kernels = self.kernels
        cdef Py_ssize_t terms = cnp.PyArray_DIM(self.rows, 0)
        cdef Py_ssize_t n = self.sums.depth
        cdef Py_ssize_t bytes_of_all = TERMS_AT_ONCE * n * kernels.itemsize
        cdef bint halved = bytes_of_all // 2 <= COLUMNS_BYTES < bytes_of_all
        cdef Py_ssize_t at_once = min(terms, <Py_ssize_t>TERMS_AT_ONCE // 2 if halved else <Py_ssize_t>TERMS_AT_ONCE)
        cdef Py_ssize_t vector_bytes = kernels.lanes * kernels.itemsize
        cdef Py_ssize_t row_bytes = cnp.PyArray_STRIDE(self.rows, 0)
        # One vector more for the rest, and one lest columns be 1 KiB apart, in few sets of a cache.
        cdef Py_ssize_t column_bytes = (at_once // kernels.lanes + 2) * vector_bytes
        cdef const char *rows = <const char *>cnp.PyArray_DATA(self.rows)
        cdef const char *dgates = <const char *>cnp.PyArray_DATA(self.dgates)
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t count, part
        cdef PyThreadState *state
        columns_memory = raw_bytes(n * column_bytes, False)
        scratch_memory = raw_bytes((at_once + ROWS_AT_ONCE + 1) * PANEL * vector_bytes, False)
        cdef char *columns = aligned(columns_memory)
        cdef char *scratch = aligned(scratch_memory)
        while done < terms:
            count = min(at_once, terms - done)
            # (A number moved takes as long as a vector of multiply-adds.)
            state = release(n * count * kernels.lanes, cancellation)
            turn(kernels, rows + done * row_bytes, row_bytes, count, n, columns, column_bytes)
            take_back(state)
            for part in range(first, last):
                state = release(n * count * PANEL * kernels.lanes, cancellation)
                add_part(
                    kernels, &self.sums, part * PANEL, dgates + done * self.sums.vectors * vector_bytes, count,
                    columns, column_bytes, done == 0, scratch,
                )
                take_back(state)
                if interrupted(cancellation):
                    return
            done += count

    cpdef columns(self, Py_ssize_t gates, Py_ssize_t units, Py_ssize_t first, Py_ssize_t last):
        """The gradient of the weights of inputs first .. last - 1, in PyTorch's order: a new array (gates * units, n).

        With a ``last`` of -1 of the input ``first`` alone: (gates * units,).
        """
        cdef const kernel_table *kernels = self.kernels
        cdef cnp.npy_intp[2] shape
        shape[0] = gates * units
        shape[1] = last - first if last >= 0 else 1
        out = cnp.PyArray_EMPTY(2 if last >= 0 else 1, shape, cnp.PyArray_TYPE(self.dgates), 0)
        cdef char *plain = <char *>cnp.PyArray_DATA(out)
        cdef Py_ssize_t block, gate, step
        cdef const char *packed
        with nogil:
            for block in range(self.sums.vectors // gates):
                for gate in range(gates):
                    packed = vector_at(kernels, &self.sums, block * gates + gate, first, &step)
                    kernels.unpack(
                        shape[1], min(kernels.lanes, units - block * kernels.lanes), packed, step,
                        plain + (gate * units + block * kernels.lanes) * shape[1] * kernels.itemsize, shape[1],
                    )
        return out


cdef void turn(
    const kernel_table *kernels,
    const char *rows,          # (count, n)   IN
    Py_ssize_t row_bytes,
    Py_ssize_t count,
    Py_ssize_t n,
    char *columns,             # (n, count)   OUT  padded to vectors
    Py_ssize_t column_bytes,
) noexcept nogil:
    """columns[n][k] = rows[k][n]"""
    cdef Py_ssize_t k = 0
    while k < count:
        kernels.pack(
            n, min(kernels.lanes, count - k), rows + k * row_bytes, row_bytes // kernels.itemsize,
            columns + k * kernels.itemsize, column_bytes // kernels.itemsize,
        )
        k += kernels.lanes


cdef void add_part(
    const kernel_table *kernels,
    const matrix *sums,
    Py_ssize_t vector,         # the panel's first
    const char *dgates,        # (count, vectors, lanes)   IN
    Py_ssize_t count,
    const char *columns,       # (n, count) and padding    IN
    Py_ssize_t column_bytes,
    bint first_terms,          # sums are what these give alone
    char *scratch,             # (count + ROWS_AT_ONCE + 1, PANEL, lanes)
) noexcept nogil:
    """sums[n] += columns[n] dgates for the vectors of one panel."""
    cdef const void *x[ROWS_AT_ONCE]
    cdef const void *start[ROWS_AT_ONCE]
    cdef void *out[ROWS_AT_ONCE]
    cdef void *total[ROWS_AT_ONCE]
    cdef Py_ssize_t vector_bytes = kernels.lanes * kernels.itemsize
    cdef Py_ssize_t width = min(<Py_ssize_t>PANEL, sums.vectors - vector)
    cdef Py_ssize_t k, row, some, r, step
    cdef const char *from_ = dgates + vector * vector_bytes
    cdef char *zeros = scratch
    cdef char *fresh = zeros + PANEL * vector_bytes
    cdef char *to
    cdef panel_product product
    cdef matrix panel = matrix_of(kernels, fresh + ROWS_AT_ONCE * PANEL * vector_bytes, count, width, width)
    for k in range(count):
        memcpy(panel.data + k * width * vector_bytes, from_, width * vector_bytes)
        from_ += sums.vectors * vector_bytes
    memset(zeros, 0, width * vector_bytes)
    set_product(&product, kernels, &panel, NULL)
    row = 0
    while row < sums.depth:
        some = rows_now(kernels, sums.depth - row)
        to = vector_at(kernels, sums, vector, row, &step)
        for r in range(some):
            x[r] = columns + (row + r) * column_bytes
            start[r] = zeros
            out[r] = fresh + r * width * vector_bytes
            total[r] = to + r * width * vector_bytes
        take_rows(&product, some, x, NULL, start, &total[0] if first_terms else &out[0])
        product.tile.total = NULL if first_terms else &total[0]
        multiply_panels(&product, 0, width, 0, 0, NULL, NULL)
        row += some
