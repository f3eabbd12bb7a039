"""Layers: parameters, their gradients, and the stages that a layer adds to a plan.

Dimension letters: N sequences, T steps, D input size, H hidden size, L layers, O output size, V vocabulary.
Parameters are named, shaped and ordered as in PyTorch.
"""

from __future__ import annotations

import math
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rnncore import checks, initializers
from rnncore.network import Arrays, Network, Seed, State
from rnncore.plan import Plan, gradient
from rnncore.rows import Variable, zeros

__all__ = ["GRU", "LSTM", "RNN", "Embedding", "Layer", "Linear", "Recurrent"]


class Layer(Network):
    """What all layers share: parameters and gradients, each in one flat array with a view for every name.

    Sizes, options and the arrays themselves are read-only, because kernels rely on them.

    Attributes
    ----------
    params, grads : mapping of str to ndarray
        Parameters and their gradients. Writing into an array takes effect at the next call; replacing one is
        an error.
    lock : threading.Lock
        A lock that is held while a backward pass adds to the gradients.
    dtype : dtype
    in_features : int
        Width of the input; for token ids, the size of the vocabulary.
    out_features : int
        Width of the output.
    """

    inputs: ClassVar[tuple[str, ...]] = ("dense",)
    gates: ClassVar[str] = ""
    states: ClassVar[int] = 0

    def __init__(
        self,
        in_features: int,
        out_features: int,
        shapes: Mapping[str, tuple[int, ...]],
        init: initializers.Init,
        dtype: npt.DTypeLike,
        seed: Seed,
    ) -> None:
        super().__init__(seed)
        if isinstance(init, Mapping):
            init = initializers.given(init, shapes)
        initializer = initializers.get(init)
        self.in_features = in_features
        self.out_features = out_features
        self.dtype = checks.dtype(dtype)
        self.lock = threading.Lock()
        size = sum(map(math.prod, shapes.values()))
        self._flat = Variable(zeros(size, self.dtype), zeros(size, self.dtype))
        self.params = Arrays("params", _views(self._flat.value, shapes))
        self.grads = Arrays("grads", _views(gradient(self._flat), shapes))
        initializer([self], self.rng)

    @property
    def flat(self) -> Variable:
        """All parameters one after another, and likewise their gradients."""
        return Variable(self._flat.value.view(), gradient(self._flat).view())

    @property
    def chain(self) -> Sequence[Layer]:
        """The layer alone."""
        return (self,)

    def kind_of(self, x: np.ndarray) -> str:
        """Return "tokens" or "dense": what the layer takes x to be."""
        return self.inputs[0]

    def check_state(self, name: str, state: State, N: int) -> tuple[np.ndarray, ...]:
        """Return the state as a tuple of arrays, checked; most layers have none."""
        return ()

    @abstractmethod
    def build(self, plan: Plan, x: Variable, last: bool) -> Variable:
        """Append the layer's stages to a plan and return their output.

        Parameters
        ----------
        plan : Plan
        x : Variable
            Packed input.
        last : bool
            A recurrent layer then outputs only its final state; for another layer, x has one row for each
            sequence.
        """

    @abstractmethod
    def numbers(self, training: bool) -> int:
        """Return about how many numbers a plan stores for each step of a sequence."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the arguments that make such a layer, without its parameters."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (type(self), self.config() | {"init": dict(self.params), "seed": self.rng})

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.config().items())})"
        )


def _make(layer: type[Layer], arguments: Mapping[str, Any]) -> Layer:
    return layer(**arguments)


def _views(flat: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return consecutive parts of a flat array in the given shapes."""
    views = {}
    start = 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        views[name] = flat[start:stop].reshape(shape)
        start = stop
    return views


