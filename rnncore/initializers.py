"""First values of the parameters.

An initializer is a function ``init(layers, rng)`` that writes into ``layer.params[name][...]`` of every
layer. Layers and models take one by name or as the function itself:

========== =================================================================================================
"default"  recurrent weights orthogonal, input and linear weights Glorot; forget-gate bias 1, other biases 0
"pytorch"  uniform in ±1/√H (recurrent) and ±1/√in_features (linear), biases too, as PyTorch does
"tutorial" weights uniform in [-1, 1); biases 0
"normal"   weights normal with deviation 0.01; biases 0
"lecun"    weights normal with deviation 1/√fan-in; biases 0
"zeros"    all zero
========== =================================================================================================

"default" and "pytorch" draw embeddings from the standard normal distribution. All but "zeros" set the
slope of a PReLU to 0.25. Numbers are drawn in double precision, so that both dtypes start from the same
values.

References
----------
Glorot & Bengio, *Understanding the difficulty of training deep feedforward neural networks*, 2010.
Saxe, McClelland & Ganguli, *Exact solutions to the nonlinear dynamics of learning in deep linear neural
networks*, 2014 (orthogonal weights).
Jozefowicz, Zaremba & Sutskever, *An empirical exploration of recurrent network architectures*, 2015 (the
forget-gate bias).
LeCun, Bottou, Orr & Müller, *Efficient backprop*, 1998.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rnncore import checks

__all__ = [
    "NAMED",
    "Init",
    "Initializable",
    "default",
    "get",
    "given",
    "lecun",
    "normal",
    "pytorch",
    "tutorial",
    "zeros",
]


class Initializable(Protocol):
    """The part of a layer that an initializer uses."""

    @property
    def params(self) -> Mapping[str, np.ndarray]:
        """The arrays to write into, by name."""

    @property
    def gates(self) -> str:
        """One letter for each gate of a recurrent layer, in the order of the weights' rows, or empty."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the layer takes: "dense", "tokens" or both."""


Initializer = Callable[[Sequence[Initializable], np.random.Generator], None]
Init = str | Initializer | Mapping[str, npt.ArrayLike]

SLOPE = 0.25


def default(layers: Sequence[Initializable], rng: np.random.Generator) -> None:
    """Draw orthogonal recurrent weights and Glorot input weights; the forget-gate bias (in bias_ih) is 1."""
    for layer in layers:
        for name, value in layer.params.items():
            blocks = np.split(value, len(layer.gates) or 1) if name.startswith("weight") else []
            for block in blocks:  # the weights of each gate are drawn as a matrix of their own
                if name.startswith("weight_hh"):
                    block[...] = _orthogonal(len(block), rng)
                elif layer.inputs == ("tokens",):
                    block[...] = rng.standard_normal(block.shape)
                else:
                    bound = math.sqrt(6 / sum(block.shape))
                    block[...] = rng.uniform(-bound, bound, block.shape)
            if name.startswith("bias"):
                value[...] = 0
            if name.startswith("bias_ih") and "f" in layer.gates:
                np.split(value, len(layer.gates))[layer.gates.index("f")][...] = 1
            if name.startswith("slope"):
                value[...] = SLOPE


def pytorch(layers: Sequence[Initializable], rng: np.random.Generator) -> None:
    """Draw from PyTorch's distributions; the numbers differ, since PyTorch has another generator."""
    for layer in layers:
        width = layer.params["weight_hh_l0" if layer.gates else "weight"].shape[1]
        for name, value in layer.params.items():
            if name.startswith("slope"):
                value[...] = SLOPE
            elif layer.inputs == ("tokens",):
                value[...] = rng.standard_normal(value.shape)
            else:
                value[...] = rng.uniform(-1 / math.sqrt(width), 1 / math.sqrt(width), value.shape)


def tutorial(layers: Sequence[Initializable], rng: np.random.Generator) -> None:
    """Draw uniformly from [-1, 1), in the order of the well-known addition tutorial.

    The tutorial draws matrices (in, out): input weights, then output weights, then recurrent weights. So a
    generator with a legacy generator's bits gives the same numbers as ``2 * np.random.random(...) - 1``.
    """
    _draw(layers, lambda fan_in, shape: 2 * rng.random(shape) - 1)


def normal(layers: Sequence[Initializable], rng: np.random.Generator, std: float = 0.01) -> None:
    """Draw normal weights of deviation `std`; for another one, ``functools.partial(normal, std=...)``."""
    _draw(layers, lambda fan_in, shape: std * rng.standard_normal(shape))


def lecun(layers: Sequence[Initializable], rng: np.random.Generator) -> None:
    """Draw normal weights of deviation 1/√fan-in."""
    _draw(layers, lambda fan_in, shape: rng.standard_normal(shape) / math.sqrt(fan_in))


def zeros(layers: Sequence[Initializable], rng: np.random.Generator) -> None:
    """Set all parameters to zero, because they are loaded next."""
    for layer in layers:
        for value in layer.params.values():
            value[...] = 0


def _draw(layers: Sequence[Initializable], draw: Callable[[int, tuple[int, ...]], np.ndarray]) -> None:
    """Draw the weights of all layers as (in, out) matrices: input first, then output, then recurrent ones."""
    named = [(name, value) for layer in layers for name, value in layer.params.items()]
    for role in ("weight_ih", "weight", "weight_hh"):
        for name, value in named:
            if name.split("_l")[0] == role:
                value[...] = draw(value.shape[1], value.shape[::-1]).T
    for name, value in named:
        if not name.startswith("weight"):
            value[...] = SLOPE if name.startswith("slope") else 0


def _orthogonal(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random orthogonal matrix, uniform among all of them."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    # QR leaves the columns' signs to the algorithm; making R's diagonal positive makes the matrix uniform
    signed: np.ndarray = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return signed


NAMED: dict[str, Initializer] = {
    "default": default,
    "pytorch": pytorch,
    "tutorial": tutorial,
    "normal": normal,
    "lecun": lecun,
    "zeros": zeros,
}


def get(init: str | Initializer) -> Initializer:
    """Return the initializer of that name; a function is returned as it is."""
    if callable(init):
        return init
    return NAMED[checks.choice("init", init, NAMED)]


def given(params: Mapping[str, npt.ArrayLike], shapes: Mapping[str, tuple[int, ...]]) -> Initializer:
    """Check names and shapes of values, and return an initializer that writes them into a layer."""
    found = checks.arrays(shapes, params)

    def write(layers: Sequence[Initializable], rng: np.random.Generator) -> None:
        for layer in layers:
            for name, value in found.items():
                layer.params[name][...] = value

    return write
