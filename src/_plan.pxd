"""What every stage of a network shares: the packed batch, and how a stage is run from C.

Dimensions: N sequences, T steps, M valid steps of the whole batch, R rows of a stage (M, or N
behind a "last" output), D input size, H hidden size, G gates, O output size, V vocabulary.

A batch is packed in shares, one for each thread that goes through its rows. Its sequences are sorted by length, and
a share of them is packed time-major: step 0 of all of them, then step 1 of those that have one, and so on. Step t of
row n of share p is packed row offsets[p][t] + n. Sums over rows go by their steps nevertheless, and by rows within
a step: so the number of shares changes no bit.
"""

from _math cimport real

from libc.string cimport memcpy, memset

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.pycapsule cimport PyCapsule_New

cdef enum:
    MOST = 64                    # threads
    PAIR = 128                   # bytes of two cache lines

cdef struct Rows:
    Py_ssize_t N, T
    Py_ssize_t capacity          # packed rows that there is room for
    Py_ssize_t most              # shares that there may be
    const Py_ssize_t* sizes      # (2,)   M, and how many shares there are
    const Py_ssize_t* bounds     # (shares+1,) rows bounds[p] .. bounds[p+1]-1 are share p
    const Py_ssize_t* offsets    # (shares, T+1) packed row at which step t of a share begins, less its first row
    const Py_ssize_t* middle     # (1,)   the first row of the second half, of about as many steps as the first one
    const Py_ssize_t* counts     # (T,)   sequences that go on at step t
    const Py_ssize_t* lengths    # (N,)   descending
    Py_ssize_t* horizon          # (3,)   k, phase, per sequence: how far back a loss reaches; k = 0: to the beginning

cdef struct Band:
    Py_ssize_t first, last       # rows first .. last-1 of the batch
    Py_ssize_t share             # that they belong to,
    bint whole                   # whether they are all of it,
    Py_ssize_t home              # its first row, where its bands have buffers in turn,
    const Py_ssize_t* offsets    # (T+1,) and where its steps begin

cdef struct Portion:             # of the weights' gradients:
    Py_ssize_t part, parts       # some output tiles,
    Py_ssize_t first, last       # and what some rows add to them;
    bint second                  # where each half of a batch has sums of its own, whether for the second one's
    Py_ssize_t thread            # whose scratch is used

# The rows of the batch are shared out over threads, or one thread has them all, and a team shares the products;
# weights and their gradients are shared out by tile, part of parts. No sum is split, but those over rows into the
# same two halves always: so threads never change a bit.
# `numbers` points at the plan's main buffer: its type tells the specialisation, float or double.
ctypedef void (*OverRows)(void* plan, void* numbers, const Band* band) noexcept nogil
ctypedef void (*OverTiles)(void* plan, void* numbers, Py_ssize_t part, Py_ssize_t parts) noexcept nogil
ctypedef void (*OverPortion)(void* plan, void* numbers, const Portion* portion) noexcept nogil

ctypedef void (*Job)(void* argument, Py_ssize_t part, Py_ssize_t parts) noexcept nogil
ctypedef void (*Parallel)(Job job, void* argument, Py_ssize_t parts) noexcept nogil      # all parts, each on a thread

cdef struct Stage:
    void* plan
    void* numbers
    Rows* rows
    bint per_sequence       # R = N; else M
    Py_ssize_t band         # rows that are taken through all steps at a time; 0: all
    double work             # multiply-adds of a row, forward
    Py_ssize_t most         # threads that accumulate has scratch for; 0: it needs none
    Py_ssize_t weights      # bytes of those that every step needs; 0: none does
    Py_ssize_t team         # threads that share each of its products, where they do not share the rows; they meet in
    Parallel parallel
    OverTiles pack          # reads the weights into panels, or digits; or NULL
    OverRows forward
    OverRows backward
    OverPortion accumulate  # sums up the weights' gradients, or NULL;
    bint halved             # for each half of the batch
    OverTiles gather        # after that: adds sums of their own to the gradients; or NULL
    void (*finish)(void* plan) noexcept nogil       # once all rows are forward; or NULL

