"""Measures as a reader understands them: their names, units, and what they are to be compared with."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

__all__ = ["Measure", "lines"]

MOST = 30  # lines of a table


class Measure(NamedTuple):
    """How to print a measure.

    Attributes
    ----------
    label : str
    form : str
        Of the value, with its unit.
    baseline : tuple (what it is, name of its measure, how that is to be converted), optional
    """

    label: str
    form: str
    baseline: tuple[str, str, Callable[[float], float]] | None = None


MEASURES = {
    "validation_loss": Measure(
        "loss on the held-out text", "{:.4g} nats a character", ("n-gram model", "ngram_loss", float)
    ),
    "bits_per_character": Measure(
        "loss in bits",
        "{:.4g} bits a character",
        ("n-gram model", "ngram_loss", lambda loss: loss / math.log(2)),
    ),
    "perplexity": Measure("perplexity", "{:.4g}", ("n-gram model", "ngram_loss", math.exp)),
    "word_loss": Measure("loss of a word", "{:.4g} nats", ("at best", "ideal_word_loss", float)),
    "mse": Measure("mean squared error", "{:.4g}", ("always answering 1", "mse_of_always_1", float)),
    "accuracy": Measure("accuracy", "{:.2%}", ("by guessing", "accuracy_of_guessing", float)),
    "legal": Measure("strings with every legal continuation predicted", "{:.2%}"),
    "error": Measure("error of a sum, Σ |y − ŷ|", "{:.4g}"),
}
BASELINES = {measure.baseline[1] for measure in MEASURES.values() if measure.baseline}
EXACT = re.compile(r"exact_(\d+)")
FORECAST = re.compile(r"(rmse|last_value|seasonal|autoregression)_(\d+)(?:_(.*))?", re.S)
WHOSE = {
    "rmse": "network",
    "last_value": "last value",
    "seasonal": "last season",
    "autoregression": "autoregression",
}


def lines(metrics: Mapping[str, float]) -> Iterator[str]:
    """Yield the lines that tell measures, which are named as a task's `evaluate` names them."""
    rows = []
    for name, value in metrics.items():
        if exact := EXACT.fullmatch(name):
            rows.append((f"exact sums of {exact[1]:>2} bits", f"{value:.2%}"))
        elif name not in BASELINES and not FORECAST.fullmatch(name):
            measure = MEASURES.get(name, Measure(name.replace("_", " "), "{:.4g}"))
            rows.append((measure.label, measure.form.format(value) + _beside(measure, metrics)))
    width = max((len(label) for label, _ in rows), default=0)
    for label, text in rows:
        yield f"{label:{width}}  {text}"
    yield from _table(metrics)


def _beside(measure: Measure, metrics: Mapping[str, float]) -> str:
    """Return what a measure is to be compared with, in parentheses."""
    if measure.baseline is None or measure.baseline[1] not in metrics:
        return ""
    what, name, convert = measure.baseline
    value = measure.form.partition("}")[0] + "}"
    return f" ({what}: {value.format(convert(metrics[name]))})"


def _table(metrics: Mapping[str, float]) -> Iterator[str]:
    """Yield the errors of forecasts as a table: a line for each column and distance."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if match := FORECAST.fullmatch(name):
            whose, ahead, column = match.groups()
            distance = f"{ahead} row{'' if ahead == '1' else 's'} ahead"
            rows.setdefault(f"{column}, {distance}" if column else distance, {})[WHOSE[whose]] = value
    if not rows:
        return
    title = "root mean squared error"
    heads = [head for head in WHOSE.values() if any(head in row for row in rows.values())]
    width = max(len(title), *(len(label) for label in list(rows)[:MOST]))
    yield "  ".join([f"{title:{width}}", *(f"{head:>10}" for head in heads)])
    for label, row in list(rows.items())[:MOST]:
        cells = (
            f"{row[head]:>{max(len(head), 10)}.4g}" if head in row else " " * max(len(head), 10)
            for head in heads
        )
        yield "  ".join([f"{label:{width}}", *cells])
    if len(rows) > MOST:
        yield f"... and {len(rows) - MOST} more: metrics.json has them all"
