"""Products of float32 numbers in the tile registers of a CPU (AMX), which multiply bytes 32 times as fast as floats.

Dimensions: a (M, K) @ weights (K, N) -> c (M, N). SIDE = 16 rows or columns and DEEP = 64 k make a block.

Each row of a, and each column of the weights, becomes fixed-point: whole multiples of a unit of its own, chosen so
that its largest number has 24 bits. Each multiple is three signed digits of base 256, the highest first (Ozaki,
Ogita, Oishi & Rump 2012, "Error-free transformations of matrix multiplication by using fast routines of matrix
multiplication and its applications"):

    number = unit * (65536 d_0 + 256 d_1 + d_2)    -128 <= d_i <= 127, one byte each

A product of two numbers is nine products of digits. All but the lowest, d_2 d_2, are summed up as integers, without
rounding. So the order of sums does not matter, and a row gives the same bits in any batch.

What is rounded are the numbers, to half a unit, and the sums, once for every DEEPEST steps of k. These errors are small
compared with the largest number of the row and of the column. That is as good as multiply-adds for hidden states and
gradients, but not for inputs, where a number may matter that is a million times smaller than another of its row. In a
weight gradient, which sums over steps, the steps of one column of a, or of b, share a unit instead; there inputs may
have any scale.

    weights  [block of 16 columns](16 units, then [block of 64 k][digit][16 k][16 columns][4 k])
    strip    [block of 16 rows][block of 64 k][digit][16 rows][16 k][4 k]; pack_few draws that of a few rows

The four k that lie together are k, k + 16, k + 32 and k + 48 of a block. Missing columns and k are zero.
"""

from _math cimport pieces, real

cdef extern from "_digits.h":
    enum:
        DIGITS "RNN_DIGITS"              # Whether the level has tile registers.
        DEEPEST "RNN_DIGITS_DEEPEST"     # The largest number of k that are summed as integers before rounding.
        MOST_ROWS "RNN_DIGITS_ROWS"      # The largest number of rows that use a block of columns while it is cached.
    struct Result "rnn_result":
        const float* start
        Py_ssize_t start_row
        const Py_ssize_t* ids
        float* c
        Py_ssize_t c_row
        Py_ssize_t first, rows, columns
        const float* units
        Py_ssize_t step
    struct Corner "rnn_corner":
        const char* sums
        const float* column_units
        Py_ssize_t row, end, column
    struct Room "rnn_digits_room":
        char* strip
        char* sums
        float* units
    Room* room_of_thread "rnn_digits_room"() noexcept nogil
    void digits_begin "rnn_digits_begin"(Py_ssize_t rows) noexcept nogil
    void digits_of_row "rnn_digits_of_row"(
        const float* a, Py_ssize_t count, char* to, Py_ssize_t block, Py_ssize_t step, float* unit,
    ) noexcept nogil
    void digits_of_columns "rnn_digits_of_columns"(
        const float* w, Py_ssize_t w_row, Py_ssize_t rows, Py_ssize_t columns, char* to,
    ) noexcept nogil
    void digits_of_rows "rnn_digits_of_rows"(
        const float* w, Py_ssize_t w_row, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t K,
        Py_ssize_t columns, char* to,
    ) noexcept nogil
    void digits_of_steps "rnn_digits_of_steps"(
        const float** rows, Py_ssize_t K, Py_ssize_t offset, Py_ssize_t columns, bint across, float* units, char* to,
    ) noexcept nogil
    void zero_rows "rnn_zero_rows"(char* to, Py_ssize_t rows) noexcept nogil
    void finish_rows "rnn_finish_rows"(const Result* result, Corner* corner, Py_ssize_t count) noexcept nogil
    void multiply_add "_tile_dpbssd"(int c, int a, int b) noexcept nogil
    void tile_zero "_tile_zero"(int tile) noexcept nogil
    void tile_load "_tile_loadd"(int tile, const void* source, Py_ssize_t step) noexcept nogil
    void tile_store "_tile_stored"(int tile, void* to, Py_ssize_t step) noexcept nogil
    void digits_end "_tile_release"() noexcept nogil
    void settle "rnn_digits_settle"() noexcept nogil
    void prefetch "rnn_digits_prefetch"(const void* place) noexcept nogil     # not into the nearest cache

