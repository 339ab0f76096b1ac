"""Our own threads: one pool for the process, made when the first work pays for it, dropped in a forked child.

Knows functions to call, not layers. The work itself releases the GIL; BLAS has threads of its own.
"""

import os
import threading

from . import validation
from ._core.workers import Pool

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
        if _pool is not None:
            _pool.close()
            _pool = None


def _pool_now():
    global _pool
    with _lock:
        if _pool is None:
            _pool = Pool(get_num_threads() - 1 or 1)
        return _pool


def _after_fork_in_child():
    """The child has none of the parent's threads, and the lock may have been held."""
    global _pool, _lock
    _pool = None
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def run(tasks, cancellation, helpers=False):
    """Call every function of ``tasks`` once, in several threads, and return when all have ended: see ``Pool.run``."""
    _pool_now().run(tasks, cancellation, helpers)
