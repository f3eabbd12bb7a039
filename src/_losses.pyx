"""Output activations and losses, in forms that neither overflow nor cancel.

Dimensions: N sequences, M valid steps of the whole batch, R rows of a stage (N if `last`, else M), O output size.
"""

import numpy as np

from libc.math cimport log, log1p

from _gemm cimport fill_bytes
from _math cimport LANES, dot, exponential, exponentials, real, sigmoid, total
from _plan cimport (
    Band, Blocks, OverRows, Rows, Stage as CStage, address, begin_blocks, buffer, next_block, packed_rows, row_count,
    span, spans, stage_capsule,
)

from rnncore._stage import Stage

cdef enum:
    LOGS = 8                     # Sums of exponentials per logarithm, which is taken of their product.

cdef enum:
    SIGMOID
    SOFTMAX

cdef enum:
    MSE
    HALF_MSE
    BCE
    CROSS_ENTROPY

ACTIVATIONS = {"sigmoid": SIGMOID, "softmax": SOFTMAX}
LOSSES = {"mse": MSE, "half_mse": HALF_MSE, "bce": BCE, "cross_entropy": CROSS_ENTROPY}

cdef struct Output:
    CStage stage
    Rows rows
    bint last                    # Whether R = N, one row for each sequence; otherwise R = M.
    bint mean                    # Whether the loss is a mean over elements; otherwise it is their sum.
    int kind                     # Which activation or loss.
    Py_ssize_t O
    const void* x                # (R, O) Logits, or the predictions of a loss on predictions.
    void* dx                     # (R, O) or NULL.
    void* y                      # (R, O) An activation's output; cross-entropy's e = exp(x - max x), in dx unless NULL.
    const void* dy               # (R, O) The gradient of an activation's output.
    const void* target           # (R, O), or classes (R,)
    double* terms                # (R,) The loss of each row; for cross-entropy without log(sums).
    double* sums                 # (R,) For cross-entropy the sum of e over each row, which backward divides by.
    double* value                # (1,) The loss.


cdef Output* bind(list keep, object rows, object x, bint last) except NULL:
    cdef Output* s
    buffer(keep, sizeof(Output), <void**>&s)
    keep += [rows, x]
    s.rows, s.last = packed_rows(rows), last
    s.O = x.value.shape[1]
    s.x, s.dx = address(x.value), address(x.grad)
    s.stage.plan, s.stage.numbers, s.stage.rows = s, s.dx, &s.rows
    s.stage.per_sequence = last
    return s


# ---------------------------------------------------------------------------------------------
# Rows

cdef inline void keep_larger(const Py_ssize_t half, real* lanes) noexcept nogil:
    """lanes (half,) = the larger of both halves: folding by halves takes less time than going lane by lane."""
    cdef Py_ssize_t j
    for j in range(half):
        lanes[j] = lanes[half + j] if lanes[half + j] > lanes[j] else lanes[j]


