"""Gated recurrent unit (Cho et al. 2014), in both its forms.

    r, u = sigmoid(z_r, z_u)            z = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh for r and u (PyTorch's z)
    n = tanh(W_in x_t + b_in + r (W_hn h_{t-1} + b_hn))    reset after the product: PyTorch, cuDNN, Keras
    n = tanh(W_in x_t + b_in + W_hn (r h_{t-1}) + b_hn)    reset before it: the paper
    h_t = (1 - u) n + u h_{t-1}
"""

from _gemm cimport Ahead, Term, fill_bytes, term_of
from _math cimport hyperbolic_tangents, real, sigmoids
from _plan cimport (
    APART, Band, Blocks, OverPortion, OverRows, OverTiles, Portion, add, add_rows, begin_blocks, next_block, rows_apart,
    share, stage_capsule,
)
from _sequence cimport (
    Sequence, Step, add_initial_gradient, add_sums, add_units, arriving_gradient, back_or_forth, bind, gate_product,
    gate_rows, gates_ahead, h_row_before, handed_on, hidden_gradient, hidden_sums, hidden_weight_gradients,
    input_product, input_weight_gradients, kept_rows, late_input_gradient, load_final_gradient, load_initial, numbers,
    pack_weights, step_input_gradient, store_final, store_output, sums_of, team_product, unless_zero, walk,
    zero_sums,
)

from rnncore._stage import Stage


cdef inline void reset_forward(
    Py_ssize_t H, bint after, real* restrict z, const real* restrict h_before, real* restrict kept,
) noexcept nogil:
    """z (3, H): z_r and z_u become r and u.

    Reset after the product: z_n += r kept, where kept holds W_hn h + b_hn. Reset before it: kept = r h.
    """
    cdef real* restrict z_r = z
    cdef real* restrict z_n = z + 2 * H
    cdef Py_ssize_t j
    sigmoids(2 * H, z_r, z_r)          # and z_u
    if after:
        for j in range(H):
            z_n[j] += z_r[j] * kept[j]
    else:
        for j in range(H):
            kept[j] = z_r[j] * h_before[j]


cdef inline void reset_backward(
    Py_ssize_t H, bint after, real* restrict z, const real* restrict h_before, real* restrict kept,
    real* restrict dh, const real* restrict d_reset,
) noexcept nogil:
    """z_r holds the gate r, afterwards dz_r.

    Reset after the product: kept becomes its own gradient. Reset before it: d_reset holds the gradient of r h, and
    r d_reset is added to dh.
    """
    cdef real* restrict z_r = z
    cdef real* restrict dz_n = z + 2 * H
    cdef Py_ssize_t j
    cdef real r, dr
    if after:
        for j in range(H):
            r = z_r[j]
            dr = dz_n[j] * kept[j]
            kept[j] = dz_n[j] * r
            z_r[j] = dr * (r * (<real>1 - r))
    else:
        for j in range(H):
            r = z_r[j]
            dr = d_reset[j] * h_before[j]
            dh[j] += d_reset[j] * r
            z_r[j] = dr * (r * (<real>1 - r))


cdef inline void update_forward(
    Py_ssize_t H, real* restrict z, const real* restrict h_before, real* restrict h,
) noexcept nogil:
    """z (3, H): z_u holds u; z_n becomes n."""
    cdef real* restrict u = z + H
    cdef real* restrict z_n = z + 2 * H
    cdef Py_ssize_t j
    hyperbolic_tangents(H, z_n, z_n)
    for j in range(H):
        h[j] = (<real>1 - u[j]) * z_n[j] + u[j] * h_before[j]


cdef inline void update_backward(
    Py_ssize_t H, real* restrict z, const real* restrict h_before, real* restrict dh,
) noexcept nogil:
    """z_u and z_n hold u and n, afterwards dz_u and dz_n; dh becomes u dh, which flows directly to h_before."""
    cdef real* restrict z_u = z + H
    cdef real* restrict z_n = z + 2 * H
    cdef Py_ssize_t j
    cdef real u, n
    for j in range(H):
        u = z_u[j]
        n = z_n[j]
        z_u[j] = dh[j] * (h_before[j] - n) * (u * (<real>1 - u))
        z_n[j] = dh[j] * (<real>1 - u) * (<real>1 - n * n)
        dh[j] = dh[j] * u


cdef inline void kept_product(
    const Sequence* s, Py_ssize_t rows, const real* h, real* kept, Ahead ahead,
) noexcept nogil:
    """kept = W_hn h + b_hn; an h of NULL stands for zeros."""
    cdef Term hidden = term_of(s.H, h, s.h_row, &s.groups[1].hidden)
    team_product(s, rows, s.stride, <const real*>s.bias_n, 0, NULL, &hidden, h is not NULL, kept, s.stride,
                 ahead)


