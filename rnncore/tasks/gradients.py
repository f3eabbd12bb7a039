"""What becomes of a gradient on its way back through time."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt

from rnncore.layers import State
from rnncore.models import Sequential


def norms(model: Sequential, x: npt.ArrayLike, y: npt.ArrayLike) -> np.ndarray:
    """Return how much of the last step's loss arrives at each step: the norm of its gradient there.

    It vanishes where the norm falls towards zero with the distance, and explodes where it grows (Bengio,
    Simard & Frasconi, *Learning long-term dependencies with gradient descent is difficult*, 1994). With
    truncated backpropagation (bptt = k) the last k steps get this gradient, and those before them none.

    Parameters
    ----------
    model : Sequential
        Of the layers of a `SequenceModel`, with logits at every step; not bidirectional.
    x : array_like, (N, T, D) numbers or (N, T) token ids
    y : array_like of int, (N,)
        Classes at the last step, for the cross-entropy.

    Returns
    -------
    ndarray of float64, (T,)
        Of ∂ loss / ∂ h_t, h_t being the output of the last recurrent layer; the mean over sequences.
    """
    model = copy.deepcopy(model)  # its gradients and latest forward pass stay as they are
    layers: dict[str, Any] = model.layers
    rnn, head = layers["rnn"], layers["head"]
    x = np.asarray(x) if "embedding" not in layers else layers["embedding"].forward(x)
    N, T = x.shape[:2]
    states: list[State] = [None]
    for t in range(T):
        h, state = rnn.forward(x[:, t : t + 1], states[-1])
        states.append(state)
    z = head.forward(h)
    dz = np.exp(z - z.max(axis=2, keepdims=True))
    dz /= dz.sum(axis=2, keepdims=True)
    dz[np.arange(N), 0, np.asarray(y)] -= 1
    dh = head.backward(dz)
    found = [_norm(dh[:, 0])]
    arriving = None
    for t in range(T - 1, 0, -1):
        rnn.forward(x[:, t : t + 1], states[t])
        _, arriving = rnn.backward(dh, arriving)
        dh = np.zeros_like(dh)  # behind the last step the loss sees the state alone
        found.append(_norm((arriving[0] if rnn.states > 1 else arriving)[-1]))
    return np.array(found[::-1])


def _norm(dh: np.ndarray) -> float:
    """Return the mean over sequences of the norm of a gradient (N, H)."""
    return float(np.linalg.norm(dh.astype(np.float64), axis=1).mean())
