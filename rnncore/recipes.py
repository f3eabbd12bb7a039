"""Ready-made training runs: what the command line offers, as functions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from rnncore import pictures
from rnncore.files import replacing
from rnncore.models import SequenceModel
from rnncore.optimizers import SGD, Adam
from rnncore.schedules import Cosine, Schedule
from rnncore.tasks import (
    AddingProblem,
    BinaryAddition,
    CharLM,
    EmbeddedReber,
    Forecasting,
    NoisySine,
    Task,
    TemporalOrder,
)
from rnncore.tasks.addition import encode, report, score
from rnncore.trainer import History, Trainer

__all__ = [
    "Run",
    "WrittenTask",
    "adding_problem",
    "addition",
    "characters",
    "reber",
    "series",
    "sine",
    "temporal_order",
    "tutorial_addition",
    "tutorial_sine",
    "words",
]


class WrittenTask(Task, Protocol):
    """A task that can tell how it is made, and draw its metrics."""

    def config(self) -> dict[str, Any]:
        """Return what makes such a task again, in plain types."""

    def draw(self, path: str | os.PathLike[str], metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Draw what `validate` gave, by the number of updates until then, into a PNG file."""


AnyTask = TypeVar("AnyTask", bound=WrittenTask)


class Run(NamedTuple, Generic[AnyTask]):
    """A finished training run.

    Attributes
    ----------
    name : str
        Of the task.
    task : Task
    model : SequenceModel
    history : History
    metrics : dict of str to float
        Of the trained model.
    """

    name: str
    task: AnyTask
    model: SequenceModel
    history: History
    metrics: dict[str, float]

    def write(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write the run into a folder and return the names of its files.

        They are model.safetensors, metrics.json, history.csv and, if matplotlib is there, curves.png.

        Raises
        ------
        OSError
            If one cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        about = {"task": {"name": self.name, **self.task.config()}, "metrics": self.metrics}
        self.model.save(folder / "model.safetensors")
        with replacing(folder / "metrics.json") as part:
            part.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        with replacing(folder / "history.csv") as part:
            self.history.to_csv(part)
        names = ["model.safetensors", "metrics.json", "history.csv"]
        if pictures.available():
            with replacing(folder / "curves.png") as part:
                self.task.draw(part, self.history.metrics)
            names.append("curves.png")
        return names


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
    return Run("addition", task, model, history, task.evaluate(model))


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
        The history holds the mean error and the part of exact sums of so many updates.
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
    return Run("addition", task, model, history, task.evaluate(model))


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


def series(
    task: Forecasting,
    seed: int = 0,
    steps: int = 300,
    *,
    hidden_size: int = 16,
    progress: bool = True,
    checkpoints: Mapping[str, Any] | None = None,
) -> Run[Forecasting]:
    """Train a GRU to forecast a series; a short series is soon learnt by heart, so this one stops early.

    Parameters
    ----------
    task : Forecasting
    seed : int, default 0
        For the first weights and the batches.
    steps : int, default 300
        Number of updates.
    hidden_size : int, default 16
        Units.
    progress : bool
        Show a progress bar.
    checkpoints : mapping, optional
        Arguments checkpoint, checkpoint_every and resume of `Trainer.fit`.
    """
    model = task.model(hidden_size, cell="gru", seed=seed)
    return _run("series", task, model, "mse", steps, Cosine(steps), seed, progress, checkpoints, lr=0.003)


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
    return _run(
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
    return Run("sine", task, model, history, task.evaluate(model))


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
    return _run(
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
    return _run(
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
    return Run("reber", task, model, history, task.evaluate(model))


def _run(
    name: str,
    task: AnyTask,
    model: SequenceModel,
    loss: str,
    steps: int,
    schedule: Schedule | None,
    seed: int,
    progress: bool,
    checkpoints: Mapping[str, Any] | None,
    lr: float = 0.01,
) -> Run[AnyTask]:
    """Train with Adam and gradients of norm 1 at most."""
    trainer = Trainer(model, loss, Adam(lr=lr), clip_norm=1.0, seed=seed)
    every = max(steps // 20, 1)
    history = trainer.fit(
        task, steps, validate_every=every, schedule=schedule, progress=progress, **(checkpoints or {})
    )
    return Run(name, task, model, history, task.evaluate(model))
