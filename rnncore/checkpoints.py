"""Where a run stands, in a file: what is needed to go on as if it had never stopped."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rnncore.files import load_arrays, replacing, save_arrays
from rnncore.models import Sequential
from rnncore.network import State
from rnncore.optimizers import Optimizer
from rnncore.schedules import EarlyStopping, Schedule
from rnncore.tasks.task import Batch, Task


class History:
    """How a run went.

    Attributes
    ----------
    loss : list of float
        Of every update.
    metrics : dict of int to dict of str to float
        What ``task.validate(model)`` gave, by the number of updates made until then.
    """

    def __init__(self) -> None:
        self.loss: list[float] = []
        self.metrics: dict[int, dict[str, float]] = {}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a line for every update: step (from 1), loss, and the metrics measured after it, if any."""
        names = list(dict.fromkeys(name for metrics in self.metrics.values() for name in metrics))
        with replacing(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "loss", *names])
            for step, loss in enumerate(self.loss, 1):
                metrics = self.metrics.get(step, {})
                writer.writerow([step, loss, *(metrics.get(name, "") for name in names)])


class Epochs:
    """The batches of one epoch after another, from a position that can be told and gone back to.

    Since a task draws from the generator alone, its batches come again if the generator is set back to where
    it was when the epoch began.

    Parameters
    ----------
    task : Task
    rng : numpy.random.Generator
    count : int or None
        Epochs; None: without end.

    Attributes
    ----------
    epoch, taken : int
        Epochs that are over, and batches taken of the one that is not.
    began : dict
        State of the generator when that one began.
    total : int or None
        Batches of all epochs, if each has as many as the latest; None before the first is over.
    """

    def __init__(self, task: Task, rng: np.random.Generator, count: int | None) -> None:
        self.task, self.rng, self.count = task, rng, count
        self.epoch = self.taken = 0
        self.began = rng.bit_generator.state
        self.total: int | None = None

    def __iter__(self) -> Iterator[Batch]:
        while self.count is None or self.epoch < self.count:
            self.rng.bit_generator.state = self.began
            batches = iter(self.task.batches(self.rng))
            if sum(1 for _ in itertools.islice(batches, self.taken)) < self.taken:
                raise ValueError(f"task.batches() gave less than the {self.taken} batches of the checkpoint")
            for batch in batches:
                self.taken += 1
                yield batch
            if self.taken == 0:
                raise ValueError("task.batches() gave no batch")
            self.total = self.taken * self.count if self.count else None
            self.epoch += 1
            self.taken = 0
            self.began = self.rng.bit_generator.state


@dataclass
class Course:
    """Where a run stands.

    Attributes
    ----------
    model : Sequential
    optimizer : Optimizer
    batches : Epochs
    schedule : Schedule, optional
    stopping : EarlyStopping, optional
    lr : float
        What the schedule's factor multiplies.
    settings : dict
        What cannot differ between a run and its resumption, by name, in plain types.
    history : History
    best : dict of str to ndarray
        Parameters that early stopping goes back to.
    """

    model: Sequential
    optimizer: Optimizer
    batches: Epochs
    schedule: Schedule | None
    stopping: EarlyStopping | None
    settings: Mapping[str, Any]
    history: History = field(default_factory=History)
    best: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lr = self.optimizer.lr
        for rule in (self.schedule, self.stopping):
            if rule:
                rule.reset()

    def validate(self) -> None:
        """Measure the model, and let schedule and early stopping know."""
        metrics = self.batches.task.validate(self.model)
        self.history.metrics[len(self.history.loss)] = metrics
        if self.schedule:
            self.schedule.observe(metrics)
        if self.stopping and self.stopping.improves(metrics):
            self.best = self.model.state_dict()

    def save(self, path: str | os.PathLike[str], state: State) -> None:
        """Write a checkpoint, whole or not at all.

        Parameters
        ----------
        path : path
        state
            Of the network, to begin the next batch with.

        Raises
        ------
        OSError
            If it cannot be written; one that was there before is then unchanged.
        """
        arrays = {
            "loss": np.array(self.history.loss, np.float64),
            "settings": self.optimizer.settings,
            **_named("model", self.model.params),
            **_named("optimizer", self.optimizer.state_dict()),
            **_named("best", self.best),
            **_named("state", {str(i): array for i, array in enumerate(_arrays(state))}),
        }
        metrics = self.history.metrics.items()
        about = {
            "settings": self.settings,
            "epoch": self.batches.epoch,
            "taken": self.batches.taken,
            "began": _plain(self.batches.began),
            "model_rng": _plain(self.model.rng.bit_generator.state),
            "metrics": {str(step): {name: float(v) for name, v in found.items()} for step, found in metrics},
            "lr": self.lr,
            "schedule": self.schedule.state_dict() if self.schedule else {},
            "stopping": self.stopping.state_dict() if self.stopping else {},
        }
        save_arrays(path, "checkpoint", arrays, about)

    def load(self, path: str | os.PathLike[str]) -> State:
        """Go on from a checkpoint; returns the state of the network.

        Raises
        ------
        OSError
            If it cannot be read.
        ValueError
            If it is damaged, or of a run with other settings. Nothing has been changed then.
        """
        arrays, about = load_arrays(path, "checkpoint")
        own = json.loads(json.dumps(self.settings))
        for name, value in about["settings"].items():
            if value != own[name]:
                raise ValueError(
                    f"{path} is of a run with {name} = {value!r}, but this one has {own[name]!r}"
                )
        self.model.rng.bit_generator.state = about["model_rng"]
        self.model.load_state_dict(_part(arrays, "model"))
        self.optimizer.load_state_dict(_part(arrays, "optimizer"))
        self.optimizer.settings[:] = arrays["settings"]
        self.best = _part(arrays, "best")
        self.batches.epoch, self.batches.taken = about["epoch"], about["taken"]
        self.batches.began = about["began"]
        self.history.loss[:] = arrays["loss"].tolist()
        self.history.metrics.update((int(step), found) for step, found in about["metrics"].items())
        self.lr = about["lr"]
        if self.schedule:
            self.schedule.load_state_dict(about["schedule"])
        if self.stopping:
            self.stopping.load_state_dict(about["stopping"])
        state = _part(arrays, "state")
        found = (state[str(i)] for i in range(len(state)))
        recurrent = [layer for layer in self.model.chain if layer.states] if state else []
        return self.model.wrap_states([[next(found) for _ in range(layer.states)] for layer in recurrent])


def sweep(path: str | os.PathLike[str]) -> None:
    """Remove what a run that was killed while writing a checkpoint has left beside it.

    Raises
    ------
    OSError
        If there is no such folder: before a run, not after it.
    """
    target = Path(path)
    for name in os.listdir(target.parent):
        if name.startswith(f".{target.name}.") and name.endswith(".part"):
            (target.parent / name).unlink(missing_ok=True)


def _named(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    start = f"{prefix}."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def _arrays(state: State) -> list[np.ndarray]:
    """Return the arrays of a state, however nested."""
    if state is None:
        return []
    return [state] if isinstance(state, np.ndarray) else [a for part in state for a in _arrays(part)]


def _plain(state: Any) -> Any:
    """Return the state of a generator in types that JSON knows."""
    if isinstance(state, Mapping):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state
