"""Matrix products with packed weights.

The right operand is packed into panels of some columns, k after k, so that a tile of ROWS rows of
them lives in registers while k runs. Tile sizes are constants of the instruction-set level.
Every element of a result is one chain of multiply-adds over k in rising order, continued from
what the result held before, whatever the tile: so a row gives the same bits in any batch. Where a level has tile
registers, many weights are packed as digits instead, and large weight gradients are found by them (_digits.pxd).

    panels   [panel][k][column], VECTORS vectors of columns each, the last one as many as are left,
             padded with zeros; but where three and one would be last, it is two and two, since a tile
             of one vector cannot keep the multiply-adds busy
"""

from cpython.pycapsule cimport PyCapsule_GetPointer

from _digits cimport (
    DIGITS, LEAST_SUMMED, SIDE, digits_may_pay, digits_pay, digits_size, pack_digits, pack_digits_transposed,
)
from _math cimport pieces, real
from _plan cimport BLOCK_ROWS, buffer, share

cdef extern from *:
    """
    #if defined(__AVX512F__)
    enum { RNN_BYTES = 64, RNN_ROWS = 8, RNN_VECTORS = 3 };     /* 24 sums + 3 + 1 in 32 registers */
    #elif defined(__AVX2__)
    enum { RNN_BYTES = 32, RNN_ROWS = 4, RNN_VECTORS = 3 };     /* 12 sums + 3 + 1 in 16 registers */
    #elif defined(__aarch64__)
    enum { RNN_BYTES = 16, RNN_ROWS = 4, RNN_VECTORS = 4 };     /* 16 sums + 4 + 4 in 32 registers */
    #else
    enum { RNN_BYTES = 16, RNN_ROWS = 4, RNN_VECTORS = 2 };     /* 8 sums + 2 + 1 and products in 16 registers */
    #endif

    /* Tiles of v4 use up panels faster than the second cache gives them: what all rows use must lie in the nearest
       one. And its CPUs look so far ahead that to ask for tiles of c only costs them. */
    #if defined(__AVX512F__)
    enum { RNN_DEPTH = 128, RNN_IN_PARTS = 1, RNN_ASKS = 0 };
    #else
    enum { RNN_DEPTH = 256, RNN_IN_PARTS = 0, RNN_ASKS = 1 };
    #endif
    #include <stddef.h>
    #include <string.h>
    #if defined(__GNUC__)
    #define rnn_prefetch(place) __builtin_prefetch(place, 1)
    #define rnn_prefetch_near(place) __builtin_prefetch(place, 0, 3)
    #define rnn_prefetch_far(place) __builtin_prefetch(place, 0, 2)
    #else
    #define rnn_prefetch(place) ((void)(place))
    #define rnn_prefetch_near(place) ((void)(place))
    #define rnn_prefetch_far(place) ((void)(place))
    #endif

    /* Blocks of a transposition, to[k][q] = w[q][k], that go through registers of 16 bytes. */
    #if defined(__has_builtin)
    #if __has_builtin(__builtin_shufflevector)
    #define RNN_SHUFFLES
    #endif
    #endif
    #if defined(RNN_SHUFFLES)
    enum { RNN_BLOCK_FLOATS = 4, RNN_BLOCK_DOUBLES = 2 };
    typedef float rnn_floats __attribute__((vector_size(16), aligned(4), may_alias));
    typedef double rnn_doubles __attribute__((vector_size(16), aligned(8), may_alias));
    static inline void rnn_block_f(float* to, ptrdiff_t step, const float* w, ptrdiff_t w_row) {
        rnn_floats a = *(const rnn_floats*)w, b = *(const rnn_floats*)(w + w_row);
        rnn_floats c = *(const rnn_floats*)(w + 2 * w_row), d = *(const rnn_floats*)(w + 3 * w_row);
        rnn_floats ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
        *(rnn_floats*)to = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
        *(rnn_floats*)(to + step) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
        ab = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd = __builtin_shufflevector(c, d, 2, 6, 3, 7);
        *(rnn_floats*)(to + 2 * step) = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
        *(rnn_floats*)(to + 3 * step) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    }
    static inline void rnn_block_d(double* to, ptrdiff_t step, const double* w, ptrdiff_t w_row) {
        rnn_doubles a = *(const rnn_doubles*)w, b = *(const rnn_doubles*)(w + w_row);
        *(rnn_doubles*)to = __builtin_shufflevector(a, b, 0, 2);
        *(rnn_doubles*)(to + step) = __builtin_shufflevector(a, b, 1, 3);
    }
    #else
    enum { RNN_BLOCK_FLOATS = 1, RNN_BLOCK_DOUBLES = 1 };
    #define rnn_block_f(to, step, w, w_row) (*(to) = *(w))
    #define rnn_block_d(to, step, w, w_row) (*(to) = *(w))
    #endif
    """
    enum:
        ROWS "RNN_ROWS"
        VECTORS "RNN_VECTORS"
        NARROW_VECTORS "(RNN_VECTORS == 3 ? 2 : 1)"     # of a last panel that few rows do together with whole ones
        DEPTH "RNN_DEPTH"           # steps of k whose panels stay in the nearest cache
        IN_PARTS "RNN_IN_PARTS"     # whether panels are always taken in parts of so many steps, or only large ones
        ASKS "RNN_ASKS"             # whether tiles of c are asked for ahead
        FLOATS "(RNN_BYTES / 4)"
        DOUBLES "(RNN_BYTES / 8)"
        BLOCK_FLOATS "RNN_BLOCK_FLOATS"
        BLOCK_DOUBLES "RNN_BLOCK_DOUBLES"
    void copy_bytes "memcpy"(void* to, const void* source, size_t size) noexcept nogil
    void fill_bytes "memset"(void* to, int value, size_t size) noexcept nogil
    void prefetch "rnn_prefetch"(const void* place) noexcept nogil              # to write there: no other core keeps it
    void prefetch_near "rnn_prefetch_near"(const void* place) noexcept nogil
    void prefetch_far "rnn_prefetch_far"(const void* place) noexcept nogil      # not into the nearest cache
    void block_f "rnn_block_f"(float* to, Py_ssize_t step, const float* w, Py_ssize_t w_row) noexcept nogil
    void block_d "rnn_block_d"(double* to, Py_ssize_t step, const double* w, Py_ssize_t w_row) noexcept nogil


