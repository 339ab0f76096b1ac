# The kernels of one instruction-set level and one dtype: activations, tiles, rows.
#
# Included by one .pyx per level and dtype, which differ in the flags that setup.py gives them. Leaf code:
# pointers and sizes in, no classes, no NumPy, no allocation, nothing raised. `real` is the scalar, `vreal`
# LANES of them; arithmetic on vreal is vector code. Every multiply-add that must give the same bits at every
# level is written v_fma; the compiler may contract nothing (-ffp-contract=off).
#
# The activations follow: exp by Cody & Waite's reduction and a polynomial, sigmoid from e = exp(-|x|),
# tanh as x + x^3 P/Q near 0 and as 1 - 2 / (1 + e^(2|x|)) beyond.

from cpython.pycapsule cimport PyCapsule_New


cdef extern from "simd.h" nogil:
    ctypedef float real
    ctypedef float vreal
    ctypedef real *sole_output
    ctypedef const real *sole_input
    const int LANES
    const int TILE_ROWS
    const int STRETCH_BYTES
    const int VECTORS_OF_LINE
    const int AHEAD
    const real LOG2_E, LN2_HIGH, LN2_LOW, EXP_LOWEST, ROUNDING_SHIFT
    const real TANH_SMALL, TANH_SATURATED
    const int EXP_TERMS, TANH_P_TERMS, TANH_Q_TERMS
    const real *EXP_C
    const real *TANH_P
    const real *TANH_Q
    real real_sqrt(real x)
    void v_prefetch_near(const void *line)
    void v_prefetch(const void *line)
    vreal v_set1(real x)
    vreal v_load(const real *start)
    vreal v_load_some(const real *start, Py_ssize_t count)
    void v_store(real *to, vreal x)
    void v_store_some(real *to, vreal x, Py_ssize_t count)
    void v_transpose(vreal *square)
    void v_load_rows(vreal *to, const real *const *rows, Py_ssize_t offset, int count, int vectors)
    void v_store_rows(real *const *rows, Py_ssize_t offset, const vreal *values, int count, int vectors)
    void v_add_rows(real *const *rows, Py_ssize_t offset, const vreal *values, int count, int vectors)
    vreal v_fma(vreal a, vreal b, vreal c)
    vreal v_accumulate(vreal sum, vreal a, vreal b)
    vreal v_accumulate_from(vreal sum, vreal a, const real *b)
    vreal v_if_less(vreal a, vreal b, vreal yes, vreal no)
    vreal v_abs(vreal x)
    vreal v_minus_abs(vreal x)
    vreal v_copysign(vreal magnitude, vreal sign)
    vreal v_scale(vreal x, vreal n, vreal shifted)
    vreal v_at_least(vreal low, vreal x)
    vreal v_at_most(vreal high, vreal x)

cdef extern from "table.h" nogil:
    const char *KERNEL_TABLE_NAME
    ctypedef struct tile_operand:
        Py_ssize_t depth
        const real *const *x
        Py_ssize_t x_offset
        const real *weights
        Py_ssize_t second_half
        const char *next
    ctypedef struct tile_product:
        tile_operand[2] operands
        Py_ssize_t weights_step
        const real *const *start
        Py_ssize_t start_offset
        real *const *out
        Py_ssize_t out_offset
        real *const *total
    const int SIGMOID, TANH, RELU, LEAKY_RELU, THRESHOLDED_RELU, AFFINE, SCALED_TANH, HARD_SIGMOID, ELU, SOFTSIGN
    const int SOFTPLUS, LINEAR, SWISH, GELU, SOFTMAX
    const int UNCOUPLED, FORGET_IS_REST, INPUT_IS_REST
    const int NOT_NORMALISED, NORMALISED_JOINTLY, NORMALISED_PER_GATE
    ctypedef struct activation:
        int kind
        double alpha
        double beta
    ctypedef struct cell_options:
        activation gate
        activation candidate
        activation output
        activation projection
        double clip_gates
        double clip_cell
        double clip_projection
        int coupling
        int normalisation
        double epsilon
        const real *extras
        Py_ssize_t width
        Py_ssize_t peephole
        Py_ssize_t gain
        Py_ssize_t gain_h
        Py_ssize_t shift
        Py_ssize_t gain_c
        Py_ssize_t shift_c
    ctypedef struct forward_rows:
        real *const *gates
        real *const *recurrent
        const real *const *h_prev
        const real *const *c_prev
        real *const *c
        real *const *h
        real *const *y
        real *const *second
        const cell_options *options
        real *scratch
        Py_ssize_t first
        Py_ssize_t count
        Py_ssize_t gates_offset
        Py_ssize_t recurrent_offset
        Py_ssize_t unit_offset
        Py_ssize_t units
        Py_ssize_t ahead
    ctypedef struct backward_rows:
        real *const *gates
        real *const *recurrent
        const real *const *h_prev
        const real *const *c_prev
        const real *const *c
        const real *const *dy
        real *const *dh
        real *const *dc
        Py_ssize_t count
        Py_ssize_t units
        real *const *second
        real *const *dh_prev
        real *const *dextras
        const cell_options *options
        real *scratch
    ctypedef void forward_function(const forward_rows *) noexcept nogil
    ctypedef void backward_function(const backward_rows *) noexcept nogil
    ctypedef void forward_beside_function(const forward_rows *, const tile_product *) noexcept nogil
    ctypedef struct update:
        Py_ssize_t count
        const real *g
        const real *p
        real *p_new
        real *moments[3]
        double numbers[5]
    ctypedef void update_function(const update *) noexcept nogil
    ctypedef struct kernel_table:
        Py_ssize_t itemsize
        Py_ssize_t lanes
        Py_ssize_t tile_rows
        Py_ssize_t stretch_bytes
        void (*tile)(Py_ssize_t, Py_ssize_t, const tile_product *) noexcept nogil
        void (*multiply_adds)(Py_ssize_t, real *) noexcept nogil
        void (*sum_row)(Py_ssize_t, const tile_product *) noexcept nogil
        void (*pack)(Py_ssize_t, Py_ssize_t, const real *, Py_ssize_t, real *, Py_ssize_t) noexcept nogil
        void (*unpack)(Py_ssize_t, Py_ssize_t, const real *, Py_ssize_t, real *, Py_ssize_t) noexcept nogil
        forward_function *lstm_forward
        forward_beside_function *lstm_forward_beside
        forward_function *gru_forward
        forward_function *rnn_tanh_forward
        forward_function *rnn_relu_forward
        backward_function *lstm_backward
        backward_function *gru_backward
        backward_function *rnn_tanh_backward
        backward_function *rnn_relu_backward
        forward_function *lstm_variant_forward
        forward_function *gru_variant_forward
        forward_function *rnn_variant_forward
        forward_function *gru_before_forward
        forward_function *gru_before_second_forward
        forward_function *projection_forward
        backward_function *lstm_variant_backward
        backward_function *gru_variant_backward
        backward_function *rnn_variant_backward
        backward_function *gru_before_backward
        backward_function *gru_before_second_backward
        backward_function *projection_backward
        void (*blend)(Py_ssize_t, const real *, const real *, const real *, real *, real *) noexcept nogil
        void (*unblend)(Py_ssize_t, const real *, const real *, real *, real *) noexcept nogil
        void (*scale)(Py_ssize_t, const real *, const real *, real *) noexcept nogil
        void (*add)(Py_ssize_t, const real *, real *) noexcept nogil
        void (*activate)(const activation *, Py_ssize_t, real *) noexcept nogil
        void (*activate_backward)(const activation *, Py_ssize_t, real *, real *) noexcept nogil
        void (*layer_norm)(Py_ssize_t, double, const real *, const real *, real *) noexcept nogil
        void (*layer_norm_backward)(
            Py_ssize_t, double, const real *, real *, real *, real *, real *
        ) noexcept nogil
        update_function *sgd
        update_function *nesterov
        update_function *rmsprop
        update_function *adam
        double (*sum_of_squares)(Py_ssize_t, const real *) noexcept nogil
        int (*all_finite)(Py_ssize_t, const real *) noexcept nogil
        void (*rescale)(Py_ssize_t, double, real *) noexcept nogil


