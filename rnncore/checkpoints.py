"""Where a run stands, in a file: what is needed to go on as if it had never stopped."""

from __future__ import annotations

import copy
import csv
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rnncore import checks
from rnncore.files import load_arrays, replacing, save_arrays
from rnncore.models import Sequential
from rnncore.network import State
from rnncore.optimizers import Optimizer
from rnncore.schedules import EarlyStopping, Schedule
from rnncore.tasks.task import Batch, Task, as_batch, checksum

__all__ = ["Course", "Epochs", "History", "sweep"]

# what depends on how many updates a run is to make, and is another for one that is made longer
LENGTH = {"schedule.steps", "validate_every"}


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

    def __repr__(self) -> str:
        latest = {"loss": self.loss[-1]} if self.loss else {}
        latest |= list(self.metrics.values())[-1] if self.metrics else {}
        parts = [f"{len(self.loss)} updates", *(f"{name}={value:.6g}" for name, value in latest.items())]
        return f"History({', '.join(parts)})"

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
    it was when the epoch began. A checksum tells whether they do.

    Parameters
    ----------
    task : Task
    rng : numpy.random.Generator
    count : int or None
        Epochs; None: without end.
    watched : bool
        Keep the checksum, for a checkpoint.

    Attributes
    ----------
    epoch, taken : int
        Epochs before the latest one, and batches taken of that one.
    began : dict
        State of the generator when that one began.
    checksum : int
        Of the batches taken of that one.
    total : int or None
        Batches of all epochs, if each has as many as the latest; None before the first is over.
    """

    def __init__(self, task: Task, rng: np.random.Generator, count: int | None, watched: bool) -> None:
        self.task, self.rng, self.count, self.watched = task, rng, count, watched
        self.total: int | None = None
        self._begin(0)

    def __iter__(self) -> Iterator[Batch]:
        while self.count is None or self.epoch < self.count:
            yield from self._rest()
            if self.taken == 0:
                raise ValueError("task.batches() gave no batch")
            self.total = self.taken * self.count if self.count else None
            if self.epoch + 1 == self.count:
                break  # and stay at its end: a longer run can tell whether its batches are the same
            self._begin(self.epoch + 1)

    def _begin(self, epoch: int) -> None:
        self.epoch, self.taken, self.checksum = epoch, 0, 0
        self.began = self.rng.bit_generator.state
        self._left: Iterator[Batch] | None = None  # of the latest epoch

    def _rest(self) -> Iterator[Batch]:
        """Yield what is left of the latest epoch."""
        if self._left is None:
            self._left = map(as_batch, self.task.batches(self.rng))
        for batch in self._left:
            self.taken += 1
            if self.watched:
                self.checksum = checksum(*batch, before=self.checksum)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position, in plain types."""
        names = ("epoch", "taken", "began", "checksum")
        return {name: _plain(getattr(self, name)) for name in names}

    def load_state_dict(self, position: Mapping[str, Any]) -> None:
        """Go to a position of another run.

        Raises
        ------
        ValueError
            If the batches before it are not those that the other run took.
        """
        self.rng.bit_generator.state = position["began"]
        self._begin(position["epoch"])
        taken = position["taken"]
        if sum(1 for _ in itertools.islice(self._rest(), taken)) < taken:
            raise ValueError(f"task.batches() gave less than the {taken} batches of the checkpoint")
        if self.checksum != position["checksum"]:
            raise ValueError(
                "task.batches() gave other batches than those of the checkpoint: the data have changed, or "
                "depend on more than the generator that batches() is given"
            )


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
        self.settings = json.loads(json.dumps(self.settings))  # as they come back from a file
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

    @contextmanager
    def ending_at_best(self) -> Iterator[None]:
        """Go back to the best parameters of early stopping, however what is done meanwhile ends."""
        try:
            yield
        finally:
            if self.best:
                self.model.load_state_dict(self.best)

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
        save_arrays(path, "checkpoint", *self._content(state))

    def load(self, path: str | os.PathLike[str]) -> State:
        """Go on from a checkpoint; returns the state of the network.

        Raises
        ------
        OSError
            If it cannot be read.
        ValueError
            If it is damaged, or of a run with other settings or other data. Nothing has been changed then.
        """
        arrays, about = load_arrays(path, "checkpoint")
        before = copy.deepcopy(self._content(None))
        try:
            return self._restore(arrays, about)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            self._restore(*before)
            what = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{path} cannot be resumed: {what}") from None

    def _content(self, state: State) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return all that a checkpoint holds: arrays, and the rest in plain types."""
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
            "batches": self.batches.state_dict(),
            "model_rng": _plain(self.model.rng.bit_generator.state),
            "metrics": {str(step): {name: float(v) for name, v in found.items()} for step, found in metrics},
            "lr": self.lr,
            "schedule": self.schedule.state_dict() if self.schedule else {},
            "stopping": self.stopping.state_dict() if self.stopping else {},
        }
        return arrays, about

    def _restore(self, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> State:
        """Take over what `_content` returned, and return the state of the network."""
        for name, theirs, ours in _differences("", about["settings"], self.settings):
            if name in LENGTH and None not in (theirs, ours):
                continue  # from here on the new one holds
            raise ValueError(f"it is of a run with {name} = {theirs!r}, but this one has {ours!r}")
        self.batches.load_state_dict(about["batches"])
        self.model.rng.bit_generator.state = about["model_rng"]
        self.model.load_state_dict(_part(arrays, "model"))
        self.optimizer.load_state_dict(_part(arrays, "optimizer"))
        settings = arrays["settings"]
        checks.shape("settings", settings, self.optimizer.settings.shape)
        self.optimizer.settings[:] = settings
        self.best = _part(arrays, "best")
        if self.best:
            checks.arrays({name: value.shape for name, value in self.model.params.items()}, self.best)
        checks.shape("loss", arrays["loss"], ("updates",))
        self.history.loss[:] = arrays["loss"].tolist()
        self.history.metrics.clear()
        self.history.metrics.update((int(step), found) for step, found in about["metrics"].items())
        self.lr = about["lr"]
        if self.schedule:
            self.schedule.load_state_dict(about["schedule"])
        if self.stopping:
            self.stopping.load_state_dict(about["stopping"])
        return self._state(_part(arrays, "state"))

    def _state(self, arrays: Mapping[str, np.ndarray]) -> State:
        """Return the state of the network that these arrays are, checked."""
        recurrent = [layer for layer in self.model.chain if layer.states] if arrays else []
        names = iter([str(i) for i in range(sum(layer.states for layer in recurrent))])
        state = self.model.wrap_states(
            [[arrays[next(names)] for _ in range(layer.states)] for layer in recurrent]
        )
        if arrays:
            self.model.check_states("state", state, arrays["0"].shape[1])
        return state


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


def _differences(name: str, theirs: Any, ours: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name and both values of whatever differs in two nested descriptions."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for key in {**ours, **theirs}:
            yield from _differences(f"{name}.{key}".lstrip("."), theirs.get(key), ours.get(key))
    elif theirs != ours:
        yield name, theirs, ours


def _plain(state: Any) -> Any:
    """Return the state of a generator in types that JSON knows."""
    if isinstance(state, Mapping):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state