cdef enum:
    # Sizes.
    TILE = 1024                  # Bytes of a tile register.
    SIDE = 16                    # Rows, or columns, of a block.
    DEEP = 64                    # Steps of k in a block.
    BLOCK = 3 * TILE             # Bytes of a block: a tile for each digit.
    UNITS = 4 * SIDE             # Bytes of a block's units.
    FEW = 4                      # Rows; the four sums of no more than these fit into one tile.

    # When digits pay in a product.
    LEAST = 1 << 14              # Weights; fewer stay in the nearest cache as floats.
    ROWS_FOR_HALF = 512          # Rows per step; with at least these, half of LEAST is enough.
    LEAST_ALONE = 1 << 15        # Weights; a row times fewer takes less time than waking the tile registers.
    MANY = 16                    # Rows per step; at least these pay whatever the number of steps.
    LEAST_WORK = 1 << 19         # Multiply-adds per step that fewer rows need.
    LEAST_ROWS = 128             # Rows of all steps that fewer rows need: each training step packs digits again.
    LARGE = 3 << 19              # Bytes of digits; the second cache does not hold more besides all else.

    # When digits pay in a weight gradient, where computing the digits takes time too.
    LEAST_SIDE = 64              # Rows, and columns, that the gradient has at least.
    LEAST_SUMMED = 10 << 10      # Steps that are summed up at a time, times columns, at least.


cdef inline Py_ssize_t column_size(Py_ssize_t K) noexcept nogil:
    """Bytes of a block of columns."""
    return UNITS + pieces(K, DEEP) * BLOCK


cdef inline Py_ssize_t digits_size(Py_ssize_t K, Py_ssize_t N) noexcept nogil:
    """Bytes of weights (K, N)."""
    return pieces(N, SIDE) * column_size(K)


cdef inline bint digits_pay(
    Py_ssize_t rows, Py_ssize_t steps, Py_ssize_t K, Py_ssize_t N, bint training, real* kind,
) noexcept nogil:
    """Whether to pack weights (K, N) as digits: they are many, and at least 60 % of their blocks is not padding.

    A prediction must give a sequence the same bits alone and in a batch, so there the number of rows does not count.
    """
    cdef Py_ssize_t blocks = pieces(K, DEEP) * DEEP * pieces(N, SIDE) * SIDE
    cdef Py_ssize_t least = LEAST if rows < ROWS_FOR_HALF else LEAST // 2
    if not (DIGITS and real is float and 5 * K * N >= 3 * blocks):
        return False
    if not training:
        return K * N >= LEAST_ALONE
    return K * N >= least and (
        rows >= MANY or (rows >= FEW and rows * K * N >= LEAST_WORK and rows * steps >= LEAST_ROWS))


cdef inline bint digits_may_pay(Py_ssize_t M, Py_ssize_t N, real* kind) noexcept nogil:
    """Whether a weight gradient (M, N) may be computed with digits, if it sums over enough steps."""
    cdef Py_ssize_t blocks = pieces(M, SIDE) * SIDE * pieces(N, SIDE) * SIDE
    return DIGITS and real is float and min(M, N) >= LEAST_SIDE and 5 * M * N >= 3 * blocks


cdef inline char* column_place(char* digits, Py_ssize_t K, Py_ssize_t j) noexcept nogil:
    """The address of the block of columns that column j belongs to."""
    return digits + j // SIDE * column_size(K)


# ---------------------------------------------------------------------------------------------
# Packing

