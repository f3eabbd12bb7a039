"""Training: one update after another, and whole runs."""

from __future__ import annotations

import copy
import itertools
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnncore import checks, kernels, losses, optimizers
from rnncore.checkpoints import Course, Epochs, History, sweep
from rnncore.models import Sequential
from rnncore.network import Seed, State
from rnncore.plan import Plan, Plans
from rnncore.rows import Fragments
from rnncore.schedules import EarlyStopping, Schedule, describe
from rnncore.tasks.task import Batch, Batches, Task, as_batch, as_task, fingerprint

__all__ = ["History", "Interruption", "Option", "Trainer"]

REDUCTIONS = ("mean", "sum")
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


class Option:
    """A setting of a trainer that its plans are laid out for: a new value takes effect at the next step.

    Parameters
    ----------
    check : callable
        ``check(trainer, value)`` returns the value, or raises.
    doc : str
    """

    def __init__(self, check: Callable[[Trainer, Any], Any], doc: str) -> None:
        self._check = check
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, trainer: Trainer, owner: type | None = None) -> Any:
        return self if trainer is None else getattr(trainer, self._name)

    def __set__(self, trainer: Trainer, value: Any) -> None:
        setattr(trainer, self._name, self._check(trainer, value))
        trainer._plans, trainer._key = Plans(), None


def _check_clip(name: str, other: str) -> Callable[[Trainer, Any], float | None]:
    """Return the check of one of two ways to clip."""

    def check(trainer: Trainer, value: Any) -> float | None:
        if value is None:
            return None
        if getattr(trainer, f"_{other}", None) is not None:
            raise ValueError("clip_norm and clip_value exclude each other")
        return checks.real(name, value, open_low=True)

    return check


def _check_reduction(trainer: Trainer, reduction: Any) -> str:
    return checks.choice("reduction", reduction, REDUCTIONS)


def _check_bptt(trainer: Trainer, bptt: Any) -> int | str:
    if bptt == "full":
        return "full"
    if any(getattr(layer, "bidirectional", False) for layer in trainer.model.chain):
        raise ValueError("bptt must be 'full' for a bidirectional model: each step reaches all others")
    return checks.integer("bptt", bptt)


