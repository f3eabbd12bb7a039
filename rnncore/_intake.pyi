import numpy as np
import numpy.typing as npt

from rnncore.rows import Rows

class Intake:
    def __init__(
        self,
        rows: Rows,
        out: np.ndarray,
        bounds: tuple[float, float] | None = None,
        *,
        last: bool = False,
    ) -> None: ...
    def take(self, x: npt.ArrayLike) -> bool: ...
    def take_step(self, x: object) -> bool: ...
