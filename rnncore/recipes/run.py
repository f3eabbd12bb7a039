"""What every recipe returns, and the training that most of them share."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from rnncore import pictures
from rnncore.files import replacing
from rnncore.models import SequenceModel
from rnncore.optimizers import Adam
from rnncore.schedules import Schedule
from rnncore.tasks import Task
from rnncore.trainer import History, Trainer

__all__ = ["AnyTask", "Run", "WrittenTask", "phase", "train"]


class WrittenTask(Task, Protocol):
    """A task that can tell how it is made, and draw its metrics."""

    def config(self) -> dict[str, Any]:
        """Return what makes such a task again, in plain types."""

    def draw(self, path: str | os.PathLike[str], metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Draw what `validate` gave, by the number of updates until then, into a PNG file."""


AnyTask = TypeVar("AnyTask", bound=WrittenTask)


@dataclass
class Run(Generic[AnyTask]):
    """A finished training run.

    Attributes
    ----------
    name : str
        Of the task.
    task : Task
    model : Sequential
        Or another object with a method ``save(path, extra)``.
    history : History
    metrics : dict of str to float
        Of the trained model, measured when they are first asked for: a run is written before.
    verdict : callable
        Returns sentences about the metrics, which it is given.
    choice : mapping, optional
        What the recipe tried and chose, in plain types.
    """

    name: str
    task: AnyTask
    model: Any
    history: History
    verdict: Callable[[Mapping[str, float]], list[str]] = lambda metrics: []
    choice: Mapping[str, Any] | None = None

    @cached_property
    def metrics(self) -> dict[str, float]:
        return self.task.evaluate(self.model)

    def write(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write the run into a folder and return the names of its files.

        Raises
        ------
        OSError
            If one cannot be written.
        """
        return [*self.save(folder), *self.describe(folder), *self.draw(folder)]

    def save(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write what training has made: model.safetensors, with the task's data, and history.csv."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save(folder / "model.safetensors", extra={"task": self._task()})
        self.history.to_csv(folder / "history.csv")
        return ["model.safetensors", "history.csv"]

    def describe(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write metrics.json: the metrics, the task without its arrays, and what the recipe chose."""
        task = {name: value for name, value in self._task().items() if not isinstance(value, np.ndarray)}
        about = {"task": task, "metrics": self.metrics} | ({"choice": self.choice} if self.choice else {})
        with replacing(Path(folder) / "metrics.json") as part:
            part.write_text(json.dumps(_finite(about), indent=2) + "\n", encoding="utf-8")
        return ["metrics.json"]

    def draw(self, folder: str | os.PathLike[str]) -> list[str]:
        """Draw curves.png, if there is matplotlib to draw with."""
        if not pictures.available():
            return []
        with replacing(Path(folder) / "curves.png") as part:
            self.task.draw(part, self.history.metrics)
        return ["curves.png"]

    def _task(self) -> dict[str, Any]:
        return {"name": self.name, **self.task.config()}


def _finite(value: Any) -> Any:
    """Return plain values with None for infinity and NaN, for which JSON has no words."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def train(
    name: str,
    task: AnyTask,
    model: SequenceModel,
    loss: str,
    steps: int,
    schedule: Schedule | None,
    seed: int,
    progress: bool,
    checkpoints: Mapping[str, Any] | None,
    lr: float = 0.01,
) -> Run[AnyTask]:
    """Train with Adam and gradients of norm 1 at most."""
    trainer = Trainer(model, loss, Adam(lr=lr), clip_norm=1.0, seed=seed)
    every = max(steps // 20, 1)
    history = trainer.fit(
        task, steps, validate_every=every, schedule=schedule, progress=progress, **(checkpoints or {})
    )
    return Run(name, task, model, history)


def phase(checkpoints: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """Return checkpoint arguments for one of several trainings of a run, whose file has a name of its own."""
    if not checkpoints or not checkpoints.get("checkpoint"):
        return dict(checkpoints or {})
    path = Path(checkpoints["checkpoint"])
    return {**checkpoints, "checkpoint": path.with_stem(f"{path.stem}-{name}")}
