"""Recipes for long lags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnncore.optimizers import Adam
from rnncore.recipes.run import Run, train
from rnncore.schedules import Cosine
from rnncore.tasks import AddingProblem, EmbeddedReber, TemporalOrder
from rnncore.trainer import Trainer

__all__ = ["adding_problem", "reber", "temporal_order"]


def adding_problem(
    seed: int = 0,
    steps: int = 2000,
    *,
    length: int = 100,
    cell: str = "lstm",
    progress: bool = True,
    checkpoints: Mapping[str, Any] | None = None,
) -> Run[AddingProblem]:
    """Train a network of 32 units to add the two marked ones of many numbers.

    Parameters
    ----------
    seed : int, default 0
        For all sequences and the first weights.
    steps : int, default 2000
        Number of updates, of 50 sequences each.
    length : int, default 100
        Of the sequences.
    cell : {"lstm", "gru", "rnn"}
    progress : bool
        Show a progress bar.
    checkpoints : mapping, optional
        Arguments checkpoint, checkpoint_every and resume of `Trainer.fit`.
    """
    task = AddingProblem(length, seed=seed)
    return train(
        "adding-problem",
        task,
        task.model(cell=cell, seed=seed),
        "mse",
        steps,
        None,
        seed,
        progress,
        checkpoints,
    )


def temporal_order(
    seed: int = 0,
    steps: int = 500,
    *,
    length: int = 50,
    progress: bool = True,
    checkpoints: Mapping[str, Any] | None = None,
) -> Run[TemporalOrder]:
    """Train an LSTM of 32 units to tell in which order three symbols came.

    Parameters
    ----------
    seed : int, default 0
        For all sequences and the first weights.
    steps : int, default 500
        Number of updates, of 50 sequences each.
    length : int, default 50
        Of the sequences.
    progress : bool
        Show a progress bar.
    checkpoints : mapping, optional
        Arguments checkpoint, checkpoint_every and resume of `Trainer.fit`.
    """
    task = TemporalOrder(length, seed=seed)
    model = task.model(seed=seed)
    return train(
        "temporal-order", task, model, "cross_entropy", steps, Cosine(steps), seed, progress, checkpoints
    )


def reber(
    seed: int = 0,
    steps: int = 12_000,
    *,
    progress: bool = True,
    checkpoints: Mapping[str, Any] | None = None,
) -> Run[EmbeddedReber]:
    """Train an LSTM of 8 units, string by string, to tell what the embedded Reber grammar allows next.

    Training ends when six validations in a row, 400 strings apart, find every string right.

    Parameters
    ----------
    seed : int, default 0
        For all strings and the first weights.
    steps : int, default 12000
        Number of updates at most.
    progress : bool
        Show a progress bar.
    checkpoints : mapping, optional
        Arguments checkpoint, checkpoint_every and resume of `Trainer.fit`.
    """
    task = EmbeddedReber(seed=seed)
    model = task.model(seed=seed)
    # a longer memory from the start: all depends on a symbol some ten steps back
    H = model.layers["rnn"].out_features
    model.params["rnn.bias_ih_l0"][H : 2 * H] = 2
    every, perfect = 400, 0

    def learnt(step: int, loss: float) -> bool:
        nonlocal perfect
        if step % every == 0:
            perfect = perfect + 1 if task.validate(model)["legal"] == 1 else 0
        return perfect == 6

    trainer = Trainer(model, "cross_entropy", Adam(lr=0.01, betas=(0.9, 0.99)), clip_norm=1.0, seed=seed)
    history = trainer.fit(
        task,
        steps,
        validate_every=every,
        schedule=Cosine(steps),
        callbacks=[learnt],
        progress=progress,
        **checkpoints or {},
    )
    return Run("reber", task, model, history)
