"""Optimizers and gradient clipping; rules and defaults are PyTorch's.

An optimizer is made with its hyperparameters and bound to the parameters by the `Trainer` given it::

    trainer = rnncore.Trainer(model, loss="cross_entropy", optimizer=rnncore.Adam(lr=3e-3))
    trainer.optimizer.lr = 1e-3     # from the next step on

A variable here is a flat array with its gradient: all parameters of one layer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rnncore import checks, kernels
from rnncore.rows import Variable


class Optimizer(ABC):
    """What all optimizers share: a learning rate, and a state of arrays as long as the parameters.

    Attributes
    ----------
    lr : float
        Learning rate; may be changed at any time.
    steps : int
        Updates made so far.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.steps = 0
        self._bound: list[tuple[Variable, dict[str, np.ndarray]]] = []

    @property
    def lr(self) -> float:
        """Learning rate."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = checks.real("lr", value)

    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """Return the names of the arrays kept for each variable."""

    @abstractmethod
    def update(self, variable: Variable, state: Mapping[str, np.ndarray]) -> None:
        """Change one variable by its gradient."""

    def bind(self, variables: Sequence[Variable]) -> None:
        """Attach the optimizer to what it updates, once.

        Raises
        ------
        ValueError
            If it is bound already: its state belongs to other parameters.
        """
        if self._bound:
            raise ValueError(
                f"this {type(self).__name__} is in use: give every trainer an optimizer of its own"
            )
        self._bound = [(v, {slot: np.zeros_like(v.value) for slot in self.slots()}) for v in variables]

    def step(self) -> None:
        """Update every variable by its gradient."""
        self.steps += 1
        for variable, state in self._bound:
            self.update(variable, state)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of everything that a later step depends on.

        Returns
        -------
        dict
            ``"steps"``, a scalar, and for layer k and each slot ``"k.slot"``: flat, the layer's parameters
            one after another in the order of ``layer.params``.
        """
        state = {f"{k}.{slot}": value.copy() for k, slot, value in self._slots()}
        return {"steps": np.array(self.steps)} | state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        ValueError
            If an entry is missing, unknown or of another shape. Nothing has been changed then.
        """
        own = {f"{k}.{slot}": value for k, slot, value in self._slots()}
        found = checks.arrays({"steps": ()} | {key: value.shape for key, value in own.items()}, state)
        self.steps = checks.integer("steps", found["steps"][()], minimum=0)
        for key, value in own.items():
            value[...] = found[key]

    def _slots(self) -> list[tuple[int, str, np.ndarray]]:
        return [(k, slot, value) for k, (_, state) in enumerate(self._bound) for slot, value in state.items()]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum on request (Sutskever et al. 2013).

    With g = grad + weight_decay · p and the buffer b::

        b = momentum · b + (1 - dampening) · g        (b = g at the first step)
        p = p - lr · b                                (nesterov: p - lr · (g + momentum · b))

    Parameters
    ----------
    lr : float, default 1e-3
    momentum, dampening, weight_decay : float, default 0
    nesterov : bool, default False
        Needs momentum, and no dampening.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(lr)
        self.momentum = checks.real("momentum", momentum)
        self.dampening = checks.real("dampening", dampening, low=-math.inf)
        self.weight_decay = checks.real("weight_decay", weight_decay)
        self.nesterov = checks.flag("nesterov", nesterov)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov needs momentum > 0 and dampening = 0")

    def slots(self) -> tuple[str, ...]:
        """Return the names of the arrays kept for each variable."""
        return ("momentum_buffer",) if self.momentum else ()

    def update(self, variable: Variable, state: Mapping[str, np.ndarray]) -> None:
        """Change one variable by its gradient."""
        kernels.active.sgd(
            variable.value,
            variable.grad,
            state.get("momentum_buffer"),
            self.lr,
            self.momentum,
            self.dampening,
            self.weight_decay,
            self.nesterov,
            self.steps == 1,
        )


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

    def __init__(self, lr: float = 1e-2, *, eps: float = 1e-10, weight_decay: float = 0.0) -> None:
        super().__init__(lr)
        self.eps = checks.real("eps", eps)
        self.weight_decay = checks.real("weight_decay", weight_decay)

    def slots(self) -> tuple[str, ...]:
        """Return the names of the arrays kept for each variable."""
        return ("sum",)

    def update(self, variable: Variable, state: Mapping[str, np.ndarray]) -> None:
        """Change one variable by its gradient."""
        kernels.active.adagrad(
            variable.value, variable.grad, state["sum"], self.lr, self.eps, self.weight_decay
        )


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012), centred (Graves 2013) and with momentum on request.

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
        super().__init__(lr)
        self.alpha = checks.real("alpha", alpha, high=1.0)
        self.eps = checks.real("eps", eps)
        self.momentum = checks.real("momentum", momentum)
        self.weight_decay = checks.real("weight_decay", weight_decay)
        self.centered = checks.flag("centered", centered)

    def slots(self) -> tuple[str, ...]:
        """Return the names of the arrays kept for each variable."""
        momentum = ("momentum_buffer",) if self.momentum else ()
        return ("square_avg", *momentum, *(("grad_avg",) if self.centered else ()))

    def update(self, variable: Variable, state: Mapping[str, np.ndarray]) -> None:
        """Change one variable by its gradient."""
        kernels.active.rmsprop(
            variable.value,
            variable.grad,
            state["square_avg"],
            state.get("momentum_buffer"),
            state.get("grad_avg"),
            self.lr,
            self.alpha,
            self.eps,
            self.momentum,
            self.weight_decay,
        )


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

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr)
        if not isinstance(betas, Sequence) or len(betas) != 2:
            raise ValueError(f"betas must be a pair of numbers, got {betas!r}")
        self.betas = tuple(checks.real(f"betas[{i}]", beta, high=1.0) for i, beta in enumerate(betas))
        self.eps = checks.real("eps", eps)
        self.weight_decay = checks.real("weight_decay", weight_decay)

    def slots(self) -> tuple[str, ...]:
        """Return the names of the arrays kept for each variable."""
        return ("exp_avg", "exp_avg_sq")

    def update(self, variable: Variable, state: Mapping[str, np.ndarray]) -> None:
        """Change one variable by its gradient."""
        kernels.active.adam(
            variable.value,
            variable.grad,
            state["exp_avg"],
            state["exp_avg_sq"],
            self.lr,
            *self.betas,
            self.eps,
            self.weight_decay,
            self.decoupled,
            self.steps,
        )


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


NAMED: dict[str, Callable[[], Optimizer]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
}


def get(optimizer: str | Optimizer) -> Optimizer:
    """Return the optimizer of that name with its defaults; an `Optimizer` stays itself."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    return NAMED[checks.choice("optimizer", optimizer, NAMED)]()


def clip_norm(grads: Sequence[np.ndarray], limit: float) -> float:
    """Scale the gradients in place so that their global norm is at most `limit`.

    The factor is min(1, limit / (norm + 1e-6)), as in PyTorch's ``clip_grad_norm_``.

    Returns
    -------
    float
        The norm before.
    """
    norm = math.sqrt(sum(map(kernels.active.sum_of_squares, grads)))
    factor = limit / (norm + 1e-6)
    if factor < 1:
        for grad in grads:
            kernels.active.scale(grad, factor)
    return norm


def clip_value(grads: Sequence[np.ndarray], limit: float) -> None:
    """Clip every element of the gradients in place to [-limit, limit]."""
    for grad in grads:
        kernels.active.clip(grad, limit)
