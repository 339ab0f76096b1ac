# The cells that have options: activations by name, clipping, peepholes, coupled gates, layer normalisation; the row
# functions of second phases; rows of layers without a state; rows of noise. Part of kernels.pxi.
#
# Here a tape keeps the sums as the products made them, and backward makes everything after them again: whether an
# activation's slope can be had from its value is then no question. These functions may branch on their options; the
# plain cells know nothing of them. A normalisation needs all units of a row, so an LSTM with options gets them all.

from libc.math cimport erfc, log1p, sqrt


# ------------------------------------------------------------------------------------- activations by name

cdef void each_lane(double (*function)(double) noexcept nogil, vreal *x) noexcept nogil:
    """x = function(x), by the C library: for what is rare."""
    cdef real[64] lanes
    cdef int j
    v_store(lanes, x[0])
    for j in range(LANES):
        lanes[j] = <real>function(<double>lanes[j])
    x[0] = v_load(lanes)


cdef inline vreal exp_of_minus_abs(vreal x) noexcept nogil:
    cdef vreal e = v_at_least(v_set1(EXP_LOWEST), v_minus_abs(x))
    exp(1, &e, NULL)
    return e


cdef inline vreal expm1_of_negative(vreal x) noexcept nogil:
    """e^x - 1 = 2 t / (1 - t), t = tanh(x / 2), which loses no digits near 0."""
    cdef vreal t = tanh(x * v_set1(<real>0.5))
    return (t + t) / (v_set1(<real>1) - t)


cdef inline vreal normal_distribution(vreal x) noexcept nogil:
    """Phi(x) = erfc(-x / sqrt(2)) / 2"""
    x = x * v_set1(<real>-0.7071067811865476)
    each_lane(erfc, &x)
    return x * v_set1(<real>0.5)


cdef vreal value_of(const activation *f, vreal x) noexcept nogil:
    """f(x). NaN gives NaN."""
    cdef vreal zero = v_set1(<real>0)
    cdef vreal one = v_set1(<real>1)
    cdef vreal alpha = v_set1(<real>f.alpha)
    cdef vreal beta = v_set1(<real>f.beta)
    cdef vreal e
    if f.kind == SIGMOID:
        return sigmoid(x)
    if f.kind == TANH:
        return tanh(x)
    if f.kind == RELU:
        return relu(x)
    if f.kind == LEAKY_RELU:
        return v_if_less(x, zero, alpha * x, x)
    if f.kind == THRESHOLDED_RELU:
        return v_if_less(x, alpha, zero, v_if_less(alpha, x, x, x - alpha))  # x = alpha: 0
    if f.kind == AFFINE:
        return v_fma(alpha, x, beta)
    if f.kind == SCALED_TANH:
        return alpha * tanh(beta * x)
    if f.kind == HARD_SIGMOID:
        return v_at_most(one, v_at_least(zero, v_fma(alpha, x, beta)))
    if f.kind == ELU:
        return v_if_less(x, zero, alpha * expm1_of_negative(x), x)
    if f.kind == SOFTSIGN:
        return x / (one + v_abs(x))
    if f.kind == SOFTPLUS:
        e = exp_of_minus_abs(x)
        each_lane(log1p, &e)
        return relu(x) + e
    if f.kind == SWISH:
        return x * sigmoid(x)
    if f.kind == GELU:
        return x * normal_distribution(x)
    return x  # LINEAR


cdef vreal slope_of(const activation *f, vreal x) noexcept nogil:
    """f'(x)"""
    cdef vreal zero = v_set1(<real>0)
    cdef vreal one = v_set1(<real>1)
    cdef vreal alpha = v_set1(<real>f.alpha)
    cdef vreal y
    if f.kind == SIGMOID:
        y = sigmoid(x)
        return y * (one - y)
    if f.kind == TANH:
        y = tanh(x)
        return one - y * y
    if f.kind == RELU:
        return v_if_less(zero, x, one, zero)
    if f.kind == LEAKY_RELU:
        return v_if_less(x, zero, alpha, one)
    if f.kind == THRESHOLDED_RELU:
        return v_if_less(alpha, x, one, zero)
    if f.kind == AFFINE:
        return alpha
    if f.kind == SCALED_TANH:
        y = tanh(v_set1(<real>f.beta) * x)
        return alpha * v_set1(<real>f.beta) * (one - y * y)
    if f.kind == HARD_SIGMOID:
        y = v_fma(alpha, x, v_set1(<real>f.beta))
        return v_if_less(zero, y, v_if_less(y, one, alpha, zero), zero)
    if f.kind == ELU:
        return v_if_less(x, zero, alpha * exp_of_minus_abs(x), one)
    if f.kind == SOFTSIGN:
        y = one / (one + v_abs(x))
        return y * y
    if f.kind == SOFTPLUS:
        return sigmoid(x)
    if f.kind == SWISH:
        y = sigmoid(x)
        return v_fma(x * y, one - y, y)
    if f.kind == GELU:  # Phi(x) + x phi(x),  phi(x) = e^(-x^2 / 2) / sqrt(2 pi)
        y = exp_of_minus_abs(x * x * v_set1(<real>0.5)) * v_set1(<real>0.3989422804014327)
        return v_fma(x, y, normal_distribution(x))
    return one  # LINEAR


