"""Weight gradients of float32 by the tile registers of a CPU (AMX), which multiply bfloat16 sixteen times as fast.

A float32 is split into three bfloat16 whose sum it is, to the last bit (Henry, Tang & Heinecke 2019, "Leveraging the
bfloat16 artificial intelligence datatype for higher-precision computations"). Of the nine products of two numbers'
parts six are added up in float32, in one order for all tiles; the other three come to half a unit in the last place
at most. So a product takes about half as long as by multiply-adds, and its error is smaller, as fewer sums are
rounded. An infinity becomes NaN, since it has no parts. (Products with weights go another way: _digits.pxd.)

    tiles    [pair of columns' blocks][block of k][part][block of columns][k][column]
             a block of columns has 16, one of k 32, as 16 pairs: k and k + 16 side by side
    strip    [block of rows][block of k][part][row][pair of k], 16 rows in a block
    missing columns and k are zero
"""

from _math cimport pieces, real

cdef extern from "_tiles.h":
    enum:
        TILES "RNN_TILES"        # whether the level has them
        STRIP_SIZE "RNN_STRIP"   # bytes
    char* strip_of_thread "rnn_tiles_strip"() noexcept nogil
    void tiles_begin "rnn_tiles_begin"() noexcept nogil
    void tiles_end "_tile_release"() noexcept nogil
    void settle "rnn_tiles_settle"() noexcept nogil
    void tile_load "_tile_loadd"(int tile, const void* source, Py_ssize_t step) noexcept nogil
    void tile_store "_tile_stored"(int tile, void* to, Py_ssize_t step) noexcept nogil
    void tile_multiply_add "_tile_dpbf16ps"(int c, int a, int b) noexcept nogil
    void split "rnn_split"(
        const float* low, Py_ssize_t low_count, const float* high, Py_ssize_t high_count, char* to, Py_ssize_t step,
    ) noexcept nogil
    void split_transposed "rnn_split_transposed"(
        const float* a, Py_ssize_t a_row, const Py_ssize_t* rows, Py_ssize_t row_count, Py_ssize_t columns, char* to,
        Py_ssize_t step,
    ) noexcept nogil

cdef enum:
    TILE = 1024                  # bytes
    SIDE = 16                    # rows, columns
    DEEP = 32                    # k
    PAIR = 2 * SIDE              # columns of a pair of blocks
    B_BLOCK = 6 * TILE           # of a pair, for a block of k
    A_BLOCK = 3 * TILE           # of a block of rows
    TILED = 128                  # fewer rows or columns of a weight gradient gain little


cdef inline Py_ssize_t tiles_size(Py_ssize_t K, Py_ssize_t N) noexcept nogil:
    """Bytes of tiles (K, N)."""
    return pieces(K, DEEP) * pieces(N, PAIR) * B_BLOCK


cdef inline bint tiles_pay(Py_ssize_t M, Py_ssize_t N, real* kind) noexcept nogil:
    """Whether a weight gradient (M, N) is one of tiles: of whole blocks, enough must be rows and columns."""
    return (TILES and real is float and min(M, N) >= TILED
            and 5 * M * N >= 3 * pieces(M, SIDE) * SIDE * pieces(N, PAIR) * PAIR)


