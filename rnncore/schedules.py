"""Learning-rate schedules and early stopping.

A schedule is passed to `Trainer.fit`, and at every update gives the factor that the optimizer's learning rate
is multiplied by. The rules are PyTorch's; ``t`` is the number of updates that the run has made so far.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from rnncore import checks

__all__ = [
    "Constant",
    "Cosine",
    "EarlyStopping",
    "ReduceOnPlateau",
    "Schedule",
    "StepDecay",
    "WarmUp",
    "Watch",
    "describe",
    "direction",
]

MODES = ("min", "max")
# Words in the names of metrics ("validation_loss", "rmse_1", "exact_16") that tell which direction is better.
MEASURES = {
    "min": {"loss", "error", "mse", "rmse", "mae", "perplexity", "bits"},
    "max": {"accuracy", "exact", "legal", "r2"},
}


class Schedule(ABC):
    """What all schedules share; most depend on t alone and have no state."""

    @abstractmethod
    def factor(self, t: int) -> float:
        """Return the factor of the learning rate after t updates."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule, in plain types."""

    def observe(self, metrics: Mapping[str, float]) -> None:  # noqa: B027
        """Take in the metrics of a validation."""

    def reset(self) -> None:  # noqa: B027
        """Return to the state before a run."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that later factors depend on besides t, in plain types."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore what `state_dict` returned."""


class Constant(Schedule):
    """The optimizer's learning rate, unchanged."""

    def factor(self, t: int) -> float:
        """Return the factor of the learning rate after t updates."""
        return 1.0

    def config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {}


class StepDecay(Schedule):
    """Lower the learning rate at regular intervals: decay^⌊t / every⌋.

    Parameters
    ----------
    every : int
        Number of updates between two steps down.
    decay : float, default 0.1
    """

    def __init__(self, every: int, decay: float = 0.1) -> None:
        self.every = checks.integer("every", every)
        self.decay = checks.real("decay", decay)

    def factor(self, t: int) -> float:
        """Return the factor of the learning rate after t updates."""
        return self.decay ** (t // self.every)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {"every": self.every, "decay": self.decay}


class Cosine(Schedule):
    """Go down along half a cosine, then stay (Loshchilov & Hutter, *SGDR*, 2017, without restarts).

    ::

        final + (1 - final) (1 + cos(π min(t, steps) / steps)) / 2

    Parameters
    ----------
    steps : int
        Number of updates until the end of the descent.
    final : float, default 0
        Factor at the end of the descent and after it.
    """

    def __init__(self, steps: int, final: float = 0.0) -> None:
        self.steps = checks.integer("steps", steps)
        self.final = checks.real("final", final)

    def factor(self, t: int) -> float:
        """Return the factor of the learning rate after t updates."""
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * min(t / self.steps, 1.0))) / 2

    def config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {"steps": self.steps, "final": self.final}


class WarmUp(Schedule):
    """Go up linearly, (t + 1) / steps for t < steps, and then follow another schedule from its start.

    Parameters
    ----------
    steps : int
        Number of updates until the full learning rate is reached.
    then : Schedule, optional
        The schedule that comes after; constant if not given.
    """

    def __init__(self, steps: int, then: Schedule | None = None) -> None:
        self.steps = checks.integer("steps", steps)
        self.then = Constant() if then is None else then
        if not isinstance(self.then, Schedule):
            raise TypeError(f"then must be a schedule, got {type(then).__name__}")

    def factor(self, t: int) -> float:
        """Return the factor of the learning rate after t updates."""
        return (t + 1) / self.steps if t < self.steps else self.then.factor(t - self.steps)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {"steps": self.steps, "then": describe(self.then)}

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of a validation."""
        self.then.observe(metrics)

    def reset(self) -> None:
        """Return to the state before a run."""
        self.then.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the schedule that comes after."""
        return self.then.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.then.load_state_dict(state)


def direction(metric: str) -> str:
    """Return "min" if lower values of a metric are better, or "max", as a word in its name tells.

    Lower is better for loss, error, mse, rmse, mae, perplexity and bits; higher for accuracy, exact, legal
    and r2.

    Raises
    ------
    ValueError
        If the name has no such word, or words for both.
    """
    words = set(metric.split("_"))
    found = [mode for mode in MODES if words & MEASURES[mode]]
    if len(found) != 1:
        raise ValueError(f"mode must say which is better of {metric!r}, less ('min') or more ('max')")
    return found[0]


