# Two threads that share out the hidden units of the steps of one forward pass: see team.pyx.

from cylstm._core.sequence cimport Cancellation


cdef struct place:
    # What one of the two writes and the other reads: a cache line of its own.
    Py_ssize_t here
    Py_ssize_t steps          # that are done
    Py_ssize_t shared_from    # the leader's: the first step that is shared, NOT_YET before it is known,
    Py_ssize_t shared_until   # and the first after it that is not
    char[64] rest


cdef class Team:
    cdef place leader
    cdef place helper
    cdef public bint slow     # the leader had to wait for the helper
    cdef Cancellation cancellation
    cdef bint could_begin(self) noexcept nogil
    cdef bint begin(self, Py_ssize_t step) noexcept nogil
    cdef void end(self) noexcept nogil
    cdef Py_ssize_t join(self) noexcept nogil
    cdef bint meet(self, Py_ssize_t steps, bint helper) noexcept nogil
    cdef bint shares(self, Py_ssize_t step) noexcept nogil
