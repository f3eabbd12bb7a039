"""The losses by name: what each one sees, and which targets it takes.

=============== ============================== ========================= ====================================
name            of each element or row         sees                      targets
=============== ============================== ========================= ====================================
"mse"           (p - t)²                       p, behind the activation  real, shaped as p
"half_mse"      (p - t)² / 2                   p, behind the activation  real, shaped as p
"bce"           -t log σ(z) - (1-t) log σ(-z)  z, the logits             real in [0, 1], shaped as z
"cross_entropy" -log softmax(z)[t]             z, the logits             classes 0 ... O-1; z without its O
=============== ============================== ========================= ====================================

The two from logits imply an output activation, the sigmoid and the softmax. A `rnncore.Trainer` gives it to
the model, whose `predict` then gives probabilities.

Where there is one output, targets may also come without its axis: (N, T) or (N,).

"mean" divides by the number of valid elements (rows for "cross_entropy"), as PyTorch does; "sum" does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rnncore import checks

__all__ = ["NAMES", "ON_LOGITS", "ON_PREDICTION", "bounds", "check", "expected", "target"]

# with the output activation that each may be combined with, besides any for those that see it
ON_PREDICTION = ("mse", "half_mse")
ON_LOGITS = {"bce": "sigmoid", "cross_entropy": "softmax"}
NAMES = (*ON_PREDICTION, *ON_LOGITS)


def check(loss: str, output_activation: str | None) -> str:
    """Return the loss, which must exist and fit the output activation.

    Raises
    ------
    ValueError
        For an unknown name, and for a loss from logits whose implied activation is not that of the model: it
        would be trained for one output and predict another.
    """
    checks.choice("loss", loss, NAMES)
    implied = ON_LOGITS.get(loss)
    if implied and output_activation not in (None, implied):
        raise ValueError(
            f"loss {loss!r} implies output_activation {implied!r}, but the model has {output_activation!r}"
        )
    return loss


def target(loss: str, y: npt.ArrayLike, output: tuple[int, ...]) -> np.ndarray:
    """Return the target as an array; its dtype and shape must fit an output (N, T, O) or (N, O).

    A single output, O = 1, may be left out of the shape.
    """
    if loss == "cross_entropy":
        found = checks.integers("y", y, "classes")
        checks.shape("y", found, output[:-1])
    else:
        found = checks.dense("y", y)
        if output[-1] != 1 or found.shape != output[:-1]:
            checks.shape("y", found, output)
    return found


def bounds(loss: str, classes: int, dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return where the elements of a target must lie."""
    if loss == "cross_entropy":
        return 0, classes - 1
    return (0, 1) if loss == "bce" else checks.finite(dtype)


def expected(loss: str, classes: int) -> str:
    """Return in words what an element of the target must be."""
    if loss == "cross_entropy":
        return f"a class of 0 ... {classes - 1}"
    return "a number in [0, 1]" if loss == "bce" else "a finite number"
