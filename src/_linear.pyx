"""Stages without a memory: linear maps, embeddings, dropout, and joined final states.

Dimensions: N sequences, T steps, M valid steps of the whole batch, R rows of a stage (N if `last`, else M), I input
width, O output width, V vocabulary, H hidden size.
"""

from _gemm cimport (
    Ahead, Gemm, Term, Weights, copy_bytes, fill_bytes, gemm_of, lanes, outer_product, pack, pack_transposed, product,
    room_for, scratch_size, term_of, zero_tiles,
)
from _math cimport dot, real
from _plan cimport (
    Band, Blocks, OverPortion, OverRows, OverTiles, Portion, Rows, Stage as CStage, add, add_rows, add_rows_by_token,
    add_share, address, begin_blocks, buffer, next_block, packed_rows, row_stride, share, span, spans, stage_capsule,
)

from rnncore._stage import Stage, halves_pay, num_threads_to_come

cdef struct Dense:
    CStage stage
    const Gemm* gemm
    Rows rows
    bint last                    # Whether R = N, one row for each sequence; otherwise R = M.
    Py_ssize_t I, O
    Py_ssize_t whole             # Columns of y from the product; a single column beyond whole vectors is dot products.
    const void* x                # (R, I) The input; the weights' gradient needs it.
    const Py_ssize_t* ids        # (R,) An embedding's input.
    void* dx                     # (R, I), or NULL if it is not wanted.
    void* y                      # (R, O)
    const void* dy               # (R, O)
    Py_ssize_t x_row, dx_row, y_row, dy_row      # Numbers from row to row.
    const void* weight           # (O, I); an embedding's is (V, O); dropout has its mask (R, O) here.
    void* zeros                  # (max(I, O),)
    const void* bias             # (O,); points at `zeros` where there is none.
    void* d_weight               # (O, I), or (V, O)
    void* d_bias                 # (O,) or NULL.
    Weights forth                # (I, whole)  x -> y
    Weights back                 # (O, I)      dy -> dx
    void* sums                   # (O,) The sum of dy; where the stage is halved, one for each half of the batch.
    void* second                 # (O, I) d_weight of the second half of the batch.
    void* scratch                # Blocks of the weight gradient; each thread has scratch_size numbers.
    Py_ssize_t scratch_size


cdef void nothing_over_rows(void* plan, void* numbers, const Band* band) noexcept nogil:
    pass


cdef Dense* bind(list keep, object rows, object x, object y) except NULL:
    """Allocate a Dense with its input and output; `keep` holds all arrays alive."""
    cdef Dense* s
    buffer(keep, sizeof(Dense), <void**>&s)
    keep += [rows, x, y]
    s.rows = packed_rows(rows)
    s.O = y.value.shape[1]
    s.x, s.x_row = address(x.value), row_stride(x.value)
    s.dx, s.dx_row = address(x.grad), row_stride(x.grad)
    s.y, s.y_row = address(y.value), row_stride(y.value)
    s.dy, s.dy_row = address(y.grad), row_stride(y.grad)
    s.stage.plan, s.stage.numbers, s.stage.rows = s, s.y, &s.rows
    s.stage.forward, s.stage.backward = nothing_over_rows, nothing_over_rows
    return s


# ---------------------------------------------------------------------------------------------
# y = x W^T + b

