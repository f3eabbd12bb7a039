"""Recipes for word lists."""

from __future__ import annotations

import numpy as np

from rnncore.optimizers import SGD
from rnncore.recipes.run import Run
from rnncore.tasks import CharLM
from rnncore.trainer import Trainer


def words(
    task: CharLM,
    seed: int = 0,
    epochs: int = 1001,
    *,
    hidden_size: int = 50,
    lr: float = 0.1,
    bptt: int | str = "full",
    progress: bool = True,
) -> Run[CharLM]:
    """Train on words as the tutorial does: one word an update, losses summed, plain gradient descent.

    Weights are normal with deviation 0.01, in double precision. With the naive rule (bptt 1) gradients are
    not clipped, otherwise each element is to ± 1.

    Parameters
    ----------
    task : CharLM
        Of words.
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
    """
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
    return Run("chars", task, model, history, task.evaluate(model))
