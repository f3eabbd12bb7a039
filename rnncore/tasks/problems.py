"""Long-lag problems that the literature measures by: every batch is made of fresh sequences.

References
----------
Hochreiter & Schmidhuber, *Long short-term memory*, Neural Computation 9(8), 1997: experiments 1 (embedded
Reber grammar), 4 (adding problem) and 6 (temporal order).
Le, Jaitly & Hinton, *A simple way to initialize recurrent networks of rectified linear units*, 2015: the
adding problem with the target x1 + x2.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rnncore import checks, pictures
from rnncore.models import SequenceModel, Sequential
from rnncore.tasks.task import Batch, written

__all__ = ["REBER", "AddingProblem", "EmbeddedReber", "Problem", "TemporalOrder"]

WATCHED, TESTED = 500, 2000  # sequences to validate and to evaluate on


class Problem(ABC):
    """What the problems share.

    Attributes
    ----------
    batch_size : int
        N.
    seed : int
        Of the sequences to validate and to evaluate on.
    """

    title: str

    def __init__(self, batch_size: int, seed: int) -> None:
        self.batch_size = checks.integer("batch_size", batch_size)
        self.seed = checks.integer("seed", seed, minimum=0)

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the arguments that make such a task again."""

    def fingerprint(self) -> dict[str, Any]:
        """Return what the batches depend on."""
        return self.config()

    def __repr__(self) -> str:
        return written(self, **self.config())

    @abstractmethod
    def sample(self, count: int, rng: np.random.Generator) -> Batch:
        """Return `count` fresh sequences."""

    @abstractmethod
    def score(self, model: Sequential, sequences: Batch) -> dict[str, float]:
        """Return how well a model does on some sequences."""

    @abstractmethod
    def panels(self, metrics: Mapping[str, list[float]]) -> list[pictures.Panel]:
        """Return what to draw of the metrics that were measured during training."""

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield without end `batch_size` fresh sequences."""
        while True:
            yield self.sample(self.batch_size, rng)

    def validate(self, model: Sequential) -> dict[str, float]:
        """Return the score on 500 sequences, the same ones each time."""
        return self.score(model, self.sample(WATCHED, np.random.default_rng([self.seed, 0])))

    def evaluate(self, model: Sequential) -> dict[str, float]:
        """Return the score on 2000 other sequences, the same ones each time."""
        return self.score(model, self.sample(TESTED, np.random.default_rng([self.seed, 1])))

    def draw(self, path: str | os.PathLike[str], metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Draw the score over training into a PNG file.

        Parameters
        ----------
        path : path
        metrics : mapping of int to mapping of str to float
            What `validate` gave, by the number of updates until then.
        """
        names = next(iter(metrics.values()), {})
        columns = {name: [values[name] for values in metrics.values()] for name in names}
        pictures.training_curves(path, self.title, list(metrics), self.panels(columns))


