"""Commands for character language models: train chars, train words, sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

import rnncore
from rnncore import pictures, recipes
from rnncore.commands.common import (
    checkpoint_options,
    model_file,
    require_writable,
    show_metrics,
    task_config,
    training_options,
    write,
)
from rnncore.files import replacing
from rnncore.tasks import CharLM, gradients
from rnncore.tasks.characters import END, decode, read, sample

__all__ = ["draw_gradients", "reach", "sample_text", "train_chars", "train_words"]

SHOWN = 300  # characters of the sample after training


def reach(value: str) -> int | str:
    """Return how far the gradient goes back: "full" or a number of steps."""
    if value == "full":
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"must be 'full' or a number of steps, got {value!r}")
    return int(value)


@click.command("chars")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--cell", type=click.Choice(["lstm", "gru", "rnn"]), default="lstm", show_default=True)
@click.option(
    "--hidden", type=click.IntRange(min=1), default=128, show_default=True, help="Units of a layer."
)
@click.option("--layers", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Streams at once.")
@click.option("--chunk", type=click.IntRange(min=1), default=64, show_default=True, help="Steps an update.")
@click.option(
    "--bptt",
    type=reach,
    metavar="full|K",
    default="full",
    show_default=True,
    help="Steps the gradient goes back.",
)
@click.option("--lr", type=float, default=3e-3, show_default=True, help="Learning rate of Adam.")
@click.option("--steps", type=click.IntRange(min=1), default=2000, show_default=True, help="Updates.")
@training_options("chars")
@checkpoint_options
def train_chars(
    file: Path | None,
    cell: str,
    hidden: int,
    layers: int,
    batch: int,
    chunk: int,
    bptt: int | str,
    lr: float,
    steps: int,
    seed: int,
    out: Path,
    quiet: bool,
    checkpoints: dict[str, Any],
) -> None:
    """Teach a network to continue the text in FILE (UTF-8), or Python's language reference."""
    task = CharLM(file, batch_size=batch, chunk=chunk)
    require_writable(out)
    if not quiet:
        click.echo(f"{task.source}: {len(task.ids):,} characters, {len(task.vocabulary)} different ones")
    run = recipes.characters(
        task,
        seed,
        steps,
        cell=cell,
        hidden_size=hidden,
        num_layers=layers,
        bptt=bptt,
        lr=lr,
        progress=not quiet,
        checkpoints=checkpoints,
    )
    show_metrics(run.metrics)
    if not quiet:
        beginning = decode(task.ids[:1], task.vocabulary)
        (text,) = sample(run.model, task.vocabulary, beginning, SHOWN, temperature=0.7, seed=seed)
        click.echo(f"\n{text}\n")
    write(run, out)


@click.command("words")
@click.argument("words", nargs=-1, required=True)
@click.option(
    "--bptt",
    type=reach,
    metavar="full|K",
    multiple=True,
    default=("1", "full"),
    show_default=True,
    help="Steps the gradient goes back; given several times, training runs with each.",
)
@click.option("--hidden", type=click.IntRange(min=1), default=50, show_default=True, help="Units.")
@click.option("--lr", type=float, default=0.1, show_default=True, help="Learning rate.")
@click.option(
    "--epochs", type=click.IntRange(min=1), default=1001, show_default=True, help="Passes over all words."
)
@training_options("words")
def train_words(
    words: tuple[str, ...],
    bptt: tuple[int | str, ...],
    hidden: int,
    lr: float,
    epochs: int,
    seed: int,
    out: Path,
    quiet: bool,
) -> None:
    """Teach a network WORDS, each from its first letter, or those in a file of one word a line.

    One word an update, plain gradient descent. By default twice: with the gradient going back one step (the
    naive rule), and with full backpropagation through time. Each run has a folder of its own below that of
    the picture that compares them.
    """
    task = CharLM(_words(words))
    require_writable(out)
    runs = {}
    for k in dict.fromkeys(bptt):
        name = f"bptt-{k}"
        run = runs[name] = recipes.words(
            task, seed, epochs, bptt=k, hidden_size=hidden, lr=lr, progress=not quiet
        )
        click.echo(name)
        show_metrics(run.metrics)
        if not quiet:
            _show_probabilities(run)
        write(run, out / name)
    if pictures.available():
        curves = {name: _losses(run) for name, run in runs.items()}
        panel = pictures.Panel("loss of a word, nats", curves, logarithmic=True)
        title = "How far the gradient goes back"
        with replacing(out / "curves.png") as part:
            pictures.training_curves(part, title, list(run.history.metrics), [panel])


def _words(words: tuple[str, ...]) -> list[str]:
    """Return the words, or the lines of a file if there is one of that name."""
    if len(words) == 1 and Path(words[0]).is_file():
        return [word for word in read(Path(words[0])).split("\n") if word]
    return list(words)


def _losses(run: recipes.Run[CharLM]) -> list[float]:
    return [metrics["word_loss"] for metrics in run.history.metrics.values()]


def _show_probabilities(run: recipes.Run[CharLM]) -> None:
    """Print how probable some words are, given their first letters."""
    words = list(dict.fromkeys(run.task.words))[:10]
    for word, p in zip(words, run.task.probabilities(run.model, words), strict=True):
        click.echo(f"  P({word} | {word[0]}) = {p:.4f}")


@click.command("sample")
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--prompt",
    help="What to continue.  [default: a new line, if the text has any; for words the first letter]",
)
@click.option("--length", type=click.IntRange(min=1), default=500, show_default=True, help="At most.")
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="Number of samples.")
@click.option(
    "--temperature", type=float, default=1.0, show_default=True, help="Below 1: fewer surprises; 0: none."
)
@click.option("--top-k", type=click.IntRange(min=1), help="Draw from the K likeliest characters only.")
@click.option("--top-p", type=float, help="Draw from the likeliest that together have probability P.")
@click.option("--stop", help="Character that ends a sample.  [default: none; of words the newline]")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
def sample_text(model: Path, prompt: str | None, stop: str | None, **options: Any) -> None:
    """Continue a text with a MODEL: a folder that `rnncore train` has written, or a model file in one."""
    path = model_file(model)
    network = rnncore.load(path)
    config = task_config(path)
    try:
        vocabulary, words = config["vocabulary"], config.get("words", [])
    except KeyError:
        raise ValueError(f"{path} is no character model: rnncore train chars, or words, makes one") from None
    if prompt is None:
        prompt = words[0][0] if words else next(c for c in f"{END} {vocabulary}" if c in vocabulary)
    if stop is None and words:
        stop = END
    for text in sample(network, vocabulary, prompt, stop=stop, **options):
        click.echo(text)


@click.command("gradients")
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--bptt", type=reach, metavar="full|K", multiple=True, default=("full", "8", "1"), show_default=True
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("gradients.png"), show_default=True
)
def draw_gradients(model: Path, bptt: tuple[int | str, ...], out: Path) -> None:
    """Draw how far back in time the gradient of a character MODEL reaches, for texts."""
    path = model_file(model)
    network = rnncore.load(path)
    config = task_config(path)
    if "source" not in config:
        raise ValueError(f"{path} is no model of a text: rnncore train chars makes one")
    del config["name"]
    batch = next(iter(CharLM.from_config(**config).batches(np.random.default_rng(0))))
    norms = gradients.norms(network, batch.x, batch.y[:, -1])
    with replacing(out) as part:
        pictures.gradient_norms(part, "Gradient of the last character's loss", norms.tolist(), bptt)
    click.echo(f"{norms[0]:.3g} of {norms[-1]:.3g} arrives {len(norms) - 1} steps earlier; picture: {out}")
