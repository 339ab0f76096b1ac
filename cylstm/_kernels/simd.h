/* The vector type of one instruction-set level, and the few operations on it that C's operators do not give.
 *
 * Compiled once per level and dtype: setup.py defines one CYLSTM_LEVEL_* and, for float64, CYLSTM_FLOAT64.
 * Knows nothing of layers, cells or tiles. What is here must give the same bits at every level that has a
 * fused multiply-add: each operation is exact, or rounds once.
 */
#ifndef CYLSTM_SIMD_H
#define CYLSTM_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef CYLSTM_FLOAT64
typedef double real;
typedef uint64_t bits_of_real;
#  define real_sqrt sqrt
#else
typedef float real;
typedef uint32_t bits_of_real;
#  define real_sqrt sqrtf
#endif

/* Pointers to what no other pointer of a function reaches: loops over several arrays become vector code. GCC, Clang
 * and MSVC know this spelling. */
typedef real *__restrict sole_output;
typedef const real *__restrict sole_input;

/* TILE_ROWS: rows of the largest tile. Four accumulators per row, four weights and one x fit the 32 registers of
 * AVX-512 and NEON with six rows; four per row, one weight and each row's x the 16 of AVX2 with three. The baseline
 * has no fused multiply-add, and needs registers for its products.
 * STRETCH_BYTES: of weights, used by all rows before the next. What they need of them each cycle comes from L2 in time
 * with 6 x 4 vectors of 64 bytes, not with 3 x 4 of 32 (0.83 of the speed): there it stays in L1, of whatever size (0;
 * with 48 KiB of L1, stretches of 32 KiB are 1.02 times as fast as of 16). With those of 64, the fewer stretches, the
 * less often sums are stored and loaded: 128 KiB instead of 64, 1.00 to 1.03 times the speed. */
#if defined(CYLSTM_LEVEL_AVX512)
#  include <immintrin.h>
#  define VECTOR_BYTES 64
#  define TILE_ROWS 6
#elif defined(CYLSTM_LEVEL_AVX2)
#  include <immintrin.h>
#  define VECTOR_BYTES 32
#  define TILE_ROWS 3
#elif defined(CYLSTM_LEVEL_NEON)
#  include <arm_neon.h>
#  define VECTOR_BYTES 16
#  define TILE_ROWS 6
#elif defined(CYLSTM_LEVEL_BASELINE) && defined(__GNUC__) && !defined(CYLSTM_NO_VECTOR_EXTENSIONS)
#  define VECTOR_BYTES 16
#  define TILE_ROWS 2
#elif defined(CYLSTM_LEVEL_BASELINE) /* a compiler without vector extensions: one lane, plain C */
#  define TILE_ROWS 2
#else
#  error "setup.py defines one of CYLSTM_LEVEL_BASELINE, _AVX2, _AVX512, _NEON"
#endif
#if VECTOR_BYTES == 32
#  define STRETCH_BYTES 0
#elif VECTOR_BYTES == 64
#  define STRETCH_BYTES 131072
#else
#  define STRETCH_BYTES 65536
#endif

/* Elements: how long before their use weights that lie afar are fetched for one row or two; 1, 4 and 8 KiB made no
 * difference beyond 3 % with weights of 15 and 25 MB. */
#define AHEAD ((int)(2048 / sizeof(real)))

/* Of the operations below, v_if_less(a, b, yes, no) is a < b ? yes : no, and v_at_least, v_at_most keep x from being
 * under or over a bound and pass a NaN in x on. */

/* 1.5 * 2^(mantissa bits): adding it rounds to an integer and leaves that integer in the lowest bits. */
#ifdef CYLSTM_FLOAT64
#  define MANTISSA_BITS 52
#  define EXPONENT_BIAS 1023
#  define ROUNDING_SHIFT 6755399441055744.0
#  define EXPONENT_OFFSET 512
#  define TWO_TO_MINUS_OFFSET 0x1p-512
#else
#  define MANTISSA_BITS 23
#  define EXPONENT_BIAS 127
#  define ROUNDING_SHIFT 12582912.0f
#  define EXPONENT_OFFSET 64
#  define TWO_TO_MINUS_OFFSET 0x1p-64f
#endif

