"""Optimizers, with PyTorch's rules and defaults.

An optimizer is made with its hyperparameters. The `Trainer` that it is passed to binds it to parameters::

    trainer = rnncore.Trainer(model, loss="cross_entropy", optimizer=rnncore.Adam(lr=3e-3))
    trainer.optimizer.lr = 1e-3     # from the next step on

A variable here is a flat array with its gradient: all parameters of one layer.
"""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rnncore import checks, kernels
from rnncore.rows import Variable, zeros

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "Setting", "get"]


class Setting:
    """A hyperparameter of an optimizer: a number in the `settings` that its rules read at every update.

    Parameters
    ----------
    index : int
        Its index in the settings.
    low, high : float
        Lowest and highest allowed value.
    doc : str
    """

    def __init__(self, index: int, doc: str, low: float = 0.0, high: float = math.inf) -> None:
        self.index, self.low, self.high = index, low, high
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Optimizer, owner: type | None = None) -> float:
        return float(optimizer.settings[self.index])

    def __set__(self, optimizer: Optimizer, value: float) -> None:
        before = optimizer.settings[self.index]
        optimizer.settings[self.index] = checks.real(self.name, value, low=self.low, high=self.high)
        if not optimizer.has_slots():
            optimizer.settings[self.index] = before
            raise ValueError(
                f"{self.name} cannot be switched on in use, since it remembers all gradients: "
                f"make the {type(optimizer).__name__} with it"
            )


class Optimizer(ABC):
    """What all optimizers share: a learning rate, and a state of arrays of the parameters' size.

    Attributes
    ----------
    lr : float
        Learning rate; may be changed at any time.
    steps : int
        Number of updates made so far.
    settings : ndarray of float64
        Learning rate, number of updates, and the other hyperparameters in the order that kernels read them.
    rules : list
        The kernel that updates each variable; empty until the optimizer is bound.
    """

    lr = Setting(0, "Learning rate.")

    def __init__(self, lr: float, count: int) -> None:
        self.settings = np.zeros(2 + count)
        self.rules: list[Any] = []
        self._bound: list[dict[str, np.ndarray]] = []
        self.lr = lr

    @property
    def steps(self) -> int:
        """Number of updates made so far."""
        return int(self.settings[1])

    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """Return the names of the arrays kept for each variable."""

    @abstractmethod
    def rule(self, variable: Variable, state: Mapping[str, np.ndarray]) -> Any:
        """Return the kernel that updates one variable."""

    def bind(self, variables: Sequence[Variable]) -> None:
        """Bind the optimizer to the variables that it updates, once.

        A copy of a bound optimizer is not bound, but has the original's state, and continues from it.

        Raises
        ------
        ValueError
            If it is already bound, or is a copy whose state belongs to other parameters.
        """
        if self.rules:
            raise ValueError(
                f"this {type(self).__name__} is in use: give every trainer an optimizer of its own"
            )
        before = self._bound or [{}] * len(variables)
        bound = [{slot: zeros(v.value.shape, v.value.dtype) for slot in self.slots()} for v in variables]
        if [_shapes(state) for state in self._bound] not in ([], [_shapes(state) for state in bound]):
            raise ValueError(
                f"this {type(self).__name__} is a copy of one in use, whose parameters were others"
            )
        for new, old in zip(bound, before, strict=True):
            for slot, value in old.items():
                new[slot][...] = value
        self._bound = bound
        self.rules = [self.rule(v, state) for v, state in zip(variables, bound, strict=True)]

    def has_slots(self) -> bool:
        """Return whether the bound state has all arrays that the settings need; only `bind` makes them."""
        return all(set(self.slots()) <= state.keys() for state in self._bound)

    def step(self) -> None:
        """Update every variable by its gradient.

        Raises
        ------
        RuntimeError
            If the optimizer is not bound.
        """
        if not self.rules:
            raise RuntimeError(
                f"this {type(self).__name__} has no parameters to update: give it to a Trainer"
            )
        self.settings[1] += 1
        for rule in self.rules:
            rule.update()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of everything that a later step depends on.

        Returns
        -------
        dict
            ``"steps"``, a scalar, and for layer k and each slot ``"k.slot"``: a flat array for the layer's
            parameters one after another, in the order of ``layer.params``.
        """
        state = {f"{k}.{slot}": value.copy() for k, slot, value in self._slots()}
        return {"steps": np.array(self.steps)} | state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        ValueError
            If an entry is missing, unknown or of another shape. Nothing is then changed.
        """
        own = {f"{k}.{slot}": value for k, slot, value in self._slots()}
        found = checks.arrays({"steps": ()} | {key: value.shape for key, value in own.items()}, state)
        self.settings[1] = checks.integer("steps", found["steps"][()], minimum=0)
        for key, value in own.items():
            value[...] = found[key]

    def __getstate__(self) -> dict[str, Any]:
        own = {"settings": self.settings.copy(), "_bound": copy.deepcopy(self._bound)}
        return self.__dict__ | own | {"rules": []}  # a copy is not bound

    def __repr__(self) -> str:
        known = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in known.items())})"

    def _slots(self) -> list[tuple[int, str, np.ndarray]]:
        return [(k, slot, value) for k, state in enumerate(self._bound) for slot, value in state.items()]


