"""Recipes for binary addition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rnncore.optimizers import SGD, Adam
from rnncore.recipes.run import Run
from rnncore.tasks import BinaryAddition
from rnncore.tasks.addition import encode, report, score
from rnncore.trainer import History, Trainer

__all__ = ["addition", "tutorial_addition"]


def addition(
    seed: int = 0, steps: int = 800, *, progress: bool = True, checkpoints: Mapping[str, Any] | None = None
) -> Run[BinaryAddition]:
    """Train a small network to add, from many random 8-bit sums at once.

    Parameters
    ----------
    seed : int, default 0
        For the pairs held out, the first weights and the batches.
    steps : int, default 800
        Number of updates.
    progress : bool
        Show a progress bar.
    checkpoints : mapping, optional
        Arguments checkpoint, checkpoint_every and resume of `Trainer.fit`.
    """
    task = BinaryAddition(seed=seed)
    rng = np.random.default_rng(seed)
    model = task.model(seed=rng)
    trainer = Trainer(model, "bce", Adam(lr=0.03), seed=rng)
    history = trainer.fit(task, steps, validate_every=20, progress=progress, **(checkpoints or {}))
    return Run("addition", task, model, history)


def tutorial_addition(
    seed: int = 0,
    steps: int = 20_000,
    *,
    smallest: int = 1,
    every: int = 100,
    say: Callable[[str], None] | None = None,
    progress: bool = True,
) -> Run[BinaryAddition]:
    """Train as the tutorials do, from the same random numbers: one sum an update, sigmoid units, no biases.

    Every weight is uniform in [-1, 1); the loss is half the squared error after the sigmoid, summed over the
    bits; plain gradient descent with rate 0.1.

    Parameters
    ----------
    seed : int, default 0
        Of NumPy's legacy generator, which gives the weights and then the operands.
    steps : int, default 20000
        Number of updates.
    smallest : int, default 1
        Operand; the largest is 127.
    every : int, default 100
        The number of updates over which the history has the mean error and the part of exact sums.
    say : callable, optional
        Called with a line about the latest sum at the same updates, the first included.
    progress : bool
        Show a progress bar.
    """
    from tqdm import tqdm

    random = np.random.RandomState(seed)
    task = BinaryAddition(held_out=0, batch_size=1, seed=seed)
    model = task.model(bias=False, init="zeros", dtype="float64")
    # the tutorials' order: W_xh, W_hy, W_hh, each of shape (from, to)
    for name in ("rnn.weight_ih_l0", "head.weight", "rnn.weight_hh_l0"):
        weight = model.params[name]
        weight[...] = random.uniform(-1, 1, weight.T.shape).T
    trainer = Trainer(model, "half_mse", SGD(lr=0.1), reduction="sum")

    history = History()
    recent: list[tuple[float, float]] = []
    for step in tqdm(range(steps), unit="step", disable=not progress):
        pair = random.randint(smallest, 128, size=(1, 2)).astype(np.uint64)
        x, y = encode(pair, 8)
        history.loss.append(trainer.step(x, y))
        prediction = trainer.prediction
        recent.append(score(prediction, y))
        if say and step % every == 0:
            say(f"update {step}  error {recent[-1][0]:.4f}  {report(x, prediction)}")
        if (step + 1) % every == 0 or step + 1 == steps:
            error, exact = np.mean(recent, axis=0).tolist()
            longer = task.exact(model, 10, count=1000)
            history.metrics[step + 1] = {"error": error, "exact_8": exact, "exact_10": longer}
            recent.clear()
    return Run("addition", task, model, history)
