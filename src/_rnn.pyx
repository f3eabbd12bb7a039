"""Elman's simple recurrent network (Elman 1990), with a choice of activations.

    h_t = f(z_t)    z_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh

f is tanh, sigmoid, ReLU, PReLU with a trainable slope (He et al. 2015), or the identity.
"""

from _gemm cimport copy_bytes
from _math cimport hyperbolic_tangents, real, sigmoids
from _plan cimport (
    APART, Band, Blocks, OverPortion, OverRows, OverTiles, Portion, begin_blocks, buffer, next_block, stage_capsule,
)
from _sequence cimport (
    Sequence, Step, add_initial_gradient, add_sums, arriving_gradient, bind, gate_product, gates_ahead, h_row_before,
    handed_on, hidden_gradient, hidden_sums, hidden_weight_gradients, input_product, input_weight_gradients,
    late_input_gradient, load_final_gradient, load_initial, numbers, pack_weights, step_input_gradient, store_final,
    store_output, walk, zero_sums,
)

from rnncore._stage import Stage

cdef enum:
    TANH
    SIGMOID
    RELU
    PRELU
    IDENTITY

ACTIVATIONS = {"tanh": TANH, "sigmoid": SIGMOID, "relu": RELU, "prelu": PRELU, "identity": IDENTITY}


cdef inline void cell_forward(
    int activation, Py_ssize_t H, const real* restrict z, real slope, real* restrict h,
) noexcept nogil:
    """h = f(z). The comparisons let NaN pass."""
    cdef Py_ssize_t j
    if activation == TANH:
        hyperbolic_tangents(H, z, h)
    elif activation == SIGMOID:
        sigmoids(H, z, h)
    elif activation == RELU:
        for j in range(H):
            h[j] = <real>0 if z[j] < 0 else z[j]
    elif activation == PRELU:
        for j in range(H):
            h[j] = z[j] if z[j] > 0 else slope * z[j]
    else:
        for j in range(H):
            h[j] = z[j]


cdef inline void cell_backward(
    int activation, Py_ssize_t H, const real* restrict h, const real* restrict z, real slope,
    real* restrict dh, real* restrict dz,
) noexcept nogil:
    """dz = f'(z) dh, where f'(z) is computed from h, or for PReLU from z; dh becomes zero."""
    cdef Py_ssize_t j
    if activation == TANH:
        for j in range(H):
            dz[j] = dh[j] * (<real>1 - h[j] * h[j])
    elif activation == SIGMOID:
        for j in range(H):
            dz[j] = dh[j] * (h[j] * (<real>1 - h[j]))
    elif activation == RELU:
        for j in range(H):
            dz[j] = <real>0 if h[j] <= 0 else dh[j]      # this comparison is false for NaN, which passes on
    elif activation == PRELU:
        for j in range(H):
            dz[j] = dh[j] if z[j] > 0 else slope * dh[j]
    else:
        for j in range(H):
            dz[j] = dh[j]
    for j in range(H):
        dh[j] = <real>0


cdef inline double slope_term(Py_ssize_t H, const real* z, const real* dh) noexcept nogil:
    """What a row adds to the gradient of PReLU's slope, in double because terms of both signs cancel."""
    cdef double total = 0
    cdef Py_ssize_t j
    for j in range(H):
        if not z[j] > 0:
            total += <double>dh[j] * <double>z[j]
    return total


cdef void sequence_forward(Sequence* s, real* gates, const Band* band) noexcept nogil:
    cdef real* h = <real*>s.h
    cdef real slope = (<const real*>s.slope)[0] if s.kind == PRELU else <real>0
    cdef real* z
    cdef real* h_now
    cdef Py_ssize_t i, n, m
    cdef Step step
    load_initial(s, gates, band)
    for i in range(s.rows.T):
        step = walk(s, i, band)
        input_product(s, gates, i, band)
        gate_product(s, &step, &s.groups[0], h + (step.h_before + step.low) * s.h_row,
                     h + (step.h_start + step.going) * s.h_row, s.h_row, gates, gates_ahead(s, i + 1, band, gates))
        for n in range(step.low, step.high):
            m = step.row + n
            h_now = h + (step.h_now + n) * s.h_row
            z = gates + (step.gate + n) * s.width
            s.previous[m] = h_row_before(&step, n)
            cell_forward(s.kind, s.stride, z, slope, h_now)
            if s.kind == PRELU and s.training:
                copy_bytes(<real*>s.kept + m * s.stride, z, s.stride * sizeof(real))
            store_output(s, h_now, m)
    store_final(s, gates, band)


