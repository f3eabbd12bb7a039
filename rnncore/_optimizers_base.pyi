# The other levels' modules have the same interface.

import numpy as np

def sgd(
    param: np.ndarray,
    grad: np.ndarray,
    momentum_buffer: np.ndarray | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
) -> None: ...
def adagrad(
    param: np.ndarray, grad: np.ndarray, sum_: np.ndarray, lr: float, eps: float, weight_decay: float
) -> None: ...
def rmsprop(
    param: np.ndarray,
    grad: np.ndarray,
    square_avg: np.ndarray,
    momentum_buffer: np.ndarray | None,
    grad_avg: np.ndarray | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> None: ...
def adam(
    param: np.ndarray,
    grad: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    step: int,
) -> None: ...
def sum_of_squares(grad: np.ndarray) -> float: ...
def scale(grad: np.ndarray, factor: float) -> None: ...
def clip(grad: np.ndarray, limit: float) -> None: ...
