"""What may come in: arguments are checked once, at the border, and nowhere behind it.

Every error names the argument, what was expected and what came. Whatever NumPy can read without losing its
meaning is taken as it is: lists, other real dtypes, byte-swapped, read-only, Fortran-ordered and strided
arrays.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "array",
    "arrays",
    "choice",
    "dense",
    "dtype",
    "finite",
    "first_outside",
    "flag",
    "flags",
    "integer",
    "integers",
    "lengths",
    "output",
    "real",
    "shape",
]

DTYPES = ("float32", "float64")


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """Return value as an int of at least `minimum`."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def real(name: str, value: Any, low: float = 0.0, high: float = math.inf, *, open_low: bool = False) -> float:
    """Return value as a finite float in [low, high), or in (low, high) if `open_low`."""
    if isinstance(value, bool | np.bool_ | str | bytes):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not (low < number if open_low else low <= number) or not number < high:
        interval = f"{'(' if open_low else '['}{low:g}, {high:g})"
        raise ValueError(f"{name} must lie in {interval}, got {number:g}")
    return number


def flag(name: str, value: Any) -> bool:
    """Return value, which must be True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def choice(name: str, value: Any, options: Iterable[Any]) -> Any:
    """Return value, which must be one of `options`."""
    options = tuple(options)
    # by type as well: 1 == True
    if not any(type(value) is type(option) and value == option for option in options):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")
    return value


def dtype(value: Any) -> np.dtype[Any]:
    """Return float32 or float64 in native byte order."""
    try:
        found = np.dtype(value)
    except TypeError:
        found = None
    if found is None or value is None or not found.isnative or found.name not in DTYPES:
        raise ValueError(f"dtype must be 'float32' or 'float64', got {value!r}")
    return found


def array(name: str, value: npt.ArrayLike) -> np.ndarray:
    """Return value as an array, without a copy where it is one; a mask that hides something is refused."""
    if type(value) is np.ndarray:
        return value  # mostly, and at every step
    parts = value if isinstance(value, list | tuple) else (value,)
    hidden = sum(int(np.ma.getmaskarray(part).sum()) for part in parts if isinstance(part, np.ma.MaskedArray))
    if hidden:
        raise ValueError(
            f"{name} must have no masked elements, but has {hidden}: fill them or leave them out"
        )
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array, but its parts differ in shape: {error}") from None


def dense(name: str, value: npt.ArrayLike) -> np.ndarray:
    """Return value as an array of real numbers."""
    found = array(name, value)
    if found.dtype.kind not in "fiub":
        for column in getattr(value, "columns", ()):  # of a data frame
            if (kind := np.asarray(value[column]).dtype).kind not in "fiub":  # type: ignore[index]
                raise TypeError(f"column {column!r} of {name} must hold real numbers, got dtype {kind}")
        raise TypeError(f"{name} must hold real numbers, got dtype {found.dtype}")
    return found


def integers(name: str, value: npt.ArrayLike, what: str) -> np.ndarray:
    """Return value as an array of integers; an empty list has no dtype of its own and passes."""
    found = array(name, value)
    if found.dtype.kind not in "iu" and not (found.size == 0 and not isinstance(value, np.ndarray)):
        raise TypeError(f"{name} must hold integers ({what}), got dtype {found.dtype}")
    return found


def flags(name: str, value: npt.ArrayLike, expected: Sequence[int | str]) -> np.ndarray:
    """Return value as an array of booleans of the expected shape."""
    found = array(name, value)
    if found.dtype != bool:
        raise TypeError(f"{name} must hold True or False, got dtype {found.dtype}")
    shape(name, found, expected)
    return found


def shape(name: str, found: np.ndarray, expected: Sequence[int | str]) -> None:
    """Raise unless `found` has the expected shape; a letter stands for any size."""
    fits = found.ndim == len(expected) and all(
        isinstance(size, str) or size == came for size, came in zip(expected, found.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
        raise ValueError(f"{name} must have shape ({wanted}), got {found.shape}")


def output(name: str, found: Any, like: np.ndarray) -> None:
    """Raise unless `found` is an array that a result like this one can be written into."""
    if not isinstance(found, np.ndarray) or not np.can_cast(like.dtype, found.dtype, "same_kind"):
        kind = f"dtype {found.dtype}" if isinstance(found, np.ndarray) else type(found).__name__
        raise TypeError(f"{name} must be an array of {like.dtype}, got {kind}")
    shape(name, found, like.shape)
    if not found.flags.writeable:
        raise ValueError(f"{name} must be writeable")


def lengths(value: npt.ArrayLike | None, N: int, T: int) -> np.ndarray | None:
    """Return the valid steps of each sequence, (N,) integers in 0 ... T; None stays None: all have T."""
    if value is None:
        return None
    found = integers("lengths", value, "the valid steps of each sequence")
    shape("lengths", found, (N,))
    for n in np.flatnonzero((found < 0) | (found > T))[:1]:
        if found[n] < 0:
            raise ValueError(f"lengths[{n}] = {found[n]} is negative")
        raise ValueError(f"lengths[{n}] = {found[n]}, but x has only T = {T} steps")
    return found.astype(np.intp, copy=False)


def arrays(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return copies of named arrays; none may be missing, unknown, or of another shape than expected.

    Copies, since they may be the very arrays that the caller writes into next, in another order.
    """
    problems = [f"{name} is missing" for name in expected.keys() - given.keys()]
    problems += [f"{name} is unknown" for name in given.keys() - expected.keys()]
    if problems:
        raise ValueError(f"the names do not fit: {', '.join(sorted(problems))}")
    found = {name: dense(name, value).copy() for name, value in given.items()}
    for name, value in found.items():
        shape(name, value, expected[name])
    return found


def finite(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the bounds of the finite numbers of a dtype."""
    limits = np.finfo(dtype)
    return float(limits.min), float(limits.max)


def first_outside(values: np.ndarray, bounds: tuple[float, float]) -> tuple[int, ...] | None:
    """Return the index of the first element that is not within the bounds; NaN is within none."""
    wrong = np.argwhere(~((values >= bounds[0]) & (values <= bounds[1])))
    return tuple(int(i) for i in wrong[0]) if len(wrong) else None