cdef inline Py_ssize_t activate_fours(
    const int sigmoids, const int tanhs, Py_ssize_t count, real *x
) noexcept nogil:
    """Four vectors at a time, for as long as there are four more: how many numbers those are."""
    cdef vreal[4] values
    cdef Py_ssize_t done = 0
    cdef int j
    while count - done >= 4 * LANES:
        for j in range(4):
            values[j] = v_load(x + done + j * LANES)
        activate(sigmoids, tanhs, values, NULL)
        for j in range(4):
            v_store(x + done + j * LANES, values[j])
        done += 4 * LANES
    return done


cdef void activate_row(const activation *f, Py_ssize_t count, real *x) noexcept nogil:
    """x[j] = f(x[j]), or softmax of all of them. The last vector is filled up with zeros."""
    cdef Py_ssize_t some
    cdef Py_ssize_t done = 0
    if f.kind == SOFTMAX:
        softmax(count, x)
        return
    if f.kind == SIGMOID:
        done = activate_fours(4, 0, count, x)
    elif f.kind == TANH:
        done = activate_fours(0, 4, count, x)
    while done < count:
        some = min(count - done, <Py_ssize_t>LANES)
        v_store_units(x + done, value_of(f, v_load_units(x + done, some)), some)
        done += LANES


cdef void activate_row_backward(const activation *f, Py_ssize_t count, real *z, real *dy) noexcept nogil:
    """dz = dy f'(z). Of softmax z becomes f(z) first."""
    cdef Py_ssize_t block, j, some
    if f.kind == SOFTMAX:
        softmax(count, z)
        softmax_backward(count, z, dy)
        return
    for block in range(blocks_of(count)):
        j = block * LANES
        some = min(count - j, <Py_ssize_t>LANES)
        v_store_units(dy + j, v_load_units(dy + j, some) * slope_of(f, v_load_units(z + j, some)), some)


cdef inline vreal clipped(double limit, vreal x) noexcept nogil:
    """x kept in [-limit, limit]; NaN stays NaN."""
    return v_at_most(v_set1(<real>limit), v_at_least(v_set1(<real>-limit), x))


cdef inline vreal if_inside(double limit, vreal x, vreal d) noexcept nogil:
    """The gradient d of clipped(x): of x, which has none where it was clipped."""
    return v_if_less(v_set1(<real>limit), v_abs(x), v_set1(<real>0), d)


cdef inline vreal clipped_value(const activation *f, double limit, vreal x) noexcept nogil:
    return value_of(f, clipped(limit, x))


cdef inline vreal clipped_slope(const activation *f, double limit, vreal x, vreal d) noexcept nogil:
    """d of clipped_value(x) -> d of x."""
    return if_inside(limit, x, d * slope_of(f, clipped(limit, x)))


# ----------------------------------------------------------------------------------------------------- LSTM

cdef struct lstm_work:
    # One row of one step, all made from its sums. (blocks, G, LANES) or (blocks, LANES).
    real *sums           # of x W_ih + h W_hh, or normalised
    real *sums_h         # jointly normalised: of h W_hh
    real *z              # pre-activations, before clipping
    real *dz
    real *cell           # f c_prev + i g, before clipping
    real *c
    real *c_hat          # jointly: c, normalised
    real *z_c            # what the output activation gets
    real *dc
    double[4] deviation  # 1 / the standard deviation of what was normalised: of each gate, or [0] of x's, [1] of h's
    double deviation_c
    Py_ssize_t gates     # G
    Py_ssize_t kept      # the gate i, or with coupling the one of i and f that there is
    Py_ssize_t f
    Py_ssize_t g
    Py_ssize_t o


cdef inline lstm_work new_work(const cell_options *options, real *scratch) noexcept nogil:
    cdef lstm_work w
    w.gates = 4 if options.coupling == UNCOUPLED else 3
    w.kept = 0
    w.f = 1 if options.coupling == UNCOUPLED else 0
    w.g = w.gates - 2
    w.o = w.gates - 1
    w.sums = scratch
    w.sums_h = w.sums + 4 * options.width
    w.z = w.sums_h + 4 * options.width
    w.dz = w.z + 4 * options.width
    w.cell = w.dz + 4 * options.width
    w.c = w.cell + options.width
    w.c_hat = w.c + options.width
    w.z_c = w.c_hat + options.width
    w.dc = w.z_c + options.width
    return w


cdef enum:
    VALUES, SQUARES, PRODUCTS


cdef inline Py_ssize_t place_of(Py_ssize_t gates, Py_ssize_t gate, Py_ssize_t unit) noexcept nogil:
    """Where a unit is in (blocks, gates, LANES). (Of one gate, the compiler must see that it is where it is.)"""
    return unit if gates == 1 else (unit // LANES * gates + gate) * LANES + unit % LANES


cdef inline double term_of(
    const int kind, const real *a, const real *b, Py_ssize_t place, double mean
) noexcept nogil:
    cdef double value = a[place]
    if kind == SQUARES:
        return (value - mean) * (value - mean)
    if kind == PRODUCTS:
        return value * b[place]
    return value


cdef inline double moment(
    const int kind, const real *a, const real *b, Py_ssize_t gates, Py_ssize_t first, Py_ssize_t count,
    Py_ssize_t units, double mean,
) noexcept nogil:
    """Over some gates of a row, the mean of a (kind VALUES), of (a - mean)^2 (SQUARES) or of a b (PRODUCTS).

    Unit u belongs to the u % 8th of eight sums, so that an addition need not wait for the one before; they run gate by
    gate, in double, and are added up in one order: the same at every level.
    """
    cdef double[8] sums
    cdef Py_ssize_t gate, unit, place
    cdef int j
    for j in range(8):
        sums[j] = 0
    for gate in range(first, first + count):
        for unit in range(0, units - units % 8, 8):
            place = place_of(gates, gate, unit)
            for j in range(8):
                if gates > 1 and LANES % 8 != 0:  # eight units are not side by side
                    place = place_of(gates, gate, unit + j) - j
                sums[j] += term_of(kind, a, b, place + j, mean)
        for unit in range(units - units % 8, units):
            sums[unit % 8] += term_of(kind, a, b, place_of(gates, gate, unit), mean)
    return (
        ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]))
    ) / (count * units)


