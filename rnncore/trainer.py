"""Training: one update after another, and whole runs."""

from __future__ import annotations

import csv
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from rnncore import checks, kernels, losses, optimizers
from rnncore.files import replacing
from rnncore.layers import Seed, State
from rnncore.models import Sequential
from rnncore.plan import Plan, Plans
from rnncore.tasks.task import Batch, Task

REDUCTIONS = ("mean", "sum")
REPORT_EVERY = 0.1  # seconds between two looks of the progress bar


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


class Trainer:
    """Trains a model by stochastic gradient descent through time.

    Parameters
    ----------
    model : Sequential
    loss : {"mse", "half_mse", "bce", "cross_entropy"}
        See `rnncore.losses`.
    optimizer : Optimizer or {"sgd", "adagrad", "rmsprop", "adam", "adamw"}
        See `rnncore.optimizers`.
    clip_norm : float, optional
        Scale the gradients down to this global norm.
    clip_value : float, optional
        Clip every element of the gradients to ± this. One of the two at most.
    reduction : {"mean", "sum"}
        Over the valid elements of a batch.
    bptt : "full" or int
        How far the gradient goes back: to the first step of the batch; or k: the loss at step t reaches the
        steps t-k+1 ... t of every layer. k = 1 is the naive rule that no gradient goes through the state; k of
        T or more is full. An update costs k times as much as a full one, or the same with output "last" or
        k = 1. Not for bidirectional models.
    seed : int or numpy.random.Generator, default 0
        For the order of a task's batches.

    Attributes
    ----------
    model : Sequential
    optimizer : Optimizer

    Raises
    ------
    ValueError, TypeError
        For an argument that makes no sense.
    """

    def __init__(
        self,
        model: Sequential,
        loss: str,
        optimizer: str | optimizers.Optimizer = "adam",
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        reduction: str = "mean",
        bptt: str | int = "full",
        seed: Seed = 0,
    ) -> None:
        if not isinstance(model, Sequential):
            raise TypeError(f"model must be a Sequential or a SequenceModel, got {type(model).__name__}")
        if clip_norm is not None and clip_value is not None:
            raise ValueError("clip_norm and clip_value exclude each other")
        self.model = model
        self.loss = losses.check(loss, model.output_activation)
        self.clip_norm = None if clip_norm is None else checks.real("clip_norm", clip_norm, open_low=True)
        self.clip_value = None if clip_value is None else checks.real("clip_value", clip_value, open_low=True)
        self.reduction = checks.choice("reduction", reduction, REDUCTIONS)
        self.bptt = bptt if bptt == "full" else checks.integer("bptt", bptt)
        if bptt != "full" and any(getattr(layer, "bidirectional", False) for layer in model.chain):
            raise ValueError("bptt must be 'full' for a bidirectional model: each step reaches all others")
        self.rng = np.random.default_rng(seed)
        self.optimizer = optimizers.get(optimizer)
        self.optimizer.bind([layer.flat for layer in model.chain])
        self._plans = Plans()
        self._latest: Plan | None = None
        self._state: State = None

    def step(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
        state: State = None,
    ) -> float:
        """Make one update.

        Parameters
        ----------
        x : array_like, (N, T, D) numbers or (N, T) token ids
        y : array_like
            (N, T, O), or (N, O) for output "last"; for "cross_entropy" classes (N, T) or (N,). What stands
            behind the end of a sequence is not looked at.
        lengths : array_like of int, (N,), optional
        state : optional
            Initial state; ``trainer.state`` goes on from the batch before.

        Returns
        -------
        float
            The loss before the update.

        Raises
        ------
        ValueError, TypeError
            If an argument is of a wrong shape or dtype, holds NaN or infinity, an unknown token or class, or
            not one valid step.
        FloatingPointError
            If the loss or a gradient is infinite or no number. In all cases the parameters stay unchanged.
        """
        plan = self._load(x, y, lengths, state, training=True)
        plan.draw(self.model.rng)
        self._latest, self._state = plan, None
        step = plan.step
        loss = step.run()
        if not math.isfinite(loss):
            self._stop(plan, f"the loss is {loss}")
        if not math.isfinite(step.norm):
            self._stop(plan, f"the norm of the gradients is {step.norm}")
        return loss

    @property
    def grad_norm(self) -> float:
        """Global norm of the gradients at the latest step, before clipping; 0 before the first."""
        return 0.0 if self._latest is None else self._latest.step.norm

    @property
    def state(self) -> State:
        """State after the latest step, as a copy; None before the first."""
        if self._latest is not None and self._state is None:
            self._state = self.model.wrap_states(self._latest.read_final())
        return self._state

    @property
    def prediction(self) -> np.ndarray:
        """What the model predicted for the batch of the latest step before its update, as by `predict`."""
        if self._latest is None:
            raise RuntimeError("prediction needs a step before it")
        return self._latest.read_prediction()

    def fit(
        self,
        task: Task,
        steps: int | None = None,
        *,
        epochs: int | None = None,
        validate_every: int | None = None,
        callback: Callable[[int, float], None] | None = None,
        progress: bool = True,
    ) -> History:
        """Make many updates.

        Parameters
        ----------
        task : Task
        steps : int, optional
            Number of updates; epochs follow one another until then.
        epochs : int, optional
            Number of passes over the task's batches. One of the two at least; the first reached ends the run.
        validate_every : int, optional
            Put ``task.validate(model)`` into the history after every so many updates, and at the end.
        callback : callable, optional
            Called as ``callback(step, loss)`` after every update, step counting from 1.
        progress : bool
            Show a progress bar.

        Returns
        -------
        History
        """
        from tqdm import tqdm

        if steps is None and epochs is None:
            raise ValueError("fit needs steps or epochs")
        steps = None if steps is None else checks.integer("steps", steps, minimum=0)
        epochs = None if epochs is None else checks.integer("epochs", epochs, minimum=0)
        every = math.inf if validate_every is None else checks.integer("validate_every", validate_every)
        history = History()
        loss = history.loss
        due = 0.0
        with tqdm(total=steps, unit="step", disable=not progress) as bar:
            for batch in itertools.islice(self._batches(task, epochs), steps):
                loss.append(self.step(batch.x, batch.y, batch.lengths, self.state if batch.carry else None))
                if len(loss) % every == 0:
                    history.metrics[len(loss)] = task.validate(self.model)
                if callback:
                    callback(len(loss), loss[-1])
                if time.monotonic() >= due:
                    _report(bar, loss)
                    due = time.monotonic() + REPORT_EVERY
            _report(bar, loss)
        if validate_every and loss and len(loss) not in history.metrics:
            history.metrics[len(loss)] = task.validate(self.model)
        return history

    def measure(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
        state: State = None,
    ) -> tuple[float, int, State]:
        """Find the loss of a batch without an update; parameters as for `step`.

        Returns
        -------
        loss : float
            The mean over the valid elements, whatever the reduction in training.
        count : int
            Number of these elements (rows for "cross_entropy").
        state
            After each sequence's last step.
        """
        plan = self._load(x, y, lengths, state, training=False)
        plan.pack()
        plan.forward()
        return plan.read_loss(), plan.count, self.model.wrap_states(plan.read_final())

    def evaluate(self, task: Task) -> dict[str, float]:
        """Return how well the model does on what the task holds out: ``task.evaluate(model)``."""
        return task.evaluate(self.model)

    def _batches(self, task: Task, epochs: int | None) -> Iterator[Batch]:
        """Yield the batches of one epoch after another."""
        for _ in itertools.count() if epochs is None else range(epochs):
            batch = None
            for batch in task.batches(self.rng):
                yield batch
            if batch is None:
                raise ValueError("task.batches() gave no batch")

    def _load(
        self, x: npt.ArrayLike, y: npt.ArrayLike, lengths: npt.ArrayLike | None, state: State, training: bool
    ) -> Plan:
        """Check a batch and take it into a plan."""
        inputs, targets = checks.array("x", x), checks.array("y", y)
        # a plan was checked against the shapes and dtypes that it is found by
        plan = self._plans.get(
            (inputs.shape, inputs.dtype, targets.shape, targets.dtype, training),
            lambda: self._lay_out(inputs, targets, training),
        )
        rows = plan.rows
        steps = None if lengths is None else checks.lengths(lengths, rows.N, rows.T)
        states = None if state is None else self.model.check_states("state", state, rows.N)
        before = None if rows.full else rows.callers_lengths()
        try:
            plan.load(inputs, steps, states)
            plan.load_target(targets)
        except ValueError:
            rows.arrange(before)  # state and prediction of the latest step are still to be read
            raise
        return plan

    def _lay_out(self, x: np.ndarray, y: np.ndarray, training: bool) -> Plan:
        """Check shapes and dtypes of a batch and return a plan for such ones."""
        model = self.model
        x, tokens = model.check_input(x)
        N, T = x.shape[:2]
        width = model.chain[-1].out_features
        losses.target(self.loss, y, (N, width) if model.output == "last" else (N, T, width))
        plan = Plan(
            model.chain,
            N,
            T,
            tokens=tokens,
            output=model.output,
            output_activation=model.output_activation,
            training=training,
            loss=self.loss,
            reduction=self.reduction if training else "mean",
        )
        if training:
            if isinstance(self.bptt, int) and self.bptt < T:
                plan.rows.truncate(self.bptt, per_sequence=plan.last)
            plan.step = kernels.active.Step(
                plan.stages,
                plan.gradients,
                self.optimizer.rules,
                self.optimizer.settings,
                clip_norm=math.inf if self.clip_norm is None else self.clip_norm,
                clip_value=math.inf if self.clip_value is None else self.clip_value,
            )
        return plan

    def _stop(self, plan: Plan, what: str) -> NoReturn:
        self._state = self.model.wrap_states(plan.read_initial())  # as if the step had not been
        raise FloatingPointError(
            f"{what} at update {self.optimizer.steps + 1}: the parameters stay as they were"
        )


def _report(bar: Any, loss: list[float]) -> None:
    """Bring the progress bar up to date, with the mean of the latest losses."""
    if latest := loss[-100:]:
        bar.set_postfix_str(f"loss {sum(latest) / len(latest):.4g}", refresh=False)
    bar.update(len(loss) - bar.n)