#ifdef VECTOR_BYTES

#define LANES ((int)(VECTOR_BYTES / sizeof(real)))
#define VECTORS_OF_LINE (64 / VECTOR_BYTES)
#define INLINE static inline __attribute__((always_inline))

/* Aligned as one element: users' rows begin anywhere. An aligned address costs the same instruction. */
typedef real vreal __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
typedef bits_of_real vbits __attribute__((vector_size(VECTOR_BYTES)));

/* x - 0 is x for every x, and compiles to one broadcast. */
INLINE vreal v_set1(real x) { return x - (vreal){0}; }

#define SIGN_BITS ((bits_of_real)1 << (8 * sizeof(real) - 1))

INLINE vreal v_abs(vreal x) { return (vreal)((vbits)x & ~(SIGN_BITS - (vbits){0})); }

INLINE vreal v_minus_abs(vreal x) { return (vreal)((vbits)x | (SIGN_BITS - (vbits){0})); }

INLINE vreal v_copysign(vreal magnitude, vreal sign)
{
    return (vreal)((vbits)magnitude | ((vbits)sign & (SIGN_BITS - (vbits){0})));
}


#if !defined(CYLSTM_LEVEL_AVX512)
/* x * 2^n, rounded once, where shifted is n + ROUNDING_SHIFT: as x * 2^(n + offset) * 2^-offset, because 2^n itself
 * may be too small for a normal number. */
INLINE vreal v_scale(vreal x, vreal n, vreal shifted)
{
    vreal power = (vreal)(((vbits)shifted << MANTISSA_BITS)
                          + ((bits_of_real)(EXPONENT_BIAS + EXPONENT_OFFSET) << MANTISSA_BITS));
    (void)n;
    return x * power * v_set1(TWO_TO_MINUS_OFFSET);
}
#endif

/* The first ``count`` lanes, and zeros; count <= LANES. */
#if defined(CYLSTM_LEVEL_AVX512) && defined(CYLSTM_FLOAT64)
#  define FIRST_LANES(count) ((__mmask8)((1u << (count)) - 1))
INLINE vreal v_load_some(const real *from, Py_ssize_t count) { return (vreal)_mm512_maskz_loadu_pd(FIRST_LANES(count), from); }
INLINE void v_store_some(real *to, vreal x, Py_ssize_t count) { _mm512_mask_storeu_pd(to, FIRST_LANES(count), (__m512d)x); }
#elif defined(CYLSTM_LEVEL_AVX512)
#  define FIRST_LANES(count) ((__mmask16)((1u << (count)) - 1))
INLINE vreal v_load_some(const real *from, Py_ssize_t count) { return (vreal)_mm512_maskz_loadu_ps(FIRST_LANES(count), from); }
INLINE void v_store_some(real *to, vreal x, Py_ssize_t count) { _mm512_mask_storeu_ps(to, FIRST_LANES(count), (__m512)x); }
#elif defined(CYLSTM_LEVEL_AVX2) && defined(CYLSTM_FLOAT64)
#  define FIRST_LANES(count) _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3))
INLINE vreal v_load_some(const real *from, Py_ssize_t count) { return (vreal)_mm256_maskload_pd(from, FIRST_LANES(count)); }
INLINE void v_store_some(real *to, vreal x, Py_ssize_t count) { _mm256_maskstore_pd(to, FIRST_LANES(count), (__m256d)x); }
#elif defined(CYLSTM_LEVEL_AVX2)
#  define FIRST_LANES(count) _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
INLINE vreal v_load_some(const real *from, Py_ssize_t count) { return (vreal)_mm256_maskload_ps(from, FIRST_LANES(count)); }
INLINE void v_store_some(real *to, vreal x, Py_ssize_t count) { _mm256_maskstore_ps(to, FIRST_LANES(count), (__m256)x); }
#else
INLINE vreal v_load_some(const real *from, Py_ssize_t count)
{
    vreal x = {0};
    memcpy(&x, from, (size_t)count * sizeof(real));
    return x;
}

