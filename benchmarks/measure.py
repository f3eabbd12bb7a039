"""Times, measured side by side: contenders take turns, so what slows the machine slows them all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from peers import pytorch

import rnncore

BLOCK = 0.1  # seconds, about, that are timed at once
REST = 0.01  # seconds after which idle threads of a pool have stopped spinning


class Quartiles(NamedTuple):
    """Lower quartile, median and upper quartile."""

    low: float
    median: float
    high: float


def quartiles(values: np.ndarray) -> Quartiles:
    """Return the quartiles of some values."""
    return Quartiles(*np.quantile(values, [0.25, 0.5, 0.75]).tolist())


@dataclass
class Contender:
    """Something to be timed.

    Attributes
    ----------
    run : callable
        Does the work once.
    threads : int
        That it may use.
    """

    run: Callable[[], Any]
    threads: int = 1


def set_threads(count: int) -> None:
    """Set the number of threads for those that let it be set at any time."""
    rnncore.set_num_threads(count)
    pytorch.set_num_threads(count)


def check_results(results: Mapping[str, Any]) -> None:
    """Raise unless all contenders have come to the same result."""
    (name, expected), *others = results.items()
    for other, result in others:
        if not np.allclose(result, expected, rtol=1e-3, atol=1e-4):
            raise ValueError(f"{other} gives {result}, but {name} {expected}: they do not do the same")


def side_by_side(
    contenders: Sequence[Contender], seconds: float, min_rounds: int, max_rounds: int
) -> np.ndarray:
    """Time contenders in rounds, each in its turn.

    Parameters
    ----------
    contenders : sequence of Contender
        Warm already.
    seconds : float
        For all, unless the smallest number of rounds takes longer.
    min_rounds, max_rounds : int

    Returns
    -------
    ndarray, (rounds, contenders)
        Seconds for one run.
    """
    once = [_block(contender, 1) for contender in contenders]
    counts = [max(1, round(BLOCK / duration)) for duration in once]
    counts = [max(1, round(BLOCK / _block(c, n))) for c, n in zip(contenders, counts, strict=True)]
    round_seconds = sum(n * duration for n, duration in zip(counts, once, strict=True))
    rounds = int(np.clip(seconds / round_seconds, min_rounds, max_rounds))
    times = np.empty((rounds, len(contenders)))
    gc.collect()
    gc.disable()
    try:
        for r in range(rounds):
            for i in np.roll(range(len(contenders)), r):  # nobody always follows the same one
                times[r, i] = _block(contenders[i], counts[i])
    finally:
        gc.enable()
    return times


def _block(contender: Contender, count: int) -> float:
    """Return the seconds for one run of several in a row.

    One before them is not counted, unless it takes as long as all: a core's caches hold another's work.
    """
    set_threads(contender.threads)
    run = contender.run
    if count > 1:
        run()
    start = time.perf_counter()
    for _ in range(count):
        run()
    duration = (time.perf_counter() - start) / count
    if contender.threads > 1:
        time.sleep(REST)
    return duration