# How an optimizer treats one flat parameter.
cdef struct Rule:
    void* plan
    Py_ssize_t size
    void* grad
    Py_ssize_t grad_bytes
    void (*update)(void* plan, Py_ssize_t begin, Py_ssize_t end) noexcept nogil
    double (*sum_of_squares)(void* plan) noexcept nogil
    void (*scale)(void* plan, double factor, Py_ssize_t begin, Py_ssize_t end) noexcept nogil
    void (*clip)(void* plan, double limit, Py_ssize_t begin, Py_ssize_t end) noexcept nogil


cdef inline void* address(object array) except? NULL:
    """Where the data of an array lies; read-only arrays too. NULL for None."""
    if array is None:
        return NULL
    return <void*><size_t>array.__array_interface__["data"][0]


cdef inline Py_ssize_t row_stride(object array):
    """Elements from one row to the next."""
    if array is None:
        return 0
    return array.strides[0] // array.itemsize


cdef inline Rows packed_rows(object rows):
    cdef Rows r
    r.N = rows.N
    r.T = rows.T
    r.capacity = rows.capacity
    r.most = rows.most
    r.sizes = <const Py_ssize_t*>address(rows.sizes)
    r.bounds = <const Py_ssize_t*>address(rows.bounds)
    r.middle = <const Py_ssize_t*>address(rows.middle)
    r.counts = <const Py_ssize_t*>address(rows.counts)
    r.offsets = <const Py_ssize_t*>address(rows.offsets)
    r.lengths = <const Py_ssize_t*>address(rows.lengths)
    r.horizon = <Py_ssize_t*>address(rows.horizon)
    return r


cdef inline object stage_capsule(Stage* stage):
    return PyCapsule_New(stage, "rnncore.Stage", NULL)


cdef inline object rule_capsule(Rule* rule):
    return PyCapsule_New(rule, "rnncore.Rule", NULL)


# ---------------------------------------------------------------------------------------------
# A band of a share is one run of packed rows for every step; the whole share is one run, and so
# is a band of the N rows behind a "last" output.

cdef enum:
    APART = 8                    # rows between those of two shares in a buffer that every step uses anew: cores
                                 # fetch what lies behind the lines that they read, and another one is writing there


cdef inline const Py_ssize_t* offsets_of(const Rows* rows, Py_ssize_t share) noexcept nogil:
    return rows.offsets + share * (rows.T + 1)


cdef inline Py_ssize_t rows_apart(const Rows* rows) noexcept nogil:
    """Rows of a buffer that holds one of each sequence, as far apart."""
    return rows.N + (rows.most - 1) * APART


cdef inline Py_ssize_t spans(const Rows* rows, bint per_sequence, const Band* band) noexcept nogil:
    return 1 if per_sequence or band.whole else rows.T


cdef inline Py_ssize_t span(
    const Rows* rows, bint per_sequence, Py_ssize_t s, const Band* band, Py_ssize_t* begin,
) noexcept nogil:
    """Rows of span s: returns how many, and where they begin."""
    if per_sequence:
        begin[0] = band.first
        return band.last - band.first
    if band.whole:
        begin[0] = band.offsets[0] + band.first
        return band.offsets[rows.T] - band.offsets[0]
    begin[0] = band.offsets[s] + band.first
    return max(min(band.last, rows.counts[s]) - band.first, 0)


# Sums over rows go by blocks of these.

cdef enum:
    BLOCK_ROWS = 256             # rows of each, but the last one

cdef struct Blocks:              # of some rows of the batch, one after another:
    const Rows* batch
    bint per_sequence
    bint one_run                 # they are one share, all of whose packed rows follow one another
    Py_ssize_t first, last
    Py_ssize_t t, share, taken   # where the next one begins: a step, a share, and how much of it earlier ones had
    Py_ssize_t count             # packed rows of the one at hand,
    Py_ssize_t begun, ended      # of which so many are at step 0, and so many before step T-1;
    Py_ssize_t rows[BLOCK_ROWS]  # and which, in the order of their steps