class Trainer:
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

    clip_norm = Option(_check_clip("clip_norm", "clip_value"), "Greatest norm of all gradients, or None.")
    clip_value = Option(_check_clip("clip_value", "clip_norm"), "Greatest size of a gradient, or None.")
    reduction = Option(_check_reduction, '"mean" or "sum".')
    bptt = Option(_check_bptt, 'Steps that the gradient goes back, or "full".')

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
        self._model = model
        self._loss = losses.check(loss, model.output_activation)
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.reduction = reduction
        self.bptt = bptt
        self.rng = np.random.default_rng(seed)
        if self.rng is model.rng:  # batches can be drawn again only if nothing else is drawn in between
            (self.rng,) = self.rng.spawn(1)
        self._optimizer = optimizers.get(optimizer)
        self._begin(None)
        if self.loss in losses.ON_LOGITS:
            model.end_in(losses.ON_LOGITS[self.loss])

    def _begin(self, state: State) -> None:
        """Begin without a step made, with a state of the network to go on from."""
        self._turn = threading.RLock()  # held by the thread that trains
        self.optimizer.bind([layer.flat for layer in self.model.chain])
        self._plans = Plans()
        self._key: Hashable = (
            None  # of the latest step's plan, which the trainer keeps; None: it is used no more
        )
        self._latest: Plan | None = None
        self._state = state
        self._predicted = False  # the plan still holds what the latest step predicted

    def __getstate__(self) -> dict[str, Any]:
        gone = {"_turn": None, "_plans": None, "_key": None, "_latest": None}
        return self.__dict__ | gone | {"_state": self.state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._begin(state["_state"])

    def __repr__(self) -> str:
        options = {"loss": self.loss, "optimizer": self.optimizer, "clip_norm": self.clip_norm}
        options |= {"clip_value": self.clip_value, "reduction": self.reduction, "bptt": self.bptt}
        model = type(self.model).__name__
        return f"Trainer({model}, {', '.join(f'{name}={value!r}' for name, value in options.items())})"

    @property
    def model(self) -> Sequential:
        """What is trained."""
        return self._model

    @property
    def loss(self) -> str:
        """What is made small."""
        return self._loss

    @property
    def optimizer(self) -> optimizers.Optimizer:
        """What updates its parameters."""
        return self._optimizer

    def step(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
        state: State = None,
        resets: npt.ArrayLike | None = None,
    ) -> float:
        """Make one update.

        Parameters
        ----------
        x : array_like, (N, T, D) numbers or (N, T) token ids
        y : array_like
            (N, T, O), or (N, O) for output "last"; for "cross_entropy" classes (N, T) or (N,), as also for a
            single output. What stands behind the end of a sequence is not looked at.
        lengths : array_like of int, (N,), optional
        state : optional
            Initial state; ``trainer.state`` goes on from the batch before.
        resets : array_like of bool, (N, T), optional
            Where sequences begin anew; see `Sequential.forward`.

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
        self._take_turn()
        try:
            inputs, targets = checks.array("x", x), checks.array("y", y)
            fragments = None if resets is None else self._cut(inputs, lengths, resets)
            key, plan = self._plan_for(inputs, targets, fragments)
            try:
                self._load(plan, inputs, targets, lengths, state, fragments)
                loss = self._run(plan)
            except BaseException:
                self._refuse(key, plan)
                raise
            self._keep(key, plan)
            return loss
        finally:
            self._turn.release()

    def accumulate(self, batches: Sequence[Batch]) -> float:
        """Make one update from several batches, by the mean of their gradients (reduction "sum": by the sum).

        Batches of one size act as one that is as large as all of them, in the memory of one.

        Parameters
        ----------
        batches : sequence of Batch
            Whose `carry` is followed; or of tuples (x, y) or (x, y, lengths).

        Returns
        -------
        float
            The mean (or sum) of their losses before the update.

        Raises
        ------
        ValueError, TypeError, FloatingPointError
            As `step`; the parameters stay unchanged.
        """
        if not batches:
            raise ValueError("batches must not be empty")
        share = 1 / len(batches) if self.reduction == "mean" else 1.0
        generator = self.model.rng.bit_generator.state
        state, total = self.state, 0.0
        used: list[tuple[Hashable, Plan]] = []
        self._take_turn()
        try:
            for k, batch in enumerate(map(as_batch, batches), 1):
                inputs, targets = checks.array("x", batch.x), checks.array("y", batch.y)
                fragments = self._cut(inputs, batch.lengths, batch.resets)
                key, plan = self._take(inputs, targets, fragments, True)
                used.append((key, plan))
                self._load(plan, inputs, targets, batch.lengths, state if batch.carry else None, fragments)
                total += self._run(plan, k == 1, k == len(batches), share)
                if k < len(batches):
                    state = self.model.wrap_states(plan.read_final())
                    self._plans.give_back(*used.pop())
        except BaseException:
            self.model.rng.bit_generator.state = generator
            for kept in used:
                self._plans.give_back(*kept)
            raise
        else:
            self._keep(*used.pop())
        finally:
            self._turn.release()
        return total * share

    def _take_turn(self) -> None:
        """Begin what one thread alone may do at a time."""
        if not self._turn.acquire(blocking=False):
            raise RuntimeError(
                "another thread is training with this Trainer: give every thread one of its own"
            )

    def _plan_for(self, x: np.ndarray, y: np.ndarray, fragments: Fragments | None) -> tuple[Hashable, Plan]:
        """Return a training plan for such a batch: mostly that of the step before."""
        key = _key(x, y, fragments, True)
        if self._latest is not None and key == self._key:
            return key, self._latest
        return self._take(x, y, fragments, True)

    def _take(
        self, x: np.ndarray, y: np.ndarray, fragments: Fragments | None, training: bool
    ) -> tuple[Hashable, Plan]:
        """Return a plan for such a batch, and the key to give it back by."""
        key = _key(x, y, fragments, training)
        return key, self._plans.take(key, lambda: self._lay_out(x, y, fragments, training))

    def _cut(
        self, x: np.ndarray, lengths: npt.ArrayLike | None, resets: npt.ArrayLike | None
    ) -> Fragments | None:
        """Return what resets cut the sequences of a batch into; None if there are none."""
        if resets is None:
            return None
        N, T = self.model.check_input(x)[0].shape[:2]
        found = self.model.check_resets(resets, N, T)
        if found is None:
            return None
        return Fragments.cut(found, checks.lengths(lengths, N, T), self.model.output == "last")

    def _keep(self, key: Hashable, plan: Plan) -> None:
        """Let a plan be that of the latest step."""
        if plan is not self._latest:
            if self._latest is not None and self._key is not None:
                self._plans.give_back(self._key, self._latest)
            self._key, self._latest = key, plan
        self._state, self._predicted = None, True

    def _refuse(self, key: Hashable, plan: Plan) -> None:
        """Leave everything as it was before a step."""
        if plan is not self._latest:
            self._plans.give_back(key, plan)

    def _run(self, plan: Plan, first: bool = True, last: bool = True, factor: float = 1.0) -> float:
        """Learn from the batch that a plan holds; arguments as for its step."""
        rng = self._model.rng  # at every step: a property takes longer
        generator = rng.bit_generator.state if plan.draws else None
        plan.draw(rng)
        step = plan.step
        loss: float = step.run(first, last, factor)
        if not (math.isfinite(loss) and math.isfinite(step.norm)):
            message = self._diagnose(plan)
            step.restore()
            self._predicted = self._predicted and plan is not self._latest
            if generator:
                rng.bit_generator.state = generator
            raise FloatingPointError(message)
        return loss

    @property
    def grad_norm(self) -> float:
        """Global norm of the gradients at the latest step, before clipping; 0 before the first."""
        return 0.0 if self._latest is None else self._latest.step.norm

    @property
    def state(self) -> State:
        """State after the latest step that was not refused, as a copy; None before the first."""
        if self._latest is not None and self._state is None:
            return self.model.wrap_states(self._latest.read_final())
        return copy.deepcopy(self._state)

    @property
    def prediction(self) -> np.ndarray:
        """What the model predicted for the batch of the latest step before its update, as by `predict`.

        A step that ends in FloatingPointError takes it away.
        """
        if self._latest is None or not self._predicted:
            raise RuntimeError("prediction needs a step before it that was not refused")
        return self._latest.read_prediction()

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
            Put ``task.validate(model)`` into the history after every so many updates, and at the end.
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
            Write it after every so many updates as well.
        resume : bool
            Go on from the checkpoint, if the file is there, with the bits of a run that never stopped.
            Trainer and task must be made as they were, but for the optimizer's settings: the file has them.
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

    def measure(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
        state: State = None,
        resets: npt.ArrayLike | None = None,
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
        inputs, targets = checks.array("x", x), checks.array("y", y)
        fragments = self._cut(inputs, lengths, resets)
        key, plan = self._take(inputs, targets, fragments, training=False)
        try:
            self._load(plan, inputs, targets, lengths, state, fragments)
            plan.pack()
            plan.forward()
            return plan.read_loss(), plan.count, self.model.wrap_states(plan.read_final())
        finally:
            self._plans.give_back(key, plan)

    def evaluate(self, task: Task) -> dict[str, float]:
        """Return how well the model does on what the task holds out: ``task.evaluate(model)``."""
        if not callable(getattr(task, "evaluate", None)):
            raise TypeError(f"task must be one with a method evaluate, got {type(task).__name__}")
        return task.evaluate(self.model)

    def _load(
        self,
        plan: Plan,
        x: np.ndarray,
        y: np.ndarray,
        lengths: npt.ArrayLike | None,
        state: State,
        fragments: Fragments | None,
    ) -> None:
        """Take a batch into a plan for its shapes and dtypes, whose values alone are left to check."""
        rows, N = plan.rows, plan.sequences
        steps = None if lengths is None else checks.lengths(lengths, N, rows.T)
        states = None if state is None else self.model.check_states("state", state, N)
        before, shares = rows.given, rows.shares
        try:
            plan.load(x, steps, states, fragments)
            plan.load_target(y)
        except ValueError:
            rows.arrange(*before)  # state and prediction of the latest step are still to be read
            rows.share(shares)
            raise

    def _lay_out(self, x: np.ndarray, y: np.ndarray, fragments: Fragments | None, training: bool) -> Plan:
        """Check shapes and dtypes of a batch and return a plan for such ones."""
        model = self.model
        x, tokens = model.check_input(x)
        N, T = x.shape[:2]
        width = model.chain[-1].out_features
        losses.target(self.loss, y, (N, width) if model.output == "last" else (N, T, width))
        plan = Plan(
            model.chain,
            fragments.room if fragments else N,
            T,
            sequences=N,
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
                [state.value for layer in plan.final for state in layer],
                self.optimizer.rules,
                self.optimizer.settings,
                clip_norm=math.inf if self.clip_norm is None else self.clip_norm,
                clip_value=math.inf if self.clip_value is None else self.clip_value,
            )
        return plan

    def _diagnose(self, plan: Plan) -> str:
        """Return why a step failed, and where."""
        from rnncore import diagnosis  # brings the NumPy kernels along

        loss, norm = plan.step.loss, plan.step.norm
        what = f"the norm of the gradients is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        where = diagnosis.locate(self.model, plan, self.reduction)
        return f"{what} at update {self.optimizer.steps + 1}: the parameters stay as they were. {where}"


def _key(x: np.ndarray, y: np.ndarray, fragments: Fragments | None, training: bool) -> tuple[Any, ...]:
    """Return what plans are found by: they were checked against these shapes and dtypes."""
    return x.shape, x.dtype, y.shape, y.dtype, fragments and fragments.room, training


def _is_true(answer: Any) -> bool:
    """Return whether a callback has answered True, and not just something that counts as true."""
    return isinstance(answer, bool | np.bool_) and bool(answer)


def _report(bar: Any, loss: list[float], lr: float) -> None:
    """Bring the progress bar up to date, with the mean of the latest losses and the learning rate."""
    if latest := loss[-100:]:
        bar.set_postfix_str(f"loss {sum(latest) / len(latest):.4g}, lr {lr:.3g}", refresh=False)
    bar.update(len(loss) - bar.n)
