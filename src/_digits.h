/* Rows of floats as fixed-point numbers of three digits (see _digits.pxd), and back from the sums of their products. */
#ifndef RNN_DIGITS_H
#define RNN_DIGITS_H

#include <stddef.h>

/* The largest number of a row of a, or of a column of weights, has 127 * 65536 + 127 * 256 units. Rounding adds less
   than another 127, so that every digit lies in -128 ... 127. */
#define RNN_MOST_UNITS 8355584.0f

/* Some rows of c, with all of their columns. */
struct rnn_result {
    const float* start;                   /* Row i of c begins as row i of this, or as row ids[i] unless ids is NULL. */
    ptrdiff_t start_row;
    const ptrdiff_t* ids;
    float* c;
    ptrdiff_t c_row;
    ptrdiff_t first, rows, columns;       /* The rows are first .. first + rows - 1 of c. */
    const float* units;                   /* (rows,) The units of these rows of a. */
    ptrdiff_t step;                       /* Bytes from one of the four sums to the next. */
};

/* Up to 16 rows and 16 columns of a result, whose four sums are ready. */
struct rnn_corner {
    const char* sums;                     /* The sums of the next row. */
    const float* column_units;            /* (16,) The units of the columns. */
    ptrdiff_t row, end, column;           /* Rows row .. end-1 of the result are left; `column` is the first column. */
};

enum { RNN_DIGITS_ROWS = 64, RNN_DIGITS_DEEPEST = 1024 };

struct rnn_digits_room {
    char strip[RNN_DIGITS_ROWS * RNN_DIGITS_DEEPEST * 3];     /* The digits of some rows of a. */
    char sums[8 * 1024];                                      /* Sums of two corners, or of four of few rows. */
    float units[RNN_DIGITS_ROWS];                             /* The units of the rows. */
};

#if defined(__AMX_INT8__) && defined(__AVX512BW__)
#include <immintrin.h>

enum { RNN_DIGITS = 1 };

/* The thread's own room, which is too large for the stacks of some threads. */
static inline struct rnn_digits_room* rnn_digits_room(void) {
    static _Thread_local struct rnn_digits_room room __attribute__((aligned(64)));
    struct rnn_digits_room* place = &room;
    __asm__("" : "+r"(place));            /* keeps GCC from calling for the address again and again */
    return place;
}

/* Configure eight tiles of 64 bytes a row: tiles 0 .. 4, the sums and a, have `rows` rows, the others 16. */
static inline void rnn_digits_begin(ptrdiff_t rows) {
    struct {
        unsigned char palette, start_row, reserved[14];
        unsigned short row_bytes[16];
        unsigned char rows[16];
    } shape = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    int i;
    for (i = 0; i < 5; i++) shape.rows[i] = (unsigned char)rows;
    __asm__ volatile("" : : "r"(&shape) : "memory");      /* GCC's intrinsic names only the first bytes as read */
    _tile_loadconfig(&shape);
}

#define rnn_digits_prefetch(place) __builtin_prefetch(place, 0, 2)

/* A barrier: compilers do not know that tiles are loaded from memory and stored to it. */
#define rnn_digits_settle() __asm__ volatile("" ::: "memory")

