# BLAS for Dense, from scipy.linalg.cython_blas: the one file that knows BLAS, its column-major order and its integer
# type. Imported by the first backward pass of a Dense layer, because it brings scipy.linalg with it.
"""Matrix products through SciPy's BLAS."""

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_GetPointer
from libc.stdint cimport int64_t

try:
    from scipy.linalg import cython_blas
except ImportError as error:
    raise ImportError("Dense.backward needs SciPy's BLAS, and scipy.linalg.cython_blas does not import") from error

cnp.import_array()

ctypedef void (*gemm32)(char *, char *, int *, int *, int *, void *, void *, int *, void *, int *, void *, void *,
                        int *) noexcept nogil
ctypedef void (*gemm64)(char *, char *, int64_t *, int64_t *, int64_t *, void *, void *, int64_t *, void *, int64_t *,
                        void *, void *, int64_t *) noexcept nogil

cdef void *sgemm
cdef void *dgemm
cdef bint wide                     # BLAS takes 64-bit integers
cdef int64_t largest


cdef void *routine(str name) except NULL:
    """The function in a capsule whose name is its C signature, which also tells the integer type."""
    global wide, largest
    capsule = cython_blas.__pyx_capi__[name]
    cdef const char *signature = PyCapsule_GetName(capsule)
    text = signature.decode()
    if text.startswith("void (char *, char *, int *, int *, int *"):
        wide = False
        largest = 2**31 - 1
    elif "int64" in text or "blas_int" in text or "long" in text:
        wide = True
        largest = 2**62
    else:
        raise ImportError(f"scipy.linalg.cython_blas.{name} has the unknown signature {text}")
    return PyCapsule_GetPointer(capsule, signature)


sgemm = routine("sgemm")
dgemm = routine("dgemm")


def integer_bits():
    """Of BLAS's integers: 32 or 64."""
    return 64 if wide else 32


def matmul(a, b, out, bint transpose_a=False):
    """out = a @ b, or a.T @ b.

    a (m, k), or (k, m) if transpose_a; b (k, n); out (m, n): row-major with any row stride, one dtype. Row-major
    out = A B is column-major out^T = B^T A^T, so the operands change places.
    """
    cdef int64_t m = cnp.PyArray_DIM(out, 0), n = cnp.PyArray_DIM(out, 1), k = cnp.PyArray_DIM(b, 0)
    cdef int64_t itemsize = cnp.PyArray_ITEMSIZE(out)
    cdef int64_t lda = max(cnp.PyArray_STRIDE(a, 0) // itemsize, 1)
    cdef int64_t ldb = max(cnp.PyArray_STRIDE(b, 0) // itemsize, 1)
    cdef int64_t ldc = max(cnp.PyArray_STRIDE(out, 0) // itemsize, 1)
    cdef int m32, n32, k32, lda32, ldb32, ldc32
    cdef char keep = b"N"
    cdef char turn = b"T" if transpose_a else b"N"
    cdef float one32 = 1, beta32 = 0
    cdef double one64 = 1, beta64 = 0
    cdef bint single = itemsize == 4
    cdef void *alpha = <void *>&one32 if single else <void *>&one64
    cdef void *beta = <void *>&beta32 if single else <void *>&beta64
    cdef void *function = sgemm if single else dgemm
    cdef void *pa = cnp.PyArray_DATA(a)
    cdef void *pb = cnp.PyArray_DATA(b)
    cdef void *pc = cnp.PyArray_DATA(out)
    if m == 0 or n == 0:
        return
    if k == 0:
        out[...] = 0
        return
    # A leading dimension of at least the row's length, also where one row hides the true stride.
    lda = max(lda, m if transpose_a else k)
    ldb = max(ldb, n)
    ldc = max(ldc, n)
    if max(m, n, k, lda, ldb, ldc) > largest:
        raise ValueError(f"a product of ({m}, {k}) and ({k}, {n}) is too large for BLAS with 32-bit integers")
    if wide:
        with nogil:
            (<gemm64>function)(&keep, &turn, &n, &m, &k, alpha, pb, &ldb, pa, &lda, beta, pc, &ldc)
    else:
        m32, n32, k32, lda32, ldb32, ldc32 = m, n, k, lda, ldb, ldc
        with nogil:
            (<gemm32>function)(&keep, &turn, &n32, &m32, &k32, alpha, pb, &ldb32, pa, &lda32, beta, pc, &ldc32)
