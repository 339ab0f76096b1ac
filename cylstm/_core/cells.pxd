# What differs between cells, as data: chosen before the time loop, which knows no cell.

from cylstm._core.kernels cimport (
    activation, backward_function, cell_options, forward_beside_function, forward_function, kernel_table,
)


cdef struct cell:
    forward_function *forward
    forward_beside_function *forward_beside   # or NULL
    backward_function *backward
    Py_ssize_t gates     # vectors of a block's pre-activations
    Py_ssize_t carried   # of these, sums that go on from x W_ih to h W_hh; the others begin anew, from b_hh
    bint has_c           # a second state beside h
    bint bypass          # h_prev reaches h past the recurrent product too: backward's row function leaves that in dh
    bint whole           # forward gets all units of a row at once
    # A second phase, or NULL: forward's h is multiplied by a second matrix, and this makes the step's h of the sums.
    forward_function *second_forward
    backward_function *second_backward
    bint begun           # those sums go on from what forward leaves in them; otherwise they begin with a bias


cdef cell cell_of(const kernel_table *kernels, str name, dict options) except *
cdef activation activation_of(value) except *
cdef cell_options options_of(dict options) except *
cdef inline bint apart(const cell *c) noexcept nogil:
    """Whether what h adds to the pre-activations is kept in a second buffer, beside the gates."""
    return c.carried < c.gates
