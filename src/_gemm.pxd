"""Matrix products c (M, N) = start + a (M, K) @ weights (K, N), and weight gradients c (M, N) += a (K, M).T @ b (K, N).

The weights are packed into panels of some columns. A tile is ROWS rows of c by one panel; its sums stay in registers
while k runs. Tile sizes are constants of the instruction-set level. Every element of c is one chain of multiply-adds
over k in rising order, which continues from `start`, in any tile: so a row gives the same bits in any batch. Where a
level has tile registers, many weights are packed as digits instead, and large weight gradients are computed with
digits (_digits.pxd).

A panel has VECTORS vectors of columns; the last has the vectors that are left, and is padded with zeros. If three
vectors and then one would come last, two panels of two come instead, since a tile of one vector cannot keep the
multiply-adds busy. With VECTORS = 3, seven vectors A .. G of columns are these panels, stored one after another:

    panel 0        panel 1     panel 2
    k = 0  A B C   k = 0  D E  k = 0  F G
    k = 1  A B C   k = 1  D E  k = 1  F G
    ...            ...         ...
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

    /* v4's tiles read panels faster than the second cache delivers, so the part of a panel that all rows use must fit
       in the nearest cache. And v4's CPUs look so far ahead that prefetching tiles of c only costs time. */
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

    /* A block of a transposition, to[k][q] = w[q][k], in registers of 16 bytes. */
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
        ROWS "RNN_ROWS"             # Rows of a tile.
        VECTORS "RNN_VECTORS"       # Vectors of columns in a panel.
        # Vectors of a narrow last panel, which few rows can take together with whole panels.
        NARROW_VECTORS "(RNN_VECTORS == 3 ? 2 : 1)"
        DEPTH "RNN_DEPTH"           # Steps of k whose part of a panel stays in the nearest cache.
        IN_PARTS "RNN_IN_PARTS"     # Whether all panels are taken in parts of DEPTH steps, rather than large ones only.
        ASKS "RNN_ASKS"             # Whether the next tile of c is prefetched.
        FLOATS "(RNN_BYTES / 4)"    # Floats in a vector register.
        DOUBLES "(RNN_BYTES / 8)"   # Doubles in a vector register.
        BLOCK_FLOATS "RNN_BLOCK_FLOATS"         # Rows and columns of a block of a transposition.
        BLOCK_DOUBLES "RNN_BLOCK_DOUBLES"
    void copy_bytes "memcpy"(void* to, const void* source, size_t size) noexcept nogil
    void fill_bytes "memset"(void* to, int value, size_t size) noexcept nogil
    void prefetch "rnn_prefetch"(const void* place) noexcept nogil              # in order to write there
    void prefetch_near "rnn_prefetch_near"(const void* place) noexcept nogil
    void prefetch_far "rnn_prefetch_far"(const void* place) noexcept nogil      # not into the nearest cache
    void block_f "rnn_block_f"(float* to, Py_ssize_t step, const float* w, Py_ssize_t w_row) noexcept nogil
    void block_d "rnn_block_d"(double* to, Py_ssize_t step, const double* w, Py_ssize_t w_row) noexcept nogil


cdef enum:
    BAND = 64                    # Rows that go through all panels, or steps, together, so that they stay in the cache.
    # A weight gradient is computed in blocks of DEPTH steps of k (of BLOCK_ROWS with digits).
    COLUMNS = 512                # Columns of b in a block.
    STRIP = 4 * ROWS             # Columns of a in a block: a few cache lines of each row.


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
    """Whether the last two panels of N columns have two vectors each."""
    cdef Py_ssize_t vectors = pieces(N, lanes(kind))
    return VECTORS == 3 and vectors > 3 and vectors % 3 == 1


cdef inline Py_ssize_t panel_begin(Py_ssize_t p, Py_ssize_t N, real* kind) noexcept nogil:
    """The first column of panel p; for p = panel_count, the padded number of columns."""
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
    """Numbers that one thread needs for its packed blocks of a and b."""
    cdef Py_ssize_t columns = min(N, <Py_ssize_t>COLUMNS)
    cdef Py_ssize_t size = DEPTH * (STRIP + padded(columns, kind))
    return max(size, digits_size(BLOCK_ROWS, columns) // <Py_ssize_t>sizeof(real)) if DIGITS else size


# ---------------------------------------------------------------------------------------------
# Each level compiles its products once, in a module of its own. The level's other modules call them through a table,
# which is passed on in a capsule.

cdef struct Term:                # a (M, K) @ weights (K, N)
    Py_ssize_t K
    const void* a
    Py_ssize_t a_row             # Numbers from row to row of a.
    const void* panels           # The packed weights.
    bint digits                  # Whether they are digits; such terms come last.


cdef struct Weights:             # (K, N), packed.
    void* panels
    bint digits                  # Whether they are packed as digits, rather than in panels.


cdef inline int room_for(
    list keep, Weights* weights, Py_ssize_t K, Py_ssize_t N, Py_ssize_t rows, Py_ssize_t steps, bint training,
    bint bounded, bint single,
) except -1:
    """Allocate weights (K, N) that multiply `rows` rows in each of `steps` steps.

    They are digits only if that pays and if the rows are bounded: no number is much larger than the others.
    """
    if single and bounded and digits_pay(rows, steps, K, N, training, <float*>NULL):
        weights.digits = True
        return buffer(keep, digits_size(K, N), &weights.panels)
    return buffer(keep, sizeof(float) * panels_size(K, N, <float*>NULL) if single
                  else sizeof(double) * panels_size(K, N, <double*>NULL), &weights.panels)


cdef inline Term term_of(Py_ssize_t K, const void* a, Py_ssize_t a_row, const Weights* weights) noexcept nogil:
    """a @ weights"""
    return Term(K, a, a_row, weights.panels, weights.digits)


# The arguments are those of product and of outer_product below.
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
    Product_f product_digits     # For a last term of digits.
    OuterProduct_f outer_product_f
    OuterProduct_d outer_product_d
    OuterProduct_f outer_product_digits


cdef inline const Gemm* gemm_of(object module_name) except NULL:
    """The products of a kernel module's level: rnncore._lstm_v4 uses those of rnncore._gemm_v4."""
    from importlib import import_module
    level = module_name.rpartition("_")[2]
    return <const Gemm*>PyCapsule_GetPointer(import_module(f"rnncore._gemm_{level}").capsule, "rnncore.Gemm")


