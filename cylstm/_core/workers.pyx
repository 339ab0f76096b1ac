# Threads that wait for tasks, and whose end of one is seen at once: to be woken takes a thread some 40 us, a part of
# what a second one gains on work of two milliseconds. So who waits for the end of a task, for the next one or for the
# GIL looks for it a while before it sleeps.
"""A pool of threads for tasks that release the GIL."""

import sys

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport (
    PY_LOCK_ACQUIRED, PyLockStatus, PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock,
    PyThread_release_lock, PyThread_start_new_thread, PyThread_type_lock, WAIT_LOCK,
)
from cpython.ref cimport Py_DECREF, Py_INCREF

from cylstm._core.sequence cimport Cancellation
from cylstm._core.team cimport looking, wait

cdef extern from "atomic.h" nogil:
    Py_ssize_t number_read(Py_ssize_t *number)
    void number_write(Py_ssize_t *number, Py_ssize_t value)

cdef extern from "pythread.h" nogil:
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int until_signal)

cdef enum:
    MANY = 1000000          # threads

cdef double LONG = 3e-4     # seconds of looking for what others are busy with,
cdef double SOON = 1e-4     # and for the next task, which may never come
cdef object is_finalizing = sys.is_finalizing   # no name of this module, which may be gone when it is asked


cdef class Worker:
    """A thread of the system that calls what is left of a list of tasks, and then waits for the next list.

    Neither the thread nor its locks are those of :mod:`threading`, in whose place there may be others that run no two
    things at once, and in whose locks nobody could wait without the GIL from where we say.
    """

    cdef PyThread_type_lock wake   # held while there is no list
    cdef PyThread_type_lock ended  # held while there is one
    cdef Py_ssize_t is_idle        # a hint of the same, read and written without the GIL
    cdef list tasks                # None: the thread ends
    cdef object cancellation
    cdef Py_ssize_t *released      # of the cancellation: whoever gave the tasks does not need the GIL now; or NULL
    cdef object error
    cdef double patience           # seconds of looking for the next list

    def __cinit__(self, double patience):
        self.patience = patience
        self.wake = PyThread_allocate_lock()
        self.ended = PyThread_allocate_lock()
        if self.wake == NULL or self.ended == NULL:
            raise MemoryError
        PyThread_acquire_lock(self.wake, WAIT_LOCK)

    def __dealloc__(self):
        if self.wake != NULL:
            PyThread_free_lock(self.wake)
        if self.ended != NULL:
            PyThread_free_lock(self.ended)

    cdef bint start(self) except -1:
        """Make the thread; False: there is none to be had."""
        Py_INCREF(self)
        if PyThread_start_new_thread(serve, <void *>self) != <unsigned long>-1:
            return True
        Py_DECREF(self)
        return False

    cdef begin(self, list tasks, cancellation):
        PyThread_acquire_lock(self.ended, WAIT_LOCK)
        self.tasks = tasks
        self.cancellation = cancellation
        self.released = &(<Cancellation>cancellation).released if isinstance(cancellation, Cancellation) else NULL
        PyThread_release_lock(self.wake)
        number_write(&self.is_idle, False)

    cdef end(self):
        """Let the thread end, which has no tasks."""
        PyThread_release_lock(self.wake)

    cdef join(self):
        """Wait until the tasks have ended; Ctrl-C comes through."""
        cdef looking at = looking(0, 0)
        cdef PyLockStatus status
        if self.released != NULL:
            number_write(self.released, True)
        with nogil:
            while not number_read(&self.is_idle) and wait(&at) < LONG:
                pass
        while True:
            with nogil:
                status = PyThread_acquire_lock_timed(self.ended, -1, True)
            if status == PY_LOCK_ACQUIRED:
                PyThread_release_lock(self.ended)
                return
            PyErr_CheckSignals()


