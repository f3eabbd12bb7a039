"""Commands for forecasting: train sine, train series, forecast."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

import rnncore
from rnncore import datasets, pictures, recipes, tables
from rnncore.commands.common import (
    model_file,
    read_table,
    table_options,
    task_config,
    training_options,
    verbose_option,
)
from rnncore.commands.runs import begin, checkpoint_options, finish, shows_progress
from rnncore.files import replacing
from rnncore.models import Sequential
from rnncore.tasks import Forecaster, Forecasting, NoisySine

__all__ = ["forecast", "train_series", "train_sine"]

Training = Callable[[], recipes.Run[Forecasting]]

SHOWN = 10  # columns that a line names
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
    begin(out)
    train = recipes.tutorial_sine if recipe == "tutorial" else recipes.sine
    length = {} if steps is None else {"steps": steps}
    _finish(train(seed, **length, progress=shows_progress(quiet), checkpoints=checkpoints), out)


@click.command("series")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@table_options("all that hold numbers")
@click.option(
    "--recipe",
    type=click.Choice(["default", "network"]),
    default="default",
    show_default=True,
    help="network: one network alone, without baselines.",
)
@click.option(
    "--season", type=click.IntRange(min=1), help="Rows of a season.  [default: looked for in the data]"
)
@click.option(
    "--ahead", type=click.IntRange(min=1), help="Rows to predict.  [default: one season, or the window]"
)
@click.option(
    "--window",
    type=click.IntRange(min=1),
    help="Rows that networks read.  [default: a season of 8 to 60 rows, or 20]",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Part at the end to test on.",
)
@click.option("--cell", type=click.Choice(["gru", "lstm", "rnn"]), default="gru", show_default=True)
@click.option("--layers", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--hidden", type=click.IntRange(min=1), default=16, show_default=True, help="Units of a layer.")
@click.option("--dropout", type=float, default=0.0, show_default=True, help="Between layers.")
@click.option(
    "--noise",
    type=float,
    help="Deviation of what is added to inputs, in those of the columns.  [default: 0; network 0.1]",
)
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Windows an update.")
@click.option(
    "--lr", type=float, help="Learning rate.  [default: 0.005 in closed loop, 0.01 direct; network 0.003]"
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Updates of a network at most.  [default: 300 to 1500, by the rows; network 300]",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    help="Validations without a better error that end training.  [default: 10; network: never]",
)
@click.option(
    "--horizon", type=click.IntRange(min=1), help="Of recipe network: rows predicted at once.  [default: 1]"
)
@click.option(
    "--output",
    type=click.Choice(["all", "last"]),
    help="Of recipe network: learn to predict behind all rows of the window, or the last.  [default: all]",
)
@training_options("series")
@verbose_option
@checkpoint_options
def train_series(
    file: Path | None,
    reading: dict[str, Any],
    recipe: str,
    season: int | None,
    out: Path,
    **options: Any,
) -> None:
    """Learn to forecast columns of FILE (CSV), or the yearly sunspot numbers.

    The forecasts are those of a baseline (last value, last season or autoregression) and of two small
    networks that learn its errors. A validation part, the rows before those held out, decides how much each
    counts; where a baseline does better on the held-out rows, the output says so.
    """
    if file is None:
        if any(reading.values()):
            raise click.UsageError("--column, --fill, --decimal and --encoding need a FILE")
        file, season = datasets.SUNSPOTS, season or 11
    table = read_table(file, reading)
    about = {
        "season": season or "auto",
        "columns": table.columns,
        "index": table.index,
        "index_name": table.index_name,
        "source": file.name,
    }
    train = (_network if recipe == "network" else _forecaster)(table.values, about, options)
    begin(out)
    if not options["quiet"]:
        click.echo(_described(file, table))
    _finish(train(), out)


def _forecaster(series: np.ndarray, about: dict[str, Any], options: dict[str, Any]) -> Training:
    """Return the training by the default recipe."""
    for name in ("horizon", "output"):
        if options[name] is not None:
            raise click.UsageError(f"--{name} is for --recipe network")
    task = Forecasting(series, **about, **_given(options, "window", "ahead", "held_out"))
    more = _given(options, "noise", "patience") | {"batch_size": options["batch"]}
    return lambda: recipes.series(task, **_training(options), **more)


def _network(series: np.ndarray, about: dict[str, Any], options: dict[str, Any]) -> Training:
    """Return the training of one network alone."""
    if options["patience"] is not None:
        raise click.UsageError("--patience is for the default recipe")
    defaults = {"window": 20, "output": "all", "noise": 0.1, "batch_size": options["batch"]}
    given = _given(options, "window", "ahead", "held_out", "horizon", "output", "noise")
    task = Forecasting(series, **about, **defaults | given)
    return lambda: recipes.network_series(task, **_training(options))


def _given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the options of some names that were given."""
    return {name: options[name] for name in names if options[name] is not None}


