# The gradients of packed weights.

from cylstm._core.kernels cimport kernel_table
from cylstm._core.packing cimport matrix


cdef class WeightGradient:
    cdef const kernel_table *kernels
    cdef matrix sums
    cdef readonly Py_ssize_t parts
    cdef readonly Py_ssize_t operations  # multiply-adds
    cdef object dgates
    cdef object rows
    cdef object memory
    cpdef columns(self, Py_ssize_t gates, Py_ssize_t units, Py_ssize_t first, Py_ssize_t last)