class AddingProblem(Problem):
    """Add the two marked ones of T random numbers: x_t = (number, mark), y = x_i + x_j.

    The numbers are uniform in [0, 1); the first mark i stands in the first half, the second one j in the
    second. Always to answer 1 gives a mean squared error of 1/6.

    Parameters
    ----------
    length : int, default 100
        T, at least 2.
    batch_size : int, default 50
    seed : int, default 0
        Of the sequences to validate and to evaluate on.
    """

    def __init__(self, length: int = 100, *, batch_size: int = 50, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        self.length = checks.integer("length", length, minimum=2)
        self.title = f"Adding problem, T = {self.length}"

    def config(self) -> dict[str, Any]:
        """Return the arguments that make such a task again."""
        return {"length": self.length, "batch_size": self.batch_size, "seed": self.seed}

    def model(self, hidden_size: int = 32, **options: Any) -> SequenceModel:
        """Return a network for the task; options as for `rnncore.SequenceModel`."""
        return SequenceModel(2, hidden_size, 1, input="dense", output="last", **options)

    def sample(self, count: int, rng: np.random.Generator) -> Batch:
        """Return `count` fresh sequences, x (count, T, 2), and their sums, y (count, 1)."""
        T, n = self.length, np.arange(count)
        x = np.zeros((count, T, 2), np.float32)
        x[:, :, 0] = rng.random((count, T), np.float32)
        first, second = rng.integers(T // 2, size=count), rng.integers(T // 2, T, size=count)
        x[n, first, 1] = x[n, second, 1] = 1
        return Batch(x, x[n, first, :1] + x[n, second, :1])

    def score(self, model: Sequential, sequences: Batch) -> dict[str, float]:
        """Return "mse", the mean squared error."""
        error = model.predict(sequences.x) - sequences.y
        return {"mse": float(np.mean(error.astype(np.float64) ** 2))}

    def evaluate(self, model: Sequential) -> dict[str, float]:
        """Return the score on 2000 other sequences, beside "mse_of_always_1" there."""
        sequences = self.sample(TESTED, np.random.default_rng([self.seed, 1]))
        ones = float(np.mean((sequences.y.astype(np.float64) - 1) ** 2))
        return {**self.score(model, sequences), "mse_of_always_1": ones}

    def panels(self, metrics: Mapping[str, list[float]]) -> list[pictures.Panel]:
        """Return what to draw of the metrics that were measured during training."""
        return [pictures.Panel("mean squared error", metrics, logarithmic=True)]


class TemporalOrder(Problem):
    """Tell in which order X and Y came among many other symbols, after the last of them is long gone.

    A sequence is E, then random ones of a, b, c, d, then B. At `symbols` places X or Y stands instead: the
    first one behind T/10, the others behind k·T/symbols, each within a tenth of the sequence. Every order of
    X and Y is a class; the first is the highest binary digit.

    Parameters
    ----------
    length : int, default 50
        T, at least 20.
    symbols : {2, 3}, default 3
        Number of X and Y, so that there are 4 or 8 classes.
    batch_size : int, default 50
    seed : int, default 0
        Of the sequences to validate and to evaluate on.
    """

    ALPHABET = "EBabcdXY"

    def __init__(self, length: int = 50, symbols: int = 3, *, batch_size: int = 50, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        self.length = checks.integer("length", length, minimum=20)
        self.symbols = checks.choice("symbols", symbols, (2, 3))
        self.title = f"Temporal order of {self.symbols} symbols, T = {self.length}"

    def config(self) -> dict[str, Any]:
        """Return the arguments that make such a task again."""
        return {
            "length": self.length,
            "symbols": self.symbols,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def model(self, hidden_size: int = 32, **options: Any) -> SequenceModel:
        """Return a network for the task; options as for `rnncore.SequenceModel`."""
        return SequenceModel(len(self.ALPHABET), hidden_size, 2**self.symbols, output="last", **options)

    def sample(self, count: int, rng: np.random.Generator) -> Batch:
        """Return `count` fresh sequences as indices into ALPHABET, x (count, T), and classes, y (count,)."""
        T, n = self.length, np.arange(count)
        x = rng.integers(2, 6, size=(count, T))
        x[:, 0], x[:, -1] = 0, 1
        y = np.zeros(count, np.intp)
        for k in range(self.symbols):
            first = max(k * T // self.symbols, T // 10)
            bit = rng.integers(2, size=count)
            x[n, first + rng.integers(T // 10, size=count)] = 6 + bit
            y = 2 * y + bit
        return Batch(x, y)

    def score(self, model: Sequential, sequences: Batch) -> dict[str, float]:
        """Return "accuracy", the part of sequences classified right."""
        found = model.predict(sequences.x).argmax(axis=1)
        return {"accuracy": float(np.mean(found == sequences.y))}

    def evaluate(self, model: Sequential) -> dict[str, float]:
        """Return the score on 2000 other sequences, beside "accuracy_of_guessing"."""
        return {**super().evaluate(model), "accuracy_of_guessing": 2.0**-self.symbols}

    def panels(self, metrics: Mapping[str, list[float]]) -> list[pictures.Panel]:
        """Return what to draw of the metrics that were measured during training."""
        return [pictures.Panel("accuracy, %", {"accuracy": [100 * value for value in metrics["accuracy"]]})]


# Reber's grammar: at each state, the symbols that may come and the states they lead to
REBER = {
    0: {"B": 1},
    1: {"T": 2, "P": 3},
    2: {"S": 2, "X": 4},
    3: {"T": 3, "V": 5},
    4: {"X": 3, "S": 6},
    5: {"P": 4, "V": 6},
    6: {"E": 7},
    7: {},
}


class EmbeddedReber(Problem):
    """Predict what may come next in strings of the embedded Reber grammar.

    A string is B, then T or P, then a string of Reber's grammar, then the *same* T or P again, then E: this
    symbol has to be remembered across the inner string. At every step, each symbol that the grammar allows
    next must be more probable than each that it does not.

    Parameters
    ----------
    batch_size : int, default 1
    longest : int, default 50
        T; a longer string is drawn again (few are). 9 is the shortest there is.
    seed : int, default 0
        Of the strings to validate and to evaluate on.
    """

    ALPHABET = "BTPSXVE"
    title = "Embedded Reber grammar"

    def __init__(self, *, batch_size: int = 1, longest: int = 50, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        self.longest = checks.integer("longest", longest, minimum=9)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make such a task again."""
        return {"batch_size": self.batch_size, "longest": self.longest, "seed": self.seed}

    def model(self, hidden_size: int = 8, **options: Any) -> SequenceModel:
        """Return a network for the task; options as for `rnncore.SequenceModel`."""
        V = len(self.ALPHABET)
        return SequenceModel(V, hidden_size, V, **options)

    def string(self, rng: np.random.Generator) -> str:
        """Return a random string."""
        while True:
            outer = "TP"[rng.integers(2)]
            inner, state = "", 0
            while edges := REBER[state]:
                inner += list(edges)[rng.integers(len(edges))]
                state = edges[inner[-1]]
            if len(inner) + 4 <= self.longest:
                return f"B{outer}{inner}{outer}E"

    def sample(self, count: int, rng: np.random.Generator) -> Batch:
        """Return `count` fresh strings as indices into ALPHABET.

        x (count, T) is each string but its last symbol, y (count, T) each but its first.
        """
        x, y = np.zeros((2, count, self.longest), np.intp)
        lengths = np.zeros(count, np.intp)
        for n in range(count):
            ids = [self.ALPHABET.index(symbol) for symbol in self.string(rng)]
            lengths[n] = len(ids) - 1
            x[n, : lengths[n]], y[n, : lengths[n]] = ids[:-1], ids[1:]
        return Batch(x, y, lengths)

    def score(self, model: Sequential, sequences: Batch) -> dict[str, float]:
        """Return "legal", the part of strings of which every legal continuation is predicted."""
        logits, _ = model.forward(sequences.x, lengths=sequences.lengths)
        right = 0
        for x, y, length in zip(sequences.x, logits, np.asarray(sequences.lengths), strict=True):
            legal = self._legal(x[:length])
            least = np.where(legal, y[:length], np.inf).min(axis=1)
            most = np.where(legal, -np.inf, y[:length]).max(axis=1)
            right += bool((least > most).all())
        return {"legal": right / len(logits)}

    def _legal(self, ids: np.ndarray) -> np.ndarray:
        """Return which symbols may follow each of a string without its last, (T, V) of bool."""
        outer, *inner = (self.ALPHABET[i] for i in ids[1:-1])
        allowed, state = ["TP"], 0
        for symbol in inner:
            allowed.append("".join(REBER[state]))
            state = REBER[state][symbol]
        allowed += [outer, "E"]
        return np.array([[symbol in symbols for symbol in self.ALPHABET] for symbols in allowed])

    def panels(self, metrics: Mapping[str, list[float]]) -> list[pictures.Panel]:
        """Return what to draw of the metrics that were measured during training."""
        return [
            pictures.Panel(
                "strings with every legal\ncontinuation predicted, %",
                {"legal": [100 * value for value in metrics["legal"]]},
            )
        ]
