"""Forecasts without a network: the last value, the last season, and autoregression.

All are of one column, and made for N histories at once: an array (N, R) of the latest R rows becomes one of
(N, steps).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rnncore.tasks import scaling

__all__ = [
    "Autoregression",
    "Baseline",
    "LastSeason",
    "LastValue",
    "autoregressions",
    "best",
    "candidates",
    "errors",
    "find_season",
    "from_plain",
    "futures",
    "histories",
    "orders",
    "plain",
    "thin",
]

FITTED = 20_000  # rows that an autoregression is fitted to: the latest ones, since more change little
NEAR = 1.02  # errors that differ by less do not tell two baselines apart
MOST = 1000  # forecasts by which baselines are compared, and rows of a season that is found


class Baseline(ABC):
    """A rule that predicts a column from its own past."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """Rows of history that it reads."""

    @abstractmethod
    def forecast(self, history: np.ndarray, steps: int) -> np.ndarray:
        """Return the next rows, (N, steps), of histories (N, R)."""

    def refit(self, series: np.ndarray) -> Baseline:
        """Return the same rule, fitted to another series (S,)."""
        return self


@dataclass(frozen=True)
class LastValue(Baseline):
    """The last row again and again."""

    @property
    def rows(self) -> int:
        """Rows of history that it reads."""
        return 1

    def __str__(self) -> str:
        return "last value"

    def forecast(self, history: np.ndarray, steps: int) -> np.ndarray:
        """Return the next rows, (N, steps)."""
        return np.repeat(history[:, -1:], steps, axis=1)


@dataclass(frozen=True)
class LastSeason(Baseline):
    """The last season again and again.

    Attributes
    ----------
    season : int
        Its rows.
    """

    season: int

    @property
    def rows(self) -> int:
        """Rows of history that it reads."""
        return self.season

    def __str__(self) -> str:
        return "last season"

    def forecast(self, history: np.ndarray, steps: int) -> np.ndarray:
        """Return the next rows, (N, steps)."""
        chosen: np.ndarray = history[:, np.arange(steps) % self.season - self.season]
        return chosen


@dataclass(frozen=True)
class Autoregression(Baseline):
    """A weighted sum of the last p rows; its own forecasts are read as if they were rows.

    ::

        x[t] = intercept + Σ coefficients[k - 1] · x[t - k],    k = 1 ... p

    Attributes
    ----------
    intercept : float
    coefficients : tuple of float, (p,)
    """

    intercept: float
    coefficients: tuple[float, ...]

    @property
    def rows(self) -> int:
        """Rows of history that it reads."""
        return len(self.coefficients)

    def __str__(self) -> str:
        return f"AR({self.rows})"

    def forecast(self, history: np.ndarray, steps: int) -> np.ndarray:
        """Return the next rows, (N, steps)."""
        p, weights = self.rows, np.array(self.coefficients[::-1])
        rows = np.empty((len(history), p + steps))
        rows[:, :p] = history[:, history.shape[1] - p :]
        for t in range(steps):
            rows[:, p + t] = rows[:, t : p + t] @ weights + self.intercept
        return rows[:, p:]

    def refit(self, series: np.ndarray) -> Autoregression:
        """Return an autoregression of the same order, fitted to another series (S,)."""
        (fitted,) = autoregressions(series, [self.rows])
        return fitted


def autoregressions(series: np.ndarray, orders: Sequence[int]) -> Iterator[Autoregression]:
    """Fit autoregressions of several orders to a series (S,) by least squares, all to the same rows.

    One QR decomposition serves all orders, since the lags of a lower one are the first columns of a higher's.
    """
    p = max(orders)
    series = series[-FITTED:]
    mean, deviation = series.mean(), scaling.deviation(series[:, None])[0]
    windows = sliding_window_view((series - mean) / deviation, p + 1)[:, ::-1]  # x[t], x[t - 1], ...
    rows = np.column_stack([np.ones(len(windows)), windows[:, 1:], windows[:, 0]])
    triangle = np.asarray(np.linalg.qr(rows, mode="r"))
    for order in orders:
        k = order + 1
        found = np.linalg.lstsq(triangle[:k, :k], triangle[:k, -1], rcond=1e-10)[0]
        intercept = mean * (1 - found[1:].sum()) + deviation * found[0]
        yield Autoregression(float(intercept), tuple(found[1:].tolist()))


def orders(rows: int, season: int | None) -> list[int]:
    """Return the orders to try on a series of that many rows: up to 100, and around one and two seasons."""
    seasonal = [k * season + extra for k in (1, 2) for extra in (0, 1)] if season else []
    usual = [*range(1, 13), 14, 17, 20, 24, 29, 35, 42, 50, 60, 72, 85, 100]
    return [p for p in sorted({*usual, *seasonal}) if p <= rows // 4] or [1]


def histories(series: np.ndarray, starts: np.ndarray, rows: int) -> np.ndarray:
    """Return the rows before each start: (N, rows, ...) of a series (S, ...)."""
    return series[starts[:, None] + np.arange(-rows, 0)]


def futures(series: np.ndarray, starts: np.ndarray, steps: int) -> np.ndarray:
    """Return the rows from each start on: (N, steps, ...) of a series (S, ...)."""
    return series[starts[:, None] + np.arange(steps)]


def thin(values: np.ndarray, most: int) -> np.ndarray:
    """Return at most that many of the values, at regular distances."""
    return values[:: -(-len(values) // most)] if len(values) > most else values


def candidates(series: np.ndarray, season: int | None) -> list[Baseline]:
    """Return the baselines of a column (S,)."""
    simple: list[Baseline] = [LastValue()]
    if season and season <= len(series):
        simple.append(LastSeason(season))
    return [*simple, *autoregressions(series, orders(len(series), season))]


def errors(baselines: Sequence[Baseline], series: np.ndarray, starts: np.ndarray, steps: int) -> list[float]:
    """Return the RMSE of baselines over the `steps` rows from each start on."""
    truth = futures(series, starts, steps)
    return [
        float(np.sqrt(np.mean((b.forecast(histories(series, starts, b.rows), steps) - truth) ** 2)))
        for b in baselines
    ]


def best(compared: Sequence[tuple[Baseline, float]], kind: type[Baseline] = Baseline) -> Baseline:
    """Return the first baseline of a kind whose error is near the least: simple rules come first."""
    own = [(rule, error) for rule, error in compared if isinstance(rule, kind)]
    least = min(error for _, error in own)
    return next(rule for rule, error in own if error <= NEAR * least)


def find_season(series: np.ndarray) -> int | None:
    """Return the rows after which a series repeats itself, more or less; None if it does not.

    With D(m) the mean of (x[t + m] - x[t])², a season m is a local minimum of D at which D is lower, by a
    fifth and in each half of the series too, than the mean of D(1) ... D(m): a value one season ago tells
    more than those since. Of several such m it is the first whose D is near the lowest, since the multiples
    of a season repeat too. D is the autocorrelation upside down, but does not take a random walk for seasons.

    Parameters
    ----------
    series : ndarray, (S, C)
        A linear trend is taken out of each column first. At least three seasons must be there.
    """
    most = min(len(series) // 3, MOST)
    if most < 3:
        return None
    halves = series[: len(series) // 2], series[len(series) // 2 :]
    D, *parts = (_differences(part, most + 1) for part in (series, *halves))
    low = np.all([d < 0.8 * d.cumsum() / np.arange(1, len(d) + 1) for d in (D, *parts)], axis=0)
    lags = np.arange(2, most + 1)
    at = lags - 1  # D[at] belongs to a lag
    found = low[at] & (D[at] < D[at - 1]) & (D[at] <= D[at + 1])
    if not found.any():
        return None
    lowest = D[at][found].min()
    near = found & (D[at] <= lowest + 0.1 * (D[:most].mean() - lowest))
    return int(lags[near][0])


def _differences(series: np.ndarray, most: int) -> np.ndarray:
    """Return the mean of (x[t + m] - x[t])² for m = 1 ... most, summed over the columns of a series (S, C).

    A linear trend is taken out of each column, which is then scaled to deviation 1.
    """
    S = len(series)
    t = np.linspace(-1, 1, S)[:, None]
    flat = series - series.mean(axis=0)
    flat = flat - t * (t * flat).sum(axis=0) / (t * t).sum()
    deviation: np.ndarray = flat.std(axis=0)
    varies = deviation > 1e-9 * np.abs(series).max(axis=0)
    flat = flat[:, varies] / deviation[varies]
    # Σ x[t + m]² + Σ x[t]² - 2 Σ x[t + m] x[t], the last sum from the spectrum
    squares = np.concatenate([[0.0], (flat**2).sum(axis=1).cumsum()])
    spectrum = (np.abs(np.fft.rfft(flat, 2 * S, axis=0)) ** 2).sum(axis=1)
    lags = np.arange(1, most + 1)
    sums = squares[S - lags] + squares[S] - squares[lags] - 2 * np.fft.irfft(spectrum)[lags]
    return sums / (S - lags)


def plain(baseline: Baseline) -> dict[str, Any]:
    """Return a baseline in plain types."""
    return {"type": type(baseline).__name__, **vars(baseline)}


def from_plain(type: str, **options: Any) -> Baseline:
    """Make a baseline again from what `plain` returned."""
    if type == "Autoregression":
        return Autoregression(options["intercept"], tuple(options["coefficients"]))
    return LastSeason(**options) if type == "LastSeason" else LastValue()