class Recurrent(Layer):
    """A stack of recurrent layers of one cell, in one direction or both: what RNN, LSTM and GRU share."""

    inputs = ("dense", "tokens")
    kernel: ClassVar[str]
    _biases: ClassVar[dict[Any, tuple[str, ...]]] = {
        True: ("bias_ih", "bias_hh"),
        "single": ("bias_ih",),
        False: (),
    }

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool | str,
        bidirectional: bool,
        dropout: float,
        init: initializers.Init,
        dtype: npt.DTypeLike,
        seed: Seed,
    ) -> None:
        D = self.input_size = checks.integer("input_size", input_size)
        H = self.hidden_size = checks.integer("hidden_size", hidden_size)
        self.num_layers = checks.integer("num_layers", num_layers)
        self.bias = checks.choice("bias", bias, self._biases)
        self.bidirectional = checks.flag("bidirectional", bidirectional)
        self.dropout = checks.real("dropout", dropout, high=1.0)
        if self.dropout and self.num_layers == 1:
            raise ValueError("dropout acts between layers, and num_layers = 1 has no between: set dropout=0")
        GH = len(self.gates) * H
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.num_layers):
            for reverse in self.directions:
                width = D if layer == 0 else H * len(self.directions)
                of = {"weight_ih": (GH, width), "weight_hh": (GH, H), "slope": (1,)}
                shapes |= {name: of.get(role, (GH,)) for role, name in self._names(layer, reverse).items()}
        super().__init__(D, H * len(self.directions), shapes, init, dtype, seed)

    @property
    def directions(self) -> tuple[bool, ...]:
        """For each direction, whether it runs from the last step to the first."""
        return (False, True) if self.bidirectional else (False,)

    @property
    def bounded(self) -> bool:
        """Whether hidden states lie in -1 ... 1."""
        return True

    def _roles(self) -> tuple[str, ...]:
        """Return the roles of one layer and direction's parameters, in the order that kernels take them."""
        return ("weight_ih", "weight_hh", *self._biases[self.bias])

    def _options(self) -> dict[str, Any]:
        """Return the options that the kernel takes besides its arrays."""
        return {}

    def _names(self, layer: int, reverse: bool) -> dict[str, str]:
        suffix = f"_l{layer}" + ("_reverse" if reverse else "")
        return {role: role + suffix for role in self._roles()}

    def kind_of(self, x: np.ndarray) -> str:
        """Return "tokens" for x of two dimensions, else "dense"."""
        return "tokens" if x.ndim == 2 else "dense"

    def check_state(self, name: str, state: State, N: int) -> tuple[np.ndarray, ...]:
        """Return the state as a tuple of arrays (L * directions, N, H), checked."""
        arrays, names = [state], [name]
        if self.states == 2:
            if not isinstance(state, list | tuple) or len(state) != 2:
                raise ValueError(f"{name} must be a pair (h, c), got {type(state).__name__}")
            arrays, names = list(state), [f"{name}[0]", f"{name}[1]"]
        shape = (self.num_layers * len(self.directions), N, self.hidden_size)
        found = [checks.dense(name, array) for name, array in zip(names, arrays, strict=True)]
        for name, array in zip(names, found, strict=True):
            if array.shape != shape:
                raise ValueError(f"{name} must have shape {shape} for a batch of N = {N}, got {array.shape}")
        return tuple(found)

    def forward(
        self,
        x: npt.ArrayLike,
        state: State = None,
        lengths: npt.ArrayLike | None = None,
        training: bool = False,
        resets: npt.ArrayLike | None = None,
    ) -> tuple[np.ndarray, State]:
        """Run the layer over whole sequences.

        Parameters
        ----------
        x : array_like, (N, T, D) numbers or (N, T) token ids
            An id stands for a one-hot vector: it picks a column of weight_ih.
        state : array_like, (L * directions, N, H), or for an LSTM a pair of these
            Initial state; zeros if not given.
        lengths : array_like of int, (N,)
            Valid steps of each sequence, 0 ... T; all T if not given.
        training : bool, default False
            Keep what `backward` needs, and drop out between layers.
        resets : array_like of bool, (N, T), optional
            Where true, a sequence begins anew: the state before that step is zero, and no gradient passes it.
            Each fragment of a sequence gives the results that it gives alone, in both directions.

        Returns
        -------
        y : ndarray, (N, T, H * directions)
            h of the top layer at every step; zero where a sequence has no step.
        state : ndarray, (L * directions, N, H), or a pair
            State after each sequence's own last step (in the reverse direction, its first step).
        """
        return self._forward(x, state, lengths, resets, training)

    def backward(self, dy: npt.ArrayLike | None, dstate: State = None) -> tuple[np.ndarray | None, State]:
        """Backpropagate through this thread's latest ``forward(..., training=True)``, adding to `grads`.

        Parameters
        ----------
        dy : array_like, (N, T, H * directions), or None
            Gradient of the loss with respect to y; None means zero.
        dstate : as state
            Gradient with respect to the final state; zero if not given.

        Returns
        -------
        dx : ndarray, (N, T, D)
            None for token ids.
        dstate : as state
            Gradient with respect to the initial state.
        """
        return self._backward(dy, dstate)

    def numbers(self, training: bool) -> int:
        """Return about how many numbers a plan stores for each step of a sequence."""
        widths = len(self.directions) * self.hidden_size * self.num_layers
        return widths * ((len(self.gates) + 2 * self.states + 1) if training else 1)

    def build(self, plan: Plan, x: Variable, last: bool) -> Variable:
        """Append the layer's stages to a plan and return their output."""
        H, directions, capacity = self.hidden_size, len(self.directions), plan.rows.capacity
        initial, final = plan.state(self.states, self.num_layers, directions, H)
        for layer in range(self.num_layers):
            top = layer == self.num_layers - 1
            y = plan.variable(
                (capacity, H * directions), grad=not (top and last), room=plan.rows.N, bounded=self.bounded
            )
            for d, reverse in enumerate(self.directions):
                k = layer * directions + d
                stage = getattr(plan.kernels, self.kernel)(
                    plan.rows,
                    x,
                    _slice(y, (slice(None), slice(d * H, (d + 1) * H))),
                    plan.weights(self, list(self._names(layer, reverse).values())),
                    tuple(_slice(v, k) for v in initial),
                    tuple(_slice(v, k) for v in final),
                    reverse=reverse,
                    # the reverse direction comes first in the backward pass, and sets dx
                    adds=directions == 2 and not reverse,
                    **self._options(),
                )
                plan.stages.append(stage)
            x = y
            if self.dropout and plan.training and not top:
                x = plan.variable(y.value.shape, bounded=self.bounded)
                mask = plan.mask(H * directions, self.dropout)
                plan.stages.append(plan.kernels.Dropout(plan.rows, y, x, mask))
        if not last:
            return x
        tops = [_slice(final[0], k)._replace(bounded=self.bounded) for k in range(-directions, 0)]
        if directions == 1 and not (plan.streaming or plan.training):
            return tops[0]  # otherwise a reader may write into it, or would not add to its gradient
        joined = plan.variable((plan.rows.N, H * directions), bounded=self.bounded)
        plan.stages.append(plan.kernels.Join(plan.rows, tops, joined))
        return joined

    def config(self) -> dict[str, Any]:
        """Return the arguments that make such a layer, without its parameters."""
        return {
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "bias": self.bias,
            "bidirectional": self.bidirectional,
            "dropout": self.dropout,
            "dtype": self.dtype.name,
            **self._options(),
        }


