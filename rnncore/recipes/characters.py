"""Recipes for texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnncore.optimizers import Adam
from rnncore.recipes.run import Run
from rnncore.tasks import CharLM
from rnncore.trainer import Trainer


def characters(
    task: CharLM,
    seed: int = 0,
    steps: int = 2000,
    *,
    lr: float = 3e-3,
    bptt: int | str = "full",
    progress: bool = True,
    checkpoints: Mapping[str, Any] | None = None,
    **options: Any,
) -> Run[CharLM]:
    """Train a language model on a text: Adam, gradients clipped to norm 5.

    Parameters
    ----------
    task : CharLM
        Of a text.
    seed : int, default 0
        For the first weights.
    steps : int, default 2000
        Number of updates.
    lr : float, default 0.003
        Learning rate.
    bptt : "full" or int
        How far the gradient goes back within a chunk; see `Trainer`.
    progress : bool
        Show a progress bar.
    checkpoints : mapping, optional
        Arguments checkpoint, checkpoint_every and resume of `Trainer.fit`.
    options
        For ``task.model``: hidden_size, cell, num_layers, ...
    """
    model = task.model(**options, seed=seed)
    trainer = Trainer(model, "cross_entropy", Adam(lr=lr), clip_norm=5.0, bptt=bptt)
    history = trainer.fit(task, steps, validate_every=100, progress=progress, **(checkpoints or {}))
    before = 0
    for step, metrics in history.metrics.items():
        metrics["training_loss"] = float(np.mean(history.loss[before:step]))
        before = step
    return Run("chars", task, model, history, task.evaluate(model))
