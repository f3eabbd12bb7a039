"""What the recurrent families share: buffers, the walk over packed steps, everything that is a product.

Dimensions: N sequences, T steps, M valid steps of the whole batch, D input size, H hidden size, G gates, V vocabulary
(see _plan.pxd for the packed batch). A row of gates has `columns` = G * stride numbers:

    |<------ stride ------>|<------ stride ------>|
    | gate 0: H units | 0s | gate 1: H units | 0s | ...

Every gate is padded to whole vectors, so that loops over the units of a row need no remainder. The weights of padding
are zero, and so is all that flows through it.

A family adds its cell (the equations of one row of one step), and the order in which the recurrent product and the
cell take turns. The walk goes from step 0 up, or from T-1 down for the reverse direction. At step t it updates rows
0 .. counts[t]-1. Rows that were updated in the step before continue from their state; the others start from the
initial state.
"""

from libc.string cimport memcmp

from _gemm cimport (
    BAND, ROWS, STRIP, Ahead, Gemm, Term, Weights, copy_bytes, fill_bytes, gemm_of, lanes, outer_product, pack,
    pack_transposed, padded, panel_begin, panel_count, product, room_for, rows_of_groups, scratch_size, term_of,
    transpose, zero_tiles,
)
from _digits cimport column_place
from _math cimport pieces, real
from _plan cimport (
    APART, Band, Blocks, Portion, Rows, Stage, add, add_rows, add_rows_by_token, add_share, address, buffer, cut,
    packed_rows, row_count, row_stride, rows_apart, share, span,
)

cdef enum:
    CHUNK = 64                   # Rows of an input product that covers several steps.
    WIDEST = 16                  # Numbers in a vector register, at most.
    LITTLE = 1 << 17             # Bytes of weight_hh; packing fewer again takes less time than comparing them.
    NARROW = STRIP               # Columns of x, at most, for which x.T @ dz is computed rather than dz.T @ x.

cdef struct State:               # h, or an LSTM's c. All arrays are (N, H).
    const void* initial
    void* final
    void* d_initial              # NULL in inference, like every gradient.
    const void* d_final

cdef struct Group:               # Gates that share one product: all of them, except that a GRU's n stands alone.
    Py_ssize_t gate, count       # The first gate of the group, and how many gates it has.
    Py_ssize_t begin, columns    # The columns of a row of gates that they take up.
    Py_ssize_t depth             # `columns` less the padding behind the last unit; dz -> dh sums over these.
    Weights input                # (D, columns)     x -> gates
    Weights hidden               # (H, columns)     h -> gates
    Weights hidden_back          # (depth, H)       dz -> dh

# In inference, a large parameter is copied, and packed again only if it no longer equals its copy.
cdef struct Watched:
    const void* given            # (G*H, width) The parameter, which the user may write into.
    void* copy                   # (G*H, width) The values that are packed; copy and panels begin as zeros.
    Py_ssize_t width             # Numbers in a row of the parameter.

cdef struct Sequence:
    Stage stage
    const Gemm* gemm
    Rows rows
    Py_ssize_t D, H, G, V
    Py_ssize_t stride            # Numbers from one gate to the next: H rounded up to whole vectors.
    Py_ssize_t columns           # Numbers of all gates, G * stride.
    Py_ssize_t width             # Numbers from one row of gates to the next: an odd number of cache lines.
    Group groups[2]
    Py_ssize_t group_count
    bint single, reverse, training, tokens
    Py_ssize_t steps             # Steps of all earlier sequences; the order of panels alternates with them.
    int kind                     # The activation of an Elman cell.
    bint reset_after             # Whether a GRU resets after the recurrent product.
    # Bound arrays
    const void* x                # (M, D) The input, or NULL where there are ids.
    const Py_ssize_t* ids        # (M,) The input as token ids.
    void* dx                     # (M, D) or NULL.
    bint adds                    # Whether dx is added to, because the other direction has written it before.
    void* zeros                  # (D,) What dx begins as otherwise.
    void* y                      # (M, H) The output: h of every step.
    const void* dy               # (M, H) or NULL.
    Py_ssize_t x_row, dx_row, y_row, dy_row      # Numbers from row to row.
    const void* weight_ih        # (G*H, D or V)
    const void* weight_hh        # (G*H, H)
    const void* bias_ih          # (G*H,) or NULL.
    const void* bias_hh          # (G*H,) or NULL.
    const void* slope            # (1,) The slope of PReLU.
    void* d_weight_ih
    void* d_weight_hh
    void* d_bias_ih
    void* d_bias_hh
    void* d_slope
    State states[2]
    # Buffers. N' = rows_apart(rows): a row for each sequence, with unused rows between shares. In inference, only the
    # gates of one chunk of steps and the latest two states are held.
    #
    # The number of steps whose products with x are a single product. If 1, each step is one product of two terms, x and
    # h. It is larger where steps have few rows, because several steps together make a faster product with x.
    Py_ssize_t chunk
    # (M, width), in inference ((chunk - 1) N + N', width). Pre-activations, then activated gates; the backward pass
    # reads them and puts dz in their place, which the weights' gradients read.
    void* gates
    # (N + M, h_row). The initial state, then h of every packed row; backward needs that of the step before. If h_in_y,
    # this is y and the room before it. Otherwise in inference (3 N', h_row), with the latest two steps only.
    void* h
    Py_ssize_t h_row             # Numbers from row to row of h.
    bint h_in_y                  # Whether y serves as h, because its rows are whole vectors.
    void* c                      # (N + M, stride), in inference (3 N', stride). An LSTM's cell state, laid out as h.
    # (M, stride), in inference (N', stride). What else the backward pass needs:
    #   LSTM                     tanh(c)
    #   GRU with reset_after     W_hn h + b_hn; the backward pass puts its gradient there
    #   GRU without reset_after  r * h
    #   RNN with PReLU           the pre-activation
    void* kept
    void* dh                     # (N', stride) The gradient that flows back through h.
    void* dc                     # (N', stride) The gradient that flows back through c, or through a GRU's r * h.
    double* slope_terms          # (M,) What each packed row adds to the gradient of PReLU's slope.
    Py_ssize_t* previous         # (M,) The row of h that a packed row continues from.
    void* bias                   # (columns,) bias_ih + bias_hh; bias_ih alone for the n of a GRU with reset_after.
    void* bias_n                 # (stride,) b_hn, the part of bias_hh for the n of a GRU with reset_after.
    void* table                  # (V, width) weight_ih.T + bias: the pre-activations that each token starts from.
    # Sums of gradients. Where the stage is halved, the first three have one for each half of the batch.
    void* d_table                # (V, columns) The sum of dz for each token; (D, columns) x.T @ dz for a narrow x.
    void* bias_sums              # (columns,) The sum of dz.
    void* bias_n_sums            # (stride,) The sum of a GRU's gradients of W_hn h + b_hn.
    void* second_hh              # (G*H, H) d_weight_hh of the second half.
    void* second_ih              # (G*H, D) d_weight_ih of the second half, unless d_table holds it.
    Weights input_back           # (rows_of_groups, D)   dz -> dx
    Watched watched[4]
    Py_ssize_t watched_count
    void* scratch                # Blocks of the weights' gradients; each thread has scratch_size numbers.
    Py_ssize_t scratch_size