cdef inline void begin_blocks(
    Blocks* blocks, const Rows* batch, bint per_sequence, Py_ssize_t first, Py_ssize_t last,
) noexcept nogil:
    cdef Py_ssize_t p = 0
    blocks.batch, blocks.per_sequence, blocks.first, blocks.last = batch, per_sequence, first, last
    while p + 1 < batch.sizes[1] and batch.bounds[p + 1] <= first:
        p += 1
    blocks.one_run = per_sequence or (batch.bounds[p] == first and batch.bounds[p + 1] == last)
    blocks.t = blocks.taken = 0
    blocks.share = p if blocks.one_run else 0


cdef inline Py_ssize_t take(Blocks* blocks, Py_ssize_t begin, Py_ssize_t size) noexcept nogil:
    """So many packed rows, less those that are taken, as far as there is room; returns how many are left."""
    cdef Py_ssize_t some = min(size - blocks.taken, BLOCK_ROWS - blocks.count)
    cdef Py_ssize_t m
    for m in range(some):
        blocks.rows[blocks.count + m] = begin + blocks.taken + m
    blocks.count += some
    blocks.taken += some
    return size - blocks.taken


cdef inline void take_run(Blocks* blocks) noexcept nogil:
    """The next rows of a share, or of those behind a "last" output."""
    cdef const Py_ssize_t* offsets = offsets_of(blocks.batch, blocks.share)
    cdef Py_ssize_t T = blocks.batch.T
    cdef Py_ssize_t before = blocks.taken
    if blocks.per_sequence:
        take(blocks, blocks.first, blocks.last - blocks.first)
    else:
        take(blocks, blocks.first + offsets[0], offsets[T] - offsets[0])
    if blocks.count > 0 and T > 0:
        blocks.begun = min(max(offsets[1] - offsets[0] - before, <Py_ssize_t>0), blocks.count)
        blocks.ended = min(max(offsets[T - 1] - offsets[0] - before, <Py_ssize_t>0), blocks.count)


cdef inline void take_steps(Blocks* blocks) noexcept nogil:
    """At each step the rows of one share after another."""
    cdef const Rows* batch = blocks.batch
    cdef Py_ssize_t low, high
    while blocks.count < BLOCK_ROWS and blocks.t < batch.T:
        low = max(blocks.first, batch.bounds[blocks.share])
        high = min(min(blocks.last, batch.bounds[blocks.share + 1]), batch.counts[blocks.t])
        if take(blocks, offsets_of(batch, blocks.share)[blocks.t] + low, max(high - low, <Py_ssize_t>0)) == 0:
            blocks.taken = 0
            blocks.share += 1
        if blocks.t == 0:
            blocks.begun = blocks.count
        if blocks.t < batch.T - 1:
            blocks.ended = blocks.count
        if blocks.share == batch.sizes[1]:
            blocks.share, blocks.t = 0, blocks.t + 1


cdef inline bint next_block(Blocks* blocks) noexcept nogil:
    """Whether there is another one."""
    blocks.count = blocks.begun = blocks.ended = 0
    if blocks.one_run:
        take_run(blocks)
    else:
        take_steps(blocks)
    return blocks.count > 0


cdef inline bint cut(const Rows* rows, Py_ssize_t t, Py_ssize_t n) noexcept nogil:
    """Whether step t of row n gets no gradient from the step after it."""
    cdef Py_ssize_t k = rows.horizon[0]
    if k == 0:
        return False
    if rows.horizon[2]:
        return rows.lengths[n] == t + k + 1
    return t % k == rows.horizon[1]


cdef inline Py_ssize_t row_count(const Rows* rows, bint per_sequence) noexcept nogil:
    """R"""
    return rows.N if per_sequence else rows.sizes[0]


