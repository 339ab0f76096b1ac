# The packed form of weights, and products with it.

from cylstm._core.cells cimport cell
from cylstm._core.kernels cimport kernel_table


cdef struct matrix:
    # Weights (depth, vectors * lanes), packed as [group][k][vector][lane]. A group is one panel of vectors, or
    # two where one row alone needs more chains of additions than a panel has (see packing.pyx).
    char *data
    Py_ssize_t depth
    Py_ssize_t vectors
    Py_ssize_t panel      # vectors of one tile of many rows
    Py_ssize_t group      # vectors packed together; the last group may have fewer
    Py_ssize_t last_group  # first vector of the last group
    bint near             # small enough to stay in L2 from step to step: nothing is fetched ahead
    bint any_order        # one row's sums may be made in any order: depth is a multiple of 8, groups are panels


cdef enum:
    ROWS_AT_ONCE = 48     # whose sums and x stay in L1


cdef void product_of_group(
    const kernel_table *kernels, const matrix *weights, const void *const *x, const matrix *then,
    const void *const *x_then, Py_ssize_t first_vector, Py_ssize_t rows, const void *const *start,
    Py_ssize_t start_offset, void *const *out, Py_ssize_t out_offset, const void *following,
) noexcept nogil

cdef const void *group_at(const kernel_table *kernels, const matrix *weights, Py_ssize_t vector) noexcept nogil

cdef void multiply(
    const kernel_table *kernels, const matrix *weights, Py_ssize_t rows,
    const void *const *x, const void *const *start, void *const *out, bint downwards,
) noexcept nogil


cdef class Weights:
    cdef const kernel_table *kernels
    cdef cell cell
    cdef readonly Py_ssize_t input_size
    cdef readonly Py_ssize_t hidden_size
    cdef readonly Py_ssize_t gates
    cdef readonly Py_ssize_t blocks
    cdef readonly Py_ssize_t lanes
    cdef readonly Py_ssize_t operations   # multiply-adds of one row in one step
    cdef readonly bint has_c
    cdef readonly bint apart              # what h adds to the pre-activations has a buffer of its own
    cdef readonly object dtype
    cdef matrix x                 # weight_ih: input_size deep
    cdef matrix h                 # weight_hh: hidden_size deep
    cdef matrix h_transposed      # weight_hh the other way round, for backward: blocks * gates * lanes deep
    cdef matrix x_transposed      # weight_ih likewise
    cdef bint has_backward        # those two are there
    cdef char *bias               # (blocks, gates, lanes)  what sums of x W_ih begin with
    cdef char *bias_h             # likewise, of h W_hh where they begin anew
    cdef list memory              # what owns the pointers above
    cdef object weight_ih
    cdef object weight_hh
    cdef int prepare_backward(self) except -1
    cdef matrix _transposed(self, array, list memory)
    cdef char *_packed_bias(self, bias) except NULL


cdef class PackedDense:
    cdef const kernel_table *kernels
    cdef matrix weight
    cdef char *bias
    cdef list memory


cdef class Store:
    cdef readonly object snapshot
