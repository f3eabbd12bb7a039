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
            self.rows.gather(x.reshape(len(x), self.rows.T, *self.out.shape[1:]), self.out)
        return self.look()

    def take_step(self, x: object) -> bool:
        """Pack x, and return whether it has the very form of a step and its values lie within the bounds."""
        if type(x) is not np.ndarray or x.shape != self.out.shape or x.dtype != self.out.dtype:
            return False
        self.out[...] = x
        return self.look()

    def look(self) -> bool:
        """Return whether all values lie within the bounds."""
        if self.bounds is None:
            return True
        low, high = self.bounds
        values = self.out[: self.rows.N if self.last else self.rows.M]
        return bool(((values >= low) & (values <= high)).all())
