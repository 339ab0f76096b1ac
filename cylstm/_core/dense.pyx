# Dense layers over packed weights: the product by our own tiles, then the activation. Knows rows, not shapes.
"""Dense forward over rows, and the derivative of its activation."""

cimport numpy as cnp
from cpython.pystate cimport PyThreadState
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from cylstm._core.dispatch cimport activation_backward_of, activation_of, table_of
from cylstm._core.kernels cimport activation_backward_function, activation_function, kernel_table
from cylstm._core.packing cimport ROWS_AT_ONCE, PackedDense, multiply
from cylstm._core.sequence cimport interrupted, release, rows_per_part, take_back

cnp.import_array()

cdef enum:
    ALIGNMENT = 64


def dense_forward(PackedDense packed, x, y, activation):
    """y = activation(x W^T + b).  x (rows, in), y (rows, out): C-contiguous, of the weights' dtype."""
    cdef const kernel_table *kernels = packed.kernels
    cdef activation_function *function = NULL if activation is None else activation_of(kernels, activation)
    cdef void *x_rows[ROWS_AT_ONCE]
    cdef void *start[ROWS_AT_ONCE]
    cdef void *sums[ROWS_AT_ONCE]
    cdef Py_ssize_t rows = x.shape[0]
    cdef Py_ssize_t outputs = y.shape[1]
    cdef Py_ssize_t x_bytes = x.shape[1] * kernels.itemsize
    cdef Py_ssize_t y_bytes = outputs * kernels.itemsize
    cdef Py_ssize_t sums_bytes = packed.weight.vectors * kernels.lanes * kernels.itemsize
    cdef char *x_data = <char *>cnp.PyArray_DATA(x)
    cdef char *y_data = <char *>cnp.PyArray_DATA(y)
    cdef char *memory = <char *>malloc(ROWS_AT_ONCE * sums_bytes + ALIGNMENT)
    cdef char *scratch = memory + (-<Py_ssize_t>memory & (ALIGNMENT - 1))
    cdef Py_ssize_t operations = packed.weight.vectors * kernels.lanes * (packed.weight.depth + 8) + 1   # of a row
    cdef Py_ssize_t part = rows_per_part(operations)
    cdef Py_ssize_t first = 0
    cdef Py_ssize_t count, last, r
    cdef PyThreadState *state
    if memory == NULL:
        raise MemoryError
    for r in range(ROWS_AT_ONCE):
        start[r] = packed.bias
        sums[r] = scratch + r * sums_bytes
    try:
        while first < rows:
            last = min(rows, first + part)
            state = release(operations * (last - first))
            while first < last:
                count = min(<Py_ssize_t>ROWS_AT_ONCE, last - first)
                for r in range(count):
                    x_rows[r] = x_data + (first + r) * x_bytes
                multiply(
                    kernels, &packed.weight, count, <const void *const *>x_rows, <const void *const *>start,
                    <void *const *>sums, False,
                )
                for r in range(count):
                    memcpy(y_data + (first + r) * y_bytes, sums[r], y_bytes)
                    if function != NULL:
                        function(outputs, y_data + (first + r) * y_bytes)
                first += count
            take_back(state)
            interrupted(None)
    finally:
        free(memory)


def dense_backward(dtype, y, dy, activation):
    """dL/dy -> dL/dz in place.  y, dy (rows, out): C-contiguous."""
    if activation is None:
        return
    cdef const kernel_table *kernels = table_of(dtype)
    cdef activation_backward_function *function = activation_backward_of(kernels, activation)
    cdef Py_ssize_t rows = y.shape[0]
    cdef Py_ssize_t outputs = y.shape[1]
    cdef Py_ssize_t row_bytes = outputs * kernels.itemsize
    cdef const char *y_data = <const char *>cnp.PyArray_DATA(y)
    cdef char *dy_data = <char *>cnp.PyArray_DATA(dy)
    cdef Py_ssize_t operations = 8 * outputs + 1   # of a row
    cdef Py_ssize_t part = rows_per_part(operations)
    cdef Py_ssize_t r = 0
    cdef Py_ssize_t last
    cdef PyThreadState *state
    while r < rows:
        last = min(rows, r + part)
        state = release(operations * (last - r))
        while r < last:
            function(outputs, y_data + r * row_bytes, dy_data + r * row_bytes)
            r += 1
        take_back(state)
        interrupted(None)
