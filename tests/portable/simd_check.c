/* Every operation of simd.h by a strict C99 compiler, without vector extensions, checked on a few values: what a
 * compiler like MSVC sees. tests/test_build.py compiles and runs it with -std=c99 -pedantic-errors. */
#include <stddef.h>
#include <stdio.h>

typedef ptrdiff_t Py_ssize_t;

#include "simd.h"
#include "table.h"

static int failures = 0;

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("false: %s\n", #condition);                                                                         \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

int main(void)
{
    const real infinity = (real)1e300 * (real)1e300;
    const real nan = infinity - infinity;
    const real three = (real)3 + (real)ROUNDING_SHIFT;
    const real values[2] = {(real)1.5, (real)-2};
    real out[2] = {0, 0};
    vreal sums[2];

    EXPECT(LANES == 1);
    EXPECT(TILE_ROWS >= 1);
    EXPECT(sizeof(real) == sizeof(bits_of_real));

    EXPECT(v_set1((real)2) == 2);
    EXPECT(v_abs((real)-2) == 2);
    EXPECT(1 / v_abs((real)-0.0) == infinity);
    EXPECT(v_minus_abs((real)2) == -2 && v_minus_abs((real)-2) == -2);
    EXPECT(v_copysign((real)2, (real)-0.0) == -2);
    EXPECT(v_scale((real)5, (real)3, three) == 40);
    EXPECT(v_at_least((real)1, (real)0) == 1 && v_at_least((real)1, (real)2) == 2);
    EXPECT(v_at_most((real)1, (real)0) == 0 && v_at_most((real)1, (real)2) == 1);
    EXPECT(v_at_least((real)1, nan) != v_at_least((real)1, nan));
    EXPECT(v_at_most((real)1, nan) != v_at_most((real)1, nan));
    EXPECT(v_if_less((real)1, (real)2, (real)3, (real)4) == 3);
    EXPECT(v_if_less((real)2, (real)2, (real)3, (real)4) == 4);
    EXPECT(v_fma((real)2, (real)3, (real)4) == 10);
    EXPECT(v_accumulate((real)4, (real)2, (real)3) == 10);

    EXPECT(v_load(values) == (real)1.5);
    EXPECT(v_load_some(values, 1) == (real)1.5 && v_load_some(values, 0) == 0);
    v_prefetch(values);
    v_prefetch_near(values);
    v_store(out, v_load(values + 1));
    EXPECT(out[0] == -2);
    v_store_some(out, (real)7, 0);
    EXPECT(out[0] == -2);
    v_store_some(out, (real)7, 1);
    EXPECT(out[0] == 7 && out[1] == 0);
    {
        const real *from[2];
        real *to[2];
        from[0] = values;
        from[1] = values + 1;
        to[0] = out;
        to[1] = out + 1;
        v_load_rows(sums, from, 0, 2, 1);
        EXPECT(sums[0] == (real)1.5 && sums[1] == -2);
        v_store_rows(to, 0, sums, 2, 1);
        EXPECT(out[0] == (real)1.5 && out[1] == -2);
        v_store_rows(to, 0, sums + 1, 1, 1);
        EXPECT(out[0] == -2);
    }

    EXPECT(EXP_C[0] > 0 && TANH_P[0] < 0 && TANH_Q[0] == 1);
    EXPECT(EXP_TERMS > 0 && TANH_P_TERMS > 0 && TANH_Q_TERMS > 0);
    EXPECT(LOG2_E > 1 && LN2_HIGH > LN2_LOW && EXP_LOWEST < 0 && TANH_SMALL < TANH_SATURATED);
    return failures;
}