def _slice(variable: Variable, index: Any) -> Variable:
    """Return part of a variable and of its gradient, as views."""
    grad = None if variable.grad is None else variable.grad[index]
    return variable._replace(value=variable.value[index], grad=grad)


class RNN(Recurrent):
    """Elman network (Elman, *Finding structure in time*, 1990).

    ::

        h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)

    Parameters
    ----------
    input_size : int
        D, or the size of the vocabulary for token ids.
    hidden_size : int
        H.
    num_layers : int, default 1
        L; each layer except the first takes the outputs of the one below.
    activation : {"tanh", "sigmoid", "relu", "prelu", "identity"}
        f. "prelu" (He et al., *Delving deep into rectifiers*, 2015) is z for z > 0 and slope · z otherwise,
        with a trainable slope.
    bias : bool or "single", default True
        True: bias_ih and bias_hh; "single": bias_ih alone; False: none.
    bidirectional : bool, default False
        Add a direction from the last step to the first; the outputs of both are concatenated.
    dropout : float, default 0
        Fraction of the outputs of every layer except the top one that is set to zero in training.
    init : str, callable or mapping of str to array_like, default "default"
        Name of an initializer, your own function, or the parameters themselves; see `rnncore.initializers`.
    dtype : {"float32", "float64"}
    seed : int or numpy.random.Generator, optional

    Attributes
    ----------
    params, grads : mapping of str to ndarray
        weight_ih_l0 (H, D), weight_hh_l0 (H, H), bias_ih_l0 (H,), bias_hh_l0 (H,), slope_l0 (1,), then the
        same with _l1, ...; if bidirectional, each also with the suffix _reverse. weight_ih_l1 is
        (H, H * directions).

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.
    """

    kernel = "RNN"
    gates = "h"
    states = 1
    activations: ClassVar[tuple[str, ...]] = ("tanh", "sigmoid", "relu", "prelu", "identity")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        activation: str = "tanh",
        bias: bool | str = True,
        bidirectional: bool = False,
        dropout: float = 0.0,
        init: initializers.Init = "default",
        dtype: npt.DTypeLike = "float32",
        seed: Seed = None,
    ) -> None:
        self.activation = checks.choice("activation", activation, self.activations)
        super().__init__(input_size, hidden_size, num_layers, bias, bidirectional, dropout, init, dtype, seed)

    @property
    def bounded(self) -> bool:
        """Whether hidden states lie in -1 ... 1."""
        return self.activation in ("tanh", "sigmoid")

    def _roles(self) -> tuple[str, ...]:
        return (*super()._roles(), *(("slope",) if self.activation == "prelu" else ()))

    def _options(self) -> dict[str, Any]:
        return {"activation": self.activation}


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997) with forget gates (Gers et al. 2000).

    ::

        i, f, o = σ(W_i x_t + b_i + U_i h_{t-1} + d_i), ...
        g = tanh(W_g x_t + b_g + U_g h_{t-1} + d_g)
        c_t = f * c_{t-1} + i * g
        h_t = o * tanh(c_t)

    weight_ih stacks W_i, W_f, W_g and W_o; weight_hh stacks the U, bias_ih the b, and bias_hh the d.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, bidirectional, dropout, init, dtype, seed
        As for `RNN`.

    Attributes
    ----------
    params, grads : mapping of str to ndarray
        weight_ih_l0 (4H, D), weight_hh_l0 (4H, H), bias_ih_l0 (4H,), bias_hh_l0 (4H,), ...; see `RNN`.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.
    """

    kernel = "LSTM"
    gates = "ifgo"
    states = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool | str = True,
        bidirectional: bool = False,
        dropout: float = 0.0,
        init: initializers.Init = "default",
        dtype: npt.DTypeLike = "float32",
        seed: Seed = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, bidirectional, dropout, init, dtype, seed)


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al., *Learning phrase representations using RNN encoder-decoder*, 2014).

    ::

        r, z = σ(W_r x_t + b_r + U_r h_{t-1} + d_r), ...
        n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + d_n))      reset_after
        n = tanh(W_n x_t + b_n + U_n (r * h_{t-1}) + d_n)      not reset_after
        h_t = (1 - z) * n + z * h_{t-1}

    weight_ih stacks W_r, W_z and W_n; weight_hh stacks the U, bias_ih the b, and bias_hh the d.

    Parameters
    ----------
    reset_after : bool, default True
        Whether the reset gate acts after the recurrent product, as in PyTorch, cuDNN and Keras, or before it,
        as in the paper.
    input_size, hidden_size, num_layers, bias, bidirectional, dropout, init, dtype, seed
        As for `RNN`.

    Attributes
    ----------
    params, grads : mapping of str to ndarray
        weight_ih_l0 (3H, D), weight_hh_l0 (3H, H), bias_ih_l0 (3H,), bias_hh_l0 (3H,), ...; see `RNN`.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.
    """

    kernel = "GRU"
    gates = "rzn"
    states = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        reset_after: bool = True,
        bias: bool | str = True,
        bidirectional: bool = False,
        dropout: float = 0.0,
        init: initializers.Init = "default",
        dtype: npt.DTypeLike = "float32",
        seed: Seed = None,
    ) -> None:
        self.reset_after = checks.flag("reset_after", reset_after)
        super().__init__(input_size, hidden_size, num_layers, bias, bidirectional, dropout, init, dtype, seed)

    def _options(self) -> dict[str, Any]:
        return {"reset_after": self.reset_after}


