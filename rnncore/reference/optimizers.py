"""Update rules on one parameter: 1-D arrays of the same length, changed in place, as in PyTorch."""

from __future__ import annotations

import math

import numpy as np


def sgd(
    param: np.ndarray,
    grad: np.ndarray,
    momentum_buffer: np.ndarray | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
) -> None:
    """Stochastic gradient descent, with momentum (Sutskever et al. 2013) where there is a buffer for it.

    ``first`` says that the buffer holds nothing yet: it starts with the whole gradient, undampened.
    """
    grad = grad + weight_decay * param
    if momentum_buffer is not None:
        if first:
            momentum_buffer[...] = grad
        else:
            momentum_buffer[...] = momentum * momentum_buffer + (1 - dampening) * grad
        grad = grad + momentum * momentum_buffer if nesterov else momentum_buffer
    param -= lr * grad


def adagrad(
    param: np.ndarray, grad: np.ndarray, sum_: np.ndarray, lr: float, eps: float, weight_decay: float
) -> None:
    """Adagrad (Duchi, Hazan & Singer 2011); sum_ holds the sum of the squared gradients."""
    grad = grad + weight_decay * param
    sum_ += grad * grad
    param -= lr * grad / (np.sqrt(sum_) + eps)


def rmsprop(
    param: np.ndarray,
    grad: np.ndarray,
    square_avg: np.ndarray,
    momentum_buffer: np.ndarray | None,
    grad_avg: np.ndarray | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """RMSprop (Tieleman & Hinton 2012), centred (Graves 2013) where there is a grad_avg."""
    grad = grad + weight_decay * param
    square_avg[...] = alpha * square_avg + (1 - alpha) * grad * grad
    variance = square_avg
    if grad_avg is not None:
        grad_avg += (1 - alpha) * (grad - grad_avg)
        variance = square_avg - grad_avg * grad_avg
    update = grad / (np.sqrt(variance) + eps)
    if momentum_buffer is not None:
        momentum_buffer[...] = momentum * momentum_buffer + update
        update = momentum_buffer
    param -= lr * update


def adam(
    param: np.ndarray,
    grad: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    step: int,
) -> None:
    """Adam (Kingma & Ba 2015); with decoupled weight decay, AdamW (Loshchilov & Hutter 2019).

    ``step`` counts from 1.
    """
    if decoupled:
        param *= 1 - lr * weight_decay
    else:
        grad = grad + weight_decay * param
    exp_avg += (1 - beta1) * (grad - exp_avg)
    exp_avg_sq[...] = beta2 * exp_avg_sq + (1 - beta2) * grad * grad
    deviation = np.sqrt(exp_avg_sq) / math.sqrt(1 - beta2**step) + eps
    param -= lr / (1 - beta1**step) * exp_avg / deviation


def sum_of_squares(grad: np.ndarray) -> float:
    """Return the sum of the squares, in double precision and in a fixed order."""
    return float(np.square(grad, dtype=np.float64).sum())


def scale(grad: np.ndarray, factor: float) -> None:
    """Multiply by a factor."""
    grad *= factor


def clip(grad: np.ndarray, limit: float) -> None:
    """Clip every element to [-limit, limit]."""
    np.clip(grad, -limit, limit, out=grad)
