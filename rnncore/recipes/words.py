"""Recipes for word lists."""

from __future__ import annotations

import math

import numpy as np

from rnncore.optimizers import SGD, Adam
from rnncore.recipes.run import Run
from rnncore.schedules import Cosine
from rnncore.tasks import CharLM
from rnncore.trainer import Trainer

__all__ = ["tutorial_words", "words"]

EPOCHS = 600  # by which 300 words are learnt by heart
UPDATES = 30_000  # the most by default: half a minute
POINTS = 60  # of the curve


def words(
    task: CharLM,
    seed: int = 0,
    epochs: int | None = None,
    *,
    hidden_size: int = 50,
    cell: str = "rnn",
    num_layers: int = 1,
    lr: float = 0.01,
    bptt: int | str = "full",
    progress: bool = True,
) -> Run[CharLM]:
    """Train on words, many in an update: Adam, gradients of norm 1 at most, a cosine to learning rate 0.

    Parameters
    ----------
    task : CharLM
        Of words.
    seed : int, default 0
        For the first weights.
    epochs : int, optional
        Passes over the words: 600, or fewer where that would take more than 30,000 updates.
    hidden_size : int, default 50
        Units of a layer. With many more units the naive rule does nearly as well as full backpropagation.
    cell : {"rnn", "gru", "lstm"}
    num_layers : int, default 1
    lr : float, default 0.01
        Learning rate.
    bptt : "full" or int
        How far the gradient goes back; see `Trainer`.
    progress : bool
        Show a progress bar.
    """
    updates = math.ceil((task.split + 1) / task.batch_size)  # of an epoch; the newline is one more word
    if epochs is None:
        epochs = max(min(EPOCHS, UPDATES // updates), 1)
    model = task.model(hidden_size, cell=cell, num_layers=num_layers, init="default", seed=seed)
    trainer = Trainer(model, "cross_entropy", Adam(lr=lr), clip_norm=1.0, bptt=bptt)
    history = trainer.fit(
        task,
        epochs=epochs,
        validate_every=updates * max(epochs // POINTS, 1),
        schedule=Cosine(updates * epochs),
        progress=progress,
    )
    return Run("chars", task, model, history)


def tutorial_words(
    task: CharLM,
    seed: int = 0,
    epochs: int = 1001,
    *,
    hidden_size: int = 50,
    lr: float = 0.1,
    bptt: int | str = "full",
    progress: bool = True,
) -> Run[CharLM]:
    """Train on words as the tutorial does: losses summed, plain gradient descent.

    Weights are normal with deviation 0.01, in double precision. With the naive rule (bptt 1) gradients are
    not clipped, otherwise each element is to ± 1.

    Parameters
    ----------
    task : CharLM
        Of words, with ``batch_size=1``: the tutorial makes an update after every word.
    seed : int, default 0
        For the first weights.
    epochs : int, default 1001
        Passes over the words. The history holds, for each, the mean of the losses before its updates.
    hidden_size : int, default 50
    lr : float, default 0.1
        Learning rate.
    bptt : "full" or int
        How far the gradient goes back; see `Trainer`.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        If the task makes batches of several words.
    """
    if task.batch_size != 1:
        raise ValueError(
            f"the tutorial learns word by word: task.batch_size must be 1, got {task.batch_size}"
        )
    model = task.model(hidden_size, init="zeros", dtype="float64")
    rng = np.random.default_rng(seed)
    # the tutorial's order: W_xh, W_hh, W_hy
    for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"):
        weight = model.params[name]
        weight[...] = 0.01 * rng.standard_normal(weight.shape)
    clip = None if bptt == 1 else 1.0
    trainer = Trainer(model, "cross_entropy", SGD(lr=lr), clip_value=clip, reduction="sum", bptt=bptt)
    history = trainer.fit(task, epochs=epochs, progress=progress)
    losses = np.reshape(history.loss, (epochs, -1))
    updates = losses.shape[1]
    history.metrics = {
        updates * epoch: {"word_loss": loss} for epoch, loss in enumerate(losses.mean(axis=1).tolist(), 1)
    }
    return Run("chars", task, model, history)