class Linear(Layer):
    """The same linear map at every step: y = x Wᵀ + b.

    Parameters
    ----------
    in_features, out_features : int
        I and O.
    bias : bool, default True
    init, dtype, seed
        As for `RNN`.

    Attributes
    ----------
    params, grads : mapping of str to ndarray
        weight (O, I) and bias (O,).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        init: initializers.Init = "default",
        dtype: npt.DTypeLike = "float32",
        seed: Seed = None,
    ) -> None:
        width = checks.integer("in_features", in_features)
        height = checks.integer("out_features", out_features)
        self.bias = checks.flag("bias", bias)
        shapes: dict[str, tuple[int, ...]] = {"weight": (height, width)}
        if self.bias:
            shapes["bias"] = (height,)
        super().__init__(width, height, shapes, init, dtype, seed)

    def forward(self, x: npt.ArrayLike, training: bool = False) -> np.ndarray:
        """Return y (N, T, O) for x (N, T, I); in training, what `backward` needs is kept."""
        return self._forward(x, None, None, None, training)[0]

    def backward(self, dy: npt.ArrayLike) -> np.ndarray | None:
        """Return dx (N, T, I) for dy (N, T, O); parameter gradients are added to `grads`."""
        return self._backward(dy, None)[0]

    def numbers(self, training: bool) -> int:
        """Return about how many numbers a plan stores for each step of a sequence."""
        return self.out_features * (2 if training else 1)

    def build(self, plan: Plan, x: Variable, last: bool) -> Variable:
        """Append the layer's stage to a plan and return its output."""
        y = plan.variable((x.value.shape[0], self.out_features))
        weights = plan.weights(self, list(self.params))
        plan.stages.append(plan.kernels.Linear(plan.rows, x, y, weights, last=last))
        return y

    def config(self) -> dict[str, Any]:
        """Return the arguments that make such a layer, without its parameters."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias,
            "dtype": self.dtype.name,
        }


class Embedding(Layer):
    """A vector for each token.

    Parameters
    ----------
    num_embeddings : int
        V; ids are 0 ... V - 1.
    embedding_dim : int
        E.
    init, dtype, seed
        As for `RNN`.

    Attributes
    ----------
    params, grads : mapping of str to ndarray
        weight (V, E).
    """

    inputs = ("tokens",)

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        init: initializers.Init = "default",
        dtype: npt.DTypeLike = "float32",
        seed: Seed = None,
    ) -> None:
        V = self.num_embeddings = checks.integer("num_embeddings", num_embeddings)
        E = self.embedding_dim = checks.integer("embedding_dim", embedding_dim)
        super().__init__(V, E, {"weight": (V, E)}, init, dtype, seed)

    def forward(self, x: npt.ArrayLike, training: bool = False) -> np.ndarray:
        """Return y (N, T, E) for token ids x (N, T); in training, what `backward` needs is kept."""
        return self._forward(x, None, None, None, training)[0]

    def backward(self, dy: npt.ArrayLike) -> None:
        """Add the gradients for dy (N, T, E) to `grads`; ids have none."""
        self._backward(dy, None)

    def numbers(self, training: bool) -> int:
        """Return about how many numbers a plan stores for each step of a sequence."""
        return self.out_features * (2 if training else 1)

    def build(self, plan: Plan, x: Variable, last: bool) -> Variable:
        """Append the layer's stage to a plan and return its output."""
        y = plan.variable((x.value.shape[0], self.embedding_dim))
        plan.stages.append(plan.kernels.Embedding(plan.rows, x, y, plan.weights(self, ["weight"])))
        return y

    def config(self) -> dict[str, Any]:
        """Return the arguments that make such a layer, without its parameters."""
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "dtype": self.dtype.name,
        }
