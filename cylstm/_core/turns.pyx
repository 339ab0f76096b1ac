# Locks that are taken and noted in C: between the two no bytecode runs, so no Ctrl-C comes in between and leaves a lock
# held by nobody, as it would in a Python method.
"""Who may be inside: writers of layers, users of a tape."""

import threading

from cpython.pythread cimport PyThread_get_thread_ident


cdef class Turn:
    """A context manager: who is inside may replace the parameters of these layers; a second one waits.

    All take the locks of several layers in one order, so that no two wait for each other.
    """

    cdef list leaves
    cdef list held

    def __init__(self, leaves):
        self.leaves = sorted(leaves, key=id) if len(leaves) > 1 else list(leaves)
        self.held = []

    def __enter__(self):
        thread = PyThread_get_thread_ident()
        for leaf in self.leaves:
            if leaf._writer == thread:
                raise RuntimeError("this thread is already inside writable() of this layer")
        try:
            for leaf in self.leaves:
                lock = leaf._lock
                lock.acquire()
                self.held.append((leaf, lock))
                leaf._writer = thread
        except BaseException:
            self._release()
            raise

    def __exit__(self, *error):
        self._release()

    cdef _release(self):
        for leaf, lock in self.held:
            leaf._writer = None
            lock.release()
        self.held = []


cdef class Use:
    """A context manager that lets one thread in and does not let a second one wait."""

    cdef object lock

    def __init__(self):
        self.lock = threading.Lock()

    def __enter__(self):
        if not self.lock.acquire(False):
            raise RuntimeError("another thread is using this tape: give each thread a tape of its own")

    def __exit__(self, *error):
        self.lock.release()
