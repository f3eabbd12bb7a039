"""Recipe for series: baselines, and small networks that learn their errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rnncore.models import SequenceModel, Sequential
from rnncore.optimizers import Adam
from rnncore.recipes.run import Run, phase
from rnncore.recipes.verdict import verdict
from rnncore.schedules import Cosine, EarlyStopping
from rnncore.tasks import Batch, Forecaster, Forecasting
from rnncore.tasks.baselines import MOST, Baseline, best, futures, histories, thin
from rnncore.tasks.forecaster import NETWORKS, Correction, Window, baseline
from rnncore.trainer import History, Trainer

__all__ = ["Residuals", "series"]

LEAST_ROWS, LEAST_WINDOWS = 50, 30  # of a series, and to train on: a network learns nothing from fewer
MOST_WINDOWS = 20_000  # to train on
LEAST_UPDATES, MOST_UPDATES, EPOCHS = 300, 1500, 60
VALIDATIONS = 40
LEARNING_RATES = {"closed_loop": 0.005, "direct": 0.01}
EXACT = 1e-6  # Deviations of a column; a baseline with a smaller error leaves nothing to learn.
WORTH = 0.02  # Part of the validation error that a network must save to be used.


class Residuals:
    """The errors of baselines, as a task for a network.

    Parameters
    ----------
    series : ndarray, (S, C)
    window : Window
    baselines : sequence of Baseline
        One a column.
    steps : int
        Rows to predict at once.
    stop, end : int
        The training part is ``series[:stop]``, the validation part ``series[stop:end]``.
    batch_size : int
    noise : float
        Deviation of what is added to the inputs of training.

    Attributes
    ----------
    scale : ndarray, (steps, C)
        Deviation of the errors in the training part; 0 where a baseline makes none.
    """

    def __init__(
        self,
        series: np.ndarray,
        window: Window,
        baselines: Sequence[Baseline],
        steps: int,
        stop: int,
        end: int,
        batch_size: int,
        noise: float,
    ) -> None:
        self.batch_size, self.noise = batch_size, noise
        self._cut = series, window, baselines, steps
        reach = max(window.reach, *(b.rows for b in baselines))
        starts = thin(np.arange(reach, stop - steps + 1), MOST_WINDOWS)
        self.x, errors = self._windows(starts)
        deviation = np.sqrt(np.mean(errors**2, axis=0)) if len(errors) else np.zeros((steps, series.shape[1]))
        self.scale = np.where(deviation > EXACT * window.deviation, deviation, 0.0)
        self.y = self._scaled(errors)
        updates = min(MOST_UPDATES, max(LEAST_UPDATES, EPOCHS * len(self.x) // batch_size))
        self.updates, self.every = updates, max(updates // VALIDATIONS, 10)
        # a window costs a third of an update's share: a fifth of the time goes into validation
        watched = thin(np.arange(stop, end - steps + 1), max(self.every * batch_size * 3 // 5, 1))
        self.check_x, errors = self._windows(watched)
        self.check_y = self._scaled(errors)

    def _windows(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs (N, T, ·) and the baselines' errors (N, steps, C) from each start on."""
        series, window, baselines, steps = self._cut
        history = histories(series, starts, max(window.reach, *(b.rows for b in baselines)))
        return window.read(history), futures(series, starts, steps) - baseline(baselines, history, steps)

    def _scaled(self, errors: np.ndarray) -> np.ndarray:
        scaled = errors / np.where(self.scale > 0, self.scale, np.inf)
        return scaled.reshape(len(errors), self.scale.size).astype(np.float32)

    def obstacle(self) -> str | None:
        """Return why a network would learn nothing; None if it may."""
        rows = len(self._cut[0])
        if rows < LEAST_ROWS or len(self.x) < LEAST_WINDOWS:
            return f"{rows} rows make only {len(self.x)} windows to learn from"
        return None if self.scale.any() else "the baseline makes no errors"

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the windows of the training part in random order; those left over wait."""
        order = rng.permutation(len(self.x))
        N = min(self.batch_size, len(order))
        for chosen in order[: len(order) // N * N].reshape(-1, N):
            x = self.x[chosen]
            if self.noise:
                x = x + np.float32(self.noise) * rng.standard_normal(x.shape, np.float32)
            yield Batch(x, self.y[chosen])

    def validate(self, model: Sequential) -> dict[str, float]:
        """Return "error" in the validation part, 1 for the baselines alone."""
        left = np.mean((model.predict(self.check_x) - self.check_y) ** 2)
        return {"error": float(np.sqrt(left / np.mean(self.check_y**2)))}

    evaluate = validate


def series(
    task: Forecasting,
    seed: int = 0,
    steps: int | None = None,
    *,
    cell: str = "gru",
    hidden_size: int = 16,
    num_layers: int = 1,
    lr: float | None = None,
    batch_size: int = 32,
    dropout: float = 0.0,
    noise: float = 0.0,
    patience: int = 10,
    progress: bool = True,
    checkpoints: Mapping[str, Any] | None = None,
) -> Run[Forecasting]:
    """Train a forecaster: baselines for each column, and two small networks that learn their errors.

    What is fitted is fitted to the rows before the validation part of the task, and what is chosen is chosen
    by the errors there, apart for the next row and for the first `task.ahead` rows: the baseline of each
    column, when to stop training, and how much of the forecast is a network's. In the end the baselines are
    fitted to the whole training part. From fewer than 50 rows no network is trained.

    Parameters
    ----------
    task : Forecasting
        Its `horizon`, `output`, `noise` and `batch_size` are not used.
    seed : int, default 0
        For the first weights and the batches.
    steps : int, optional
        Updates of each network at most; if not given, 60 epochs, but 300 to 1500.
    cell : {"gru", "lstm", "rnn"}
    hidden_size : int, default 16
        Units of a layer.
    num_layers : int, default 1
    lr : float, optional
        Learning rate; 0.005 in closed loop, 0.01 of the direct network, if not given.
    batch_size : int, default 32
    dropout : float, default 0
        Between layers.
    noise : float, default 0
        Deviation of the noise added to the inputs of training, in deviations of the columns.
    patience : int, default 10
        Validations without a better error that end training.
    progress : bool
        Show a progress bar.
    checkpoints : mapping, optional
        Arguments checkpoint, checkpoint_every and resume of `Trainer.fit`.

    Returns
    -------
    Run
        Its model is a `rnncore.tasks.Forecaster`.
    """
    kinds = {"next": 1} | ({"ahead": task.ahead} if task.ahead > 1 else {})
    baselines = {kind: [best(own) for own in task.compare(ahead)] for kind, ahead in kinds.items()}
    deviation = task.series[: task.stop].std(axis=0)
    window = Window(task.window, task.season, np.where(deviation > 0, deviation, 1.0))
    corrections: dict[str, Correction] = {}
    updates: dict[str, int] = {}
    untrained: dict[str, str] = {}
    history = History()
    for name, kind in zip(NETWORKS, kinds, strict=False):
        parts = (kinds[kind], task.stop, task.split, batch_size, noise)
        left = Residuals(task.series, window, baselines[kind], *parts)
        if obstacle := left.obstacle():
            untrained[name] = obstacle
            continue
        if steps is not None:
            left.updates, left.every = steps, max(steps // VALIDATIONS, 10)
        model = _network(left, cell, hidden_size, num_layers, dropout, seed)
        rate = LEARNING_RATES[name] if lr is None else lr
        course = _train(model, left, rate, patience, seed, progress, phase(checkpoints, name))
        _append(history, course, name)
        updates[name] = min(course.metrics, key=lambda step: course.metrics[step]["error"])
        corrections[name] = Correction(model, baselines[kind], left.scale)
    forecaster = Forecaster(task.columns, task.ahead, window, baselines, corrections, {})
    choice: dict[str, Any] = {
        "season": task.season,
        "window": task.window,
        "best_update": updates,
        "untrained": untrained,
    }
    for kind, ahead in kinds.items():
        forecaster.weights[kind], choice[kind] = _mix(task, forecaster, kind, ahead)
    _refit(forecaster, task.series[: task.split])
    return Run("series", task, forecaster, history, lambda metrics: verdict(task, choice, metrics), choice)


def _network(
    left: Residuals, cell: str, hidden_size: int, num_layers: int, dropout: float, seed: int
) -> SequenceModel:
    """Return a network that begins near the baselines: with a tenth of the usual weights in its head."""
    model = SequenceModel(
        left.x.shape[2],
        hidden_size,
        left.y.shape[1],
        cell,
        num_layers,
        input="dense",
        output="last",
        dropout=dropout,
        seed=seed,
    )
    model.params["head.weight"][...] *= 0.1
    return model


def _train(
    model: SequenceModel,
    left: Residuals,
    lr: float,
    patience: int,
    seed: int,
    progress: bool,
    checkpoints: Mapping[str, Any],
) -> History:
    """Train a network until the validation error gets no better, and keep its best weights."""
    trainer = Trainer(model, "mse", Adam(lr=lr), clip_norm=1.0, seed=seed)
    return trainer.fit(
        left,
        left.updates,
        validate_every=left.every,
        schedule=Cosine(left.updates),
        early_stopping=EarlyStopping("error", patience=patience),
        progress=progress,
        **checkpoints,
    )


def _append(history: History, course: History, name: str) -> None:
    """Put the training of one more network behind a history."""
    before = len(history.loss)
    history.loss += course.loss
    history.metrics |= {before + step: {name: metrics["error"]} for step, metrics in course.metrics.items()}


def _mix(
    task: Forecasting, forecaster: Forecaster, kind: str, steps: int
) -> tuple[np.ndarray, dict[str, dict[str, Any]]]:
    """Choose, by the validation part, what part of the forecast of each column is which network's.

    Of each network, and of the mean of both, the best part in [0, 1] is found by least squares.

    Returns
    -------
    weights : ndarray, (C, 2)
    choice : dict
        By column what was tried and chosen: the baseline, the weights, and all errors.
    """
    starts = thin(np.arange(task.stop, task.split - steps + 1), MOST)
    history = histories(task.series, starts, forecaster.rows)
    base = baseline(forecaster.baselines[kind], history, steps)
    errors = futures(task.series, starts, steps) - base
    moves = {name: forecaster.correct(name, history, steps) - base for name in forecaster.corrections}
    mixes = [np.array([float(name == one) for name in NETWORKS]) for one in moves]
    if len(moves) > 1:
        mixes.append(np.full(len(NETWORKS), 1 / len(NETWORKS)))
    weights = np.zeros((len(task.columns), len(NETWORKS)))
    choice = {}
    for c, (column, compared) in enumerate(zip(task.columns, task.compare(steps), strict=True)):
        error = errors[:, :, c]
        least = (1 - WORTH) * _rms(error)
        tried = {str(rule): rmse for rule, rmse in compared}
        for mix in mixes:
            parts = dict(zip(NETWORKS, mix, strict=True))
            move = sum(part * moves[name][:, :, c] for name, part in parts.items() if part)
            gate = _gate(move, error)
            left = _rms(error - gate * move)
            tried[" and ".join(name for name, part in parts.items() if part)] = left
            if left < least:
                least, weights[c] = left, gate * mix
        choice[column] = {
            "baseline": str(forecaster.baselines[kind][c]),
            **dict(zip(NETWORKS, weights[c].tolist(), strict=True)),
            "validation_rmse": least if weights[c].any() else _rms(error),
            "tried": tried,
        }
    return weights, choice


def _gate(move: np.ndarray, error: np.ndarray) -> float:
    """Return the part in [0, 1] of a correction that leaves the least of the errors, by least squares."""
    size = (move**2).sum()
    return float(np.clip((move * error).sum() / size, 0, 1)) if size else 0.0


def _rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(error**2)))


def _refit(forecaster: Forecaster, series: np.ndarray) -> None:
    """Fit all baselines to more rows of the series."""

    def refitted(baselines: Sequence[Baseline]) -> list[Baseline]:
        return [rule.refit(column) for rule, column in zip(baselines, series.T, strict=True)]

    forecaster.baselines = {kind: refitted(own) for kind, own in forecaster.baselines.items()}
    forecaster.corrections = {
        name: replace(correction, baselines=refitted(correction.baselines))
        for name, correction in forecaster.corrections.items()
    }