cdef void linear_pack(Dense* s, real* y, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    pack_transposed(&s.forth, <const real*>s.weight, s.I, 1, s.whole, s.whole, s.I, part, parts)
    if s.dx is not NULL:
        pack(&s.back, <const real*>s.weight, s.I, 1, s.O, s.O, s.I, part, parts)


cdef void linear_forward(Dense* s, real* y, const Band* band) noexcept nogil:
    cdef const real* x = <const real*>s.x
    cdef Py_ssize_t i, j, m, begin, count
    cdef Term term
    for i in range(spans(&s.rows, s.last, band)):
        count = span(&s.rows, s.last, i, band, &begin)
        term = term_of(s.I, x + begin * s.x_row, s.x_row, &s.forth)
        product(s.gemm, count, s.whole, <const real*>s.bias, 0, NULL, &term, 1, y + begin * s.y_row, s.y_row,
                Ahead(NULL, 0, False))
        for j in range(s.whole, s.O):
            for m in range(begin, begin + count):
                y[m * s.y_row + j] = (
                    (<const real*>s.bias)[j] + dot(s.I, x + m * s.x_row, <const real*>s.weight + j * s.I))


cdef void linear_backward(Dense* s, real* y, const Band* band) noexcept nogil:
    """dx = dy W"""
    cdef Py_ssize_t i, begin, count
    cdef Term term
    if s.dx is NULL:
        return
    for i in range(spans(&s.rows, s.last, band)):
        count = span(&s.rows, s.last, i, band, &begin)
        term = term_of(s.O, <const real*>s.dy + begin * s.dy_row, s.dy_row, &s.back)
        product(s.gemm, count, s.I, <const real*>s.zeros, 0, NULL, &term, 1, <real*>s.dx + begin * s.dx_row, s.dx_row,
                Ahead(NULL, 0, False))


cdef void linear_accumulate(Dense* s, real* y, const Portion* portion) noexcept nogil:
    """dW += dy^T x, and sums = the sum of dy"""
    cdef Py_ssize_t low = share(s.O, portion.part, portion.parts)
    cdef Py_ssize_t size = share(s.O, portion.part + 1, portion.parts) - low
    cdef const real* dy = <const real*>s.dy
    cdef real* dw = <real*>(s.second if portion.second else s.d_weight)
    cdef real* sums = <real*>s.sums + portion.second * s.O + low
    cdef Blocks blocks
    begin_blocks(&blocks, &s.rows, s.last, portion.first, portion.last)
    fill_bytes(sums, 0, size * sizeof(real))
    if portion.second:
        zero_tiles(dw, 1, s.O, s.I, portion.part, portion.parts)
    while next_block(&blocks):
        outer_product(s.gemm, &blocks.rows[0], blocks.count, 1, s.O, s.O, s.I, dy, s.dy_row, <const real*>s.x, s.x_row,
                      NULL, dw, s.I,
                      <real*>s.scratch + portion.thread * s.scratch_size, portion.part, portion.parts)
        if s.d_bias is not NULL:
            add_rows(sums, &blocks, dy + low, s.dy_row, size)


cdef void linear_gather(Dense* s, real* y, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """db += the sum of dy, and dW += the second half's sum"""
    cdef Py_ssize_t half
    if s.stage.halved:
        add_share(s.d_weight, s.second, s.O * s.I, part, parts, y)
    for half in range(1 + s.stage.halved if s.d_bias is not NULL else 0):
        add_share(s.d_bias, <real*>s.sums + half * s.O, s.O, part, parts, y)


class Linear(Stage):
    def __init__(self, rows, x, y, weights, *, last=False):
        cdef list keep = [weights]
        cdef Dense* s = bind(keep, rows, x, y)
        cdef bint single = y.value.itemsize == sizeof(float)
        cdef Py_ssize_t size = sizeof(float) if single else sizeof(double)
        weight, *biases = weights
        s.last = s.stage.per_sequence = last
        s.gemm = gemm_of(__name__)
        s.I = weight.value.shape[1]
        s.stage.work = s.I * s.O
        s.weight, s.d_weight = address(weight.value), address(weight.grad)
        buffer(keep, size * max(s.I, s.O), &s.zeros)
        if biases:
            s.bias, s.d_bias = address(biases[0].value), address(biases[0].grad)
        else:
            s.bias = s.zeros
        s.scratch_size = scratch_size(s.I, <float*>NULL) if single else scratch_size(s.I, <double*>NULL)
        s.whole = s.O - (s.O % (lanes(<float*>NULL) if single else lanes(<double*>NULL)) == 1)
        # all steps are one product, so this counts as one step of that many rows
        room_for(keep, &s.forth, s.I, s.whole, len(y.value), 1, s.d_weight is not NULL, x.bounded, single)
        room_for(keep, &s.back, s.O, s.I, len(y.value), 1, s.d_weight is not NULL, True, single)
        if s.d_weight is not NULL:
            s.stage.halved = halves_pay(s.rows.N, 1 if last else s.rows.T, s.stage.work, size * s.O * s.I)
            buffer(keep, size * s.O * (1 + s.stage.halved), &s.sums)
            if s.stage.halved:
                buffer(keep, size * s.O * s.I, &s.second)
            s.stage.most = num_threads_to_come()
            buffer(keep, size * s.scratch_size * s.stage.most, &s.scratch)
        if single:
            s.stage.pack = <OverTiles>linear_pack[float]
            s.stage.forward = <OverRows>linear_forward[float]
            s.stage.backward = <OverRows>linear_backward[float]
            s.stage.accumulate = <OverPortion>linear_accumulate[float]
            s.stage.gather = <OverTiles>linear_gather[float]
        else:
            s.stage.pack = <OverTiles>linear_pack[double]
            s.stage.forward = <OverRows>linear_forward[double]
            s.stage.backward = <OverRows>linear_backward[double]
            s.stage.accumulate = <OverPortion>linear_accumulate[double]
            s.stage.gather = <OverTiles>linear_gather[double]
        super().__init__(stage_capsule(&s.stage), keep)


# ---------------------------------------------------------------------------------------------
# y = W[ids]

cdef void embedding_forward(Dense* s, real* y, const Band* band) noexcept nogil:
    cdef Py_ssize_t i, m, begin, count
    for i in range(spans(&s.rows, s.last, band)):
        count = span(&s.rows, s.last, i, band, &begin)
        for m in range(begin, begin + count):
            copy_bytes(y + m * s.y_row, <const real*>s.weight + s.ids[m] * s.O, s.O * sizeof(real))


cdef void embedding_accumulate(Dense* s, real* y, const Portion* portion) noexcept nogil:
    cdef Py_ssize_t low = share(s.O, portion.part, portion.parts)
    cdef Py_ssize_t size = share(s.O, portion.part + 1, portion.parts) - low
    cdef Blocks blocks
    begin_blocks(&blocks, &s.rows, s.last, portion.first, portion.last)
    while next_block(&blocks):
        add_rows_by_token(<real*>s.d_weight + low, s.O, &blocks, s.ids, <const real*>s.dy + low, s.dy_row, size)


class Embedding(Stage):
    def __init__(self, rows, ids, y, weights):
        cdef list keep = [weights]
        cdef Dense* s = bind(keep, rows, ids, y)
        (weight,) = weights
        s.ids = <const Py_ssize_t*>s.x
        s.weight, s.d_weight = address(weight.value), address(weight.grad)
        if y.value.itemsize == sizeof(float):
            s.stage.forward = <OverRows>embedding_forward[float]
            s.stage.accumulate = <OverPortion>embedding_accumulate[float]
        else:
            s.stage.forward = <OverRows>embedding_forward[double]
            s.stage.accumulate = <OverPortion>embedding_accumulate[double]
        super().__init__(stage_capsule(&s.stage), keep)


# ---------------------------------------------------------------------------------------------
# y = x * mask (Srivastava et al. 2014, in the inverted form)

cdef inline void masked(
    Py_ssize_t size, const real* restrict x, const real* restrict mask, real* restrict y,
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(size):
        y[j] = x[j] * mask[j]


cdef void dropout_forward(Dense* s, real* y, const Band* band) noexcept nogil:
    cdef Py_ssize_t i, m, begin, count
    for i in range(spans(&s.rows, s.last, band)):
        count = span(&s.rows, s.last, i, band, &begin)
        for m in range(begin, begin + count):
            masked(s.O, <const real*>s.x + m * s.x_row, <const real*>s.weight + m * s.O, y + m * s.y_row)


cdef void dropout_backward(Dense* s, real* y, const Band* band) noexcept nogil:
    cdef Py_ssize_t i, m, begin, count
    if s.dx is NULL:
        return
    for i in range(spans(&s.rows, s.last, band)):
        count = span(&s.rows, s.last, i, band, &begin)
        for m in range(begin, begin + count):
            masked(s.O, <const real*>s.dy + m * s.dy_row, <const real*>s.weight + m * s.O, <real*>s.dx + m * s.dx_row)


class Dropout(Stage):
    def __init__(self, rows, x, y, mask):
        cdef list keep = [mask]
        cdef Dense* s = bind(keep, rows, x, y)
        s.weight = address(mask)
        if y.value.itemsize == sizeof(float):
            s.stage.forward = <OverRows>dropout_forward[float]
            s.stage.backward = <OverRows>dropout_backward[float]
        else:
            s.stage.forward = <OverRows>dropout_forward[double]
            s.stage.backward = <OverRows>dropout_backward[double]
        super().__init__(stage_capsule(&s.stage), keep)


# ---------------------------------------------------------------------------------------------
# y = arrays (N, H) side by side: the final states of both directions as one output

cdef struct Part:
    CStage stage
    Rows rows
    Py_ssize_t count, H          # The number of arrays, and the width of each.
    void* parts[2]               # (N, H) each
    void* d_parts[2]             # (N, H) each
    void* y                      # (N, count * H)
    const void* dy


cdef void join_forward(Part* s, real* y, const Band* band) noexcept nogil:
    cdef Py_ssize_t i, n
    for n in range(band.first, band.last):
        for i in range(s.count):
            copy_bytes(y + (n * s.count + i) * s.H, <const real*>s.parts[i] + n * s.H, s.H * sizeof(real))


cdef void join_backward(Part* s, real* y, const Band* band) noexcept nogil:
    cdef Py_ssize_t i, n
    for n in range(band.first, band.last):
        for i in range(s.count):
            add(<real*>s.d_parts[i] + n * s.H, <const real*>s.dy + (n * s.count + i) * s.H, s.H)


class Join(Stage):
    def __init__(self, rows, parts, y):
        cdef list keep = [rows, parts, y]
        cdef Part* s
        buffer(keep, sizeof(Part), <void**>&s)
        s.rows = packed_rows(rows)
        s.count, s.H = len(parts), parts[0].value.shape[1]
        for i, part in enumerate(parts):
            s.parts[i], s.d_parts[i] = address(part.value), address(part.grad)
        s.y, s.dy = address(y.value), address(y.grad)
        s.stage.plan, s.stage.numbers, s.stage.rows = s, s.y, &s.rows
        if y.value.itemsize == sizeof(float):
            s.stage.forward = <OverRows>join_forward[float]
            s.stage.backward = <OverRows>join_backward[float]
        else:
            s.stage.forward = <OverRows>join_forward[double]
            s.stage.backward = <OverRows>join_backward[double]
        super().__init__(stage_capsule(&s.stage), keep)
