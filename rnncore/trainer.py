"""Training: whole runs of one update after another, which `rnncore.steps` makes."""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from rnncore import checks
from rnncore.checkpoints import Course, Epochs, History, sweep
from rnncore.schedules import EarlyStopping, Schedule, describe
from rnncore.steps import Learner
from rnncore.tasks.task import Batch, Batches, Task, as_task, fingerprint

__all__ = ["History", "Interruption", "Trainer"]

Callback = Callable[[int, float], Any]
REPORT_EVERY = 0.1  # seconds between two looks of the progress bar


class Interruption:
    """Puts Ctrl-C off, so that it does not come between the parts of an update; a second one comes at once.

    Parameters
    ----------
    active : bool
        Otherwise, and outside the main thread, Ctrl-C stays what it is.

    Attributes
    ----------
    came : bool
    """

    def __init__(self, active: bool) -> None:
        self.came = False
        self._active = active and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interruption:
        # where Ctrl-C means something else, it is left alone
        self._active = self._active and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._active:
            signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.came = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *error: object) -> None:
        if self._active:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class Trainer(Learner):
    """Trains a model by stochastic gradient descent through time.

    Parameters
    ----------
    model : Sequential
        Its `predict` gives what the loss is about: the losses "bce" and "cross_entropy" look at the logits
        and imply an output activation, sigmoid or softmax, which a model that has none is given now.
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
        steps t-k+1 ... t of every layer. k = 1 is the naive rule that no gradient goes through the state; k
        of T or more is full. An update costs k times as much as a full one, or the same with output "last" or
        k = 1. Not for bidirectional models.
    seed : int or numpy.random.Generator, default 0
        For the order of a task's batches.

    Attributes
    ----------
    model : Sequential
    optimizer : Optimizer
    loss : str
    clip_norm, clip_value, reduction, bptt
        As given; another value takes effect at the next step.

    Raises
    ------
    ValueError, TypeError
        For an argument that makes no sense.
    """

    def fit(
        self,
        task: Task | Iterable[Any],
        steps: int | None = None,
        *,
        epochs: int | None = None,
        accumulate: int = 1,
        validate_every: int | None = None,
        schedule: Schedule | None = None,
        early_stopping: EarlyStopping | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        resume: bool = False,
        progress: bool = True,
    ) -> History:
        """Make many updates.

        Parameters
        ----------
        task : Task or iterable of batches
            Batches may be tuples (x, y) or (x, y, lengths). A list of them is one epoch, in its order; so is
            an iterator, as a generator is, which gives them only once.
        steps : int, optional
            Number of updates of the whole run; epochs follow one another until then.
        epochs : int, optional
            Number of passes over the task's batches. One of the two at least, unless the batches come from an
            iterator; the first reached ends the run.
        accumulate : int, default 1
            Batches for each update; see `accumulate`.
        validate_every : int, optional
            Put ``task.validate(model)`` into the history each time that this number of updates has been
            made, and at the end.
        schedule : Schedule, optional
            Of the learning rate, which is the optimizer's own again when the run is over; see
            `rnncore.schedules`.
        early_stopping : EarlyStopping, optional
            When to end the run before its time. The model has its best weights in the end, however the run
            ended, by an error or Ctrl-C as well; a checkpoint has the latest ones besides.
        callbacks : sequence of callable
            Each is called as ``callback(step, loss)`` after every update, step counting from 1. One that
            returns True, Python's or NumPy's, ends the run; no other value does.
        checkpoint : path, optional
            File that tells where the run stands. It is written when the run is over (if it cannot be, that is
            a warning, since the model is trained), or stopped by Ctrl-C
            (which then waits for the update to be whole) or by a loss or gradient that is no number.
        checkpoint_every : int, optional
            Write it each time that this number of updates has been made, too.
        resume : bool
            Go on from the checkpoint, if the file is there, with the bits of a run that never stopped.
            Trainer and task must be made as they were; the optimizer's settings come from the file.
            For a run that is made longer, the steps of `schedule` and `validate_every` may be others.
        progress : bool
            Show a progress bar.

        Returns
        -------
        History
            Of the whole run, from its first beginning.

        Raises
        ------
        ValueError, TypeError
            For an argument that makes no sense, a batch that `step` refuses, or a checkpoint that is damaged
            or of another run.
        FloatingPointError
            If the loss or a gradient is infinite or no number. The parameters are those before that update,
            or the best ones of early stopping; a resumed run goes on behind it.
        KeyboardInterrupt
        """
        from tqdm.auto import tqdm

        source = as_task(task)
        if isinstance(source, Batches) and source.once:
            if epochs not in (None, 1):
                raise ValueError(
                    f"an iterator gives its batches once, but epochs = {epochs!r}: give a list of them"
                )
            epochs = 1
        if steps is None and epochs is None:
            raise ValueError("fit needs steps or epochs")
        if validate_every is not None and not callable(getattr(source, "validate", None)):
            raise TypeError(f"validate_every needs a task with a method validate, got {type(task).__name__}")
        if validate_every is None and early_stopping:
            raise ValueError("early_stopping needs validate_every")
        if validate_every is None and schedule and schedule.state_dict():
            raise ValueError(f"schedule {type(schedule).__name__} needs validate_every")
        if checkpoint is None and (checkpoint_every is not None or resume):
            raise ValueError("checkpoint_every and resume need checkpoint")
        limit = math.inf if steps is None else checks.integer("steps", steps, minimum=0)
        epochs = None if epochs is None else checks.integer("epochs", epochs, minimum=0)
        accumulate = checks.integer("accumulate", accumulate)
        validate = math.inf if validate_every is None else checks.integer("validate_every", validate_every)
        save = math.inf if checkpoint_every is None else checks.integer("checkpoint_every", checkpoint_every)

        course = Course(
            self.model,
            self.optimizer,
            Epochs(source, self.rng, epochs, watched=checkpoint is not None),
            schedule,
            early_stopping,
            self._settings(accumulate, validate_every, schedule, early_stopping)
            | {"task": None if checkpoint is None else fingerprint(source)},
        )
        if checkpoint is not None:
            sweep(checkpoint)
            if resume and os.path.exists(checkpoint):
                self._latest, self._state = None, course.load(checkpoint)
        history, loss = course.history, course.history.loss
        batches = iter(course.batches)
        due = 0.0
        with course.ending_at_best():
            with (
                Interruption(active=checkpoint is not None) as interruption,
                tqdm(total=steps, initial=len(loss), unit="step", disable=not progress) as bar,
            ):
                over = early_stopping is not None and early_stopping.over
                failure = None
                try:
                    while len(loss) < limit and not over:
                        group = list(itertools.islice(batches, accumulate))
                        if not group:
                            break
                        if schedule:
                            self.optimizer.lr = course.lr * schedule.factor(len(loss))
                        loss.append(self._learn(group))
                        step = len(loss)
                        if step % validate == 0:
                            course.validate()
                            over = early_stopping is not None and early_stopping.over
                        for callback in callbacks:
                            over = _is_true(callback(step, loss[-1])) or over
                        if checkpoint is not None and step % save == 0:
                            course.save(checkpoint, self.state)
                        if time.monotonic() >= due:
                            if steps is None and course.batches.total:  # now the bar can tell the time left
                                bar.total = math.ceil(course.batches.total / accumulate)
                            _report(bar, loss, self.optimizer.lr)
                            due = time.monotonic() + REPORT_EVERY
                        over = over or interruption.came
                    _report(bar, loss, self.optimizer.lr)
                except FloatingPointError as error:
                    failure = error
                finally:
                    if schedule:
                        self.optimizer.lr = course.lr
                if checkpoint is not None:
                    try:
                        course.save(checkpoint, self.state)
                    except OSError as error:  # what was learnt is still there
                        warnings.warn(f"no checkpoint at the end of the run: {error}", stacklevel=2)
            if failure:
                raise failure
            if interruption.came:
                raise KeyboardInterrupt
            if validate_every and loss and len(loss) not in history.metrics:
                course.validate()
        return history

    def _settings(
        self, accumulate: int, validate_every: int | None, *rules: Schedule | EarlyStopping | None
    ) -> dict[str, Any]:
        """Return what cannot differ between a run and its resumption, by name, in plain types."""
        schedule, early_stopping = (describe(rule) if rule else None for rule in rules)
        return {
            "model": self.model.config(),
            "loss": self.loss,
            "reduction": self.reduction,
            "clip_norm": self.clip_norm,
            "clip_value": self.clip_value,
            "bptt": self.bptt,
            "optimizer": {"type": type(self.optimizer).__name__, "slots": list(self.optimizer.slots())},
            "generators": [type(rng.bit_generator).__name__ for rng in (self.rng, self.model.rng)],
            "accumulate": accumulate,
            "validate_every": validate_every,
            "schedule": schedule,
            "early_stopping": early_stopping,
        }

    def _learn(self, group: Sequence[Batch]) -> float:
        """Make an update from a batch or several."""
        if len(group) > 1:
            return self.accumulate(group)
        (batch,) = group
        state = self.state if batch.carry else None
        return self.step(batch.x, batch.y, batch.lengths, state, batch.resets)

    def evaluate(self, task: Task) -> dict[str, float]:
        """Return how well the model does on what the task holds out: ``task.evaluate(model)``."""
        if not callable(getattr(task, "evaluate", None)):
            raise TypeError(f"task must be one with a method evaluate, got {type(task).__name__}")
        return task.evaluate(self.model)


def _is_true(answer: Any) -> bool:
    """Return whether a callback has answered True, and not just something that counts as true."""
    return isinstance(answer, bool | np.bool_) and bool(answer)


def _report(bar: Any, loss: list[float], lr: float) -> None:
    """Bring the progress bar up to date, with the mean of the latest losses and the learning rate."""
    if latest := loss[-100:]:
        bar.set_postfix_str(f"loss {sum(latest) / len(latest):.4g}, lr {lr:.3g}", refresh=False)
    bar.update(len(loss) - bar.n)