cdef void sequence_forward(Sequence* s, real* gates, const Band* band) noexcept nogil:
    cdef real* h = <real*>s.h
    cdef real* kept = <real*>s.kept
    cdef real* z
    cdef real* k
    cdef real* h_now
    cdef const real* going
    cdef const real* initial
    cdef Py_ssize_t i, n
    cdef Step step
    load_initial(s, gates, band)
    for i in range(s.rows.T):
        step = walk(s, i, band)
        going = h + (step.h_before + step.low) * s.h_row
        initial = h + (step.h_start + step.going) * s.h_row
        input_product(s, gates, i, band)
        z = gates + step.gate * s.width         # z and k point at row 0
        k = kept + step.kept * s.stride
        gate_product(s, &step, &s.groups[0], going, initial, s.h_row, gates,
                     gates_ahead(s, i + 1, band, gates))
        if s.reset_after:
            gate_rows(s, &step, &s.groups[1], step.low, step.high, <const real*>NULL, 0, gates,
                      back_or_forth(s, i))
            kept_product(s, step.going - step.low, going, k + step.low * s.stride, back_or_forth(s, i))
            kept_product(s, step.high - step.going, unless_zero(s, step.high - step.going, initial, s.h_row),
                         k + step.going * s.stride, back_or_forth(s, i))
        for n in range(step.low, step.high):
            s.previous[step.row + n] = h_row_before(&step, n)
            reset_forward(s.stride, s.reset_after, z + n * s.width, h + s.previous[step.row + n] * s.h_row,
                          k + n * s.stride)
        if not s.reset_after:
            gate_product(s, &step, &s.groups[1], k + step.low * s.stride, k + step.going * s.stride,
                         s.stride, gates, back_or_forth(s, i))
        for n in range(step.low, step.high):
            h_now = h + (step.h_now + n) * s.h_row
            update_forward(s.stride, z + n * s.width, h + s.previous[step.row + n] * s.h_row, h_now)
            store_output(s, h_now, step.row + n)
    store_final(s, gates, band)


cdef void sequence_backward(Sequence* s, real* gates, const Band* band) noexcept nogil:
    cdef const real* h = <const real*>s.h
    cdef real* kept = <real*>s.kept
    cdef real* dh = <real*>s.dh + band.share * APART * s.stride
    cdef real* d_reset = <real*>s.dc + band.share * APART * s.stride
    cdef Py_ssize_t i, n, m, count, high
    cdef Step step
    load_final_gradient(s, &s.states[0], dh, band)
    for i in range(s.rows.T - 1, -1, -1):
        step = walk(s, i, band)
        count = step.high - step.low
        high = handed_on(s, &step)
        for n in range(step.low, step.high):
            m = step.row + n
            arriving_gradient(s, &step, n, dh + n * s.stride, <real*>NULL)
            update_backward(s.stride, gates + m * s.width, h + s.previous[m] * s.h_row, dh + n * s.stride)
        m = step.row + step.low
        if not s.reset_after:
            fill_bytes(d_reset + step.low * s.stride, 0, count * s.stride * sizeof(real))
            hidden_gradient(s, &s.groups[1], step.low, step.high, gates + m * s.width + s.groups[1].begin,
                            s.width, d_reset, back_or_forth(s, i))
        for n in range(step.low, step.high):
            reset_backward(s.stride, s.reset_after, gates + (step.row + n) * s.width,
                           h + s.previous[step.row + n] * s.h_row, kept + (step.row + n) * s.stride,
                           dh + n * s.stride, d_reset + n * s.stride)
        if s.reset_after:
            hidden_gradient(s, &s.groups[1], step.low, high, kept + m * s.stride, s.stride, dh,
                            back_or_forth(s, i))
        hidden_gradient(s, &s.groups[0], step.low, high, gates + m * s.width, s.width, dh,
                        gates_ahead(s, i - 1, band, gates))
        step_input_gradient(s, &step, gates)
    add_initial_gradient(s, &s.states[0], dh, band)
    late_input_gradient(s, gates, band)


cdef void weight_gradients(Sequence* s, real* dz, const Portion* portion) noexcept nogil:
    cdef real* kept = <real*>s.kept
    cdef real* dw = hidden_sums(s, portion, dz)
    cdef real* dw_n = dw + 2 * s.H * s.H
    cdef Py_ssize_t low = share(s.stride, portion.part, portion.parts)
    cdef Py_ssize_t size = share(s.stride, portion.part + 1, portion.parts) - low
    cdef real* n_sums = sums_of(s.bias_n_sums, s.stride, portion, dz) + low
    cdef Blocks blocks
    begin_blocks(&blocks, &s.rows, False, portion.first, portion.last)
    zero_sums(s, portion, dz)
    if s.reset_after:
        fill_bytes(n_sums, 0, size * sizeof(real))
    while next_block(&blocks):
        input_weight_gradients(s, dz, &blocks, portion)
        hidden_weight_gradients(s, dz, s.width, 2, <real*>s.h, s.h_row, s.previous, dw, &blocks, portion)
        if s.reset_after:
            hidden_weight_gradients(s, kept, s.stride, 1, <real*>s.h, s.h_row, s.previous, dw_n, &blocks, portion)
            add_rows(n_sums, &blocks, kept + low, s.stride, size)
        else:
            hidden_weight_gradients(s, dz + s.groups[1].begin, s.width, 1, kept, s.stride, NULL, dw_n, &blocks, portion)


cdef void gather(Sequence* s, real* dz, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    cdef Py_ssize_t low = share(s.stride, part, parts)
    cdef Py_ssize_t high = share(s.stride, part + 1, parts)
    cdef real* n_sums = <real*>s.bias_n_sums + low
    add_sums(s, 2 if s.reset_after else 3, part, parts, dz)
    if s.reset_after and s.bias_hh is not NULL:
        if s.stage.halved:
            add(n_sums, n_sums + s.stride, high - low)
        add_units(s, n_sums, low, high, <real*>s.d_bias_hh + 2 * s.H)


class GRU(Stage):
    def __init__(self, rows, x, y, weights, initial, final, *, reset_after=True, reverse=False, adds=False):
        cdef list keep = []
        cdef Sequence* s = bind(
            keep, __name__, rows, x, y, weights, initial, final, 3, 2, reverse, adds, 1, False, True)
        s.reset_after = reset_after
        numbers(keep, s, kept_rows(s) * s.stride, &s.kept)
        if reset_after:
            numbers(keep, s, s.stride, &s.bias_n)
            numbers(keep, s, (1 + s.stage.halved) * s.stride, &s.bias_n_sums)
        if s.training:
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
