# The other levels' modules have the same interface.

import numpy as np

from rnncore._stage import Rule
from rnncore.rows import Variable

class SGD(Rule):
    def __init__(
        self, variable: Variable, momentum_buffer: np.ndarray | None, settings: np.ndarray
    ) -> None: ...

class Adagrad(Rule):
    def __init__(self, variable: Variable, sum_: np.ndarray, settings: np.ndarray) -> None: ...

class RMSprop(Rule):
    def __init__(
        self,
        variable: Variable,
        square_avg: np.ndarray,
        momentum_buffer: np.ndarray | None,
        grad_avg: np.ndarray | None,
        settings: np.ndarray,
    ) -> None: ...

class Adam(Rule):
    def __init__(
        self, variable: Variable, exp_avg: np.ndarray, exp_avg_sq: np.ndarray, settings: np.ndarray
    ) -> None: ...
