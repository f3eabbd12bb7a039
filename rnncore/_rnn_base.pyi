# The other levels' modules have the same interface.

from collections.abc import Sequence

from rnncore._stage import Stage
from rnncore.rows import Rows, Variable

ACTIVATIONS: dict[str, int]

class RNN(Stage):
    def __init__(
        self,
        rows: Rows,
        x: Variable,
        y: Variable,
        weights: Sequence[Variable],
        initial: Sequence[Variable],
        final: Sequence[Variable],
        *,
        activation: str = "tanh",
        reverse: bool = False,
        adds: bool = False,
    ) -> None: ...