cdef inline double normalise_gates(
    real *values, Py_ssize_t gates, Py_ssize_t first, Py_ssize_t count, Py_ssize_t units, double epsilon
) noexcept nogil:
    """As normalise, to be inlined with a constant number of gates."""
    cdef Py_ssize_t gate, unit
    cdef double mean = moment(VALUES, values, NULL, gates, first, count, units, 0)
    cdef double deviation = 1 / sqrt(moment(SQUARES, values, NULL, gates, first, count, units, mean) + epsilon)
    cdef real *value
    for gate in range(first, first + count):
        for unit in range(units):
            value = values + place_of(gates, gate, unit)
            value[0] = <real>((value[0] - mean) * deviation)
    return deviation


cdef double normalise(
    real *values, Py_ssize_t gates, Py_ssize_t first, Py_ssize_t count, Py_ssize_t units, double epsilon
) noexcept nogil:
    """(v - mean) / sqrt(variance + epsilon) over some gates of a row, in place (Ba, Kiros & Hinton 2016).

    Returns what v - mean is multiplied by.
    """
    if gates == 1:
        return normalise_gates(values, 1, 0, 1, units, epsilon)
    return normalise_gates(values, gates, first, count, units, epsilon)


cdef inline void normalise_gates_backward(
    const real *normalised, real *d, Py_ssize_t gates, Py_ssize_t first, Py_ssize_t count, Py_ssize_t units,
    double deviation,
) noexcept nogil:
    """As normalise_backward, to be inlined with a constant number of gates."""
    cdef Py_ssize_t gate, unit, place
    cdef double mean = moment(VALUES, d, NULL, gates, first, count, units, 0)
    cdef double product = moment(PRODUCTS, d, normalised, gates, first, count, units, 0)
    for gate in range(first, first + count):
        for unit in range(units):
            place = place_of(gates, gate, unit)
            d[place] = <real>(deviation * (d[place] - mean - product * normalised[place]))


cdef void normalise_backward(
    const real *normalised, real *d, Py_ssize_t gates, Py_ssize_t first, Py_ssize_t count, Py_ssize_t units,
    double deviation,
) noexcept nogil:
    """d with respect to what normalise made -> to what it was given, in place.

        dv = deviation (d - mean(d) - n mean(d n))
    """
    if gates == 1:
        normalise_gates_backward(normalised, d, 1, 0, 1, units, deviation)
    else:
        normalise_gates_backward(normalised, d, gates, first, count, units, deviation)


cdef void layer_norm_row(
    Py_ssize_t count, double epsilon, const real *gain, const real *shift, real *x
) noexcept nogil:
    """x = gain N(x) + shift"""
    cdef Py_ssize_t block, j, some
    normalise(x, 1, 0, 1, count, epsilon)
    for block in range(blocks_of(count)):
        j = block * LANES
        some = min(count - j, <Py_ssize_t>LANES)
        v_store_units(x + j, v_fma(
            v_load_units(gain + j, some), v_load_units(x + j, some), v_load_units(shift + j, some)
        ), some)


cdef void layer_norm_row_backward(
    Py_ssize_t count, double epsilon, const real *gain, real *x, real *dy, real *dgain, real *dshift
) noexcept nogil:
    """With n = N(x):  dshift += dy,  dgain += dy n,  dn = dy gain,  and dy becomes dx. x becomes n."""
    cdef Py_ssize_t block, j, some
    cdef vreal d, n
    cdef double deviation = normalise(x, 1, 0, 1, count, epsilon)
    for block in range(blocks_of(count)):
        j = block * LANES
        some = min(count - j, <Py_ssize_t>LANES)
        d = v_load_units(dy + j, some)
        n = v_load_units(x + j, some)
        v_store_units(dshift + j, v_load_units(dshift + j, some) + d, some)
        v_store_units(dgain + j, v_fma(d, n, v_load_units(dgain + j, some)), some)
        v_store_units(dy + j, d * v_load_units(gain + j, some), some)
    normalise_backward(x, dy, 1, 0, 1, count, deviation)


cdef inline vreal extra(const cell_options *options, Py_ssize_t row, Py_ssize_t block) noexcept nogil:
    return v_load(options.extras + row * options.width + block * LANES)


cdef inline void add_to(real *sums, vreal x) noexcept nogil:
    v_store(sums, v_load(sums) + x)


cdef inline void add_extra(
    const cell_options *options, real *dextras, Py_ssize_t row, Py_ssize_t block, vreal d
) noexcept nogil:
    add_to(dextras + row * options.width + block * LANES, d)


