"""Classes or numbers for whole sequences: many-to-one."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnncore import checks, pictures
from rnncore.models import SequenceModel, Sequential
from rnncore.tasks import scaling
from rnncore.tasks.task import Batch, digest, written

__all__ = ["SequenceClassification", "SequenceRegression"]

Sequences = npt.ArrayLike | Sequence[npt.ArrayLike]
INPUTS = ("dense", "tokens")


class _WholeSequences(ABC):
    """What classification and regression share.

    Attributes
    ----------
    train, test : Batch
        What is learnt from, and what is held out (the same if nothing is).
    input : {"dense", "tokens"}
    input_size : int
        D, or one more than the largest token id.
    x_mean, x_deviation : ndarray of float64, (D,)
        Of the valid steps to train on; batches, evaluation and `predict` have numbers scaled by them.
    """

    train: Batch
    test: Batch

    def __init__(
        self,
        x: Sequences,
        y: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
        *,
        test: tuple[Any, ...] | None = None,
        held_out: float = 0.2,
        batch_size: int = 32,
        input: str | None = None,
        seed: int = 0,
    ) -> None:
        self.batch_size = checks.integer("batch_size", batch_size)
        held_out = checks.real("held_out", held_out, high=1.0)
        rng = np.random.default_rng(checks.integer("seed", seed, minimum=0))
        if input is not None:
            checks.choice("input", input, INPUTS)
        x, lengths = _pad("x", x, lengths, input)
        self.input = INPUTS[x.ndim == 2]
        y = self._targets("y", y, len(x))
        if test is not None:
            if not isinstance(test, tuple) or len(test) not in (2, 3):
                raise TypeError("test must be a tuple (x, y) or (x, y, lengths)")
            test_x, test_lengths = _pad("test[0]", test[0], test[2] if len(test) == 3 else None, self.input)
            checks.shape("test[0]", test_x, ("N", "T", *x.shape[2:]))
            test_y = self._targets("test[1]", test[1], len(test_x))
            self.train, self.test = Batch(x, y, lengths), Batch(test_x, test_y, test_lengths)
        else:
            order = rng.permutation(len(x))
            count = min(round(held_out * len(x)), len(x) - 1)
            whole = Batch(x, y, lengths)
            self.train = _take(whole, order[count:])
            self.test = _take(whole, order[:count]) if count else self.train
        self.input_size = (
            x.shape[2] if self.input == "dense" else 1 + max(map(_largest, (self.train, self.test)))
        )
        self.x_mean, self.x_deviation = np.zeros(self.input_size), np.ones(self.input_size)
        N, T = self.train.x.shape[:2]
        steps = self.train.x[_valid(N, T, self.train.lengths)].astype(np.float64)
        if self.input == "dense" and len(steps):
            self.x_mean, self.x_deviation = steps.mean(axis=0), scaling.deviation(steps)

    @abstractmethod
    def _targets(self, name: str, y: npt.ArrayLike, N: int) -> np.ndarray:
        """Check targets and return them as a loss takes them."""

    def _model(self, hidden_size: int, output_size: int, options: dict[str, Any]) -> SequenceModel:
        """Return a network from the sequences to numbers for each."""
        defaults: dict[str, Any] = {"cell": "gru", "num_layers": 2, "bidirectional": True, "dropout": 0.3}
        if options.get("num_layers", 2) == 1:
            del defaults["dropout"]  # which is between layers
        defaults |= {"input": self.input, "output": "last"}
        return SequenceModel(self.input_size, hidden_size, output_size, **defaults | options)

    def predict(self, model: Sequential, x: Sequences, lengths: npt.ArrayLike | None = None) -> np.ndarray:
        """Return what a model that has learnt the task predicts for sequences.

        Parameters
        ----------
        model : Sequential
        x, lengths
            Sequences as the task takes them, not scaled.

        Returns
        -------
        ndarray, (N, O)
        """
        found, steps = _pad("x", x, lengths, self.input)
        return model.predict(self._scaled(found), steps)

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        """Return inputs of mean 0 and deviation 1; token ids stay as they are."""
        return x if self.input == "tokens" else (x - self.x_mean) / self.x_deviation

    @abstractmethod
    def evaluate(self, model: Sequential) -> dict[str, float]:
        """Return how well a model does on the test sequences."""

    def validate(self, model: Sequential) -> dict[str, float]:
        """Return what `evaluate` does."""
        return self.evaluate(model)

    def __repr__(self) -> str:
        learnt, held = len(self.train.x), len(self.test.x)
        size = {"input": self.input, "input_size": self.input_size, "batch_size": self.batch_size}
        return written(self, f"{learnt} sequences to learn from", f"{held} to test on", **size)

    def fingerprint(self) -> dict[str, Any]:
        """Return what the batches depend on."""
        return {"train": digest(*self.train), "batch_size": self.batch_size}

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the training sequences in random order; the last batch may be smaller."""
        order = rng.permutation(len(self.train.x))
        for first in range(0, len(order), self.batch_size):
            batch = _take(self.train, order[first : first + self.batch_size])
            yield batch._replace(x=self._scaled(batch.x))

    def draw(self, path: str | os.PathLike[str], metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Draw each metric over training into a PNG file.

        Parameters
        ----------
        path : path
        metrics : mapping of int to mapping of str to float
            What `validate` gave, by the number of updates until then.
        """
        names = next(iter(metrics.values()), {})
        panels = [pictures.Panel(name, {name: [v[name] for v in metrics.values()]}) for name in names]
        pictures.training_curves(path, "Sequences held out", list(metrics), panels)


class SequenceClassification(_WholeSequences):
    """Tell the class of a sequence.

    Batches have the numbers of each column scaled by their mean and deviation in the sequences to train on;
    `predict` takes them as they are and scales them alike.

    Parameters
    ----------
    x : array_like, (N, T, D) or (N, T), or sequence of arrays (T, D) or (T,) of unequal length
        Numbers, none missing; without D there is one at each step, unless these are token ids.
    y : array_like, (N,)
        Class of each sequence: integers, strings or whatever else NumPy can sort.
    lengths : array_like of int, (N,), optional
        Valid steps of each sequence of an array.
    test : tuple (x, y) or (x, y, lengths), optional
        Sequences to evaluate on.
    held_out : float, default 0.2
        Part of the sequences to evaluate on where no `test` is given, drawn at random. With 0 these are those
        trained on.
    batch_size : int, default 32
    input : {"dense", "tokens"}, optional
        Whether x holds numbers or token ids. If not given, integers without D are token ids.
    seed : int, default 0
        Decides which sequences are held out.

    Attributes
    ----------
    classes : ndarray, (C,)
        In order; the outputs of a model are theirs.
    train, test : Batch
        What is learnt from, and what is held out; their y are indices into `classes`.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape, a missing value (sequence and step are named), or a class that is in the test only.
    """

    classes: np.ndarray

    def __init__(self, x: Sequences, y: npt.ArrayLike, *args: Any, **options: Any) -> None:
        self.classes = np.unique(checks.array("y", y))
        super().__init__(x, y, *args, **options)

    def _targets(self, name: str, y: npt.ArrayLike, N: int) -> np.ndarray:
        found = checks.array(name, y)
        checks.shape(name, found, (N,))
        for n in np.flatnonzero(~np.isin(found, self.classes))[:1]:
            raise ValueError(f"{name}[{n}] = {found[n]!r} is not among the classes to learn: {self.classes}")
        return np.searchsorted(self.classes, found)

    def model(self, hidden_size: int = 64, **options: Any) -> SequenceModel:
        """Return a network for the task: a GRU of two layers and both directions, with dropout 0.3.

        Parameters
        ----------
        hidden_size : int, default 64
            Units of each layer and direction.
        options
            Arguments of `rnncore.SequenceModel`, which go before.
        """
        return self._model(hidden_size, len(self.classes), {"output_activation": "softmax"} | options)

    def evaluate(self, model: Sequential) -> dict[str, float]:
        """Return "accuracy", the part of the test sequences that is classified right."""
        counts = self.confusion(model)
        return {"accuracy": float(np.trace(counts) / counts.sum())}

    def confusion(self, model: Sequential) -> np.ndarray:
        """Return how often each class (row) of the test sequences was taken for each (column).

        Returns
        -------
        ndarray of int, (C, C)
        """
        found = self.predict(model, self.test.x, self.test.lengths).argmax(axis=1)
        C = len(self.classes)
        return np.bincount(C * self.test.y + found, minlength=C * C).reshape(C, C)

    def draw_confusion(self, path: str | os.PathLike[str], model: Sequential) -> None:
        """Draw the confusion matrix into a PNG file."""
        pictures.confusion_matrix(path, [str(name) for name in self.classes], self.confusion(model))


class SequenceRegression(_WholeSequences):
    """Tell numbers for a sequence.

    Batches have inputs and targets scaled by their mean and deviation in the sequences to train on; `predict`
    takes inputs as they are, and its results and errors are in the targets' own units.

    Parameters
    ----------
    x : array_like, (N, T, D) or (N, T), or sequence of arrays (T, D) or (T,) of unequal length
        Numbers, none missing; without D there is one at each step, unless these are token ids.
    y : array_like, (N,) or (N, O)
    lengths : array_like of int, (N,), optional
        Valid steps of each sequence of an array.
    test : tuple (x, y) or (x, y, lengths), optional
        Sequences to evaluate on.
    held_out : float, default 0.2
        Part of the sequences to evaluate on where no `test` is given, drawn at random. With 0 these are those
        trained on.
    batch_size : int, default 32
    input : {"dense", "tokens"}, optional
        Whether x holds numbers or token ids. If not given, integers without D are token ids.
    seed : int, default 0
        Decides which sequences are held out.
    scale : bool, default True
        Train on targets of mean 0 and deviation 1. Not for a model whose outputs are bounded.

    Attributes
    ----------
    train, test : Batch
        What is learnt from, and what is held out; their y are (N, O), in their own units.
    mean, deviation : ndarray of float64, (O,)
        Of the targets to train on; 0 and 1 with ``scale=False``, and deviation 1 where they do not vary.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape, or a missing value (sequence and step are named).
    """

    def __init__(
        self, x: Sequences, y: npt.ArrayLike, *args: Any, scale: bool = True, **options: Any
    ) -> None:
        super().__init__(x, y, *args, **options)
        targets = self.train.y.astype(np.float64)
        checks.shape("test[1]", self.test.y, ("N", targets.shape[1]))
        self.mean, self.deviation = np.zeros(targets.shape[1]), np.ones(targets.shape[1])
        if checks.flag("scale", scale):
            self.mean, self.deviation = targets.mean(axis=0), scaling.deviation(targets)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the training sequences with scaled targets in random order; the last batch may be smaller."""
        for batch in super().batches(rng):
            yield batch._replace(y=(batch.y - self.mean) / self.deviation)

    def predict(self, model: Sequential, x: Sequences, lengths: npt.ArrayLike | None = None) -> np.ndarray:
        """Return what a model that has learnt the task predicts, in the targets' own units.

        Parameters
        ----------
        model : Sequential
        x, lengths
            Sequences as the task takes them.

        Returns
        -------
        ndarray of float64, (N, O)
        """
        return super().predict(model, x, lengths) * self.deviation + self.mean

    def _targets(self, name: str, y: npt.ArrayLike, N: int) -> np.ndarray:
        found = checks.dense(name, y)
        if found.ndim == 1:
            found = found[:, None]
        checks.shape(name, found, (N, "O"))
        for n in np.flatnonzero(~np.isfinite(found).all(axis=1))[:1]:
            raise ValueError(f"{name}[{n}] = {found[n]}: a value is missing")
        return found

    def model(self, hidden_size: int = 64, **options: Any) -> SequenceModel:
        """Return a network for the task: a GRU of two layers and both directions, with dropout 0.3.

        Parameters
        ----------
        hidden_size : int, default 64
            Units of each layer and direction.
        options
            Arguments of `rnncore.SequenceModel`, which go before.
        """
        return self._model(hidden_size, self.train.y.shape[1], options)

    def evaluate(self, model: Sequential) -> dict[str, float]:
        """Return the error on the test sequences.

        Returns
        -------
        dict
            "rmse", root mean squared error, and "r2", the part of the targets' variance that the model
            explains, 1 - Σ(y - ŷ)² / Σ(y - mean)²; NaN where the targets do not vary.
        """
        y = self.test.y.astype(np.float64)
        squares = (self.predict(model, self.test.x, self.test.lengths) - y) ** 2
        spread = ((y - y.mean(axis=0)) ** 2).sum()
        r2 = 1 - squares.sum() / spread if scaling.varies(y).any() else np.nan
        return {"rmse": float(np.sqrt(squares.mean())), "r2": float(r2)}


def _pad(
    name: str, x: Sequences, lengths: npt.ArrayLike | None, input: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return sequences as one array, shorter ones with zeros behind, and their lengths if any.

    It is (N, T, D) of numbers, or (N, T) of token ids: if the input is not given, where integers have no D.
    """
    whole = checks.array(name, x) if hasattr(x, "__array__") else None
    if whole is not None and whole.dtype != object:
        found = checks.dense(name, whole)
    else:
        given = x if whole is None else whole
        parts = [checks.dense(f"{name}[{n}]", part) for n, part in enumerate(given)]  # type: ignore[arg-type]
        for n, part in enumerate(parts):
            if part.ndim not in (1, 2) or part.shape[1:] != parts[0].shape[1:]:
                expected = ("T", *parts[0].shape[1:]) if parts[0].ndim in (1, 2) else ("T", "D")
                checks.shape(f"{name}[{n}]", part, expected)
        counts = np.array([len(part) for part in parts], np.intp)
        if parts and lengths is None and len(set(counts.tolist())) > 1:
            lengths = counts
        T = max(counts, default=0)
        kinds = [part.dtype for part in parts if part.size]  # an empty list has none of its own
        dtype = np.result_type(*kinds) if kinds else np.dtype(np.float64)
        found = np.zeros((len(parts), T, *(parts[0].shape[1:] if parts else ())), dtype)
        for row, part in zip(found, parts, strict=True):
            row[: len(part)] = part
    if input is None:
        input = INPUTS[found.ndim == 2 and found.dtype.kind in "iu"]
    if input == "tokens":
        checks.integers(name, found, "token ids")
    elif found.ndim == 2:
        found = found[:, :, None]
    checks.shape(name, found, ("N", "T") if input == "tokens" else ("N", "T", "D"))
    N, T = found.shape[:2]
    if not N or not T:
        raise ValueError(f"{name} must hold a sequence with a step, got shape {found.shape}")
    steps = checks.lengths(lengths, N, T)
    valid = _valid(N, T, steps)
    if input == "tokens":
        for n, t in np.argwhere(valid & (found < 0))[:1]:
            raise ValueError(
                f"{name}[{n}] at step {t} is {found[n, t]}, but integers are token ids of 0 and more: "
                f"if they are numbers, say input='dense'"
            )
    else:
        for n, t in np.argwhere(valid & ~np.isfinite(found).all(axis=2))[:1]:
            raise ValueError(f"{name}[{n}] at step {t} is {found[n, t]}: a value is missing")
    return found, steps


def _valid(N: int, T: int, lengths: np.ndarray | None) -> np.ndarray:
    """Return which steps are there, (N, T) of bool."""
    valid: np.ndarray = np.arange(T) < (np.full(N, T) if lengths is None else lengths)[:, None]
    return valid


def _largest(batch: Batch) -> int:
    """Return the largest token id of a batch; -1 if it has no step."""
    N, T = batch.x.shape
    return int(batch.x[_valid(N, T, batch.lengths)].max(initial=-1))


def _take(batch: Batch, chosen: np.ndarray) -> Batch:
    """Return some sequences of a batch."""
    lengths = None if batch.lengths is None else batch.lengths[chosen]
    return Batch(batch.x[chosen], batch.y[chosen], lengths)
