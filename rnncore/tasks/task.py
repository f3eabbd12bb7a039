"""What a trainer asks of a task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np

from rnncore.models import Sequential


class Batch(NamedTuple):
    """N sequences to learn from.

    Attributes
    ----------
    x : ndarray, (N, T, D) numbers or (N, T) token ids
    y : ndarray, (N, T, O), (N, O), (N, T) or (N,)
        Targets.
    lengths : ndarray of int, (N,), or None
        Valid steps of each sequence; None: all T.
    carry : bool
        Begin with the state that the batch before ended with, which had as many sequences; otherwise with
        zero.
    """

    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray | None = None
    carry: bool = False


class Task(Protocol):
    """Data to learn from, and how well a model does; any object with these methods is one.

    A trainer keeps its buffers for the latest few shapes: sequences of unequal length should all be padded to
    one T, with `lengths` given. Steps behind the end of a sequence cost nothing.
    """

    def batches(self, rng: np.random.Generator) -> Iterable[Batch]:
        """Yield the batches of one epoch, one an update, or without end; chance comes from `rng` alone."""

    def validate(self, model: Sequential) -> dict[str, float]:
        """Return what is worth watching during training, measured on data held out from it."""

    def evaluate(self, model: Sequential) -> dict[str, float]:
        """Return how well a trained model does, measured on data held out from training."""
