"""Single training updates: the plans that hold batches, and the results of the latest step."""

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
    """A setting of a trainer that its plans depend on; a new value takes effect at the next step.

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
    """Return the check of one way to clip, which excludes the other."""

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
    """The part of a `Trainer` that makes single updates; see there for its parameters and attributes."""

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
        if self.rng is model.rng:  # batches can be drawn again only from a generator that nothing else uses
            (self.rng,) = self.rng.spawn(1)
        self._optimizer = optimizers.get(optimizer)
        self._begin(None)
        if self.loss in losses.ON_LOGITS:
            model.end_in(losses.ON_LOGITS[self.loss])

    def _begin(self, state: State) -> None:
        """Begin with no step made, and with a state of the network to continue from."""
        self._turn = threading.Lock()  # held by the thread that trains
        self.optimizer.bind([layer.flat for layer in self.model.chain])
        self._plans = Plans()
        self._key: Hashable = (
            None  # of the latest step's plan, which the trainer keeps; None if the plan is not used again
        )
        self._latest: Plan | None = None
        self._state = state
        self._predicted = False  # whether the plan still holds the latest step's prediction

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
        """The model that is trained."""
        return self._model

    @property
    def loss(self) -> str:
        """The name of the loss that is minimized."""
        return self._loss

    @property
    def optimizer(self) -> optimizers.Optimizer:
        """The optimizer that updates the model's parameters."""
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
            (N, T, O), or (N, O) for output "last". For "cross_entropy" classes, (N, T) or (N,); a single
            output may also have these shapes. Values after the end of a sequence are ignored.
        lengths : array_like of int, (N,), optional
        state : optional
            Initial state; pass ``trainer.state`` to continue from the batch before.
        resets : array_like of bool, (N, T), optional
            Where sequences begin anew; see `Sequential.forward`.

        Returns
        -------
        float
            The loss before the update.

        Raises
        ------
        ValueError, TypeError
            If an argument has a wrong shape or dtype, holds NaN, infinity or an unknown token or class, or
            has no valid step.
        FloatingPointError
            If the loss or a gradient is infinite or NaN. In all these cases the parameters stay unchanged.
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

        Batches of equal size act like a single batch as large as all of them, but need the memory of one.

        Parameters
        ----------
        batches : sequence of Batch, or of tuples (x, y) or (x, y, lengths)
            A batch with `carry` set continues from the state after the batch before it.

        Returns
        -------
        float
            The mean (or sum) of their losses before the update.

        Raises
        ------
        ValueError, TypeError, FloatingPointError
            As for `step`; the parameters stay unchanged.
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
        """Return a plan for a batch of these shapes, and the key to give it back with."""
        key = _key(x, y, fragments, training)
        return key, self._plans.take(key, lambda: self._lay_out(x, y, fragments, training))

    def _cut(
        self, x: np.ndarray, lengths: npt.ArrayLike | None, resets: npt.ArrayLike | None
    ) -> Fragments | None:
        """Return the fragments that resets cut a batch into; None if there are no resets."""
        if resets is None:
            return None
        N, T = self.model.check_input(x)[0].shape[:2]
        found = self.model.check_resets(resets, N, T)
        if found is None:
            return None
        return Fragments.cut(found, checks.lengths(lengths, N, T), self.model.output == "last")

    def _keep(self, key: Hashable, plan: Plan) -> None:
        """Make a plan that of the latest step."""
        if self._latest is not None and self._key is not None:
            self._plans.give_back(self._key, self._latest)
        self._key, self._latest = key, plan

    def _run(self, plan: Plan, first: bool = True, last: bool = True, factor: float = 1.0) -> float:
        """Train on the batch that a plan holds; arguments as for the kernels' ``Step.run``."""
        rng = self._model.rng  # faster than the property, which matters at every step
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
        """A copy of the state after the latest step that was not refused; None before the first."""
        if self._latest is not None and self._state is None:
            return self.model.wrap_states(self._latest.read_final())
        return copy.deepcopy(self._state)

    @property
    def prediction(self) -> np.ndarray:
        """The model's prediction for the batch of the latest step, before its update; see `predict`.

        After a step that raised FloatingPointError it is no longer available.
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
        """Compute the loss of a batch without an update; parameters as for `step`.

        Returns
        -------
        loss : float
            The mean over the valid elements, whatever the reduction in training.
        count : int
            Number of these elements; of rows for "cross_entropy".
        state
            State after each sequence's last step.
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
        """Pack a batch into a plan for its shapes and dtypes. Only its values are checked here."""
        rows, N = plan.rows, plan.sequences
        steps = None if lengths is None else checks.lengths(lengths, N, rows.T)
        states = None if state is None else self.model.check_states("state", state, N)
        before, shares = rows.given, rows.shares
        try:
            plan.load(x, steps, states, fragments)
            plan.load_target(y)
        except ValueError:
            rows.arrange(*before)  # so that the state and prediction of the latest step can still be read
            rows.share(shares)
            raise

    def _lay_out(self, x: np.ndarray, y: np.ndarray, fragments: Fragments | None, training: bool) -> Plan:
        """Check the shapes and dtypes of a batch, and return a plan for them."""
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
        from rnncore import diagnosis  # imported only when needed, since it imports the NumPy kernels

        loss, norm = plan.step.loss, plan.step.norm
        what = f"the norm of the gradients is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        where = diagnosis.locate(self.model, plan, self.reduction)
        return f"{what} at update {self.optimizer.steps + 1}: the parameters stay as they were. {where}"


def _key(x: np.ndarray, y: np.ndarray, fragments: Fragments | None, training: bool) -> tuple[Any, ...]:
    """Return the key of plans for a batch: the shapes and dtypes that they were checked against."""
    return x.shape, x.dtype, y.shape, y.dtype, fragments and fragments.room, training
