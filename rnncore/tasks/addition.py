"""Binary addition: a network reads two numbers bit by bit and learns to carry."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from rnncore import checks, pictures
from rnncore.models import SequenceModel, Sequential
from rnncore.tasks.task import Batch, written

__all__ = ["BinaryAddition", "encode", "report", "score"]


class BinaryAddition:
    """Sums c = a + b in binary, from the least significant bit to the most: x_t = (a_t, b_t), y_t = c_t.

    Operands have one bit less than sums, so that every sum fits. Of all pairs of operands a part is held out;
    training draws from the others. If sums of more bits than any in training come out right as well, what
    was learnt is the carry.

    Parameters
    ----------
    bits : int, default 8
        T, of sums in training: 2 ... 12, since all pairs of operands are listed.
    held_out : float, default 0.2
        Part of all pairs that training never sees.
    batch_size : int, default 64
        N.
    seed : int, default 0
        Decides which pairs are held out, and the random sums to evaluate on.

    Attributes
    ----------
    pairs : ndarray of uint64, (number of pairs, 2)
        Operands to train on.
    test_pairs : ndarray of uint64, (number of pairs, 2)
        The pairs held out; 10 000 random ones if none are.

    Raises
    ------
    ValueError, TypeError
        For an argument out of its range.
    """

    def __init__(self, bits: int = 8, *, held_out: float = 0.2, batch_size: int = 64, seed: int = 0) -> None:
        self.bits = _sum_bits(bits, most=12)
        self.held_out = checks.real("held_out", held_out, high=1.0)
        self.batch_size = checks.integer("batch_size", batch_size)
        self.seed = checks.integer("seed", seed, minimum=0)
        operands = np.arange(2 ** (self.bits - 1), dtype=np.uint64)
        pairs = np.stack(np.meshgrid(operands, operands), axis=-1).reshape(-1, 2)
        np.random.default_rng([self.seed, 0]).shuffle(pairs)
        count = min(round(self.held_out * len(pairs)), len(pairs) - 1)
        self.pairs = pairs[count:]
        self.test_pairs = pairs[:count] if count else self.sums(self.bits)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make such a task again."""
        return {
            "bits": self.bits,
            "held_out": self.held_out,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def fingerprint(self) -> dict[str, Any]:
        """Return what the batches depend on."""
        return self.config()

    def __repr__(self) -> str:
        return written(self, **self.config())

    def model(self, hidden_size: int = 16, **options: Any) -> SequenceModel:
        """Return a network for the task.

        Sigmoid units, since they do not change sign from step to step: a tanh network may learn a carry that
        alternates, and goes wrong in the long run.

        Parameters
        ----------
        hidden_size : int, default 16
        options
            Arguments of `rnncore.SequenceModel`.
        """
        defaults = {"cell": "rnn", "activation": "sigmoid", "output_activation": "sigmoid"}
        return SequenceModel(2, hidden_size, 1, input="dense", **defaults | options)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield without end `batch_size` sums of `bits` bits, drawn from those that are not held out."""
        while True:
            drawn = rng.integers(len(self.pairs), size=self.batch_size)
            yield Batch(*encode(self.pairs[drawn], self.bits))

    def sums(self, bits: int, count: int = 10_000) -> np.ndarray:
        """Return operands of random sums of any length, the same ones each time.

        Parameters
        ----------
        bits : int
            Of the sums: 2 ... 64.
        count : int, default 10000

        Returns
        -------
        pairs : ndarray of uint64, (count, 2)
        """
        rng = np.random.default_rng([self.seed, _sum_bits(bits)])
        size = (checks.integer("count", count), 2)
        return rng.integers(2 ** (bits - 1), size=size, dtype=np.uint64)

    def validate(self, model: Sequential) -> dict[str, float]:
        """Return what `evaluate` does, for 1000 sums two bits longer than those in training."""
        return self.evaluate(model, bits=[self.bits + 2], count=1000)

    def evaluate(
        self, model: Sequential, bits: Iterable[int] = (10, 16, 64), count: int = 10_000
    ) -> dict[str, float]:
        """Return error and part of exact sums: of the test pairs, and of random sums of other lengths.

        Parameters
        ----------
        model : Sequential
        bits : iterable of int, default (10, 16, 64)
            Lengths of the random sums.
        count : int, default 10000
            Number of random sums of each length.

        Returns
        -------
        dict
            "error": see `score`; "exact_8" and so on, by the number of bits.
        """
        x, y = encode(self.test_pairs, self.bits)
        error, exact = score(model.predict(x), y)
        random = {f"exact_{T}": self.exact(model, T, count) for T in bits}
        return {"error": error, f"exact_{self.bits}": exact, **random}

    def exact(self, model: Sequential, bits: int, count: int = 10_000) -> float:
        """Return the part of exact sums of `sums`, whose arguments are the same."""
        x, y = encode(self.sums(bits, count), bits)
        return score(model.predict(x), y)[1]

    def draw(self, path: str | os.PathLike[str], metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Draw error and exact sums over training into a PNG file.

        Parameters
        ----------
        path : path
        metrics : mapping of int to mapping of str to float
            What `validate` gave, by the number of updates until then.
        """

        def column(name: str, factor: float = 1.0) -> list[float]:
            return [factor * values[name] for values in metrics.values()]

        lengths = (self.bits, self.bits + 2)
        percent = {f"{T} bits": column(f"exact_{T}", 100) for T in lengths}
        pictures.training_curves(
            path,
            f"Binary addition, trained on {self.bits} bits",
            list(metrics),
            [
                pictures.Panel("error of a sum,  Σ |y − ŷ|", {"error": column("error")}, logarithmic=True),
                pictures.Panel("exact sums, %", percent),
            ],
        )


def encode(pairs: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return operands and their sums as bits, least significant first.

    Parameters
    ----------
    pairs : ndarray of uint64, (N, 2)
    bits : int
        T, at most 64.

    Returns
    -------
    x : ndarray of float32, (N, T, 2)
    y : ndarray of float32, (N, T, 1)
    """
    places = np.arange(bits, dtype=np.uint64)[:, None]
    one = np.uint64(1)
    x = pairs[:, None, :] >> places & one
    y = pairs.sum(axis=1, keepdims=True)[:, None, :] >> places & one
    return x.astype(np.float32), y.astype(np.float32)


def score(prediction: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the error of a sum, Σ_t |y_t - ŷ_t|, in the mean, and the part of sums with every bit right.

    Parameters
    ----------
    prediction, y : ndarray, (N, T, 1)
        ŷ and y.
    """
    error = np.abs(y - prediction).sum(axis=(1, 2)).mean()
    exact = ((prediction > 0.5) == (y > 0.5)).all(axis=(1, 2)).mean()
    return float(error), float(exact)


def report(x: np.ndarray, prediction: np.ndarray, separator: str = "  ") -> str:
    """Return sums written out, each with its bits as predicted and as they are, most significant first.

    Parameters
    ----------
    x : ndarray, (N, T, 2)
        Operands as bits, least significant first.
    prediction : ndarray, (N, T, 1)
    separator : str
        Between the parts of a sum.
    """
    sums = []
    for operands, bits in zip(x, prediction[:, :, 0], strict=True):
        a, b, found = (_number(column) for column in (*operands.T, bits))
        T = len(bits)
        verdict = "right" if found == a + b else f"wrong: {a + b}"
        parts = [f"predicted {found:0{T}b}", f"true      {a + b:0{T}b}"]
        sums.append(separator.join([f"{a} + {b} = {found}  {verdict}", *parts]))
    return "\n".join(sums)


def _number(bits: np.ndarray) -> int:
    """Return the number whose bits are probabilities (T,), least significant first."""
    return sum(1 << t for t in np.flatnonzero(bits > 0.5).tolist())


def _sum_bits(bits: int, most: int = 64) -> int:
    """Return the number of bits of a sum; unsigned integers hold 64."""
    if not 2 <= checks.integer("bits", bits) <= most:
        raise ValueError(f"bits must lie in 2 ... {most}, got {bits}")
    return bits