def _training(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that both recipes take."""
    return {
        "progress": shows_progress(options["quiet"]),
        "hidden_size": options["hidden"],
        "num_layers": options["layers"],
        **_given(options, "seed", "steps", "cell", "lr", "dropout", "checkpoints"),
    }


@click.command("forecast")
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV file with another series to go on from.  [default: the series of the training]",
)
@table_options("those of the training")
@click.option(
    "--start",
    metavar="ROW|DATE",
    help="First row to predict, counted from 0.  [default: the first held out; with --file, behind the end]",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Rows to predict.  [default: to the end; behind it, as many as were tested on]",
)
def forecast(
    model: Path, file: Path | None, reading: dict[str, Any], start: str | None, steps: int | None
) -> None:
    """Predict on from any row, each prediction read again, by MODEL: a folder of train sine or train series.

    Prints CSV, and draws forecast.png beside the model.
    """
    path = model_file(model)
    network, task = rnncore.load(path), _task_of(path)
    series = tables.Table(task.columns, task.truth, task.index, task.index_name)
    first, source = task.span(model=network)[0], task.source
    if file is not None:
        series, source = _series_like(task, file, reading), file.name
        first = len(series.values)
    elif any(reading.values()):
        raise click.UsageError("--column, --fill, --decimal and --encoding are for --file")
    if start is not None:
        first = _row(start, series.index)
    S, least = len(series.values), network.rows if isinstance(network, Forecaster) else task.window
    if not least <= first <= S:
        raise ValueError(f"start must lie in {least} ... {S}, as the model reads {least} rows, got {first}")
    steps = steps or S - first or task.ahead
    predicted = task.closed_loop(network, series.values[None, :first], steps)[0]
    _print(task, series, first, predicted)
    if pictures.available():
        title = pictures.forecast_title(task.columns, source)
        with replacing(path.with_name("forecast.png")) as part:
            pictures.forecast(
                part, title, task.columns, series.values, first, predicted, series.index, series.index_name
            )


def _print(task: Forecasting, series: tables.Table, first: int, predicted: np.ndarray) -> None:
    """Print a forecast as CSV."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    index = None if series.index is None else tables.extended(series.index, first + len(predicted))
    writer.writerow(["row", *([] if index is None else [series.index_name]), *task.columns])
    for row, values in enumerate(predicted.tolist(), first):
        label = [] if index is None else [tables.label(index[row])]
        numbers = (f"{value:.{places}f}" for value, places in zip(values, task.decimals, strict=True))
        writer.writerow([row, *label, *numbers])


def _row(start: str, index: np.ndarray | None) -> int:
    """Return the row that is given by its number or its date."""
    if start.isdecimal():
        return int(start)
    found = tables.dates([start])
    if isinstance(found, int):
        raise click.BadParameter(f"--start must be a row, counted from 0, or a date, got {start!r}")
    if index is None or index.dtype.kind != "M":
        raise click.BadParameter(f"--start must be a row: the series has no dates, got {start!r}")
    return int(np.searchsorted(index, found[0]))


def _series_like(task: Forecasting, file: Path, reading: Mapping[str, Any]) -> tables.Table:
    """Return another series of the columns that a task has, or of those given for them."""
    columns = reading["columns"] or task.columns
    if len(columns) != len(task.columns):
        names = ", ".join(task.columns)
        raise ValueError(f"--column must be given for each column of the model ({names}), got {len(columns)}")
    return read_table(file, {**reading, "columns": columns})


def _described(file: Path, table: tables.Table) -> str:
    """Return in one line what was read."""
    columns = ", ".join(table.columns[:SHOWN])
    more = f" and {len(table.columns) - SHOWN} others" if len(table.columns) > SHOWN else ""
    span = ""
    if table.index is not None:
        span = f" ({table.index_name} {tables.label(table.index[0])} to {tables.label(table.index[-1])})"
    return f"{file}: {len(table.values):,} rows{span} of {columns}{more}"


def _task_of(path: Path) -> Forecasting:
    """Return the forecasting task that a model file was trained on."""
    config = task_config(path)
    name = config.pop("name")
    if name not in TASKS:
        raise ValueError(f"{path} was trained on {name!r}, not on a series")
    try:
        return TASKS[name](**config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: the task of the model cannot be made again: {error}") from None


def _finish(run: recipes.Run[Any], out: Path) -> None:
    """Show and write what came out, with a picture of the forecast."""
    finish(run, out, draw=lambda: _draw(run.task, run.model, out / "forecast.png"))


def _draw(
    task: Forecasting,
    model: Sequential | Forecaster,
    path: Path,
    start: int | None = None,
    steps: int | None = None,
) -> list[str]:
    """Draw a forecast, if there is matplotlib to draw with."""
    if not pictures.available():
        return []
    with replacing(path) as part:
        task.draw_forecast(part, model, start, steps)
    return [path.name]