cdef void serve(void *worker) noexcept with gil:
    """What the thread of a worker does."""
    cdef Worker self = <Worker>worker
    Py_DECREF(self)  # that of ``start``
    with nogil:
        wait_for_tasks(self)
    while self.tasks is not None:
        try:
            call_all(self.tasks, self.cancellation)
        except BaseException as error:
            self.error = error
        self.tasks = self.cancellation = None
        self.released = NULL
        PyThread_release_lock(self.ended)
        with nogil:
            number_write(&self.is_idle, True)  # here, where who sees it can take the GIL at once
            wait_for_tasks(self)


cdef void wait_for_tasks(Worker self) noexcept nogil:
    """The parts of one call follow each other closely, so look for them before sleeping.

    Who gives them has the GIL, and begins with one of them: to want it before that has given it up would be to sleep.
    """
    cdef looking at = looking(0, 0)
    while number_read(&self.is_idle) and wait(&at) <= self.patience:
        pass
    PyThread_acquire_lock(self.wake, WAIT_LOCK)
    at = looking(0, 0)
    while self.released != NULL and not number_read(self.released) and wait(&at) < LONG:
        pass


cdef call_all(list tasks, cancellation):
    """Call the tasks that nobody has taken; after an error in one nobody takes another.

    Between the look and the pop no other thread has the GIL.
    """
    while tasks:
        task = tasks.pop()
        try:
            task()
        except BaseException:
            tasks.clear()
            cancellation.request()
            raise


cdef class Pool:
    """At most ``size`` threads, each made when it is first wanted. They end after :meth:`close`, when they are idle.

    ``crowded``: there are not as many processors, so a thread without a task does not keep one for long.
    """

    cdef list idle
    cdef Py_ssize_t unborn         # threads that may still be made
    cdef bint closed
    cdef double patience

    def __init__(self, size, bint crowded=False):
        self.idle = []
        self.patience = 0 if crowded else SOON
        self.unborn = min(size, MANY)

    def run(self, tasks, cancellation, bint helpers=False):
        """Call every function of ``tasks`` once and return when all have ended: the first here, the others in threads.

        What no thread has begun by then is called here too, so no call waits for those that others have. Where they
        only help the first task (``helpers``), it is not called at all. An exception, Ctrl-C included, asks
        ``cancellation`` to stop the rest, waits for them and is raised.
        """
        cdef list rest = list(tasks[1:])
        cdef list workers = []
        cdef Worker worker
        error = None
        try:
            self.begin(rest, workers, cancellation)
            tasks[0]()
            if helpers:
                rest.clear()
            call_all(rest, cancellation)
            for worker in workers:
                worker.join()
        except BaseException:
            cancellation.request()
            rest.clear()
            for worker in workers:
                join_whatever_comes(worker)
            raise
        finally:
            for worker in workers:
                if worker.error is not None:
                    error, worker.error = worker.error, None
            self.take_back(workers)
        if error is not None:
            raise error

    def close(self):
        """The threads that are idle end now, the others when they have become so."""
        self.closed = True
        self.take_back([])

    cdef begin(self, list tasks, list workers, cancellation):
        """Have as many threads as there are tasks, or as are to be had, call them; they are added to ``workers``."""
        cdef Worker worker
        if is_finalizing():  # other threads do not get the GIL any more
            return
        for _ in range(len(tasks)):
            if self.idle:
                worker = self.idle.pop()
            elif self.unborn > 0:
                worker = Worker(self.patience)
                if not worker.start():
                    return
                self.unborn -= 1
            else:
                return
            workers.append(worker)
            worker.begin(tasks, cancellation)

    cdef take_back(self, list workers):
        cdef Worker worker
        self.idle.extend(workers)
        if self.closed:
            while self.idle:
                worker = self.idle.pop()
                worker.end()


cdef join_whatever_comes(Worker worker):
    """A second Ctrl-C may not leave threads in our buffers."""
    while True:
        try:
            worker.join()
            return
        except BaseException:
            pass
