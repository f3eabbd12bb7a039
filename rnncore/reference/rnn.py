"""Elman network (Elman 1990, Finding structure in time): h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rnncore.reference._sequence import Recurrent
from rnncore.reference._stage import gradient, sigmoid
from rnncore.rows import Rows, Variable

__all__ = ["RNN", "cell_backward", "cell_forward"]


def cell_forward(z: np.ndarray, activation: str, slope: np.ndarray | float = 0.0) -> np.ndarray:
    """Return h = f(z), (n, H), of the pre-activations z (n, H); slope (1,) is that of prelu."""
    if activation == "tanh":
        return np.tanh(z)
    if activation == "sigmoid":
        return sigmoid(z)
    if activation == "relu":
        return np.where(z.real <= 0, 0, z)  # this way round NaN passes
    if activation == "prelu":
        return np.where(z.real > 0, z, slope * z)
    return z  # identity


def cell_backward(
    dh: np.ndarray, z: np.ndarray, h: np.ndarray, activation: str, slope: np.ndarray | float = 0.0
) -> np.ndarray:
    """Return dz = f'(z) dh, (n, H), from the cell's z and h (n, H)."""
    if activation == "tanh":
        return dh * (1 - h * h)
    if activation == "sigmoid":
        return dh * h * (1 - h)
    if activation == "relu":
        return np.where(z.real <= 0, 0, dh)
    if activation == "prelu":
        return np.where(z.real > 0, dh, slope * dh)
    return dh  # identity


class RNN(Recurrent):
    """One direction of an Elman layer; parameters as in `Recurrent`; G = 1.

    Parameters
    ----------
    activation : {"tanh", "sigmoid", "relu", "prelu", "identity"}
        f. The weights of a "prelu" end with its slope, (1,).
    """

    def __init__(
        self,
        rows: Rows,
        x: Variable,
        y: Variable,
        weights: Sequence[Variable],
        initial: Sequence[Variable],
        final: Sequence[Variable],
        *,
        activation: str = "tanh",
        reverse: bool = False,
        adds: bool = False,
    ) -> None:
        self.activation = activation
        self.slope = Variable(np.zeros(1))
        if activation == "prelu":
            *weights, self.slope = weights
        super().__init__(rows, x, y, weights, initial, final, reverse, adds)

    def step(self, here: slice, *state: np.ndarray) -> Sequence[np.ndarray]:
        (h,) = state
        self.gates[here] += self.recur(h)
        return (cell_forward(self.gates[here], self.activation, self.slope.value),)

    def step_backward(self, here: slice, *dstate: np.ndarray) -> Sequence[np.ndarray]:
        (dh,) = dstate
        z, h = self.gates[here], self.y.value[here]
        self.dz[here] = cell_backward(dh, z, h, self.activation, self.slope.value)
        if self.activation == "prelu":
            self.dslope += np.where(z.real > 0, 0, dh * z).sum()
        return (self.dz[here] @ self.weight_hh.value,)

    def backward(self) -> None:
        """Fill the gradient of x, and add to that of the initial state."""
        self.dslope = 0.0  # the slope's gradient, summed on the way
        super().backward()

    def accumulate(self) -> None:
        """Add to the gradients of the weights."""
        super().accumulate()
        if self.activation == "prelu":
            gradient(self.slope.grad)[...] += self.dslope
