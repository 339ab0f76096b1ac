# Two threads that share out the hidden units of the steps of one forward pass: see team.pyx.

from cylstm._core.sequence cimport Cancellation

cdef extern from "atomic.h" nogil:
    double seconds_now()
    void give_way()

cdef enum:
    BRIEFLY = 20000   # looks, some 20 us


cdef struct looking:
    # For what another thread does; zeros at first.
    Py_ssize_t looks
    double since      # the first of those that do not follow each other at once


cdef inline double wait(looking *at) noexcept nogil:
    """Between two looks; the seconds since ``at.since``, 0 before.

    The first follow each other at once: without the pause instruction, at which a virtual machine may leave for its
    host (5 us for a meeting instead of 0.5). After those the processor is offered to others.
    """
    cdef double now
    at.looks += 1
    if at.looks <= BRIEFLY:
        return 0
    now = seconds_now()
    if at.looks == BRIEFLY + 1:
        at.since = now
    give_way()
    return now - at.since


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