cdef inline void gate_after_norm(
    const cell_options *options, lstm_work *w, Py_ssize_t gate, Py_ssize_t units
) noexcept nogil:
    """Per gate: sums become normalised, z = gain n + shift. Otherwise z is there."""
    cdef Py_ssize_t block, at
    if options.normalisation != NORMALISED_PER_GATE:
        return
    for block in range(blocks_of(units)):
        at = (block * w.gates + gate) * LANES
        v_store(w.sums + at, v_load(w.z + at))
    w.deviation[gate] = normalise(w.sums, w.gates, gate, 1, units, options.epsilon)
    for block in range(blocks_of(units)):
        at = (block * w.gates + gate) * LANES
        v_store(w.z + at, v_fma(
            extra(options, options.gain + gate, block), v_load(w.sums + at), extra(options, options.shift + gate, block)
        ))


cdef inline void lstm_gates_of(
    const cell_options *options, const lstm_work *w, Py_ssize_t block, vreal *i, vreal *f, vreal *g
) noexcept nogil:
    """The input gate, the forget gate and the candidate of one block."""
    cdef const real *z = w.z + block * w.gates * LANES
    cdef vreal one = v_set1(<real>1)
    cdef vreal kept = clipped_value(&options.gate, options.clip_gates, v_load(z + w.kept * LANES))
    i[0] = kept
    f[0] = kept
    if options.coupling == FORGET_IS_REST:
        f[0] = one - kept
    elif options.coupling == INPUT_IS_REST:
        i[0] = one - kept
    else:
        f[0] = clipped_value(&options.gate, options.clip_gates, v_load(z + w.f * LANES))
    g[0] = clipped_value(&options.candidate, options.clip_gates, v_load(z + w.g * LANES))


cdef void lstm_variant_row(
    const cell_options *options, lstm_work *w, const real *gates, const real *recurrent, const real *c_prev,
    Py_ssize_t units,
) noexcept nogil:
    """From the sums of one row, its pre-activations and c.

        i, f, o = gate of their pre-activations, or one of i, f is 1 minus the other;  g = candidate of its own
        c = f c_prev + i g
        h = o output(c)

    A pre-activation is x W + h U + b; with peepholes p c_prev is added, to o p c (Gers, Schraudolph, Schmidhuber 2002);
    normalised jointly over the gates, gain N(x W) + gain_h N(h U) + b, and output sees gain_c N(c) + shift_c; per gate,
    gain N(x W + h U + p c) + b. Clipped are what gate and candidate get, and c.
    """
    cdef Py_ssize_t blocks = blocks_of(units)
    cdef Py_ssize_t peep = options.peephole
    cdef Py_ssize_t block, gate, at, some
    cdef vreal i, f, g, c
    for at in range(blocks * w.gates):
        v_store(w.sums + at * LANES, v_load(gates + at * LANES))
    if options.normalisation == NORMALISED_JOINTLY:
        for at in range(blocks * w.gates):
            v_store(w.sums_h + at * LANES, v_load(recurrent + at * LANES))
        w.deviation[0] = normalise(w.sums, w.gates, 0, w.gates, units, options.epsilon)
        w.deviation[1] = normalise(w.sums_h, w.gates, 0, w.gates, units, options.epsilon)
    for block in range(blocks):
        for gate in range(w.gates):
            at = (block * w.gates + gate) * LANES
            if options.normalisation == NORMALISED_JOINTLY:
                v_store(w.z + at, v_fma(
                    extra(options, options.gain + gate, block), v_load(w.sums + at),
                    v_fma(extra(options, options.gain_h + gate, block), v_load(w.sums_h + at),
                          extra(options, options.shift + gate, block)),
                ))
            else:
                v_store(w.z + at, v_load(w.sums + at))
        if peep >= 0:
            c = v_load_units(c_prev + block * LANES, min(units - block * LANES, <Py_ssize_t>LANES))
            for gate in range(w.f + 1):
                at = (block * w.gates + gate) * LANES
                v_store(w.z + at, v_fma(extra(options, peep + gate, block), c, v_load(w.z + at)))
    for gate in range(w.gates - 1):
        gate_after_norm(options, w, gate, units)
    for block in range(blocks):
        some = min(units - block * LANES, <Py_ssize_t>LANES)
        lstm_gates_of(options, w, block, &i, &f, &g)
        c = v_fma(f, v_load_units(c_prev + block * LANES, some), i * g)
        v_store(w.cell + block * LANES, c)
        c = clipped(options.clip_cell, c)
        v_store(w.c + block * LANES, c)
        v_store(w.c_hat + block * LANES, c)
        if peep >= 0:
            at = (block * w.gates + w.o) * LANES
            v_store(w.z + at, v_fma(extra(options, peep + w.f + 1, block), c, v_load(w.z + at)))
    gate_after_norm(options, w, w.o, units)
    if options.normalisation == NORMALISED_JOINTLY:
        w.deviation_c = normalise(w.c_hat, 1, 0, 1, units, options.epsilon)
    for block in range(blocks):
        c = v_load(w.c_hat + block * LANES)
        if options.normalisation == NORMALISED_JOINTLY:
            c = v_fma(extra(options, options.gain_c, block), c, extra(options, options.shift_c, block))
        v_store(w.z_c + block * LANES, c)


