"""Update rules on one flat parameter, changed in place, as in PyTorch.

A rule reads its hyperparameters from `settings`, float64. settings[0] is the learning rate, and settings[1] is the
number of this update, counted from 1. The others are those of the rule's class in rnncore.optimizers.
"""

from libc.math cimport sqrt

from _gemm cimport FLOATS
from _math cimport real, root_of_squares, square_root
from _plan cimport Rule as CRule, address, buffer, rule_capsule

from rnncore._stage import Rule

cdef enum:
    CHAINS = 2 * FLOATS          # Sums in a chain each: four vectors of doubles, which keep the multiply-adds busy.

cdef struct Update:
    CRule rule
    bint single
    const double* settings
    void* p                      # (size,) The parameter.
    const void* grad             # (size,) Its gradient.
    void* slots[3]               # (size,) each: what the rule keeps of earlier gradients; NULL where unused.


cdef inline void sgd_plain(
    Py_ssize_t size, real* restrict p, const real* restrict grad, real lr, real weight_decay,
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(size):
        p[j] -= lr * (grad[j] + weight_decay * p[j])


cdef inline void sgd_momentum(
    Py_ssize_t size, real* restrict p, const real* restrict grad, real* restrict memory,
    real lr, real momentum, real keep, real fresh, real weight_decay, bint nesterov,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real g
    for j in range(size):
        g = grad[j] + weight_decay * p[j]
        memory[j] = keep * memory[j] + fresh * g
        p[j] -= lr * (g + momentum * memory[j] if nesterov else memory[j])


cdef inline void sgd(Update* s, real* p, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef const double* settings = s.settings
    cdef real* memory = <real*>s.slots[0]
    cdef real lr = <real>settings[0]
    cdef bint first = settings[1] == 1      # the first gradient goes into the buffer without dampening
    if memory is NULL:
        sgd_plain(end - begin, p + begin, <const real*>s.grad + begin, lr, <real>settings[4])
    else:
        sgd_momentum(end - begin, p + begin, <const real*>s.grad + begin, memory + begin, lr, <real>settings[2],
                     <real>(0 if first else settings[2]), <real>(1 if first else 1 - settings[3]),
                     <real>settings[4], settings[5] != 0)


cdef inline void adagrad_update(
    Py_ssize_t size, real* restrict p, const real* restrict grad, real* restrict squares,
    real lr, real eps, real weight_decay,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real g
    for j in range(size):
        g = grad[j] + weight_decay * p[j]
        squares[j] += g * g
        p[j] -= lr * g / (root_of_squares(squares[j]) + eps)


cdef inline void adagrad(Update* s, real* p, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef const double* settings = s.settings
    adagrad_update(end - begin, p + begin, <const real*>s.grad + begin, <real*>s.slots[0] + begin,
                   <real>settings[0], <real>settings[2], <real>settings[3])


cdef inline void rmsprop_update(
    Py_ssize_t size, real* restrict p, const real* restrict grad, real* restrict square_avg, real* memory,
    real* grad_avg, real lr, real alpha, real fresh, real eps, real momentum, real weight_decay,
) noexcept nogil:
    """fresh = 1 - alpha is computed in double: from a float32 alpha, the difference would be off by 1e-6."""
    cdef Py_ssize_t j
    cdef real g, variance, update
    for j in range(size):
        g = grad[j] + weight_decay * p[j]
        square_avg[j] = alpha * square_avg[j] + fresh * g * g
        variance = square_avg[j]
        if grad_avg is not NULL:
            grad_avg[j] += fresh * (g - grad_avg[j])
            variance = variance - grad_avg[j] * grad_avg[j]
        update = g / (square_root(variance) + eps)
        if memory is not NULL:
            memory[j] = momentum * memory[j] + update
            update = memory[j]
        p[j] -= lr * update


cdef inline void rmsprop(Update* s, real* p, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef const double* settings = s.settings
    cdef real* momentum_buffer = <real*>s.slots[1]
    cdef real* grad_avg = <real*>s.slots[2]
    rmsprop_update(
        end - begin, p + begin, <const real*>s.grad + begin, <real*>s.slots[0] + begin,
        NULL if momentum_buffer is NULL else momentum_buffer + begin, NULL if grad_avg is NULL else grad_avg + begin,
        <real>settings[0], <real>settings[2], <real>(1 - settings[2]), <real>settings[3], <real>settings[4],
        <real>settings[5],
    )


cdef inline void adam_update(
    Py_ssize_t size, real* restrict p, const real* restrict grad, real* restrict exp_avg, real* restrict exp_avg_sq,
    real rate, real fresh1, real beta2, real fresh2, real eps, real shrink, real weight_decay, real correction,
) noexcept nogil:
    """fresh1 = 1 - beta1 and fresh2 = 1 - beta2 are computed in double: from a float32 0.999 they are off by 1e-5."""
    cdef Py_ssize_t j
    cdef real g
    for j in range(size):
        g = grad[j] + weight_decay * p[j]
        exp_avg[j] += fresh1 * (g - exp_avg[j])
        exp_avg_sq[j] = beta2 * exp_avg_sq[j] + fresh2 * g * g
        p[j] = shrink * p[j] - rate * exp_avg[j] / (correction * root_of_squares(exp_avg_sq[j]) + eps)


cdef inline void adam(Update* s, real* p, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef const double* settings = s.settings
    cdef double lr = settings[0]
    cdef double step = settings[1]
    cdef double weight_decay = settings[5]
    cdef bint decoupled = settings[6] != 0
    adam_update(
        end - begin, p + begin, <const real*>s.grad + begin, <real*>s.slots[0] + begin, <real*>s.slots[1] + begin,
        <real>(lr / (1 - settings[2] ** step)), <real>(1 - settings[2]), <real>settings[3],
        <real>(1 - settings[3]), <real>settings[4], <real>(1 - lr * weight_decay if decoupled else 1),
        <real>(0 if decoupled else weight_decay), <real>(1 / sqrt(1 - settings[3] ** step)),
    )


cdef inline double squares(Py_ssize_t size, const real* restrict grad) noexcept nogil:
    """The sum of squares, in CHAINS sums that are added in a fixed order: fast, and always the same bits."""
    cdef double chains[CHAINS]
    cdef double total = 0
    cdef Py_ssize_t i, j
    for j in range(CHAINS):
        chains[j] = 0
    for i in range(size // CHAINS):
        for j in range(CHAINS):
            chains[j] += <double>grad[i * CHAINS + j] * <double>grad[i * CHAINS + j]
    for j in range(CHAINS):
        total += chains[j]
    for j in range(size // CHAINS * CHAINS, size):
        total += <double>grad[j] * <double>grad[j]
    return total


cdef double sum_of_squares(void* plan) noexcept nogil:
    cdef Update* s = <Update*>plan
    if s.single:
        return squares(s.rule.size, <const float*>s.grad)
    return squares(s.rule.size, <const double*>s.grad)


cdef inline void scaled(Py_ssize_t size, real* restrict grad, real factor) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(size):
        grad[j] *= factor


cdef void scale(void* plan, double factor, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Update* s = <Update*>plan
    if s.single:
        scaled(end - begin, <float*>s.grad + begin, <float>factor)
    else:
        scaled(end - begin, <double*>s.grad + begin, factor)


cdef inline void clipped(Py_ssize_t size, real* restrict grad, real high) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(size):
        grad[j] = high if grad[j] > high else (-high if grad[j] < -high else grad[j])


cdef void clip(void* plan, double limit, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Update* s = <Update*>plan
    if s.single:
        clipped(end - begin, <float*>s.grad + begin, <float>limit)
    else:
        clipped(end - begin, <double*>s.grad + begin, limit)


ctypedef void (*Function)(void* plan, Py_ssize_t begin, Py_ssize_t end) noexcept nogil


cdef object bind(object variable, tuple slots, object settings, Function update):
    """Return the capsule of a rule, and a list that keeps its memory alive."""
    cdef list keep = [variable, slots, settings]
    cdef Update* s
    buffer(keep, sizeof(Update), <void**>&s)
    s.single = variable.value.itemsize == sizeof(float)
    s.settings = <const double*>address(settings)
    s.p, s.grad = address(variable.value), address(variable.grad)
    for i, slot in enumerate(slots):
        s.slots[i] = address(slot)
    s.rule.plan, s.rule.size = s, variable.value.size
    s.rule.grad, s.rule.grad_bytes = address(variable.grad), variable.grad.nbytes
    s.rule.update = update
    s.rule.sum_of_squares, s.rule.scale, s.rule.clip = sum_of_squares, scale, clip
    return rule_capsule(&s.rule), keep


cdef void run_sgd(void* plan, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Update* s = <Update*>plan
    if s.single:
        sgd(s, <float*>s.p, begin, end)
    else:
        sgd(s, <double*>s.p, begin, end)


cdef void run_adagrad(void* plan, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Update* s = <Update*>plan
    if s.single:
        adagrad(s, <float*>s.p, begin, end)
    else:
        adagrad(s, <double*>s.p, begin, end)


cdef void run_rmsprop(void* plan, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Update* s = <Update*>plan
    if s.single:
        rmsprop(s, <float*>s.p, begin, end)
    else:
        rmsprop(s, <double*>s.p, begin, end)


cdef void run_adam(void* plan, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Update* s = <Update*>plan
    if s.single:
        adam(s, <float*>s.p, begin, end)
    else:
        adam(s, <double*>s.p, begin, end)


class SGD(Rule):
    def __init__(self, variable, momentum_buffer, settings):
        super().__init__(*bind(variable, (momentum_buffer,), settings, run_sgd))


class Adagrad(Rule):
    def __init__(self, variable, sum_, settings):
        super().__init__(*bind(variable, (sum_,), settings, run_adagrad))


class RMSprop(Rule):
    def __init__(self, variable, square_avg, momentum_buffer, grad_avg, settings):
        super().__init__(*bind(variable, (square_avg, momentum_buffer, grad_avg), settings, run_rmsprop))


class Adam(Rule):
    def __init__(self, variable, exp_avg, exp_avg_sq, settings):
        super().__init__(*bind(variable, (exp_avg, exp_avg_sq), settings, run_adam))
