"""Layers laid out for a shape: a `Plan` binds every buffer once and then runs without allocating.

A single layer, a model, a stream and a trainer all run the same kind of plan. Data enters and leaves it in
the caller's order, (N, T, ...); inside, the batch is packed. See `rnncore.rows`, also for the dimension
letters; L is the number of layers of a recurrent stack.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, NoReturn, Protocol

import numpy as np

from rnncore import checks, kernels, losses, machine
from rnncore.rows import Fragments, Rows, Variable, zeros

__all__ = ["Layer", "Plan", "Plans", "Stage", "States", "gradient"]

ALWAYS_FITS = 1 << 28  # bytes of buffers that are allocated without asking for the free memory

States = Sequence[Sequence[np.ndarray]]  # for each recurrent layer h, or h and c, (L * directions, N, H) each


def gradient(variable: Variable) -> np.ndarray:
    """Return the gradient of a variable that has one."""
    assert variable.grad is not None
    return variable.grad


class Stage(Protocol):
    """A kernel, bound to its arrays."""

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers that belong to the stage alone."""

    def pack(self) -> None:
        """Read the weights."""

    def forward(self) -> None:
        """Fill the outputs."""

    def backward(self) -> None:
        """Add to the gradients of the inputs."""

    def accumulate(self) -> None:
        """Add to the gradients of the weights."""


class Layer(Protocol):
    """What a plan asks of a layer."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the parameters and of all results."""

    @property
    def in_features(self) -> int:
        """Width of the input, or size of the vocabulary."""

    @property
    def states(self) -> int:
        """Number of state arrays of a recurrent layer: 1 (h) or 2 (h, c); 0 for any other layer."""

    @property
    def params(self) -> Mapping[str, np.ndarray]:
        """Parameters by name."""

    @property
    def grads(self) -> Mapping[str, np.ndarray]:
        """Gradients of the parameters by name."""

    @property
    def flat(self) -> Variable:
        """All parameters one after another, and likewise their gradients."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The kinds of input that the layer takes: "dense", "tokens"."""

    @property
    def lock(self) -> threading.Lock:
        """A lock that is held while a backward pass adds to the gradients."""

    def check_state(self, name: str, state: Any, N: int) -> tuple[np.ndarray, ...]:
        """Return the state of a recurrent layer as a tuple of arrays, checked."""

    def numbers(self, training: bool) -> int:
        """Return about how many numbers a plan stores for each step of a sequence."""

    def build(self, plan: Plan, x: Variable, last: bool) -> Variable:
        """Append the layer's stages to the plan and return their output."""