cdef void lstm_variant_forward(const forward_rows *rows) noexcept nogil:
    """lstm_variant_row, its c, and h = o output(c). ``gates`` and ``recurrent`` stay the sums that they are."""
    cdef const cell_options *options = rows.options
    cdef lstm_work w = new_work(options, rows.scratch)
    cdef Py_ssize_t row, block, some, at
    cdef vreal h
    for row in range(rows.first, rows.first + rows.count):
        lstm_variant_row(
            options, &w, rows.gates[row] + rows.gates_offset,
            rows.recurrent[row] + rows.recurrent_offset if options.normalisation == NORMALISED_JOINTLY else NULL,
            rows.c_prev[row], rows.units,
        )
        for block in range(blocks_of(rows.units)):
            some = min(rows.units - block * LANES, <Py_ssize_t>LANES)
            at = block * LANES
            h = clipped_value(&options.gate, options.clip_gates, v_load(w.z + (block * w.gates + w.o) * LANES))
            h = h * value_of(&options.output, v_load(w.z_c + at))
            v_store_units(rows.c[row] + at, v_load(w.c + at), some)
            store_h(rows.h[row] + at, rows.y[row] + at, h, some, rows.ahead)


cdef inline void gate_before_norm(
    const cell_options *options, lstm_work *w, real *dextras, Py_ssize_t gate, Py_ssize_t units
) noexcept nogil:
    """Per gate: dz with respect to z -> to what was normalised; the gradients of gain and shift."""
    cdef Py_ssize_t block, at
    cdef vreal d
    if options.normalisation != NORMALISED_PER_GATE:
        return
    for block in range(blocks_of(units)):
        at = (block * w.gates + gate) * LANES
        d = v_load(w.dz + at)
        add_extra(options, dextras, options.shift + gate, block, d)
        add_extra(options, dextras, options.gain + gate, block, d * v_load(w.sums + at))
        v_store(w.dz + at, d * extra(options, options.gain + gate, block))
    normalise_backward(w.sums, w.dz, w.gates, gate, 1, units, w.deviation[gate])


cdef inline void clear_padding(real *values, Py_ssize_t gates, Py_ssize_t units) noexcept nogil:
    """Zeros in the lanes of the last block that have no unit."""
    cdef Py_ssize_t gate, unit
    for unit in range(units, blocks_of(units) * LANES):
        for gate in range(gates):
            values[place_of(gates, gate, unit)] = <real>0


cdef void lstm_output_backward(
    const cell_options *options, lstm_work *w, const real *dh, const real *dy, const real *dc, real *dextras,
    Py_ssize_t units,
) noexcept nogil:
    """From dh and the dc of the next step: w.dz of o, and w.dc, with respect to f c_prev + i g."""
    cdef Py_ssize_t peep = options.peephole
    cdef Py_ssize_t block, some, at, of_o
    cdef vreal d, o, z_o, z_c, zero = v_set1(<real>0)
    for block in range(blocks_of(units)):
        some = min(units - block * LANES, <Py_ssize_t>LANES)
        at = block * LANES
        of_o = (block * w.gates + w.o) * LANES
        d = v_load_units(dh + at, some) + v_load_units(dy + at, some)
        z_o = v_load(w.z + of_o)
        z_c = v_load(w.z_c + at)
        o = clipped_value(&options.gate, options.clip_gates, z_o)
        v_store(w.dz + of_o, clipped_slope(&options.gate, options.clip_gates, z_o, d * value_of(&options.output, z_c)))
        v_store(w.dc + at, d * o * slope_of(&options.output, z_c))
    if options.normalisation == NORMALISED_JOINTLY:
        for block in range(blocks_of(units)):
            at = block * LANES
            d = v_load(w.dc + at)
            add_extra(options, dextras, options.shift_c, block, d)
            add_extra(options, dextras, options.gain_c, block, d * v_load(w.c_hat + at))
            v_store(w.dc + at, d * extra(options, options.gain_c, block))
        normalise_backward(w.c_hat, w.dc, 1, 0, 1, units, w.deviation_c)
    gate_before_norm(options, w, dextras, w.o, units)
    for block in range(blocks_of(units)):
        some = min(units - block * LANES, <Py_ssize_t>LANES)
        at = block * LANES
        d = v_load(w.dc + at) + v_load_units(dc + at, some)
        if peep >= 0:
            z_o = v_load(w.dz + (block * w.gates + w.o) * LANES)
            add_extra(options, dextras, peep + w.f + 1, block, z_o * v_load(w.c + at))
            d = v_fma(z_o, extra(options, peep + w.f + 1, block), d)
        v_store(w.dc + at, if_inside(options.clip_cell, v_load(w.cell + at), d))


