"""Gated recurrent unit (Cho et al. 2014), in both forms.

r, z = sigmoid(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr), sigmoid(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
n = tanh(W_in x_t + b_in + r (W_hn h_{t-1} + b_hn))   reset after the product (PyTorch, cuDNN, Keras' default)
n = tanh(W_in x_t + b_in + W_hn (r h_{t-1}) + b_hn)   reset before it (the paper)
h_t = (1 - z) n + z h_{t-1}
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rnncore.reference._sequence import Recurrent
from rnncore.reference._stage import column_sums, gradient, sigmoid
from rnncore.rows import Rows, Variable

__all__ = ["GRU", "cell_backward", "cell_forward"]


def cell_forward(n: np.ndarray, z: np.ndarray, h_before: np.ndarray) -> np.ndarray:
    """Return h (n, H) of the candidate n, the update gate z and the state h_before, (n, H) each."""
    return (1 - z) * n + z * h_before


def cell_backward(
    dh: np.ndarray, n: np.ndarray, z: np.ndarray, h_before: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of the pre-activations of n and z, and dh_before by way of z, all (n, H)."""
    dz_n = dh * (1 - z) * (1 - n * n)
    dz_z = dh * (h_before - n) * z * (1 - z)
    return dz_n, dz_z, dh * z


class GRU(Recurrent):
    """One direction of a GRU layer; parameters as in `Recurrent`; G = 3: r, z, n.

    Parameters
    ----------
    reset_after : bool
        Whether the reset gate acts on the product W_hn h + b_hn, or on h before it.

    Attributes
    ----------
    gates : ndarray, shape (N*T, 3H)
        r, z, n side by side, after a step.
    product : ndarray, shape (N*T, H)
        W_hn h + b_hn, which the reset gate acts on (reset after).
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
        reset_after: bool = True,
        reverse: bool = False,
        adds: bool = False,
    ) -> None:
        super().__init__(rows, x, y, weights, initial, final, reverse, adds)
        self.reset_after = reset_after
        self.product = np.empty_like(self.before[0])
        H = self.product.shape[1]
        self.rz, self.n = slice(0, 2 * H), slice(2 * H, 3 * H)  # their columns

    def step(self, here: slice, *state: np.ndarray) -> Sequence[np.ndarray]:
        (h,) = state
        gates = self.gates[here]
        gates[:, self.rz] = sigmoid(gates[:, self.rz] + self.recur(h, self.rz))
        r, z, n = np.split(gates, 3, axis=1)
        if self.reset_after:
            self.product[here] = self.recur(h, self.n)
            n[...] = np.tanh(n + r * self.product[here])
        else:
            n[...] = np.tanh(n + self.recur(r * h, self.n))
        return (cell_forward(n, z, h),)

    def step_backward(self, here: slice, *dstate: np.ndarray) -> Sequence[np.ndarray]:
        (dh,) = dstate
        weight, h = self.weight_hh.value, self.before[0][here]
        r, z, n = np.split(self.gates[here], 3, axis=1)
        dz_r, dz_z, dz_n = np.split(self.dz[here], 3, axis=1)
        dz_n[...], dz_z[...], dh = cell_backward(dh, n, z, h)
        if self.reset_after:
            dr = dz_n * self.product[here]
            dh += (dz_n * r) @ weight[self.n]
        else:
            drh = dz_n @ weight[self.n]  # gradient of r * h
            dr = drh * h
            dh += drh * r
        dz_r[...] = dr * r * (1 - r)
        dh += self.dz[here, self.rz] @ weight[self.rz]
        return (dh,)

    def accumulate_hidden(self) -> None:
        """Add to the gradients of weight_hh and bias_hh; those of n go through the reset gate."""
        M = self.rows.M
        dz, h, (r, _, _) = self.dz[:M], self.before[0][:M], np.split(self.gates[:M], 3, axis=1)
        dz_rz, dz_n = dz[:, self.rz], dz[:, self.n]
        dproduct, factor = (dz_n * r, h) if self.reset_after else (dz_n, r * h)
        dweight = gradient(self.weight_hh.grad)
        dweight[self.rz] += dz_rz.T @ h
        dweight[self.n] += dproduct.T @ factor
        for bias in self.biases[1:]:
            dbias = gradient(bias.grad)
            dbias[self.rz] += column_sums(dz_rz)
            dbias[self.n] += column_sums(dproduct)
