"""Update rules on one parameter: 1-D arrays of the same length, changed in place, as in PyTorch."""

from libc.math cimport sqrt

from _gemm cimport FLOATS
from _math cimport real, square_root


cdef inline const real* begin(const real[::1] array) noexcept nogil:
    return &array[0] if array.shape[0] > 0 else NULL


cdef inline void sgd_plain(
    Py_ssize_t size, real* restrict p, const real* restrict grad, real lr, real weight_decay,
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(size):
        p[j] -= lr * (grad[j] + weight_decay * p[j])


cdef inline void sgd_momentum(
    Py_ssize_t size, real* restrict p, const real* restrict grad, real* restrict buffer,
    real lr, real momentum, real fresh, real weight_decay, bint nesterov,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real g
    for j in range(size):
        g = grad[j] + weight_decay * p[j]
        buffer[j] = momentum * buffer[j] + fresh * g
        p[j] -= lr * (g + momentum * buffer[j] if nesterov else buffer[j])


def sgd(
    real[::1] param, const real[::1] grad, real[::1] momentum_buffer, double lr, double momentum, double dampening,
    double weight_decay, bint nesterov, bint first,
):
    """Stochastic gradient descent, with momentum (Sutskever et al. 2013) where there is a buffer for it.

    ``first`` says that the buffer holds nothing yet: it starts with the whole gradient, undampened.
    """
    cdef Py_ssize_t size = param.shape[0]
    if size == 0:
        return
    if momentum_buffer is None:
        sgd_plain(size, &param[0], &grad[0], <real>lr, <real>weight_decay)
        return
    if first:
        momentum_buffer[:] = 0
    sgd_momentum(size, &param[0], &grad[0], &momentum_buffer[0], <real>lr, <real>momentum,
                 <real>(1 if first else 1 - dampening), <real>weight_decay, nesterov)


cdef inline void adagrad_update(
    Py_ssize_t size, real* restrict p, const real* restrict grad, real* restrict squares,
    real lr, real eps, real weight_decay,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real g
    for j in range(size):
        g = grad[j] + weight_decay * p[j]
        squares[j] += g * g
        p[j] -= lr * g / (square_root(squares[j]) + eps)


def adagrad(real[::1] param, const real[::1] grad, real[::1] sum_, double lr, double eps, double weight_decay):
    """Adagrad (Duchi, Hazan & Singer 2011); sum_ holds the sum of the squared gradients."""
    if param.shape[0]:
        adagrad_update(param.shape[0], &param[0], &grad[0], &sum_[0], <real>lr, <real>eps, <real>weight_decay)


cdef inline void rmsprop_update(
    Py_ssize_t size, real* restrict p, const real* restrict grad, real* restrict square_avg, real* buffer,
    real* grad_avg, real lr, real alpha, real eps, real momentum, real weight_decay,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real g, variance, update
    for j in range(size):
        g = grad[j] + weight_decay * p[j]
        square_avg[j] = alpha * square_avg[j] + (<real>1 - alpha) * g * g
        variance = square_avg[j]
        if grad_avg is not NULL:
            grad_avg[j] += (<real>1 - alpha) * (g - grad_avg[j])
            variance = variance - grad_avg[j] * grad_avg[j]
        update = g / (square_root(variance) + eps)
        if buffer is not NULL:
            buffer[j] = momentum * buffer[j] + update
            update = buffer[j]
        p[j] -= lr * update


def rmsprop(
    real[::1] param, const real[::1] grad, real[::1] square_avg, real[::1] momentum_buffer, real[::1] grad_avg,
    double lr, double alpha, double eps, double momentum, double weight_decay,
):
    """RMSprop (Tieleman & Hinton 2012), centred (Graves 2013) where there is a grad_avg."""
    if param.shape[0] == 0:
        return
    rmsprop_update(
        param.shape[0], &param[0], &grad[0], &square_avg[0],
        NULL if momentum_buffer is None else &momentum_buffer[0], NULL if grad_avg is None else &grad_avg[0],
        <real>lr, <real>alpha, <real>eps, <real>momentum, <real>weight_decay,
    )


cdef inline void adam_update(
    Py_ssize_t size, real* restrict p, const real* restrict grad, real* restrict exp_avg, real* restrict exp_avg_sq,
    real rate, real beta1, real beta2, real eps, real shrink, real weight_decay, real correction,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real g
    for j in range(size):
        g = grad[j] + weight_decay * p[j]
        exp_avg[j] += (<real>1 - beta1) * (g - exp_avg[j])
        exp_avg_sq[j] = beta2 * exp_avg_sq[j] + (<real>1 - beta2) * g * g
        p[j] = shrink * p[j] - rate * exp_avg[j] / (square_root(exp_avg_sq[j]) / correction + eps)


def adam(
    real[::1] param, const real[::1] grad, real[::1] exp_avg, real[::1] exp_avg_sq, double lr, double beta1,
    double beta2, double eps, double weight_decay, bint decoupled, Py_ssize_t step,
):
    """Adam (Kingma & Ba 2015); with decoupled weight decay, AdamW (Loshchilov & Hutter 2019).

    ``step`` counts from 1.
    """
    if param.shape[0] == 0:
        return
    adam_update(
        param.shape[0], &param[0], &grad[0], &exp_avg[0], &exp_avg_sq[0], <real>(lr / (1 - beta1 ** step)),
        <real>beta1, <real>beta2, <real>eps, <real>(1 - lr * weight_decay if decoupled else 1),
        <real>(0 if decoupled else weight_decay), <real>sqrt(1 - beta2 ** step),
    )


cdef inline double squares(Py_ssize_t size, const real* restrict grad) noexcept nogil:
    """Sums in as many chains as a vector has lanes, added up in order: fast, and always the same."""
    cdef double lanes[FLOATS]
    cdef double total = 0
    cdef Py_ssize_t i, j
    for j in range(FLOATS):
        lanes[j] = 0
    for i in range(size // FLOATS):
        for j in range(FLOATS):
            lanes[j] += <double>grad[i * FLOATS + j] * <double>grad[i * FLOATS + j]
    for j in range(FLOATS):
        total += lanes[j]
    for j in range(size // FLOATS * FLOATS, size):
        total += <double>grad[j] * <double>grad[j]
    return total


def sum_of_squares(const real[::1] grad):
    """Return the sum of the squares, in double precision and in a fixed order."""
    return squares(grad.shape[0], begin(grad))


def scale(real[::1] grad, double factor):
    """Multiply by a factor."""
    cdef Py_ssize_t j
    cdef real f = <real>factor
    for j in range(grad.shape[0]):
        grad[j] *= f


def clip(real[::1] grad, double limit):
    """Clip every element to [-limit, limit]; NaN stays."""
    cdef Py_ssize_t j
    cdef real high = <real>limit
    for j in range(grad.shape[0]):
        grad[j] = high if grad[j] > high else (-high if grad[j] < -high else grad[j])
