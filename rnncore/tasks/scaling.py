"""Columns of numbers brought to mean 0 and deviation 1."""

from __future__ import annotations

import numpy as np

__all__ = ["deviation", "varies"]

ROUNDING = 8  # units in the last place of the largest number


def varies(values: np.ndarray) -> np.ndarray:
    """Return of each column whether its numbers differ by more than rounding.

    Parameters
    ----------
    values : ndarray of float64, (S, C)

    Returns
    -------
    ndarray of bool, (C,)
    """
    low, high = values.min(axis=0), values.max(axis=0)
    varying: np.ndarray = high - low > ROUNDING * np.spacing(np.maximum(abs(low), abs(high)))
    return varying


def deviation(values: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each column, or 1 where it does not vary.

    That of equal numbers, as it is computed, need not be 0: their mean is rounded.

    Parameters
    ----------
    values : ndarray of float64, (S, C)

    Returns
    -------
    ndarray of float64, (C,)
    """
    return np.where(varies(values), values.std(axis=0), 1.0)
