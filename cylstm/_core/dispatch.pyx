# The choice of an instruction-set level, once, at import: asks the processor and the operating system, obeys
# CYLSTM_ISA, and hands out the kernel table of a dtype. Knows no layer.
"""Instruction-set levels: which there are, and which was chosen."""

import importlib
import os

import numpy as np

from cpython.pycapsule cimport PyCapsule_GetPointer

from cylstm._core.kernels cimport KERNEL_TABLE_NAME, kernel_table

cdef extern from *:
    """
    #if defined(__unix__)
    #  include <unistd.h>
    #endif
    /* Of the processor's L1 for data; 0: nobody says. */
    static Py_ssize_t l1_bytes(void)
    {
    #ifdef _SC_LEVEL1_DCACHE_SIZE
        long found = sysconf(_SC_LEVEL1_DCACHE_SIZE);
        return found > 0 ? found : 0;
    #else
        return 0;
    #endif
    }
    #if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
    /* GCC's and Clang's run-time library asks CPUID and, for the wide registers, XGETBV. */
    static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
    static int has_avx512(void)
    {
        return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
            && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    }
    static int has_neon(void) { return 0; }
    #else
    static int has_avx2(void) { return 0; }
    static int has_avx512(void) { return 0; }
    #  if defined(__aarch64__) && defined(__GNUC__)
    static int has_neon(void) { return 1; }
    #  else
    static int has_neon(void) { return 0; }
    #  endif
    #endif
    """
    bint has_avx2()
    bint has_avx512()
    bint has_neon()
    Py_ssize_t l1_bytes()
    const char *CYLSTM_BUILT_LEVELS  # setup.py's list: a level that is in it and does not import is an error


def supported_levels():
    """The levels that this processor and operating system can run and this build contains, slowest first."""
    runs = {"baseline": True, "neon": has_neon(), "avx2": has_avx2(), "avx512": has_avx512()}
    return [name for name in CYLSTM_BUILT_LEVELS.decode().split() if runs[name]]


def _choose():
    levels = supported_levels()
    wanted = os.environ.get("CYLSTM_ISA", "").strip().lower()
    if not wanted:
        return levels[len(levels) - 1]
    if wanted not in levels:
        raise ImportError(
            f"CYLSTM_ISA is {wanted!r}; this machine and build can run {', '.join(levels)} "
            "(unset it to choose the last)"
        )
    return wanted


level = _choose()
_modules = {
    np.dtype(name): importlib.import_module(f"cylstm._kernels.{level}_{name}") for name in ("float32", "float64")
}

cdef object FLOAT32 = np.dtype("float32")
cdef object FLOAT64 = np.dtype("float64")

cdef enum:
    LEAST_L1_BYTES = 32768
    ROWS_L1_BYTES = 16384    # of L1 for the rows and sums beside a stretch of weights


cdef kernel_table table_from(module) except *:
    """A level's table, and what this processor has to say about it."""
    cdef kernel_table table = (<const kernel_table *>PyCapsule_GetPointer(module.table, KERNEL_TABLE_NAME))[0]
    if table.stretch_bytes == 0:
        table.stretch_bytes = max(l1_bytes(), <Py_ssize_t>LEAST_L1_BYTES) - ROWS_L1_BYTES
    return table


cdef kernel_table float32_table = table_from(_modules[np.dtype("float32")])
cdef kernel_table float64_table = table_from(_modules[np.dtype("float64")])


cdef const kernel_table *table_of(object dtype) except NULL:
    """The one place where a dtype becomes code."""
    if dtype == FLOAT32:
        return &float32_table
    if dtype == FLOAT64:
        return &float64_table
    raise TypeError(f"dtype is {dtype!r}, expected float32 or float64")


def multiply_adds(dtype, Py_ssize_t rounds):
    """Keep the multiply-add units busy for 12 * rounds instructions; the floating-point operations that they did."""
    cdef const kernel_table *kernels = table_of(np.dtype(dtype))
    sums = np.ones(12 * kernels.lanes, dtype)
    cdef size_t address = sums.ctypes.data
    with nogil:
        kernels.multiply_adds(rounds, <void *>address)
    return 24 * rounds * kernels.lanes


def lanes(dtype):
    """Hidden units side by side in one vector."""
    return table_of(np.dtype(dtype)).lanes


def stretch_bytes(dtype):
    """Of weights, how much all rows of a batch use before what follows."""
    return table_of(np.dtype(dtype)).stretch_bytes
