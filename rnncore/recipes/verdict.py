"""What a trained forecaster is worth, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnncore.tasks import Forecasting
from rnncore.tasks.forecaster import NETWORKS

__all__ = ["verdict"]

# names in metrics: in words, and as what is tried begins
BASELINES = {
    "last_value": ("the last value", "last value"),
    "seasonal": ("the last season", "last season"),
    "autoregression": ("autoregression", "AR("),
}
BEHIND = 1.005  # a baseline does better if the forecast's error is that many times its own


def verdict(task: Forecasting, choice: Mapping[str, Any], metrics: Mapping[str, float]) -> list[str]:
    """Return in words how the forecasts are made, and where a baseline does better.

    Parameters
    ----------
    task : Forecasting
    choice : mapping
        Of the run.
    metrics : mapping
        What the task's `evaluate` returned.
    """
    lines = []
    if task.found_season:
        lines.append(
            f"A season of {task.season} rows was found in the training part; --season sets another."
            if task.season
            else "No season was found in the training part; --season sets one."
        )
    if not choice["best_update"]:
        lines.append(f"No network was trained: {next(iter(choice['untrained'].values()))}.")
    for kind, steps in {"next": 1, "ahead": task.ahead}.items():
        for column, chosen in choice.get(kind, {}).items():
            what = f"{_rows(steps)} ahead, {column}"
            lines.append(f"{what}: {_sources(chosen, bool(choice['best_update']))}.")
            lines += _lost(task, f"{what}:", steps, column, chosen, metrics)
    return lines


def _rows(steps: int) -> str:
    return "1 row" if steps == 1 else f"{steps} rows"


def _sources(chosen: Mapping[str, Any], trained: bool) -> str:
    """Return in words of what a forecast is made."""
    parts = {name: chosen[name] for name in NETWORKS if chosen[name]}
    if not parts:
        return f"{chosen['baseline']} alone" + (", to which the networks add nothing" if trained else "")
    named = [f"{part:.0%} {name.replace('_', ' ')} network" for name, part in parts.items()]
    rest = 1 - sum(parts.values())
    return " + ".join(([f"{rest:.0%} {chosen['baseline']}"] if rest > 0.005 else []) + named)


def _lost(
    task: Forecasting,
    what: str,
    steps: int,
    column: str,
    chosen: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> list[str]:
    """Return a sentence about the best baseline if it does better than the forecast in the held-out part."""
    suffix = f"_{steps}{task.suffix(column)}"
    known = {name: metrics[name + suffix] for name in BASELINES if name + suffix in metrics}
    name, error = min(known.items(), key=lambda pair: pair[1])
    own = metrics["rmse" + suffix]
    if own <= BEHIND * error:
        return []
    words, sign = BASELINES[name]
    before = min(rmse for rule, rmse in chosen["tried"].items() if rule.startswith(sign))
    return [
        f"{what} {words} does better on the held-out rows, RMSE {error:.4g} against {own:.4g}. On the "
        f"validation part, which decides, it had {before:.4g} and the choice {chosen['validation_rmse']:.4g}."
    ]
