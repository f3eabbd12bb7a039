"""Recurrent networks on the CPU: the fastest way to train and to run one."""

from __future__ import annotations

import importlib
from typing import Any

from rnncore import initializers, losses, optimizers
from rnncore.data import Batch, Task
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
    "Batch",
    "Embedding",
    "History",
    "Linear",
    "RMSprop",
    "SequenceModel",
    "Sequential",
    "Stream",
    "Task",
    "Trainer",
    "__version__",
    "initializers",
    "load",
    "losses",
    "optimizers",
    "tasks",
]


def __getattr__(name: str) -> Any:
    # what costs time to import waits until it is asked for
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("rnncore")
    if name == "tasks":
        return importlib.import_module("rnncore.tasks")
    raise AttributeError(f"module 'rnncore' has no attribute {name!r}")