cdef void sequence_backward(Sequence* s, real* dz, const Band* band) noexcept nogil:
    cdef const real* h = <const real*>s.h + s.rows.N * s.h_row
    cdef const real* z = <const real*>s.kept
    cdef real* dh = <real*>s.dh + band.share * APART * s.stride
    cdef real slope = (<const real*>s.slope)[0] if s.kind == PRELU else <real>0
    cdef Py_ssize_t i, n, m
    cdef Step step
    load_final_gradient(s, &s.states[0], dh, band)
    for i in range(s.rows.T - 1, -1, -1):
        step = walk(s, i, band)
        for n in range(step.low, step.high):
            m = step.row + n
            arriving_gradient(s, &step, n, dh + n * s.stride, <real*>NULL)
            if s.kind == PRELU:
                s.slope_terms[m] = slope_term(s.H, z + m * s.stride, dh + n * s.stride)
            cell_backward(s.kind, s.stride, h + m * s.h_row, z + m * s.stride, slope, dh + n * s.stride,
                          dz + m * s.width)
        hidden_gradient(s, &s.groups[0], step.low, handed_on(s, &step), dz + (step.row + step.low) * s.width,
                        s.width, dh, gates_ahead(s, i - 1, band, dz))
        step_input_gradient(s, &step, dz)
    add_initial_gradient(s, &s.states[0], dh, band)
    late_input_gradient(s, dz, band)


cdef void weight_gradients(Sequence* s, real* dz, const Portion* portion) noexcept nogil:
    cdef Blocks blocks
    begin_blocks(&blocks, &s.rows, False, portion.first, portion.last)
    zero_sums(s, portion, dz)
    while next_block(&blocks):
        input_weight_gradients(s, dz, &blocks, portion)
        hidden_weight_gradients(s, dz, s.width, 1, <real*>s.h, s.h_row, s.previous,
                                hidden_sums(s, portion, dz), &blocks, portion)


cdef void gather(Sequence* s, real* dz, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    cdef Blocks blocks
    cdef Py_ssize_t k
    cdef double total = 0
    add_sums(s, 1, part, parts, dz)
    if s.kind == PRELU and part == 0:
        begin_blocks(&blocks, &s.rows, False, 0, s.rows.N)
        while next_block(&blocks):
            for k in range(blocks.count):
                total += s.slope_terms[blocks.rows[k]]
        (<real*>s.d_slope)[0] += <real>total


class RNN(Stage):
    def __init__(self, rows, x, y, weights, initial, final, *, activation="tanh", reverse=False, adds=False):
        cdef list keep = []
        cdef bint prelu = activation == "prelu"
        cdef bint bounded = activation in ("tanh", "sigmoid")
        cdef Sequence* s = bind(
            keep, __name__, rows, x, y, weights, initial, final, 1, 1, reverse, adds, 1, prelu, bounded)
        cdef Py_ssize_t M = s.rows.capacity
        s.kind = ACTIVATIONS[activation]
        if prelu and s.training:
            numbers(keep, s, M * s.stride, &s.kept)
            buffer(keep, M * sizeof(double), <void**>&s.slope_terms)
        if s.single:
            s.stage.pack = <OverTiles>pack_weights[float]
            s.stage.forward = <OverRows>sequence_forward[float]
            s.stage.backward = <OverRows>sequence_backward[float]
            s.stage.accumulate = <OverPortion>weight_gradients[float]
            s.stage.gather = <OverTiles>gather[float]
        else:
            s.stage.pack = <OverTiles>pack_weights[double]
            s.stage.forward = <OverRows>sequence_forward[double]
            s.stage.backward = <OverRows>sequence_backward[double]
            s.stage.accumulate = <OverPortion>weight_gradients[double]
            s.stage.gather = <OverTiles>gather[double]
        super().__init__(stage_capsule(&s.stage), keep)