cdef inline void pack_digits_transposed(
    char* digits, const float* w, Py_ssize_t w_row, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t K,
    Py_ssize_t first, Py_ssize_t last,
) noexcept nogil:
    """Pack w.T as digits (K, groups * stride); the arguments are as for pack_transposed."""
    cdef Py_ssize_t g, i, u
    for g in range(groups):
        for i in range(first // SIDE, pieces(last, SIDE)):
            u = i * SIDE
            digits_of_columns(w + (g * size + u) * w_row, w_row, last - u, K,
                              column_place(digits, K, g * stride + u))


cdef inline void pack_digits(
    char* digits, const float* w, Py_ssize_t w_row, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t K,
    Py_ssize_t first, Py_ssize_t last,
) noexcept nogil:
    """Pack columns first .. last-1 of w as digits (K, N); a thread has whole columns, since a column shares a unit."""
    cdef Py_ssize_t i
    for i in range(first // SIDE, pieces(last, SIDE)):
        digits_of_rows(w + i * SIDE, w_row, groups, size, stride, K, last - i * SIDE,
                       column_place(digits, K, i * SIDE))


# ---------------------------------------------------------------------------------------------
# c = start + a @ digits

cdef struct Asked:               # Memory that is prefetched into the second cache during a product.
    const char* place            # The next address.
    Py_ssize_t lines             # Cache lines to prefetch at each call.


cdef inline void ask(Asked* asked) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(asked.lines):
        prefetch(asked.place + i * 64)
    asked.place += asked.lines * 64


# Four sums of products of the digits a_0 a_1 a_2 and b_0 b_1 b_2; each sum's unit is 256 times smaller than the one
# before:
#
#     sum 0   a_0 b_0
#     sum 1   a_0 b_1 + a_1 b_0
#     sum 2   a_0 b_2 + a_1 b_1 + a_2 b_0
#     sum 3             a_1 b_2 + a_2 b_1
#
# Tile registers of multiply_block: 0 .. 3 are the sums, 4 .. 6 the digits of a, 7 a digit of b.

cdef inline void multiply_block(
    const char* a, const char* b, Py_ssize_t blocks, char* sums, const Result* result, Corner* ready, Asked* asked,
) noexcept nogil:
    """Compute the four sums of 16 rows and 16 columns, and finish the previous corner meanwhile."""
    cdef Py_ssize_t rows = pieces(SIDE, 3 * blocks)
    cdef Py_ssize_t _
    tile_zero(0)
    tile_zero(1)
    tile_zero(2)
    tile_zero(3)
    for _ in range(blocks):
        tile_load(4, a, 64)
        tile_load(5, a + TILE, 64)
        tile_load(6, a + 2 * TILE, 64)
        tile_load(7, b, 64)
        multiply_add(2, 6, 7)
        multiply_add(1, 5, 7)
        multiply_add(0, 4, 7)
        ask(asked)
        finish_rows(result, ready, rows)
        tile_load(7, b + TILE, 64)
        multiply_add(3, 6, 7)
        multiply_add(2, 5, 7)
        multiply_add(1, 4, 7)
        ask(asked)
        finish_rows(result, ready, rows)
        tile_load(7, b + 2 * TILE, 64)
        multiply_add(3, 5, 7)
        multiply_add(2, 4, 7)
        ask(asked)
        finish_rows(result, ready, rows)
        a += BLOCK
        b += BLOCK
    tile_store(0, sums, 64)
    tile_store(1, sums + TILE, 64)
    tile_store(2, sums + 2 * TILE, 64)
    tile_store(3, sums + 3 * TILE, 64)
    settle()


cdef inline void add_digit(const char* a, const char* b, const char* c, const bint odd) noexcept nogil:
    """Add the products of one digit of two blocks of columns, b and c."""
    tile_load(4, a, 64)
    tile_load(5, b, 64)
    tile_load(6, c, 64)
    if odd:
        multiply_add(2, 4, 5)
        multiply_add(3, 4, 6)
    else:
        multiply_add(0, 4, 5)
        multiply_add(1, 4, 6)


cdef inline void multiply_stacked(
    const char* a, Py_ssize_t part, const char* b, const char* c, Py_ssize_t blocks, const bint odd, char* sums,
) noexcept nogil:
    """Compute all four sums of up to FEW rows and 16 columns in one tile; for two blocks of columns, b and c, at once.

    A part is the rows of one digit; `part` is its bytes. Each digit of b is multiplied by four neighbouring parts of
    the strip, which pack_few has written:

        strip          0    0    a_0  a_1  a_2  0
        times b_2    [ 0    0    a_0  a_1 ]
        times b_1         [ 0    a_0  a_1  a_2 ]
        times b_0              [ a_0  a_1  a_2  0 ]

    The r-th parts of the three products add up to sum r. Calls with `odd` sum up in other tiles than calls without it,
    so that one pair of tiles is stored while the other sums up.
    """
    cdef Py_ssize_t _
    if odd:
        tile_zero(2)
        tile_zero(3)
    else:
        tile_zero(0)
        tile_zero(1)
    for _ in range(blocks):
        add_digit(a + 2 * part, b, c, odd)
        add_digit(a + part, b + TILE, c + TILE, odd)
        add_digit(a, b + 2 * TILE, c + 2 * TILE, odd)
        a += 6 * part
        b += BLOCK
        c += BLOCK
    if odd:
        tile_store(2, sums, 64)
        tile_store(3, sums + TILE, 64)
    else:
        tile_store(0, sums, 64)
        tile_store(1, sums + TILE, 64)
    settle()


cdef inline void pack_many(Room* room, const float* a, Py_ssize_t a_row, Py_ssize_t rows, Py_ssize_t K) noexcept nogil:
    """Pack `rows` rows of a as blocks of a strip."""
    cdef Py_ssize_t i
    for i in range(rows):
        digits_of_row(a + i * a_row, K, room.strip + i // SIDE * pieces(K, DEEP) * BLOCK + i % SIDE * DEEP, BLOCK, TILE,
                      room.units + i)


cdef inline void pack_few(Room* room, const float* a, Py_ssize_t a_row, Py_ssize_t rows, Py_ssize_t K) noexcept nogil:
    """Pack up to FEW rows of a as [block of 64 k](0, 0, a_0, a_1, a_2, 0), where 0 stands for a part of zeros."""
    cdef Py_ssize_t part = rows * DEEP
    cdef Py_ssize_t i
    for i in range(pieces(K, DEEP)):
        zero_rows(room.strip + i * 6 * part, 2 * rows)
        zero_rows(room.strip + (i * 6 + 5) * part, rows)
    for i in range(rows):
        digits_of_row(a + i * a_row, K, room.strip + 2 * part + i * DEEP, 6 * part, part, room.units + i)


cdef struct Operand:             # Some blocks of k of the weights of a product.
    const char* place            # The first block of columns.
    Py_ssize_t step              # Bytes from one block of columns to the next.
    Py_ssize_t columns           # The number of columns.
    Py_ssize_t begin, blocks     # The first block of k, and the number of these.
    bint large                   # Whether no cache nearby holds the weights: then the next block is prefetched.
    bint back                    # Whether blocks of columns are taken from last to first.


cdef inline Py_ssize_t column_at(const Operand* b, Py_ssize_t p) noexcept nogil:
    """The first column of the block that is taken p-th."""
    return (pieces(b.columns, SIDE) - 1 - p if b.back else p) * SIDE


cdef inline const float* units_at(const Operand* b, Py_ssize_t j) noexcept nogil:
    return <const float*>(b.place + j // SIDE * b.step)


cdef inline const char* tiles_at(const Operand* b, Py_ssize_t j) noexcept nogil:
    return b.place + j // SIDE * b.step + UNITS + b.begin * BLOCK


cdef inline void multiply_many(Room* room, const Operand* b, const Result* c, Asked* asked) noexcept nogil:
    """c = start + strip @ b"""
    cdef Py_ssize_t tall = pieces(c.rows, SIDE)
    cdef Corner ready = Corner(NULL, NULL, 0, 0, 0)
    cdef char* sums = room.sums
    cdef char* others = room.sums + 4 * TILE
    cdef Asked next_b
    cdef Py_ssize_t p, i, j
    for p in range(pieces(b.columns, SIDE)):
        j = column_at(b, p)
        next_b = Asked(tiles_at(b, column_at(b, p + 1)), 16 // tall)
        for i in range(tall):
            multiply_block(room.strip + i * b.blocks * BLOCK, tiles_at(b, j), b.blocks, sums, c, &ready,
                           &next_b if b.large else asked)
            ready = Corner(sums, units_at(b, j), i * SIDE, min((i + 1) * SIDE, c.rows), j)
            sums, others = others, sums
    finish_rows(c, &ready, SIDE)


cdef inline void multiply_few(Room* room, const Operand* b, const Result* c) noexcept nogil:
    """c = start + strip @ b, for up to FEW rows packed by pack_few."""
    cdef Py_ssize_t count = pieces(b.columns, SIDE)
    cdef Corner ready
    cdef const char* tiles[4]
    cdef Py_ssize_t p, q, j
    for p in range(pieces(count, 4)):
        for q in range(4):
            tiles[q] = tiles_at(b, column_at(b, min(p * 4 + q, count - 1)))
        multiply_stacked(room.strip, c.step, tiles[0], tiles[1], b.blocks, False, room.sums)
        multiply_stacked(room.strip, c.step, tiles[2], tiles[3], b.blocks, True, room.sums + 2 * TILE)
        for q in range(min(<Py_ssize_t>4, count - p * 4)):
            j = column_at(b, p * 4 + q)
            ready = Corner(room.sums + q * TILE, units_at(b, j), 0, c.rows, j)
            finish_rows(c, &ready, FEW)


cdef inline Py_ssize_t some_rows(Py_ssize_t rows, bint large) noexcept nogil:
    """How many rows to multiply next.

    A remainder of up to half a block is multiplied FEW rows at a time. But large weights are slow to load, so with
    them a single pass multiplies all rows, up to MOST_ROWS.
    """
    if rows <= (FEW if large else 2 * FEW):
        return min(rows, <Py_ssize_t>FEW)
    rows = min(rows, <Py_ssize_t>MOST_ROWS)
    return rows if large or rows % SIDE > 2 * FEW else rows // SIDE * SIDE


cdef inline void add_digits_product(
    Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const float* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    const float* a, Py_ssize_t a_row, const char* digits, float* c, Py_ssize_t c_row, const char* ahead,
    Py_ssize_t ahead_size, bint back,
) noexcept nogil:
    """c (M, N) = start + a (M, K) @ digits (K, N)."""
    cdef Room* room = room_of_thread()
    cdef Asked asked = Asked(ahead, pieces(ahead_size, 3 * 64 * pieces(K, DEEP) * pieces(M, SIDE) * pieces(N, SIDE)))
    cdef bint large = digits_size(K, N) > LARGE
    cdef Operand b = Operand(digits, column_size(K), N, 0, 0, large, back and large)
    cdef Result result
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t q, k, rows, depth
    while i < M:
        rows = some_rows(M - i, large)
        digits_begin(SIDE if rows > FEW else 4 * rows)
        for q in range(pieces(K, DEEPEST)):
            k = q * DEEPEST
            depth = min(<Py_ssize_t>DEEPEST, K - k)
            b.begin, b.blocks = k // DEEP, pieces(depth, DEEP)
            result = Result(start, start_row, ids, c, c_row, i, rows, N, room.units,
                            TILE if rows > FEW else rows * DEEP)
            if q > 0:
                result.start, result.start_row, result.ids = c, c_row, NULL
            if rows > FEW:
                pack_many(room, a + i * a_row + k, a_row, rows, depth)
                multiply_many(room, &b, &result, &asked)
            else:
                pack_few(room, a + i * a_row + k, a_row, rows, depth)
                multiply_few(room, &b, &result)
        i += rows
    digits_end()


# ---------------------------------------------------------------------------------------------
# Weight gradients: c += a.T @ b

cdef inline void digits_of_some_rows(
    char* digits, const float** rows, Py_ssize_t K, Py_ssize_t begin, Py_ssize_t N,
) noexcept nogil:
    """Pack columns begin .. begin + N - 1 of K rows of b as digits (K, N)."""
    cdef Py_ssize_t p
    cdef char* place
    for p in range(pieces(N, SIDE)):
        place = column_place(digits, K, p * SIDE)
        digits_of_steps(rows, K, begin + p * SIDE, N - p * SIDE, False, <float*>place, place + UNITS)


cdef inline void add_outer_digits(
    const float** rows, Py_ssize_t K, Py_ssize_t begin, Py_ssize_t low, Py_ssize_t high, Py_ssize_t N,
    const char* digits, float* c, Py_ssize_t c_row,
) noexcept nogil:
    """c += a.T @ digits (K, N), for rows low .. high-1 of c and columns begin + low .. begin + high - 1 of a."""
    cdef Room* room = room_of_thread()
    cdef Operand b = Operand(digits, column_size(K), N, 0, pieces(K, DEEP), False, False)
    cdef Asked asked = Asked(NULL, 0)
    cdef Result result
    cdef Py_ssize_t i, j, r, width
    for i in range(pieces(high - low, MOST_ROWS)):
        j = low + i * MOST_ROWS
        width = min(<Py_ssize_t>MOST_ROWS, high - j)
        for r in range(pieces(width, SIDE)):
            digits_of_steps(rows, K, begin + j + r * SIDE, width - r * SIDE, True, room.units + r * SIDE,
                            room.strip + r * b.blocks * BLOCK)
        result = Result(c, c_row, NULL, c, c_row, j, width, N, room.units, TILE)
        multiply_many(room, &b, &result, &asked)
