"""Recurrent networks on the CPU: the fastest way to train and to run one."""

from __future__ import annotations

import os
import sys

if os.path.basename(sys.argv[0] if sys.argv else "") in ("rnncore", "rnncore.exe"):
    from rnncore import interrupt

    interrupt.end_in_one_line()  # before all that takes time to import

from typing import Any

from rnncore import initializers, losses, optimizers, schedules, tasks
from rnncore.files import load_extra
from rnncore.kernels import get_num_threads, set_num_threads
from rnncore.layers import GRU, LSTM, RNN, Embedding, Linear
from rnncore.models import SequenceModel, Sequential, Stream, load
from rnncore.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
from rnncore.trainer import History, Trainer

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Embedding",
    "History",
    "Linear",
    "RMSprop",
    "SequenceModel",
    "Sequential",
    "Stream",
    "Trainer",
    "__version__",
    "get_num_threads",
    "initializers",
    "load",
    "load_extra",
    "losses",
    "optimizers",
    "schedules",
    "set_num_threads",
    "tasks",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        import importlib.metadata  # slow to import, so only when asked for

        return importlib.metadata.version("rnncore")
    raise AttributeError(f"module 'rnncore' has no attribute {name!r}")
