"""What every stage of a network shares: the packed batch, and how a stage is run from C.

Dimensions: N sequences, T steps, M valid steps of the whole batch, R rows of a stage (M, or N behind a "last"
output), P shares, D input size, H hidden size, G gates, O output size, V vocabulary.

A batch is packed in shares, one for each thread that runs the rows. The sequences are sorted by length, longest
first, and each share takes some neighbouring ones. A share is packed time-major: step 0 of all its sequences, then
step 1 of those that have one, and so on. Step t of row n of share p is packed row offsets[p][t] + n. For example, rows
0 .. 3 of lengths 3, 2, 2, 1 in two shares (n.t stands for step t of row n):

    packed row   0    1    2    3    4    5    6    7
                 0.0  1.0  0.1  1.1  0.2  2.0  3.0  2.1
                 share 0: rows 0, 1       share 1: rows 2, 3

Sums over rows add step by step, and within a step row by row. So their bits do not depend on the number of shares.
"""

from _math cimport real

from libc.string cimport memcpy, memset

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.pycapsule cimport PyCapsule_New

cdef enum:
    MOST = 64                    # The largest number of threads.
    PAIR = 128                   # Bytes of two cache lines, which cores fetch together.

cdef struct Rows:
    Py_ssize_t N, T              # Numbers of sequences and of steps.
    Py_ssize_t capacity          # The number of packed rows that buffers have room for.
    Py_ssize_t most              # The largest possible number of shares.
    const Py_ssize_t* sizes      # (2,) M and P.
    const Py_ssize_t* bounds     # (P+1,) Share p has rows bounds[p] .. bounds[p+1]-1.
    const Py_ssize_t* offsets    # (P, T+1) Step t of row n of share p is packed row offsets[p][t] + n.
    const Py_ssize_t* middle     # (1,) The first row of the second half, which has about half of all steps.
    const Py_ssize_t* counts     # (T,) Rows 0 .. counts[t]-1 have a step t.
    const Py_ssize_t* lengths    # (N,) Valid steps of each row, in descending order.
    Py_ssize_t* horizon          # (3,) k, phase and per sequence: a loss reaches back k steps; k = 0 means all.

cdef struct Band:                # Some rows of a share, which are taken through all steps together.
    Py_ssize_t first, last       # The band has rows first .. last-1 of the batch.
    Py_ssize_t share             # The number of the share that these rows belong to.
    bint whole                   # Whether the band is the whole share.
    Py_ssize_t home              # The first row of the share; its bands use the same buffer rows one after another.
    const Py_ssize_t* offsets    # (T+1,) The share's row of Rows.offsets.

cdef struct Portion:             # A thread's portion of the weights' gradients.
    Py_ssize_t part, parts       # The portion has part `part` of `parts` of the output tiles.
    Py_ssize_t first, last       # Only rows first .. last-1 of the batch are added.
    bint second                  # Whether the sums are those of the second half, where each half has sums of its own.
    Py_ssize_t thread            # The number of the thread, which selects its scratch.

# The rows of the batch are split among threads; or one thread runs them all, and a team splits each product. Weights
# and their gradients are split by tile: part `part` of `parts`. No sum is split among threads; only sums over rows
# are split, always into the same two halves. So the number of threads changes no bit.
# `numbers` points at the plan's main buffer; its type selects the specialisation, float or double.
ctypedef void (*OverRows)(void* plan, void* numbers, const Band* band) noexcept nogil
ctypedef void (*OverTiles)(void* plan, void* numbers, Py_ssize_t part, Py_ssize_t parts) noexcept nogil
ctypedef void (*OverPortion)(void* plan, void* numbers, const Portion* portion) noexcept nogil

ctypedef void (*Job)(void* argument, Py_ssize_t part, Py_ssize_t parts) noexcept nogil
ctypedef void (*Parallel)(Job job, void* argument, Py_ssize_t parts) noexcept nogil      # runs all parts in parallel

cdef struct Stage:
    void* plan
    void* numbers
    Rows* rows
    bint per_sequence       # Whether R = N; otherwise R = M.
    Py_ssize_t band         # The number of rows that go through all steps together; 0 means all rows of a share.
    double work             # Multiply-adds of one row's forward pass.
    Py_ssize_t most         # The number of threads that accumulate has scratch for; 0 means that it needs none.
    Py_ssize_t weights      # Bytes of the weights that every step reads; 0 if there are none.
    Py_ssize_t team         # The number of threads that split each product, where they do not split the rows.
    Parallel parallel       # Runs the parts of a team's product.
    OverTiles pack          # Reads the weights into panels or digits; or NULL.
    OverRows forward        # Computes the outputs of a band.
    OverRows backward       # Computes the gradients of a band's inputs, and adds to those of its initial states.
    OverPortion accumulate  # Sums up the weights' gradients; or NULL.
    bint halved             # Whether each half of the batch has sums of its own.
    OverTiles gather        # Adds the stage's own sums to the gradients, after accumulate; or NULL.
    void (*finish)(void* plan) noexcept nogil       # Called after the forward pass of all rows; or NULL.

# How an optimizer updates one flat parameter.
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
    """The address of an array's data, which may be read-only; NULL for None."""
    if array is None:
        return NULL
    return <void*><size_t>array.__array_interface__["data"][0]


