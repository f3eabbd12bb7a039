"""A trained forecaster: a baseline for each column, and small networks that know its errors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rnncore import checks, models
from rnncore.files import save_arrays
from rnncore.models import Sequential
from rnncore.tasks.baselines import Baseline, from_plain, plain

__all__ = ["NETWORKS", "Correction", "Forecaster", "Window", "baseline", "build"]

NETWORKS = ("closed_loop", "direct")


@dataclass(frozen=True)
class Window:
    """What a network reads of a history.

    Attributes
    ----------
    rows : int
        T, the latest rows.
    season : int or None
        If given, the rows one season before the next one of each stand beside them.
    deviation : ndarray, (C,)
        Of the columns.
    """

    rows: int
    season: int | None
    deviation: np.ndarray

    @property
    def reach(self) -> int:
        """Rows of history that it takes."""
        return self.rows if self.season is None else max(self.rows, self.rows - 1 + self.season)

    def read(self, history: np.ndarray) -> np.ndarray:
        """Return (N, T, C or 2C) of a history (N, R, C), less its last row, in deviations."""
        R = history.shape[1]
        parts = [history[:, R - self.rows :]]
        if self.season is not None:
            first = R - self.rows + 1 - self.season
            parts.append(history[:, first : first + self.rows])
        last = history[:, -1:]
        return np.concatenate([(part - last) / self.deviation for part in parts], axis=2).astype(np.float32)


@dataclass(frozen=True)
class Correction:
    """A network that predicts the errors of baselines.

    Attributes
    ----------
    network : Sequential
    baselines : sequence of Baseline
        One a column.
    scale : ndarray, (H, C)
        What the network's outputs for the next H rows are multiplied by.
    """

    network: Sequential
    baselines: Sequence[Baseline]
    scale: np.ndarray

    def forecast(self, window: Window, history: np.ndarray) -> np.ndarray:
        """Return the next H rows, (N, H, C), of histories (N, R, C)."""
        outputs = self.network.predict(window.read(history)).reshape(-1, *self.scale.shape)
        return baseline(self.baselines, history, len(self.scale)) + outputs * self.scale


class Forecaster:
    """Predicts the rows after a history, in the units of the series.

    The forecast of a column is a mix of a baseline's (last value, last season or autoregression) and of
    those of up to two networks, which correct a baseline: *direct*, all of the first `ahead` rows at once,
    and *closed_loop*, row by row, each read again as if it had been measured. Baselines and weights are of
    two kinds: for the next row, and for the rows up to `ahead`. Farther rows are predicted from the forecast
    of those before. `rnncore.recipes.series` trains one.

    Parameters
    ----------
    columns : sequence of str
        C names.
    ahead : int
    window : Window
    baselines : dict
        For "next" and "ahead" a sequence of `Baseline`, one a column.
    corrections : dict
        `Correction` by name, "closed_loop" (of one row) and "direct" (of `ahead` rows), where there is one.
    weights : dict
        For "next" and "ahead" an ndarray (C, 2): what part of the forecast is which network's; the rest is
        the baseline's.

    Examples
    --------
    ::

        forecaster = rnncore.load("runs/series/model.safetensors")
        forecaster.forecast(series, 24)      # (24,) of a series (S,), (24, C) of one (S, C)
    """

    def __init__(
        self,
        columns: Sequence[str],
        ahead: int,
        window: Window,
        baselines: Mapping[str, Sequence[Baseline]],
        corrections: Mapping[str, Correction],
        weights: Mapping[str, np.ndarray],
    ) -> None:
        self.columns = list(columns)
        self.ahead = ahead
        self.window = window
        self.baselines = dict(baselines)
        self.corrections = dict(corrections)
        self.weights = dict(weights)

    @property
    def rows(self) -> int:
        """Rows of history that a forecast takes; earlier ones are not looked at."""
        every = [b for kind in self.baselines.values() for b in kind]
        every += [b for correction in self.corrections.values() for b in correction.baselines]
        reach = self.window.reach if self.corrections else 1
        return max(reach, *(b.rows for b in every))

    def forecast(self, history: npt.ArrayLike, steps: int | None = None) -> np.ndarray:
        """Predict the rows after a history.

        Parameters
        ----------
        history : array_like, (S,), (S, C) or (N, S, C)
            At least `rows` rows of one series, or of N; (S,) if there is but one column.
        steps : int, optional
            Rows to predict; `ahead` if not given.

        Returns
        -------
        ndarray of float64, (steps,), (steps, C) or (N, steps, C)

        Raises
        ------
        ValueError, TypeError
            If the history is too short, of another shape, or a value is missing.
        """
        steps = self.ahead if steps is None else checks.integer("steps", steps)
        given = checks.dense("history", history)
        C = len(self.columns)
        found = given[:, None] if given.ndim == 1 else given
        found = found[None] if found.ndim == 2 else found
        checks.shape("history", found, ("N", "S", C))
        if found.shape[1] < self.rows:
            raise ValueError(f"history must have at least {self.rows} rows, got {found.shape[1]}")
        R = self.rows
        rows = found[:, -R:].astype(np.float64)
        if not np.isfinite(rows).all():
            raise ValueError(f"history: a value is missing in the last {R} rows")
        while (left := R + steps - rows.shape[1]) > 0:
            rows = np.concatenate([rows, self._block(rows[:, -R:], min(left, self.ahead))], axis=1)
        predicted = rows[:, R:]
        return predicted if given.ndim == 3 else predicted[0, :, 0] if given.ndim == 1 else predicted[0]

    def _block(self, history: np.ndarray, steps: int) -> np.ndarray:
        """Return the next rows, at most `ahead`; the first has weights of its own."""
        first = self._mix("next", history, 1)
        if steps == 1:
            return first
        return np.concatenate([first, self._mix("ahead", history, steps)[:, 1:]], axis=1)

    def _mix(self, kind: str, history: np.ndarray, steps: int) -> np.ndarray:
        """Return the weighted mean of the forecasts of a kind."""
        base = baseline(self.baselines[kind], history, steps)
        mixed = base.copy()
        for name, weights in zip(NETWORKS, self.weights[kind].T, strict=True):
            if weights.any():
                mixed += weights * (self.correct(name, history, steps) - base)
        return mixed

    def correct(self, name: str, history: np.ndarray, steps: int) -> np.ndarray:
        """Return the forecast of one network alone, (N, steps, C), of histories (N, R, C)."""
        correction, R = self.corrections[name], history.shape[1]
        rows = history
        while (left := R + steps - rows.shape[1]) > 0:
            following = correction.forecast(self.window, rows[:, -R:])[:, :left]
            rows = np.concatenate([rows, following], axis=1)
        return rows[:, R:]

    def save(self, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None) -> None:
        """Write the forecaster to a safetensors file, whole or not at all; `rnncore.load` reads it.

        Parameters
        ----------
        path : path
        extra : mapping, optional
            What else a user needs; see `rnncore.Sequential.save`.

        Raises
        ------
        OSError
            If the file cannot be written; one that was there before is then unchanged.
        """
        arrays = {
            f"{name}.{key}": value
            for name, correction in self.corrections.items()
            for key, value in correction.network.state_dict().items()
        }
        save_arrays(path, "model", arrays, self.config(), extra)

    def config(self) -> dict[str, Any]:
        """Return all that makes the forecaster but its networks' parameters, in plain types."""
        return {
            "type": "Forecaster",
            "columns": self.columns,
            "ahead": self.ahead,
            "window": {
                "rows": self.window.rows,
                "season": self.window.season,
                "deviation": self.window.deviation.tolist(),
            },
            "baselines": {kind: [plain(b) for b in own] for kind, own in self.baselines.items()},
            "weights": {kind: weights.tolist() for kind, weights in self.weights.items()},
            "corrections": {
                name: {
                    "network": correction.network.config(),
                    "baselines": [plain(b) for b in correction.baselines],
                    "scale": correction.scale.tolist(),
                }
                for name, correction in self.corrections.items()
            },
        }


def build(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> Forecaster:
    """Make a forecaster again from what `Forecaster.save` wrote."""
    window = about["window"]
    corrections = {}
    for name, own in about["corrections"].items():
        params = {key.removeprefix(f"{name}."): v for key, v in arrays.items() if key.startswith(f"{name}.")}
        corrections[name] = Correction(
            models.build(params, own["network"]), _baselines(own["baselines"]), np.array(own["scale"])
        )
    return Forecaster(
        about["columns"],
        about["ahead"],
        Window(window["rows"], window["season"], np.array(window["deviation"])),
        {kind: _baselines(own) for kind, own in about["baselines"].items()},
        corrections,
        {kind: np.array(weights) for kind, weights in about["weights"].items()},
    )


models.MAKERS["Forecaster"] = build


def baseline(baselines: Sequence[Baseline], history: np.ndarray, steps: int) -> np.ndarray:
    """Return what baselines, one a column, predict: (N, steps, C) of histories (N, R, C)."""
    return np.stack([b.forecast(history[:, :, c], steps) for c, b in enumerate(baselines)], axis=2)


def _baselines(found: Sequence[Mapping[str, Any]]) -> list[Baseline]:
    return [from_plain(**options) for options in found]
