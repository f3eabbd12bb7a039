# The other levels' modules have the same interface.

import numpy as np

from rnncore._stage import Stage
from rnncore.rows import Rows, Variable

ACTIVATIONS: dict[str, int]
LOSSES: dict[str, int]

class Activation(Stage):
    def __init__(self, rows: Rows, x: Variable, y: Variable, *, kind: str, last: bool = False) -> None: ...

class Loss(Stage):
    value: np.ndarray

    def __init__(
        self,
        rows: Rows,
        prediction: Variable,
        target: np.ndarray,
        *,
        kind: str,
        reduction: str = "mean",
        last: bool = False,
    ) -> None: ...