cdef void lstm_gates_backward(
    const cell_options *options, lstm_work *w, const real *c_prev, real *dc_prev, real *dextras, Py_ssize_t units
) noexcept nogil:
    """From w.dc: w.dz of the gates but o, and dc_prev.

        di = dc g,  df = dc c_prev,  dg = dc i,  dc_prev = dc f;  coupled, the kept gate gets one minus the other
    """
    cdef Py_ssize_t peep = options.peephole
    cdef Py_ssize_t block, some, at, gate
    cdef vreal i, f, g, before, dc, di, df, dg
    cdef const real *z
    cdef real *dz
    for block in range(blocks_of(units)):
        some = min(units - block * LANES, <Py_ssize_t>LANES)
        z = w.z + block * w.gates * LANES
        dz = w.dz + block * w.gates * LANES
        lstm_gates_of(options, w, block, &i, &f, &g)
        before = v_load_units(c_prev + block * LANES, some)
        dc = v_load(w.dc + block * LANES)
        di = dc * g
        df = dc * before
        if options.coupling == FORGET_IS_REST:
            di = di - df
        elif options.coupling == INPUT_IS_REST:
            di = df - di
        else:
            v_store(dz + w.f * LANES, clipped_slope(&options.gate, options.clip_gates, v_load(z + w.f * LANES), df))
        v_store(dz + w.kept * LANES, clipped_slope(&options.gate, options.clip_gates, v_load(z + w.kept * LANES), di))
        dg = clipped_slope(&options.candidate, options.clip_gates, v_load(z + w.g * LANES), dc * i)
        v_store(dz + w.g * LANES, dg)
        v_store(dc_prev + block * LANES, dc * f)
    for gate in range(w.gates - 1):
        gate_before_norm(options, w, dextras, gate, units)
    if peep >= 0:
        for block in range(blocks_of(units)):
            some = min(units - block * LANES, <Py_ssize_t>LANES)
            before = v_load_units(c_prev + block * LANES, some)
            dc = v_load(dc_prev + block * LANES)
            for gate in range(w.f + 1):
                at = (block * w.gates + gate) * LANES
                add_extra(options, dextras, peep + gate, block, v_load(w.dz + at) * before)
                dc = v_fma(v_load(w.dz + at), extra(options, peep + gate, block), dc)
            v_store(dc_prev + block * LANES, dc)
    clear_padding(dc_prev, 1, units)


cdef void lstm_variant_backward(const backward_rows *rows) noexcept nogil:
    """The derivatives of lstm_variant_forward, by the chain rule from its last line to its first.

    ``gates`` become the gradients of the sums of x (of all sums, unless those of h are apart: then ``recurrent``).
    """
    cdef const cell_options *options = rows.options
    cdef bint jointly = options.normalisation == NORMALISED_JOINTLY
    cdef lstm_work w = new_work(options, rows.scratch)
    cdef Py_ssize_t row, block, gate, at
    cdef real *gates
    cdef real *recurrent
    cdef real *dextras
    cdef vreal d
    for row in range(rows.count):
        gates = rows.gates[row]
        recurrent = rows.recurrent[row] if jointly else NULL
        dextras = rows.dextras[row]
        lstm_variant_row(options, &w, gates, recurrent, rows.c_prev[row], rows.units)
        lstm_output_backward(options, &w, rows.dh[row], rows.dy[row], rows.dc[row], dextras, rows.units)
        lstm_gates_backward(options, &w, rows.c_prev[row], rows.dc[row], dextras, rows.units)
        for block in range(blocks_of(rows.units)):
            for gate in range(w.gates):
                at = (block * w.gates + gate) * LANES
                d = v_load(w.dz + at)
                if jointly:
                    add_extra(options, dextras, options.shift + gate, block, d)
                    add_extra(options, dextras, options.gain + gate, block, d * v_load(w.sums + at))
                    add_extra(options, dextras, options.gain_h + gate, block, d * v_load(w.sums_h + at))
                    v_store(recurrent + at, d * extra(options, options.gain_h + gate, block))
                    d = d * extra(options, options.gain + gate, block)
                v_store(gates + at, d)
        if jointly:
            normalise_backward(w.sums, gates, w.gates, 0, w.gates, rows.units, w.deviation[0])
            normalise_backward(w.sums_h, recurrent, w.gates, 0, w.gates, rows.units, w.deviation[1])
            clear_padding(recurrent, w.gates, rows.units)
        clear_padding(gates, w.gates, rows.units)


# ------------------------------------------------------------------------------------------------------ GRU

cdef void gru_variant_forward(const forward_rows *rows) noexcept nogil:
    """gru_forward with options: gate for r and z, candidate for n. ``gates`` and ``recurrent`` stay the sums."""
    cdef const cell_options *options = rows.options
    cdef Py_ssize_t done, units
    cdef const real *gates
    cdef const real *sums
    cdef vreal r, z, h
    cdef walk at = start_forward(rows)
    for done in range(blocks_of(rows.units) * rows.count):
        units = units_of(&at)
        gates = rows.gates[at.row] + at.gates_offset
        sums = rows.recurrent[at.row] + (at.gates_offset - rows.gates_offset + rows.recurrent_offset)
        r = clipped_value(&options.gate, options.clip_gates, v_load(sums))
        z = clipped_value(&options.gate, options.clip_gates, v_load(sums + LANES))
        h = clipped_value(
            &options.candidate, options.clip_gates, v_fma(r, v_load(sums + 2 * LANES), v_load(gates + 2 * LANES))
        )
        h = v_fma(z, v_load_units(rows.h_prev[at.row] + at.unit, units), (v_set1(<real>1) - z) * h)
        store_h_at(rows, &at, h)
        go_forward(&at, 3, rows)


cdef inline void store_first(real *to, vreal x, Py_ssize_t units) noexcept nogil:
    """x in the lanes that have a unit, zeros in the others."""
    if units < LANES:
        v_store(to, v_set1(<real>0))
    v_store_units(to, x, units)