cdef struct Ahead:               # How a product prepares for what comes after it.
    const void* place            # Memory that it prefetches.
    Py_ssize_t size              # Bytes of that memory; may be zero.
    # Whether few rows take large panels from last to first. Every other step does, so that each step begins with the
    # panels that the step before used last, which are still in the cache.
    bint back


cdef inline void product(
    const Gemm* gemm, Py_ssize_t M, Py_ssize_t N, const real* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    const Term* terms, Py_ssize_t count, real* c, Py_ssize_t c_row, Ahead ahead,
) noexcept nogil:
    """c (M, N) = start + the sum of `count` terms, while `ahead` is prefetched.

    Row i of c begins as row i of start, or as row ids[i] unless ids is NULL.
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
    """c (groups * size, N) += a (K, groups * stride).T @ b (K, N), where K <= BLOCK_ROWS.

    Step k takes row rows[k] of a, and row b_rows[rows[k]] of b, or row rows[k] if b_rows is NULL. Part `part` of
    `parts` computes some tiles of every group. `scratch` holds scratch_size(N) numbers.
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
    """The first row of each group in a part's tiles of an outer product."""
    cdef Py_ssize_t height = SIDE if digits_may_pay(size, N, kind) else ROWS
    return min(pieces(size, height) * part // parts * height, size)


cdef inline void zero_tiles(
    real* c, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t N, Py_ssize_t part, Py_ssize_t parts,
) noexcept nogil:
    """c (groups * size, N) = 0, for the tiles of part `part` of an outer product."""
    cdef Py_ssize_t low = tile_row(size, N, part, parts, c)
    cdef Py_ssize_t g
    for g in range(groups):
        fill_bytes(c + (g * size + low) * N, 0, (tile_row(size, N, part + 1, parts, c) - low) * N * sizeof(real))


# ---------------------------------------------------------------------------------------------
# Packing. A recurrent layer's gates are padded to whole vectors: `groups` gates of `size` units, each in `stride`
# columns. Threads split the units. The padding of a panel is zeroed once, when its buffer is allocated.

cdef inline Py_ssize_t rows_of_groups(Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride) noexcept nogil:
    """The number of padded columns of all groups, without the padding behind the last group."""
    return (groups - 1) * stride + size


cdef inline Py_ssize_t panel_place(
    Py_ssize_t j, Py_ssize_t K, Py_ssize_t N, Py_ssize_t* step, real* kind,
) noexcept nogil:
    """Return where column j at k = 0 lies in the panels, and set step[0] to the distance from k to k + 1."""
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
    """to (K, count) = w (count, K).T, in whole blocks and then number by number."""
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
    """Pack w (groups * size, K).T as weights (K, groups * stride): part `part` of the units of every gate.

    The columns of a vector are filled together, since they share cache lines.
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
    """Copy a panel's part of a row. A whole panel's constant size becomes a few vector moves instead of a call."""
    cdef Py_ssize_t width = VECTORS * lanes(to)
    if columns == width:
        copy_bytes(to, source, width * sizeof(real))
    else:
        copy_bytes(to, source, columns * sizeof(real))


cdef inline void pack(
    const Weights* weights, const real* w, Py_ssize_t w_row, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride,
    Py_ssize_t N, Py_ssize_t part, Py_ssize_t parts,
) noexcept nogil:
    """Pack w (groups * size, N) as weights (rows_of_groups, N): the same units, or for digits some columns.

    Padding stays zero.
    """
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
