"""Products of float32 by the tile registers of a CPU (AMX), which multiply bytes 32 times as fast.

Every row of a and every column of the weights becomes fixed-point: whole numbers of a unit of its own, such that its
largest number has 24 bits, in three digits of base 256 (Ozaki, Ogita, Oishi & Rump 2012, "Error-free transformations
of matrix multiplication by using fast routines of matrix multiplication and its applications"). Of the nine products
of digits all but the lowest are summed up, as integers: without rounding, so that the order does not matter, and a row
gives the same bits in any batch, however many rows are multiplied at once. What is rounded are the numbers, to half a
unit, and the sums, once for every DEEPEST of k: errors are small beside the largest number of the row and of the
column. That is as good as multiply-adds for hidden states and gradients; but not for inputs, of which one may be a
million times as large as another that matters too. A weight gradient sums up steps: there it is the numbers of one
gradient, and those of one input, that share a unit, and inputs may be of any scale.

    weights  [block of 16 columns](their units, then [block of 64 k][digit][k][column][4 k]): of a block's k, the four
             of a column that stand together are k, k + 16, k + 32 and k + 48
    strip    [block of rows][block of k][digit][row][k], 16 rows in a block; but the few last ones are closer together
    missing columns and k are zero
"""

from _math cimport pieces, real

cdef extern from "_digits.h":
    enum:
        DIGITS "RNN_DIGITS"              # whether the level has them
        DEEPEST "RNN_DIGITS_DEEPEST"     # k whose sums are added up as integers, and
        MOST_ROWS "RNN_DIGITS_ROWS"      # rows whose digits are at hand: they use a column's while these are near
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
    TILE = 1024                  # bytes
    SIDE = 16                    # rows, columns
    DEEP = 64                    # k of a block
    BLOCK = 3 * TILE
    UNITS = 4 * SIDE             # bytes
    FEW = 4                      # rows whose sums fit into one tile
    LEAST = 1 << 14              # weights; fewer stay in the nearest cache as floats
    ROWS_FOR_HALF = 512          # rows at once that gain by half as many
    LEAST_ALONE = 1 << 15        # to multiply a row by fewer takes less time than to wake the tile registers
    MANY = 16                    # rows at once that always gain; fewer need
    LEAST_WORK = 1 << 19         # so many multiply-adds, and
    LEAST_ROWS = 128             # rows of all steps, as digits are packed anew for each training step
    LARGE = 3 << 19              # bytes of weights that the second cache does not hold beside all else
    LEAST_SIDE = 64              # rows and columns of a weight gradient, and
    LEAST_SUMMED = 10 << 10      # numbers of b that are summed up for each of its rows: to find digits takes time too


cdef inline Py_ssize_t column_size(Py_ssize_t K) noexcept nogil:
    """Bytes of a block of columns."""
    return UNITS + pieces(K, DEEP) * BLOCK


cdef inline Py_ssize_t digits_size(Py_ssize_t K, Py_ssize_t N) noexcept nogil:
    """Bytes of weights (K, N)."""
    return pieces(N, SIDE) * column_size(K)