INLINE void v_store_some(real *to, vreal x, Py_ssize_t count)
{
    memcpy(to, &x, (size_t)count * sizeof(real));
}
#endif

INLINE vreal v_load(const real *from) { return *(const vreal *)from; }
INLINE void v_prefetch_near(const void *line) { __builtin_prefetch(line, 0, 3); } /* to L1, */
INLINE void v_prefetch(const void *line) { __builtin_prefetch(line, 0, 2); }      /* to L2; any address will do */
INLINE void v_store(real *to, vreal x) { *(vreal *)to = x; }

#if defined(CYLSTM_LEVEL_AVX512) && defined(CYLSTM_FLOAT64)
INLINE vreal v_fma(vreal a, vreal b, vreal c) { return (vreal)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
INLINE vreal v_if_less(vreal a, vreal b, vreal yes, vreal no)
{
    return (vreal)_mm512_mask_blend_pd(
        _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OQ), (__m512d)no, (__m512d)yes);
}
INLINE vreal v_scale(vreal x, vreal n, vreal shifted) { (void)shifted; return (vreal)_mm512_scalef_pd((__m512d)x, (__m512d)n); }
INLINE vreal v_at_least(vreal low, vreal x) { return (vreal)_mm512_max_pd((__m512d)low, (__m512d)x); }
INLINE vreal v_at_most(vreal high, vreal x) { return (vreal)_mm512_min_pd((__m512d)high, (__m512d)x); }
#elif defined(CYLSTM_LEVEL_AVX512)
INLINE vreal v_fma(vreal a, vreal b, vreal c) { return (vreal)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vreal v_if_less(vreal a, vreal b, vreal yes, vreal no)
{
    return (vreal)_mm512_mask_blend_ps(
        _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ), (__m512)no, (__m512)yes);
}
INLINE vreal v_scale(vreal x, vreal n, vreal shifted) { (void)shifted; return (vreal)_mm512_scalef_ps((__m512)x, (__m512)n); }
INLINE vreal v_at_least(vreal low, vreal x) { return (vreal)_mm512_max_ps((__m512)low, (__m512)x); }
INLINE vreal v_at_most(vreal high, vreal x) { return (vreal)_mm512_min_ps((__m512)high, (__m512)x); }
#elif defined(CYLSTM_LEVEL_AVX2) && defined(CYLSTM_FLOAT64)
INLINE vreal v_fma(vreal a, vreal b, vreal c) { return (vreal)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
INLINE vreal v_if_less(vreal a, vreal b, vreal yes, vreal no)
{
    return (vreal)_mm256_blendv_pd((__m256d)no, (__m256d)yes,
                                   _mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_LT_OQ));
}
INLINE vreal v_at_least(vreal low, vreal x) { return (vreal)_mm256_max_pd((__m256d)low, (__m256d)x); }
INLINE vreal v_at_most(vreal high, vreal x) { return (vreal)_mm256_min_pd((__m256d)high, (__m256d)x); }
#elif defined(CYLSTM_LEVEL_AVX2)
INLINE vreal v_fma(vreal a, vreal b, vreal c) { return (vreal)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vreal v_if_less(vreal a, vreal b, vreal yes, vreal no)
{
    return (vreal)_mm256_blendv_ps((__m256)no, (__m256)yes,
                                   _mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LT_OQ));
}
INLINE vreal v_at_least(vreal low, vreal x) { return (vreal)_mm256_max_ps((__m256)low, (__m256)x); }
INLINE vreal v_at_most(vreal high, vreal x) { return (vreal)_mm256_min_ps((__m256)high, (__m256)x); }
#else
#  if defined(CYLSTM_LEVEL_NEON) && defined(CYLSTM_FLOAT64)
INLINE vreal v_fma(vreal a, vreal b, vreal c) { return (vreal)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
#  elif defined(CYLSTM_LEVEL_NEON)
INLINE vreal v_fma(vreal a, vreal b, vreal c) { return (vreal)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#  else /* the baseline has no fused multiply-add: two roundings, outside the promise of the same bits */
INLINE vreal v_fma(vreal a, vreal b, vreal c) { return a * b + c; }
#  endif
INLINE vreal v_if_less(vreal a, vreal b, vreal yes, vreal no)
{
    vbits mask = (vbits)(a < b);
    return (vreal)((mask & (vbits)yes) | (~mask & (vbits)no));
}
INLINE vreal v_at_least(vreal low, vreal x) { return v_if_less(x, low, low, x); }
INLINE vreal v_at_most(vreal high, vreal x) { return v_if_less(high, x, high, x); }
#endif

/* sum + a * b, rounded once, for accumulators that stay in registers through a long loop: the bits of v_fma, by
 * an instruction that can not be anything else: GCC 12 otherwise writes the sum over a or b and then moves registers
 * about, 6 to 12 moves among the 24 multiply-adds of a 6 x 4 tile. */
#if defined(CYLSTM_LEVEL_AVX512) || defined(CYLSTM_LEVEL_AVX2)
#  ifdef CYLSTM_FLOAT64
#    define FMA231 "vfmadd231pd"
#  else
#    define FMA231 "vfmadd231ps"
#  endif
INLINE vreal v_accumulate(vreal sum, vreal a, vreal b)
{
    __asm__(FMA231 " %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b)); /* v: any vector register of the level */
    return sum;
}

/* Likewise, b in memory: no register for it, so more of what follows is begun before this ends. */
INLINE vreal v_accumulate_from(vreal sum, vreal a, const real *b)
{
    __asm__(FMA231 " %2, %1, %0" : "+v"(sum) : "v"(a), "m"(*(const vreal *)b));
    return sum;
}
#else
INLINE vreal v_accumulate(vreal sum, vreal a, vreal b) { return v_fma(a, b, sum); }
INLINE vreal v_accumulate_from(vreal sum, vreal a, const real *b) { return v_fma(a, *(const vreal *)b, sum); }
#endif

/* The square whose row j is v[j], turned over its diagonal. Of each pair of rows ``s`` apart, for s = 1, 2, 4, ..., the
 * blocks of s lanes that lie across change places. */
#define LOWER(lane, s) ((lane) & (s) ? LANES + (lane) - (s) : (lane))
#define UPPER(lane, s) ((lane) & (s) ? LANES + (lane) : (lane) + (s))
#define TWO_LANES(f, s) f(0, s), f(1, s)
#define FOUR_LANES(f, s) TWO_LANES(f, s), f(2, s), f(3, s)
#define EIGHT_LANES(f, s) FOUR_LANES(f, s), f(4, s), f(5, s), f(6, s), f(7, s)
#define SIXTEEN_LANES(f, s) EIGHT_LANES(f, s), f(8, s), f(9, s), f(10, s), f(11, s), f(12, s), f(13, s), f(14, s), f(15, s)
#ifdef CYLSTM_FLOAT64
#  define LANES_OF(f, s) LANES_OF_DOUBLE(f, s)
#else
#  define LANES_OF(f, s) LANES_OF_FLOAT(f, s)
#endif
#if VECTOR_BYTES == 64
#  define LANES_OF_FLOAT SIXTEEN_LANES
#  define LANES_OF_DOUBLE EIGHT_LANES
#elif VECTOR_BYTES == 32
#  define LANES_OF_FLOAT EIGHT_LANES
#  define LANES_OF_DOUBLE FOUR_LANES
#else
#  define LANES_OF_FLOAT FOUR_LANES
#  define LANES_OF_DOUBLE TWO_LANES
#endif
#ifdef __clang__
#  define SHUFFLED(a, b, lane_of, s) __builtin_shufflevector(a, b, LANES_OF(lane_of, s))
#else
#  define SHUFFLED(a, b, lane_of, s) __builtin_shuffle(a, b, (vbits){LANES_OF(lane_of, s)})
#endif
#define EXCHANGE(s) \
    _Pragma("GCC unroll 16") \
    for (j = 0; j < LANES; j++) { \
        if ((j & (s)) == 0) { \
            vreal lower = SHUFFLED(v[j], v[j + (s)], LOWER, s); \
            v[j + (s)] = SHUFFLED(v[j], v[j + (s)], UPPER, s); \
            v[j] = lower; \
        } \
    }
INLINE void v_transpose(vreal *v)
{
    int j;
    EXCHANGE(1)
#if VECTOR_BYTES >= 32 || !defined(CYLSTM_FLOAT64)
    EXCHANGE(2)
#endif
#if VECTOR_BYTES == 64 || (VECTOR_BYTES == 32 && !defined(CYLSTM_FLOAT64))
    EXCHANGE(4)
#endif
#if VECTOR_BYTES == 64 && !defined(CYLSTM_FLOAT64)
    EXCHANGE(8)
#endif
}

#else /* one lane */

#define LANES 1
#define VECTORS_OF_LINE (int)(64 / sizeof(real))
#define INLINE static __inline

typedef real vreal;

INLINE vreal v_set1(real x) { return x; }
INLINE bits_of_real bits_from(real x) { bits_of_real b; memcpy(&b, &x, sizeof b); return b; }
INLINE real real_from(bits_of_real b) { real x; memcpy(&x, &b, sizeof x); return x; }
#define SIGN_BITS ((bits_of_real)1 << (8 * sizeof(real) - 1))
INLINE vreal v_abs(vreal x) { return real_from(bits_from(x) & ~SIGN_BITS); }
INLINE vreal v_minus_abs(vreal x) { return real_from(bits_from(x) | SIGN_BITS); }
INLINE vreal v_copysign(vreal magnitude, vreal sign) { return real_from(bits_from(magnitude) | (bits_from(sign) & SIGN_BITS)); }
INLINE vreal v_scale(vreal x, vreal n, vreal shifted)
{
    real power = real_from((bits_from(shifted) << MANTISSA_BITS)
                           + ((bits_of_real)(EXPONENT_BIAS + EXPONENT_OFFSET) << MANTISSA_BITS));
    (void)n;
    return x * power * TWO_TO_MINUS_OFFSET;
}
INLINE vreal v_at_least(vreal low, vreal x) { return x < low ? low : x; }
INLINE vreal v_at_most(vreal high, vreal x) { return high < x ? high : x; }
INLINE vreal v_load_some(const real *from, Py_ssize_t count) { return count ? *from : (real)0; }
INLINE void v_store_some(real *to, vreal x, Py_ssize_t count) { if (count) *to = x; }
INLINE vreal v_load(const real *from) { return *from; }
INLINE void v_prefetch_near(const void *line) { (void)line; }
INLINE void v_prefetch(const void *line) { (void)line; }
INLINE void v_store(real *to, vreal x) { *to = x; }
INLINE vreal v_fma(vreal a, vreal b, vreal c) { return a * b + c; }
INLINE vreal v_accumulate(vreal sum, vreal a, vreal b) { return v_fma(a, b, sum); }
INLINE vreal v_accumulate_from(vreal sum, vreal a, const real *b) { return v_fma(a, *b, sum); }
INLINE vreal v_if_less(vreal a, vreal b, vreal yes, vreal no) { return a < b ? yes : no; }
INLINE void v_transpose(vreal *v) { (void)v; }

#endif /* VECTOR_BYTES */

/* ``vectors`` vectors of each of ``count`` rows, both constants. Without the pragma GCC 12 keeps all of a tile's
 * accumulators on the stack for these loops' sake, and puts them there and takes them back before and after each loop. */
#ifdef __GNUC__
#  define UNROLLED _Pragma("GCC unroll 32")
#else
#  define UNROLLED
#endif
INLINE void v_load_rows(vreal *to, const real *const *rows, Py_ssize_t offset, int count, int vectors)
{
    int j;
    UNROLLED
    for (j = 0; j < count * vectors; j++) {
        to[j] = v_load(rows[j / vectors] + offset + j % vectors * LANES);
    }
}

INLINE void v_store_rows(real *const *rows, Py_ssize_t offset, const vreal *from, int count, int vectors)
{
    int j;
    UNROLLED
    for (j = 0; j < count * vectors; j++) {
        v_store(rows[j / vectors] + offset + j % vectors * LANES, from[j]);
    }
}

INLINE void v_add_rows(real *const *rows, Py_ssize_t offset, const vreal *from, int count, int vectors)
{
    int j;
    UNROLLED
    for (j = 0; j < count * vectors; j++) {
        real *to = rows[j / vectors] + offset + j % vectors * LANES;
        v_store(to, v_load(to) + from[j]);
    }
}

/* Constants of the activations, low order first; made and checked by tools/fit_activations.py.
 * LN2_HIGH has so few bits that n * LN2_HIGH is exact for every n that occurs (Cody & Waite 1980). */
#ifdef CYLSTM_FLOAT64
#define LOG2_E 1.4426950408889634
#define LN2_HIGH 6.93147180369123816490e-01
#define LN2_LOW 1.90821492927058770002e-10
#define EXP_LOWEST -746.0           /* below ln(2^-1075): rounds to 0 */
#define TANH_SMALL 0.625
#define TANH_SATURATED 40.0         /* of 2|x|: 2 / (1 + e^40) is under half an ulp of 1 */
#define EXP_TERMS 10
#define TANH_P_TERMS 3
#define TANH_Q_TERMS 4
static const real EXP_C[EXP_TERMS] = {
    0.50000000000000122, 0.16666666666666385, 0.04166666666651897, 0.0083333333335075116, 0.0013888888946963893,
    0.00019841269486631994, 2.4801489310994499e-05, 2.7557596683075921e-06, 2.7631700796179937e-07,
    2.4999169323053944e-08};
static const real TANH_P[TANH_P_TERMS] = {-0.33333333333333326, -0.020496785316855996, -0.00019908887480679316};
static const real TANH_Q[TANH_Q_TERMS] = {1, 0.46149035595055288, 0.023288647100138647, 0.00020643824493581971};
#else
#define LOG2_E 1.44269502f
#define LN2_HIGH 0.693145751953125f
#define LN2_LOW 1.428606765330187e-06f
#define EXP_LOWEST -104.0f          /* below ln(2^-150): rounds to 0 */
#define TANH_SMALL 0.75f          /* either branch is within 1.1 ulp there */
#define TANH_SATURATED 20.0f        /* of 2|x|: 2 / (1 + e^20) is under half an ulp of 1 */
#define EXP_TERMS 5
#define TANH_P_TERMS 2
#define TANH_Q_TERMS 3
static const real EXP_C[EXP_TERMS] = {0.49999994f, 0.166665152f, 0.041668456f, 0.00836942345f, 0.00138130994f};
static const real TANH_P[TANH_P_TERMS] = {-0.333333343f, -0.0147422133f};
static const real TANH_Q[TANH_Q_TERMS] = {1.0f, 0.444226593f, 0.0157860834f};
#endif

#endif /* CYLSTM_SIMD_H */
