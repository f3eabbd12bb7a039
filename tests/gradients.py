"""Central differences, for the tests of gradients."""

from collections.abc import Callable

import numpy as np


def central_differences(objective: Callable[[], float], array: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """The gradient of the objective with respect to an array that it reads, one element after another."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = objective()
        array[index] = kept - step
        below = objective()
        array[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
