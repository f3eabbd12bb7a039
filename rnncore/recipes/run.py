"""What every recipe returns, and the training that most of them share."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from rnncore import pictures
from rnncore.files import replacing
from rnncore.models import SequenceModel
from rnncore.optimizers import Adam
from rnncore.schedules import Schedule
from rnncore.tasks import Task
from rnncore.trainer import History, Trainer


class WrittenTask(Task, Protocol):
    """A task that can tell how it is made, and draw its metrics."""

    def config(self) -> dict[str, Any]:
        """Return what makes such a task again, in plain types."""

    def draw(self, path: str | os.PathLike[str], metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Draw what `validate` gave, by the number of updates until then, into a PNG file."""


AnyTask = TypeVar("AnyTask", bound=WrittenTask)


class Run(NamedTuple, Generic[AnyTask]):
    """A finished training run.

    Attributes
    ----------
    name : str
        Of the task.
    task : Task
    model : Sequential
        Or another object with a method ``save(path)``.
    history : History
    metrics : dict of str to float
        Of the trained model.
    notes : sequence of str
        Sentences about the outcome.
    choice : mapping
        What the recipe tried and chose, in plain types.
    """

    name: str
    task: AnyTask
    model: Any
    history: History
    metrics: dict[str, float]
    notes: Sequence[str] = ()
    choice: Mapping[str, Any] | None = None

    def write(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write the run into a folder and return the names of its files.

        They are model.safetensors, metrics.json, history.csv and, if matplotlib is there, curves.png.

        Raises
        ------
        OSError
            If one cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = {"task": {"name": self.name, **self.task.config()}, "metrics": self.metrics}
        if self.choice:
            about["choice"] = self.choice
        self.model.save(folder / "model.safetensors")
        with replacing(folder / "metrics.json") as part:
            part.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        with replacing(folder / "history.csv") as part:
            self.history.to_csv(part)
        names = ["model.safetensors", "metrics.json", "history.csv"]
        if pictures.available():
            with replacing(folder / "curves.png") as part:
                self.task.draw(part, self.history.metrics)
            names.append("curves.png")
        return names


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
    return Run(name, task, model, history, task.evaluate(model))


def phase(checkpoints: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """Return checkpoint arguments for one of several trainings of a run, whose file has a name of its own."""
    if not checkpoints or not checkpoints.get("checkpoint"):
        return dict(checkpoints or {})
    path = Path(checkpoints["checkpoint"])
    return {**checkpoints, "checkpoint": path.with_stem(f"{path.stem}-{name}")}