cdef inline real maximum(Py_ssize_t size, const real* restrict x) noexcept nogil:
    cdef real lanes[LANES]
    cdef Py_ssize_t i, j
    cdef real top = x[0]
    for j in range(LANES):
        lanes[j] = top
    for i in range(size // LANES):
        for j in range(LANES):
            lanes[j] = x[i * LANES + j] if x[i * LANES + j] > lanes[j] else lanes[j]
    keep_larger(8, lanes)
    keep_larger(4, lanes)
    keep_larger(2, lanes)
    keep_larger(1, lanes)
    top = lanes[0]
    for j in range(size // LANES * LANES, size):
        top = x[j] if x[j] > top else top
    return top


cdef inline double product(Py_ssize_t size, const double* x, const Py_ssize_t* rows) noexcept nogil:
    cdef double product_ = 1
    cdef Py_ssize_t j
    for j in range(size):
        product_ *= x[rows[j]]
    return product_


# ---------------------------------------------------------------------------------------------
# Output activations

cdef inline void activate(int kind, Py_ssize_t O, const real* restrict x, real* restrict y) noexcept nogil:
    cdef Py_ssize_t j
    cdef real sum_
    if kind == SIGMOID:
        for j in range(O):
            y[j] = sigmoid(x[j])
    else:
        exponentials(O, x, maximum(O, x), y)
        sum_ = total(O, y)
        for j in range(O):
            y[j] = y[j] / sum_


cdef inline void activate_backward(
    int kind, Py_ssize_t O, const real* restrict y, const real* restrict dy, real* restrict dx,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real mean
    if kind == SIGMOID:
        for j in range(O):
            dx[j] = dy[j] * (y[j] * (<real>1 - y[j]))
    else:
        mean = dot(O, y, dy)
        for j in range(O):
            dx[j] = y[j] * (dy[j] - mean)


cdef void activation_forward(Output* s, real* _, const Band* band) noexcept nogil:
    cdef Py_ssize_t i, m, begin, count
    for i in range(spans(&s.rows, s.last, band)):
        count = span(&s.rows, s.last, i, band, &begin)
        for m in range(begin, begin + count):
            activate(s.kind, s.O, <const real*>s.x + m * s.O, <real*>s.y + m * s.O)


cdef void activation_backward(Output* s, real* dx, const Band* band) noexcept nogil:
    cdef Py_ssize_t i, m, begin, count
    for i in range(spans(&s.rows, s.last, band)):
        count = span(&s.rows, s.last, i, band, &begin)
        for m in range(begin, begin + count):
            activate_backward(s.kind, s.O, <const real*>s.y + m * s.O, <const real*>s.dy + m * s.O, dx + m * s.O)


class Activation(Stage):
    def __init__(self, rows, x, y, *, kind, last=False):
        cdef list keep = [y]
        cdef Output* s = bind(keep, rows, x, last)
        s.kind = ACTIVATIONS[kind]
        s.y, s.dy = address(y.value), address(y.grad)
        if x.value.itemsize == sizeof(float):
            s.stage.forward = <OverRows>activation_forward[float]
            s.stage.backward = <OverRows>activation_backward[float]
        else:
            s.stage.forward = <OverRows>activation_forward[double]
            s.stage.backward = <OverRows>activation_backward[double]
        super().__init__(stage_capsule(&s.stage), keep)


# ---------------------------------------------------------------------------------------------
# Losses. The terms of a row are summed in double precision, and then the rows in a fixed order.

cdef inline double squared_error(Py_ssize_t O, const real* p, const real* t) noexcept nogil:
    cdef double sum_ = 0
    cdef Py_ssize_t j
    for j in range(O):
        sum_ += (<double>p[j] - t[j]) * (<double>p[j] - t[j])
    return sum_


cdef inline double binary_cross_entropy(Py_ssize_t O, const real* p, const real* t) noexcept nogil:
    """-t log sigmoid(p) - (1 - t) log(1 - sigmoid(p)) = max(p, 0) - p t + log(1 + exp(-|p|))"""
    cdef double sum_ = 0
    cdef Py_ssize_t j
    cdef double x
    for j in range(O):
        x = p[j]
        sum_ += (x if x > 0 else 0) - x * t[j] + log1p(exponential(-x if x > 0 else x))
    return sum_


cdef inline double loss_forward(
    int kind, Py_ssize_t O, const real* p, const real* t, Py_ssize_t class_, real* e, double* sum_e,
) noexcept nogil:
    """The loss of one row. For cross-entropy, e = exp(p - max p) and sum_e is their sum; add_up adds its logarithm."""
    cdef real top
    if kind == MSE:
        return squared_error(O, p, t)
    if kind == HALF_MSE:
        return squared_error(O, p, t) * 0.5
    if kind == BCE:
        return binary_cross_entropy(O, p, t)
    top = maximum(O, p)
    exponentials(O, p, top, e)
    sum_e[0] = total(O, e)
    return <double>top - p[class_]


cdef inline void loss_backward(
    int kind, Py_ssize_t O, const real* restrict p, const real* restrict t, Py_ssize_t class_, double sum_e,
    real weight, real* restrict dp,
) noexcept nogil:
    """dp = weight times the gradient of a row's loss. For cross-entropy, dp holds e at first."""
    cdef Py_ssize_t j
    cdef real factor
    if kind == MSE:
        factor = weight * <real>2
        for j in range(O):
            dp[j] = (p[j] - t[j]) * factor
    elif kind == HALF_MSE:
        for j in range(O):
            dp[j] = (p[j] - t[j]) * weight
    elif kind == BCE:
        for j in range(O):
            dp[j] = (sigmoid(p[j]) - t[j]) * weight
    else:
        factor = weight / <real>sum_e
        for j in range(O):
            dp[j] *= factor
        dp[class_] -= weight


cdef inline Py_ssize_t class_of(const Output* s, Py_ssize_t m) noexcept nogil:
    return (<const Py_ssize_t*>s.target)[m] if s.kind == CROSS_ENTROPY else 0


cdef void rows_forward(Output* s, real* _, const Band* band) noexcept nogil:
    cdef real* e = <real*>s.y
    cdef Py_ssize_t i, m, begin, count
    for i in range(spans(&s.rows, s.last, band)):
        count = span(&s.rows, s.last, i, band, &begin)
        for m in range(begin, begin + count):
            s.terms[m] = loss_forward(s.kind, s.O, <const real*>s.x + m * s.O, <const real*>s.target + m * s.O,
                                      class_of(s, m), e + m * s.O, s.sums + m)


cdef inline bint not_in_phase(const Output* s, Py_ssize_t m, const Band* band, Py_ssize_t* t) noexcept nogil:
    """Whether the loss of packed row m belongs to another backward pass (see Rows.truncate).

    t is the step of an earlier row of the band, and becomes the step of row m.
    """
    cdef Py_ssize_t k = s.rows.horizon[0]
    if k <= 1 or s.last:
        return False
    while band.offsets[t[0] + 1] + band.home <= m:
        t[0] += 1
    return t[0] % k != s.rows.horizon[1]


cdef void rows_backward(Output* s, real* dx, const Band* band) noexcept nogil:
    cdef real weight = <real>loss_weight(s)
    cdef Py_ssize_t t = 0
    cdef Py_ssize_t i, m, begin, count
    for i in range(spans(&s.rows, s.last, band)):
        count = span(&s.rows, s.last, i, band, &begin)
        for m in range(begin, begin + count):
            if not_in_phase(s, m, band, &t):
                fill_bytes(dx + m * s.O, 0, s.O * sizeof(real))
            else:
                loss_backward(s.kind, s.O, <const real*>s.x + m * s.O, <const real*>s.target + m * s.O, class_of(s, m),
                              s.sums[m], weight, dx + m * s.O)


cdef double loss_weight(const Output* s) noexcept nogil:
    """The factor of each term: for a mean, one over the number of terms."""
    cdef Py_ssize_t R = row_count(&s.rows, s.last)
    if not s.mean:
        return 1.0
    return 1.0 / <double>(R if s.kind == CROSS_ENTROPY else R * s.O)


cdef void add_up(void* plan) noexcept nogil:
    """Sum up the losses of all rows in a fixed order, after every row's forward pass."""
    cdef const Output* s = <const Output*>plan
    cdef double sum_ = 0
    cdef Blocks blocks
    cdef Py_ssize_t i, k
    begin_blocks(&blocks, &s.rows, s.last, 0, s.rows.N)
    while next_block(&blocks):
        for k in range(blocks.count):
            sum_ += s.terms[blocks.rows[k]]
        for i in range((blocks.count + LOGS - 1) // LOGS if s.kind == CROSS_ENTROPY else 0):
            k = i * LOGS
            sum_ += log(product(min(<Py_ssize_t>LOGS, blocks.count - k), s.sums, &blocks.rows[k]))
    s.value[0] = sum_ * loss_weight(s)


class Loss(Stage):
    def __init__(self, rows, prediction, target, *, kind, reduction="mean", last=False):
        cdef list keep = [target]
        cdef Output* s = bind(keep, rows, prediction, last)
        cdef Py_ssize_t R = prediction.value.shape[0]
        s.kind = LOSSES[kind]
        s.mean = reduction == "mean"
        s.target = address(target)
        buffer(keep, R * sizeof(double), <void**>&s.terms)
        buffer(keep, R * sizeof(double), <void**>&s.sums)
        if s.dx is not NULL:
            s.y = s.dx
        elif s.kind == CROSS_ENTROPY:
            buffer(keep, prediction.value.nbytes, &s.y)
        self.value = np.zeros(1)
        s.value = <double*>address(self.value)
        s.stage.finish = add_up
        if prediction.value.itemsize == sizeof(float):
            s.stage.forward = <OverRows>rows_forward[float]
            s.stage.backward = <OverRows>rows_backward[float]
        else:
            s.stage.forward = <OverRows>rows_forward[double]
            s.stage.backward = <OverRows>rows_backward[double]
        super().__init__(stage_capsule(&s.stage), keep)
