"""Recipe for texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnncore.optimizers import Adam
from rnncore.recipes.run import Run, phase
from rnncore.schedules import Cosine, EarlyStopping
from rnncore.tasks import CharLM
from rnncore.trainer import Trainer

__all__ = ["characters"]

VALIDATION = 0.1  # Part of the training part that is the validation part.
MOST_VALIDATION = 16_000  # Characters; more are not needed to tell when to stop.
LARGE = 700_000  # Characters; a training part of more cannot be learnt by heart within the budget.
BUDGET = 3_000_000  # Characters; the default network reads them in less than a minute.
SEARCHED = 1_200_000  # Characters; the search for the number of updates reads no more.
LONGER = 1.5  # Updates along a cosine for each one at a constant rate: about where the loss is least.
POINTS = 20  # Points of the curve.


def characters(
    task: CharLM,
    seed: int = 0,
    steps: int | None = None,
    *,
    lr: float = 3e-3,
    bptt: int | str = "full",
    patience: int = 10,
    progress: bool = True,
    checkpoints: Mapping[str, Any] | None = None,
    **options: Any,
) -> Run[CharLM]:
    """Train a language model on a text: Adam, gradients clipped to norm 5, as many updates as the text bears.

    The number of updates is found on the end of the training part, the validation part: a first network
    trains on the rest until the loss there gets no better. The network to keep is then trained anew on the
    whole training part, for half as many epochs again, while the learning rate goes down to 0 along a cosine.
    A text of more than 700,000 characters to train on is not learnt by heart within the 3 million characters
    that a default run reads: all of them go into the network to keep.

    Parameters
    ----------
    task : CharLM
        Of a text.
    seed : int, default 0
        For the first weights and the order of the batches.
    steps : int, optional
        Number of updates: just these, at a constant learning rate, with no validation part.
    lr : float, default 0.003
        Learning rate.
    bptt : "full" or int
        How far the gradient goes back within a chunk; see `Trainer`.
    patience : int, default 10
        Validations without a better loss that end the first training.
    progress : bool
        Show a progress bar.
    checkpoints : mapping, optional
        Arguments checkpoint, checkpoint_every and resume of `Trainer.fit`.
    options
        For ``task.model``: hidden_size, cell, num_layers, ...
    """

    def trainer() -> Trainer:
        model = task.model(**options, seed=seed)
        return Trainer(model, "cross_entropy", Adam(lr=lr), clip_norm=5.0, bptt=bptt, seed=seed)

    schedule: Cosine | None = None
    choice: dict[str, Any] = {}
    every = 100
    if steps is None:
        steps, choice = _updates(task, trainer(), patience, progress, phase(checkpoints, "validation"))
        schedule, every = Cosine(steps), math.ceil(steps / POINTS)
    final = trainer()
    history = final.fit(
        task, steps, validate_every=every, schedule=schedule, progress=progress, **(checkpoints or {})
    )
    before = 0
    for step, metrics in history.metrics.items():
        metrics["training_loss"] = float(np.mean(history.loss[before:step]))
        before = step
    epochs = steps * task.batch_size * task.chunk / task.split
    choice = {"updates": steps, "epochs": epochs, **choice}
    return Run("chars", task, final.model, history, _verdict, choice)


def _updates(
    task: CharLM, trainer: Trainer, patience: int, progress: bool, checkpoints: Mapping[str, Any]
) -> tuple[int, dict[str, Any]]:
    """Return how many updates the text bears, and how that was found."""
    size = task.batch_size * task.chunk  # characters of an update
    budget = math.ceil(BUDGET / size)
    if task.split > LARGE:
        return budget, {}
    validation = min(math.ceil(VALIDATION * task.split), MOST_VALIDATION)
    part = task.training_part(validation)
    # To read a character costs a third of learning from it: validation takes a fifth of the time at most.
    # With a patience of 10 training ends when a little more than an epoch has brought nothing.
    every = max(50, math.ceil(validation / (0.6 * size)), part.split // size // 8)
    stopping = EarlyStopping("validation_loss", patience=patience)
    history = trainer.fit(
        part,
        math.ceil(SEARCHED / size),
        validate_every=every,
        early_stopping=stopping,
        progress=progress,
        **checkpoints,
    )
    losses = {step: metrics["validation_loss"] for step, metrics in history.metrics.items()}
    best = min(losses, key=losses.__getitem__)
    choice = {
        "validation_characters": validation,
        "best_update": best,
        "validation_losses": losses,
    }
    return round(LONGER * best * task.split / part.split), choice


def _verdict(metrics: Mapping[str, float]) -> list[str]:
    """Say so if counting characters would have done as well."""
    network, ngram = metrics["validation_loss"], metrics["ngram_loss"]
    if network < ngram:
        return []
    return [
        f"The network does not beat the n-gram model on the held-out text: {network:.3f} against "
        f"{ngram:.3f} nats a character."
    ]