cdef void gru_variant_backward(const backward_rows *rows) noexcept nogil:
    """gru_backward with options, from the sums."""
    cdef const cell_options *options = rows.options
    cdef Py_ssize_t done, units
    cdef real *gates
    cdef real *sums
    cdef vreal r, z, n, z_r, z_z, z_n, q, dh, dn, dr, dz
    cdef walk at = start_backward(rows)
    for done in range(blocks_of(rows.units) * rows.count):
        units = units_of(&at)
        gates = rows.gates[at.row] + at.gates_offset
        sums = rows.recurrent[at.row] + at.gates_offset
        z_r = v_load(sums)
        z_z = v_load(sums + LANES)
        q = v_load(sums + 2 * LANES)
        r = clipped_value(&options.gate, options.clip_gates, z_r)
        z = clipped_value(&options.gate, options.clip_gates, z_z)
        z_n = v_fma(r, q, v_load(gates + 2 * LANES))
        n = clipped_value(&options.candidate, options.clip_gates, z_n)
        dh = v_load_units(rows.dh[at.row] + at.unit, units) + v_load_units(rows.dy[at.row] + at.unit, units)
        dn = clipped_slope(&options.candidate, options.clip_gates, z_n, dh * (v_set1(<real>1) - z))
        dz = dh * (v_load_units(rows.h_prev[at.row] + at.unit, units) - n)
        dz = clipped_slope(&options.gate, options.clip_gates, z_z, dz)
        dr = clipped_slope(&options.gate, options.clip_gates, z_r, dn * q)
        store_first(gates, dr, units)
        store_first(gates + LANES, dz, units)
        store_first(gates + 2 * LANES, dn, units)
        store_first(sums, dr, units)
        store_first(sums + LANES, dz, units)
        store_first(sums + 2 * LANES, dn * r, units)
        store_first(rows.dh[at.row] + at.unit, dh * z, units)
        go_backward(&at, 3, rows)


cdef void gru_before_forward(const forward_rows *rows) noexcept nogil:
    """The first phase of a GRU whose reset gate is before the recurrent product (Cho et al. 2014): r h_prev, as ``h``.

        r = gate(x W_r + h_prev U_r + b_r);   then n = candidate(x W_n + (r h_prev) U_n + b_n)

    ``second``, where the sum of n goes on, gets x W_n + b_n.
    """
    cdef const cell_options *options = rows.options
    cdef Py_ssize_t done, units
    cdef const real *gates
    cdef vreal h
    cdef walk at = start_forward(rows)
    for done in range(blocks_of(rows.units) * rows.count):
        units = units_of(&at)
        gates = rows.gates[at.row] + at.gates_offset
        h = clipped_value(&options.gate, options.clip_gates, v_load(gates))
        h = h * v_load_units(rows.h_prev[at.row] + at.unit, units)
        v_store_units(rows.h[at.row] + at.unit, h, units)
        v_store(rows.second[at.row] + at.unit, v_load(gates + 2 * LANES))
        go_forward(&at, 3, rows)


cdef void gru_before_second_forward(const forward_rows *rows) noexcept nogil:
    """n = candidate of ``second``,  z = gate of its sum,  h = (1 - z) n + z h_prev"""
    cdef const cell_options *options = rows.options
    cdef Py_ssize_t done, units
    cdef vreal n, z, h
    cdef walk at = start_forward(rows)
    for done in range(blocks_of(rows.units) * rows.count):
        units = units_of(&at)
        n = clipped_value(&options.candidate, options.clip_gates, v_load(rows.second[at.row] + at.unit))
        z = v_load(rows.gates[at.row] + at.gates_offset + LANES)
        z = clipped_value(&options.gate, options.clip_gates, z)
        h = v_fma(z, v_load_units(rows.h_prev[at.row] + at.unit, units), (v_set1(<real>1) - z) * n)
        store_h_at(rows, &at, h)
        go_forward(&at, 3, rows)


cdef void gru_before_second_backward(const backward_rows *rows) noexcept nogil:
    """dn into ``second`` and gates, dz into gates; dh z is what h_prev gets past the products."""
    cdef const cell_options *options = rows.options
    cdef Py_ssize_t done, units
    cdef real *gates
    cdef vreal n, z, z_n, z_z, dh, dn, dz
    cdef walk at = start_backward(rows)
    for done in range(blocks_of(rows.units) * rows.count):
        units = units_of(&at)
        gates = rows.gates[at.row] + at.gates_offset
        z_n = v_load(rows.second[at.row] + at.unit)
        z_z = v_load(gates + LANES)
        n = clipped_value(&options.candidate, options.clip_gates, z_n)
        z = clipped_value(&options.gate, options.clip_gates, z_z)
        dh = v_load_units(rows.dh[at.row] + at.unit, units) + v_load_units(rows.dy[at.row] + at.unit, units)
        dn = clipped_slope(&options.candidate, options.clip_gates, z_n, dh * (v_set1(<real>1) - z))
        dz = dh * (v_load_units(rows.h_prev[at.row] + at.unit, units) - n)
        store_first(gates + LANES, clipped_slope(&options.gate, options.clip_gates, z_z, dz), units)
        store_first(gates + 2 * LANES, dn, units)
        store_first(rows.second[at.row] + at.unit, dn, units)
        store_first(rows.dh[at.row] + at.unit, dh * z, units)
        go_backward(&at, 3, rows)


cdef void gru_before_backward(const backward_rows *rows) noexcept nogil:
    """dr from ``dh``, here the gradient of r h_prev; h_prev gets r times that."""
    cdef const cell_options *options = rows.options
    cdef Py_ssize_t done, units
    cdef real *gates
    cdef vreal z_r, d
    cdef walk at = start_backward(rows)
    for done in range(blocks_of(rows.units) * rows.count):
        units = units_of(&at)
        gates = rows.gates[at.row] + at.gates_offset
        z_r = v_load(gates)
        d = v_load_units(rows.dh[at.row] + at.unit, units)
        add_to(rows.dh_prev[at.row] + at.unit, d * clipped_value(&options.gate, options.clip_gates, z_r))
        d = d * v_load_units(rows.h_prev[at.row] + at.unit, units)
        store_first(gates, clipped_slope(&options.gate, options.clip_gates, z_r, d), units)
        go_backward(&at, 3, rows)


