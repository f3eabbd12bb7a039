"""Commands for forecasting: train sine, train series, forecast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

import rnncore
from rnncore import datasets, pictures, recipes
from rnncore.commands.common import (
    begin,
    checkpoint_options,
    finish,
    model_file,
    shows_progress,
    task_config,
    training_options,
    verbose_option,
)
from rnncore.files import replacing
from rnncore.models import Sequential
from rnncore.tasks import Forecaster, Forecasting, NoisySine
from rnncore.tasks.forecasting import read_csv

__all__ = ["forecast", "train_series", "train_sine"]

Training = Callable[[], recipes.Run[Forecasting]]

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
@click.option(
    "--column",
    "columns",
    multiple=True,
    help="Column of FILE to read and to predict; may be given several times.",
)
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
    columns: tuple[str, ...],
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
        if columns:
            raise click.UsageError("--column needs a FILE")
        file, columns, season = datasets.SUNSPOTS, ("sunspots",), season or 11
    if not columns:
        raise click.UsageError("FILE needs --column")
    series = read_csv(file, columns)
    about = {"season": season or "auto", "columns": columns}
    train = (_network if recipe == "network" else _forecaster)(series, about, options)
    begin(out)
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
    start, steps = task.span(start, steps, network)
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