# ---------------------------------------------------------------------------------------------- activations

# A chain of dependent operations keeps a processor waiting, so what can be computed side by side is: each function
# takes ``count`` vectors, a constant, and each line of an equation is a loop over them that vanishes in the compiler.
# Between the lines there is time for terms of a product that waits for memory.

cdef struct row_sums:
    # The product of one row with a panel of four vectors, a few terms at a time between the lines of something else.
    const real *x            # of the next term
    const real *weights
    Py_ssize_t left          # terms
    vreal[4] sums


cdef inline void add_terms(const int count, row_sums *beside) noexcept nogil:
    """Some terms, while what is around this waits for itself; NULL: nothing."""
    cdef vreal x_k
    cdef int k, v
    if beside != NULL:
        for k in range(count):
            x_k = v_set1(beside.x[k])
            for v in range(4):
                beside.sums[v] = v_accumulate_from(beside.sums[v], x_k, beside.weights + (4 * k + v) * LANES)
        beside.x += count
        beside.weights += 4 * count * LANES
        beside.left -= count


cdef inline vreal polynomial(const int terms, const real *coefficients, vreal x) noexcept nogil:
    """coefficients[0] + coefficients[1] x + ..., by Horner's rule."""
    cdef vreal value = v_set1(coefficients[terms - 1])
    cdef int k
    for k in range(terms - 2, -1, -1):
        value = v_fma(value, x, v_set1(coefficients[k]))
    return value