# ----------------------------------------------------------------------------------------- RNN, projections

cdef void rnn_variant_forward(const forward_rows *rows) noexcept nogil:
    """h = candidate of the sum, which ``gates`` stays."""
    cdef const cell_options *options = rows.options
    cdef Py_ssize_t done
    cdef vreal h
    cdef walk at = start_forward(rows)
    for done in range(blocks_of(rows.units) * rows.count):
        h = clipped_value(&options.candidate, options.clip_gates, v_load(rows.gates[at.row] + at.gates_offset))
        store_h_at(rows, &at, h)
        go_forward(&at, 1, rows)


cdef void rnn_variant_backward(const backward_rows *rows) noexcept nogil:
    cdef const cell_options *options = rows.options
    cdef Py_ssize_t done, units
    cdef real *gates
    cdef vreal dh
    cdef walk at = start_backward(rows)
    for done in range(blocks_of(rows.units) * rows.count):
        units = units_of(&at)
        gates = rows.gates[at.row] + at.gates_offset
        dh = v_load_units(rows.dh[at.row] + at.unit, units) + v_load_units(rows.dy[at.row] + at.unit, units)
        store_first(gates, clipped_slope(&options.candidate, options.clip_gates, v_load(gates), dh), units)
        go_backward(&at, 1, rows)


cdef void projection_forward(const forward_rows *rows) noexcept nogil:
    """h = projection of ``second``, clipped afterwards (Sak, Senior & Beaufays 2014; Jordan 1986)."""
    cdef const cell_options *options = rows.options
    cdef Py_ssize_t done
    cdef vreal h
    cdef walk at = start_forward(rows)
    for done in range(blocks_of(rows.units) * rows.count):
        h = value_of(&options.projection, v_load(rows.second[at.row] + at.unit))
        h = clipped(options.clip_projection, h)
        store_h_at(rows, &at, h)
        go_forward(&at, 1, rows)


cdef void projection_backward(const backward_rows *rows) noexcept nogil:
    cdef const cell_options *options = rows.options
    cdef Py_ssize_t done, units
    cdef real *sums
    cdef vreal z, dh
    cdef walk at = start_backward(rows)
    for done in range(blocks_of(rows.units) * rows.count):
        units = units_of(&at)
        sums = rows.second[at.row] + at.unit
        z = v_load(sums)
        dh = v_load_units(rows.dh[at.row] + at.unit, units) + v_load_units(rows.dy[at.row] + at.unit, units)
        dh = if_inside(options.clip_projection, value_of(&options.projection, z), dh * slope_of(&options.projection, z))
        store_first(sums, dh, units)
        go_backward(&at, 1, rows)


# ---------------------------------------------------------------------------------------------------- noise

cdef void blend(
    Py_ssize_t count,
    const real *keep,     # (count,)  IN   0 to 1
    const real *old,      # (count,)  IN
    const real *fresh,    # (count,)  IN   may be out
    real *out,            # (count,)  OUT
    real *copy,           # (count,)  OUT  the same; may be out
) noexcept nogil:
    """Zoneout (Krueger et al. 2016): keep old + (1 - keep) fresh: of finite numbers exactly one of them where keep
    is 1 or 0."""
    cdef Py_ssize_t block, j, some
    cdef vreal k, x
    for block in range(blocks_of(count)):
        j = block * LANES
        some = min(count - j, <Py_ssize_t>LANES)
        k = v_load_units(keep + j, some)
        x = (v_set1(<real>1) - k) * v_load_units(fresh + j, some)
        x = v_fma(k, v_load_units(old + j, some), x)
        v_store_units(out + j, x, some)
        v_store_units(copy + j, x, some)


cdef void unblend(
    Py_ssize_t count,
    const real *keep,     # (count,)  IN
    const real *dy,       # (count,)  IN     another gradient of the same
    real *d,              # (count,)  INOUT  with respect to blend's out -> to fresh
    real *carry,          # (count,)  OUT    what old gets
) noexcept nogil:
    cdef Py_ssize_t block, j, some
    cdef vreal k, x
    for block in range(blocks_of(count)):
        j = block * LANES
        some = min(count - j, <Py_ssize_t>LANES)
        k = v_load_units(keep + j, some)
        x = v_load_units(d + j, some) + v_load_units(dy + j, some)
        v_store_units(carry + j, k * x, some)
        v_store_units(d + j, (v_set1(<real>1) - k) * x, some)


cdef void scale(Py_ssize_t count, const real *factors, const real *x, real *out) noexcept nogil:
    """out = factors x, each (count,); out may be x."""
    cdef Py_ssize_t block, j, some
    for block in range(blocks_of(count)):
        j = block * LANES
        some = min(count - j, <Py_ssize_t>LANES)
        v_store_units(out + j, v_load_units(factors + j, some) * v_load_units(x + j, some), some)


cdef void add(Py_ssize_t count, const real *x, real *to) noexcept nogil:
    """to += x, each (count,)."""
    cdef Py_ssize_t block, j, some
    for block in range(blocks_of(count)):
        j = block * LANES
        some = min(count - j, <Py_ssize_t>LANES)
        v_store_units(to + j, v_load_units(to + j, some) + v_load_units(x + j, some), some)
