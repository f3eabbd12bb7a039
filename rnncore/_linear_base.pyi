# The other levels' modules have the same interface.

from collections.abc import Sequence

import numpy as np

from rnncore._stage import Stage
from rnncore.rows import Rows, Variable

class Linear(Stage):
    def __init__(
        self, rows: Rows, x: Variable, y: Variable, weights: Sequence[Variable], *, last: bool = False
    ) -> None: ...

class Embedding(Stage):
    def __init__(self, rows: Rows, ids: Variable, y: Variable, weights: Sequence[Variable]) -> None: ...

class Dropout(Stage):
    def __init__(self, rows: Rows, x: Variable, y: Variable, mask: np.ndarray) -> None: ...

class Join(Stage):
    def __init__(self, rows: Rows, parts: Sequence[Variable], y: Variable) -> None: ...