cdef inline Py_ssize_t row_stride(object array):
    """Elements from one row to the next; 0 for None."""
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
# The packed rows of a band are some spans of neighbouring rows. A band that is part of a share has a span for each
# step. A whole share is a single span, and so is a band of the N rows behind a "last" output.

cdef enum:
    # In a buffer that every step overwrites, the rows of two shares lie this many rows apart: a core also fetches
    # the lines behind those it reads, and another core would be writing there.
    APART = 8


cdef inline const Py_ssize_t* offsets_of(const Rows* rows, Py_ssize_t share) noexcept nogil:
    return rows.offsets + share * (rows.T + 1)


cdef inline Py_ssize_t rows_apart(const Rows* rows) noexcept nogil:
    """Rows of a buffer that holds one row for each sequence, with APART unused rows between shares."""
    return rows.N + (rows.most - 1) * APART


cdef inline Py_ssize_t spans(const Rows* rows, bint per_sequence, const Band* band) noexcept nogil:
    """The number of spans of a band."""
    return 1 if per_sequence or band.whole else rows.T


cdef inline Py_ssize_t span(
    const Rows* rows, bint per_sequence, Py_ssize_t s, const Band* band, Py_ssize_t* begin,
) noexcept nogil:
    """Return the number of rows of span s, and set `begin` to the first."""
    if per_sequence:
        begin[0] = band.first
        return band.last - band.first
    if band.whole:
        begin[0] = band.offsets[0] + band.first
        return band.offsets[rows.T] - band.offsets[0]
    begin[0] = band.offsets[s] + band.first
    return max(min(band.last, rows.counts[s]) - band.first, 0)


# Sums over rows are taken block by block.

cdef enum:
    BLOCK_ROWS = 256             # Packed rows of every block except the last.

cdef struct Blocks:              # Iterates over the packed rows of rows first .. last-1, in the order of their steps.
    const Rows* batch
    bint per_sequence            # Whether R = N; otherwise R = M.
    bint one_run                 # Whether the rows are one whole share, so that their packed rows are neighbours.
    Py_ssize_t first, last
    # The step and the share that the next block begins in, and how many of their packed rows earlier blocks took.
    Py_ssize_t t, share, taken
    Py_ssize_t count             # The number of packed rows of this block.
    Py_ssize_t begun, ended      # How many of them belong to step 0, and how many to steps before T-1.
    Py_ssize_t rows[BLOCK_ROWS]  # (count,) The packed rows of this block, in the order of their steps.


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
    """Add packed rows begin .. begin + size - 1 to the block, without those taken before, until it is full.

    Returns how many of them are left for the next block.
    """
    cdef Py_ssize_t some = min(size - blocks.taken, BLOCK_ROWS - blocks.count)
    cdef Py_ssize_t m
    for m in range(some):
        blocks.rows[blocks.count + m] = begin + blocks.taken + m
    blocks.count += some
    blocks.taken += some
    return size - blocks.taken


cdef inline void take_run(Blocks* blocks) noexcept nogil:
    """Fill the block from a whole share, or from the rows behind a "last" output."""
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
    """Fill the block step by step, and at each step share by share."""
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
    """Fill the next block; return whether there is one."""
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
    """The first of `size` columns that part `part` has: a multiple of 16, which suits the vectors of every level."""
    return size if part == parts else (size // 16) * part // parts * 16


cdef inline void add(real* restrict to, const real* restrict values, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(size):
        to[j] += values[j]


cdef enum:
    TOGETHER = 64                # Columns that are summed over a block at a time.


cdef inline void add_chosen_rows(
    real* restrict sums, const Py_ssize_t* chosen, Py_ssize_t count, const real* rows, Py_ssize_t row, Py_ssize_t size,
) noexcept nogil:
    """sums (size,) += the sum of the rows chosen[0] .. chosen[count-1]."""
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

    The rows of a block are summed first, and their sum is then added: a single sum over very many rows would lose
    digits.
    """
    add_chosen_rows(sums, blocks.rows, blocks.count, rows, row, size)


cdef inline void sort_by_token(const Blocks* blocks, const Py_ssize_t* ids, Py_ssize_t* sorted_rows) noexcept nogil:
    """Sort the rows of a block by token; rows of one token keep their order (a radix sort by eight bits at a time)."""
    cdef Py_ssize_t other[BLOCK_ROWS]
    cdef Py_ssize_t begins[256]
    cdef Py_ssize_t bits = 0         # bits that are set in any of the ids
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
    """sums (V, size) += the rows of a block, each to the row of its token; the order of sums is as in add_rows."""
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
    """to (size,) += values (size,), for part `part` of their columns."""
    cdef Py_ssize_t low = share(size, part, parts)
    add(<real*>to + low, <const real*>values + low, share(size, part + 1, parts) - low)


cdef inline int buffer(list keep, Py_ssize_t size, void** place) except -1:
    """Allocate `size` bytes of zeros that begin at a pair of cache lines; `keep` holds them alive.

    Cores fetch lines in pairs, so a pair should not hold rows of two threads.
    """
    cdef bytearray memory = bytearray(size + PAIR)
    cdef size_t start = <size_t>PyByteArray_AS_STRING(memory)
    keep.append(memory)
    place[0] = <void*>((start + PAIR - 1) // PAIR * PAIR)
    return 0
