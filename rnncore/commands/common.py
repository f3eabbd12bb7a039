"""What commands share: options, and what is printed and written when a run is over."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rnncore import pictures, recipes

__all__ = [
    "checkpoint_options",
    "model_file",
    "require_writable",
    "show_metrics",
    "task_config",
    "training_options",
    "write",
]

Command = Callable[..., Any]


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


def checkpoint_options(command: Command) -> Command:
    """Add the options of a training command that can be stopped and resumed.

    They come as its argument `checkpoints`, keyword arguments for `Trainer.fit`. The checkpoint lies in the
    folder of the run until that is finished.
    """

    @click.option(
        "--checkpoint-every",
        type=click.IntRange(min=1),
        metavar="UPDATES",
        help="Write a checkpoint so often; one is always written on Ctrl-C.",
    )
    @click.option("--resume", is_flag=True, help="Go on from the checkpoint in the folder, if there is one.")
    @functools.wraps(command)
    def resumable(*, out: Path, checkpoint_every: int | None, resume: bool, **arguments: Any) -> None:
        checkpoint = out / "checkpoint.safetensors"
        options = {"checkpoint": checkpoint, "checkpoint_every": checkpoint_every, "resume": resume}
        try:
            command(out=out, checkpoints=options, **arguments)
        except (KeyboardInterrupt, FloatingPointError):
            if checkpoint.exists():
                click.echo(f"{checkpoint}: --resume goes on from there", err=True)
            raise
        checkpoint.unlink(missing_ok=True)

    return resumable


def require_writable(folder: Path) -> None:
    """Raise OSError unless files can be written there: before a long run, not after it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def show_metrics(metrics: dict[str, float]) -> None:
    """Print one metric a line."""
    for name, value in metrics.items():
        kind, _, bits = name.partition("_")
        if kind == "exact":
            click.echo(f"exact sums of {bits:>2} bits  {value:.2%}")
        else:
            click.echo(f"{name} {value:.6g}")


def write(run: recipes.Run[Any], out: Path) -> None:
    """Write a finished run and say so."""
    names = run.write(out)
    click.echo(f"written to {out}: {', '.join(names)}")
    if not pictures.available():
        click.echo('no picture without matplotlib: pip install "rnncore[plot]"')


def model_file(model: Path) -> Path:
    """Return the path of a model that was given as a file or as the folder of a run."""
    if not model.is_dir():
        return model
    path = model / "model.safetensors"
    if not path.exists():
        raise ValueError(f"the folder {model} has no model.safetensors: rnncore train writes one")
    return path


def task_config(path: Path) -> dict[str, Any]:
    """Return name and configuration of the task that a model file was trained on, from beside it.

    Raises
    ------
    ValueError
        If metrics.json tells no task.
    """
    about = path.with_name("metrics.json")
    try:
        config = json.loads(about.read_text(encoding="utf-8"))["task"]
        return {"name": config["name"], **config}
    except (ValueError, TypeError, LookupError):
        raise ValueError(f"{about} does not tell which task the model was trained on") from None
