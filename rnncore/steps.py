"""Training one update after another: the plans that hold batches, and what is left of the latest step."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnncore import checks, kernels, losses, optimizers
from rnncore.models import Sequential
from rnncore.network import Seed, State
from rnncore.plan import Plan, Plans
from rnncore.rows import Fragments
from rnncore.tasks.task import Batch, as_batch

__all__ = ["Learner", "Option"]

REDUCTIONS = ("mean", "sum")


class Option:
    """A setting of a trainer that its plans are laid out for: a new value takes effect at the next step.

    Parameters
    ----------
    check : callable
        ``check(learner, value)`` returns the value, or raises.
    doc : str
    """

    def __init__(self, check: Callable[[Learner, Any], Any], doc: str) -> None:
        self._check = check
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, learner: Learner, owner: type | None = None) -> Any:
        return self if learner is None else getattr(learner, self._name)

    def __set__(self, learner: Learner, value: Any) -> None:
        setattr(learner, self._name, self._check(learner, value))
        learner._plans, learner._key = Plans(), None


def _check_clip(name: str, other: str) -> Callable[[Learner, Any], float | None]:
    """Return the check of one of two ways to clip."""

    def check(learner: Learner, value: Any) -> float | None:
        if value is None:
            return None
        if getattr(learner, f"_{other}", None) is not None:
            raise ValueError("clip_norm and clip_value exclude each other")
        return checks.real(name, value, open_low=True)

    return check


def _check_reduction(learner: Learner, reduction: Any) -> str:
    return checks.choice("reduction", reduction, REDUCTIONS)


def _check_bptt(learner: Learner, bptt: Any) -> int | str:
    if bptt == "full":
        return "full"
    if any(getattr(layer, "bidirectional", False) for layer in learner.model.chain):
        raise ValueError("bptt must be 'full' for a bidirectional model: each step reaches all others")
    return checks.integer("bptt", bptt)


class Learner:
    """What a `Trainer` makes single updates with; its parameters and attributes are described there."""

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
        self._turn = threading.Lock()  # held by the thread that trains
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
        if not self._turn.acquire(False):
            raise self._busy()
        try:
            inputs, targets = checks.array("x", x), checks.array("y", y)
            fragments = None if resets is None else self._cut(inputs, lengths, resets)
            key: Hashable = _key(inputs, targets, fragments, True)
            if key == self._key and self._latest is not None:  # mostly the plan of the step before
                plan = self._latest
            else:
                key, plan = self._take(inputs, targets, fragments, True)
            try:
                self._load(plan, inputs, targets, lengths, state, fragments)
                loss = self._run(plan)
            except BaseException:
                if plan is not self._latest:
                    self._plans.give_back(key, plan)
                raise
            if plan is not self._latest:
                self._keep(key, plan)
            self._state, self._predicted = None, True
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
        if not self._turn.acquire(False):
            raise self._busy()
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
            self._state, self._predicted = None, True
        finally:
            self._turn.release()
        return total * share

    def _busy(self) -> RuntimeError:
        return RuntimeError("another thread is training with this Trainer: give every thread one of its own")

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
        if self._latest is not None and self._key is not None:
            self._plans.give_back(self._key, self._latest)
        self._key, self._latest = key, plan

    def _run(self, plan: Plan, first: bool = True, last: bool = True, factor: float = 1.0) -> float:
        """Learn from the batch that a plan holds; arguments as for its step."""
        rng = self._model.rng  # at every step: a property takes longer
        generator = None
        if plan.draws:
            generator = rng.bit_generator.state
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
