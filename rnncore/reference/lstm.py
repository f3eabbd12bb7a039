"""Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000).

i, f, g, o = sigmoid(z_i), sigmoid(z_f), tanh(z_g), sigmoid(z_o),  z = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
c_t = f c_{t-1} + i g
h_t = o tanh(c_t)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rnncore.reference._sequence import Recurrent
from rnncore.reference._stage import sigmoid
from rnncore.rows import Rows, Variable

__all__ = ["LSTM", "cell_backward", "cell_forward"]


def cell_forward(z: np.ndarray, c_before: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return h (n, H), c (n, H) and the gates i, f, g, o side by side (n, 4H).

    z (n, 4H) are the pre-activations of the gates, c_before (n, H) is the cell state.
    """
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=1)
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
    c = f * c_before + i * g
    h = o * np.tanh(c)
    return h, c, np.concatenate([i, f, g, o], axis=1)


def cell_backward(
    dh: np.ndarray, dc: np.ndarray, gates: np.ndarray, c_before: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return dz (n, 4H) and dc_before (n, H).

    dh, dc (n, H) are the gradients of h and c; gates (n, 4H), c_before, c (n, H) are as in the forward pass.
    """
    i, f, g, o = np.split(gates, 4, axis=1)
    tanh_c = np.tanh(c)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    dz_i = dc * g * i * (1 - i)
    dz_f = dc * c_before * f * (1 - f)
    dz_g = dc * i * (1 - g * g)
    dz_o = dh * tanh_c * o * (1 - o)
    return np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1), dc * f


class LSTM(Recurrent):
    """One direction of an LSTM layer; parameters as in `Recurrent`, with the state (h, c); G = 4: i, f, g, o.

    Attributes
    ----------
    gates : ndarray, shape (N*T, 4H)
        i, f, g, o side by side, after a step.
    c : ndarray, shape (N*T, H)
        The cell state after each step.
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
        reverse: bool = False,
        adds: bool = False,
    ) -> None:
        super().__init__(rows, x, y, weights, initial, final, reverse, adds)
        self.c = np.empty_like(self.before[1])

    def step(self, here: slice, *state: np.ndarray) -> Sequence[np.ndarray]:
        h, c = state
        h, self.c[here], self.gates[here] = cell_forward(self.gates[here] + self.recur(h), c)
        return h, self.c[here]

    def step_backward(self, here: slice, *dstate: np.ndarray) -> Sequence[np.ndarray]:
        dh, dc = dstate
        self.dz[here], dc = cell_backward(dh, dc, self.gates[here], self.before[1][here], self.c[here])
        return self.dz[here] @ self.weight_hh.value, dc
