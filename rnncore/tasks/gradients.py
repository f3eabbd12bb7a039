"""What becomes of a gradient on its way back through time."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt

from rnncore.models import Sequential
from rnncore.network import Pass

__all__ = ["norms"]


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
    model = copy.deepcopy(model)  # its gradients stay as they are
    rnn, head = model.layers["rnn"], model.layers["head"]
    x = model.layers["embedding"].run(x).output if "embedding" in model.layers else np.asarray(x)
    N, T = x.shape[:2]
    steps: list[Pass] = []
    for t in range(T):
        before = steps[-1].state if steps else None
        steps.append(rnn.run(x[:, t : t + 1], state=before, dropout=False))
    out = head.run(steps[-1].output)
    dz = np.exp(out.output - out.output.max(axis=2, keepdims=True))
    dz /= dz.sum(axis=2, keepdims=True)
    dz[np.arange(N), 0, np.asarray(y)] -= 1
    dh, _ = out.backward(dz)
    assert dh is not None
    found = [_norm(dh[:, 0])]
    arriving = None
    for step in steps[:0:-1]:
        _, arriving = step.backward(dh, arriving)
        dh = None
        h = arriving[0] if isinstance(arriving, tuple) else arriving
        found.append(_norm(h[-1]))
    return np.array(found[::-1])


def _norm(dh: np.ndarray) -> float:
    """Return the mean over sequences of the norm of a gradient (N, H)."""
    return float(np.linalg.norm(dh.astype(np.float64), axis=1).mean())
