"""Recipes for series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnncore.optimizers import SGD
from rnncore.recipes.run import Run, train
from rnncore.schedules import Cosine
from rnncore.tasks import Forecasting, NoisySine
from rnncore.trainer import Trainer

__all__ = ["network_series", "sine", "tutorial_sine"]


def network_series(
    task: Forecasting,
    seed: int = 0,
    steps: int = 300,
    *,
    cell: str = "gru",
    hidden_size: int = 16,
    num_layers: int = 1,
    dropout: float = 0.0,
    lr: float = 0.003,
    progress: bool = True,
    checkpoints: Mapping[str, Any] | None = None,
) -> Run[Forecasting]:
    """Train a network alone, without baselines, to forecast a series.

    Parameters
    ----------
    task : Forecasting
    seed : int, default 0
        For the first weights and the batches.
    steps : int, default 300
        Number of updates.
    cell : {"gru", "lstm", "rnn"}
    hidden_size : int, default 16
        Units of a layer.
    num_layers : int, default 1
    dropout : float, default 0
        Between layers.
    lr : float, default 0.003
        Learning rate.
    progress : bool
        Show a progress bar.
    checkpoints : mapping, optional
        Arguments checkpoint, checkpoint_every and resume of `Trainer.fit`.
    """
    model = task.model(hidden_size, cell=cell, num_layers=num_layers, dropout=dropout, seed=seed)
    return train("series", task, model, "mse", steps, Cosine(steps), seed, progress, checkpoints, lr=lr)


def sine(
    seed: int = 0, steps: int = 1500, *, progress: bool = True, checkpoints: Mapping[str, Any] | None = None
) -> Run[NoisySine]:
    """Train an LSTM on a noisy sine wave, so that it can draw the wave by itself.

    Parameters
    ----------
    seed : int, default 0
        For the noise of the series, the first weights and the batches.
    steps : int, default 1500
        Number of updates.
    progress : bool
        Show a progress bar.
    checkpoints : mapping, optional
        Arguments checkpoint, checkpoint_every and resume of `Trainer.fit`.
    """
    task = NoisySine(seed)
    return train(
        "sine", task, task.model(45, seed=seed), "mse", steps, Cosine(steps), seed, progress, checkpoints
    )


def tutorial_sine(
    seed: int = 0,
    steps: int = 301 * 9,
    *,
    progress: bool = True,
    checkpoints: Mapping[str, Any] | None = None,
) -> Run[NoisySine]:
    """Train as the tutorial does: plain gradient descent, and a state that goes on between shuffled windows.

    LSTM with one bias, weights normal with deviation 1/√fan-in; half the squared error, summed over a batch,
    with rate 0.008.

    Parameters
    ----------
    seed : int, default 0
        For the noise of the series, the first weights and the batches.
    steps : int, default 2709
        Number of updates, 9 an epoch.
    progress : bool
        Show a progress bar.
    checkpoints : mapping, optional
        Arguments checkpoint, checkpoint_every and resume of `Trainer.fit`.
    """
    task = NoisySine(seed, noise=0, batch_size=10, carry=True)
    rng = np.random.default_rng(seed)
    model = task.model(45, bias="single", init="lecun", seed=rng)
    trainer = Trainer(model, "half_mse", SGD(lr=0.008), reduction="sum", seed=rng)
    history = trainer.fit(task, steps, validate_every=90, progress=progress, **(checkpoints or {}))
    return Run("sine", task, model, history)
