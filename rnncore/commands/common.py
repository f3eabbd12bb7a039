"""What commands share: options, models by their files, and what to say when something fails."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from rnncore import tables
from rnncore.commands import measures
from rnncore.files import load_extra

__all__ = [
    "EXPECTED",
    "Command",
    "message",
    "model_file",
    "model_files",
    "read_table",
    "show_metrics",
    "table_options",
    "task_config",
    "text_option",
    "training_options",
    "verbose_option",
]

Command = Callable[..., Any]

MODEL = "model.safetensors"
EXPECTED = (ValueError, OSError, ArithmeticError, MemoryError)  # what wrong input and a full machine raise


def training_options(name: str) -> Callable[[Command], Command]:
    """Return a decorator that adds the options of every training command, which has that name."""
    options = [
        click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True),
        click.option(
            "--out",
            type=click.Path(file_okay=False, path_type=Path),
            default=Path("runs") / name,
            show_default=True,
            help="Folder to write to.",
        ),
        click.option("--quiet", is_flag=True, help="No progress bar, and metrics only."),
    ]

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def table_options(default: str) -> Callable[[Command], Command]:
    """Return a decorator that adds the options of how to read a table, with its default columns in words.

    They come as the argument `reading`, for `tables.read`.
    """
    options = [
        click.option(
            "--column",
            "columns",
            multiple=True,
            help=f"Column of FILE by its name, or its number from 1; may be repeated.  [default: {default}]",
        ),
        click.option(
            "--fill", metavar="previous|linear|NUMBER", type=_fill, help="What to put for missing values."
        ),
        click.option(
            "--decimal", type=click.Choice([".", ","]), help="The decimal mark.  [default: found in the file]"
        ),
        click.option("--encoding", help="Of FILE.  [default: UTF-8, UTF-16 or cp1252, found in the file]"),
    ]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def reads(*, columns: Any, fill: Any, decimal: Any, encoding: Any, **arguments: Any) -> None:
            reading = {"columns": columns, "fill": fill, "decimal": decimal, "encoding": encoding}
            command(reading=reading, **arguments)

        wrapped: Command = reads
        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def _fill(value: str) -> str | float:
    """Return what to fill missing values with."""
    if value in ("previous", "linear"):
        return value
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise click.BadParameter(f"must be previous, linear or a number, got {value!r}")
    return number


def read_table(file: Path, reading: Mapping[str, Any]) -> tables.Table:
    """Read a table and say what is to be known about it."""
    table = tables.read(file, **reading)
    for note in table.notes:
        click.echo(note if note.startswith(str(file)) else f"{file}: {note}", err=True)
    return table


text_option = click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Where the text that the model was trained on lies now.",
)
verbose_option = click.option("--verbose", is_flag=True, help="Show what was tried and chosen.")


def message(error: Exception) -> str:
    """Return in one line what went wrong."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def show_metrics(metrics: dict[str, float]) -> None:
    """Print measures."""
    for line in measures.lines(metrics):
        click.echo(line)


def model_file(model: Path) -> Path:
    """Return the path of a model that was given as a file or as the folder of a run."""
    first, *others = model_files(model)
    if others:
        folders = ", ".join(str(path.parent) for path in (first, *others))
        raise ValueError(f"{model} holds several runs: give one of {folders}")
    return first


def model_files(model: Path) -> list[Path]:
    """Return the paths of models: of a file, of the run in a folder, or of the runs in it."""
    if not model.is_dir():
        return [model]
    if (model / MODEL).exists():
        return [model / MODEL]
    found = sorted(model.glob(f"*/{MODEL}"))
    if not found:
        raise ValueError(f"the folder {model} has no {MODEL}: rnncore train writes one")
    return found


def task_config(path: Path, file: Path | None = None) -> dict[str, Any]:
    """Return name and configuration of the task that a model file was trained on.

    Parameters
    ----------
    path : Path
    file : Path, optional
        Where the text of the task lies now.

    Raises
    ------
    ValueError
        If the file tells no task, or none that has a text.
    """
    config = load_extra(path).get("task")
    if not isinstance(config, dict) or "name" not in config:
        raise ValueError(f"{path} does not tell which task the model was trained on")
    if file is not None:
        if not config.get("source") or "vocabulary" not in config:
            raise ValueError(f"{path} is no model of a text, for which --file is")
        config["source"] = str(file)
    return config
