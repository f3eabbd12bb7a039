"""Stages without a memory: linear maps, embeddings, dropout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rnncore.reference._stage import Stage, add_by_token, column_sums, gradient
from rnncore.rows import Rows, Variable

__all__ = ["Dropout", "Embedding", "Join", "Linear"]


class Linear(Stage):
    """y = x W^T + b.

    Parameters
    ----------
    rows : Rows
    x, y : Variable
        (R, I) and (R, O).
    weights : tuple of Variable
        weight (O, I) and, where there is one, bias (O,).
    last : bool
        R is one row for each sequence, N, instead of one for each step, M.
    """

    def __init__(
        self, rows: Rows, x: Variable, y: Variable, weights: Sequence[Variable], *, last: bool = False
    ) -> None:
        self.rows, self.x, self.y, self.last = rows, x, y, last
        self.weight, *self.biases = weights

    def forward(self) -> None:
        """Fill y."""
        R = self.rows.N if self.last else self.rows.M
        self.y.value[:R] = self.x.value[:R] @ self.weight.value.T
        for bias in self.biases:
            self.y.value[:R] += bias.value

    def backward(self) -> None:
        """Fill the gradient of x."""
        R = self.rows.N if self.last else self.rows.M
        if self.x.grad is not None:
            self.x.grad[:R] = gradient(self.y.grad)[:R] @ self.weight.value

    def accumulate(self) -> None:
        """Add to the gradients of the weights."""
        R = self.rows.N if self.last else self.rows.M
        dy = gradient(self.y.grad)[:R]
        gradient(self.weight.grad)[...] += dy.T @ self.x.value[:R]
        for bias in self.biases:
            gradient(bias.grad)[...] += column_sums(dy)


class Embedding(Stage):
    """y = W[ids]: a vector for each token.

    Parameters
    ----------
    rows : Rows
    ids : Variable
        (N*T,) intp, 0 ... V - 1.
    y : Variable
        (N*T, E).
    weights : tuple of Variable
        weight (V, E) alone.
    """

    def __init__(self, rows: Rows, ids: Variable, y: Variable, weights: Sequence[Variable]) -> None:
        self.rows, self.ids, self.y = rows, ids, y
        (self.weight,) = weights

    def forward(self) -> None:
        """Fill y."""
        M = self.rows.M
        self.y.value[:M] = self.weight.value[self.ids.value[:M]]

    def backward(self) -> None:
        """Do nothing: ids have no gradient."""

    def accumulate(self) -> None:
        """Add to the gradient of the weight."""
        M = self.rows.M
        add_by_token(gradient(self.weight.grad), self.ids.value[:M], gradient(self.y.grad)[:M])


class Dropout(Stage):
    """y = x * mask (Srivastava et al. 2014, in the inverted form).

    Parameters
    ----------
    rows : Rows
    x, y : Variable
        (N*T, H).
    mask : ndarray, shape (N*T, H)
        0 or 1 / (1 - p), filled by its owner.
    """

    def __init__(self, rows: Rows, x: Variable, y: Variable, mask: np.ndarray) -> None:
        self.rows, self.x, self.y, self.mask = rows, x, y, mask

    def forward(self) -> None:
        """Fill y."""
        M = self.rows.M
        self.y.value[:M] = self.x.value[:M] * self.mask[:M]

    def backward(self) -> None:
        """Fill the gradient of x."""
        M = self.rows.M
        if self.x.grad is not None:
            self.x.grad[:M] = gradient(self.y.grad)[:M] * self.mask[:M]


class Join(Stage):
    """y = arrays (N, H) side by side: the final states of both directions as one output.

    Parameters
    ----------
    rows : Rows
    parts : sequence of Variable
        (N, H) each.
    y : Variable
        (N, number of parts * H).
    """

    def __init__(self, rows: Rows, parts: Sequence[Variable], y: Variable) -> None:
        self.rows, self.parts, self.y = rows, parts, y

    def forward(self) -> None:
        """Fill y."""
        np.concatenate([part.value for part in self.parts], axis=1, out=self.y.value)

    def backward(self) -> None:
        """Add to the gradients of the parts, which are states."""
        columns = np.split(gradient(self.y.grad), len(self.parts), axis=1)
        for part, column in zip(self.parts, columns, strict=True):
            gradient(part.grad)[...] += column
