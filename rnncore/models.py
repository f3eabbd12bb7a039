"""Models: chains of layers with an output, and their use besides training."""

from __future__ import annotations

import copy
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from rnncore import checks, initializers, kernels
from rnncore.files import load_arrays, save_arrays
from rnncore.layers import GRU, LSTM, RNN, Embedding, Layer, Linear, Recurrent
from rnncore.network import Network, Seed, State
from rnncore.plan import Plan

__all__ = ["SequenceModel", "Sequential", "Stream", "build", "load"]

CELLS: dict[str, type[Recurrent]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
LAYERS: dict[str, type[Layer]] = {layer.__name__: layer for layer in (RNN, LSTM, GRU, Linear, Embedding)}
OUTPUTS = ("all", "last")
OUTPUT_ACTIVATIONS = (None, "sigmoid", "softmax")


class Sequential(Network):
    """Any chain of layers.

    Parameters
    ----------
    layers : sequence of Layer, or mapping of str to Layer
        First to last. The keys of a mapping name the layers; otherwise their names are "0", "1", ...
    input : {"dense", "tokens"}, optional
        Numbers (N, T, D) or token ids (N, T). If not given, tokens if the first layer is an `Embedding`.
    output : {"all", "last"}
        An output at every step, or one for each sequence, from each direction's final state in the last
        recurrent layer. A sequence without a step gives its initial state.
    output_activation : {None, "sigmoid", "softmax"}
        Applied by `predict`, streams and losses on predictions; `forward` always gives the logits before it.
        If None, a `Trainer` with the loss "bce" sets sigmoid and one with "cross_entropy" sets softmax, so
        that `predict` then gives probabilities.
    seed : int or numpy.random.Generator, optional
        For dropout.

    Attributes
    ----------
    layers : mapping of str to Layer
    params, grads : dict of str to ndarray
        Of all layers, as ``"name.param"``.

    Raises
    ------
    ValueError, TypeError
        If the widths or dtypes of neighbouring layers differ, or a layer is not allowed in its place.

    Warns
    -----
    UserWarning
        If a `Linear` layer follows another.
    """

    def __init__(
        self,
        layers: Sequence[Layer] | Mapping[str, Layer],
        *,
        input: str | None = None,
        output: str = "all",
        output_activation: str | None = None,
        seed: Seed = None,
    ) -> None:
        checks.choice("output", output, OUTPUTS)
        checks.choice("output_activation", output_activation, OUTPUT_ACTIVATIONS)
        super().__init__(seed, output, output_activation)
        named = layers if isinstance(layers, Mapping) else {str(i): layer for i, layer in enumerate(layers)}
        _check_chain(named)
        self._layers = dict(named)
        first = self.chain[0]
        self.input = first.inputs[0] if input is None else checks.choice("input", input, first.inputs)
        if self.output == "last" and not any(layer.states for layer in self.chain):
            raise ValueError("output='last' needs a recurrent layer")

    def __repr__(self) -> str:
        options = {"input": self.input, "output": self.output, "output_activation": self.output_activation}
        lines = [f"{name}: {layer!r}" for name, layer in self.layers.items()]
        lines += [f"{name}={value!r}" for name, value in options.items()]
        return f"{type(self).__name__}(\n    " + ",\n    ".join(lines) + ",\n)"

    @property
    def layers(self) -> Mapping[str, Layer]:
        """The layers by name, first to last."""
        return MappingProxyType(self._layers)

    @property
    def chain(self) -> Sequence[Layer]:
        """The layers, first to last."""
        return tuple(self._layers.values())

    def kind_of(self, x: np.ndarray) -> str:
        """Return "tokens" or "dense": what the model takes x to be."""
        return self.input

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the parameters and of all results."""
        return self.chain[0].dtype

    @property
    def params(self) -> dict[str, np.ndarray]:
        """The parameters of all layers; they may be written into."""
        return {
            f"{name}.{key}": value
            for name, layer in self.layers.items()
            for key, value in layer.params.items()
        }

    @property
    def grads(self) -> dict[str, np.ndarray]:
        """The gradients of all layers."""
        return {
            f"{name}.{key}": value
            for name, layer in self.layers.items()
            for key, value in layer.grads.items()
        }

    @property
    def num_parameters(self) -> int:
        """Number of trainable numbers."""
        return sum(layer.flat.value.size for layer in self.chain)

    def forward(
        self,
        x: npt.ArrayLike,
        state: State = None,
        lengths: npt.ArrayLike | None = None,
        training: bool = False,
        resets: npt.ArrayLike | None = None,
    ) -> tuple[np.ndarray, State]:
        """Run the model over whole sequences, up to the output activation.

        Parameters
        ----------
        x : array_like, (N, T, D) numbers or (N, T) token ids
        state : optional
            Initial state of the recurrent layer (see its `forward`), or a list of states if there are several
            such layers; zero if not given.
        lengths : array_like of int, (N,), optional
            Valid steps of each sequence, 0 ... T; all T if not given.
        training : bool
            Keep what `backward` needs, and apply dropout.
        resets : array_like of bool, (N, T), optional
            Where true, a sequence begins anew: the state before that step is zero, and no gradient passes it.
            Each fragment of a sequence gives the results that it gives alone, in both directions.

        Returns
        -------
        logits : ndarray, (N, T, O), or (N, O) for output "last"
            Zero at steps that a sequence does not have.
        state : as given
            State after each sequence's last step.
        """
        return self._forward(x, state, lengths, resets, training)

    def backward(
        self, dlogits: npt.ArrayLike | None, dstate: State = None
    ) -> tuple[np.ndarray | None, State]:
        """Backpropagate through this thread's latest ``forward(..., training=True)``, adding to `grads`.

        Parameters
        ----------
        dlogits : array_like, as logits, or None
            Gradient of the loss with respect to the logits; None means zero.
        dstate : as state, optional
            Gradient with respect to the final state.

        Returns
        -------
        dx : ndarray, (N, T, D)
            None for token ids.
        dstate : as state
            Gradient with respect to the initial state.
        """
        return self._backward(dlogits, dstate)

    def end_in(self, activation: str) -> None:
        """Add an output activation to a model that has none; see `output_activation`."""
        self.__dict__["output_activation"] = activation

    def predict(
        self, x: npt.ArrayLike, lengths: npt.ArrayLike | None = None, resets: npt.ArrayLike | None = None
    ) -> np.ndarray:
        """Return the output after its activation, (N, T, O) or (N, O); arguments as for `forward`.

        These are probabilities if `output_activation` is "sigmoid" or "softmax". A `Trainer` with the loss
        "bce" or "cross_entropy" sets it if it is None. Otherwise they are the logits that `forward` returns.
        Many sequences are run in several batches, so that little memory is needed beyond x and the result.
        """
        return self._infer(self.check_batch(x, None, lengths, resets), Network._predictions)[0]

    def stream(self, batch_size: int = 1) -> Stream:
        """Return a `Stream`, which runs the model one time step per call."""
        return Stream(self, batch_size)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters by name."""
        return {name: value.copy() for name, value in self.params.items()}

    def load_state_dict(self, params: Mapping[str, npt.ArrayLike]) -> None:
        """Set all parameters by name.

        Raises
        ------
        ValueError, TypeError
            If a parameter is missing, unknown, of another shape, or not made of real numbers. Nothing is then
            changed.
        """
        own = self.params
        found = checks.arrays({name: value.shape for name, value in own.items()}, params)
        for name, value in found.items():
            own[name][...] = value

    def config(self) -> dict[str, Any]:
        """Return the model's configuration without its parameters, in plain types."""
        layers = {
            name: {"type": type(layer).__name__, **layer.config()} for name, layer in self.layers.items()
        }
        return {
            "layers": layers,
            "input": self.input,
            "output": self.output,
            "output_activation": self.output_activation,
        }

    def summary(self) -> str:
        """Return a table of the layers, their output widths and numbers of parameters."""
        last = len(self.chain)  # the first layer that outputs one row for each sequence
        if self.output == "last":
            last = max(i for i, layer in enumerate(self.chain) if layer.states)
        rows = [("layer", "type", "output", "parameters")]
        for i, (name, layer) in enumerate(self.layers.items()):
            shape = f"({'N' if i >= last else 'N, T'}, {layer.out_features})"
            rows.append((name, type(layer).__name__, shape, f"{layer.flat.value.size:,}"))
        if self.output_activation:
            rows.append(("", self.output_activation, rows[-1][2], ""))
        rows.append(("total", "", "", f"{self.num_parameters:,}"))
        a, b, c, d = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = [f"{row[0]:<{a}}  {row[1]:<{b}}  {row[2]:<{c}}  {row[3]:>{d}}".rstrip() for row in rows]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def save(self, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None) -> None:
        """Write the model to a safetensors file, either completely or not at all.

        The configuration is part of the metadata, so that `load` needs nothing else.

        Parameters
        ----------
        path : path
        extra : mapping, optional
            What else a user of the model needs, such as a vocabulary or the scale of the input: plain values,
            lists, mappings and arrays. `load_extra` returns it.

        Raises
        ------
        OSError
            If the file cannot be written. An earlier file of that name is then unchanged.
        """
        save_arrays(path, "model", self.state_dict(), self.config(), extra)


class SequenceModel(Sequential):
    """The usual model: tokens or numbers, a recurrent stack, a linear head.

    Parameters
    ----------
    input_size : int
        D, or the size of the vocabulary.
    hidden_size : int
    output_size : int
        O.
    cell : {"lstm", "gru", "rnn"}
    num_layers : int, default 1
    input : {"tokens", "dense"}
        Token ids (N, T) or numbers (N, T, D).
    embedding_size : int, optional
        For tokens: learn a vector of this size for each token. If not given, an id acts like a one-hot
        vector, and selects a column of the input weights.
    output, output_activation
        As for `Sequential`.
    activation : str, default "tanh"
        Activation of an Elman network; see `RNN`.
    reset_after : bool, default True
        Form of a GRU; see `GRU`.
    bias : bool or "single", default True
        True: two biases in each recurrent layer, as in PyTorch; "single": one; False: none. The head has a
        bias unless False.
    bidirectional : bool, default False
    dropout : float, default 0
        Between recurrent layers.
    init : str, callable or mapping of str to array_like, default "default"
        See `rnncore.initializers`; or the parameters themselves, named as by `state_dict`.
    dtype : {"float32", "float64"}
    seed : int or numpy.random.Generator, default 0
        Draws the parameters, and then dropout.

    Attributes
    ----------
    layers : mapping of str to Layer
        "embedding" (if any), "rnn" and "head".

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        cell: str = "lstm",
        num_layers: int = 1,
        *,
        input: str = "tokens",
        embedding_size: int | None = None,
        output: str = "all",
        output_activation: str | None = None,
        activation: str = "tanh",
        reset_after: bool = True,
        bias: bool | str = True,
        bidirectional: bool = False,
        dropout: float = 0.0,
        init: initializers.Init = "default",
        dtype: npt.DTypeLike = "float32",
        seed: Seed = 0,
    ) -> None:
        checks.choice("cell", cell, CELLS)
        checks.choice("input", input, ("tokens", "dense"))
        width = checks.integer("input_size", input_size)
        rng = np.random.default_rng(seed)
        options: dict[str, Any] = {"init": "zeros", "dtype": dtype, "seed": rng}
        layers: dict[str, Layer] = {}
        if embedding_size is not None:
            if input != "tokens":
                raise ValueError(f"embedding_size is for input='tokens', got input={input!r}")
            width = checks.integer("embedding_size", embedding_size)
            layers["embedding"] = Embedding(input_size, width, **options)
        of_cell: dict[str, dict[str, Any]] = {
            "rnn": {"activation": activation},
            "lstm": {},
            "gru": {"reset_after": reset_after},
        }
        layers["rnn"] = rnn = CELLS[cell](
            width,
            hidden_size,
            num_layers,
            bias=bias,
            bidirectional=bidirectional,
            dropout=dropout,
            **of_cell[cell],
            **options,
        )
        size = checks.integer("output_size", output_size)
        layers["head"] = Linear(rnn.out_features, size, bias=bias is not False, **options)
        super().__init__(layers, input=input, output=output, output_activation=output_activation, seed=rng)
        if isinstance(init, Mapping):
            self.load_state_dict(init)
        else:
            initializers.get(init)(self.chain, rng)


class Stream:
    """A model that runs one time step per call, in buffers allocated once, with the weights it was made with.

    Only one thread at a time may use it; give every thread a stream of its own. Copies and pickles contain
    its weights and its state.

    Parameters
    ----------
    model : Sequential
    batch_size : int
        N, the number of sequences that are stepped together.

    Raises
    ------
    ValueError
        If the model is bidirectional: the reverse direction begins at the end, which a stream does not know.
    """

    def __init__(self, model: Sequential, batch_size: int = 1) -> None:
        if any(isinstance(layer, Recurrent) and layer.bidirectional for layer in model.chain):
            raise ValueError(
                "a bidirectional model cannot be streamed: its reverse direction begins at the end"
            )
        N = checks.integer("batch_size", batch_size)
        self._turn = threading.Lock()
        self._model = copy.deepcopy(model)  # so that further training of the model does not change the stream
        self._plan = plan = Plan(
            self._model.chain,
            N,
            1,
            tokens=model.input == "tokens",
            output=model.output,
            output_activation=model.output_activation,
            streaming=True,
        )
        activation = [plan.activation] if plan.activation else []
        self._forward = kernels.active.Forward([*plan.stages, *activation])
        plan.rows.share(self._forward.shares)
        self._forward.pack()
        self._x, self._y = plan.x.value, plan.prediction.value
        self._take = plan.intake.take_step

    def step(
        self, x_t: npt.ArrayLike, out: np.ndarray | None = None, reset: npt.ArrayLike | None = None
    ) -> np.ndarray:
        """Run one time step.

        Parameters
        ----------
        x_t : array_like, (N, D) finite numbers or (N,) token ids
        out : ndarray (N, O), optional
            Array to write the result into.
        reset : array_like of bool, (N,), optional
            The sequences that begin anew with this step, from the zero state.

        Returns
        -------
        y : ndarray, (N, O)
            What `Sequential.predict` gives for this step: `out`, or a buffer that the next step overwrites.

        Raises
        ------
        ValueError, TypeError
            If x_t has another shape or dtype, or holds NaN, infinity or an unknown token. The state of the
            stream is then unchanged.
        RuntimeError
            If another thread is using the stream.
        """
        if not self._turn.acquire(False):
            raise self._busy()
        try:
            if out is not None:
                checks.output("out", out, self._y)
            chosen = None if reset is None else checks.flags("reset", reset, self._x.shape[:1])
            if not self._take(x_t):
                self._plan.load_step(self._check(x_t))
            if chosen is not None:
                self._plan.reset_states(chosen)
            self._forward.run()
            if out is None:
                return self._y
            np.copyto(out, self._y)
            return out
        finally:
            self._turn.release()

    def _busy(self) -> RuntimeError:
        return RuntimeError("another thread is using this stream: give every thread a stream of its own")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._turn.acquire(False):
            raise self._busy()
        try:
            yield
        finally:
            self._turn.release()

    def _check(self, x_t: npt.ArrayLike) -> np.ndarray:
        tokens = self._x.ndim == 1
        found = checks.integers("x_t", x_t, "token ids") if tokens else checks.dense("x_t", x_t)
        checks.shape("x_t", found, self._x.shape)
        return found

    @property
    def state(self) -> State:
        """A copy of the state after the latest step; assign a state to continue from it."""
        with self._alone():
            return self._model.wrap_states(self._plan.read_initial())

    @state.setter
    def state(self, state: State) -> None:
        found = self._model.check_states("state", state, self._plan.rows.N)
        with self._alone():
            self._plan.load_states(found)

    def reset(self, rows: npt.ArrayLike | None = None) -> None:
        """Set the state to zero.

        Parameters
        ----------
        rows : array_like of bool, (N,), optional
            The sequences that begin anew; all of them if not given.
        """
        chosen = None if rows is None else checks.flags("rows", rows, (self._plan.rows.N,))
        with self._alone():
            self._plan.reset_states(chosen)

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._model, "batch_size": self._plan.rows.N, "state": self.state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Stream.__init__(self, state["model"], state["batch_size"])
        self.state = state["state"]


def load(path: str | os.PathLike[str]) -> Any:
    """Read a model that a ``save`` method of this package wrote. Nothing in the file is run as code.

    Returns
    -------
    Sequential
        A `rnncore.tasks.Forecaster`, if the file is one of these.

    Raises
    ------
    OSError
        If there is no such file or it cannot be read.
    ValueError
        If the file is damaged, is not a model of this package, or was written by a later version.
    """
    params, config = load_arrays(path, "model")
    try:
        return MAKERS[config.get("type", "Sequential")](params, config)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def build(params: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Sequential:
    """Return a model with these parameters, by name, and this `config`."""
    layers = {}
    for name, options in config["layers"].items():
        own = {key.removeprefix(f"{name}."): v for key, v in params.items() if key.startswith(f"{name}.")}
        others = {key: value for key, value in options.items() if key != "type"}
        layers[name] = LAYERS[options["type"]](**others, init=own)
    return Sequential(layers, **{key: value for key, value in config.items() if key != "layers"})


# For each type that a configuration may name: the function of parameters and configuration that makes it.
MAKERS: dict[str, Callable[[dict[str, np.ndarray], dict[str, Any]], Any]] = {"Sequential": build}


def _check_chain(layers: Mapping[str, Layer]) -> None:
    """Raise unless each layer can follow the one before it."""
    if not layers:
        raise ValueError("layers must not be empty")
    if len(set(map(id, layers.values()))) < len(layers):
        raise ValueError("layers holds the same layer twice: copy.deepcopy makes another one")
    before: tuple[str, Layer] | None = None
    for name, layer in layers.items():
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"the name of a layer must be a string without a dot, got {name!r}")
        if not isinstance(layer, Layer):
            raise TypeError(f"layers[{name!r}] must be a layer, got {type(layer).__name__}")
        if before:
            previous, below = before
            if "dense" not in layer.inputs:
                raise ValueError(f"layers[{name!r}] takes token ids: it must be the first layer")
            if layer.in_features != below.out_features:
                raise ValueError(
                    f"layers[{name!r}] takes {layer.in_features} features, "
                    f"but layers[{previous!r}] gives {below.out_features}"
                )
            if layer.dtype != below.dtype:
                raise ValueError(
                    f"layers[{name!r}] has dtype {layer.dtype}, but layers[{previous!r}] {below.dtype}"
                )
            if isinstance(layer, Linear) and isinstance(below, Linear):
                warnings.warn(
                    f"layers[{name!r}] follows layers[{previous!r}] with nothing between: "
                    "two linear maps in a row are one",
                    UserWarning,
                    stacklevel=3,
                )
        before = name, layer
