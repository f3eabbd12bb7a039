"""What a trainer asks of a task."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from rnncore import checks
from rnncore.models import Sequential

__all__ = ["Batch", "Batches", "Task", "as_batch", "as_task", "checksum", "digest", "fingerprint", "written"]


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
    resets : ndarray of bool, (N, T), or None
        Where sequences begin anew.
    """

    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray | None = None
    carry: bool = False
    resets: np.ndarray | None = None


class Task(Protocol):
    """Data to learn from, and how well a model does; any object with these methods is one.

    A task may also have a method `fingerprint()`, which returns what its batches depend on, by name, in plain
    types: a run is resumed only where all of it is as it was. `digest` makes a word of arrays.

    A trainer keeps its buffers for the latest few shapes: sequences of unequal length should all be padded to
    one T, with `lengths` given. Steps behind the end of a sequence cost nothing.
    """

    def batches(self, rng: np.random.Generator) -> Iterable[Batch]:
        """Yield the batches of one epoch, one an update, or without end; chance comes from `rng` alone.

        A batch may also be a plain tuple (x, y) or (x, y, lengths).
        """

    def validate(self, model: Sequential) -> dict[str, float]:
        """Return what is worth watching during training, measured on data held out from it."""

    def evaluate(self, model: Sequential) -> dict[str, float]:
        """Return how well a trained model does, measured on data held out from training."""


class Batches:
    """A task of batches that are there already, in their order.

    Parameters
    ----------
    batches : iterable of Batch or tuple
        An iterator, as a generator is, gives them for one epoch only.

    Attributes
    ----------
    once : bool
        It is an iterator.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches
        self.once = isinstance(batches, Iterator)

    def batches(self, rng: np.random.Generator) -> Iterable[Any]:
        """Return the batches."""
        return self._batches


def as_task(task: Any) -> Any:
    """Return a task, made from its batches if these were given.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if callable(getattr(task, "batches", None)):
        return task
    if isinstance(task, np.ndarray | str) or not isinstance(task, Iterable):
        raise TypeError(f"task must be a task or an iterable of batches (x, y), got {type(task).__name__}")
    return Batches(task)


def as_batch(batch: Any) -> Batch:
    """Return a batch, which may be given as a tuple (x, y), (x, y, lengths) or (x, y, lengths, carry).

    Raises
    ------
    TypeError
        If it is none.
    """
    if isinstance(batch, Batch):
        return batch
    if not isinstance(batch, tuple | list) or not 2 <= len(batch) <= len(Batch._fields):
        came = f"{len(batch)} items" if isinstance(batch, tuple | list) else type(batch).__name__
        raise TypeError(f"a batch must be a tuple (x, y) or (x, y, lengths), got {came}")
    return Batch(*batch)


def checksum(*parts: Any, before: int = 0) -> int:
    """Return a checksum of arrays and of what has a plain `repr`; it changes with dtype and shape as well.

    Parameters
    ----------
    parts
    before : int
        Checksum of what comes before.
    """
    for part in parts:
        found = checks.array("batch", part)
        kind = f"{found.dtype.str}{found.shape}".encode()
        content = repr(found.tolist()).encode() if found.dtype == object else found.tobytes()
        before = zlib.crc32(content, zlib.crc32(kind, before))
    return before


def written(task: Any, *facts: str, **options: Any) -> str:
    """Return the `repr` of a task: facts about its data, and how it was made."""
    parts = [*facts, *(f"{name}={value!r}" for name, value in options.items())]
    return f"{type(task).__name__}({', '.join(parts)})"


def digest(*parts: Any) -> str:
    """Return in a word what changes with any of the parts: an entry of a `fingerprint`."""
    return f"checksum {checksum(*parts):08x}"


def fingerprint(task: Task) -> dict[str, Any] | None:
    """Return what the batches of a task depend on, in plain types; None if it does not tell."""
    own = getattr(task, "fingerprint", None)
    return {"type": type(task).__name__, **own()} if own else None