class SGD(Optimizer):
    """Stochastic gradient descent, optionally with momentum (Sutskever et al. 2013).

    With g = grad + weight_decay · p and the buffer b::

        b = momentum · b + (1 - dampening) · g        (b = g at the first step)
        p = p - lr · b                                (nesterov: p - lr · (g + momentum · b))

    Parameters
    ----------
    lr : float, default 1e-3
    momentum, dampening, weight_decay : float, default 0
    nesterov : bool, default False
        Needs momentum > 0 and dampening = 0.
    """

    momentum = Setting(2, "Momentum.")
    dampening = Setting(3, "Dampening.", low=-math.inf)
    weight_decay = Setting(4, "Weight decay.")

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(lr, 4)
        self.momentum = momentum
        self.dampening = dampening
        self.weight_decay = weight_decay
        self.nesterov = checks.flag("nesterov", nesterov)
        self.settings[5] = self.nesterov
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov needs momentum > 0 and dampening = 0")

    def slots(self) -> tuple[str, ...]:
        """Return the names of the arrays kept for each variable."""
        return ("momentum_buffer",) if self.momentum else ()

    def rule(self, variable: Variable, state: Mapping[str, np.ndarray]) -> Any:
        """Return the kernel that updates one variable."""
        return kernels.active.SGD(variable, state.get("momentum_buffer"), self.settings)


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011).

    With g = grad + weight_decay · p::

        s = s + g²
        p = p - lr · g / (√s + eps)

    Parameters
    ----------
    lr : float, default 1e-2
    eps : float, default 1e-10
    weight_decay : float, default 0
    """

    eps = Setting(2, "Keeps the denominator from zero.")
    weight_decay = Setting(3, "Weight decay.")

    def __init__(self, lr: float = 1e-2, *, eps: float = 1e-10, weight_decay: float = 0.0) -> None:
        super().__init__(lr, 2)
        self.eps = eps
        self.weight_decay = weight_decay

    def slots(self) -> tuple[str, ...]:
        """Return the names of the arrays kept for each variable."""
        return ("sum",)

    def rule(self, variable: Variable, state: Mapping[str, np.ndarray]) -> Any:
        """Return the kernel that updates one variable."""
        return kernels.active.Adagrad(variable, state["sum"], self.settings)


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012), optionally centred (Graves 2013) and with momentum.

    With g = grad + weight_decay · p::

        s = alpha · s + (1 - alpha) · g²
        m = alpha · m + (1 - alpha) · g               (m = 0 unless centered)
        b = momentum · b + g / (√(s - m²) + eps)
        p = p - lr · b

    Parameters
    ----------
    lr : float, default 1e-2
    alpha : float, default 0.99
    eps : float, default 1e-8
    momentum, weight_decay : float, default 0
    centered : bool, default False
    """

    alpha = Setting(2, "Decay of the averages.", high=1.0)
    eps = Setting(3, "Keeps the denominator from zero.")
    momentum = Setting(4, "Momentum.")
    weight_decay = Setting(5, "Weight decay.")

    def __init__(
        self,
        lr: float = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(lr, 4)
        self.alpha = alpha
        self.eps = eps
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.centered = checks.flag("centered", centered)

    def slots(self) -> tuple[str, ...]:
        """Return the names of the arrays kept for each variable."""
        momentum = ("momentum_buffer",) if self.momentum else ()
        return ("square_avg", *momentum, *(("grad_avg",) if self.centered else ()))

    def rule(self, variable: Variable, state: Mapping[str, np.ndarray]) -> Any:
        """Return the kernel that updates one variable."""
        slots = state["square_avg"], state.get("momentum_buffer"), state.get("grad_avg")
        return kernels.active.RMSprop(variable, *slots, self.settings)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015).

    With g = grad + weight_decay · p at step t::

        m = beta1 · m + (1 - beta1) · g
        v = beta2 · v + (1 - beta2) · g²
        p = p - lr / (1 - beta1^t) · m / (√v / √(1 - beta2^t) + eps)

    Parameters
    ----------
    lr : float, default 1e-3
    betas : pair of float, default (0.9, 0.999)
    eps : float, default 1e-8
    weight_decay : float, default 0
    """

    decoupled = False

    eps = Setting(4, "Keeps the denominator from zero.")
    weight_decay = Setting(5, "Weight decay.")

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr, 5)
        if not isinstance(betas, Sequence) or len(betas) != 2:
            raise ValueError(f"betas must be a pair of numbers, got {betas!r}")
        self.settings[2:4] = [checks.real(f"betas[{i}]", beta, high=1.0) for i, beta in enumerate(betas)]
        self.eps = eps
        self.weight_decay = weight_decay
        self.settings[6] = self.decoupled

    @property
    def betas(self) -> tuple[float, ...]:
        """Decays of the averages of the gradient and of its square."""
        return tuple(self.settings[2:4].tolist())

    def slots(self) -> tuple[str, ...]:
        """Return the names of the arrays kept for each variable."""
        return ("exp_avg", "exp_avg_sq")

    def rule(self, variable: Variable, state: Mapping[str, np.ndarray]) -> Any:
        """Return the kernel that updates one variable."""
        return kernels.active.Adam(variable, state["exp_avg"], state["exp_avg_sq"], self.settings)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    As `Adam` with g = grad, and before each step p = p · (1 - lr · weight_decay).

    Parameters
    ----------
    lr : float, default 1e-3
    betas : pair of float, default (0.9, 0.999)
    eps : float, default 1e-8
    weight_decay : float, default 1e-2
    """

    decoupled = True

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(lr, betas=betas, eps=eps, weight_decay=weight_decay)


def _shapes(state: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {slot: value.shape for slot, value in state.items()}


NAMED: dict[str, Callable[[], Optimizer]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
}


def get(optimizer: str | Optimizer) -> Optimizer:
    """Return the optimizer of that name with its defaults; an `Optimizer` is returned as it is."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    return NAMED[checks.choice("optimizer", optimizer, NAMED)]()
