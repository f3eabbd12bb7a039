"""The command line."""

from __future__ import annotations

import inspect
import io
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
import numpy as np

import rnncore
from rnncore import kernels, machine, recipes, tasks
from rnncore.commands.bench import bench
from rnncore.commands.chars import draw_gradients, sample_text, train_chars, train_words
from rnncore.commands.common import (
    EXPECTED,
    message,
    model_files,
    show_metrics,
    task_config,
    text_option,
    training_options,
)
from rnncore.commands.forecast import forecast, train_series, train_sine
from rnncore.commands.problems import train_adding_problem, train_reber, train_temporal_order
from rnncore.commands.runs import begin, checkpoint_options, finish, shows_progress
from rnncore.tasks.addition import encode, report

__all__ = ["cli", "evaluate", "info", "main", "train", "train_addition"]

SHOWN = ((8, 4), (16, 2), (64, 1))  # bits and number of the sums that are printed
# tasks by their names, made from their configurations
TASKS: dict[str, Callable[..., tasks.Task]] = {
    "addition": tasks.BinaryAddition,
    "chars": tasks.CharLM.from_config,
    "series": tasks.Forecasting,
    "sine": tasks.NoisySine,
    "adding-problem": tasks.AddingProblem,
    "temporal-order": tasks.TemporalOrder,
    "reber": tasks.EmbeddedReber,
}


def main() -> NoReturn:
    """Run the command line; wrong input ends in one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without some letter still shows the others
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda text, *_, **__: click.echo(f"rnncore: {text}", err=True)
    try:
        status = cli.main(prog_name="rnncore", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = 2
    except (click.Abort, KeyboardInterrupt):
        status = _complain("stopped", 130)
    except click.ClickException as error:
        status = _complain(error.format_message())
    except EXPECTED as error:
        status = _complain(message(error))
    _leave(status)


def _complain(text: str, status: int = 2) -> int:
    click.echo(f"rnncore: {' '.join(text.split())}", err=True)
    return status


def _leave(status: Any) -> NoReturn:
    """End the process, in silence if nobody reads the output any more."""
    try:
        sys.stdout.flush()
    except OSError:
        # otherwise the interpreter tries once more, and complains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(rnncore.__version__, message="%(version)s")
def cli() -> None:
    """Train and run recurrent networks on the CPU."""


@cli.command()
def info() -> None:
    """Show version, kernels and machine."""
    rows = {
        "rnncore": rnncore.__version__,
        "kernels": f"{kernels.active.name}, of {', '.join(kernels.available())}",
        "threads": f"{rnncore.get_num_threads()}, of {machine.cores()} cores",
        "CPU": _cpu_name(),
        "Python": f"{platform.python_version()}, NumPy {np.__version__}",
    }
    for name, value in rows.items():
        click.echo(f"{name:8} {value}")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


@cli.group()
def train() -> None:
    """Train a network and write it, its metrics and its curves into a folder."""


@train.command("addition")
@click.option(
    "--recipe",
    type=click.Choice(["default", "tutorial"]),
    default="default",
    show_default=True,
    help="tutorial: one sum an update, plain gradient descent, no biases.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Number of updates.  [default: the recipe's]")
@training_options("addition")
@checkpoint_options
def train_addition(
    recipe: str, steps: int | None, seed: int, out: Path, quiet: bool, checkpoints: dict[str, Any]
) -> None:
    """Teach a network to add binary numbers, and test it on sums longer than any it has seen."""
    from tqdm import tqdm

    if recipe == "tutorial" and (checkpoints["resume"] or checkpoints["checkpoint_every"]):
        raise click.UsageError("the tutorial recipe has no checkpoints: it takes seconds")
    begin(out)
    length = {} if steps is None else {"steps": steps}
    if recipe == "tutorial":
        say = None if quiet else tqdm.write
        run = recipes.tutorial_addition(seed, **length, say=say, progress=shows_progress(quiet))
    else:
        run = recipes.addition(seed, **length, progress=shows_progress(quiet), checkpoints=checkpoints)

    def show_sums() -> None:
        for bits, count in SHOWN:
            x, _ = encode(run.task.sums(bits, count), bits)
            click.echo(report(x, run.model.predict(x), separator="\n    "))

    finish(run, out, show=None if quiet else show_sums)


train.add_command(train_chars)
train.add_command(train_words)
train.add_command(train_sine)
train.add_command(train_series)
train.add_command(train_adding_problem)
train.add_command(train_temporal_order)
train.add_command(train_reber)
cli.add_command(forecast)
cli.add_command(sample_text)
cli.add_command(draw_gradients)
cli.add_command(bench)


@cli.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@text_option
def evaluate(model: Path, file: Path | None) -> None:
    """Test a trained MODEL: the folder of a run or of several, or a model file."""
    paths = model_files(model)
    for path in paths:
        network = rnncore.load(path)
        if len(paths) > 1:
            click.echo(path.parent.name)
        show_metrics(_task_of(path, file).evaluate(network))


def _task_of(path: Path, file: Path | None) -> tasks.Task:
    """Return the task that a model file was trained on, with its text read from another file."""
    config = task_config(path, file)
    try:
        return TASKS[config.pop("name")](**config)
    except OSError as error:
        raise ValueError(f"{message(error)}: --file tells where the text of {path} lies now") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{path}: the task of the model cannot be made again: {error}") from None


def _show_whole_sentences(group: click.Group) -> None:
    """Let a group list its commands with the whole first sentence of each, which click would cut off."""
    for command in group.commands.values():
        command.short_help = re.split(r"(?<=[.!?])\s", inspect.cleandoc(command.help or ""))[0]


_show_whole_sentences(cli)
_show_whole_sentences(train)