cdef inline Py_ssize_t share(Py_ssize_t size, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Where part `part` of `size` columns begins: at whole vectors of any level."""
    return size if part == parts else (size // 16) * part // parts * 16


cdef inline void add(real* restrict to, const real* restrict values, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(size):
        to[j] += values[j]


cdef enum:
    TOGETHER = 64                # columns whose sums over a block are found at a time


cdef inline void add_chosen_rows(
    real* restrict sums, const Py_ssize_t* chosen, Py_ssize_t count, const real* rows, Py_ssize_t row, Py_ssize_t size,
) noexcept nogil:
    """sums (size,) += the sum of some rows."""
    cdef real block[TOGETHER]
    cdef Py_ssize_t i, k, j, width
    for i in range((size + TOGETHER - 1) // TOGETHER):
        j = i * TOGETHER
        width = min(<Py_ssize_t>TOGETHER, size - j)
        memset(block, 0, width * sizeof(real))
        for k in range(count):
            add(block, rows + chosen[k] * row + j, width)
        add(sums + j, block, width)


cdef inline void add_rows(
    real* sums, const Blocks* blocks, const real* rows, Py_ssize_t row, Py_ssize_t size,
) noexcept nogil:
    """sums (size,) += the rows of a block.

    A block has a sum of its own before it joins the others: over very many rows, one sum would lose digits.
    """
    add_chosen_rows(sums, blocks.rows, blocks.count, rows, row, size)


cdef inline void sort_by_token(const Blocks* blocks, const Py_ssize_t* ids, Py_ssize_t* sorted_rows) noexcept nogil:
    """The rows of a block, those of one token together and in their order: sorted by eight bits of the ids at a time."""
    cdef Py_ssize_t other[BLOCK_ROWS]
    cdef Py_ssize_t begins[256]
    cdef Py_ssize_t bits = 0         # of all ids that are not all zero
    cdef Py_ssize_t shift = 0
    cdef Py_ssize_t k, digit, begin
    for k in range(blocks.count):
        sorted_rows[k] = blocks.rows[k]
        bits |= ids[blocks.rows[k]]
    while bits >> shift > 0:
        memset(begins, 0, sizeof(begins))
        for k in range(blocks.count):
            begins[(ids[sorted_rows[k]] >> shift) & 255] += 1
        begin = 0
        for digit in range(256):
            begins[digit], begin = begin, begin + begins[digit]
        for k in range(blocks.count):
            digit = (ids[sorted_rows[k]] >> shift) & 255
            other[begins[digit]] = sorted_rows[k]
            begins[digit] += 1
        memcpy(sorted_rows, other, blocks.count * sizeof(Py_ssize_t))
        shift += 8


cdef inline void add_rows_by_token(
    real* sums, Py_ssize_t sums_row, const Blocks* blocks, const Py_ssize_t* ids, const real* rows, Py_ssize_t row,
    Py_ssize_t size,
) noexcept nogil:
    """sums (V, size) += the rows of a block, each to the sum of its token; as in add_rows."""
    cdef Py_ssize_t sorted_rows[BLOCK_ROWS]
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t end
    sort_by_token(blocks, ids, sorted_rows)
    while k < blocks.count:
        end = k + 1
        while end < blocks.count and ids[sorted_rows[end]] == ids[sorted_rows[k]]:
            end += 1
        add_chosen_rows(sums + ids[sorted_rows[k]] * sums_row, sorted_rows + k, end - k, rows, row, size)
        k = end


cdef inline void add_share(
    void* to, const void* values, Py_ssize_t size, Py_ssize_t part, Py_ssize_t parts, real* kind,
) noexcept nogil:
    """to (size,) += values, some of them."""
    cdef Py_ssize_t low = share(size, part, parts)
    add(<real*>to + low, <const real*>values + low, share(size, part + 1, parts) - low)


cdef inline int buffer(list keep, Py_ssize_t size, void** place) except -1:
    """`size` bytes of zeros on the boundary of a pair of cache lines; `keep` holds them alive.

    Cores fetch lines by pairs: where threads have neighbouring rows, a pair had better not hold some of both.
    """
    cdef bytearray memory = bytearray(size + PAIR)
    cdef size_t start = <size_t>PyByteArray_AS_STRING(memory)
    keep.append(memory)
    place[0] = <void*>((start + PAIR - 1) // PAIR * PAIR)
    return 0
