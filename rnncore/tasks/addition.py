"""Binary addition: a network reads two numbers bit by bit and learns to carry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rnncore import checks
from rnncore.models import Sequential, SequenceModel
from rnncore.tasks.task import Batch

MOST_BITS = 64  # of a sum: unsigned 64-bit integers hold it


class BinaryAddition:
    """Sums c = a + b in binary, from the least significant bit to the most: x_t = (a_t, b_t), y_t = c_t.

    Operands have one bit less than sums, so that every sum fits. Of all pairs of operands a part is held out; training
    draws from the others. What was learnt is the carry if sums of more bits than any in training come out right too.

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
    pairs, held_out_pairs : ndarray of uint64, (number of pairs, 2)
        Operands to train on, and the others.

    Raises
    ------
    ValueError, TypeError
        For an argument out of its range.
    """

    def __init__(self, bits: int = 8, *, held_out: float = 0.2, batch_size: int = 64, seed: int = 0) -> None:
        self.bits = checks.integer("bits", bits, minimum=2)
        if self.bits > 12:
            raise ValueError(f"bits must be at most 12, got {bits}: all pairs of operands are listed")
        self.held_out = checks.real("held_out", held_out, high=1.0)
        self.batch_size = checks.integer("batch_size", batch_size)
        self.seed = checks.integer("seed", seed, minimum=0)
        operands = np.arange(2 ** (self.bits - 1), dtype=np.uint64)
        pairs = np.stack(np.meshgrid(operands, operands), axis=-1).reshape(-1, 2)
        np.random.default_rng(self.seed).shuffle(pairs)
        count = round(self.held_out * len(pairs))
        self.held_out_pairs, self.pairs = pairs[:count], pairs[count:]

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
        options = {
            "cell": "rnn",
            "input": "dense",
            "activation": "sigmoid",
            "output_activation": "sigmoid",
        } | options
        return SequenceModel(2, hidden_size, 1, **options)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield without end `batch_size` sums of `bits` bits, drawn from those that are not held out."""
        while True:
            yield Batch(*encode(self.pairs[rng.integers(len(self.pairs), size=self.batch_size)], self.bits))

    def sums(self, bits: int, count: int) -> np.ndarray:
        """Return operands of random sums of any length, the same ones each time.

        Parameters
        ----------
        bits : int
            Of the sums: 2 ... 64.
        count : int

        Returns
        -------
        pairs : ndarray of uint64, (count, 2)
        """
        if not 2 <= checks.integer("bits", bits) <= MOST_BITS:
            raise ValueError(f"bits must lie in 2 ... {MOST_BITS}, got {bits}")
        rng = np.random.default_rng([self.seed, bits])
        return rng.integers(2 ** (bits - 1), size=(count, 2), dtype=np.uint64)

    def validate(self, model: Sequential) -> dict[str, float]:
        """Return the error and the part of exact sums of the pairs held out, and of 1000 sums two bits longer.

        The error of a sum is that of the tutorials: Σ_t |y_t - ŷ_t|.
        """
        error, exact = score(model, self.held_out_pairs, self.bits)
        longer = self.bits + 2
        return {
            "error": error,
            f"exact_{self.bits}": exact,
            f"exact_{longer}": score(model, self.sums(longer, 1000), longer)[1],
        }

    def evaluate(
        self, model: Sequential, bits: Iterable[int] = (10, 16, 64), count: int = 10_000
    ) -> dict[str, float]:
        """Return the error and the part of exact sums of all pairs held out, and of random sums of other lengths.

        Parameters
        ----------
        model : Sequential
        bits : iterable of int, default (10, 16, 64)
            Lengths of the random sums.
        count : int, default 10000
            Number of random sums of each length.
        """
        error, exact = score(model, self.held_out_pairs, self.bits)
        return {
            "error": error,
            f"exact_{self.bits}": exact,
            **{f"exact_{T}": score(model, self.sums(T, count), T)[1] for T in bits},
        }


def encode(pairs: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return operands and their sums as bits, least significant first.

    Parameters
    ----------
    pairs : ndarray of uint64, (N, 2)
    bits : int
        T.

    Returns
    -------
    x : ndarray of float32, (N, T, 2)
    y : ndarray of float32, (N, T, 1)
    """
    places = np.arange(bits, dtype=np.uint64)
    x = pairs[:, None, :] >> places[:, None] & np.uint64(1)
    y = pairs.sum(axis=1)[:, None] >> places & np.uint64(1)
    return x.astype(np.float32), y[:, :, None].astype(np.float32)


def decode(y: np.ndarray) -> list[int]:
    """Return the numbers whose bits are (N, T, 1) probabilities, least significant first."""
    return [sum(1 << t for t in np.flatnonzero(bits).tolist()) for bits in y[:, :, 0] > 0.5]


def score(model: Sequential, pairs: np.ndarray, bits: int) -> tuple[float, float]:
    """Return the mean of Σ_t |y_t - ŷ_t| and the part of sums with every bit right; NaN without any sum."""
    if not len(pairs):
        return float("nan"), float("nan")
    x, y = encode(pairs, bits)
    prediction = model.predict(x)
    error = np.abs(y - prediction).sum(axis=(1, 2)).mean()
    exact = ((prediction > 0.5) == (y > 0.5)).all(axis=(1, 2)).mean()
    return float(error), float(exact)


def written_out(model: Sequential, pairs: np.ndarray, bits: int) -> str:
    """Return sums as the tutorials print them: as the network has them, its bits and the true ones.

    Parameters
    ----------
    model : Sequential
    pairs : ndarray of uint64, (N, 2)
    bits : int
    """
    x, y = encode(pairs, bits)
    prediction = model.predict(x)
    lines = []
    for (a, b), found, true, p, t in zip(
        pairs.tolist(), decode(prediction), decode(y), prediction, y, strict=True
    ):
        verdict = "" if found == true else f"   wrong: {true}"
        lines += [
            f"{a} + {b} = {found}{verdict}",
            f"    predicted  {_digits(p)}",
            f"    true       {_digits(t)}",
        ]
    return "\n".join(lines)


def _digits(bits: np.ndarray) -> str:
    """Return bits (T, 1), least significant first, as they are written."""
    return "".join("1" if bit > 0.5 else "0" for bit in bits[::-1, 0])