cdef enum:
    BAND = 64                    # rows that are taken on before the next ones: they stay in the cache
    # A block of a weight gradient, of DEPTH steps of k, or BLOCK_ROWS if by digits:
    COLUMNS = 512                # columns of b
    STRIP = 4 * ROWS             # columns of a: some cache lines of each row


cdef inline Py_ssize_t lanes(real* kind) noexcept nogil:
    """Numbers in a vector register."""
    if real is float:
        return FLOATS
    else:
        return DOUBLES


cdef inline Py_ssize_t panel_width(real* kind) noexcept nogil:
    return VECTORS * lanes(kind)


cdef inline Py_ssize_t panel_count(Py_ssize_t N, real* kind) noexcept nogil:
    return pieces(N, panel_width(kind))


cdef inline bint two_and_two(Py_ssize_t N, real* kind) noexcept nogil:
    """Whether the last two panels of N columns are of two vectors."""
    cdef Py_ssize_t vectors = pieces(N, lanes(kind))
    return VECTORS == 3 and vectors > 3 and vectors % 3 == 1


cdef inline Py_ssize_t panel_begin(Py_ssize_t p, Py_ssize_t N, real* kind) noexcept nogil:
    """The column that panel p begins with; behind the last one all columns, padded."""
    cdef Py_ssize_t begin = p * panel_width(kind)
    if two_and_two(N, kind) and p == panel_count(N, kind) - 1:
        begin -= lanes(kind)
    return min(begin, padded(N, kind))


cdef inline Py_ssize_t padded(Py_ssize_t size, real* kind) noexcept nogil:
    """`size` rounded up to whole vectors."""
    cdef Py_ssize_t width = lanes(kind)
    return pieces(size, width) * width


