/* sigmoid, tanh and exp of 16 floats at once, for the level that can look up tables in registers. Tables save most of
   the work: sigmoid takes 0.75 times as long, and tanh 0.6 times. The compiler does not find this by itself. Where an
   operand is NaN, min and max return the second operand; so x is always the second one, and NaN passes on. */
#ifndef RNN_VECTORS_H
#define RNN_VECTORS_H

#if defined(__AVX512F__)
#include <immintrin.h>
#include <stddef.h>
#include "_tables.h"

enum { RNN_LOOKS_UP = 1 };

/* 1 / d by a step of Newton's method, which does not need the divider; 0 for an infinite d. */
static inline __m512 rnn_inverse_16(__m512 d) {
    const __m512 one = _mm512_set1_ps(1);
    __m512 guess = _mm512_rcp14_ps(d), error = _mm512_fnmadd_ps(d, guess, one);
    return _mm512_fmadd_ps(guess, _mm512_min_ps(error, one), guess);
}

/* Split e**(sign x) = 2**(n + r), where n is a multiple of 1/16 and |r| <= 1/32. Sets n and power = 2**r, and returns
   16 n in the lowest bits. */
static inline __m512i rnn_split_16(__m512 x, float sign, __m512* n, __m512* power) {
    const __m512 rounding = _mm512_set1_ps(0x1.8p19f);             /* to multiples of 1/16 */
    const __m512 factor = _mm512_set1_ps(sign * 0x1.715476p+0f), factor_rest = _mm512_set1_ps(sign * 0x1.4ae0cp-26f);
    __m512 shifted = _mm512_fmadd_ps(x, factor, rounding), r;
    *n = _mm512_sub_ps(shifted, rounding);
    r = _mm512_fmadd_ps(x, factor_rest, _mm512_fmsub_ps(x, factor, *n));
    *power = _mm512_fmadd_ps(_mm512_set1_ps(rnn_power[3]), r, _mm512_set1_ps(rnn_power[2]));
    *power = _mm512_fmadd_ps(*power, r, _mm512_set1_ps(rnn_power[1]));
    *power = _mm512_fmadd_ps(*power, r, _mm512_set1_ps(rnn_power[0]));
    return _mm512_castps_si512(shifted);
}

/* The bits of 2**(j/16), less j << 19, where j is the lowest four bits of 16 n. */
static inline __m512i rnn_power_of_16(__m512i bits) {
    return _mm512_permutexvar_epi32(bits, _mm512_loadu_si512(rnn_power_table));
}

/* 1 / (1 + e**-x) */
static inline __m512 rnn_sigmoid_16(__m512 x) {
    const __m512 one = _mm512_set1_ps(1);
    __m512 n, power;
    __m512i bits;
    x = _mm512_max_ps(_mm512_set1_ps(-0x1.62e43p+6f), x);        /* e**-x is infinite for less */
    x = _mm512_min_ps(_mm512_set1_ps(87), x);
    bits = rnn_split_16(x, -1, &n, &power);
    bits = _mm512_add_epi32(rnn_power_of_16(bits), _mm512_slli_epi32(bits, 19));
    return rnn_inverse_16(_mm512_fmadd_ps(_mm512_castsi512_ps(bits), power, one));
}

/* e**x, for x <= 0 */
static inline __m512 rnn_exponential_16(__m512 x) {
    __m512 n, power;
    __m512i bits = rnn_split_16(_mm512_max_ps(_mm512_set1_ps(-128), x), 1, &n, &power);
    bits = _mm512_add_epi32(rnn_power_of_16(bits), _mm512_slli_epi32(_mm512_and_si512(bits, _mm512_set1_epi32(15)), 19));
    return _mm512_scalef_ps(_mm512_mul_ps(_mm512_castsi512_ps(bits), power), n);
}

static inline __m512 rnn_look_up(const float* table, __m512i i) {
    return _mm512_permutex2var_ps(_mm512_loadu_ps(table), i, _mm512_loadu_ps(table + 16));
}

/* A polynomial for each interval of |x|. The highest bits of |x| + the shift number the interval, so that intervals
   are longer for larger |x|. */
static inline __m512 rnn_tanh_16(__m512 x) {
    const __m512i sign = _mm512_set1_epi32(1u << 31);
    __m512 size = _mm512_castsi512_ps(_mm512_andnot_si512(sign, _mm512_castps_si512(x))), r, y;
    __m512i i;
    int k;
    size = _mm512_min_ps(_mm512_set1_ps(rnn_tanh_one), size);
    i = _mm512_srli_epi32(_mm512_castps_si512(_mm512_add_ps(size, _mm512_set1_ps(rnn_tanh_shift))), 20);
    r = _mm512_sub_ps(size, rnn_look_up(rnn_tanh_table[0], i));
    y = rnn_look_up(rnn_tanh_table[5], i);
    for (k = 4; k > 0; k--)
        y = _mm512_fmadd_ps(y, r, rnn_look_up(rnn_tanh_table[k], i));
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(         /* y | (x & sign) */
        _mm512_castps_si512(y), _mm512_castps_si512(x), sign, 0xf8));
}

/* size is a multiple of 16; y may be x. */
static inline void rnn_sigmoids(ptrdiff_t size, const float* x, float* y) {
    for (ptrdiff_t j = 0; j < size; j += 16)
        _mm512_storeu_ps(y + j, rnn_sigmoid_16(_mm512_loadu_ps(x + j)));
}

static inline void rnn_tanhs(ptrdiff_t size, const float* x, float* y) {
    for (ptrdiff_t j = 0; j < size; j += 16)
        _mm512_storeu_ps(y + j, rnn_tanh_16(_mm512_loadu_ps(x + j)));
}

/* y = e**(x - top), for any size. */
static inline void rnn_exponentials(ptrdiff_t size, const float* x, float top, float* y) {
    ptrdiff_t j, whole = size / 16 * 16;
    __mmask16 rest = (1u << (size - whole)) - 1;
    __m512 most = _mm512_set1_ps(top);
    for (j = 0; j < whole; j += 16)
        _mm512_storeu_ps(y + j, rnn_exponential_16(_mm512_sub_ps(_mm512_loadu_ps(x + j), most)));
    if (rest)
        _mm512_mask_storeu_ps(y + j, rest, rnn_exponential_16(_mm512_sub_ps(_mm512_maskz_loadu_ps(rest, x + j), most)));
}

#else
enum { RNN_LOOKS_UP = 0 };
#define rnn_sigmoids(size, x, y) ((void)0)
#define rnn_tanhs(size, x, y) ((void)0)
#define rnn_exponentials(size, x, top, y) ((void)0)
#endif

#endif
