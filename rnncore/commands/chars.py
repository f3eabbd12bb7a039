"""Commands for character language models: train chars, train words, sample."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

import rnncore
from rnncore import pictures, recipes
from rnncore.commands.common import model_file, task_config, text_option, training_options, verbose_option
from rnncore.commands.runs import begin, checkpoint_options, finish, kept, shows_progress
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


encoding_option = click.option("--encoding", help="Of FILE.  [default: UTF-8, or UTF-16 if it begins so]")


@click.command("chars")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--cell", type=click.Choice(["lstm", "gru", "rnn"]), default="gru", show_default=True)
@click.option(
    "--hidden", type=click.IntRange(min=1), default=256, show_default=True, help="Units of a layer."
)
@click.option("--layers", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--embedding", type=click.IntRange(min=1), help="Learn a vector of this size for each character."
)
@click.option("--dropout", type=float, default=0.0, show_default=True, help="Between layers.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Streams at once.")
@click.option(
    "--chunk",
    type=click.IntRange(min=1),
    help="Steps an update.  [default: 32, or 64 from 300,000 characters on]",
)
@click.option(
    "--bptt",
    type=reach,
    metavar="full|K",
    default="full",
    show_default=True,
    help="Steps the gradient goes back.",
)
@click.option("--lr", type=float, default=3e-3, show_default=True, help="Learning rate of Adam.")
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Updates, at a constant learning rate.  [default: found on a validation part]",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Validations without a better loss that end training.",
)
@encoding_option
@training_options("chars")
@verbose_option
@checkpoint_options
def train_chars(
    file: Path | None,
    hidden: int,
    layers: int,
    embedding: int | None,
    batch: int,
    chunk: int | None,
    encoding: str | None,
    steps: int | None,
    seed: int,
    out: Path,
    quiet: bool,
    verbose: bool,
    checkpoints: dict[str, Any],
    **options: Any,
) -> None:
    """Teach a network to continue the text in FILE, or Python's language reference.

    The number of updates is found on a validation part at the end of the training part; the network is then
    trained anew on all of that. The result is tested on the last tenth of the text, which neither has seen.
    """
    task = CharLM(file, batch_size=batch, chunk=chunk, encoding=encoding)
    begin(out)
    if not quiet:
        click.echo(f"{task.source}: {len(task.ids):,} characters, {len(task.vocabulary)} different ones")
    if embedding is not None:
        options["embedding_size"] = embedding
    run = recipes.characters(
        task,
        seed,
        steps,
        hidden_size=hidden,
        num_layers=layers,
        progress=shows_progress(quiet),
        checkpoints=checkpoints,
        **options,
    )

    def show_sample() -> None:
        beginning = decode(task.ids[:1], task.vocabulary)
        (text,) = sample(run.model, task.vocabulary, beginning, SHOWN, temperature=0.7, seed=seed)
        click.echo(f"\n{text}\n")

    finish(run, out, show=None if quiet else show_sample)


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
@click.option(
    "--recipe",
    type=click.Choice(["default", "tutorial"]),
    default="default",
    show_default=True,
    help="tutorial: one word an update, plain gradient descent.",
)
@click.option("--cell", type=click.Choice(["rnn", "gru", "lstm"]), help="[default: rnn]")
@click.option("--layers", "num_layers", type=click.IntRange(min=1), help="[default: 1]")
@click.option(
    "--hidden",
    "hidden_size",
    type=click.IntRange(min=1),
    help="Units of a layer.  [default: 50]",
)
@click.option("--lr", type=float, help="Learning rate.  [default: 0.01; tutorial 0.1]")
@click.option("--batch", type=click.IntRange(min=1), help="Words an update.  [default: 32; tutorial 1]")
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="Passes over all words.  [default: 600, fewer for more than 1600 words; tutorial 1001]",
)
@encoding_option
@training_options("words")
def train_words(
    words: tuple[str, ...],
    recipe: str,
    bptt: tuple[int | str, ...],
    batch: int | None,
    encoding: str | None,
    seed: int,
    out: Path,
    quiet: bool,
    **options: Any,
) -> None:
    """Teach a network WORDS, each from its first letter, or those in a file of one word a line.

    By default twice: with the gradient going back one step (the naive rule), and with full backpropagation
    through time. Each run has a folder of its own below that of the picture that compares them. A word costs
    at least the ideal loss on average, which the first letters alone leave open.
    """
    options = {name: value for name, value in options.items() if value is not None}
    train: Callable[..., recipes.Run[CharLM]] = recipes.words
    if recipe == "tutorial":
        if options.keys() & {"cell", "num_layers"} or batch:
            raise click.UsageError("the tutorial recipe is an Elman network of one layer, one word an update")
        train, batch = recipes.tutorial_words, 1
    task = CharLM(_words(words, encoding), batch_size=batch)
    begin(out)
    runs = {}
    for k in dict.fromkeys(bptt):
        name = f"bptt-{k}"
        run = runs[name] = train(task, seed, bptt=k, progress=shows_progress(quiet), **options)
        show = None if quiet else functools.partial(_show_probabilities, run)
        finish(run, out / name, heading=name, show=show)
    if pictures.available():
        curves = {name: _losses(run) for name, run in runs.items()}
        panel = pictures.Panel("loss of a word, nats", curves, logarithmic=True)
        title = "How far the gradient goes back"
        with kept(out), replacing(out / "curves.png") as part:
            pictures.training_curves(part, title, list(run.history.metrics), [panel])


def _words(words: tuple[str, ...], encoding: str | None) -> list[str]:
    """Return the words, or the lines of the file that is given instead."""
    if len(words) > 1:
        return list(words)
    path = Path(words[0])
    if path.is_file():
        return [word for word in read(path, encoding).split("\n") if word]
    if path.suffix or len(path.parts) > 1:  # nobody means to learn "words.txt" by heart
        raise ValueError(f"there is no file {words[0]}")
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
@text_option
def draw_gradients(model: Path, bptt: tuple[int | str, ...], out: Path, file: Path | None) -> None:
    """Draw how far back in time the gradient of a character MODEL reaches, for texts."""
    if not pictures.available():
        raise click.ClickException('a picture needs matplotlib: pip install "rnncore[plot]"')
    path = model_file(model)
    network = rnncore.load(path)
    config = task_config(path, file)
    if not config.get("source") or "vocabulary" not in config:
        raise ValueError(f"{path} is no model of a text: rnncore train chars makes one")
    del config["name"]
    batch = next(iter(CharLM.from_config(**config).batches(np.random.default_rng(0))))
    norms = gradients.norms(network, batch.x, batch.y[:, -1])
    with replacing(out) as part:
        pictures.gradient_norms(part, "Gradient of the last character's loss", norms.tolist(), bptt)
    click.echo(f"{norms[0]:.3g} of {norms[-1]:.3g} arrives {len(norms) - 1} steps earlier; picture: {out}")
