"""Commands for forecasting: train sine, train series, forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import rnncore
from rnncore import datasets, pictures, recipes
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
from rnncore.models import Sequential
from rnncore.tasks import Forecasting, NoisySine
from rnncore.tasks.forecasting import read_csv

__all__ = ["forecast", "train_series", "train_sine"]

TASKS: dict[str, type[Forecasting]] = {"series": Forecasting, "sine": NoisySine}


@click.command("sine")
@click.option(
    "--recipe",
    type=click.Choice(["default", "tutorial"]),
    default="default",
    show_default=True,
    help="tutorial: plain gradient descent, the state carried between shuffled windows.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Number of updates.  [default: the recipe's]")
@training_options("sine")
@checkpoint_options
def train_sine(
    recipe: str, steps: int | None, seed: int, out: Path, quiet: bool, checkpoints: dict[str, Any]
) -> None:
    """Teach an LSTM a noisy sine wave, and let it draw the wave from its first 10 points."""
    require_writable(out)
    train = recipes.tutorial_sine if recipe == "tutorial" else recipes.sine
    length = {} if steps is None else {"steps": steps}
    _finish(train(seed, **length, progress=not quiet, checkpoints=checkpoints), out)


@click.command("series")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option(
    "--column",
    "columns",
    multiple=True,
    help="Column of FILE to read and to predict; may be given several times.",
)
@click.option(
    "--window", type=click.IntRange(min=1), default=20, show_default=True, help="Rows that are read."
)
@click.option(
    "--horizon", type=click.IntRange(min=1), default=1, show_default=True, help="Rows predicted at once."
)
@click.option(
    "--output",
    type=click.Choice(["all", "last"]),
    default="all",
    show_default=True,
    help="Learn to predict behind all rows of the window (many-to-many), or the last (many-to-one).",
)
@click.option("--season", type=click.IntRange(min=1), help="Rows of a season, for the seasonal baseline.")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Part at the end to test on.",
)
@click.option("--steps", type=click.IntRange(min=1), default=300, show_default=True, help="Updates.")
@click.option("--hidden", type=click.IntRange(min=1), default=16, show_default=True, help="Units.")
@training_options("series")
@checkpoint_options
def train_series(
    file: Path | None,
    columns: tuple[str, ...],
    season: int | None,
    steps: int,
    hidden: int,
    seed: int,
    out: Path,
    quiet: bool,
    checkpoints: dict[str, Any],
    **options: Any,
) -> None:
    """Teach a GRU to forecast columns of FILE (CSV), or the yearly sunspot numbers."""
    if file is None:
        if columns:
            raise click.UsageError("--column needs a FILE")
        file, columns, season = datasets.SUNSPOTS, ("sunspots",), season or 11
    if not columns:
        raise click.UsageError("FILE needs --column")
    series = read_csv(file, columns)
    task = Forecasting(series, season=season, columns=columns, noise=0.1, **options)
    require_writable(out)
    _finish(
        recipes.series(task, seed, steps, hidden_size=hidden, progress=not quiet, checkpoints=checkpoints),
        out,
    )


@click.command("forecast")
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--start", type=click.IntRange(min=0), help="First row to predict.  [default: the first held out]"
)
@click.option("--steps", type=click.IntRange(min=1), help="Rows to predict.  [default: to the end]")
def forecast(model: Path, start: int | None, steps: int | None) -> None:
    """Predict on from any row, each prediction read again, by MODEL: a folder of train sine or train series.

    Prints CSV, and draws forecast.png into the folder.
    """
    path = model_file(model)
    task = _task_of(path)
    network = rnncore.load(path)
    start, steps = task.span(start, steps)
    predicted = task.forecast(network, start, steps)
    click.echo(",".join(["row", *task.columns]))
    for row, values in enumerate(predicted.tolist(), start):
        numbers = (f"{value:.{places}f}" for value, places in zip(values, task.decimals, strict=True))
        click.echo(",".join([str(row), *numbers]))
    _draw(task, network, path.with_name("forecast.png"), start, steps)


def _task_of(path: Path) -> Forecasting:
    """Return the forecasting task that a model file was trained on."""
    config = task_config(path)
    name = config.pop("name")
    if name not in TASKS:
        raise ValueError(f"{path} was trained on {name!r}, not on a series")
    try:
        return TASKS[name](**config)
    except (ValueError, TypeError) as error:
        about = path.with_name("metrics.json")
        raise ValueError(f"{about}: the task cannot be made again: {error}") from None


def _finish(run: recipes.Run[Any], out: Path) -> None:
    """Show and write what came out, with a picture of the forecast."""
    show_metrics(run.metrics)
    write(run, out)
    _draw(run.task, run.model, out / "forecast.png")


def _draw(
    task: Forecasting, model: Sequential, path: Path, start: int | None = None, steps: int | None = None
) -> None:
    """Draw a forecast, if there is matplotlib to draw with."""
    if pictures.available():
        with replacing(path) as part:
            task.draw_forecast(part, model, start, steps)
