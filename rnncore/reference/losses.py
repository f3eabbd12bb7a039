"""Output activations and losses, in forms that neither overflow nor cancel."""

from __future__ import annotations

import numpy as np

from rnncore.reference._stage import Stage, gradient, sigmoid, softmax
from rnncore.rows import Rows, Variable

__all__ = ["Activation", "Loss", "loss_gradient", "loss_terms"]


class Activation(Stage):
    """The output activation: y = sigmoid(x), or softmax over each row of x.

    Parameters
    ----------
    rows : Rows
    x, y : Variable
        (R, O) each.
    kind : {"sigmoid", "softmax"}
    last : bool
        R is one row for each sequence, N, instead of one for each step, M.
    """

    def __init__(self, rows: Rows, x: Variable, y: Variable, *, kind: str, last: bool = False) -> None:
        self.rows, self.x, self.y, self.kind, self.last = rows, x, y, kind, last

    def forward(self) -> None:
        """Fill y."""
        R = self.rows.N if self.last else self.rows.M
        x = self.x.value[:R]
        self.y.value[:R] = sigmoid(x) if self.kind == "sigmoid" else softmax(x)

    def backward(self) -> None:
        """Fill the gradient of x."""
        R = self.rows.N if self.last else self.rows.M
        y, dy = self.y.value[:R], gradient(self.y.grad)[:R]
        if self.kind == "softmax":
            dy = dy - (y * dy).sum(axis=1, keepdims=True)
            gradient(self.x.grad)[:R] = y * dy
        else:
            gradient(self.x.grad)[:R] = y * (1 - y) * dy


class Loss(Stage):
    """A loss of predictions p against targets t, summed or averaged over the valid rows.

    ==================  =============================================  ==================  ============
    kind                each term                                      target              terms
    ==================  =============================================  ==================  ============
    ``mse``             (p - t)^2                                      (R, O)              R * O
    ``half_mse``        (p - t)^2 / 2                                  (R, O)              R * O
    ``bce``             -t log sigmoid(p) - (1 - t) log(1 - sigmoid(p))  (R, O)            R * O
    ``cross_entropy``   -log softmax(p)[t]                             (R,) intp, classes  R
    ==================  =============================================  ==================  ============

    Parameters
    ----------
    rows : Rows
    prediction : Variable
        (R, O); logits for ``bce`` and ``cross_entropy``.
    target : ndarray
    kind : str
    reduction : {"mean", "sum"}
        The mean is over the terms.
    last : bool
        R is one row for each sequence, N, instead of one for each step, M.

    Attributes
    ----------
    value : ndarray of float64, shape (1,)
        The loss, after `forward`; complex128 for complex predictions.
    """

    def __init__(
        self,
        rows: Rows,
        prediction: Variable,
        target: np.ndarray,
        *,
        kind: str,
        reduction: str = "mean",
        last: bool = False,
    ) -> None:
        self.rows, self.prediction, self.target = rows, prediction, target
        self.kind, self.reduction, self.last = kind, reduction, last
        self.value = np.zeros(1, np.result_type(prediction.value, np.float64))

    def forward(self) -> None:
        """Fill value, summed in double precision."""
        R = self.rows.N if self.last else self.rows.M
        terms = loss_terms(self.prediction.value[:R], self.target[:R], self.kind)
        self.value[0] = terms.sum(dtype=self.value.dtype) * self.weight(terms.size)

    def backward(self) -> None:
        """Fill the gradient of the prediction."""
        R = self.rows.N if self.last else self.rows.M
        p, t = self.prediction.value[:R], self.target[:R]
        terms = R if self.kind == "cross_entropy" else p.size
        dp = loss_gradient(p, t, self.kind) * self.weight(terms)
        k, phase, _ = self.rows.horizon.tolist()
        if k and not self.last:  # the other steps' losses have backward passes of their own
            step = np.repeat(np.arange(self.rows.T), self.rows.counts)
            dp[step % k != phase] = 0
        gradient(self.prediction.grad)[:R] = dp

    def weight(self, terms: int) -> float:
        """Return the factor of each term in a loss of that many terms."""
        return 1 / terms if self.reduction == "mean" else 1.0


def loss_terms(p: np.ndarray, t: np.ndarray, kind: str) -> np.ndarray:
    """Return the terms of the loss, (R, O), or (R,) for classes."""
    if kind == "mse":
        return (p - t) ** 2
    if kind == "half_mse":
        return (p - t) ** 2 / 2
    if kind == "bce":
        positive = p.real > 0
        return np.where(positive, p * (1 - t), -p * t) + np.log1p(np.exp(np.where(positive, -p, p)))
    p = p - p.real.max(axis=1, keepdims=True)  # cross_entropy
    return np.log(np.exp(p).sum(axis=1)) - p[np.arange(len(t)), t]


def loss_gradient(p: np.ndarray, t: np.ndarray, kind: str) -> np.ndarray:
    """Return the derivatives of the terms with respect to the predictions, (R, O)."""
    if kind == "mse":
        return 2 * (p - t)
    if kind == "half_mse":
        return p - t
    if kind == "bce":
        return sigmoid(p) - t
    dp = softmax(p)  # cross_entropy
    dp[np.arange(len(t)), t] -= 1
    return dp
