"""What a task hands to the trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from rnncore.models import Sequential


class Batch(NamedTuple):
    """Sequences to learn from in one update.

    Attributes
    ----------
    x : array_like, (N, T, D) or (N, T)
    y : array_like
        Targets, shaped as the loss wants them; see `rnncore.losses`.
    lengths : array_like of int, (N,), optional
    carry : bool
        Start from the state that the batch before ended with (which must have had the same N), not from zero.
    """

    x: npt.ArrayLike
    y: npt.ArrayLike
    lengths: npt.ArrayLike | None = None
    carry: bool = False


class Task(Protocol):
    """Data to train on and figures to judge by. Any object with these methods is a task.

    Plans are kept for the latest few shapes only: a task whose sequences differ in length should pad all its batches
    to one T and give `lengths`; steps behind the end of a sequence cost nothing.
    """

    def batches(self, rng: np.random.Generator) -> Iterable[Batch]:
        """Return the batches of one epoch, in an order drawn from rng; endless where data is generated."""

    def validation(self) -> Iterable[Batch]:
        """Return held-out batches to measure the loss on; there may be none."""

    def metrics(self, model: Sequential) -> Mapping[str, float]:
        """Return figures on held-out data besides the loss; there may be none."""
