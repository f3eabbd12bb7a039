"""Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    i, f, o = sigmoid(z_i, z_f, z_o)    g = tanh(z_g)    z = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
    c_t = f c_{t-1} + i g               h_t = o tanh(c_t)
"""

from _math cimport hyperbolic_tangents, real, sigmoids
from _plan cimport (
    APART, Band, Blocks, OverPortion, OverRows, OverTiles, Portion, begin_blocks, next_block, rows_apart, stage_capsule,
)
from _sequence cimport (
    Sequence, Step, add_initial_gradient, add_sums, arriving_gradient, bind, c_row_before, gate_product, gates_ahead,
    h_row_before, handed_on, hidden_gradient, hidden_sums, hidden_weight_gradients, input_product,
    input_weight_gradients, kept_rows, late_input_gradient, load_final_gradient, load_initial, numbers, pack_weights,
    state_rows, step_input_gradient, store_final, store_output, walk, zero_sums,
)

from rnncore._stage import Stage


cdef inline void cell_forward(
    Py_ssize_t H, real* restrict z, const real* restrict c_before,
    real* restrict c, real* restrict tanh_c, real* restrict h,
) noexcept nogil:
    """z (4, H) holds the pre-activations, afterwards the gates i, f, g, o."""
    cdef real* restrict z_i = z
    cdef real* restrict z_f = z + H
    cdef real* restrict z_g = z + 2 * H
    cdef real* restrict z_o = z + 3 * H
    cdef Py_ssize_t j
    sigmoids(2 * H, z_i, z_i)          # and z_f
    hyperbolic_tangents(H, z_g, z_g)
    sigmoids(H, z_o, z_o)
    for j in range(H):
        c[j] = z_f[j] * c_before[j] + z_i[j] * z_g[j]
    hyperbolic_tangents(H, c, tanh_c)
    for j in range(H):
        h[j] = z_o[j] * tanh_c[j]


cdef inline void cell_backward(
    Py_ssize_t H, real* restrict z, const real* restrict c_before, const real* restrict tanh_c,
    real* restrict dh, real* restrict dc,
) noexcept nogil:
    """z (4, H) holds the gates, afterwards dz; dc becomes the gradient of c_before, dh zero."""
    cdef real* restrict z_i = z
    cdef real* restrict z_f = z + H
    cdef real* restrict z_g = z + 2 * H
    cdef real* restrict z_o = z + 3 * H
    cdef Py_ssize_t j
    cdef real i, f, g, o, d
    for j in range(H):
        i = z_i[j]
        f = z_f[j]
        g = z_g[j]
        o = z_o[j]
        d = dc[j] + dh[j] * o * (<real>1 - tanh_c[j] * tanh_c[j])
        z_i[j] = d * g * (i * (<real>1 - i))
        z_f[j] = d * c_before[j] * (f * (<real>1 - f))
        z_g[j] = d * i * (<real>1 - g * g)
        z_o[j] = dh[j] * tanh_c[j] * (o * (<real>1 - o))
        dc[j] = d * f
        dh[j] = <real>0


cdef void sequence_forward(Sequence* s, real* gates, const Band* band) noexcept nogil:
    cdef real* h = <real*>s.h
    cdef real* c = <real*>s.c
    cdef real* tanh_c = <real*>s.kept
    cdef real* h_now
    cdef Py_ssize_t i, n
    cdef Step step
    load_initial(s, gates, band)
    for i in range(s.rows.T):
        step = walk(s, i, band)
        input_product(s, gates, i, band)
        gate_product(s, &step, &s.groups[0], h + (step.h_before + step.low) * s.h_row,
                     h + (step.h_start + step.going) * s.h_row, s.h_row, gates, gates_ahead(s, i + 1, band, gates))
        for n in range(step.low, step.high):
            h_now = h + (step.h_now + n) * s.h_row
            s.previous[step.row + n] = h_row_before(&step, n)
            cell_forward(s.stride, gates + (step.gate + n) * s.width,
                         c + c_row_before(&step, n) * s.stride, c + (step.c_now + n) * s.stride,
                         tanh_c + (step.kept + n) * s.stride, h_now)
            store_output(s, h_now, step.row + n)
    store_final(s, gates, band)


cdef void sequence_backward(Sequence* s, real* gates, const Band* band) noexcept nogil:
    cdef const real* c = <const real*>s.c
    cdef const real* tanh_c = <const real*>s.kept
    cdef real* dh = <real*>s.dh + band.share * APART * s.stride
    cdef real* dc = <real*>s.dc + band.share * APART * s.stride
    cdef Py_ssize_t i, n, m
    cdef Step step
    load_final_gradient(s, &s.states[0], dh, band)
    load_final_gradient(s, &s.states[1], dc, band)
    for i in range(s.rows.T - 1, -1, -1):
        step = walk(s, i, band)
        for n in range(step.low, step.high):
            m = step.row + n
            arriving_gradient(s, &step, n, dh + n * s.stride, dc + n * s.stride)
            cell_backward(s.stride, gates + m * s.width, c + s.previous[m] * s.stride, tanh_c + m * s.stride,
                          dh + n * s.stride, dc + n * s.stride)
        hidden_gradient(s, &s.groups[0], step.low, handed_on(s, &step), gates + (step.row + step.low) * s.width,
                        s.width, dh, gates_ahead(s, i - 1, band, gates))
        step_input_gradient(s, &step, gates)
    add_initial_gradient(s, &s.states[0], dh, band)
    add_initial_gradient(s, &s.states[1], dc, band)
    late_input_gradient(s, gates, band)


cdef void weight_gradients(Sequence* s, real* dz, const Portion* portion) noexcept nogil:
    cdef Blocks blocks
    begin_blocks(&blocks, &s.rows, False, portion.first, portion.last)
    zero_sums(s, portion, dz)
    while next_block(&blocks):
        input_weight_gradients(s, dz, &blocks, portion)
        hidden_weight_gradients(s, dz, s.width, s.G, <real*>s.h, s.h_row, s.previous,
                                hidden_sums(s, portion, dz), &blocks, portion)


cdef void gather(Sequence* s, real* dz, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    add_sums(s, 4, part, parts, dz)


class LSTM(Stage):
    def __init__(self, rows, x, y, weights, initial, final, *, reverse=False, adds=False):
        cdef list keep = []
        cdef Sequence* s = bind(
            keep, __name__, rows, x, y, weights, initial, final, 4, 4, reverse, adds, 2, False, True)
        numbers(keep, s, state_rows(s) * s.stride, &s.c)
        numbers(keep, s, kept_rows(s) * s.stride, &s.kept)
        numbers(keep, s, rows_apart(&s.rows) * s.stride, &s.dc)
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
