/* Numbers of float32 as three of bfloat16, and the tile registers that multiply these (AMX). */
#ifndef RNN_TILES_H
#define RNN_TILES_H

#include <stddef.h>

#if defined(__AMX_BF16__) && defined(__AVX512F__)
#include <immintrin.h>

enum { RNN_TILES = 1, RNN_STRIP = 32 * 3 * 1024 };

/* Each thread's rows at hand, split: too much for the stack of some. */
static inline char* rnn_tiles_strip(void) {
    static _Thread_local char strip[RNN_STRIP] __attribute__((aligned(64)));
    return strip;
}

/* All tiles have 16 rows of 64 bytes. */
static inline void rnn_tiles_begin(void) {
    static const struct {
        unsigned char palette, start_row, reserved[14];
        unsigned short row_bytes[16];
        unsigned char rows[16];
    } shape = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&shape);
}

#define rnn_tiles_prefetch(place) __builtin_prefetch(place, 0, 2)

/* Compilers do not know that tiles are loaded from memory and stored to it. */
#define rnn_tiles_settle() __asm__ volatile("" ::: "memory")

/* Of each part 16 pairs, low[q] before high[q]. A float is the sum of its parts to the last bit: the first is rounded
   and the second cut off to 8 bits, and no more are left. */
static inline void rnn_split_vectors(__m512 low, __m512 high, char* to, ptrdiff_t step) {
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u), half = _mm512_set1_epi32(0x8000);
    __m512i a = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(low), half), upper);
    __m512i b = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(high), half), upper);
    _mm512_store_si512(to, _mm512_or_si512(_mm512_srli_epi32(a, 16), b));
    low = _mm512_sub_ps(low, _mm512_castsi512_ps(a)), high = _mm512_sub_ps(high, _mm512_castsi512_ps(b));
    a = _mm512_and_si512(_mm512_castps_si512(low), upper), b = _mm512_and_si512(_mm512_castps_si512(high), upper);
    _mm512_store_si512(to + step, _mm512_or_si512(_mm512_srli_epi32(a, 16), b));
    low = _mm512_sub_ps(low, _mm512_castsi512_ps(a)), high = _mm512_sub_ps(high, _mm512_castsi512_ps(b));
    a = _mm512_castps_si512(low), b = _mm512_and_si512(_mm512_castps_si512(high), upper);
    _mm512_store_si512(to + 2 * step, _mm512_or_si512(_mm512_srli_epi32(a, 16), b));
}

/* The first `count` of 16 floats, then zeros. */
static inline __m512 rnn_some(const float* from, ptrdiff_t count) {
    if (count >= 16) return _mm512_loadu_ps(from);
    return count <= 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
}

static inline void rnn_split(const float* low, ptrdiff_t low_count, const float* high, ptrdiff_t high_count, char* to,
                             ptrdiff_t step) {
    rnn_split_vectors(rnn_some(low, low_count), rnn_some(high, high_count), to, step);
}

/* Transpose 16 vectors of 16 floats. */
static inline void rnn_transpose_16(__m512* v) {
    __m512 u[16];
    int i, j;
    for (i = 0; i < 16; i += 2) {
        u[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        u[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
    for (i = 0; i < 16; i += 4)
        for (j = 0; j < 2; j++) {
            v[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(u[i + j]), _mm512_castps_pd(u[i + j + 2])));
            v[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(u[i + j]), _mm512_castps_pd(u[i + j + 2])));
        }
    for (i = 0; i < 4; i++)
        for (j = 0; j < 2; j++) {
            u[8 * j + i] = _mm512_shuffle_f32x4(v[8 * j + i], v[8 * j + i + 4], 0x88);
            u[8 * j + i + 4] = _mm512_shuffle_f32x4(v[8 * j + i], v[8 * j + i + 4], 0xdd);
        }
    for (i = 0; i < 8; i++) {
        v[i] = _mm512_shuffle_f32x4(u[i], u[8 + i], 0x88);
        v[8 + i] = _mm512_shuffle_f32x4(u[i], u[8 + i], 0xdd);
    }
}

/* The parts of a.T, for 32 rows of a (as many as there are) and 16 of its columns: a tile each of pairs of rows. */
static inline void rnn_split_transposed(const float* a, ptrdiff_t a_row, const ptrdiff_t* rows, ptrdiff_t row_count,
                                        ptrdiff_t columns, char* to, ptrdiff_t step) {
    __m512 low[16], high[16];
    int i;
    for (i = 0; i < 16; i++) {
        low[i] = i < row_count ? rnn_some(a + rows[i] * a_row, columns) : _mm512_setzero_ps();
        high[i] = i + 16 < row_count ? rnn_some(a + rows[i + 16] * a_row, columns) : _mm512_setzero_ps();
    }
    rnn_transpose_16(low);
    rnn_transpose_16(high);
    for (i = 0; i < 16; i++) rnn_split_vectors(low[i], high[i], to + 64 * i, step);
}

#else

enum { RNN_TILES = 0, RNN_STRIP = 1 };
#define rnn_tiles_strip() NULL
#define rnn_tiles_begin() ((void)0)
#define rnn_split(low, low_count, high, high_count, to, step) ((void)0)
#define rnn_split_transposed(a, a_row, rows, row_count, columns, to, step) ((void)0)
#define rnn_tiles_prefetch(place) ((void)0)
#define rnn_tiles_settle() ((void)0)
#define _tile_release() ((void)0)
#define _tile_loadd(tile, from, step) ((void)0)
#define _tile_stored(tile, to, step) ((void)0)
#define _tile_dpbf16ps(c, a, b) ((void)0)

#endif
#endif