# ---------------------------------------------------------------------------------------------
# Binding

cdef inline Sequence* bind(
    list keep, object module, object rows, object x, object y, object weights, object initial, object final,
    Py_ssize_t G, Py_ssize_t joint, bint reverse, bint adds, Py_ssize_t states, bint prelu, bint bounded,
) except NULL:
    """Allocate a Sequence with the buffers that every family needs; `keep` holds all arrays alive.

    The first `joint` of the G gates form one group, and the rest, if any, another. `bounded`: h lies in -1 ... 1.
    """
    cdef Sequence* s
    buffer(keep, sizeof(Sequence), <void**>&s)
    keep += [rows, x, y, weights, initial, final]
    weight_ih, weight_hh = weights[:2]
    slope = weights[len(weights) - 1]
    biases = list(weights[2:len(weights) - prelu]) + [(None, None)] * 2
    s.gemm = gemm_of(module)
    s.rows = packed_rows(rows)
    s.G, s.H, s.reverse, s.adds = G, weight_hh.value.shape[1], reverse, adds
    s.single = weight_ih.value.itemsize == sizeof(float)
    s.training = weight_ih.grad is not None
    s.tokens = x.value.dtype.kind == "i"
    s.stride = padded(s.H, <float*>NULL) if s.single else padded(s.H, <double*>NULL)
    s.columns = G * s.stride
    s.width = odd_lines(s.columns, s.single)
    s.group_count = 1 + (joint < G)
    set_group(s, &s.groups[0], 0, joint)
    set_group(s, &s.groups[1], joint, G - joint)
    if s.tokens:
        s.V, s.ids = weight_ih.value.shape[1], <const Py_ssize_t*>address(x.value)
    else:
        s.D, s.x, s.x_row = weight_ih.value.shape[1], address(x.value), row_stride(x.value)
        s.dx, s.dx_row = address(x.grad), row_stride(x.grad)
    s.y, s.y_row = address(y.value), row_stride(y.value)
    s.h_in_y = s.H == s.stride and y.room >= s.rows.N and y.value.size > 0     # an empty y may lie anywhere
    s.dy, s.dy_row = address(y.grad), row_stride(y.grad)
    s.weight_ih, s.d_weight_ih = address(weight_ih.value), address(weight_ih.grad)
    s.weight_hh, s.d_weight_hh = address(weight_hh.value), address(weight_hh.grad)
    s.bias_ih, s.d_bias_ih = address(biases[0][0]), address(biases[0][1])
    s.bias_hh, s.d_bias_hh = address(biases[1][0]), address(biases[1][1])
    if prelu:
        s.slope, s.d_slope = address(slope.value), address(slope.grad)
    for i in range(states):
        s.states[i].initial, s.states[i].d_initial = address(initial[i].value), address(initial[i].grad)
        s.states[i].final, s.states[i].d_final = address(final[i].value), address(final[i].grad)
    allocate(keep, s, bounded, x.bounded)
    s.stage.plan, s.stage.numbers = s, s.gates
    s.stage.rows, s.stage.band, s.stage.finish = &s.rows, BAND, count_steps
    s.stage.work = s.G * s.H * (s.H + s.D)
    s.stage.weights = s.G * s.H * s.H * (sizeof(float) if s.single else sizeof(double))
    if not s.training and s.stage.weights >= LITTLE:
        watch(keep, s, &s.weight_ih, s.D + s.V)
        watch(keep, s, &s.weight_hh, s.H)
        watch(keep, s, &s.bias_ih, 1)
        watch(keep, s, &s.bias_hh, 1)
    return s


cdef inline int watch(list keep, Sequence* s, const void** parameter, Py_ssize_t width) except -1:
    """Read a copy instead of the parameter, unless the parameter is NULL."""
    cdef Watched* watched = &s.watched[s.watched_count]
    if parameter[0] is NULL:
        return 0
    numbers(keep, s, s.G * s.H * width, &watched.copy)
    watched.given, watched.width = parameter[0], width
    parameter[0] = watched.copy
    s.watched_count += 1
    return 0


