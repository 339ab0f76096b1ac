"""Our own threads: one pool for the process, made when the first work pays for it, dropped in a forked child.

Knows functions to call, not layers. The work itself releases the GIL; BLAS has threads of its own.
"""

import contextlib
import os
import threading

from . import validation

_lock = threading.Lock()
_pool = None
_num_threads = None


def _available():
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def get_num_threads():
    """Threads that one call of this library may use; by default the CPUs this process may run on."""
    global _num_threads
    if _num_threads is None:
        _num_threads = _available()
    return _num_threads


def set_num_threads(n):
    """Let one call use up to ``n`` threads of our own (BLAS's are its own affair). The results do not change.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If ``n`` is not a positive integer.
    """
    global _num_threads, _pool
    n = validation.size("n", n)
    with _lock:
        _num_threads = n
        _pool = None  # its threads end when the last call that uses it is done


def _executor():
    global _pool
    with _lock:
        if _pool is None:
            from concurrent.futures import ThreadPoolExecutor

            _pool = ThreadPoolExecutor(get_num_threads() - 1 or 1, thread_name_prefix="cylstm")
        return _pool


def _after_fork_in_child():
    """The child has none of the parent's threads, and the lock may have been held."""
    global _pool, _lock
    _pool = None
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _take(place):
    """Call the task in ``place`` ([task], or [] where another thread has taken it)."""
    try:
        task = place.pop()
    except IndexError:
        return
    task()


def run(tasks, cancellation, helpers=False):
    """Call every function of ``tasks`` once and return when all have ended: the first here, the others in the pool.

    What no thread of the pool has begun by then is called here too, so no call waits for what others do in the pool.
    Where they only help the first task (``helpers``), it is not called at all. An exception, Ctrl-C included, asks
    ``cancellation`` to stop the rest, waits for them and is raised.
    """
    places = [[task] for task in tasks[1:]]
    futures = []
    try:
        try:
            for place in places:
                futures.append(_executor().submit(_take, place))
        except RuntimeError:  # no thread is to be had: the interpreter is ending, say
            pass
        tasks[0]()
        for place in places:
            if helpers:
                place.clear()
            _take(place)
        for future in futures:
            if not future.cancel():
                future.result()
    except BaseException:
        cancellation.request()
        for place in places:
            place.clear()
        for future in futures:
            while not (future.cancel() or future.done()):
                with contextlib.suppress(BaseException):  # a second Ctrl-C may not leave threads in our buffers
                    future.exception()
        raise
