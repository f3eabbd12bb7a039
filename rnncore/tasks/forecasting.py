"""Forecasting: a network reads a window of a series and predicts what comes next."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from rnncore import checks, pictures
from rnncore.models import SequenceModel, Sequential
from rnncore.network import State
from rnncore.tasks import scaling
from rnncore.tasks.baselines import (
    MOST,
    Autoregression,
    Baseline,
    LastSeason,
    LastValue,
    best,
    candidates,
    errors,
    find_season,
    futures,
    histories,
    thin,
)
from rnncore.tasks.forecaster import NETWORKS, Forecaster
from rnncore.tasks.task import Batch, digest, written

__all__ = ["Forecasting", "NoisySine"]

DATA = {"series", "index", "index_name", "source"}  # of what a task knows, not how it is used
BLOCK = 4096  # forecasts that are made at once
WATCHED = 200  # forecasts by which training is watched
CORRECTED = set(NETWORKS)


class Forecasting:
    """Predict the next rows of a series from a window of those before.

    The last part of the series is held out. Every column is scaled by mean and deviation of the training part
    alone; predictions and errors are in the series' own units.

    Parameters
    ----------
    series : array_like, (S,) or (S, C) numbers
        S rows of C columns, all of which are read and predicted.
    window : int, optional
        T, rows that a network reads. If not given: one season, but 8 to 60 rows, or 20 without season; of a
        short series half of the training part at most.
    horizon : int, default 1
        Rows that it predicts at once.
    output : {"last", "all"}
        Predict behind the last row of the window (many-to-one), or behind each (many-to-many).
    held_out : float, default 0.2
        Part of the rows, at the end, that training never sees; with 0, errors are of the rows trained on.
    season : int or "auto", optional
        Rows after which the series repeats itself, more or less: for the seasonal baseline. "auto" looks for
        it in the training part; see `rnncore.tasks.baselines.find_season`.
    ahead : int, optional
        Rows that `evaluate` predicts in closed loop. If not given: one season, or one window without season,
        if as many are held out.
    noise : float, default 0
        Deviation of the noise added to training windows, where columns are scaled to deviation 1. It teaches
        a network to come back from errors of its own, which closed-loop prediction feeds it with.
    batch_size : int, default 32
        N; what is left of the windows when they are dealt out waits for another epoch.
    columns : sequence of str, optional
        Names of the columns; if not given, those of a data frame.
    index : array_like of datetime64 or numbers, (S,), optional
        Dates of the rows, or other numbers that rise with them: for pictures.
    index_name : str, default "row"
        What it is.
    source : str, optional
        Where the series is from: for the titles of pictures.

    Attributes
    ----------
    series : ndarray of float64, (S, C)
    split : int
        Rows in the training part.
    stop : int
        The first of its last rows, the validation part: what is chosen is chosen by the errors there. It has
        a fifth of the training part or two times `ahead` rows, but a third of the training part at most, if
        that is `ahead` rows.
    found_season : bool
        Whether `season` was looked for.
    mean, deviation : ndarray of float64, (C,)
        Of the training part; a column that is constant there, up to rounding, has deviation 1.

    Raises
    ------
    ValueError, TypeError
        For an argument out of its range, a missing value (its row is named), or too few rows.
    """

    carry = False  # the state from one batch to the next

    def __init__(
        self,
        series: npt.ArrayLike,
        *,
        window: int | None = None,
        horizon: int = 1,
        output: str = "last",
        held_out: float = 0.2,
        season: int | str | None = None,
        ahead: int | None = None,
        noise: float = 0.0,
        batch_size: int = 32,
        columns: Sequence[str] | None = None,
        index: npt.ArrayLike | None = None,
        index_name: str = "row",
        source: str | None = None,
    ) -> None:
        self.horizon = checks.integer("horizon", horizon)
        self.output = checks.choice("output", output, ("last", "all"))
        self.held_out = checks.real("held_out", held_out, high=1.0)
        self.noise = checks.real("noise", noise)
        self.batch_size = checks.integer("batch_size", batch_size)
        self.series = _series(series)
        S, C = self.series.shape
        self.columns = _names(series, C) if columns is None else list(columns)
        if len(self.columns) != C:
            raise ValueError(f"columns must name {C} columns, got {len(self.columns)}")
        self.index = None if index is None else checks.array("index", index)
        if self.index is not None:
            checks.shape("index", self.index, (S,))
        self.index_name, self.source = index_name, source
        self.split = S - round(self.held_out * S)
        self.found_season = season == "auto"
        if season == "auto":
            season = find_season(self.series[: self.split - self.split // 5])
        self.season = None if season is None else checks.integer("season", season)
        if window is None:
            window = min(max(self.season, 8), 60) if self.season else 20
            window = max(min(window, self.split // 2), 1)
        self.window = checks.integer("window", window)
        if self.split < self.window + self.horizon:
            raise ValueError(
                f"series has {S} rows, of which {self.split} are to train on (held_out = {self.held_out:g}), "
                f"but window = {self.window} and horizon = {self.horizon} take {self.window + self.horizon}"
            )
        if ahead is None:
            ahead = max(min(self.season or self.window, S - self._first), 1)
        self.ahead = checks.integer("ahead", ahead)
        usual = min(max(self.split // 5, 2 * self.ahead), self.split // 3)
        self.stop = self.split - max(usual, min(self.ahead, self.split // 2))
        if self.season is not None and self.season > self.split:
            raise ValueError(f"season = {self.season} is longer than the training part of {self.split} rows")
        if S - self.ahead < self._first:
            raise ValueError(
                f"series has {S} rows, of which {S - self._first} are to evaluate on "
                f"(held_out = {self.held_out:g}), but forecasts are of ahead = {self.ahead} rows"
            )
        self._fitted: list[list[Baseline]] = []
        self._known: dict[tuple[int, int], dict[str, list[float]]] = {}
        train = self.series[: self.split]
        self.mean, self.deviation = train.mean(axis=0), scaling.deviation(train)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make such a task again."""
        return {
            "series": self.series,
            "window": self.window,
            "horizon": self.horizon,
            "output": self.output,
            "held_out": self.held_out,
            "season": self.season,
            "ahead": self.ahead,
            "noise": self.noise,
            "batch_size": self.batch_size,
            "columns": self.columns,
            "index": self.index,
            "index_name": self.index_name,
            "source": self.source,
        }

    def __repr__(self) -> str:
        S, C = self.series.shape
        options = {name: value for name, value in self.config().items() if name not in (*DATA, "columns")}
        return written(self, f"{S} rows of {C} column{'s' if C > 1 else ''}", **options)

    def fingerprint(self) -> dict[str, Any]:
        """Return what the batches depend on."""
        options = {name: value for name, value in self.config().items() if name not in DATA}
        return {**options, "series": digest(self.series)}

    @property
    def truth(self) -> np.ndarray:
        """What forecasts begin with and are compared with, (S, C)."""
        return self.series

    @property
    def _first(self) -> int:
        """Row that the first forecast to evaluate begins with."""
        return self.split if self.held_out else max(self.window, self.season or 0)

    @property
    def decimals(self) -> list[int]:
        """Decimal places of each column that tell a millionth of its deviation."""
        return [max(0, 6 - math.floor(math.log10(deviation))) for deviation in self.deviation.tolist()]

    def model(self, hidden_size: int = 32, **options: Any) -> SequenceModel:
        """Return a network for the task; options as for `rnncore.SequenceModel`."""
        C = len(self.columns)
        defaults = {"input": "dense", "output": self.output}
        return SequenceModel(C, hidden_size, self.horizon * C, **defaults | options)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the windows of the training part in random order, with their noise."""
        rows = self.window + self.horizon
        scaled = ((self.series[: self.split] - self.mean) / self.deviation).astype(np.float32)
        windows = sliding_window_view(scaled, rows, axis=0).swapaxes(1, 2)
        order = rng.permutation(len(windows))
        N = min(self.batch_size, len(order))
        for chosen in order[: len(order) // N * N].reshape(-1, N):
            x, y = self._cut(windows[chosen])
            if self.noise:
                x = x + np.float32(self.noise) * rng.standard_normal(x.shape, np.float32)
            yield Batch(x, y, carry=self.carry)

    def _cut(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut (N, window + horizon, C) into x and y: the `horizon` rows next to each step, or to the last."""
        N = len(windows)
        following = sliding_window_view(windows[:, 1:], self.horizon, axis=1).swapaxes(2, 3)
        y = following.reshape(N, self.window, -1)
        return windows[:, : self.window], y if self.output == "all" else y[:, -1]

    def closed_loop(self, model: Sequential | Forecaster, history: npt.ArrayLike, steps: int) -> np.ndarray:
        """Predict on and on, from predictions that are read as if they were the series.

        Parameters
        ----------
        model : Sequential or Forecaster
            As `model` returns it, trained, or a forecaster, which predicts by itself.
        history : array_like, (N, S, C)
            The rows before, at least `window` of them (`Forecaster.rows`), of N series.
        steps : int
            Rows to predict.

        Returns
        -------
        ndarray of float64, (N, steps, C)
        """
        steps = checks.integer("steps", steps)
        history = checks.dense("history", history)
        checks.shape("history", history, ("N", "S", len(self.columns)))
        if isinstance(model, Forecaster):
            return model.forecast(history, steps)
        T, h = self.window, self.horizon
        if history.shape[1] < T:
            raise ValueError(f"history must have at least {T} rows, got {history.shape[1]}")
        N, _, C = history.shape
        rows = np.empty((N, T + steps + h, C))
        rows[:, :T] = (history[:, -T:] - self.mean) / self.deviation
        state: State = None
        for t in range(T, T + steps, h):
            y, after = model.forward(rows[:, t - T : t], state)
            rows[:, t : t + h] = (y[:, -1] if model.output == "all" else y).reshape(N, h, C)
            state = after if self.carry else None
        return rows[:, T : T + steps] * self.deviation + self.mean

    def forecast(
        self, model: Sequential | Forecaster, start: int | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Predict any range of the series in closed loop, also beyond its end.

        Parameters
        ----------
        model : Sequential or Forecaster
        start : int, optional
            First row to predict, from `window` (`Forecaster.rows`) to the end of the series; the first
            held-out row if not given.
        steps : int, optional
            Rows to predict; to the end of the series, or else `ahead`, if not given.

        Returns
        -------
        ndarray of float64, (steps, C)
        """
        start, steps = self.span(start, steps, model)
        return self.closed_loop(model, self.truth[None, :start], steps)[0]

    def span(
        self,
        start: int | None = None,
        steps: int | None = None,
        model: Sequential | Forecaster | None = None,
    ) -> tuple[int, int]:
        """Return first row and number of rows that `forecast` predicts."""
        S, rows = len(self.series), self._rows(model)
        start = max(self._first, rows) if start is None else checks.integer("start", start, minimum=0)
        if not rows <= start <= S:
            raise ValueError(
                f"start must lie in {rows} ... {S}, behind the rows that are read first, got {start}"
            )
        return start, checks.integer("steps", (S - start or self.ahead) if steps is None else steps)

    def _rows(self, model: Sequential | Forecaster | None) -> int:
        """Return how many rows of history a model reads."""
        return model.rows if isinstance(model, Forecaster) else self.window

    def validate(self, model: Sequential | Forecaster) -> dict[str, float]:
        """Return what `evaluate` does, from a part of the forecasts."""
        return self._errors(model, WATCHED, WATCHED)

    def evaluate(self, model: Sequential | Forecaster) -> dict[str, float]:
        """Return root mean squared errors on the held-out rows, beside those of forecasts without a model.

        Forecasts of one row begin with every held-out row, others with at most 1000 at regular distances.

        Returns
        -------
        dict
            "rmse_1", one row ahead, and "rmse_k", the first k = `ahead` rows in closed loop; the same for
            "last_value", the row before again and again, for "seasonal", the season before again and again,
            and, if rows are held out, for "autoregression", whose order the validation part decides. With
            several columns the name of each is appended.
        """
        return self._errors(model, len(self.truth), MOST)

    def _errors(self, model: Sequential | Forecaster, most_next: int, most_ahead: int) -> dict[str, float]:
        """Return the errors of at most `most_next` forecasts of one row and `most_ahead` of `ahead` rows."""
        metrics = {}
        rows = self._rows(model)
        for ahead in dict.fromkeys((1, self.ahead)):
            starts = np.arange(max(self._first, rows), len(self.truth) - ahead + 1)
            starts = thin(starts, most_next if ahead == 1 else most_ahead)
            forecasts = [
                self.closed_loop(model, histories(self.truth, part, rows), ahead)
                for part in np.array_split(starts, -(-len(starts) // BLOCK))
            ]
            found = {"rmse": self._rmse(np.concatenate(forecasts), starts)}
            for name, each in (found | self._baseline_errors(ahead, starts)).items():
                for column, error in zip(self.columns, each, strict=True):
                    metrics[f"{name}_{ahead}{self.suffix(column)}"] = error
        return metrics

    def _rmse(self, forecasts: np.ndarray, starts: np.ndarray) -> list[float]:
        """Return the error of forecasts (N, steps, C) in each column."""
        squares = (forecasts - futures(self.truth, starts, forecasts.shape[1])) ** 2
        errors: list[float] = np.sqrt(squares.mean(axis=(0, 1))).tolist()
        return errors

    def _baseline_errors(self, steps: int, starts: np.ndarray) -> dict[str, list[float]]:
        """Return the errors of all baselines in each column; known already from the validation before."""
        key = steps, len(starts)
        if key not in self._known:
            rules: dict[str, list[Baseline]] = {"last_value": [LastValue()] * len(self.columns)}
            if self.season:
                rules["seasonal"] = [LastSeason(self.season)] * len(self.columns)
            if self.held_out:
                rules["autoregression"] = [
                    best(own, Autoregression).refit(self.series[: self.split, c])
                    for c, own in enumerate(self.compare(steps))
                ]
            self._known[key] = {
                name: [errors([rule], self.truth[:, c], starts, steps)[0] for c, rule in enumerate(own)]
                for name, own in rules.items()
            }
        return self._known[key]

    def compare(self, steps: int) -> list[list[tuple[Baseline, float]]]:
        """Return, for each column, baselines fitted to the rows before `stop`, and their errors after it.

        Parameters
        ----------
        steps : int
            Rows that forecasts have.
        """
        if self.stop + steps > self.split:
            raise ValueError(f"{steps} rows ahead are more than half of the {self.split} rows to train on")
        if not self._fitted:
            self._fitted = [candidates(column[: self.stop], self.season) for column in self.series.T]
        starts = thin(np.arange(self.stop, self.split - steps + 1), MOST)
        return [
            list(zip(fitted, errors(fitted, column, starts, steps), strict=True))
            for fitted, column in zip(self._fitted, self.series.T, strict=True)
        ]

    def suffix(self, column: str) -> str:
        """Return what the names of a column's metrics end in."""
        return f"_{column}" if len(self.columns) > 1 else ""

    def draw(self, path: str | os.PathLike[str], metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Draw the errors over training into a PNG file.

        Parameters
        ----------
        path : path
        metrics : mapping of int to mapping of str to float
            What `validate` gave, by the number of updates until then.
        """
        if any(CORRECTED & values.keys() for values in metrics.values()):
            curves = {
                name.replace("_", " "): [values.get(name, np.nan) for values in metrics.values()]
                for name in sorted(CORRECTED)
            }
            panels = [pictures.Panel("validation error,\nparts of the baseline's", curves)]
            return pictures.training_curves(path, "Corrections of the baseline", list(metrics), panels)
        names = {
            "rmse": "network",
            "last_value": "last value",
            "seasonal": "last season",
            "autoregression": "autoregression",
        }
        panels = []
        for ahead in dict.fromkeys((1, self.ahead)):
            for column in self.columns:
                curves = {
                    label: [values[key] for values in metrics.values()]
                    for name, label in names.items()
                    if (key := f"{name}_{ahead}{self.suffix(column)}") in next(iter(metrics.values()), {})
                }
                panels.append(pictures.Panel(f"RMSE of {column},\n{ahead} ahead", curves))
        pictures.training_curves(path, "Forecasting", list(metrics), panels)

    def draw_forecast(
        self,
        path: str | os.PathLike[str],
        model: Sequential | Forecaster,
        start: int | None = None,
        steps: int | None = None,
    ) -> None:
        """Draw the series and a forecast over it into a PNG file; start and steps as for `forecast`."""
        start, steps = self.span(start, steps, model)
        predicted = self.forecast(model, start, steps)
        title = pictures.forecast_title(self.columns, self.source)
        pictures.forecast(
            path, title, self.columns, self.truth, start, predicted, self.index, self.index_name
        )


class NoisySine(Forecasting):
    """A sine wave to be learnt from noisy samples of it, and then to be drawn from its first points alone.

    101 points from -2π to 2π, with noise of deviation 0.05, are read in windows of 10. Evaluation begins with
    the first 10 points without noise and predicts the other 91 in closed loop.

    Parameters
    ----------
    seed : int, default 0
        Of the noise.
    noise : float, default 0.1
        Added to training windows anew each time.
    batch_size : int, default 30
    carry : bool, default False
        Let the state go on from one batch to the next, though shuffled windows do not follow one another, and
        from one prediction to the next: as a well-known tutorial does.
    """

    def __init__(
        self, seed: int = 0, *, noise: float = 0.1, batch_size: int = 30, carry: bool = False
    ) -> None:
        self.seed = checks.integer("seed", seed, minimum=0)
        self.carry = checks.flag("carry", carry)
        self.clean = np.sin(np.linspace(-2 * np.pi, 2 * np.pi, 101))[:, None]
        noisy = self.clean + 0.05 * np.random.default_rng([self.seed, 0]).standard_normal(self.clean.shape)
        super().__init__(
            noisy, window=10, held_out=0, ahead=91, noise=noise, batch_size=batch_size, columns=["sin x"]
        )

    def config(self) -> dict[str, Any]:
        """Return the arguments that make such a task again."""
        return {"seed": self.seed, "noise": self.noise, "batch_size": self.batch_size, "carry": self.carry}

    @property
    def truth(self) -> np.ndarray:
        """The sine without noise, (101, 1)."""
        return self.clean


def _names(series: Any, count: int) -> list[str]:
    """Return the names of columns: those of a data frame or of one of its columns, or else their numbers."""
    name = getattr(series, "name", None)
    given = getattr(series, "columns", [] if name is None else [name])
    return [str(column) for column in given] or [f"column {c}" for c in range(count)]


def _series(value: npt.ArrayLike) -> np.ndarray:
    """Return a series as (S, C) float64 without missing values."""
    found = checks.dense("series", value)
    if found.ndim == 1:
        found = found[:, None]
    checks.shape("series", found, ("S", "C"))
    wrong = checks.first_outside(found, checks.finite(np.dtype(np.float64)))
    if wrong:
        raise ValueError(f"series[{wrong[0]}] holds {found[wrong]} in column {wrong[1]}: a value is missing")
    return found.astype(np.float64)