cdef inline bint digits_pay(
    Py_ssize_t rows, Py_ssize_t steps, Py_ssize_t K, Py_ssize_t N, bint training, real* kind,
) noexcept nogil:
    """Whether to multiply by weights (K, N) like that: there are many, and enough of their blocks is k and columns.

    A prediction gives a sequence the same bits by itself: there the number of rows does not count.
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
    """Whether to find a weight gradient (M, N) like that, if it is one of many steps."""
    cdef Py_ssize_t blocks = pieces(M, SIDE) * SIDE * pieces(N, SIDE) * SIDE
    return DIGITS and real is float and min(M, N) >= LEAST_SIDE and 5 * M * N >= 3 * blocks


cdef inline char* column_place(char* digits, Py_ssize_t K, Py_ssize_t j) noexcept nogil:
    """Where the block of column j begins."""
    return digits + j // SIDE * column_size(K)


# ---------------------------------------------------------------------------------------------
# Packing

cdef inline void pack_digits_transposed(
    char* digits, const float* w, Py_ssize_t w_row, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t K,
    Py_ssize_t first, Py_ssize_t last,
) noexcept nogil:
    """Digits (K, groups * stride) of w.T, as pack_transposed."""
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
    """Digits (K, N) of w, as pack, but columns first .. last-1: they are rounded together."""
    cdef Py_ssize_t i
    for i in range(first // SIDE, pieces(last, SIDE)):
        digits_of_rows(w + i * SIDE, w_row, groups, size, stride, K, last - i * SIDE,
                       column_place(digits, K, i * SIDE))


# ---------------------------------------------------------------------------------------------
# c = start + a @ digits

cdef struct Asked:               # memory that comes into the second cache meanwhile:
    const char* place            # from here on
    Py_ssize_t lines             # cache lines each time


cdef inline void ask(Asked* asked) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(asked.lines):
        prefetch(asked.place + i * 64)
    asked.place += asked.lines * 64


# The sums of products of digits a_0 a_1 a_2 and b_0 b_1 b_2, each 256 times less than the one before:
# a_0 b_0,  a_0 b_1 + a_1 b_0,  a_0 b_2 + a_1 b_1 + a_2 b_0,  a_1 b_2 + a_2 b_1

cdef inline void multiply_block(
    const char* a, const char* b, Py_ssize_t blocks, char* sums, const Result* result, Corner* ready, Asked* asked,
) noexcept nogil:
    """The sums of 16 rows and 16 columns. Meanwhile the corner before is finished."""
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
    """The products of one digit of two blocks of columns, b and c."""
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
    """All sums of FEW rows at most and 16 columns in one tile, one below the other; two such tiles at once.

    To a digit of b, those of a begin a part later. Every other time other tiles sum up, while these are stored.
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
    """The strip of some rows."""
    cdef Py_ssize_t i
    for i in range(rows):
        digits_of_row(a + i * a_row, K, room.strip + i // SIDE * pieces(K, DEEP) * BLOCK + i % SIDE * DEEP, BLOCK, TILE,
                      room.units + i)


cdef inline void pack_few(Room* room, const float* a, Py_ssize_t a_row, Py_ssize_t rows, Py_ssize_t K) noexcept nogil:
    """The same for FEW rows at most: around the digits of a block of k are zeros, twice before them and once behind."""
    cdef Py_ssize_t part = rows * DEEP
    cdef Py_ssize_t i
    for i in range(pieces(K, DEEP)):
        zero_rows(room.strip + i * 6 * part, 2 * rows)
        zero_rows(room.strip + (i * 6 + 5) * part, rows)
    for i in range(rows):
        digits_of_row(a + i * a_row, K, room.strip + 2 * part + i * DEEP, 6 * part, part, room.units + i)


cdef struct Operand:             # the weights of a product, some blocks of k of them
    const char* place            # the first block of columns
    Py_ssize_t step              # to the next one
    Py_ssize_t columns
    Py_ssize_t begin, blocks     # of k
    bint large                   # whether they come from afar: the next block of columns is asked for then
    bint back                    # from the last block of columns on


cdef inline Py_ssize_t column_at(const Operand* b, Py_ssize_t p) noexcept nogil:
    """The first column of the p-th block."""
    return (pieces(b.columns, SIDE) - 1 - p if b.back else p) * SIDE


cdef inline const float* units_at(const Operand* b, Py_ssize_t j) noexcept nogil:
    return <const float*>(b.place + j // SIDE * b.step)


cdef inline const char* tiles_at(const Operand* b, Py_ssize_t j) noexcept nogil:
    return b.place + j // SIDE * b.step + UNITS + b.begin * BLOCK


cdef inline void multiply_many(Room* room, const Operand* b, const Result* c, Asked* asked) noexcept nogil:
    """c = start + the strip @ b"""
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
    """The same for FEW rows at most."""
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
    """How many rows to multiply next: whole blocks, or of half a block at most a few, and then again a few.

    Large weights come from afar but once for all of them.
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
    """Digits (K, N) of some rows of b, from column `begin` on."""
    cdef Py_ssize_t p
    cdef char* place
    for p in range(pieces(N, SIDE)):
        place = column_place(digits, K, p * SIDE)
        digits_of_steps(rows, K, begin + p * SIDE, N - p * SIDE, False, <float*>place, place + UNITS)


cdef inline void add_outer_digits(
    const float** rows, Py_ssize_t K, Py_ssize_t begin, Py_ssize_t low, Py_ssize_t high, Py_ssize_t N,
    const char* digits, float* c, Py_ssize_t c_row,
) noexcept nogil:
    """c (.., N) += a.T @ digits (K, N), for columns low .. high-1 of some rows of a, counted from `begin`."""
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
