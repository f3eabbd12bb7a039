"""What every NumPy kernel is made of: the methods of a stage, and functions that never overflow.

The functions take complex arrays too, for derivatives by complex steps: they compare real parts and leave the
imaginary part alone.
"""

from __future__ import annotations

import numpy as np

from rnncore.rows import Rows

__all__ = ["Stage", "add_by_token", "column_sums", "gradient", "sigmoid", "softmax"]


class Stage:
    """A piece of the network with its arrays bound once: it runs without arguments.

    Gradients of weights and of states are added to what the arrays hold, since others add to them too; who
    owns them zeroes them before a backward pass.
    """

    rows: Rows

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that belong to the stage alone."""
        own = (value if isinstance(value, list) else [value] for value in vars(self).values())
        return sum(a.nbytes for arrays in own for a in arrays if isinstance(a, np.ndarray))

    def pack(self) -> None:
        """Read the weights; NumPy reads them in place."""

    def forward(self) -> None:
        """Fill the outputs."""
        raise NotImplementedError

    def backward(self) -> None:
        """Fill the gradient of the input, and add to those of states."""
        raise NotImplementedError

    def accumulate(self) -> None:
        """Add to the gradients of the weights, after `backward`; a stage without weights has none."""


def column_sums(rows: np.ndarray) -> np.ndarray:
    """Return the sum of rows (M, n) in double precision: a float32 sum of very many would lose digits."""
    total: np.ndarray = rows.sum(axis=0, dtype=np.result_type(rows, np.float64))
    return total


def add_by_token(sums: np.ndarray, ids: np.ndarray, rows: np.ndarray) -> None:
    """Add rows (M, n) to those of sums (V, n) that ids (M,) name, in double precision."""
    exact = np.zeros(sums.shape, np.result_type(sums, np.float64))
    np.add.at(exact, ids, rows)
    sums += exact.astype(sums.dtype)


def gradient(array: np.ndarray | None) -> np.ndarray:
    """Return the gradient of a variable that a backward pass cannot do without."""
    assert array is not None, "a stage bound without gradients runs forward only"
    return array


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-z)), from the exponential that cannot overflow."""
    positive = z.real > 0
    e = np.exp(np.where(positive, -z, z))
    return np.where(positive, 1, e) / (1 + e)


def softmax(z: np.ndarray) -> np.ndarray:
    """Return exp(z) / sum(exp(z)) of each row."""
    e = np.exp(z - z.real.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
