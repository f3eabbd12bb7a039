"""Takes a caller's batch into the packed layout, and looks at its values on the way."""

from __future__ import annotations

import numpy as np

from rnncore.rows import Rows

__all__ = ["Intake"]


class Intake:
    """Packs batches (N, T, ...) into an array (N*T, ...), or (N, ...) into (N, ...) behind a "last" output.

    Parameters
    ----------
    rows : Rows
    out : ndarray
    bounds : pair of float, optional
        Where the values must lie; if not given, they are not looked at.
    last : bool
    """

    def __init__(
        self, rows: Rows, out: np.ndarray, bounds: tuple[float, float] | None = None, *, last: bool = False
    ) -> None:
        self.rows, self.out, self.bounds, self.last = rows, out, bounds, last

    def take(self, x: np.ndarray) -> bool:
        """Pack x, where T = 1 also (N, ...); return whether all its valid steps lie within the bounds."""
        if self.last:
            np.copyto(self.out, x.reshape(self.out.shape)[self.rows.order], casting="unsafe")
        else:
            self.rows.gather(x.reshape(-1, self.rows.T, *self.out.shape[1:]), self.out)
        if self.bounds is None:
            return True
        low, high = self.bounds
        values = self.out[: self.rows.N if self.last else self.rows.M]
        return bool(((values >= low) & (values <= high)).all())
