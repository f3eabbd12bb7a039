"""The course of a training command: its folder, what it keeps there, and what it says in the end."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from rnncore import pictures, recipes
from rnncore.commands.common import EXPECTED, Command, message, show_metrics
from rnncore.files import replacing

__all__ = ["begin", "checkpoint_options", "finish", "kept", "show_outcome", "shows_progress"]

CHECKPOINT, RECORD = "checkpoint.safetensors", "run.json"
NO_MATTER = {"out", "quiet", "verbose", "resume", "overwrite", "checkpoint_every"}  # to what a run computes
NO_PICTURE = 'no picture without matplotlib: pip install "rnncore[plot]"'


def checkpoint_options(command: Command) -> Command:
    """Add the options of a training command that can be stopped and resumed.

    They come as its argument `checkpoints`, keyword arguments for `Trainer.fit`.
    """

    @click.option(
        "--checkpoint-every",
        type=click.IntRange(min=1),
        metavar="UPDATES",
        help="Write a checkpoint so often; one is always written on Ctrl-C and at the end.",
    )
    @click.option(
        "--resume",
        is_flag=True,
        help="Go on from the checkpoint in the folder, if there is one; with more --steps, behind its end.",
    )
    @click.option(
        "--overwrite", is_flag=True, help="Begin anew, even if an unfinished run lies in the folder."
    )
    @functools.wraps(command)
    def resumable(
        *, out: Path, checkpoint_every: int | None, resume: bool, overwrite: bool, **arguments: Any
    ) -> None:
        if resume and overwrite:
            raise click.UsageError("--resume and --overwrite exclude each other")
        options = {"checkpoint": out / CHECKPOINT, "checkpoint_every": checkpoint_every, "resume": resume}
        try:
            command(out=out, checkpoints=options, **arguments)
        except (KeyboardInterrupt, FloatingPointError):
            for checkpoint in _checkpoints(out)[:1]:
                click.echo(f"{checkpoint}: --resume goes on from there", err=True)
            raise

    return resumable


def shows_progress(quiet: bool) -> bool:
    """Return whether to show a progress bar: in a log file it would be noise."""
    return not quiet and sys.stderr.isatty()


def begin(out: Path) -> None:
    """Make the folder of a run ready: before a long run, not after it.

    Raises
    ------
    OSError
        If files cannot be written there.
    ValueError
        If an unfinished run would be lost, or one was begun with other options than it is to be resumed with.
    """
    context = click.get_current_context()
    resumable, resume = "resume" in context.params, context.params.get("resume")
    record, checkpoints = out / RECORD, _checkpoints(out)
    before = _read_record(record)
    if resume and checkpoints:
        _require_same(context, before, out)
    elif checkpoints and not before.get("finished") and not context.params.get("overwrite"):
        raise ValueError(
            f"{checkpoints[0]} is of an unfinished run: --resume goes on from there, --overwrite begins anew"
        )
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from None
    if resumable:
        for checkpoint in [] if resume else checkpoints:
            checkpoint.unlink()
        _write_record(record, context, finished=False)


def finish(
    run: recipes.Run[Any],
    out: Path,
    *,
    heading: str | None = None,
    show: Callable[[], object] | None = None,
    draw: Callable[[], list[str]] = list,
) -> None:
    """Write a finished run, then evaluate, print and draw: whatever happens there, the model is kept.

    Parameters
    ----------
    run : Run
    out : Path
        Its folder.
    heading : str, optional
        Printed before the measures.
    show : callable, optional
        Prints more, behind the measures.
    draw : callable, optional
        Draws more than the curves, and returns the names of its files.
    """
    context = click.get_current_context()
    names = run.save(out)
    with kept(out / names[0]):
        if "resume" in context.params:
            _write_record(out / RECORD, context, finished=True)
        names += run.describe(out)
        if heading:
            click.echo(heading)
        show_outcome(run, bool(context.params.get("verbose")))
        if show:
            show()
        names += run.draw(out) + draw()
        click.echo(f"written to {out}: {', '.join(names)}")
        if not pictures.available():
            click.echo(NO_PICTURE)


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Say where the model lies if something fails now that it is written."""
    where = f"the trained model is kept in {path}"
    try:
        yield
    except KeyboardInterrupt:
        click.echo(where, err=True)
        raise
    except Exception as error:
        # from here on nothing is worth a traceback, since what was asked for lies on the disk
        what = message(error) if isinstance(error, EXPECTED) else f"{type(error).__name__}: {error}"
        raise click.ClickException(f"{what}; {where}") from None


def show_outcome(run: recipes.Run[Any], verbose: bool) -> None:
    """Print the metrics of a run, what it says about them and, if asked to, how its recipe chose."""
    show_metrics(run.metrics)
    for note in run.verdict(run.metrics):
        click.echo(note)
    if verbose:
        _show_choice(run.choice or {})


def _show_choice(choice: Mapping[str, Any], indent: str = "") -> None:
    """Print how a recipe chose, a line for each name that has no further names below it."""
    for name, value in choice.items():
        if isinstance(value, dict) and any(isinstance(below, dict) for below in value.values()):
            click.echo(f"{indent}{name}:")
            _show_choice(value, f"{indent}  ")
        else:
            click.echo(f"{indent}{name}: {_brief(value)}")


def _brief(value: Any) -> str:
    """Return a choice in one line, numbers with four digits."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_brief, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints there: a run of several trainings has one for each."""
    return sorted(folder.glob("checkpoint*.safetensors"))


def _write_record(path: Path, context: click.Context, finished: bool) -> None:
    """Write what command a run was begun with, and whether it is over."""
    about = {"command": context.info_name, "options": _options(context), "finished": finished}
    with replacing(path) as part:
        part.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _read_record(path: Path) -> dict[str, Any]:
    """Return what `_write_record` wrote; nothing if there is no such file."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise ValueError(f"{path} is damaged: it does not tell how the run was begun") from None
    return about if isinstance(about, dict) else {}


def _options(context: click.Context) -> dict[str, Any]:
    """Return the options that decide what a run computes, by name; of a file its content."""
    names = {
        param.name: param.opts[0] if param.opts[0][0] == "-" else param.human_readable_name
        for param in context.command.params
    }
    return {names[name]: _plain(value) for name, value in context.params.items() if name not in NO_MATTER}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return f"{value.name}, checksum {zlib.crc32(value.read_bytes()):08x}"
    return list(value) if isinstance(value, tuple) else value


def _require_same(context: click.Context, before: dict[str, Any], out: Path) -> None:
    """Raise unless a run is resumed by the command and the options that it was begun with."""
    if before.get("command", context.info_name) != context.info_name:
        raise ValueError(f"{out} holds a run of train {before['command']}, not of train {context.info_name}")
    options = before.get("options", {})
    changed = [
        f"{name} {_shown(options[name])}, not {_shown(value)}"
        for name, value in _options(context).items()
        if name in options and options[name] != value and name != "--steps"
    ]
    if changed:
        raise ValueError(f"the run in {out} was begun with {', '.join(changed)}: resume it with the same")
    steps, made = context.params.get("steps"), options.get("--steps")
    if before.get("finished") and steps and made and steps < made:
        raise ValueError(f"the run in {out} has made {made} updates already, more than --steps {steps}")


def _shown(value: Any) -> str:
    if value is None:
        return "left out"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