class Watch:
    """Follows a metric: its best value, and the number of validations since.

    Parameters
    ----------
    metric : str
        A metric that ``task.validate`` gives.
    mode : {"min", "max"}, optional
        Whether lower or higher is better. If not given, the metric's name tells; see `direction`.
    min_delta : float
        A value counts as better if it improves on the best by more than this.

    Attributes
    ----------
    best : float
        Best value so far; at first infinite.
    waited : int
        Number of validations since the best value.
    """

    def __init__(self, metric: str, mode: str | None, min_delta: float) -> None:
        self.metric = metric
        self.mode = direction(metric) if mode is None else checks.choice("mode", mode, MODES)
        self.min_delta = checks.real("min_delta", min_delta)
        self.best = math.inf if self.mode == "min" else -math.inf
        self.waited = 0

    def improves(self, metrics: Mapping[str, float]) -> bool:
        """Take in the next value, and return whether it is the best so far; NaN never is.

        Raises
        ------
        ValueError
            If the metric is not among the given ones.
        """
        if self.metric not in metrics:
            names = ", ".join(metrics)
            raise ValueError(f"metric must be one that validation gives ({names}), got {self.metric!r}")
        value = float(metrics[self.metric])
        gain = value - self.best if self.mode == "max" else self.best - value
        if gain > self.min_delta:
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        return False

    def reset(self) -> None:
        """Return to the state before a run."""
        self.best = math.inf if self.mode == "min" else -math.inf
        self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the number of validations since."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.best, self.waited = state["best"], state["waited"]

    def config(self) -> dict[str, Any]:
        """Return the arguments that make an equal watch, in plain types."""
        return {"metric": self.metric, "mode": self.mode, "min_delta": self.min_delta}


class ReduceOnPlateau(Schedule):
    """Lower the learning rate whenever a metric has not improved for a while.

    Parameters
    ----------
    metric : str
        A metric that ``task.validate`` gives; needs ``fit(..., validate_every=...)``.
    mode : {"min", "max"}, optional
        Whether lower or higher is better. If not given, the metric's name tells; see `direction`.
    decay : float, default 0.1
        Factor at each plateau.
    patience : int, default 10
        Number of validations without a better value that are allowed; one more makes a plateau.
    min_delta : float, default 0
        A value counts as better if it improves on the best by more than this.
    lowest : float, default 0
        Lowest factor of the learning rate.
    """

    def __init__(
        self,
        metric: str,
        mode: str | None = None,
        *,
        decay: float = 0.1,
        patience: int = 10,
        min_delta: float = 0.0,
        lowest: float = 0.0,
    ) -> None:
        self.decay = checks.real("decay", decay, high=1.0)
        self.patience = checks.integer("patience", patience, minimum=0)
        self.lowest = checks.real("lowest", lowest)
        self.watch = Watch(metric, mode, min_delta)
        self.reached = 1.0

    def factor(self, t: int) -> float:
        """Return the factor of the learning rate after t updates."""
        return self.reached

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of a validation."""
        if not self.watch.improves(metrics) and self.watch.waited > self.patience:
            self.reached = max(self.reached * self.decay, self.lowest)
            self.watch.waited = 0

    def reset(self) -> None:
        """Return to the state before a run."""
        self.watch.reset()
        self.reached = 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, the number of validations since, and the factor."""
        return {**self.watch.state_dict(), "factor": self.reached}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.watch.load_state_dict(state)
        self.reached = state["factor"]

    def config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        own = {"decay": self.decay, "patience": self.patience, "lowest": self.lowest}
        return {**self.watch.config(), **own}


class EarlyStopping(Watch):
    """End a run when a metric has not improved for a while, and restore the weights that were best.

    Parameters
    ----------
    metric : str
        A metric that ``task.validate`` gives; needs ``fit(..., validate_every=...)``.
    mode : {"min", "max"}, optional
        Whether lower or higher is better. If not given, the metric's name tells; see `direction`.
    patience : int, default 10
        Number of validations without a better value after which the run ends.
    min_delta : float, default 0
        A value counts as better if it improves on the best by more than this.
    """

    def __init__(
        self, metric: str, mode: str | None = None, *, patience: int = 10, min_delta: float = 0.0
    ) -> None:
        super().__init__(metric, mode, min_delta)
        self.patience = checks.integer("patience", patience)

    @property
    def over(self) -> bool:
        """Whether the run should end: `patience` validations have passed without a better value."""
        return self.waited >= self.patience

    def config(self) -> dict[str, Any]:
        """Return the arguments that make an equal rule."""
        return {**super().config(), "patience": self.patience}


def describe(rule: Schedule | Watch) -> dict[str, Any]:
    """Return a rule's type and arguments in plain types."""
    return {"type": type(rule).__name__, **rule.config()}