cdef inline char* tiles_place(char* tiles, Py_ssize_t K, Py_ssize_t k, Py_ssize_t j) noexcept nogil:
    """Where the block of k and of column j begins."""
    return tiles + (j // PAIR * pieces(K, DEEP) + k // DEEP) * B_BLOCK + j % PAIR // SIDE * TILE


# ---------------------------------------------------------------------------------------------
# c += a @ b: four tiles of c stay in registers. The products of a block of k come in one order in both shapes:
# of the parts of a and b 2 0, 1 0, 1 1, 0 1, 0 0, 0 2; from one to the next one operand changes.

cdef inline void load_c(const float* c, Py_ssize_t c_row, Py_ssize_t others) noexcept nogil:
    """Two tiles side by side, and two more behind."""
    cdef Py_ssize_t step = c_row * sizeof(float)
    settle()
    tile_load(0, c, step)
    tile_load(1, c + SIDE, step)
    tile_load(2, c + others, step)
    tile_load(3, c + others + SIDE, step)


cdef inline void store_c(float* c, Py_ssize_t c_row, Py_ssize_t others) noexcept nogil:
    cdef Py_ssize_t step = c_row * sizeof(float)
    tile_store(0, c, step)
    tile_store(1, c + SIDE, step)
    tile_store(2, c + others, step)
    tile_store(3, c + others + SIDE, step)
    settle()


cdef inline void load_a(const char* a, Py_ssize_t a_step) noexcept nogil:
    tile_load(4, a, 64)
    tile_load(5, a + a_step, 64)


cdef inline void load_b(const char* b) noexcept nogil:
    tile_load(6, b, 64)
    tile_load(7, b + TILE, 64)


cdef inline void add_four() noexcept nogil:
    """The parts of a in registers times those of b."""
    tile_multiply_add(0, 4, 6)
    tile_multiply_add(1, 4, 7)
    tile_multiply_add(2, 5, 6)
    tile_multiply_add(3, 5, 7)


cdef inline void two_by_two(
    const char* a, Py_ssize_t a_step, const char* b, Py_ssize_t blocks, float* c, Py_ssize_t c_row,
) noexcept nogil:
    """32 rows and 32 columns of c; the second 16 rows of a lie a_step behind the first."""
    cdef Py_ssize_t _
    load_c(c, c_row, SIDE * c_row)
    for _ in range(blocks):
        load_a(a + 2 * TILE, a_step)
        load_b(b)
        add_four()
        load_a(a + TILE, a_step)
        add_four()
        load_b(b + 2 * TILE)
        add_four()
        load_a(a, a_step)
        add_four()
        load_b(b)
        add_four()
        load_b(b + 4 * TILE)
        add_four()
        a += A_BLOCK
        b += B_BLOCK
    store_c(c, c_row, SIDE * c_row)


cdef inline void add_two(const char* b, const char* b_next) noexcept nogil:
    """Both parts of a in registers times one part of b."""
    tile_load(6, b, 64)
    tile_multiply_add(0, 4, 6)
    tile_load(7, b + TILE, 64)
    tile_multiply_add(1, 4, 7)
    tile_multiply_add(0, 5, 6)
    tile_load(6, b_next, 64)
    tile_multiply_add(2, 4, 6)
    tile_multiply_add(1, 5, 7)
    tile_load(7, b_next + TILE, 64)
    tile_multiply_add(3, 4, 7)
    tile_multiply_add(2, 5, 6)
    tile_multiply_add(3, 5, 7)


cdef inline void add_one(const char* b, const char* b_next) noexcept nogil:
    """The first part of a times one part of b."""
    tile_load(6, b, 64)
    tile_multiply_add(0, 4, 6)
    tile_load(7, b + TILE, 64)
    tile_multiply_add(1, 4, 7)
    tile_load(6, b_next, 64)
    tile_multiply_add(2, 4, 6)
    tile_load(7, b_next + TILE, 64)
    tile_multiply_add(3, 4, 7)


cdef inline void one_by_four(
    const char* a, const char* b, const char* b_next, Py_ssize_t blocks, float* c, Py_ssize_t c_row,
) noexcept nogil:
    """16 rows and 64 columns of c, for two pairs of columns' blocks."""
    cdef Py_ssize_t _
    load_c(c, c_row, PAIR)
    for _ in range(blocks):
        tile_load(4, a + 2 * TILE, 64)
        tile_load(5, a + TILE, 64)
        add_two(b, b_next)
        tile_load(4, a + TILE, 64)
        tile_load(5, a, 64)
        add_two(b + 2 * TILE, b_next + 2 * TILE)
        tile_load(4, a, 64)
        add_one(b, b_next)
        add_one(b + 4 * TILE, b_next + 4 * TILE)
        a += A_BLOCK
        b += B_BLOCK
        b_next += B_BLOCK
    store_c(c, c_row, PAIR)


# ---------------------------------------------------------------------------------------------
# Whole products

cdef inline char* on_line(char* room) noexcept nogil:
    """The first boundary of a cache line."""
    return <char*>((<size_t>room + 63) // 64 * 64)


cdef inline void copy_block(
    const float* source, Py_ssize_t source_row, float* to, Py_ssize_t to_row, Py_ssize_t rows, Py_ssize_t columns,
) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(rows):
        for j in range(columns):
            to[i * to_row + j] = source[i * source_row + j]


cdef inline void add_pair(
    const char* a, Py_ssize_t a_step, const char* b, Py_ssize_t blocks, float* c, Py_ssize_t c_row, Py_ssize_t rows,
    Py_ssize_t columns,
) noexcept nogil:
    """two_by_two, where c may have fewer rows and columns."""
    cdef char room[PAIR * PAIR * 4 + 64]
    cdef float* corner = <float*>on_line(room)
    if rows >= PAIR and columns >= PAIR:
        two_by_two(a, a_step, b, blocks, c, c_row)
        return
    rows, columns = min(rows, <Py_ssize_t>PAIR), min(columns, <Py_ssize_t>PAIR)
    copy_block(c, c_row, corner, PAIR, rows, columns)
    two_by_two(a, a_step, b, blocks, corner, PAIR)
    copy_block(corner, PAIR, c, c_row, rows, columns)


cdef inline void add_wide(
    const char* a, const char* b, Py_ssize_t b_step, Py_ssize_t blocks, float* c, Py_ssize_t c_row, Py_ssize_t rows,
    Py_ssize_t columns,
) noexcept nogil:
    """one_by_four, where c may have fewer rows and columns."""
    cdef char room[SIDE * 2 * PAIR * 4 + 64]
    cdef float* corner = <float*>on_line(room)
    cdef const char* b_next = b + b_step if columns > PAIR else b
    if rows >= SIDE and columns >= 2 * PAIR:
        one_by_four(a, b, b_next, blocks, c, c_row)
        return
    rows, columns = min(rows, <Py_ssize_t>SIDE), min(columns, <Py_ssize_t>(2 * PAIR))
    copy_block(c, c_row, corner, 2 * PAIR, rows, columns)
    one_by_four(a, b, b_next, blocks, corner, 2 * PAIR)
    copy_block(corner, 2 * PAIR, c, c_row, rows, columns)


cdef inline void add_strip(
    const char* strip, Py_ssize_t low, Py_ssize_t rows, Py_ssize_t blocks, const char* b, Py_ssize_t b_step,
    Py_ssize_t N, float* c, Py_ssize_t c_row,
) noexcept nogil:
    """c (.., N) += the strip @ b for rows from `low` on; pairs of columns' blocks of b are b_step apart."""
    cdef Py_ssize_t a_step = blocks * A_BLOCK
    cdef Py_ssize_t pairs = (rows + SIDE - 1) // PAIR
    cdef Py_ssize_t p, i, j, n
    for p in range(pieces(N, PAIR)):
        j = p * PAIR
        for i in range(pairs):
            n = low + i * PAIR
            add_pair(strip + 2 * i * a_step, a_step, b + p * b_step, blocks, c + n * c_row + j, c_row, low + rows - n,
                     N - j)
    n = low + pairs * PAIR
    for p in range(pieces(N, 2 * PAIR) if n < low + rows else 0):
        j = p * 2 * PAIR
        add_wide(strip + 2 * pairs * a_step, b + 2 * p * b_step, b_step, blocks, c + n * c_row + j, c_row,
                 low + rows - n, N - j)


cdef inline void add_outer_tiles(
    const Py_ssize_t* rows, Py_ssize_t K, Py_ssize_t low, Py_ssize_t high, Py_ssize_t N,
    const float* a, Py_ssize_t a_row, const char* b, float* c, Py_ssize_t c_row,
) noexcept nogil:
    """c (.., N) += a.T @ b, for columns low .. high-1 of a."""
    cdef char* strip = strip_of_thread()
    cdef Py_ssize_t blocks = pieces(K, DEEP)
    cdef Py_ssize_t some = STRIP_SIZE // (blocks * A_BLOCK) * SIDE
    cdef Py_ssize_t i, r, q, j, width
    for i in range(pieces(high - low, some)):
        j = low + i * some
        width = min(some, high - j)
        for r in range(pieces(width, SIDE)):
            for q in range(blocks):
                split_transposed(a + j + r * SIDE, a_row, rows + q * DEEP, K - q * DEEP, width - r * SIDE,
                                 strip + (r * blocks + q) * A_BLOCK, TILE)
        add_strip(strip, j, width, blocks, b, blocks * B_BLOCK, N, c, c_row)


cdef inline void tile_some_rows(
    char* tiles, const Py_ssize_t* rows, Py_ssize_t K, Py_ssize_t N,
    const float* b, Py_ssize_t b_row, const Py_ssize_t* b_rows,
) noexcept nogil:
    """Tiles (K, N) of some rows of b."""
    cdef Py_ssize_t k, p, j, low, high
    for k in range(pieces(K, DEEP) * DEEP):
        if k % DEEP >= SIDE:             # those of each block that others stand beside
            continue
        low = -1 if k >= K else (rows[k] if b_rows is NULL else b_rows[rows[k]])
        high = -1 if k + SIDE >= K else (rows[k + SIDE] if b_rows is NULL else b_rows[rows[k + SIDE]])
        for p in range(pieces(N, SIDE)):
            j = p * SIDE
            split(b + low * b_row + j, N - j if low >= 0 else 0, b + high * b_row + j, N - j if high >= 0 else 0,
                  tiles_place(tiles, K, k, j) + k % DEEP * 4 * SIDE, 2 * TILE)