cdef inline Py_ssize_t odd_lines(Py_ssize_t columns, bint single) noexcept nogil:
    """`columns` rounded up to an odd number of cache lines: rows one below the other then use all sets of a cache."""
    cdef Py_ssize_t in_line = 16 if single else 8
    return (pieces(columns, in_line) | 1) * in_line


cdef inline void set_group(const Sequence* s, Group* group, Py_ssize_t gate, Py_ssize_t count) noexcept nogil:
    group.gate, group.count = gate, count
    group.begin, group.columns = gate * s.stride, count * s.stride
    group.depth = rows_of_groups(count, s.H, s.stride)


cdef inline int allocate(list keep, Sequence* s, bint bounded, bint x_bounded) except -1:
    cdef Py_ssize_t N = s.rows.N
    cdef Py_ssize_t M = s.rows.capacity
    cdef Py_ssize_t weights = s.G * s.H * (s.H + s.D)
    cdef Py_ssize_t i
    cdef Group* group
    s.chunk = 1 if s.tokens or N >= ROWS else max(min(CHUNK // max(N, <Py_ssize_t>1), s.rows.T), <Py_ssize_t>1)
    numbers(keep, s, (M if s.training else (s.chunk - 1) * N + rows_apart(&s.rows)) * s.width, &s.gates)
    if s.h_in_y:
        s.h, s.h_row = <char*>s.y - N * s.y_row * (sizeof(float) if s.single else sizeof(double)), s.y_row
    else:
        s.h_row = s.stride
        numbers(keep, s, state_rows(s) * s.stride, &s.h)
    buffer(keep, M * sizeof(Py_ssize_t), <void**>&s.previous)
    numbers(keep, s, s.columns, &s.bias)
    for i in range(s.group_count):
        group = &s.groups[i]
        room_for(keep, &group.hidden, s.H, group.columns, N, s.rows.T, s.training, bounded, s.single)
        if not s.tokens:             # x is the first of two terms, and terms of digits come last
            room_for(keep, &group.input, s.D, group.columns, N, s.rows.T, s.training,
                     x_bounded and group.hidden.digits, s.single)
        if s.training:
            room_for(keep, &group.hidden_back, group.depth, s.H, N, s.rows.T, True, True, s.single)
    if s.tokens:
        numbers(keep, s, s.V * s.width, &s.table)
    if not s.training:
        return 0
    numbers(keep, s, rows_apart(&s.rows) * s.stride, &s.dh)
    if s.dx is not NULL:
        numbers(keep, s, s.D, &s.zeros)
        room_for(keep, &s.input_back, rows_of_groups(s.G, s.H, s.stride), s.D, N, s.rows.T, True, True, s.single)
    from rnncore._stage import halves_pay, num_threads_to_come
    s.stage.halved = halves_pay(N, s.rows.T, weights, weights * (sizeof(float) if s.single else sizeof(double)))
    if s.stage.halved:
        numbers(keep, s, s.G * s.H * s.H, &s.second_hh)
    if s.tokens or s.D <= NARROW:
        numbers(keep, s, (1 + s.stage.halved) * max(s.V, s.D) * s.columns, &s.d_table)
    elif s.stage.halved:
        numbers(keep, s, s.G * s.H * s.D, &s.second_ih)
    numbers(keep, s, (1 + s.stage.halved) * s.columns, &s.bias_sums)
    s.scratch_size = (
        scratch_size(max(s.D, s.H), <float*>NULL) if s.single else scratch_size(max(s.D, s.H), <double*>NULL))
    s.stage.most = num_threads_to_come()
    numbers(keep, s, s.stage.most * s.scratch_size, &s.scratch)
    return 0


cdef inline Py_ssize_t state_rows(const Sequence* s) noexcept nogil:
    return s.rows.N + s.rows.capacity if s.training else 3 * rows_apart(&s.rows)


cdef inline Py_ssize_t kept_rows(const Sequence* s) noexcept nogil:
    return s.rows.capacity if s.training else rows_apart(&s.rows)


cdef inline int numbers(list keep, const Sequence* s, Py_ssize_t count, void** place) except -1:
    return buffer(keep, count * (sizeof(float) if s.single else sizeof(double)), place)


# ---------------------------------------------------------------------------------------------
# The walk

cdef struct Step:                # Where a step of the walk finds row n of the batch: at row `field` + n of a buffer.
    Py_ssize_t t, low, high      # Step t updates rows low .. high-1.
    Py_ssize_t going             # Rows below this continue from the step before, the others from the initial state.
    Py_ssize_t row               # The packed row, as in x and y.
    Py_ssize_t h_start, h_before, h_now      # In h: the initial state, that of the step before, that of this step.
    Py_ssize_t c_start, c_before, c_now      # In c: the same.
    Py_ssize_t gate              # In gates.
    Py_ssize_t kept              # In kept.


cdef inline Step walk(const Sequence* s, Py_ssize_t i, const Band* band) noexcept nogil:
    """The i-th step of the walk, for the rows of a band."""
    cdef Step step
    cdef Py_ssize_t before
    cdef Py_ssize_t T = s.rows.T
    step.t = T - 1 - i if s.reverse else i
    step.low = band.first
    step.high = max(min(band.last, s.rows.counts[step.t]), band.first)
    step.row = band.offsets[step.t]
    step.h_start, step.c_start = h_of_step(s, -1, band), c_of_step(s, -1, band)
    step.h_now, step.c_now = h_of_step(s, i, band), c_of_step(s, i, band)
    step.going, step.h_before, step.c_before = band.first, step.h_start, step.c_start
    step.kept = step.row if s.training else in_turn(band)
    step.gate = gate_row(s, step.t, chunk_start(s, i), band)
    if i > 0:
        before = step.t + 1 if s.reverse else step.t - 1
        step.going = max(min(step.high, s.rows.counts[before]), band.first)
        step.h_before, step.c_before = h_of_step(s, i - 1, band), c_of_step(s, i - 1, band)
    return step


cdef inline Py_ssize_t in_turn(const Band* band) noexcept nogil:
    """Where row 0 lies in a buffer whose rows the bands of a share reuse in turn, so that they stay in the cache."""
    return band.home - band.first + band.share * APART


cdef inline Py_ssize_t gate_row(const Sequence* s, Py_ssize_t t, Py_ssize_t low, const Band* band) noexcept nogil:
    """The row of gates for row 0 of step t, in the chunk that begins at step `low`.

    In inference the steps of a chunk are packed as in training, so that they are one product. Each share has gates of
    its own, since it may be a chunk ahead of the others.
    """
    if s.training:
        return band.offsets[t]
    return in_turn(band) + (s.chunk - 1) * band.home + band.offsets[t] - band.offsets[low]


cdef inline Py_ssize_t h_of_step(const Sequence* s, Py_ssize_t i, const Band* band) noexcept nogil:
    """The row of h for row 0 after the i-th step of the walk; i = -1 means the initial state."""
    if not (s.training or s.h_in_y):
        return latest_two(s, i, band)
    return s.rows.N + band.offsets[s.rows.T - 1 - i if s.reverse else i] if i >= 0 else 0


cdef inline Py_ssize_t c_of_step(const Sequence* s, Py_ssize_t i, const Band* band) noexcept nogil:
    return h_of_step(s, i, band) if s.training else latest_two(s, i, band)


cdef inline Py_ssize_t latest_two(const Sequence* s, Py_ssize_t i, const Band* band) noexcept nogil:
    """The same for a buffer that holds only the initial state and the latest two states."""
    return in_turn(band) + (rows_apart(&s.rows) * (1 + i % 2) if i >= 0 else 0)


cdef inline Py_ssize_t chunk_start(const Sequence* s, Py_ssize_t i) noexcept nogil:
    """The first step in time of the chunk that the i-th step of the walk belongs to."""
    cdef Py_ssize_t begin = i // s.chunk * s.chunk
    if s.reverse:
        return max(s.rows.T - begin - s.chunk, <Py_ssize_t>0)
    return begin


cdef inline Py_ssize_t h_row_before(const Step* step, Py_ssize_t n) noexcept nogil:
    """The row of h that row n of a step continues from."""
    return n + (step.h_before if n < step.going else step.h_start)


cdef inline Py_ssize_t c_row_before(const Step* step, Py_ssize_t n) noexcept nogil:
    return n + (step.c_before if n < step.going else step.c_start)


cdef inline Py_ssize_t last_step(const Sequence* s, Py_ssize_t n) noexcept nogil:
    """The step of the walk that sequence n ends with; -1 if it has none."""
    cdef Py_ssize_t length = s.rows.lengths[n]
    return (s.rows.T if s.reverse and length > 0 else length) - 1


cdef inline void load_initial(Sequence* s, real* kind, const Band* band) noexcept nogil:
    """Copy the initial h of every sequence into the buffers, and the initial c if there is one."""
    cdef Py_ssize_t h = h_of_step(s, -1, band)
    cdef Py_ssize_t c = c_of_step(s, -1, band)
    cdef Py_ssize_t n
    for n in range(band.first, band.last):
        copy_bytes(<real*>s.h + (h + n) * s.h_row, <const real*>s.states[0].initial + n * s.H, s.H * sizeof(real))
        if s.c is not NULL:
            copy_bytes(<real*>s.c + (c + n) * s.stride, <const real*>s.states[1].initial + n * s.H,
                       s.H * sizeof(real))


cdef inline void store_final(Sequence* s, real* kind, const Band* band) noexcept nogil:
    """Copy h of every sequence's last step into the final states, and c if there is one."""
    cdef Py_ssize_t n, i, h, c
    for n in range(band.first, band.last):
        i = last_step(s, n)
        h, c = n + h_of_step(s, i, band), n + c_of_step(s, i, band)
        copy_bytes(<real*>s.states[0].final + n * s.H, <const real*>s.h + h * s.h_row, s.H * sizeof(real))
        if s.c is not NULL:
            copy_bytes(<real*>s.states[1].final + n * s.H, <const real*>s.c + c * s.stride, s.H * sizeof(real))


cdef inline void load_final_gradient(
    const Sequence* s, const State* state, real* dh, const Band* band,
) noexcept nogil:
    """dh = d_final. Padding is zeroed too, because an earlier pass may have left infinity times zero there."""
    cdef Py_ssize_t n
    for n in range(band.first, band.last):
        copy_bytes(dh + n * s.stride, <const real*>state.d_final + n * s.H, s.H * sizeof(real))
        fill_bytes(dh + n * s.stride + s.H, 0, (s.stride - s.H) * sizeof(real))


cdef inline void add_initial_gradient(
    const Sequence* s, const State* state, const real* dh, const Band* band,
) noexcept nogil:
    cdef Py_ssize_t n
    if state.d_initial is NULL:
        return
    for n in range(band.first, band.last):
        add(<real*>state.d_initial + n * s.H, dh + n * s.stride, s.H)


cdef inline void arriving_gradient(
    const Sequence* s, const Step* step, Py_ssize_t n, real* dh, real* dc,
) noexcept nogil:
    """Complete dh of row n of a step, and dc if there is one: cut what the step after gives, and add dy."""
    if cut(&s.rows, step.t, n):
        fill_bytes(dh, 0, s.stride * sizeof(real))
        if dc is not NULL:
            fill_bytes(dc, 0, s.stride * sizeof(real))
    if s.dy is not NULL:
        add(dh, <const real*>s.dy + (step.row + n) * s.dy_row, s.H)


cdef inline void store_output(const Sequence* s, const real* h, Py_ssize_t row) noexcept nogil:
    if not s.h_in_y:
        copy_bytes(<real*>s.y + row * s.y_row, h, s.H * sizeof(real))


# ---------------------------------------------------------------------------------------------
# Gates: bias + x @ weight_ih.T + h @ weight_hh.T, and the way back

cdef inline void pack_weights(Sequence* s, real* gates, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Pack the biases, the weights of all groups and the token table; threads split the units."""
    cdef Py_ssize_t first = share(s.H, part, parts)
    cdef Py_ssize_t last = share(s.H, part + 1, parts)
    cdef const real* w_ih = <const real*>s.weight_ih
    cdef const real* w_hh = <const real*>s.weight_hh
    cdef real* bias = <real*>s.bias
    cdef Py_ssize_t i, at
    cdef const Group* group
    if s.watched_count > 0 and not copy_changes(s, first, last, gates):
        return
    add_biases(s, bias, first, last)
    if s.tokens:
        fill_table(s, bias, first, last)
    for i in range(s.group_count):
        group = &s.groups[i]
        at = group.gate * s.H
        pack_transposed(&group.hidden, w_hh + at * s.H, s.H, group.count, s.H, s.stride, s.H, part, parts)
        if not s.tokens:
            pack_transposed(&group.input, w_ih + at * s.D, s.D, group.count, s.H, s.stride, s.D, part, parts)
        if s.training:
            pack(&group.hidden_back, w_hh + at * s.H, s.H, group.count, s.H, s.stride, s.H, part, parts)
    if s.dx is not NULL:
        pack(&s.input_back, w_ih, s.D, s.G, s.H, s.stride, s.D, part, parts)


cdef inline bint copy_changes(
    const Sequence* s, Py_ssize_t first, Py_ssize_t last, real* kind,
) noexcept nogil:
    """Copy the parameters of units first .. last-1 that differ from their copies; return whether any did."""
    cdef bint changed = False
    cdef const Watched* watched
    cdef Py_ssize_t i, g, begin
    cdef size_t size
    for i in range(s.watched_count):
        watched = &s.watched[i]
        size = (last - first) * watched.width * sizeof(real)
        for g in range(s.G):
            begin = (g * s.H + first) * watched.width
            if memcmp(<const real*>watched.copy + begin, <const real*>watched.given + begin, size) != 0:
                copy_bytes(<real*>watched.copy + begin, <const real*>watched.given + begin, size)
                changed = True
    return changed


cdef inline void add_biases(const Sequence* s, real* bias, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """bias = bias_ih + bias_hh, where they exist; bias_hh for the n of a GRU with reset_after goes to bias_n."""
    cdef Py_ssize_t g, u
    cdef real ih, hh
    for g in range(s.G):
        for u in range(first, last):
            ih = (<const real*>s.bias_ih)[g * s.H + u] if s.bias_ih is not NULL else <real>0
            hh = (<const real*>s.bias_hh)[g * s.H + u] if s.bias_hh is not NULL else <real>0
            if s.bias_n is not NULL and g == 2:
                (<real*>s.bias_n)[u] = hh
                hh = <real>0
            bias[g * s.stride + u] = ih + hh


cdef inline void fill_table(const Sequence* s, const real* bias, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """table = weight_ih.T + bias, for units first .. last-1 of every gate."""
    cdef real* table = <real*>s.table
    cdef Py_ssize_t g, u, v
    for g in range(s.G):
        u = g * s.stride + first
        transpose(last - first, table + u, s.width, <const real*>s.weight_ih + (g * s.H + first) * s.V, s.V, s.V)
        for v in range(s.V):
            add(table + v * s.width + u, bias + u, last - first)


cdef struct Shared:              # The arguments of a product whose panels threads split.
    const Gemm* gemm
    Py_ssize_t M, N
    const void* start
    Py_ssize_t start_row
    const Py_ssize_t* ids
    const Term* terms
    Py_ssize_t count
    void* c
    Py_ssize_t c_row
    bint back


cdef inline Py_ssize_t shared_column(Py_ssize_t N, Py_ssize_t part, Py_ssize_t parts, real* kind) noexcept nogil:
    """The column that a part begins with: the first of a panel."""
    return N if part == parts else min(panel_begin(panel_count(N, kind) * part // parts, N, kind), N)


cdef inline void some_columns(Shared* p, Py_ssize_t part, Py_ssize_t parts, real* kind) noexcept nogil:
    """One thread's part of a product: a product by itself, since parts are whole panels (or blocks of digits)."""
    cdef Py_ssize_t low = shared_column(p.N, part, parts, kind)
    cdef Py_ssize_t high = shared_column(p.N, part + 1, parts, kind)
    cdef Term terms[2]
    cdef Py_ssize_t t
    for t in range(p.count):
        terms[t] = p.terms[t]
        if terms[t].digits:
            terms[t].panels = column_place(<char*>terms[t].panels, terms[t].K, low)
        else:
            terms[t].panels = <const real*>terms[t].panels + low * terms[t].K
    product(p.gemm, p.M, high - low, <const real*>p.start + low, p.start_row, p.ids, terms, p.count,
            <real*>p.c + low, p.c_row, Ahead(NULL, 0, p.back))


cdef inline void some_columns_f(void* p, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    some_columns(<Shared*>p, part, parts, <float*>NULL)


cdef inline void some_columns_d(void* p, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    some_columns(<Shared*>p, part, parts, <double*>NULL)


cdef inline void team_product(
    const Sequence* s, Py_ssize_t M, Py_ssize_t N, const real* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    const Term* terms, Py_ssize_t count, real* c, Py_ssize_t c_row, Ahead ahead,
) noexcept nogil:
    """c = start + the sum of the terms, split among the team by columns."""
    cdef Shared shared
    if s.stage.team <= 1 or M == 0:
        product(s.gemm, M, N, start, start_row, ids, terms, count, c, c_row, ahead)
        return
    shared = Shared(s.gemm, M, N, start, start_row, ids, terms, count, c, c_row, ahead.back)
    s.stage.parallel(some_columns_f if real is float else some_columns_d, &shared, s.stage.team)


cdef inline void input_product(
    const Sequence* s, real* gates, Py_ssize_t i, const Band* band,
) noexcept nogil:
    """If the i-th step of the walk begins a chunk of several steps, compute x's part of all its gates."""
    cdef Py_ssize_t low = chunk_start(s, i)
    cdef Py_ssize_t high = s.rows.T - i if s.reverse else min(i + s.chunk, s.rows.T)
    cdef const Py_ssize_t* offsets = band.offsets
    if s.chunk > 1 and i % s.chunk == 0:
        input_rows(s, gates + (gate_row(s, low, low, band) + band.first) * s.width, offsets[low] + band.first,
                   offsets[high] - offsets[low])


cdef inline void input_rows(const Sequence* s, real* gates, Py_ssize_t begin, Py_ssize_t count) noexcept nogil:
    """gates = bias + x W_ih for packed rows begin .. begin + count - 1; gates points at the first."""
    cdef Term x
    cdef Py_ssize_t i
    cdef const Group* group
    for i in range(s.group_count):
        group = &s.groups[i]
        x = term_of(s.D, <const real*>s.x + begin * s.x_row, s.x_row, &group.input)
        team_product(s, count, group.columns, <const real*>s.bias + group.begin, 0, NULL, &x, 1, gates + group.begin,
                     s.width, Ahead(NULL, 0, False))


cdef inline void gate_rows(
    const Sequence* s, const Step* step, const Group* group, Py_ssize_t low, Py_ssize_t high,
    const real* hidden, Py_ssize_t hidden_row, real* gates, Ahead ahead,
) noexcept nogil:
    """A group's gates of rows low .. high-1 of a step, from x and from `hidden`.

    `hidden` points at the state of row low; NULL leaves out its product.
    """
    cdef Term terms[2]
    cdef Py_ssize_t count = 0
    cdef real* c = gates + (step.gate + low) * s.width + group.begin
    cdef const real* start = c           # in a chunk of several steps, x's part is there already
    cdef Py_ssize_t start_row = s.width
    cdef const Py_ssize_t* ids = NULL
    if s.tokens:
        start, ids = <const real*>s.table + group.begin, s.ids + step.row + low
    elif s.chunk == 1:
        start, start_row = <const real*>s.bias + group.begin, 0
        terms[0] = term_of(s.D, <const real*>s.x + (step.row + low) * s.x_row, s.x_row, &group.input)
        count = 1
    if hidden is not NULL:
        terms[count] = term_of(s.H, hidden, hidden_row, &group.hidden)
        count += 1
    team_product(s, high - low, group.columns, start, start_row, ids, terms, count, c, s.width, ahead)


cdef inline const real* unless_zero(
    const Sequence* s, Py_ssize_t rows, const real* h, Py_ssize_t h_row,
) noexcept nogil:
    """h, or NULL if all of its rows are zero, as initial states mostly are: then the product is left out."""
    cdef Py_ssize_t n, j
    cdef int found = 0
    for n in range(rows):
        for j in range(s.stride):
            found |= h[n * h_row + j] != 0
        if found:
            return h
    return NULL


cdef inline void gate_product(
    const Sequence* s, const Step* step, const Group* group, const real* before, const real* initial, Py_ssize_t row,
    real* gates, Ahead ahead,
) noexcept nogil:
    """A group's gates of all rows of a step.

    Rows low .. going-1 continue from `before`, rows going .. high-1 from `initial`; each points at its first row.
    """
    gate_rows(s, step, group, step.low, step.going, before, row, gates, ahead)
    gate_rows(s, step, group, step.going, step.high, unless_zero(s, step.high - step.going, initial, row), row, gates,
              Ahead(NULL, 0, ahead.back))


cdef inline Ahead back_or_forth(const Sequence* s, Py_ssize_t i) noexcept nogil:
    """Nothing to prefetch; every other step takes the panels backwards."""
    return Ahead(NULL, 0, (s.steps + i) & 1)


cdef inline void count_steps(void* plan) noexcept nogil:
    """Count the steps, so that the next sequence, perhaps one step of a stream, continues to alternate the order."""
    cdef Sequence* s = <Sequence*>plan
    s.steps += s.rows.T


cdef inline Ahead gates_ahead(
    const Sequence* s, Py_ssize_t i, const Band* band, real* gates,
) noexcept nogil:
    """The gates of the walk's i-th step, if there is one, to be prefetched in a product of the step before it.

    They lie where no hardware prefetches: before the present gates, or far behind them. In inference the gates stay in
    the cache anyway, and those of few rows are few cache lines.
    """
    cdef Step step
    if not s.training or band.last - band.first < ROWS or i < 0 or i >= s.rows.T:
        return back_or_forth(s, i)
    step = walk(s, i, band)
    return Ahead(gates + (step.row + step.low) * s.width, (step.high - step.low) * s.width * sizeof(real), False)


cdef inline Py_ssize_t handed_on(const Sequence* s, const Step* step) noexcept nogil:
    """Rows below this pass dz on to dh. The rest came from an initial state whose gradient is not wanted."""
    return step.going if s.states[0].d_initial is NULL else step.high


cdef inline void hidden_gradient(
    const Sequence* s, const Group* group, Py_ssize_t low, Py_ssize_t high, const real* dz, Py_ssize_t dz_row, real* dh,
    Ahead ahead,
) noexcept nogil:
    """dh += dz @ weight_hh for rows low .. high-1, where dz points at the group's columns of row low, and dh at row 0.

    Padding stays zero.
    """
    cdef Term term = term_of(group.depth, dz, dz_row, &group.hidden_back)
    dh += low * s.stride
    team_product(s, high - low, s.stride, dh, s.stride, NULL, &term, 1, dh, s.stride, ahead)


cdef inline void input_gradient(const Sequence* s, const real* dz, Py_ssize_t begin, Py_ssize_t count) noexcept nogil:
    """dx = dz @ weight_ih for `count` packed rows from `begin` on, or dx += if the other direction has written dx."""
    cdef Py_ssize_t depth = rows_of_groups(s.G, s.H, s.stride)
    cdef Term term = term_of(depth, dz + begin * s.width, s.width, &s.input_back)
    cdef real* dx = <real*>s.dx + begin * s.dx_row
    team_product(s, count, s.D, dx if s.adds else <const real*>s.zeros, s.dx_row if s.adds else 0, NULL, &term, 1, dx,
                 s.dx_row, Ahead(NULL, 0, False))


cdef inline void step_input_gradient(const Sequence* s, const Step* step, const real* dz) noexcept nogil:
    """dx of a step whose dz is still in the cache."""
    if s.dx is not NULL and s.chunk == 1:
        input_gradient(s, dz, step.row + step.low, step.high - step.low)


cdef inline void late_input_gradient(
    const Sequence* s, const real* dz, const Band* band,
) noexcept nogil:
    """dx of all steps in one product, which is faster where each step has few rows."""
    cdef Py_ssize_t begin, count
    if s.dx is not NULL and s.chunk > 1:
        count = span(&s.rows, False, 0, band, &begin)
        input_gradient(s, dz, begin, count)


# ---------------------------------------------------------------------------------------------
# Weight gradients: sums over all steps. They are added block by block of packed rows, so that dz of a block is loaded
# into the cache once for all of them.

cdef inline real* scratch_of(const Sequence* s, const Portion* portion, real* kind) noexcept nogil:
    return <real*>s.scratch + portion.thread * s.scratch_size


cdef inline real* sums_of(void* sums, Py_ssize_t size, const Portion* portion, real* kind) noexcept nogil:
    """The sums for a portion's half of the batch; each half has `size` numbers."""
    return <real*>sums + portion.second * size


cdef inline real* hidden_sums(const Sequence* s, const Portion* portion, real* kind) noexcept nogil:
    """(G*H, H) d_weight_hh, or the second half's sums that gather adds to it."""
    return <real*>(s.second_hh if portion.second else s.d_weight_hh)


cdef inline real* table_sums(const Sequence* s, const Portion* portion, real* kind) noexcept nogil:
    """(V, columns) The sums of dz by token, or (D, columns) x.T @ dz for a narrow x."""
    return sums_of(s.d_table, max(s.V, s.D) * s.columns, portion, kind)


cdef inline bint sums_by_token(const Sequence* s) noexcept nogil:
    """Whether a bias gradient adds up the sums of dz by token, because they are fewer than the rows of dz."""
    return s.tokens and s.V < row_count(&s.rows, False)


cdef inline void zero_sums(const Sequence* s, const Portion* portion, real* kind) noexcept nogil:
    """Zero the sums before the first block; where blocks are added to a gradient directly, that is left alone."""
    cdef Py_ssize_t low = share(s.columns, portion.part, portion.parts)
    cdef Py_ssize_t size = share(s.columns, portion.part + 1, portion.parts) - low
    cdef Py_ssize_t V = max(s.V, s.D) if s.d_table is not NULL else 0
    cdef real* table = table_sums(s, portion, kind) + low
    cdef Py_ssize_t v
    fill_bytes(sums_of(s.bias_sums, s.columns, portion, kind) + low, 0, size * sizeof(real))
    if portion.parts == 1:
        fill_bytes(table, 0, V * size * sizeof(real))
    for v in range(V if portion.parts > 1 else 0):
        fill_bytes(table + v * s.columns, 0, size * sizeof(real))
    if portion.second:
        zero_tiles(<real*>s.second_hh, s.G, s.H, s.H, portion.part, portion.parts)
        if s.second_ih is not NULL:
            zero_tiles(<real*>s.second_ih, s.G, s.H, s.D, portion.part, portion.parts)


cdef inline void input_weight_gradients(
    const Sequence* s, const real* dz, const Blocks* blocks, const Portion* portion,
) noexcept nogil:
    """Add a block: d_weight_ih += dz.T @ x (or to the sums that gather adds to it), and bias_sums += dz."""
    cdef Py_ssize_t low = share(s.columns, portion.part, portion.parts)
    cdef Py_ssize_t size = share(s.columns, portion.part + 1, portion.parts) - low
    cdef const real* x = <const real*>s.x
    cdef real* sums = table_sums(s, portion, <real*>NULL) + low
    cdef real* scratch = scratch_of(s, portion, sums)
    if s.tokens:
        add_rows_by_token(sums, s.columns, blocks, s.ids, dz + low, s.width, size)
    elif s.D <= NARROW:                  # x.T @ dz reads dz in place, without packing
        outer_product(s.gemm, &blocks.rows[0], blocks.count, 1, s.D, s.D, size, x, s.x_row, dz + low, s.width, NULL,
                      sums, s.columns, scratch, 0, 1)
    else:
        outer_product(s.gemm, &blocks.rows[0], blocks.count, s.G, s.H, s.stride, s.D, dz, s.width, x, s.x_row, NULL,
                      <real*>(s.second_ih if portion.second else s.d_weight_ih), s.D, scratch, portion.part,
                      portion.parts)
    if s.bias_ih is not NULL and not sums_by_token(s):
        add_rows(sums_of(s.bias_sums, s.columns, portion, sums) + low, blocks, dz + low, s.width, size)


cdef inline void hidden_weight_gradients(
    const Sequence* s, const real* dz, Py_ssize_t dz_row, Py_ssize_t G, const real* h, Py_ssize_t h_row,
    const Py_ssize_t* h_rows, real* dw, const Blocks* blocks, const Portion* portion,
) noexcept nogil:
    """Add a block: dw (G*H, H) += dz.T @ h, where packed row m takes row h_rows[m] of h, or row m if h_rows is NULL."""
    cdef Py_ssize_t begin = 0
    cdef Py_ssize_t end = blocks.count
    cdef Py_ssize_t first = blocks.count - blocks.ended if s.reverse else blocks.begun    # rows of the first step
    if first > 0 and unless_zero(
        s, portion.last - portion.first, <const real*>s.h + portion.first * s.h_row, s.h_row,
    ) is NULL:
        if s.reverse:                    # leave out the first step: it multiplies the initial states, which are zero
            end = blocks.ended
        else:
            begin = blocks.begun
    outer_product(s.gemm, &blocks.rows[begin], end - begin, G, s.H, s.stride, s.H, dz, dz_row, h, h_row, h_rows, dw,
                  s.H, scratch_of(s, portion, <real*>NULL), portion.part, portion.parts)


cdef inline void add_sums(
    const Sequence* s, Py_ssize_t shared, Py_ssize_t part, Py_ssize_t parts, real* kind,
) noexcept nogil:
    """After the last block, add the sums to the gradients. The first `shared` gates add the same to both biases."""
    cdef Py_ssize_t low = share(s.columns, part, parts)
    cdef Py_ssize_t size = share(s.columns, part + 1, parts) - low
    cdef real* sums = <real*>s.bias_sums + low
    cdef real* table = <real*>s.d_table + low
    cdef Py_ssize_t V = max(s.V, s.D)
    cdef Py_ssize_t v
    if s.stage.halved:
        add_share(s.d_weight_hh, s.second_hh, s.G * s.H * s.H, part, parts, kind)
        if s.second_ih is not NULL:
            add_share(s.d_weight_ih, s.second_ih, s.G * s.H * s.D, part, parts, kind)
        add(sums, sums + s.columns, size)
    if s.d_table is not NULL:
        for v in range(V if s.stage.halved else 0):
            add(table + v * s.columns, table + (V + v) * s.columns, size)
        add_transposed(s, table, low, size)
    if s.bias_ih is NULL:
        return
    for v in range(s.V if sums_by_token(s) else 0):
        add(sums, table + v * s.columns, size)
    add_units(s, sums, low, low + size, <real*>s.d_bias_ih)
    if s.bias_hh is not NULL:
        add_units(s, sums, low, min(low + size, shared * s.stride), <real*>s.d_bias_hh)


cdef inline void add_units(
    const Sequence* s, const real* sums, Py_ssize_t low, Py_ssize_t high, real* to,
) noexcept nogil:
    """to (G*H,) += sums (G * stride,) without padding, for columns low .. high-1; `sums` points at column low."""
    cdef Py_ssize_t g, u, first, last
    for g in range(low // s.stride, pieces(high, s.stride)):
        u = g * s.stride
        first, last = max(low - u, <Py_ssize_t>0), min(high - u, s.H)
        if first < last:
            add(to + g * s.H + first, sums + u + first - low, last - first)


cdef inline void add_transposed(const Sequence* s, const real* sums, Py_ssize_t low, Py_ssize_t size) noexcept nogil:
    """d_weight_ih (G*H, V or D) += sums.T, for `size` columns of sums from `low` on; `sums` points at column low."""
    cdef Py_ssize_t V = max(s.V, s.D)
    cdef Py_ssize_t width = lanes(<real*>sums)
    cdef real block[CHUNK * WIDEST]
    cdef real* dw
    cdef Py_ssize_t i, j, u, p, v, q, count
    for i in range(size // width):       # one vector of columns at a time, which belong to one gate
        j = low + i * width
        u = j % s.stride                 # its first unit
        dw = <real*>s.d_weight_ih + (j // s.stride * s.H + u) * V
        for p in range(pieces(V, CHUNK)):
            v = p * CHUNK
            count = min(<Py_ssize_t>CHUNK, V - v)
            transpose(count, block, CHUNK, sums + v * s.columns + i * width, s.columns, width)
            for q in range(min(width, s.H - u)):
                add(dw + q * V + v, block + q * CHUNK, count)
