# The other levels' modules have the same interface.

from collections.abc import Sequence

from rnncore._stage import Stage
from rnncore.rows import Rows, Variable

class GRU(Stage):
    def __init__(
        self,
        rows: Rows,
        x: Variable,
        y: Variable,
        weights: Sequence[Variable],
        initial: Sequence[Variable],
        final: Sequence[Variable],
        *,
        reset_after: bool = True,
        reverse: bool = False,
        adds: bool = False,
    ) -> None: ...
