"""Networks: chains of layers, the passes that run through them, and who may use what at the same time."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rnncore import checks
from rnncore.plan import Layer, Plan, Plans, States, gradient
from rnncore.rows import Fragments

__all__ = ["Arrays", "Checked", "Network", "Pass", "Seed", "State"]

AT_ONCE = 1 << 25  # bytes of buffers that an inference takes about, if its sequences are many
FEWEST_ROWS = 32  # that are run at a time then: fewer would not keep the products busy

Seed = int | np.random.Generator | None
State = Any  # h; or (h, c); or a list with the state of each recurrent layer; None where there is none


class Arrays(Mapping[str, np.ndarray]):
    """Named arrays that may be written into but not replaced: kernels keep pointers to them.

    Every look gives a new view, so that a shape or dtype assigned to it changes nothing that kernels rely on.

    Parameters
    ----------
    owner : str
        What the arrays are called in errors.
    arrays : mapping of str to ndarray
    """

    def __init__(self, owner: str, arrays: Mapping[str, np.ndarray]) -> None:
        self._owner = owner
        self._arrays = dict(arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name].view()

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __setitem__(self, name: str, value: Any) -> None:
        own = self._arrays.get(name)
        if own is None or not _is_view(value, own):  # `params[name] *= 2` gives back the view it changed
            place = f"{self._owner}[{name!r}]"
            raise TypeError(f"{place} cannot be replaced by another array: write into it, {place}[...] = ...")

    def __repr__(self) -> str:
        return f"{self._owner}: " + ", ".join(f"{name} {value.shape}" for name, value in self._arrays.items())


def _is_view(value: Any, array: np.ndarray) -> bool:
    """Return whether a value is all of an array: the same numbers in the same place."""
    return isinstance(value, np.ndarray) and value.__array_interface__ == array.__array_interface__


class Network(ABC):
    """A chain of layers that runs on plans; a single layer is a chain of itself.

    Any number of threads may run passes of one network at the same time: each gets what it would get alone.

    Attributes
    ----------
    output : {"all", "last"}
    output_activation : {None, "sigmoid", "softmax"}
    rng : numpy.random.Generator
        Draws the dropout masks.
    """

    def __init__(self, seed: Seed, output: str = "all", output_activation: str | None = None) -> None:
        self.output, self.output_activation = output, output_activation
        self.rng = np.random.default_rng(seed)
        self._plans = Plans()
        self._latest = threading.local()  # each thread has its own pass for `backward`

    @property
    @abstractmethod
    def chain(self) -> Sequence[Layer]:
        """The layers, first to last."""

    @abstractmethod
    def kind_of(self, x: np.ndarray) -> str:
        """Return "tokens" or "dense": as what the network takes x."""

    def zero_grad(self) -> None:
        """Zero the gradients of all parameters."""
        for layer in self.chain:
            gradient(layer.flat).fill(0)

    def check_input(self, x: npt.ArrayLike) -> tuple[np.ndarray, bool]:
        """Return x as an array (N, T, D), or (N, T) of token ids, and whether it is the latter."""
        found = checks.array("x", x)
        kind, D = self.kind_of(found), self.chain[0].in_features
        if kind == "dense" and found.ndim == 3 and found.shape[2] == D and found.dtype.kind in "fiub":
            return found, False
        if (
            found.ndim == 2
            and self.kind_of(found[None]) == "dense"
            and (kind == "dense" or found.dtype.kind == "f")
        ):
            raise ValueError(
                f"x must have shape (N, T, {D}), got {found.shape}{_missing_axis(found.shape[1], D)}"
            )
        if kind == "tokens":
            if found.ndim == 1:
                raise ValueError(
                    f"x must have shape (N, T), got {found.shape}: x[None] is a batch of one sequence"
                )
            if found.ndim == 3:
                raise ValueError(f"x must have shape (N, T) (input='tokens'), got {found.shape}")
            found = checks.integers("x", found, "token ids")
            checks.shape("x", found, ("N", "T"))
            return found, True
        found = checks.dense("x", found)
        checks.shape("x", found, ("N", "T", D))
        return found, False

    def check_states(self, name: str, state: State, N: int) -> States | None:
        """Return a state as lists of arrays, checked."""
        if state is None:
            return None
        layers = [layer for layer in self.chain if layer.states]
        if not layers:
            raise ValueError(f"{name} is given, but no layer has one")
        if len(layers) == 1:
            return [layers[0].check_state(name, state, N)]
        if not isinstance(state, list | tuple) or len(state) != len(layers):
            raise ValueError(f"{name} must be a list of the states of {len(layers)} recurrent layers")
        return [
            layer.check_state(f"{name}[{i}]", s, N)
            for i, (layer, s) in enumerate(zip(layers, state, strict=True))
        ]

    def wrap_states(self, states: States) -> State:
        """Return lists of arrays as the user sees a state."""
        wrapped = [tuple(arrays) if len(arrays) > 1 else arrays[0] for arrays in states]
        return wrapped[0] if len(wrapped) == 1 else (wrapped or None)

    def check_batch(
        self, x: npt.ArrayLike, state: State, lengths: npt.ArrayLike | None, resets: npt.ArrayLike | None
    ) -> Checked:
        """Return the arguments of a forward pass, checked."""
        found, tokens = self.check_input(x)
        N, T = found.shape[:2]
        steps, states = checks.lengths(lengths, N, T), self.check_states("state", state, N)
        return Checked(found, tokens, steps, states, self.check_resets(resets, N, T))

    def check_resets(self, resets: npt.ArrayLike | None, N: int, T: int) -> np.ndarray | None:
        """Return where sequences begin anew, (N, T); None if they nowhere do."""
        found = None if resets is None else checks.flags("resets", resets, (N, T))
        if found is None or not found.any():
            return None
        if self.output == "last" and any(getattr(layer, "bidirectional", False) for layer in self.chain):
            raise ValueError("resets must be None for a bidirectional model with output='last'")
        return found

    def run(
        self,
        x: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
        state: State = None,
        resets: npt.ArrayLike | None = None,
        *,
        dropout: bool = True,
    ) -> Pass:
        """Make a forward pass that can be sent back, and that no other pass touches.

        Any number of passes may be held at once, each with its own `Pass.backward`: those of a siamese
        network, of the steps of a loop, or of the nodes of another framework's graph.

        Parameters
        ----------
        x, lengths, state, resets
            As for `forward`.
        dropout : bool, default True
            Drop out, as in training.

        Returns
        -------
        Pass

        Examples
        --------
        >>> layer = rnncore.GRU(3, 8, seed=0)
        >>> left, right = layer.run(a), layer.run(b)
        >>> left.backward(left.output - right.output)
        >>> right.backward(right.output - left.output)
        """
        batch = self.check_batch(x, state, lengths, resets)
        dropout = checks.flag("dropout", dropout)
        key, plan = self._load(batch, training=True)
        plan.draw(self.rng if dropout else None)
        plan.pack()
        plan.forward()
        return Pass(self, key, plan)

    def _forward(
        self,
        x: npt.ArrayLike,
        state: State,
        lengths: npt.ArrayLike | None,
        resets: npt.ArrayLike | None,
        training: bool,
    ) -> tuple[np.ndarray, State]:
        """Run a batch; in training, the pass is held for this thread's next call of `_backward`."""
        if not checks.flag("training", training):
            return self._infer(self.check_batch(x, state, lengths, resets), Network._outputs)
        latest = self.run(x, lengths, state, resets)
        self._drop_latest()
        self._latest.pass_ = latest
        return latest.output, latest.state

    def _drop_latest(self) -> None:
        latest = self._latest.__dict__.pop("pass_", None)
        if latest:
            latest.release()

    def _backward(self, dy: npt.ArrayLike | None, dstate: State) -> tuple[np.ndarray | None, State]:
        """Send gradients back through this thread's latest pass."""
        latest = self._latest.__dict__.get("pass_")
        if latest is None:
            raise RuntimeError("backward runs once after each forward(..., training=True), and none was left")
        found: tuple[np.ndarray | None, State] = latest.backward(dy, dstate)
        self._drop_latest()
        return found

    def _infer(self, batch: Checked, read: Reader) -> tuple[np.ndarray, State]:
        """Run a batch without a backward pass and return what `read` does.

        Many sequences are run some at a time, which changes no bit and bounds the memory that it takes.
        """
        N, T = batch.x.shape[:2]
        rows = N if N <= FEWEST_ROWS else self._rows_at_once(N, T)
        if rows == N:
            return self._infer_some(batch, read)
        out: np.ndarray | None = None
        states: list[State] = []
        for first in range(0, N, rows):
            y, state = self._infer_some(batch.some(slice(first, first + rows)), read, first)
            out = np.empty((N, *y.shape[1:]), y.dtype) if out is None else out
            out[first : first + rows] = y
            states.append(state)
        assert out is not None
        return out, _join(states)

    def _infer_some(self, batch: Checked, read: Reader, first: int = 0) -> tuple[np.ndarray, State]:
        key, plan = self._load(batch, False, first)
        try:
            plan.pack()
            plan.forward()
            return read(self, plan)
        finally:
            self._plans.give_back(key, plan)

    def _rows_at_once(self, N: int, T: int) -> int:
        """Return how many sequences of a large batch are run at a time without a backward pass."""
        numbers = max(T * sum(layer.numbers(training=False) for layer in self.chain), 1)
        rows = max(AT_ONCE // (numbers * self.chain[0].dtype.itemsize), FEWEST_ROWS)
        return math.ceil(N / math.ceil(N / rows))

    def _outputs(self, plan: Plan) -> tuple[np.ndarray, State]:
        """Return what `forward` does."""
        return plan.read_logits(), self.wrap_states(plan.read_final())

    def _predictions(self, plan: Plan) -> tuple[np.ndarray, State]:
        """Return what `predict` does, and no state."""
        return plan.read_prediction(), None

    def _load(self, batch: Checked, training: bool, first: int = 0) -> tuple[Hashable, Plan]:
        """Return a plan that holds a batch, for the caller alone, and the key to give it back by.

        The batch may be part of a larger one, of which it has the sequences from `first` on.
        """
        N, T = batch.x.shape[:2]
        fragments = batch.fragments(self.output == "last")
        rows = fragments.room if fragments else N
        key = (rows, N, T, batch.tokens, training, self.output_activation)
        plan = self._plans.take(
            key,
            lambda: Plan(
                self.chain,
                rows,
                T,
                sequences=N,
                tokens=batch.tokens,
                output=self.output,
                output_activation=self.output_activation,
                training=training,
                input_grads=training,
            ),
        )
        try:
            plan.load(batch.x, batch.lengths, batch.states, fragments, first)
        except BaseException:
            self._plans.give_back(key, plan)
            raise
        return key, plan

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute that kernels do not rely on: a private or new one, or the generator."""
        known = name in self.__dict__ or hasattr(type(self), name)
        if known and name != "rng" and not name.startswith("_"):
            raise AttributeError(f"{type(self).__name__}.{name} is read-only: make another one with it")
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plans": None, "_latest": None}  # buffers stay where they are

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_plans": Plans(), "_latest": threading.local()}


Reader = Callable[[Network, Plan], tuple[np.ndarray, State]]  # takes an output and a state out of a plan


def _missing_axis(width: int, D: int) -> str:
    """Return which axis numbers of two dimensions probably lack, and how to add it."""
    if width == D:
        return ": x[None] is a batch of one sequence"
    return ": x[:, :, None] has one number at each step" if D == 1 else ""


class Checked(NamedTuple):
    """The arguments of a forward pass, checked: N sequences of T steps."""

    x: np.ndarray
    tokens: bool
    lengths: np.ndarray | None
    states: States | None
    resets: np.ndarray | None

    def fragments(self, last: bool) -> Fragments | None:
        """Return what the resets cut the sequences into, or the last fragment of each alone."""
        return None if self.resets is None else Fragments.cut(self.resets, self.lengths, last)

    def some(self, rows: slice) -> Checked:
        """Return some of the sequences."""
        states = self.states and [[array[:, rows] for array in layer] for layer in self.states]
        lengths, resets = (a if a is None else a[rows] for a in (self.lengths, self.resets))
        return self._replace(x=self.x[rows], lengths=lengths, states=states, resets=resets)


def _join(states: Sequence[State]) -> State:
    """Return the states of consecutive parts of a batch as one, however nested."""
    first = states[0]
    if first is None:
        return None
    if isinstance(first, np.ndarray):
        return np.concatenate(states, axis=1)
    return type(first)(map(_join, zip(*states, strict=True)))


class Pass:
    """A forward pass on buffers of its own, until it is sent back; `Network.run` makes one.

    Attributes
    ----------
    output : ndarray
        As `forward` returns it: y of a layer, the logits of a model.
    state : as given
        The final state.
    """

    def __init__(self, network: Network, key: Hashable, plan: Plan) -> None:
        self._network, self._key = network, key
        self._plan: Plan | None = plan
        self.output, self.state = network._outputs(plan)

    def backward(
        self, dy: npt.ArrayLike | None = None, dstate: State = None
    ) -> tuple[np.ndarray | None, State]:
        """Backpropagate through this pass, once; parameter gradients are added to the layers' `grads`.

        Write into the parameters only after it: gradients are those at the weights of the forward pass.

        Parameters
        ----------
        dy : array_like, as output, or None
            Gradient of the loss with respect to the output; None is zero.
        dstate : as state, optional
            Gradient with respect to the final state.

        Returns
        -------
        dx : ndarray, (N, T, D)
            None for token ids.
        dstate : as state
            Gradient with respect to the initial state.

        Raises
        ------
        RuntimeError
            If the pass has been sent back already.
        ValueError, TypeError
            If a gradient has another shape, or holds no real numbers. The pass can still be sent back then.
        """
        plan = self._plan
        if plan is None:
            raise RuntimeError("backward runs once for each pass, and this one has been sent back")
        states = self._network.check_states("dstate", dstate, plan.sequences)
        arriving = None
        if dy is not None:
            arriving = checks.dense("dy", dy)
            checks.shape("dy", arriving, self.output.shape)
        plan.load_gradients(arriving, states)
        plan.backward()
        found = plan.read_input_grad(), self._network.wrap_states(plan.read_initial_grad())
        self.release()
        return found

    def release(self) -> None:
        """Give the buffers back without a backward pass: later passes then need no new ones."""
        plan, self._plan = self._plan, None
        if plan:
            self._network._plans.give_back(self._key, plan)