cdef inline Py_ssize_t panels_size(Py_ssize_t K, Py_ssize_t N, real* kind) noexcept nogil:
    return K * padded(N, kind)


cdef inline Py_ssize_t scratch_size(Py_ssize_t N, real* kind) noexcept nogil:
    """Numbers that one thread needs for its blocks of a and b."""
    cdef Py_ssize_t columns = min(N, <Py_ssize_t>COLUMNS)
    cdef Py_ssize_t size = DEPTH * (STRIP + padded(columns, kind))
    return max(size, digits_size(BLOCK_ROWS, columns) // <Py_ssize_t>sizeof(real)) if DIGITS else size


# ---------------------------------------------------------------------------------------------
# Each level compiles its products once, in a module of its own; the others of the level call them
# through this table, which travels in a capsule.

cdef struct Term:                # a (M, K) @ weights (K, N)
    Py_ssize_t K
    const void* a
    Py_ssize_t a_row             # numbers from row to row
    const void* panels           # or digits
    bint digits                  # such terms come last


cdef struct Weights:             # (K, N), packed
    void* panels                 # or digits
    bint digits


cdef inline int room_for(
    list keep, Weights* weights, Py_ssize_t K, Py_ssize_t N, Py_ssize_t rows, Py_ssize_t steps, bint training,
    bint bounded, bint single,
) except -1:
    """Weights (K, N) that multiply so many rows in each of some steps: if these are bounded, they may be digits."""
    if single and bounded and digits_pay(rows, steps, K, N, training, <float*>NULL):
        weights.digits = True
        return buffer(keep, digits_size(K, N), &weights.panels)
    return buffer(keep, sizeof(float) * panels_size(K, N, <float*>NULL) if single
                  else sizeof(double) * panels_size(K, N, <double*>NULL), &weights.panels)


cdef inline Term term_of(Py_ssize_t K, const void* a, Py_ssize_t a_row, const Weights* weights) noexcept nogil:
    """a @ weights"""
    return Term(K, a, a_row, weights.panels, weights.digits)


# See product, whose arguments are these, and outer_product
ctypedef void (*Product_f)(
    Py_ssize_t M, Py_ssize_t N, const float* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    const Term* terms, Py_ssize_t count, float* c, Py_ssize_t c_row,
    const void* ahead, Py_ssize_t ahead_size, bint back) noexcept nogil
ctypedef void (*Product_d)(
    Py_ssize_t M, Py_ssize_t N, const double* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    const Term* terms, Py_ssize_t count, double* c, Py_ssize_t c_row,
    const void* ahead, Py_ssize_t ahead_size, bint back) noexcept nogil
ctypedef void (*OuterProduct_f)(
    const Py_ssize_t* rows, Py_ssize_t K, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t N,
    const float* a, Py_ssize_t a_row, const float* b, Py_ssize_t b_row, const Py_ssize_t* b_rows,
    float* c, Py_ssize_t c_row, float* scratch, Py_ssize_t part, Py_ssize_t parts) noexcept nogil
ctypedef void (*OuterProduct_d)(
    const Py_ssize_t* rows, Py_ssize_t K, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t N,
    const double* a, Py_ssize_t a_row, const double* b, Py_ssize_t b_row, const Py_ssize_t* b_rows,
    double* c, Py_ssize_t c_row, double* scratch, Py_ssize_t part, Py_ssize_t parts) noexcept nogil

cdef struct Gemm:
    Product_f product_f
    Product_d product_d
    Product_f product_digits     # where the last term is one of digits
    OuterProduct_f outer_product_f
    OuterProduct_d outer_product_d
    OuterProduct_f outer_product_digits


cdef inline const Gemm* gemm_of(object module_name) except NULL:
    """The products of the level that a kernel module is built for: rnncore._lstm_v4 -> rnncore._gemm_v4."""
    from importlib import import_module
    level = module_name.rpartition("_")[2]
    return <const Gemm*>PyCapsule_GetPointer(import_module(f"rnncore._gemm_{level}").capsule, "rnncore.Gemm")


cdef struct Ahead:               # for what comes after a product:
    const void* place            # memory that is wanted then,
    Py_ssize_t size              # in bytes; may be zero
    bint back                    # whether few rows take large panels from the last one back, as every other step does:
                                 # what was used last is still in the cache then


cdef inline void product(
    const Gemm* gemm, Py_ssize_t M, Py_ssize_t N, const real* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    const Term* terms, Py_ssize_t count, real* c, Py_ssize_t c_row, Ahead ahead,
) noexcept nogil:
    """c (M, N) = start + the sum of some terms: row i begins as row i of start, or as row ids[i] where ids is given.

    What lies ahead comes into the cache meanwhile.
    """
    if real is float:
        if DIGITS and count > 0 and terms[count - 1].digits:
            gemm.product_digits(M, N, start, start_row, ids, terms, count, c, c_row, ahead.place, ahead.size,
                                ahead.back)
        else:
            gemm.product_f(M, N, start, start_row, ids, terms, count, c, c_row, ahead.place, ahead.size, ahead.back)
    else:
        gemm.product_d(M, N, start, start_row, ids, terms, count, c, c_row, ahead.place, ahead.size, ahead.back)


cdef inline void outer_product(
    const Gemm* gemm, const Py_ssize_t* rows, Py_ssize_t K,
    Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t N,
    const real* a, Py_ssize_t a_row, const real* b, Py_ssize_t b_row, const Py_ssize_t* b_rows,
    real* c, Py_ssize_t c_row, real* scratch, Py_ssize_t part, Py_ssize_t parts,
) noexcept nogil:
    """c (groups * size, N) += a (K, groups * stride).T @ b (K, N), for K <= BLOCK_ROWS of their rows.

    k stands for row m = rows[k], of b for row b_rows[m] where that is given. Runs part `part` of `parts`: some tiles
    of every group. `scratch` holds scratch_size(N) numbers.
    """
    if real is float:
        if digits_may_pay(size, N, c) and K * N >= LEAST_SUMMED:
            gemm.outer_product_digits(rows, K, groups, size, stride, N, a, a_row, b, b_row, b_rows, c, c_row, scratch,
                                      part, parts)
        else:
            gemm.outer_product_f(rows, K, groups, size, stride, N, a, a_row, b, b_row, b_rows, c, c_row, scratch, part,
                                 parts)
    else:
        gemm.outer_product_d(rows, K, groups, size, stride, N, a, a_row, b, b_row, b_rows, c, c_row, scratch, part,
                             parts)


cdef inline Py_ssize_t tile_row(
    Py_ssize_t size, Py_ssize_t N, Py_ssize_t part, Py_ssize_t parts, real* kind,
) noexcept nogil:
    """The row of a group that a part's tiles of such a product begin with."""
    cdef Py_ssize_t height = SIDE if digits_may_pay(size, N, kind) else ROWS
    return min(pieces(size, height) * part // parts * height, size)


cdef inline void zero_tiles(
    real* c, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t N, Py_ssize_t part, Py_ssize_t parts,
) noexcept nogil:
    """c (groups * size, N) = 0, a part's tiles."""
    cdef Py_ssize_t low = tile_row(size, N, part, parts, c)
    cdef Py_ssize_t g
    for g in range(groups):
        fill_bytes(c + (g * size + low) * N, 0, (tile_row(size, N, part + 1, parts, c) - low) * N * sizeof(real))


# ---------------------------------------------------------------------------------------------
# Packing. A recurrent layer's gates lie padded to whole vectors: `groups` gates of `size` units,
# each in `stride` columns. Threads share the units. The padding of a panel is zeroed once, when its buffer is made.

cdef inline Py_ssize_t rows_of_groups(Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride) noexcept nogil:
    """How many rows there are of such columns, less what is padding behind the last group."""
    return (groups - 1) * stride + size


cdef inline Py_ssize_t panel_place(
    Py_ssize_t j, Py_ssize_t K, Py_ssize_t N, Py_ssize_t* step, real* kind,
) noexcept nogil:
    """Where column j begins in its panel, and how far its next k is."""
    cdef Py_ssize_t p = j // panel_width(kind)
    cdef Py_ssize_t begin
    if j >= panel_begin(p + 1, N, kind):
        p += 1
    begin = panel_begin(p, N, kind)
    step[0] = panel_begin(p + 1, N, kind) - begin
    return begin * K + (j - begin)


cdef inline void transpose(
    Py_ssize_t count, real* to, Py_ssize_t step, const real* w, Py_ssize_t w_row, Py_ssize_t K,
) noexcept nogil:
    """to (K, count) = w.T, in blocks as far as they fit."""
    cdef Py_ssize_t size = BLOCK_FLOATS if real is float else BLOCK_DOUBLES
    cdef Py_ssize_t columns = count // size * size
    cdef Py_ssize_t i, k, q
    for i in range(K // size):
        k = i * size
        for q in range(columns // size):
            if real is float:
                block_f(to + k * step + q * size, step, w + q * size * w_row + k, w_row)
            else:
                block_d(to + k * step + q * size, step, w + q * size * w_row + k, w_row)
        for k in range(k, k + size if columns < count else k):
            for q in range(columns, count):
                to[k * step + q] = w[q * w_row + k]
    for k in range(K // size * size, K):
        for q in range(count):
            to[k * step + q] = w[q * w_row + k]


cdef inline void pack_transposed(
    const Weights* weights, const real* w, Py_ssize_t w_row, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride,
    Py_ssize_t K, Py_ssize_t part, Py_ssize_t parts,
) noexcept nogil:
    """Weights (K, groups * stride) of w.T, for w (groups * size, K): a part's units of all gates.

    Vectors of columns are filled together, since they share cache lines.
    """
    cdef Py_ssize_t first = share(size, part, parts)
    cdef Py_ssize_t last = share(size, part + 1, parts)
    cdef real* panels = <real*>weights.panels
    cdef Py_ssize_t width = lanes(panels)
    cdef Py_ssize_t g, i, u, step, count
    cdef const real* source
    cdef real* column
    if real is float:
        if DIGITS and weights.digits:
            pack_digits_transposed(<char*>panels, w, w_row, groups, size, stride, K, first, last)
            return
    for g in range(groups):
        for i in range(first // width, pieces(last, width)):
            u = i * width
            count = min(width, last - u)
            source = w + (g * size + u) * w_row
            column = panels + panel_place(g * stride + u, K, groups * stride, &step, panels)
            transpose(count, column, step, source, w_row, K)


cdef inline void copy_columns(real* to, const real* source, Py_ssize_t columns) noexcept nogil:
    """A panel's part of a row: nearly always all of its columns, and then a few vectors instead of a call."""
    cdef Py_ssize_t width = VECTORS * lanes(to)
    if columns == width:
        copy_bytes(to, source, width * sizeof(real))
    else:
        copy_bytes(to, source, columns * sizeof(real))


cdef inline void pack(
    const Weights* weights, const real* w, Py_ssize_t w_row, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride,
    Py_ssize_t N, Py_ssize_t part, Py_ssize_t parts,
) noexcept nogil:
    """Weights (rows_of_groups, N) of w (groups * size, N), the same units, or some columns; padding stays zero."""
    cdef Py_ssize_t first = share(size, part, parts)
    cdef Py_ssize_t last = share(size, part + 1, parts)
    cdef real* panels = <real*>weights.panels
    cdef Py_ssize_t K = rows_of_groups(groups, size, stride)
    cdef Py_ssize_t g, u, p, j, step, columns
    cdef const real* source
    cdef real* place
    if real is float:
        if DIGITS and weights.digits:
            pack_digits(<char*>panels, w, w_row, groups, size, stride, K, share(N, part, parts),
                        share(N, part + 1, parts))
            return
    for p in range(panel_count(N, panels)):
        j = panel_begin(p, N, panels)
        columns = min(panel_begin(p + 1, N, panels), N) - j
        place = panels + panel_place(j, K, N, &step, panels)
        for g in range(groups):
            for u in range(first, last):
                source = w + (g * size + u) * w_row + j
                copy_columns(place + (g * stride + u) * step, source, columns)
