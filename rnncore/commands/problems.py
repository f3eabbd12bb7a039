"""Commands for the long-lag problems: train adding-problem, temporal-order, reber."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rnncore import recipes
from rnncore.commands.common import training_options
from rnncore.commands.runs import begin, checkpoint_options, finish, shows_progress

__all__ = ["train_adding_problem", "train_reber", "train_temporal_order"]


@click.command("adding-problem")
@click.option("--length", type=click.IntRange(min=2), default=100, show_default=True, help="Steps.")
@click.option("--cell", type=click.Choice(["lstm", "gru", "rnn"]), default="lstm", show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=2000, show_default=True, help="Updates.")
@training_options("adding-problem")
@checkpoint_options
def train_adding_problem(
    length: int, cell: str, steps: int, seed: int, out: Path, quiet: bool, checkpoints: dict[str, Any]
) -> None:
    """Teach a network to add the two marked ones of many numbers."""
    begin(out)
    run = recipes.adding_problem(
        seed, steps, length=length, cell=cell, progress=shows_progress(quiet), checkpoints=checkpoints
    )
    finish(run, out)


@click.command("temporal-order")
@click.option("--length", type=click.IntRange(min=20), default=50, show_default=True, help="Steps.")
@click.option("--steps", type=click.IntRange(min=1), default=500, show_default=True, help="Updates.")
@training_options("temporal-order")
@checkpoint_options
def train_temporal_order(
    length: int, steps: int, seed: int, out: Path, quiet: bool, checkpoints: dict[str, Any]
) -> None:
    """Teach a network to tell in which order three symbols came among many others."""
    begin(out)
    run = recipes.temporal_order(
        seed, steps, length=length, progress=shows_progress(quiet), checkpoints=checkpoints
    )
    finish(run, out)


@click.command("reber")
@click.option("--steps", type=click.IntRange(min=1), help="Number of updates.  [default: the recipe's]")
@training_options("reber")
@checkpoint_options
def train_reber(steps: int | None, seed: int, out: Path, quiet: bool, checkpoints: dict[str, Any]) -> None:
    """Teach an LSTM of 8 units which symbols may come next in strings of the embedded Reber grammar."""
    begin(out)
    length = {} if steps is None else {"steps": steps}
    run = recipes.reber(seed, **length, progress=shows_progress(quiet), checkpoints=checkpoints)
    finish(run, out)
