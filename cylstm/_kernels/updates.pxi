# The rules of the optimisers, and what clipping asks of gradients: loops over whole arrays.
#
# Included by kernels.pxi. Plain C, which the compiler makes vector code of: no two arrays of an update overlap, each
# element stands by itself, and every operation is rounded once, so the bits are the same at every level. The one sum
# says its order. Numbers come in float64 and are rounded to `real` before the loop.

cdef enum:
    CHAINS = 16   # sums of squares side by side: two vectors of the widest level


cdef inline real rounded(const update *at, int number) noexcept nogil:
    return <real>at.numbers[number]


cdef inline void sgd_loop(
    Py_ssize_t count, sole_input g, sole_input p, sole_output p_new, real lr, real decay
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real d
    for j in range(count):
        d = g[j] if decay == <real>0 else g[j] + decay * p[j]
        p_new[j] = p[j] - lr * d


cdef inline void momentum_loop(
    const bint nesterov, Py_ssize_t count, sole_input g, sole_input p, sole_output p_new, sole_output v,
    real lr, real decay, real mu,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real d
    for j in range(count):
        d = g[j] if decay == <real>0 else g[j] + decay * p[j]
        v[j] = mu * v[j] + d
        p_new[j] = p[j] - lr * (d + mu * v[j] if nesterov else v[j])


cdef void sgd(const update *at) noexcept nogil:
    """numbers: lr, decay, mu;  moments: v, or none

        d = g + decay p
        v = mu v + d
        p = p - lr v,   or without v   p - lr d
    """
    if at.moments[0] == NULL:
        sgd_loop(at.count, at.g, at.p, at.p_new, rounded(at, 0), rounded(at, 1))
    else:
        momentum_loop(
            False, at.count, at.g, at.p, at.p_new, at.moments[0], rounded(at, 0), rounded(at, 1), rounded(at, 2)
        )


cdef void nesterov(const update *at) noexcept nogil:
    """numbers: lr, decay, mu;  moments: v.  As sgd, but p = p - lr (d + mu v)."""
    momentum_loop(
        True, at.count, at.g, at.p, at.p_new, at.moments[0], rounded(at, 0), rounded(at, 1), rounded(at, 2)
    )


cdef inline void rmsprop_loop(
    const bint centered, const bint momentum, Py_ssize_t count, sole_input g, sole_input p, sole_output p_new,
    sole_output v, sole_output mean, sole_output b, real lr, real eps, real mu, real alpha, real rest,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real square, d
    for j in range(count):
        v[j] = alpha * v[j] + rest * (g[j] * g[j])
        square = v[j]
        if centered:
            mean[j] = alpha * mean[j] + rest * g[j]
            square = square - mean[j] * mean[j]
            square = <real>0 if square < <real>0 else square
        d = g[j] / (real_sqrt(square) + eps)
        if momentum:
            b[j] = mu * b[j] + d
            d = b[j]
        p_new[j] = p[j] - lr * d


cdef void rmsprop(const update *at) noexcept nogil:
    """numbers: lr, eps, mu, alpha;  moments: v, mean (or none), b (or none)

        v    = alpha v + (1 - alpha) g^2
        mean = alpha mean + (1 - alpha) g
        d    = g / (sqrt(v - mean^2) + eps),   or without mean   g / (sqrt(v) + eps)
        b    = mu b + d
        p    = p - lr b,   or without b   p - lr d

    v - mean^2 is a variance, so what rounding makes of it below 0 counts as 0.
    """
    cdef real lr = rounded(at, 0)
    cdef real eps = rounded(at, 1)
    cdef real mu = rounded(at, 2)
    cdef real alpha = rounded(at, 3)
    cdef real rest = <real>(1 - at.numbers[3])
    cdef real *v = at.moments[0]
    cdef real *mean = at.moments[1]
    cdef real *b = at.moments[2]
    if mean == NULL and b == NULL:
        rmsprop_loop(False, False, at.count, at.g, at.p, at.p_new, v, mean, b, lr, eps, mu, alpha, rest)
    elif b == NULL:
        rmsprop_loop(True, False, at.count, at.g, at.p, at.p_new, v, mean, b, lr, eps, mu, alpha, rest)
    elif mean == NULL:
        rmsprop_loop(False, True, at.count, at.g, at.p, at.p_new, v, mean, b, lr, eps, mu, alpha, rest)
    else:
        rmsprop_loop(True, True, at.count, at.g, at.p, at.p_new, v, mean, b, lr, eps, mu, alpha, rest)


cdef inline void adam_loop(
    Py_ssize_t count, sole_input g, sole_input p, sole_output p_new, sole_output m, sole_output v,
    real keep, real alpha, real eps, real beta1, real rest1, real beta2, real rest2,
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(count):
        m[j] = beta1 * m[j] + rest1 * g[j]
        v[j] = beta2 * v[j] + rest2 * (g[j] * g[j])
        p_new[j] = keep * p[j] - alpha * m[j] / (real_sqrt(v[j]) + eps)


cdef void adam(const update *at) noexcept nogil:
    """numbers: keep, alpha, eps, beta1, beta2;  moments: m, v

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        p = keep p - alpha m / (sqrt(v) + eps)
    """
    adam_loop(
        at.count, at.g, at.p, at.p_new, at.moments[0], at.moments[1], rounded(at, 0), rounded(at, 1), rounded(at, 2),
        rounded(at, 3), <real>(1 - at.numbers[3]), rounded(at, 4), <real>(1 - at.numbers[4]),
    )


cdef double sum_of_squares(Py_ssize_t count, const real *x) noexcept nogil:
    """In float64. Chain k sums x[k]^2, x[k + CHAINS]^2, ...; then the upper half of them is added to the lower."""
    cdef double[CHAINS] sums
    cdef Py_ssize_t j = 0
    cdef int k
    cdef int chains = CHAINS
    for k in range(CHAINS):
        sums[k] = 0
    while j + CHAINS <= count:
        for k in range(CHAINS):
            sums[k] += <double>x[j + k] * <double>x[j + k]
        j += CHAINS
    for k in range(<int>(count - j)):
        sums[k] += <double>x[j + k] * <double>x[j + k]
    while chains > 1:
        chains //= 2
        for k in range(chains):
            sums[k] += sums[k + chains]
    return sums[0]


cdef int all_finite(Py_ssize_t count, const real *x) noexcept nogil:
    """Whether no number is NaN or infinite: of these two x - x is NaN."""
    cdef Py_ssize_t j
    cdef int broken = 0
    for j in range(count):
        broken |= x[j] - x[j] != <real>0
    return not broken


cdef void rescale(Py_ssize_t count, double factor, real *x) noexcept nogil:
    """x = factor x, in float64 and rounded once: the factor may be below float32's range."""
    cdef Py_ssize_t j
    for j in range(count):
        x[j] = <real>(factor * x[j])