/* The first `count` of 16 floats, then zeros. */
static inline __m512 rnn_some(const float* from, ptrdiff_t count) {
    if (count >= 16) return _mm512_loadu_ps(from);
    return count <= 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
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

/* The larger of `most` and |x|, compared as bits: a NaN is larger than all numbers. */
static inline __m512i rnn_larger(__m512i most, __m512 x) {
    return _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
}

/* Units per 1.0, where `most` is the largest |x| that shares the unit. It counts as 2^-100 at least. If `most` is not
   finite, all digits become zero and the unit is infinite or NaN, so that products become NaN. */
static inline __m512 rnn_per_unit(__m512 most) {
    return _mm512_div_ps(_mm512_set1_ps(RNN_MOST_UNITS), _mm512_max_ps(_mm512_set1_ps(0x1p-100f), most));
}

/* A unit times 65536, the value of 1 in the highest digit. */
static inline __m512 rnn_unit(__m512 most) {
    return _mm512_mul_ps(_mm512_max_ps(_mm512_set1_ps(0x1p-100f), most), _mm512_set1_ps(65536 / RNN_MOST_UNITS));
}

/* The digits of 64 numbers, the highest digit first. Lane i of digits[j] holds digit j of numbers i, 16 + i, 32 + i and
   48 + i. A digit is a byte of the number plus 0x808080, less 128, which as a signed byte is the byte xor 0x80:

       n + 0x808080 =   | 128 + d_0 | 128 + d_1 | 128 + d_2 |       n = 65536 d_0 + 256 d_1 + d_2
                          bits 23-16  bits 15-8   bits 7-0                                              */
static inline void rnn_digits_of(__m512 a, __m512 b, __m512 c, __m512 d, __m512i* digits) {
    const __m512i bias = _mm512_set1_epi32(0x808080), signs = _mm512_set1_epi32((int)0x80808080u);
    const __m512i even = _mm512_set1_epi32(0x00ff00ff), low = _mm512_set1_epi32(0xffff);
    __m512i i = _mm512_add_epi32(_mm512_cvtps_epi32(a), bias), j = _mm512_add_epi32(_mm512_cvtps_epi32(b), bias);
    __m512i k = _mm512_add_epi32(_mm512_cvtps_epi32(c), bias), l = _mm512_add_epi32(_mm512_cvtps_epi32(d), bias);
    __m512i ij, kl;
#define RNN_SELECT(mask, x, y) _mm512_ternarylogic_epi32(mask, x, y, 0xca)      /* bits of x where mask has them */
    ij = RNN_SELECT(even, i, _mm512_slli_epi32(j, 8));                          /* bytes i0 j0 i2 j2, lowest first */
    kl = RNN_SELECT(even, k, _mm512_slli_epi32(l, 8));
    digits[0] = _mm512_xor_si512(RNN_SELECT(low, _mm512_srli_epi32(ij, 16), kl), signs);
    digits[2] = _mm512_xor_si512(RNN_SELECT(low, ij, _mm512_slli_epi32(kl, 16)), signs);
    ij = RNN_SELECT(even, _mm512_srli_epi32(i, 8), j);                          /* i1 j1 */
    kl = RNN_SELECT(even, _mm512_srli_epi32(k, 8), l);
    digits[1] = _mm512_xor_si512(RNN_SELECT(low, ij, _mm512_slli_epi32(kl, 16)), signs);
#undef RNN_SELECT
}

/* The digits of a row in blocks of 64 numbers, and its unit. `block` is bytes from block to block, `step` is bytes from
   digit to digit. */
static inline void rnn_digits_of_row(const float* a, ptrdiff_t count, char* to, ptrdiff_t block, ptrdiff_t step,
                                     float* unit) {
    __m512i most = _mm512_setzero_si512(), digits[3];
    __m512 largest, scale;
    ptrdiff_t k;
    int i;
    for (k = 0; k < count; k += 16) most = rnn_larger(most, rnn_some(a + k, count - k));
    largest = _mm512_castsi512_ps(_mm512_set1_epi32((int)_mm512_reduce_max_epu32(most)));
    scale = rnn_per_unit(largest);
    *unit = _mm512_cvtss_f32(rnn_unit(largest));
    for (k = 0; k < count; k += 64, to += block) {
        rnn_digits_of(_mm512_mul_ps(rnn_some(a + k, count - k), scale),
                      _mm512_mul_ps(rnn_some(a + k + 16, count - k - 16), scale),
                      _mm512_mul_ps(rnn_some(a + k + 32, count - k - 32), scale),
                      _mm512_mul_ps(rnn_some(a + k + 48, count - k - 48), scale), digits);
        for (i = 0; i < 3; i++) _mm512_store_si512(to + i * step, digits[i]);
    }
}

/* Write rows of 64 zero bytes. */
static inline void rnn_zero_rows(char* to, ptrdiff_t rows) {
    for (; rows > 0; rows--, to += 64) _mm512_store_si512(to, _mm512_setzero_si512());
}

/* A block of columns of w.T, from up to 16 rows of w and all of their columns: the units, then the tiles. */
static inline void rnn_digits_of_columns(const float* w, ptrdiff_t w_row, ptrdiff_t rows, ptrdiff_t columns, char* to) {
    __m512i digits[3], tiles[3][16];
    __m512 scale[16];
    ptrdiff_t k;
    int i, j;
    for (i = 0; i < 16; i++) {
        __m512i most = _mm512_setzero_si512();
        __m512 largest;
        for (k = 0; k < (i < rows ? columns : 0); k += 16) most = rnn_larger(most, rnn_some(w + i * w_row + k, columns - k));
        largest = _mm512_castsi512_ps(_mm512_set1_epi32((int)_mm512_reduce_max_epu32(most)));
        scale[i] = rnn_per_unit(largest);
        ((float*)to)[i] = _mm512_cvtss_f32(rnn_unit(largest));
    }
    to += 64;
    for (k = 0; k < columns; k += 64, to += 3 * 1024) {
        for (i = 0; i < 16; i++) {
            const float* from = w + i * w_row + k;
            ptrdiff_t count = i < rows ? columns - k : 0;
            rnn_digits_of(_mm512_mul_ps(rnn_some(from, count), scale[i]),
                          _mm512_mul_ps(rnn_some(from + 16, count - 16), scale[i]),
                          _mm512_mul_ps(rnn_some(from + 32, count - 32), scale[i]),
                          _mm512_mul_ps(rnn_some(from + 48, count - 48), scale[i]), digits);
            for (j = 0; j < 3; j++) tiles[j][i] = digits[j];
        }
        for (j = 0; j < 3; j++) {
            rnn_transpose_16((__m512*)tiles[j]);
            for (i = 0; i < 16; i++) _mm512_store_si512(to + j * 1024 + i * 64, tiles[j][i]);
        }
    }
}

/* Up to 16 columns of 64 rows as digits: a tile [16 k][16 columns][4 k] for each digit. A row of NULL is zeros. */
static inline void rnn_tiles_of_rows(const float* const* rows, ptrdiff_t offset, ptrdiff_t columns, __m512 scale,
                                     __m512i tiles[3][16]) {
    __m512i digits[3];
    __m512 x[4];
    int i, j;
    for (i = 0; i < 16; i++) {
        for (j = 0; j < 4; j++) {
            const float* row = rows[16 * j + i];
            x[j] = row ? _mm512_mul_ps(rnn_some(row + offset, columns), scale) : _mm512_setzero_ps();
        }
        rnn_digits_of(x[0], x[1], x[2], x[3], digits);
        for (j = 0; j < 3; j++) tiles[j][i] = digits[j];
    }
}

/* The row of w (groups * size, ..) for row k of the padded (groups * stride, ..); NULL for padding. */
static inline const float* rnn_row_at(const float* w, ptrdiff_t w_row, ptrdiff_t groups, ptrdiff_t size,
                                      ptrdiff_t stride, ptrdiff_t k) {
    if (size != stride) {                 /* avoids a division, which takes longer than the digits of 16 numbers */
        ptrdiff_t group = k / stride, unit = k % stride;
        if (unit >= size) return NULL;
        k = group * size + unit;
    }
    return k < groups * size ? w + k * w_row : NULL;
}

/* A block of columns of w, from up to 16 of its columns: the units, then the tiles. */
static inline void rnn_digits_of_rows(const float* w, ptrdiff_t w_row, ptrdiff_t groups, ptrdiff_t size,
                                      ptrdiff_t stride, ptrdiff_t K, ptrdiff_t columns, char* to) {
    __m512i most = _mm512_setzero_si512();
    __m512 scale;
    ptrdiff_t k;
    int i;
    for (k = 0; k < groups * size; k++) most = rnn_larger(most, rnn_some(w + k * w_row, columns));
    scale = rnn_per_unit(_mm512_castsi512_ps(most));
    _mm512_store_ps(to, rnn_unit(_mm512_castsi512_ps(most)));
    to += 64;
    for (k = 0; k < K; k += 64, to += 3 * 1024) {
        const float* rows[64];
        for (i = 0; i < 64; i++) rows[i] = rnn_row_at(w, w_row, groups, size, stride, k + i);
        rnn_tiles_of_rows(rows, 0, columns, scale, (__m512i(*)[16])to);
    }
}

/* Up to 16 columns of K rows as digits, in blocks of 64 rows, and their units. `across` writes them as rows of a strip,
   otherwise they become columns of weights. */
static inline void rnn_digits_of_steps(const float* const* rows, ptrdiff_t K, ptrdiff_t offset, ptrdiff_t columns,
                                       int across, float* units, char* to) {
    __m512i most = _mm512_setzero_si512();
    __m512 scale;
    ptrdiff_t k;
    int i, j;
    for (k = 0; k < K; k++) most = rnn_larger(most, rnn_some(rows[k] + offset, columns));
    scale = rnn_per_unit(_mm512_castsi512_ps(most));
    _mm512_storeu_ps(units, rnn_unit(_mm512_castsi512_ps(most)));
    for (k = 0; k < K; k += 64, to += 3 * 1024) {
        const float* some[64];
        __m512i tiles[3][16];
        for (i = 0; i < 64; i++) some[i] = k + i < K ? rows[k + i] : NULL;
        rnn_tiles_of_rows(some, offset, columns, scale, across ? tiles : (__m512i(*)[16])to);
        for (j = 0; j < (across ? 3 : 0); j++) {
            rnn_transpose_16((__m512*)tiles[j]);
            for (i = 0; i < 16; i++) _mm512_store_si512(to + j * 1024 + i * 64, tiles[j][i]);
        }
    }
}

/* Finish up to `count` more rows of a corner: c = start + units (sum 0 + sum 1 / 256 + sum 2 / 256^2 + sum 3 / 256^3),
   where units is the product of the row's and the column's. */
static inline void rnn_finish_rows(const struct rnn_result* result, struct rnn_corner* corner, ptrdiff_t count) {
    const __m512 less = _mm512_set1_ps(1 / 256.0f);
    const ptrdiff_t end = corner->row + count < corner->end ? corner->row + count : corner->end;
    const ptrdiff_t columns = result->columns - corner->column;
    const __mmask16 some = columns < 16 ? (__mmask16)((1u << columns) - 1) : (__mmask16)0xffff;
    __m512 column_units;
    if (corner->row >= end) return;
    column_units = _mm512_load_ps(corner->column_units);
    for (; corner->row < end; corner->row++, corner->sums += 64) {
        const ptrdiff_t row = result->first + corner->row;
        const float* start = result->start + (result->ids ? result->ids[row] : row) * result->start_row + corner->column;
        const __m512 units = _mm512_mul_ps(column_units, _mm512_set1_ps(result->units[corner->row]));
        __m512 total = _mm512_cvtepi32_ps(_mm512_load_si512(corner->sums + 3 * result->step));
        int i;
        for (i = 2; i >= 0; i--)
            total = _mm512_fmadd_ps(total, less, _mm512_cvtepi32_ps(_mm512_load_si512(corner->sums + i * result->step)));
        _mm512_mask_storeu_ps(result->c + row * result->c_row + corner->column, some,
                              _mm512_fmadd_ps(total, units, _mm512_maskz_loadu_ps(some, start)));
    }
}

#else

enum { RNN_DIGITS = 0 };
#define rnn_digits_room() NULL
#define rnn_digits_begin(rows) ((void)0)
#define rnn_digits_prefetch(place) ((void)0)
#define rnn_digits_settle() ((void)0)
#define rnn_digits_of_row(a, count, to, block, step, unit) ((void)0)
#define rnn_digits_of_columns(w, w_row, rows, columns, to) ((void)0)
#define rnn_digits_of_rows(w, w_row, groups, size, stride, K, columns, to) ((void)0)
#define rnn_digits_of_steps(rows, K, offset, columns, across, units, to) ((void)0)
#define rnn_finish_rows(result, corner, count) ((void)0)
#define rnn_zero_rows(to, rows) ((void)0)
#define _tile_dpbssd(c, a, b) ((void)0)
#define _tile_zero(tile) ((void)0)
#define _tile_release() ((void)0)
#define _tile_loadd(tile, from, step) ((void)0)
#define _tile_stored(tile, to, step) ((void)0)

#endif
#endif