cdef inline void exp(const int count, vreal *x, row_sums *beside) noexcept nogil:
    """e^x in place, for EXP_LOWEST <= x <= TANH_SATURATED.

        n = rint(x / ln 2),  r = x - n ln 2,  e^x = 2^n (1 + r + r^2 C(r))

    C by Horner's rule over pairs of terms, C_2k + C_2k+1 r, in powers of r^2: half as long a chain.
    """
    cdef vreal[8] shifted
    cdef vreal[8] n
    cdef vreal[8] square
    cdef vreal[8] c
    cdef vreal[8] term
    cdef int j, k
    for j in range(count):
        shifted[j] = v_fma(x[j], v_set1(LOG2_E), v_set1(ROUNDING_SHIFT))
    for j in range(count):
        n[j] = shifted[j] - v_set1(ROUNDING_SHIFT)
    for j in range(count):
        x[j] = v_fma(n[j], v_set1(-LN2_HIGH), x[j])
    for j in range(count):
        x[j] = v_fma(n[j], v_set1(-LN2_LOW), x[j])
    add_terms(4, beside)
    for j in range(count):
        square[j] = x[j] * x[j]
    for j in range(count):
        c[j] = v_set1(EXP_C[EXP_TERMS - 1])
        if EXP_TERMS % 2 == 0:
            c[j] = v_fma(c[j], x[j], v_set1(EXP_C[EXP_TERMS - 2]))
    for k in range((EXP_TERMS - 1) // 2 - 1, -1, -1):
        for j in range(count):
            term[j] = v_fma(x[j], v_set1(EXP_C[2 * k + 1]), v_set1(EXP_C[2 * k]))
        for j in range(count):
            c[j] = v_fma(c[j], square[j], term[j])
    add_terms(6, beside)
    for j in range(count):
        x[j] = v_fma(c[j], square[j], x[j])
    for j in range(count):
        x[j] = v_scale(x[j] + v_set1(<real>1), n[j], shifted[j])


cdef inline void activate(const int sigmoids, const int tanhs, vreal *x, row_sums *beside) noexcept nogil:
    """In place, the sigmoid of the first vectors and the tanh of those that follow. With a = |x|:

        sigmoid(x) = 1 / (1 + e^-a)  or, where x < 0,  e^-a / (1 + e^-a), which loses no digits there
        tanh(a)    = 1 - 2 / (1 + e^2a)  or, where a < TANH_SMALL,  a + a^3 P(a^2) / Q(a^2);  odd by construction

    so each is base + numerator / denominator: one exponential, one division. A comparison with NaN is false, so NaN
    passes every selection into the quotient.
    """
    cdef vreal[8] e
    cdef vreal[8] base
    cdef vreal[8] numerator
    cdef vreal[8] denominator
    cdef vreal one = v_set1(<real>1)
    cdef vreal a, square
    cdef int j
    for j in range(sigmoids):
        e[j] = v_at_least(v_set1(EXP_LOWEST), v_minus_abs(x[j]))
    for j in range(sigmoids, sigmoids + tanhs):
        a = v_abs(x[j])
        e[j] = v_at_most(v_set1(TANH_SATURATED), a + a)
    add_terms(2, beside)
    exp(sigmoids + tanhs, e, beside)
    for j in range(sigmoids):
        numerator[j] = v_if_less(x[j], v_set1(<real>0), e[j], one)
        denominator[j] = one + e[j]
    for j in range(sigmoids, sigmoids + tanhs):
        a = v_abs(x[j])
        square = a * a
        base[j] = v_if_less(a, v_set1(TANH_SMALL), a, one)
        numerator[j] = v_if_less(
            a, v_set1(TANH_SMALL), a * square * polynomial(TANH_P_TERMS, TANH_P, square), v_set1(<real>-2)
        )
        denominator[j] = v_if_less(
            a, v_set1(TANH_SMALL), polynomial(TANH_Q_TERMS, TANH_Q, square), one + e[j]
        )
    add_terms(4, beside)
    for j in range(sigmoids + tanhs):
        numerator[j] = numerator[j] / denominator[j]
    add_terms(4, beside)
    for j in range(sigmoids):
        x[j] = numerator[j]
    for j in range(sigmoids, sigmoids + tanhs):
        x[j] = v_copysign(base[j] + numerator[j], x[j])


cdef inline vreal sigmoid(vreal x) noexcept nogil:
    activate(1, 0, &x, NULL)
    return x


cdef inline vreal tanh(vreal x) noexcept nogil:
    activate(0, 1, &x, NULL)
    return x


cdef inline vreal relu(vreal x) noexcept nogil:
    """max(x, 0); NaN stays NaN."""
    return v_if_less(x, v_set1(<real>0), v_set1(<real>0), x)


cdef void softmax(Py_ssize_t count, real *x) noexcept nogil:
    """e^(x_j - max x) / sum_k e^(x_k - max x) over one row.

    The sum runs in the order of k at every level. NaN anywhere makes the row NaN.
    """
    cdef Py_ssize_t block, j, some
    cdef Py_ssize_t blocks = (count + LANES - 1) // LANES
    cdef real largest, total
    cdef vreal e
    if count == 0:
        return
    largest = x[0]
    for j in range(1, count):
        if not x[j] <= largest:
            largest = x[j]
            if largest != largest:
                break
    for block in range(blocks):
        j = block * LANES
        some = min(count - j, <Py_ssize_t>LANES)
        e = v_at_least(v_set1(EXP_LOWEST), v_load_some(x + j, some) - v_set1(largest))
        exp(1, &e, NULL)
        v_store_some(x + j, e, some)
    total = x[0]
    for j in range(1, count):
        total = total + x[j]
    for block in range(blocks):
        j = block * LANES
        some = min(count - j, <Py_ssize_t>LANES)
        v_store_some(x + j, v_load_some(x + j, some) / v_set1(total), some)


cdef void softmax_backward(Py_ssize_t count, const real *y, real *dy) noexcept nogil:
    """dz_j = y_j (dy_j - sum_k dy_k y_k)"""
    cdef Py_ssize_t j
    cdef real total = <real>0
    for j in range(count):
        total = total + dy[j] * y[j]
    for j in range(count):
        dy[j] = y[j] * (dy[j] - total)


# ---------------------------------------------------------------------------------------------------- tiles

cdef inline void accumulate(
    const int rows, const int vectors, const bint far, const tile_operand *operand, Py_ssize_t weights_step, vreal *sums
) noexcept nogil:
    """sums[r][v] += sum_k x[r][k] weights[k][v], in the order of k; ``far``: operand.next is set.

    One row uses each weight once, and takes it from memory.

    With many registers the weights of one k are kept in them, and loaded first: in the other order the same
    instructions ran at 80 % of the FMA peak instead of 97 % (Cascade Lake, GCC 12). A tile of five rows uses 25 bytes
    of weights a cycle, of which L2 gives 20 unless those of two k later are fetched to L1. With few registers it is the
    x of one k that are kept.
    """
    cdef vreal[8] weight
    cdef vreal[6] x_k
    cdef const real *x[6]
    cdef const real *weights = operand.weights
    cdef const char *next = operand.next
    cdef Py_ssize_t k = -operand.depth  # up to 0: a loop counter and nothing to compare it with
    cdef int panel = vectors // 2 if vectors > 4 else vectors
    cdef int r, v
    for r in range(rows):
        x[r] = operand.x[r] + operand.x_offset - k
    while k < 0:
        for v in range(vectors):
            if far and rows <= 2 and v % panel % VECTORS_OF_LINE == 0:
                v_prefetch_near(weights + v // panel * operand.second_half + v % panel * LANES + AHEAD)
        if rows == 1:
            x_k[0] = v_set1(x[0][k])
            for v in range(vectors):
                sums[v] = v_accumulate_from(
                    sums[v], x_k[0], weights + v // panel * operand.second_half + v % panel * LANES
                )
            weights += weights_step
        elif TILE_ROWS == 6:
            for v in range(vectors):
                weight[v] = v_load(weights + v // panel * operand.second_half + v % panel * LANES)
            weights += weights_step
            if far and rows > 2:
                v_prefetch(next)
                next += 64
            if rows > 2:
                for v in range(vectors):
                    if v % VECTORS_OF_LINE == 0:
                        v_prefetch_near(weights + (vectors + v) * LANES)
            for r in range(rows):
                x_k[r] = v_set1(x[r][k])
                for v in range(vectors):
                    sums[r * vectors + v] = v_accumulate(sums[r * vectors + v], x_k[r], weight[v])
        else:
            for r in range(rows):
                x_k[r] = v_set1(x[r][k])
            for v in range(vectors):
                weight[v] = v_load(weights + v // panel * operand.second_half + v % panel * LANES)
                for r in range(rows):
                    sums[r * vectors + v] = v_accumulate(sums[r * vectors + v], x_k[r], weight[v])
            weights += weights_step
            if far and rows > 2:
                v_prefetch(next)
                next += 64
        k += 1


cdef inline void tile_body(
    const int rows, const int vectors, const bint far, const tile_product *product
) noexcept nogil:
    """The product of tile_product for a number of rows and vectors known to the compiler; ``far``: next is set.

    Inlined with constants, so that the loops over rows and vectors vanish and ``sums`` is registers.
    """
    cdef vreal[24] sums
    v_load_rows(sums, product.start, product.start_offset, rows, vectors)
    accumulate(rows, vectors, far, &product.operands[0], product.weights_step, sums)
    if product.operands[1].depth > 0:
        accumulate(rows, vectors, far, &product.operands[1], product.weights_step, sums)
    if product.total != NULL:
        v_add_rows(product.total, product.out_offset, sums, rows, vectors)
    else:
        v_store_rows(product.out, product.out_offset, sums, rows, vectors)


cdef inline void tile_of(const int rows, const int vectors, const tile_product *product) noexcept nogil:
    if product.operands[0].next != NULL:
        tile_body(rows, vectors, True, product)
    else:
        tile_body(rows, vectors, False, product)


cdef void tile(Py_ssize_t rows, Py_ssize_t vectors, const tile_product *product) noexcept nogil:
    """tile_of for each legal pair of rows and vectors; the case is written as 10 * rows + vectors."""
    cdef Py_ssize_t shape = 10 * rows + vectors
    if shape == 11:
        tile_of(1, 1, product)
    elif shape == 12:
        tile_of(1, 2, product)
    elif shape == 13:
        tile_of(1, 3, product)
    elif shape == 14:
        tile_of(1, 4, product)
    elif shape == 16:
        tile_of(1, 6, product)
    elif shape == 18:
        tile_of(1, 8, product)
    elif shape == 21:
        tile_of(2, 1, product)
    elif shape == 22:
        tile_of(2, 2, product)
    elif shape == 23:
        tile_of(2, 3, product)
    elif shape == 24:
        tile_of(2, 4, product)
    elif TILE_ROWS > 2 and shape == 31:
        tile_of(3, 1, product)
    elif TILE_ROWS > 2 and shape == 32:
        tile_of(3, 2, product)
    elif TILE_ROWS > 2 and shape == 33:
        tile_of(3, 3, product)
    elif TILE_ROWS > 2 and shape == 34:
        tile_of(3, 4, product)
    elif TILE_ROWS > 3:
        if shape == 41:
            tile_of(4, 1, product)
        elif shape == 42:
            tile_of(4, 2, product)
        elif shape == 43:
            tile_of(4, 3, product)
        elif shape == 44:
            tile_of(4, 4, product)
        elif shape == 51:
            tile_of(5, 1, product)
        elif shape == 52:
            tile_of(5, 2, product)
        elif shape == 53:
            tile_of(5, 3, product)
        elif shape == 54:
            tile_of(5, 4, product)
        elif shape == 61:
            tile_of(6, 1, product)
        elif shape == 62:
            tile_of(6, 2, product)
        elif shape == 63:
            tile_of(6, 3, product)
        elif shape == 64:
            tile_of(6, 4, product)


cdef inline void sum_row_body(const int vectors, const int chains, const tile_product *product) noexcept nogil:
    """One row, each sum in ``chains`` parts, so that additions need not wait for each other. depth % chains == 0."""
    cdef vreal[8] sums
    cdef vreal x_k
    cdef Py_ssize_t k
    cdef int j, v
    cdef const real *x = product.operands[0].x[0] + product.operands[0].x_offset
    cdef const real *weights = product.operands[0].weights
    for j in range(chains * vectors):
        sums[j] = v_set1(<real>0)
    for k in range(product.operands[0].depth // chains):
        for j in range(chains):
            x_k = v_set1(x[j])
            for v in range(vectors):
                sums[j * vectors + v] = v_accumulate(sums[j * vectors + v], x_k, v_load(weights + v * LANES))
            weights += product.weights_step
        x += chains
    for v in range(vectors):
        for j in range(1, chains):
            sums[v] = sums[v] + sums[j * vectors + v]
        sums[v] = sums[v] + v_load(product.start[0] + product.start_offset + v * LANES)
    v_store_rows(product.out, product.out_offset, sums, 1, vectors)


cdef void sum_row(Py_ssize_t vectors, const tile_product *product) noexcept nogil:
    if vectors == 1:
        sum_row_body(1, 8, product)
    elif vectors == 2:
        sum_row_body(2, 4, product)
    elif vectors == 3:
        sum_row_body(3, 2, product)
    elif vectors == 4:
        sum_row_body(4, 2, product)


cdef void multiply_adds(Py_ssize_t rounds, real *out) noexcept nogil:
    """out (12 * LANES,) += rounds, where out is ones."""
    cdef vreal[12] sums
    cdef vreal one = v_load(out)  # as the compiler does not know
    cdef int j
    v_load_rows(sums, <const real *const *>&out, 0, 1, 12)
    while rounds > 0:
        for j in range(12):
            sums[j] = v_accumulate(sums[j], one, one)
        rounds -= 1
    v_store_rows(&out, 0, sums, 1, 12)


cdef inline void turn_square(
    const real *source,      # (rows, source_step)  IN   the first ``columns`` of each
    Py_ssize_t source_step,
    Py_ssize_t rows,         # both at most LANES
    Py_ssize_t columns,
    real *out,               # (columns, out_step)  OUT  the first ``width`` of each: the rows, and zeros
    Py_ssize_t out_step,
    Py_ssize_t width,
) noexcept nogil:
    """out[column][row] = source[row][column]"""
    cdef vreal[16] square
    cdef int j
    if rows == LANES and columns == LANES:
        for j in range(LANES):
            square[j] = v_load(source + j * source_step)
        v_transpose(square)
        for j in range(LANES):
            v_store(out + j * out_step, square[j])
        return
    for j in range(LANES):
        square[j] = v_load_some(source + j * source_step, columns) if j < rows else v_set1(<real>0)
    v_transpose(square)
    for j in range(columns):
        v_store_some(out + j * out_step, square[j], width)


cdef void pack(
    Py_ssize_t depth,
    Py_ssize_t units,        # valid lanes
    const real *source,      # (units, lane_step)   IN   the first ``depth`` of each
    Py_ssize_t lane_step,
    real *out,               # (depth, out_step)  OUT  the first LANES of each k
    Py_ssize_t out_step,
) noexcept nogil:
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t count
    while k < depth:
        count = min(<Py_ssize_t>LANES, depth - k)
        turn_square(source + k, lane_step, units, count, out + k * out_step, out_step, LANES)
        k += LANES


cdef void unpack(
    Py_ssize_t depth,
    Py_ssize_t units,
    const real *source,      # (depth, source_step)  IN   the first ``units`` of each k
    Py_ssize_t source_step,
    real *out,               # (units, lane_step)     OUT  the first ``depth`` of each
    Py_ssize_t lane_step,
) noexcept nogil:
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t count
    while k < depth:
        count = min(<Py_ssize_t>LANES, depth - k)
        turn_square(source + k * source_step, source_step, count, units, out + k, lane_step, count)
        k += LANES


# ----------------------------------------------------------------------------------------------------- rows

cdef inline Py_ssize_t blocks_of(Py_ssize_t units) noexcept nogil:
    return (units + LANES - 1) // LANES


cdef inline vreal v_load_units(const real *source, Py_ssize_t units) noexcept nogil:
    """A block of a row of units, which may end within the vector."""
    return v_load(source) if units == LANES else v_load_some(source, units)


cdef inline void v_store_units(real *to, vreal x, Py_ssize_t units) noexcept nogil:
    if units == LANES:
        v_store(to, x)
    else:
        v_store_some(to, x, units)


cdef struct walk:
    # Where a row function is among its blocks.
    Py_ssize_t row
    Py_ssize_t gates_offset
    Py_ssize_t unit
    Py_ssize_t left            # units from here on


cdef inline Py_ssize_t units_of(const walk *at) noexcept nogil:
    return min(at.left, <Py_ssize_t>LANES)


cdef inline walk start_forward(const forward_rows *rows) noexcept nogil:
    cdef walk at
    at.row = rows.first
    at.gates_offset = rows.gates_offset
    at.unit = rows.unit_offset
    at.left = rows.units
    return at


cdef inline void go_forward(walk *at, Py_ssize_t gates, const forward_rows *rows) noexcept nogil:
    """Of each block of units all rows, then the next block."""
    at.row += 1
    if at.row == rows.first + rows.count:
        at.row = rows.first
        at.gates_offset += gates * LANES
        at.unit += LANES
        at.left -= LANES


cdef inline void store_h(real *h, real *y, vreal value, Py_ssize_t units, Py_ssize_t ahead) noexcept nogil:
    """One block of h and y. A store waits for its line, which on a tape is far: those of the next turn are fetched."""
    v_store_units(h, value, units)
    v_store_units(y, value, units)
    if ahead != 0:
        v_prefetch_near(h + ahead)
        v_prefetch_near(y + ahead)


cdef inline void store_h_at(const forward_rows *rows, const walk *at, vreal value) noexcept nogil:
    store_h(rows.h[at.row] + at.unit, rows.y[at.row] + at.unit, value, units_of(at), rows.ahead)


cdef inline walk start_backward(const backward_rows *rows) noexcept nogil:
    cdef walk at
    at.row = at.gates_offset = at.unit = 0
    at.left = rows.units
    return at


cdef inline void go_backward(walk *at, Py_ssize_t gates, const backward_rows *rows) noexcept nogil:
    """Of each row all blocks, then the next row: what comes from afar comes faster as it lies."""
    at.gates_offset += gates * LANES
    at.unit += LANES
    at.left -= LANES
    if at.left <= 0:
        at.row += 1
        at.gates_offset = at.unit = 0
        at.left = rows.units


cdef inline void lstm_gates(const forward_rows *rows, walk *at, row_sums *beside) noexcept nogil:
    """The gates of one block, and c."""
    cdef real *gates = rows.gates[at.row] + at.gates_offset
    cdef const real *c_prev = rows.c_prev[at.row] + at.unit
    cdef real *c = rows.c[at.row] + at.unit
    cdef Py_ssize_t units = units_of(at)
    cdef vreal[4] ifog
    ifog[0] = v_load(gates)
    ifog[1] = v_load(gates + LANES)
    ifog[2] = v_load(gates + 3 * LANES)
    ifog[3] = v_load(gates + 2 * LANES)
    activate(3, 1, ifog, beside)
    v_store(gates, ifog[0])
    v_store(gates + LANES, ifog[1])
    v_store(gates + 2 * LANES, ifog[3])
    v_store(gates + 3 * LANES, ifog[2])
    v_store_units(c, v_fma(ifog[1], v_load_units(c_prev, units), ifog[0] * ifog[3]), units)
    go_forward(at, 4, rows)


cdef inline void lstm_output(
    const int blocks, const forward_rows *rows, walk *at, row_sums *beside
) noexcept nogil:
    """h of one or two blocks, side by side."""
    cdef const real *o[2]
    cdef real *h[2]
    cdef real *y[2]
    cdef Py_ssize_t units[2]
    cdef vreal[2] x
    cdef int j
    for j in range(blocks):
        o[j] = rows.gates[at.row] + at.gates_offset + 3 * LANES
        h[j] = rows.h[at.row] + at.unit
        y[j] = rows.y[at.row] + at.unit
        units[j] = units_of(at)
        x[j] = v_load_units(rows.c[at.row] + at.unit, units[j])
        go_forward(at, 4, rows)
    activate(0, blocks, x, beside)
    for j in range(blocks):
        store_h(h[j], y[j], v_load(o[j]) * x[j], units[j], rows.ahead)


cdef void lstm_forward(const forward_rows *rows) noexcept nogil:
    """One LSTM step of some units, its matrix products done (Gers, Schmidhuber & Cummins 2000).

        i, f, o = sigmoid of their pre-activations,  g = tanh of its own
        c = f c_prev + i g
        h = o tanh(c)

    The activations are written back in place, so one function serves training and inference: whoever owns
    ``gates`` decides whether they are a tape. Two loops, because in one the processor sees no further than a row's
    chain of gates, c and tanh(c), and waits for it.
    """
    cdef Py_ssize_t total = blocks_of(rows.units) * rows.count
    cdef Py_ssize_t done
    cdef walk at = start_forward(rows)
    for done in range(total):
        lstm_gates(rows, &at, NULL)
    at = start_forward(rows)
    for done in range(total // 2):
        lstm_output(2, rows, &at, NULL)
    if total % 2:
        lstm_output(1, rows, &at, NULL)


cdef void lstm_forward_beside(const forward_rows *rows, const tile_product *product) noexcept nogil:
    """lstm_forward of one block of one row, and between its lines a product of one row with a panel of four vectors.

    A block alone is a chain of operations that wait for each other; the product waits for its weights to come from L2.
    BESIDE_TERMS of its terms are made in ``activate``, half for the gates and half for tanh(c).
    """
    cdef const tile_operand *last = &product.operands[1 if product.operands[1].depth > 0 else 0]
    cdef tile_operand rest = last[0]
    # (Those of the struct, given to ``accumulate``, are stored after each term by GCC 12: 0.83 of a step's speed.)
    cdef vreal[4] sums
    cdef row_sums beside
    cdef int v
    cdef walk at = start_forward(rows)
    v_load_rows(sums, product.start, product.start_offset, 1, 4)
    if product.operands[1].depth > 0:
        accumulate(1, 4, False, &product.operands[0], 4 * LANES, sums)
    for v in range(4):
        beside.sums[v] = sums[v]
    beside.x = last.x[0] + last.x_offset
    beside.weights = last.weights
    beside.left = last.depth
    lstm_gates(rows, &at, &beside)
    at = start_forward(rows)
    lstm_output(1, rows, &at, &beside)
    for v in range(4):
        sums[v] = beside.sums[v]
    rest.depth = beside.left
    rest.x = &beside.x
    rest.x_offset = 0
    rest.weights = beside.weights
    accumulate(1, 4, False, &rest, 4 * LANES, sums)
    v_store_rows(product.out, product.out_offset, sums, 1, 4)


cdef inline void lstm_derivatives(const int blocks, const backward_rows *rows, walk *at) noexcept nogil:
    """dgates and dc of one or two blocks; the tanh of c side by side."""
    cdef walk here = at[0]
    cdef vreal[2] tanh_c
    cdef vreal one = v_set1(<real>1)
    cdef vreal i, f, g, o, c_prev, dh, dc
    cdef real *gates
    cdef Py_ssize_t units
    cdef int j
    for j in range(blocks):
        tanh_c[j] = v_load_units(rows.c[at.row] + at.unit, units_of(at))
        go_backward(at, 4, rows)
    activate(0, blocks, tanh_c, NULL)
    for j in range(blocks):
        gates = rows.gates[here.row] + here.gates_offset
        units = units_of(&here)
        i = v_load_units(gates, units)
        f = v_load_units(gates + LANES, units)
        g = v_load_units(gates + 2 * LANES, units)
        o = v_load_units(gates + 3 * LANES, units)
        c_prev = v_load_units(rows.c_prev[here.row] + here.unit, units)
        dh = v_load_units(rows.dh[here.row] + here.unit, units) + v_load_units(rows.dy[here.row] + here.unit, units)
        dc = v_load_units(rows.dc[here.row] + here.unit, units) + dh * o * (one - tanh_c[j] * tanh_c[j])
        v_store(gates, dc * g * i * (one - i))
        v_store(gates + LANES, dc * c_prev * f * (one - f))
        v_store(gates + 2 * LANES, dc * i * (one - g * g))
        v_store(gates + 3 * LANES, dh * tanh_c[j] * o * (one - o))
        v_store(rows.dc[here.row] + here.unit, dc * f)
        go_backward(&here, 4, rows)


cdef void lstm_backward(const backward_rows *rows) noexcept nogil:
    """The derivatives of lstm_forward; d of a gate is with respect to its pre-activation.

        dh = dy + dh of the next step,   dc = dc of the next step + dh o (1 - tanh(c)^2)
        di = dc g i (1 - i),   df = dc c_prev f (1 - f),   dg = dc i (1 - g^2),   do = dh tanh(c) o (1 - o)
        dc_prev = dc f

    Lanes past ``units`` are read as zeros everywhere, whatever an infinity has made of them, and so get zeros in dgates
    and dc.
    """
    cdef Py_ssize_t total = blocks_of(rows.units) * rows.count
    cdef Py_ssize_t done
    cdef walk at = start_backward(rows)
    for done in range(total // 2):
        lstm_derivatives(2, rows, &at)
    if total % 2:
        lstm_derivatives(1, rows, &at)


cdef inline void gru_gates(const int blocks, const forward_rows *rows, walk *at) noexcept nogil:
    """r and z of one or two blocks, side by side."""
    cdef const real *sums
    cdef real *gates[2]
    cdef vreal[4] x
    cdef int j
    for j in range(blocks):
        gates[j] = rows.gates[at.row] + at.gates_offset
        sums = rows.recurrent[at.row] + (at.gates_offset - rows.gates_offset + rows.recurrent_offset)
        x[2 * j] = v_load(sums)
        x[2 * j + 1] = v_load(sums + LANES)
        go_forward(at, 3, rows)
    activate(2 * blocks, 0, x, NULL)
    for j in range(blocks):
        v_store(gates[j], x[2 * j])
        v_store(gates[j] + LANES, x[2 * j + 1])


cdef inline void gru_output(const int blocks, const forward_rows *rows, walk *at) noexcept nogil:
    """n and h of one or two blocks, side by side."""
    cdef walk here = at[0]
    cdef real *gates
    cdef const real *sums
    cdef vreal[2] n
    cdef vreal z, h
    cdef int j
    for j in range(blocks):
        gates = rows.gates[at.row] + at.gates_offset
        sums = rows.recurrent[at.row] + (at.gates_offset - rows.gates_offset + rows.recurrent_offset)
        n[j] = v_fma(v_load(gates), v_load(sums + 2 * LANES), v_load(gates + 2 * LANES))
        go_forward(at, 3, rows)
    activate(0, blocks, n, NULL)
    for j in range(blocks):
        gates = rows.gates[here.row] + here.gates_offset
        v_store(gates + 2 * LANES, n[j])
        z = v_load(gates + LANES)
        h = v_load_units(rows.h_prev[here.row] + here.unit, units_of(&here))
        store_h_at(rows, &here, v_fma(z, h, (v_set1(<real>1) - z) * n[j]))
        go_forward(&here, 3, rows)


cdef void gru_forward(const forward_rows *rows) noexcept nogil:
    """One GRU step of some units, its reset gate behind the recurrent product (PyTorch's; after Cho et al. 2014).

        r, z = sigmoid of their pre-activations
        n = tanh(x W_n + b_n + r q),  q = h_prev U_n + b'_n
        h = (1 - z) n + z h_prev

    ``recurrent`` holds the pre-activations of r and z, and q; ``gates`` that of n without r q, and becomes r, z, n.
    """
    cdef Py_ssize_t total = blocks_of(rows.units) * rows.count
    cdef Py_ssize_t done
    cdef walk at = start_forward(rows)
    for done in range(total // 2):
        gru_gates(2, rows, &at)
    if total % 2:
        gru_gates(1, rows, &at)
    at = start_forward(rows)
    for done in range(total // 2):
        gru_output(2, rows, &at)
    if total % 2:
        gru_output(1, rows, &at)


cdef void gru_backward(const backward_rows *rows) noexcept nogil:
    """The derivatives of gru_forward; d of a gate is with respect to its pre-activation.

        dh = dy + dh of the next step
        dn = dh (1 - z) (1 - n^2),   dz = dh (h_prev - n) z (1 - z),   dr = dn q r (1 - r)
        dq = dn r;   dh z is what h_prev gets past the recurrent product

    ``gates`` become dr, dz, dn, what x gets; ``recurrent`` dr, dz, dq, what h_prev gets. Lanes past ``units`` are read
    as zeros, and so get zeros.
    """
    cdef vreal one = v_set1(<real>1)
    cdef vreal r, z, n, q, dh, dr, dz, dn
    cdef real *gates
    cdef real *sums
    cdef Py_ssize_t units, done
    cdef walk at = start_backward(rows)
    for done in range(blocks_of(rows.units) * rows.count):
        gates = rows.gates[at.row] + at.gates_offset
        sums = rows.recurrent[at.row] + at.gates_offset
        units = units_of(&at)
        r = v_load_units(gates, units)
        z = v_load_units(gates + LANES, units)
        n = v_load_units(gates + 2 * LANES, units)
        q = v_load_units(sums + 2 * LANES, units)
        dh = v_load_units(rows.dh[at.row] + at.unit, units) + v_load_units(rows.dy[at.row] + at.unit, units)
        dn = dh * (one - z) * (one - n * n)
        dz = dh * (v_load_units(rows.h_prev[at.row] + at.unit, units) - n) * z * (one - z)
        dr = dn * q * r * (one - r)
        v_store(gates, dr)
        v_store(gates + LANES, dz)
        v_store(gates + 2 * LANES, dn)
        v_store(sums, dr)
        v_store(sums + LANES, dz)
        v_store(sums + 2 * LANES, dn * r)
        v_store(rows.dh[at.row] + at.unit, dh * z)
        go_backward(&at, 3, rows)


cdef inline void rnn_output(const int blocks, const bint rectified, const forward_rows *rows, walk *at) noexcept nogil:
    """h of one or two blocks, side by side."""
    cdef walk here = at[0]
    cdef vreal[2] h
    cdef int j
    for j in range(blocks):
        h[j] = v_load(rows.gates[at.row] + at.gates_offset)
        go_forward(at, 1, rows)
    if rectified:
        for j in range(blocks):
            h[j] = relu(h[j])
    else:
        activate(0, blocks, h, NULL)
    for j in range(blocks):
        v_store(rows.gates[here.row] + here.gates_offset, h[j])
        store_h_at(rows, &here, h[j])
        go_forward(&here, 1, rows)


cdef inline void rnn_forward(const bint rectified, const forward_rows *rows) noexcept nogil:
    """One step of an Elman network (Elman 1990): h is tanh, or relu, of its pre-activation, and so is ``gates``."""
    cdef Py_ssize_t total = blocks_of(rows.units) * rows.count
    cdef Py_ssize_t done
    cdef walk at = start_forward(rows)
    for done in range(total // 2):
        rnn_output(2, rectified, rows, &at)
    if total % 2:
        rnn_output(1, rectified, rows, &at)


cdef inline void rnn_backward(const bint rectified, const backward_rows *rows) noexcept nogil:
    """dh = dy + dh of the next step;   da = dh (1 - h^2), or, of relu, dh where h > 0. Lanes past ``units``: zeros."""
    cdef vreal zero = v_set1(<real>0)
    cdef vreal h, dh
    cdef real *gates
    cdef Py_ssize_t units, done
    cdef walk at = start_backward(rows)
    for done in range(blocks_of(rows.units) * rows.count):
        gates = rows.gates[at.row] + at.gates_offset
        units = units_of(&at)
        h = v_load_units(gates, units)
        dh = v_load_units(rows.dh[at.row] + at.unit, units) + v_load_units(rows.dy[at.row] + at.unit, units)
        v_store(gates, v_if_less(zero, h, dh, zero) if rectified else dh * (v_set1(<real>1) - h * h))
        go_backward(&at, 1, rows)


cdef void rnn_tanh_forward(const forward_rows *rows) noexcept nogil:
    rnn_forward(False, rows)


cdef void rnn_relu_forward(const forward_rows *rows) noexcept nogil:
    rnn_forward(True, rows)


cdef void rnn_tanh_backward(const backward_rows *rows) noexcept nogil:
    rnn_backward(False, rows)


cdef void rnn_relu_backward(const backward_rows *rows) noexcept nogil:
    rnn_backward(True, rows)


include "variants.pxi"
include "updates.pxi"


cdef kernel_table functions
functions.itemsize = sizeof(real)
functions.lanes = LANES
functions.tile_rows = TILE_ROWS
functions.stretch_bytes = STRETCH_BYTES
functions.tile = &tile
functions.multiply_adds = &multiply_adds
functions.sum_row = &sum_row
functions.pack = &pack
functions.unpack = &unpack
functions.lstm_forward = &lstm_forward
# (of narrower vectors one row takes two panels at once)
functions.lstm_forward_beside = &lstm_forward_beside if LANES * sizeof(real) == 64 else NULL
functions.gru_forward = &gru_forward
functions.rnn_tanh_forward = &rnn_tanh_forward
functions.rnn_relu_forward = &rnn_relu_forward
functions.lstm_backward = &lstm_backward
functions.gru_backward = &gru_backward
functions.rnn_tanh_backward = &rnn_tanh_backward
functions.rnn_relu_backward = &rnn_relu_backward
functions.lstm_variant_forward = &lstm_variant_forward
functions.gru_variant_forward = &gru_variant_forward
functions.rnn_variant_forward = &rnn_variant_forward
functions.gru_before_forward = &gru_before_forward
functions.gru_before_second_forward = &gru_before_second_forward
functions.projection_forward = &projection_forward
functions.lstm_variant_backward = &lstm_variant_backward
functions.gru_variant_backward = &gru_variant_backward
functions.rnn_variant_backward = &rnn_variant_backward
functions.gru_before_backward = &gru_before_backward
functions.gru_before_second_backward = &gru_before_second_backward
functions.projection_backward = &projection_backward
functions.blend = &blend
functions.unblend = &unblend
functions.scale = &scale
functions.add = &add
functions.activate = &activate_row
functions.activate_backward = &activate_row_backward
functions.layer_norm = &layer_norm_row
functions.layer_norm_backward = &layer_norm_row_backward
functions.sgd = &sgd
functions.nesterov = &nesterov
functions.rmsprop = &rmsprop
functions.adam = &adam
functions.sum_of_squares = &sum_of_squares
functions.all_finite = &all_finite
functions.rescale = &rescale

table = PyCapsule_New(&functions, KERNEL_TABLE_NAME, NULL)
