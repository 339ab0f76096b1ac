# Threads that wait for tasks, and whose end of one is seen at once: to be woken takes a thread some 50 us, a part of
# what a second one gains on work of two milliseconds. So who waits for the end of a task looks for it a while before it
# sleeps, and finds the GIL free then.
"""A pool of threads for tasks that release the GIL."""

import threading

from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_release_lock, PyThread_type_lock,
    WAIT_LOCK,
)

from cylstm._core.team cimport BRIEFLY, wait

cdef extern from "atomic.h" nogil:
    Py_ssize_t number_read(Py_ssize_t *number)
    void number_write(Py_ssize_t *number, Py_ssize_t value)

cdef enum:
    LONG = BRIEFLY + 1000   # looks, some 0.3 ms


cdef class Worker:
    """A thread that calls the tasks that are left of a list, again and again, until it is given None."""

    cdef PyThread_type_lock wake   # held while there is nothing to do
    cdef object ended              # a lock that is held while there is
    cdef list tasks
    cdef object error
    cdef Py_ssize_t is_idle        # a hint of the same, read and written without the GIL

    def __cinit__(self):
        self.wake = PyThread_allocate_lock()
        if self.wake == NULL:
            raise MemoryError
        PyThread_acquire_lock(self.wake, WAIT_LOCK)
        self.ended = threading.Lock()

    def __dealloc__(self):
        PyThread_free_lock(self.wake)

    def serve(self):
        """What the thread does."""
        cdef Py_ssize_t looks
        while True:
            looks = 0
            with nogil:
                number_write(&self.is_idle, True)  # here, where who sees it can take the GIL at once
                while looks < BRIEFLY and number_read(&self.is_idle):  # the parts of one call follow each other closely
                    looks += 1
                PyThread_acquire_lock(self.wake, WAIT_LOCK)
            if self.tasks is None:
                return
            try:
                call_all(self.tasks)
            except BaseException as error:
                self.error = error
            self.tasks = None
            self.ended.release()

    cdef begin(self, list tasks):
        self.ended.acquire()
        self.error = None
        self.tasks = tasks
        PyThread_release_lock(self.wake)
        number_write(&self.is_idle, False)

    cdef end(self):
        """Let the thread end, which has no tasks."""
        PyThread_release_lock(self.wake)

    cdef join(self):
        """Wait until the tasks have ended; Ctrl-C comes through."""
        cdef Py_ssize_t looks = 0
        with nogil:
            while looks < LONG and not number_read(&self.is_idle):
                wait(looks)
                looks += 1
        self.ended.acquire()
        self.ended.release()


cdef call_all(list tasks):
    """Call the tasks that nobody has taken. (Between the look and the pop no other thread has the GIL.)"""
    while tasks:
        tasks.pop()()


cdef class Pool:
    """At most ``size`` threads, each made when it is first wanted. They end after :meth:`close`, when they are idle."""

    cdef list idle
    cdef Py_ssize_t unborn
    cdef bint closed

    def __init__(self, Py_ssize_t size):
        self.idle = []
        self.unborn = size

    def run(self, tasks, cancellation, bint helpers=False):
        """Call every function of ``tasks`` once and return when all have ended: the first here, the others in threads.

        What no thread has begun by then is called here too, so no call waits for those that others have. Where they
        only help the first task (``helpers``), it is not called at all. An exception, Ctrl-C included, asks
        ``cancellation`` to stop the rest, waits for them and is raised.
        """
        cdef list rest = list(tasks[1:])
        cdef list workers = []
        cdef Worker worker
        try:
            self.begin(rest, workers)
            tasks[0]()
            if helpers:
                rest.clear()
            call_all(rest)
            for worker in workers:
                worker.join()
            for worker in workers:
                if worker.error is not None:
                    raise worker.error
        except BaseException:
            cancellation.request()
            rest.clear()
            for worker in workers:
                join_whatever_comes(worker)
            raise
        finally:
            self.take_back(workers)

    def close(self):
        """The threads that are idle end now, the others when they have become so."""
        self.closed = True
        self.take_back([])

    cdef begin(self, list tasks, list workers):
        """Have as many threads as there are tasks, or as are to be had, call them; they are added to ``workers``."""
        cdef Worker worker
        for _ in range(len(tasks)):
            if self.idle:
                worker = self.idle.pop()
            elif self.unborn > 0:
                worker = self.new_worker()
                if worker is None:
                    return
            else:
                return
            workers.append(worker)
            worker.begin(tasks)

    cdef Worker new_worker(self):
        """None: no thread is to be had; the interpreter is ending, say."""
        cdef Worker worker = Worker()
        self.unborn -= 1
        try:
            threading.Thread(target=worker.serve, name="cylstm", daemon=True).start()
        except BaseException as error:
            self.unborn += 1
            worker.end()  # it may have begun before a Ctrl-C came
            if not isinstance(error, RuntimeError):
                raise
            return None
        return worker

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
