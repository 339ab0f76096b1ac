"""What one core can do: multiply-adds a second, and bytes read a second.

Arithmetic: the peak of the multiply-add units, by a loop of our level's kernels that reads no memory, and, for
comparison, the fastest of several products of two square matrices by NumPy's BLAS. Bandwidth: the same BLAS' dot
product of the two halves of an array of the given size, again and again; or, where it is faster, which it is where the
array is in no cache, a :class:`cylstm.Dense` of one row, which fetches its weights ahead.
"""

import functools
import json
import sys
import timeit

from .machine import pin

SIZES_KIB = (16, 32, 128, 512, 1024, 2048, 8192, 16384, 32768, 131072)


def _best(function, seconds):
    """Return the least time of one call: a limit is what nothing disturbed."""
    calls, timer = 1, timeit.Timer(function)
    while timer.timeit(calls) < 1e-3:
        calls *= 2
    return min(timer.repeat(max(5, int(seconds / 1e-3 / 2)), calls)) / calls


def gemm_gflops(dtype, sizes=(256, 512, 1024)):
    """Return the GFLOP/s of the fastest product of (n, n) by (n, n)."""
    return max(map(functools.partial(_gemm_gflops, dtype), sizes))


def _gemm_gflops(dtype, n):
    import numpy as np

    a, b = np.ones((2, n, n), dtype)
    out = np.empty((n, n), dtype)
    np.matmul(a, b, out=out)
    seconds = min(timeit.repeat(lambda: np.matmul(a, b, out=out), number=1, repeat=15))
    return 2 * n**3 / seconds * 1e-9


def read_bandwidth(sizes_kib=SIZES_KIB):
    """Return {KiB: GB/s}."""
    from .contenders.ours import one_row

    readers = _dot_product, one_row
    return {size: max(_rate(*reader(size)) for reader in readers) for size in sizes_kib}


def _rate(function, nbytes):
    return nbytes / _best(function, 0.05) * 1e-9


def _dot_product(size_kib):
    """Return a function that reads so many KiB, or several times as many, and the bytes that it reads."""
    import numpy as np

    # Written to, since untouched zeros are one page of memory mapped many times; and from a
    # cache line's start, since a load across two lines counts twice.
    memory = np.ones(size_kib * 256 + 16, np.float32)
    halves = memory[(-memory.ctypes.data % 64) // 4 :][: size_kib * 256].reshape(2, -1)
    # The same two halves as often as fills a loop: it is compiled code that begins again, not Python.
    repeats = max(1, (1 << 23) // halves.nbytes)
    a, b = (np.broadcast_to(half, (repeats, half.size)) for half in halves)
    out = np.empty(repeats, np.float32)
    return lambda: np.vecdot(a, b, out=out), repeats * halves.nbytes


def main():
    """Print the limits of the cores that the command line names, as JSON."""
    pin(json.loads(sys.argv[1]))
    from .contenders.ours import peak_gflops

    found = {
        name: {dtype: measure(dtype) for dtype in ("float32", "float64")}
        for name, measure in (("peak_gflops", peak_gflops), ("gemm_gflops", gemm_gflops))
    }
    print(json.dumps({**found, "read_gb_per_s": read_bandwidth()}))
