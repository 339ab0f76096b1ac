# The cross-entropy of logits in one pass over rows. Knows rows and the kernels' softmax; no weights, no lengths.
"""The cross-entropy of the softmax of logits, and its gradient."""

import numpy as np

cimport numpy as cnp
from cpython.pystate cimport PyThreadState
from libc.math cimport log
from libc.string cimport memcpy

from cylstm._core.cells cimport activation_of
from cylstm._core.dispatch cimport table_of
from cylstm._core.kernels cimport activation, kernel_table
from cylstm._core.sequence cimport release, take_back

cnp.import_array()

ctypedef fused floating:
    float
    double

cdef enum:
    OPERATIONS = 64   # of a number: its softmax, in multiply-adds

cdef activation softmax = activation_of(("softmax",))


def are_classes(cnp.ndarray label, Py_ssize_t classes):
    """Whether all of a C-contiguous array of intp are from 0 to classes - 1."""
    cdef const Py_ssize_t *labels = <const Py_ssize_t *>cnp.PyArray_DATA(label)
    cdef bint inside = True
    cdef Py_ssize_t n
    for n in range(cnp.PyArray_SIZE(label)):
        inside &= 0 <= labels[n] < classes
    return inside


def crossentropy(cnp.ndarray y, label, cnp.ndarray q, q_sum):
    """The sum of -q log p, p being the softmax of each row of y, and its gradient p sum(q) - q.

    Where q is zero, log p is not looked at. All arrays are aligned and C-contiguous, and of the dtype of y.

    Parameters
    ----------
    y : ndarray, shape (n, classes)
    label : ndarray of intp, shape (n,), or None
        The one class of each row whose q is not zero, looked at before.
    q : ndarray, shape (n,) or (1,); without ``label`` (n, classes)
    q_sum : None; without ``label`` an ndarray, shape (n,)

    Returns
    -------
    float, ndarray of shape (n, classes)
    """
    cdef const kernel_table *table = table_of(y.dtype)
    cdef cnp.ndarray gradient = np.empty_like(y)
    cdef Py_ssize_t n = y.shape[0]
    cdef Py_ssize_t classes = y.shape[1]
    cdef Py_ssize_t q_step = classes
    cdef const Py_ssize_t *labels = NULL
    cdef const void *sums = NULL
    cdef double total
    if label is None:
        sums = cnp.PyArray_DATA(q_sum)
    else:
        labels = <const Py_ssize_t *>cnp.PyArray_DATA(label)
        q_step = 1 if cnp.PyArray_SIZE(q) == n else 0
    cdef PyThreadState *state = release(OPERATIONS * n * classes, None)
    if cnp.PyArray_TYPE(y) == cnp.NPY_FLOAT:
        total = rows[float](
            table, n, classes, <const float *>cnp.PyArray_DATA(y), labels, <const float *>cnp.PyArray_DATA(q), q_step,
            <const float *>sums, <float *>cnp.PyArray_DATA(gradient),
        )
        total = <float>total  # here infinity comes without a warning
    else:
        total = rows[double](
            table, n, classes, <const double *>cnp.PyArray_DATA(y), labels, <const double *>cnp.PyArray_DATA(q), q_step,
            <const double *>sums, <double *>cnp.PyArray_DATA(gradient),
        )
    take_back(state)
    return total, gradient


cdef double rows(
    const kernel_table *table,
    Py_ssize_t n,
    Py_ssize_t classes,
    const floating *y,             # (n, classes)  IN
    const Py_ssize_t *labels,      # (n,)  IN      NULL: each class has a q
    const floating *q,             # (n, q_step)  IN
    Py_ssize_t q_step,             # 0: the same for all rows
    const floating *q_sum,         # (n,)  IN      without labels
    floating *p,                   # (n, classes)  OUT  the gradient
) noexcept nogil:
    cdef double total = 0
    cdef Py_ssize_t row
    for row in range(n):
        memcpy(p, y, classes * sizeof(floating))
        table.activate(&softmax, classes, p)
        if labels != NULL:
            total += one_class(classes, y, labels[row], q[0], p)
        else:
            total += all_classes(classes, y, q, q_sum[row], p)
        y += classes
        p += classes
        q += q_step
    return total


cdef inline double cost(double y, double y_max, double p_max) noexcept nogil:
    """-log p of the logit y. p_max, of the largest logit, is 1 / sum_k exp(y_k - y_max): it can not round to zero."""
    return y_max - y - log(p_max)


cdef inline Py_ssize_t largest(Py_ssize_t count, const floating *y) noexcept nogil:
    cdef Py_ssize_t k
    cdef Py_ssize_t best = 0
    for k in range(count):
        if y[k] > y[best]:
            best = k
    return best


# p (classes,) INOUT: the probabilities -> the gradient. Products are stored before q is subtracted, so that nothing
# is fused and both functions give the same bits.

cdef inline double one_class(
    Py_ssize_t classes, const floating *y, Py_ssize_t label, floating q, floating *p
) noexcept nogil:
    cdef Py_ssize_t best = largest(classes, y)
    cdef double total = q * cost(y[label], y[best], p[best])
    cdef Py_ssize_t k
    for k in range(classes):
        p[k] *= q
    p[label] -= q
    return total


cdef inline double all_classes(
    Py_ssize_t classes, const floating *y, const floating *q, floating q_sum, floating *p
) noexcept nogil:
    cdef Py_ssize_t best = largest(classes, y)
    cdef double y_max = y[best]
    cdef double p_max = p[best]
    cdef double total = 0
    cdef Py_ssize_t k
    for k in range(classes):
        if q[k] != 0:
            total += q[k] * cost(y[k], y_max, p_max)
        p[k] *= q_sum
    for k in range(classes):
        p[k] -= q[k]
    return total
