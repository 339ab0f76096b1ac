# What layers without a state make of rows: Dense, activations, layer normalisation, sums of rows; and one time step of
# these. Knows rows, not shapes.
"""Row functions of layers without a state."""

import math

import numpy as np

cimport numpy as cnp
from cpython.pystate cimport PyThreadState
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from cylstm import validation

from cylstm._core.cells cimport activation_of
from cylstm._core.dispatch cimport table_of
from cylstm._core.kernels cimport LINEAR, SOFTMAX, activation, kernel_table
from cylstm._core.packing cimport ROWS_AT_ONCE, PackedDense, Store, matrix, multiply
from cylstm._core.sequence cimport interrupted, release, rows_per_part, take_back
from cylstm._core.stepper cimport fits, output_of_step

cnp.import_array()

ctypedef fused floating:
    float
    double

cdef enum:
    ALIGNMENT = 64
    # What a number takes that goes through an activation, a normalisation, or is only copied, in multiply-adds.
    ACTIVATION_OPERATIONS = 64
    NORMALISATION_OPERATIONS = 32
    COPY_OPERATIONS = 4

cdef const kernel_table *single = table_of(np.float32)
cdef const kernel_table *double_ = table_of(np.float64)


cdef struct row_work:
    # What a row function gets: rows that follow one another, and what is the same for all of them.
    const kernel_table *kernels
    char *x                     # (rows, width)
    char *y                     # (rows, outputs)
    Py_ssize_t width
    Py_ssize_t outputs
    activation function
    const matrix *weight        # Dense: (width, outputs), packed
    void *bias                  # (vectors, lanes)
    char *scratch               # (ROWS_AT_ONCE, vectors, lanes)
    double epsilon              # a normalisation
    const char *gain            # (width,)
    const char *shift           # (width,)
    char *dgain                 # (width,)
    char *dshift                # (width,)
    const Py_ssize_t *indices   # (rows,)  of rows of y
    double value                # masking: what makes a row not valid
    char *valid                 # (rows,)


ctypedef void row_function(const row_work *work, Py_ssize_t first, Py_ssize_t last) noexcept nogil


cdef int run_rows(row_function *function, const row_work *work, Py_ssize_t rows, Py_ssize_t operations) except -1:
    """function over all rows, which take so many ``operations`` each, without the GIL and in parts where that pays."""
    operations += 1  # rows may be empty
    cdef Py_ssize_t part = rows_per_part(operations)
    cdef Py_ssize_t first = 0
    cdef Py_ssize_t last
    cdef PyThreadState *state
    while first < rows:
        last = min(rows, first + part)
        state = release(operations * (last - first), None)
        function(work, first, last)
        take_back(state)
        first = last
        if first < rows:
            interrupted(None)
    return 0


