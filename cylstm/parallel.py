"""Our own threads: one pool for the process, made when the first work pays for it, dropped in a forked child.

Knows functions to call, not layers. The work itself releases the GIL; BLAS has threads of its own.
"""

import os

from . import validation
from ._core.workers import Pool

# By how many threads they may have. (A signal handler that computes would wait for ever for a lock over these two.)
_pools: dict[int, Pool] = {}
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
    global _num_threads
    _num_threads = validation.size("n", n)
    for size in list(_pools):
        pool = _pools.pop(size, None)
        if pool is not None:
            pool.close()


def _pool():
    size = max(1, get_num_threads() - 1)
    return _pools.get(size) or _pools.setdefault(size, Pool(size, size >= _available()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # a child has none of the threads


def run(tasks, cancellation, helpers=False):
    """Call every function of ``tasks`` once, in several threads, and return when all have ended: see ``Pool.run``."""
    _pool().run(tasks, cancellation, helpers)
