"""What one core can do: float32 multiply-adds a second, and bytes read a second.

    python benchmarks/limits.py

Arithmetic: the fastest of several products of two square matrices by NumPy's BLAS (sgemm). A
well-tuned sgemm lies some 10 to 20 % under the peak of the multiply-add units, so a case may pass
100 % of it. Bandwidth: a dot product of the two halves of an array of the given size, repeated
inside one compiled Numba function; or, where that is faster, NumPy's own (BLAS), less the time of
an empty one.
"""

import argparse
import contextlib
import json
import timeit

from machine import hold_to_one_core

SIZES_KIB = (16, 32, 128, 512, 1024, 2048, 8192, 16384, 32768)


def _best(function, seconds):
    """Return the least time of one call: a limit is what nothing disturbed."""
    calls, timer = 1, timeit.Timer(function)
    while timer.timeit(calls) < 1e-3:
        calls *= 2
    return min(timer.repeat(max(5, int(seconds / 1e-3 / 2)), calls)) / calls


def gemm_gflops(n=1024):
    """Return GFLOP/s of an (n, n) by (n, n) float32 product."""
    import numpy as np

    a, b = np.ones((2, n, n), np.float32)
    out = np.empty((n, n), np.float32)
    np.matmul(a, b, out=out)
    seconds = min(timeit.repeat(lambda: np.matmul(a, b, out=out), number=1, repeat=15))
    return 2 * n**3 / seconds * 1e-9


def _reader_numba():
    import numba
    import numpy as np

    # Two loads to one multiply-add: with one load, the latency of the sum is what is measured.
    @numba.njit(fastmath=True)
    def read(array, repeats):
        half = array.shape[0] // 2
        total = np.float32(0)
        for _ in range(repeats):
            for k in range(half):
                total += array[k] * array[half + k]
        return total

    def seconds(array):
        repeats = max(1, (1 << 23) // array.nbytes)
        read(array, repeats)
        return _best(lambda: read(array, repeats), 0.05) / repeats

    return seconds


def _reader_numpy():
    import numpy as np

    def dot(array):
        half = array.size // 2
        a, b = array[:half], array[half:]
        return _best(lambda: np.dot(a, b), 0.05)

    empty = dot(np.zeros(2, np.float32))

    def seconds(array):
        time = dot(array)
        return time - empty if time > 4 * empty else float("inf")  # of a small array the call is most of it

    return seconds


def read_bandwidth(sizes_kib=SIZES_KIB):
    """Return {KiB: GB/s}, the larger of the methods there are."""
    import numpy as np

    readers = [_reader_numpy()]
    with contextlib.suppress(ImportError):
        readers.append(_reader_numba())
    rates = {}
    for size in sizes_kib:
        # Written to, since untouched zeros are one page of memory mapped many times; and from a
        # cache line's start, since a load across two lines counts twice.
        memory = np.ones(size * 256 + 16, np.float32)
        array = memory[(-memory.ctypes.data % 64) // 4 :][: size * 256]
        rates[size] = array.nbytes / min(seconds(array) for seconds in readers) * 1e-9
    return rates


def main():
    parser = argparse.ArgumentParser(description="Measure one core's limits.")
    parser.add_argument("--core", type=int, help="the core to use; default: the last one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    hold_to_one_core(arguments.core)
    found = {"sgemm_gflops": gemm_gflops(), "read_gb_per_s": read_bandwidth()}
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"sgemm {found['sgemm_gflops']:.0f} GFLOP/s")
    for size, rate in found["read_gb_per_s"].items():
        print(f"read {size:6d} KiB {rate:6.0f} GB/s")


if __name__ == "__main__":
    main()