cdef void dense_rows(const row_work *work, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """y = f(x W^T + b)"""
    cdef const kernel_table *kernels = work.kernels
    cdef void *x_rows[ROWS_AT_ONCE]
    cdef void *start[ROWS_AT_ONCE]
    cdef void *sums[ROWS_AT_ONCE]
    cdef Py_ssize_t x_bytes = work.width * kernels.itemsize
    cdef Py_ssize_t y_bytes = work.outputs * kernels.itemsize
    cdef Py_ssize_t sums_bytes = work.weight.vectors * kernels.lanes * kernels.itemsize
    cdef Py_ssize_t r, count
    while first < last:
        count = min(<Py_ssize_t>ROWS_AT_ONCE, last - first)
        for r in range(count):
            x_rows[r] = work.x + (first + r) * x_bytes
            start[r] = work.bias
            sums[r] = work.scratch + r * sums_bytes
        multiply(
            kernels, work.weight, count, <const void *const *>x_rows, <const void *const *>start, <void *const *>sums,
            False,
        )
        for r in range(count):
            memcpy(work.y + (first + r) * y_bytes, sums[r], y_bytes)
            if work.function.kind != LINEAR:
                kernels.activate(&work.function, work.outputs, work.y + (first + r) * y_bytes)
        first += count


cdef void activation_rows(const row_work *work, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """y = f(x). Of what is not a softmax, all rows are one."""
    cdef Py_ssize_t row_bytes = work.width * work.kernels.itemsize
    memcpy(work.y + first * row_bytes, work.x + first * row_bytes, (last - first) * row_bytes)
    if work.function.kind != SOFTMAX:
        work.kernels.activate(&work.function, (last - first) * work.width, work.y + first * row_bytes)
        return
    while first < last:
        work.kernels.activate(&work.function, work.width, work.y + first * row_bytes)
        first += 1


cdef void activation_backward_rows(const row_work *work, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """x: what f was of, spoilt. y: the gradient of f(x) -> that of x."""
    cdef Py_ssize_t row_bytes = work.width * work.kernels.itemsize
    cdef Py_ssize_t count = work.width
    cdef Py_ssize_t step = 1
    if work.function.kind != SOFTMAX:
        step = last - first
        count = step * work.width
    while first < last:
        work.kernels.activate_backward(
            &work.function, count, work.x + first * row_bytes, work.y + first * row_bytes
        )
        first += step


cdef void layer_norm_rows(const row_work *work, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """y = gain N(x) + shift"""
    cdef Py_ssize_t row_bytes = work.width * work.kernels.itemsize
    while first < last:
        memcpy(work.y + first * row_bytes, work.x + first * row_bytes, row_bytes)
        work.kernels.layer_norm(work.width, work.epsilon, work.gain, work.shift, work.y + first * row_bytes)
        first += 1


cdef void layer_norm_backward_rows(const row_work *work, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """x: what was normalised, spoilt. y: the gradient of the output -> that of x; dgain and dshift are added to."""
    cdef Py_ssize_t row_bytes = work.width * work.kernels.itemsize
    while first < last:
        work.kernels.layer_norm_backward(
            work.width, work.epsilon, work.gain, work.x + first * row_bytes, work.y + first * row_bytes, work.dgain,
            work.dshift,
        )
        first += 1


cdef void copied_rows(const row_work *work, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef Py_ssize_t row_bytes = work.width * work.kernels.itemsize
    memcpy(work.y + first * row_bytes, work.x + first * row_bytes, (last - first) * row_bytes)


cdef inline bint is_valid(const floating *x, Py_ssize_t width, floating value) noexcept nogil:
    """Whether any of a row is not the value; of NaN, whether any is a number."""
    cdef Py_ssize_t j
    for j in range(width):
        if x[j] == x[j] if value != value else x[j] != value:
            return True
    return False


cdef void masking_rows(const row_work *work, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """valid, and y: x in the rows that are, and zeros. One of the two may be missing."""
    cdef Py_ssize_t row_bytes = work.width * work.kernels.itemsize
    cdef const char *x
    cdef bint valid
    while first < last:
        x = work.x + first * row_bytes
        if row_bytes == work.width * <Py_ssize_t>sizeof(float):
            valid = is_valid(<const float *>x, work.width, <float>work.value)
        else:
            valid = is_valid(<const double *>x, work.width, work.value)
        if work.valid != NULL:
            work.valid[first] = valid
        if work.y != NULL and valid:
            memcpy(work.y + first * row_bytes, x, row_bytes)
        elif work.y != NULL:
            memset(work.y + first * row_bytes, 0, row_bytes)
        first += 1


cdef void added_rows(const row_work *work, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """y[indices[r]] += x[r], in the order of r"""
    cdef Py_ssize_t row_bytes = work.width * work.kernels.itemsize
    while first < last:
        work.kernels.add(work.width, work.x + first * row_bytes, work.y + work.indices[first] * row_bytes)
        first += 1


cdef const kernel_table *kernels_of(int type_number) noexcept:
    return single if type_number == cnp.NPY_FLOAT else double_


cdef Py_ssize_t point_at(row_work *work, x, y) except -1:
    """Let work have the rows of x (..., width) and of y, if that is not None; how many those are."""
    work.kernels = kernels_of(cnp.PyArray_TYPE(x))
    work.x = <char *>cnp.PyArray_DATA(x)
    work.y = NULL if y is None else <char *>cnp.PyArray_DATA(y)
    work.width = x.shape[x.ndim - 1]
    return math.prod(x.shape[:x.ndim - 1])


cdef class RowFunction:
    """What a layer makes of each row, y = f(x), with all that it needs for that. Threads may share it.

    Called with an array x (..., width), aligned and C-contiguous, it makes a new one, (..., outputs).
    """

    cdef row_work work              # all but x, y and scratch
    cdef row_function *function
    cdef Py_ssize_t operations      # multiply-adds of a row,
    cdef Py_ssize_t operations_of_number  # besides those of each number of x
    cdef Py_ssize_t scratch_bytes
    cdef int type_number            # -1: float32 or float64, and
    cdef Py_ssize_t width           # -1: any width; the same of y
    cdef Py_ssize_t outputs
    cdef object memory              # owns what the pointers point to

    def __cinit__(self):
        self.type_number = self.width = self.outputs = -1

    def __call__(self, x):
        outputs = x.shape[x.ndim - 1] if self.outputs < 0 else self.outputs
        y = np.empty((*x.shape[:x.ndim - 1], outputs), x.dtype)
        self._apply(
            cnp.PyArray_TYPE(x), <char *>cnp.PyArray_DATA(x), <char *>cnp.PyArray_DATA(y),
            math.prod(x.shape[:x.ndim - 1]), x.shape[x.ndim - 1],
        )
        return y

    cdef int _apply(self, int type_number, char *x, char *y, Py_ssize_t rows, Py_ssize_t width) except -1:
        cdef row_work work = self.work
        cdef char *memory = NULL
        work.kernels = kernels_of(type_number)
        work.x = x
        work.y = y
        work.width = width
        work.outputs = width if self.outputs < 0 else self.outputs
        if self.scratch_bytes:
            memory = <char *>malloc(min(rows, <Py_ssize_t>ROWS_AT_ONCE) * self.scratch_bytes + ALIGNMENT)
            if memory == NULL:
                raise MemoryError
            work.scratch = memory + (-<Py_ssize_t>memory & (ALIGNMENT - 1))
        try:
            run_rows(self.function, &work, rows, self.operations + width * self.operations_of_number)
        finally:
            free(memory)
        return 0


cdef class DenseRows(RowFunction):
    """y = f(x W^T + b)"""

    def __init__(self, PackedDense packed, function):
        cdef Py_ssize_t units = packed.weight.vectors * packed.kernels.lanes
        self.work.function = activation_of(function)
        self.work.weight = &packed.weight
        self.work.bias = packed.bias
        self.function = dense_rows
        self.type_number = packed.type_number
        self.width = packed.weight.depth
        self.outputs = packed.outputs
        self.scratch_bytes = units * packed.kernels.itemsize
        self.operations = ACTIVATION_OPERATIONS * self.outputs
        self.operations_of_number = units
        self.memory = packed


cdef class ActivationRows(RowFunction):
    """y = f(x); a softmax is of each row."""

    def __init__(self, function):
        self.work.function = activation_of(function)
        self.function = activation_rows
        self.operations_of_number = ACTIVATION_OPERATIONS

    def backward(self, z, dy):
        """The gradient of f(z) -> that of z, in place; z is spoilt. Both (..., width), aligned and C-contiguous."""
        cdef row_work work = self.work
        cdef Py_ssize_t rows = point_at(&work, z, dy)
        run_rows(activation_backward_rows, &work, rows, ACTIVATION_OPERATIONS * work.width)


cdef class LayerNormRows(RowFunction):
    """y = gain (x - mean(x)) / sqrt(variance(x) + epsilon) + shift.  gain, shift (width,): C-contiguous."""

    def __init__(self, gain, shift, double epsilon):
        self.work.gain = <const char *>cnp.PyArray_DATA(gain)
        self.work.shift = <const char *>cnp.PyArray_DATA(shift)
        self.work.epsilon = epsilon
        self.function = layer_norm_rows
        self.type_number = cnp.PyArray_TYPE(gain)
        self.width = gain.shape[0]
        self.operations_of_number = NORMALISATION_OPERATIONS
        self.memory = gain, shift

    def backward(self, x, dy):
        """(dgain, dshift), new arrays, and dy -> dx in place; x is spoilt. Both (..., width), C-contiguous."""
        cdef row_work work = self.work
        cdef Py_ssize_t rows = point_at(&work, x, dy)
        dgain, dshift = np.zeros((2, self.width), x.dtype)
        work.dgain = <char *>cnp.PyArray_DATA(dgain)
        work.dshift = <char *>cnp.PyArray_DATA(dshift)
        run_rows(layer_norm_backward_rows, &work, rows, 2 * NORMALISATION_OPERATIONS * self.width)
        return dgain, dshift


cdef class CopiedRows(RowFunction):
    """y = x"""

    def __init__(self):
        self.function = copied_rows
        self.operations_of_number = COPY_OPERATIONS


cdef class MaskingRows(RowFunction):
    """y = x in the rows that are valid, which have something else than ``value``, and zeros in the others."""

    def __init__(self, double value):
        self.work.value = value
        self.function = masking_rows
        self.operations_of_number = COPY_OPERATIONS

    def valid(self, x, y=None):
        """Which rows of x (..., width) are valid, (...) of bool; y, shaped like x, is filled. Both C-contiguous."""
        cdef row_work work = self.work
        cdef Py_ssize_t rows = point_at(&work, x, y)
        valid = np.empty(x.shape[:x.ndim - 1], np.bool_)
        work.valid = <char *>cnp.PyArray_DATA(valid)
        run_rows(masking_rows, &work, rows, COPY_OPERATIONS * work.width)
        return valid


def add_rows(x, indices, y):
    """y[indices[r]] += x[r], in the order of r.

    x (rows, width), indices (rows,) of intp, y (n, width): C-contiguous.
    """
    cdef row_work work
    cdef Py_ssize_t rows = point_at(&work, x, y)
    work.indices = <const Py_ssize_t *>cnp.PyArray_DATA(indices)
    run_rows(added_rows, &work, rows, COPY_OPERATIONS * work.width)


cdef class RowStep:
    """One time step of a layer that makes of each row another one: what ``Layer._stream_part`` returns.

    ``size_name`` is what the layer calls the width of x. Keeps nothing between steps, so threads may share it.
    """

    cdef readonly object layer
    cdef readonly object batch_size
    cdef object size_name
    cdef Store store
    cdef object snapshot       # whose `rows` these are
    cdef RowFunction rows
    cdef Py_ssize_t count      # -1: no batch axis

    def __init__(self, layer, batch_size, size_name="features"):
        self.layer = layer
        self.batch_size = batch_size
        self.size_name = size_name
        self.count = -1 if batch_size is None else validation.size("batch_size", batch_size, 0)
        self.store = layer._store

    def step(self, x, out=None):
        """One time step.

        Parameters
        ----------
        x : ndarray, shape (features,), or (n, features) for a ``batch_size`` of n
        out : ndarray, optional
            Where to put the result: C-contiguous, not overlapping ``x``.

        Returns
        -------
        ndarray
            ``out``, or a new array.

        Raises
        ------
        ValueError, TypeError
            If x or out does not fit.
        """
        if self.store.snapshot is not self.snapshot:
            snapshot = self.store.snapshot
            self.rows = self.layer._rows(snapshot)
            self.snapshot = snapshot
        cdef RowFunction rows = self.rows
        if not fits(x, rows.type_number, self.count, rows.width):
            x = validation.input_of_step(x, self.layer.dtype, self.batch_size, rows.width, self.size_name)
        cdef int type_number = cnp.PyArray_TYPE(x)
        cdef Py_ssize_t width = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
        cdef char *x_data = <char *>cnp.PyArray_DATA(x)
        out = output_of_step(
            out, type_number, self.count, width if rows.outputs < 0 else rows.outputs, x_data, cnp.PyArray_NBYTES(x)
        )
        cdef Py_ssize_t count = 1 if self.count < 0 else self.count
        rows._apply(type_number, x_data, <char *>cnp.PyArray_DATA(out), count, width)
        return out