class Plan:
    """Buffers and stages of a chain of layers for N sequences of T steps.

    Parameters
    ----------
    layers : sequence of Layer
    N, T : int
    sequences : int, optional
        Number of sequences in the caller's batch, if the N that are laid out are fragments of them; N if not
        given.
    tokens : bool
        Whether the input is token ids (N, T) rather than numbers (N, T, D).
    output : {"all", "last"}
        An output at every step, or one from each direction's final state in the last recurrent layer.
    output_activation : {None, "sigmoid", "softmax"}
    training : bool
        Keep what a backward pass needs, and apply dropout.
    input_grads : bool
        Also compute the gradients of x and of the initial state.
    streaming : bool
        Write the final states over the initial ones, so that each forward pass continues from the last.
    loss : str, optional
        A loss to end the plan with; see `rnncore.losses`.
    reduction : {"mean", "sum"}
        How the loss is reduced to a number.
    implementation : optional
        Kernels from `rnncore.kernels.load`; `kernels.active` if not given.

    Attributes
    ----------
    layers : sequence of Layer
    kernels
        The implementation that the layers take their stages from.
    rows : Rows
        Layout of the packed batch, with M valid steps.
    x : Variable
        Packed input, (N*T, D), or (N*T,) intp.
    logits, prediction : Variable
        Packed output before and after the output activation, (N*T, O), or (N, O) for "last".
    target : ndarray or None
        Packed target, (N*T, O) or (N*T,) intp; for "last" N rows.
    initial, final : list of tuples of Variable
        States of each recurrent layer, (L * directions, N, H), N in packed order.
    stages : list of Stage
        In forward order. The activation is among them only if the loss is on predictions.
    intake : Intake
        Packs a batch's input.
    activation : Stage or None
        Computes the prediction from the logits.
    step : Step or None
        The whole training step, if a trainer has set one.
    draws : bool
        Whether there are dropout masks to draw.
    nbytes : int
        Bytes of all buffers.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        N: int,
        T: int,
        *,
        tokens: bool,
        sequences: int | None = None,
        output: str = "all",
        output_activation: str | None = None,
        training: bool = False,
        input_grads: bool = False,
        streaming: bool = False,
        loss: str | None = None,
        reduction: str = "mean",
        implementation: SimpleNamespace | None = None,
    ) -> None:
        self.layers = layers
        self.kernels = implementation or kernels.active
        self.sequences = N if sequences is None else sequences
        _require_memory(layers, self.sequences, T, training)
        self.rows = Rows(N, T, self.kernels.num_threads_to_come(), self.sequences * T)
        self.dtype = layers[0].dtype
        self.vocabulary = layers[0].in_features
        self.last = output == "last"
        self.training = training
        self.input_grads = input_grads
        self.streaming = streaming
        self.stages: list[Stage] = []
        self.initial: list[tuple[Variable, ...]] = []
        self.final: list[tuple[Variable, ...]] = []
        self.gradients: list[np.ndarray] = []  # of the states, zeroed before every backward pass
        self._masks: list[tuple[np.ndarray, float]] = []
        self._directions: list[int] = []  # of each recurrent layer
        self.nbytes = 0
        self._at_rest = True  # the initial state is zero
        self._bounds: tuple[float, float] = (0, self.vocabulary - 1)
        self._expected = f"but the vocabulary has ids 0 ... {self.vocabulary - 1}"
        if tokens:
            self.x = Variable(np.zeros(self.rows.capacity, np.intp))
        else:
            self.x = self.variable((self.rows.capacity, layers[0].in_features), grad=input_grads)
            self._bounds, self._expected = checks.finite(self.dtype), "expected a finite number"
        # NaN passes through a network, but it would spoil the weights in training, and a stream for ever
        checked = tokens or loss or streaming
        self.intake = self.kernels.Intake(self.rows, self.x.value, self._bounds if checked else None)

        last_recurrent = max((i for i, layer in enumerate(layers) if layer.states), default=len(layers))
        y = self.x
        for i, layer in enumerate(layers):
            y = layer.build(self, y, last=self.last and i >= last_recurrent)
        self.logits = self.prediction = y

        self.activation: Stage | None = None
        self.step: Any = None
        if output_activation:
            seen = loss in losses.ON_PREDICTION
            self.prediction = self.variable(self.logits.value.shape, grad=seen)
            self.activation = self.kernels.Activation(
                self.rows, self.logits, self.prediction, kind=output_activation, last=self.last
            )
            if seen:
                self.stages.append(self.activation)
        self.loss = loss
        if loss:
            R, O = self.logits.value.shape  # noqa: E741
            self.target = np.zeros(R, np.intp) if loss == "cross_entropy" else zeros((R, O), self.dtype)
            bounds = losses.bounds(loss, O, self.dtype)
            self._target_intake = self.kernels.Intake(self.rows, self.target, bounds, last=self.last)
            self.loss_stage = self.kernels.Loss(
                self.rows,
                self.prediction if loss in losses.ON_PREDICTION else self.logits,
                self.target,
                kind=loss,
                reduction=reduction,
                last=self.last,
            )
            self.stages.append(self.loss_stage)
        self._forward = self.kernels.Forward(self.stages)
        self.draws = bool(self._masks)
        self.nbytes += sum(stage.nbytes for stage in self.stages)

    # what layers build from

    def variable(
        self, shape: tuple[int, ...], grad: bool = True, room: int = 0, bounded: bool = False
    ) -> Variable:
        """Return a buffer with `room` rows of memory before it; see `Variable`.

        In training it has a gradient, unless `grad` is False. The only stage that reads it fills that.
        """
        value = zeros((room + shape[0], *shape[1:]), self.dtype)[room:]
        self.nbytes += value.nbytes
        if not (grad and self.training):
            return Variable(value, None, room, bounded)
        self.nbytes += value.nbytes
        return Variable(value, zeros(shape, self.dtype), room, bounded)

    def weights(self, layer: Layer, names: Sequence[str]) -> tuple[Variable, ...]:
        """Return parameters of a layer, in a plan for training with their gradients."""
        grads = layer.grads if self.training else {}
        return tuple(Variable(layer.params[name], grads.get(name)) for name in names)

    def state(
        self, count: int, num_layers: int, directions: int, H: int
    ) -> tuple[tuple[Variable, ...], tuple[Variable, ...]]:
        """Return initial and final state of a recurrent layer: `count` variables (L * directions, N, H) each.

        Several stages may add to their gradients, which every backward pass zeroes first.
        """
        shape = (num_layers * directions, self.rows.N, H)
        self._directions.append(directions)
        self.initial.append(tuple(self.variable(shape, grad=self.input_grads) for _ in range(count)))
        self.final.append(
            self.initial[-1] if self.streaming else tuple(self.variable(shape) for _ in range(count))
        )
        states = (*self.initial[-1], *self.final[-1])
        self.gradients += [variable.grad for variable in states if variable.grad is not None]
        return self.initial[-1], self.final[-1]

    def mask(self, H: int, rate: float) -> np.ndarray:
        """Return the mask of a dropout stage, which `draw` fills."""
        mask = np.ones((self.rows.capacity, H), self.dtype)
        self.nbytes += mask.nbytes
        self._masks.append((mask, rate))
        return mask

    # the batch in

    def load(
        self,
        x: np.ndarray,
        lengths: np.ndarray | None = None,
        states: States | None = None,
        fragments: Fragments | None = None,
        first: int = 0,
    ) -> None:
        """Pack a batch x, (N, T, D) or (N, T). Only its values are checked here.

        If the batch is part of a larger one, its sequences begin with number `first` of that.

        Raises
        ------
        ValueError
            If a token id is outside the vocabulary.
        """
        if lengths is not None or fragments or not self.rows.full:
            self.rows.arrange(lengths, fragments)
        if self.rows.most > 1 and self.rows.shares != (shares := self._forward.shares):
            self.rows.share(shares)
        if not self.intake.take(x):
            self._refuse("x", x, self.x.value[: self.rows.M], self._bounds, self._expected, first=first)
        self.load_states(states)

    def load_step(self, x_t: np.ndarray) -> None:
        """Pack the next step of a stream, (N, D) or (N,). Only its values are checked here.

        Raises
        ------
        ValueError
            If a value is not finite, or a token id is outside the vocabulary.
        """
        if not self.intake.take(x_t):  # a single step is packed in the caller's order
            wrong = checks.first_outside(self.x.value, self._bounds) or ()
            place = ", ".join(map(str, wrong))
            raise ValueError(f"x_t[{place}] = {_as_given(x_t[wrong], self.x.value[wrong])}, {self._expected}")

    def reset_states(self, rows: np.ndarray | None) -> None:
        """Zero the initial states of some sequences of a stream, or of all."""
        for layer in self.initial:
            for variable in layer:
                variable.value[:, slice(None) if rows is None else rows] = 0

    def load_states(self, states: States | None) -> None:
        """Set the initial states; None means zero."""
        if states is None and self._at_rest and not self.streaming:
            return
        for i, layer in enumerate(self.initial):
            for k, variable in enumerate(layer):
                if states is None:
                    variable.value.fill(0)
                else:
                    self._place_states(variable.value, states[i][k], self._directions[i], at_end=False)
        self._at_rest = states is None

    def _place_states(self, value: np.ndarray, states: np.ndarray, directions: int, at_end: bool) -> None:
        """Write the states (L * directions, N, H) of the caller's sequences into those of the sorted batch.

        Final states (`at_end`) belong to the last fragment of a sequence that a direction runs, and initial
        states to the first one, unless it begins anew.
        """
        if self.rows.full:
            value[...] = states
            return
        value.fill(0)
        for k in range(len(value)):
            places, anew = self._ends(reverse=k % directions == 1, at_end=at_end)
            value[k, places] = states[k]
            value[k, places[anew]] = 0

    def _read_states(self, value: np.ndarray, directions: int, at_end: bool) -> np.ndarray:
        """Return the states (L * directions, N, H) of the caller's sequences; see `_place_states`."""
        if self.rows.full:
            return value.copy()
        out = np.empty((len(value), self.sequences, value.shape[2]), value.dtype)
        for k in range(len(value)):
            places, anew = self._ends(reverse=k % directions == 1, at_end=at_end)
            out[k] = value[k, places]
            out[k, anew] = 0
        return out

    def _ends(self, reverse: bool, at_end: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the row where a direction begins or ends each sequence, and whether that begins anew."""
        _, fragments = self.rows.given
        anew = fragments.anew if fragments and not reverse and not at_end else np.zeros(self.sequences, bool)
        return self.rows.places_of_sequences(last=reverse != at_end), anew

    def load_target(self, y: np.ndarray) -> None:
        """Pack the target of the batch. Only its values are checked here.

        Raises
        ------
        ValueError
            If the batch has no valid step, or the loss does not accept one of the target's values.
        """
        R = self.rows.N if self.last else self.rows.M
        if R == 0:
            raise ValueError("x has no valid step: there is nothing to learn from")
        if not self._target_intake.take(y):
            assert self.loss is not None
            width = self.logits.value.shape[1]
            bounds = losses.bounds(self.loss, width, self.dtype)
            expected = f"expected {losses.expected(self.loss, width)}"
            self._refuse("y", y, self.target[:R], bounds, expected, self.last)

    def _refuse(
        self,
        name: str,
        given: np.ndarray,
        packed: np.ndarray,
        bounds: tuple[float, float],
        expected: str,
        last: bool = False,
        first: int = 0,
    ) -> NoReturn:
        """Raise ValueError for the first packed value outside the bounds, as the caller knows it."""
        wrong = checks.first_outside(packed, bounds)
        assert wrong is not None
        place = self._place(wrong, last)[: given.ndim]  # a target of a single output may lack the last axis
        value = _as_given(given[place], packed[wrong])
        n, *rest = place
        raise ValueError(f"{name}[{', '.join(map(str, [first + n, *rest]))}] = {value}, {expected}")

    def draw(self, rng: np.random.Generator | None) -> None:
        """Draw the masks of all dropout stages; with None nothing is dropped.

        Masks are drawn in the caller's order, so that they do not depend on the number of threads.
        """
        places = self.rows.places() if self._masks and rng else None
        for mask, rate in self._masks:
            if rng is None:
                mask.fill(1)
                continue
            kept = rng.random((self.rows.M, mask.shape[1]), self.dtype) >= rate
            np.multiply(kept[places], 1 / (1 - rate), out=mask[: self.rows.M], casting="same_kind")

    def load_gradients(self, dy: np.ndarray | None, dstates: States | None) -> None:
        """Set the gradients of the output and of the final states; None means zero."""
        self.zero_grad()
        if dy is None:
            gradient(self.logits).fill(0)
        elif self.last:
            gradient(self.logits)[...] = dy[self.rows.order]
        else:
            self.rows.gather(dy, gradient(self.logits))
        if dstates is not None:
            for layer, arriving, directions in zip(self.final, dstates, self._directions, strict=True):
                for variable, array in zip(layer, arriving, strict=True):
                    self._place_states(gradient(variable), array, directions, at_end=True)

    def take_over(self, other: Plan) -> None:
        """Copy what a plan of the same kind has packed and drawn, into a layout of one share."""
        self.rows.arrange(*other.rows.given)
        self.rows.horizon[:] = other.rows.horizon
        in_time = np.argsort(other.rows.steps()[1], kind="stable")
        for own, theirs in zip(self._packed_inputs(), other._packed_inputs(), strict=True):
            own[: self.rows.M] = theirs[in_time]
        if self.last:
            self.target[...] = other.target
        for own_layer, their_layer in zip(self.initial, other.initial, strict=True):
            for own_state, their_state in zip(own_layer, their_layer, strict=True):
                own_state.value[...] = their_state.value

    def _packed_inputs(self) -> list[np.ndarray]:
        """Return the arrays with a row for each valid step: x, dropout masks, and unless `last` targets."""
        return [self.x.value, *(mask for mask, _ in self._masks), *([] if self.last else [self.target])]

    # the passes

    def pack(self) -> None:
        """Read the weights; call it before a forward pass if they may have changed."""
        self._forward.pack()

    def forward(self) -> None:
        """Run all stages."""
        self._forward.run()

    def zero_grad(self) -> None:
        """Zero the gradients of the states."""
        for array in self.gradients:
            array.fill(0)

    def backward(self) -> None:
        """Compute the gradients of the data, and add to those of the weights."""
        for stage in reversed(self.stages):
            stage.backward()
        with ExitStack() as held:
            for layer in sorted(
                self.layers, key=id
            ):  # in one order, so that no two threads wait for each other
                held.enter_context(layer.lock)
            for stage in self.stages:
                stage.accumulate()

    # results out, as copies in the caller's order

    def read_logits(self) -> np.ndarray:
        """Return the output before the activation, (N, T, O) or (N, O)."""
        return self._read(self.logits.value)

    def read_prediction(self) -> np.ndarray:
        """Return the output after the activation, (N, T, O) or (N, O); zero where a sequence has no step."""
        if self.activation:
            self.activation.forward()
        return self._read(self.prediction.value)

    def read_loss(self) -> float:
        """Return the loss of the latest forward pass."""
        return float(self.loss_stage.value[0])

    @property
    def count(self) -> int:
        """Number of elements that the loss sums over; of rows for "cross_entropy"."""
        rows = self.rows.N if self.last else self.rows.M
        return rows if self.target.ndim == 1 else rows * self.target.shape[1]

    def read_input_grad(self) -> np.ndarray | None:
        """Return the gradient of x, (N, T, D); None for token ids."""
        return None if self.x.grad is None else self._scatter(self.x.grad)

    def read_final(self) -> States:
        """Return the final states, (L * directions, N, H) each."""
        return self._read_all(self.final, lambda state: state.value, at_end=True)

    def read_initial(self) -> States:
        """Return the initial states, (L * directions, N, H) each."""
        return self._read_all(self.initial, lambda state: state.value, at_end=False)

    def read_initial_grad(self) -> States:
        """Return the gradients of the initial states, (L * directions, N, H) each."""
        return self._read_all(self.initial, gradient, at_end=False)

    def _read_all(
        self, states: Sequence[Sequence[Variable]], array: Callable[[Variable], np.ndarray], at_end: bool
    ) -> States:
        return [
            [self._read_states(array(state), directions, at_end) for state in layer]
            for layer, directions in zip(states, self._directions, strict=True)
        ]

    def _read(self, value: np.ndarray) -> np.ndarray:
        if not self.last:
            return self._scatter(value)
        if self.rows.full:
            return value.copy()
        out = np.empty_like(value)
        out[self.rows.order] = value
        return out

    def _scatter(self, packed: np.ndarray) -> np.ndarray:
        out = np.empty((self.sequences, self.rows.T, packed.shape[1]), packed.dtype)
        self.rows.scatter(packed, out)
        return out

    def _place(self, index: tuple[int, ...], last: bool = False) -> tuple[int, ...]:
        """Return the index in the caller's batch of an element of the packed batch."""
        row, *rest = index
        if last:
            return int(self.rows.order[row]), *rest
        sequences, steps = self.rows.origins()
        return int(sequences[row]), int(steps[row]), *rest


def _as_given(value: Any, packed: Any) -> str:
    """Return a refused number as text, with what the dtype made of it if that is the reason."""
    overflows = np.isfinite(value) and np.isinf(packed)
    return f"{value} ({packed} in {packed.dtype})" if overflows else str(value)


def _require_memory(layers: Sequence[Layer], N: int, T: int, training: bool) -> None:
    """Raise MemoryError for a batch whose buffers cannot fit, before they are allocated."""
    numbers = sum(layer.numbers(training) for layer in layers) + layers[0].in_features
    needed = N * T * numbers * layers[0].dtype.itemsize
    if needed > ALWAYS_FITS and needed > (free := machine.free_memory()):
        raise MemoryError(
            f"a batch of N = {N} sequences of T = {T} steps needs about {needed / 2**30:.3g} GiB of buffers, "
            f"and {free / 2**30:.3g} GiB are free: give fewer or shorter sequences at a time"
        )


class Plans:
    """The plans that no pass is using, by shape. A pass takes one out and gives it back when it is done.

    So no two passes share buffers, whichever threads they run on. The plans used last are kept, so that a
    shape that comes again need not be laid out again.

    Parameters
    ----------
    count : int
        Largest number of plans to keep.
    room : int
        Largest number of bytes that they may take up together; a single plan may take up more.
    """

    def __init__(self, count: int = 8, room: int = 1 << 28) -> None:
        self._count, self._room = count, room
        self._idle: list[tuple[Hashable, Plan]] = []  # in the order in which they were given back

    def take(self, key: Hashable, make: Callable[[], Plan]) -> Plan:
        """Return a plan of that key that only the caller uses; if none is idle, make one."""
        for entry in self._idle[::-1]:
            if entry[0] == key:
                try:
                    self._idle.remove(entry)  # succeeds for only one of the threads that have found it
                except ValueError:
                    continue
                return entry[1]
        return make()

    def give_back(self, key: Hashable, plan: Plan) -> None:
        """Keep a plan for the next pass of its key."""
        self._idle.append((key, plan))
        while len(self._idle) > 1 and (len(self._idle) > self._count or self._bytes() > self._room):
            del self._idle[:1]

    def _bytes(self) -> int:
        return sum(plan.nbytes for _, plan in self._idle[:])
