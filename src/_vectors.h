/* sigmoid and tanh of 16 floats at once, for the level whose registers an instruction can look up in: with tables
   most of the work falls away, and sigmoid takes 0.75, tanh 0.6 times as long. The compiler does not find this by
   itself. Of min and max, the second operand is the result where one is NaN. */
#ifndef RNN_VECTORS_H
#define RNN_VECTORS_H

#if defined(__AVX512F__)
#include <immintrin.h>
#include <stddef.h>
#include "_tables.h"

enum { RNN_LOOKS_UP = 1 };

/* 1 / d by a step of Newton's method, which keeps clear of the divider. Of an infinite d it is 0. */
static inline __m512 rnn_inverse_16(__m512 d) {
    const __m512 one = _mm512_set1_ps(1);
    __m512 guess = _mm512_rcp14_ps(d), error = _mm512_fnmadd_ps(d, guess, one);
    return _mm512_fmadd_ps(guess, _mm512_min_ps(error, one), guess);
}

/* 1 / (1 + 2**t) for t = -x / ln 2 = n + r, where n is a multiple of 1/16 and |r| <= 1/32. */
static inline __m512 rnn_sigmoid_16(__m512 x) {
    const __m512 one = _mm512_set1_ps(1), rounding = _mm512_set1_ps(0x1.8p19f);     /* to multiples of 1/16 */
    const __m512 factor = _mm512_set1_ps(-0x1.715476p+0f), factor_rest = _mm512_set1_ps(-0x1.4ae0cp-26f);
    __m512 shifted, n, r, power, scale;
    __m512i bits;
    x = _mm512_max_ps(_mm512_set1_ps(-0x1.62e43p+6f), x);        /* from here on 2**t is infinite */
    x = _mm512_min_ps(_mm512_set1_ps(87), x);
    shifted = _mm512_fmadd_ps(x, factor, rounding);
    n = _mm512_sub_ps(shifted, rounding);
    r = _mm512_fmadd_ps(x, factor_rest, _mm512_fmsub_ps(x, factor, n));
    power = _mm512_fmadd_ps(_mm512_set1_ps(rnn_power[3]), r, _mm512_set1_ps(rnn_power[2]));
    power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(rnn_power[1]));
    power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(rnn_power[0]));
    bits = _mm512_castps_si512(shifted);                         /* of 16 n, in the lowest ones */
    scale = _mm512_castsi512_ps(_mm512_add_epi32(
        _mm512_permutexvar_epi32(bits, _mm512_loadu_si512(rnn_power_table)), _mm512_slli_epi32(bits, 19)));
    return rnn_inverse_16(_mm512_fmadd_ps(scale, power, one));
}

static inline __m512 rnn_look_up(const float* table, __m512i i) {
    return _mm512_permutex2var_ps(_mm512_loadu_ps(table), i, _mm512_loadu_ps(table + 16));
}

/* A polynomial for each interval of |x|. The bits of |x| + the shift tell the interval, longer ones for larger x. */
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

#else
enum { RNN_LOOKS_UP = 0 };
#define rnn_sigmoids(size, x, y) ((void)0)
#define rnn_tanhs(size, x, y) ((void)0)
#endif

#endif
