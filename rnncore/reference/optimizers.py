"""Update rules on one flat parameter, changed in place, as in PyTorch.

A rule reads its hyperparameters from `settings`, float64: the learning rate, the number of this update,
counting from 1, and then what its class says. So the learning rate may change between updates.
"""

from __future__ import annotations

import math

import numpy as np

from rnncore.reference._stage import gradient
from rnncore.rows import Variable

__all__ = ["SGD", "Adagrad", "Adam", "RMSprop", "Rule"]


class Rule:
    """How an optimizer treats one flat parameter.

    Parameters
    ----------
    variable : Variable
        1-D, like everything that a rule keeps.
    settings : ndarray of float64
    """

    def __init__(self, variable: Variable, settings: np.ndarray) -> None:
        self.param, self.grad = variable.value, gradient(variable.grad)
        self.settings = settings

    def update(self) -> None:
        """Change the parameter by its gradient."""
        raise NotImplementedError

    def sum_of_squares(self) -> float:
        """Return that of the gradient, in double precision and in a fixed order."""
        return float(np.square(self.grad, dtype=np.float64).sum())

    def scale(self, factor: float) -> None:
        """Multiply the gradient by a factor."""
        self.grad *= factor

    def clip(self, limit: float) -> None:
        """Clip every element of the gradient to [-limit, limit]; NaN stays."""
        np.clip(self.grad, -limit, limit, out=self.grad)


class SGD(Rule):
    """Stochastic gradient descent, with momentum (Sutskever et al. 2013) where there is a buffer for it.

    The buffer begins with the whole first gradient, undampened.

    Parameters
    ----------
    variable : Variable
    momentum_buffer : ndarray or None
    settings : ndarray
        Learning rate, update, momentum, dampening, weight decay, Nesterov (0 or 1).
    """

    def __init__(self, variable: Variable, momentum_buffer: np.ndarray | None, settings: np.ndarray) -> None:
        super().__init__(variable, settings)
        self.momentum_buffer = momentum_buffer

    def update(self) -> None:
        """Change the parameter by its gradient."""
        lr, step, momentum, dampening, weight_decay, nesterov = self.settings.tolist()
        buffer = self.momentum_buffer
        grad = self.grad + weight_decay * self.param
        if buffer is not None:
            buffer[...] = grad if step == 1 else momentum * buffer + (1 - dampening) * grad
            grad = grad + momentum * buffer if nesterov else buffer
        self.param -= lr * grad


class Adagrad(Rule):
    """Adagrad (Duchi, Hazan & Singer 2011).

    Parameters
    ----------
    variable : Variable
    sum_ : ndarray
        Of the squared gradients.
    settings : ndarray
        Learning rate, update, eps, weight decay.
    """

    def __init__(self, variable: Variable, sum_: np.ndarray, settings: np.ndarray) -> None:
        super().__init__(variable, settings)
        self.sum = sum_

    def update(self) -> None:
        """Change the parameter by its gradient."""
        lr, _, eps, weight_decay = self.settings.tolist()
        grad = self.grad + weight_decay * self.param
        self.sum += grad * grad
        self.param -= lr * grad / (np.sqrt(self.sum) + eps)


class RMSprop(Rule):
    """RMSprop (Tieleman & Hinton 2012), centred (Graves 2013) where there is a grad_avg.

    Parameters
    ----------
    variable : Variable
    square_avg : ndarray
    momentum_buffer, grad_avg : ndarray or None
    settings : ndarray
        Learning rate, update, alpha, eps, momentum, weight decay.
    """

    def __init__(
        self,
        variable: Variable,
        square_avg: np.ndarray,
        momentum_buffer: np.ndarray | None,
        grad_avg: np.ndarray | None,
        settings: np.ndarray,
    ) -> None:
        super().__init__(variable, settings)
        self.square_avg, self.momentum_buffer, self.grad_avg = square_avg, momentum_buffer, grad_avg

    def update(self) -> None:
        """Change the parameter by its gradient."""
        lr, _, alpha, eps, momentum, weight_decay = self.settings.tolist()
        grad = self.grad + weight_decay * self.param
        self.square_avg[...] = alpha * self.square_avg + (1 - alpha) * grad * grad
        variance = self.square_avg
        if self.grad_avg is not None:
            self.grad_avg += (1 - alpha) * (grad - self.grad_avg)
            variance = self.square_avg - self.grad_avg * self.grad_avg
        update = grad / (np.sqrt(variance) + eps)
        if self.momentum_buffer is not None:
            self.momentum_buffer[...] = momentum * self.momentum_buffer + update
            update = self.momentum_buffer
        self.param -= lr * update


class Adam(Rule):
    """Adam (Kingma & Ba 2015); with decoupled weight decay, AdamW (Loshchilov & Hutter 2019).

    Parameters
    ----------
    variable : Variable
    exp_avg, exp_avg_sq : ndarray
    settings : ndarray
        Learning rate, update, beta1, beta2, eps, weight decay, decoupled (0 or 1).
    """

    def __init__(
        self, variable: Variable, exp_avg: np.ndarray, exp_avg_sq: np.ndarray, settings: np.ndarray
    ) -> None:
        super().__init__(variable, settings)
        self.exp_avg, self.exp_avg_sq = exp_avg, exp_avg_sq

    def update(self) -> None:
        """Change the parameter by its gradient."""
        lr, step, beta1, beta2, eps, weight_decay, decoupled = self.settings.tolist()
        grad = self.grad
        if decoupled:
            self.param *= 1 - lr * weight_decay
        else:
            grad = grad + weight_decay * self.param
        self.exp_avg += (1 - beta1) * (grad - self.exp_avg)
        self.exp_avg_sq[...] = beta2 * self.exp_avg_sq + (1 - beta2) * grad * grad
        deviation = np.sqrt(self.exp_avg_sq) / math.sqrt(1 - beta2**step) + eps
        self.param -= lr / (1 - beta1**step) * self.exp_avg / deviation
