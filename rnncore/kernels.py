"""Picks the kernels: NumPy's, or the compiled ones of an instruction-set level that this CPU runs.

The highest level is chosen, unless the environment variable ``RNNCORE_KERNELS`` names another: numpy, base,
v3, v4 or amx. The choice is made when ``kernels.active`` is first read.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from types import SimpleNamespace
from typing import Any

__all__ = ["FAMILIES", "active", "available", "choose", "get_num_threads", "load", "set_num_threads"]

FAMILIES = {
    "rnn": ("RNN",),
    "lstm": ("LSTM",),
    "gru": ("GRU",),
    "linear": ("Linear", "Embedding", "Dropout", "Join"),
    "losses": ("Activation", "Loss"),
    "optimizers": ("SGD", "Adagrad", "RMSprop", "Adam"),
}


def available() -> tuple[str, ...]:
    """Return the names of the kernels that run on this machine, slowest first."""
    try:
        from rnncore import _cpu
    except ImportError:
        return ("numpy",)
    return ("numpy", *_cpu.levels())


def load(name: str) -> SimpleNamespace:
    """Return the kernels of that name: a namespace of the stages and functions of all families, and `name`.

    Raises
    ------
    ValueError
        If this machine has no such kernels.
    """
    # The CPU is checked before a level's modules are imported, since even their import runs its instructions.
    if name not in available():
        raise ValueError(f"kernels {name!r} do not run here, expected one of {', '.join(available())}")
    kernels = SimpleNamespace(name=name)
    for family, members in FAMILIES.items():
        path = f"rnncore.reference.{family}" if name == "numpy" else f"rnncore._{family}_{name}"
        module = importlib.import_module(path)
        for member in members:
            setattr(kernels, member, getattr(module, member))
    # These are the same at every level, and run the stages of any level.
    for member, reference, compiled in (
        ("Forward", "step", "_stage"),
        ("set_num_threads", "step", "_stage"),
        ("get_num_threads", "step", "_stage"),
        ("num_threads_to_come", "step", "_stage"),
        ("Step", "step", "_stage"),
        ("Intake", "intake", "_intake"),
    ):
        path = f"rnncore.reference.{reference}" if name == "numpy" else f"rnncore.{compiled}"
        setattr(kernels, member, getattr(importlib.import_module(path), member))
    return kernels


def choose() -> SimpleNamespace:
    """Return the kernels that the environment asks for, or the fastest."""
    wanted = os.environ.get("RNNCORE_KERNELS")
    if not wanted and available() == ("numpy",):
        warnings.warn(
            "rnncore runs on its NumPy kernels: the compiled ones are missing from this installation",
            RuntimeWarning,
            stacklevel=2,
        )
    return load(wanted or available()[-1])


def set_num_threads(count: int) -> None:
    """Set the largest number of threads for all computations; results do not depend on it, to the bit.

    The default is the environment variable ``RNNCORE_NUM_THREADS``, or the number of cores that this process
    may use. Work that is too small to be split stays on one thread, and so do the NumPy kernels. A stream
    never uses more threads than were set when it was made.

    Parameters
    ----------
    count : int
        1 ... 64.

    Raises
    ------
    ValueError, TypeError
    """
    _module.active.set_num_threads(count)


def get_num_threads() -> int:
    """Return the largest number of threads that computations use."""
    return _module.active.get_num_threads()


_module: Any = sys.modules[__name__]
active: SimpleNamespace


def __getattr__(name: str) -> SimpleNamespace:
    if name != "active":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _module.active = choose()
    return _module.active
