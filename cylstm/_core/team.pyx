# Two threads that share out the hidden units of the steps of one forward pass, so that each has its part of W_hh in
# the cache of its own core. They meet after every step, because the next one needs the h of all units. Knows no layer.
"""A leader and a helper that do the steps of one loop together."""

cdef extern from "atomic.h" nogil:
    Py_ssize_t number_read(Py_ssize_t *number)
    void number_write(Py_ssize_t *number, Py_ssize_t value)

cdef enum:
    NOT_YET = -1

# Seconds of waiting after which the helper was slow: its core has other work, so the step after the next is the
# leader's alone. (Half a step of 25 MB of weights takes 0.3 ms, and more where they are not yet in the caches of that
# core. The number of looks says nothing: to offer the processor to others takes milliseconds where there are some.)
cdef double TOO_LONG = 1e-3


cdef class Team:
    """The leader begins alone, takes the helper in when that is there, and after it was slow goes on alone.

    Only the leader decides. It says that a step is the last one shared before it is done with that step, so both always
    know which steps they share, and neither waits for one that will not come. A helper that comes too late, or whose
    call was cancelled, shares no step.
    """

    def __init__(self, Py_ssize_t steps, Cancellation cancellation):
        self.cancellation = cancellation
        self.leader.shared_from = NOT_YET
        self.leader.shared_until = steps

    @property
    def helper_is_here(self):
        return self.could_begin()

    @property
    def shared(self):
        """(first, end) of the steps that the leader has shared, or means to; (-1, end) while it is alone."""
        return self.leader.shared_from, self.leader.shared_until

    cdef bint could_begin(self) noexcept nogil:
        """Whether the helper is there."""
        return number_read(&self.helper.here)

    cdef bint begin(self, Py_ssize_t step) noexcept nogil:
        """The leader lets a helper that is there share the steps from ``step`` on; whether there is one."""
        if not self.could_begin() or step >= self.leader.shared_until:
            return False
        number_write(&self.leader.shared_from, step)
        return True

    cdef void end(self) noexcept nogil:
        """The leader has done all steps."""
        if self.leader.shared_from == NOT_YET:
            number_write(&self.leader.shared_from, self.leader.shared_until)

    cdef Py_ssize_t join(self) noexcept nogil:
        """The helper waits to be taken in; the first step that it shares."""
        cdef looking at = looking(0, 0)
        number_write(&self.helper.here, True)
        while number_read(&self.leader.shared_from) == NOT_YET:
            if self.cancellation.requested:
                return self.leader.shared_until
            wait(&at)
        return self.leader.shared_from

    cdef bint meet(self, Py_ssize_t steps, bint helper) noexcept nogil:
        """Wait until both have done the first ``steps`` steps; whether they share the next one."""
        cdef place *own = &self.helper if helper else &self.leader
        cdef place *other = &self.leader if helper else &self.helper
        cdef looking at = looking(0, 0)
        cdef double waited = 0
        if self.slow and not helper:
            self.leader.shared_until = steps
        number_write(&own.steps, steps)
        while number_read(&other.steps) < steps:
            if self.cancellation.requested:
                return False
            waited = wait(&at)
        if waited > TOO_LONG and not helper:
            self.slow = True
        return self.shares(steps)

    cdef bint shares(self, Py_ssize_t step) noexcept nogil:
        """Whether ``step`` is one of those shared; asked after the step before it."""
        return self.leader.shared_from <= step < self.leader.shared_until
