"""Pictures of a training run, drawn by matplotlib (the extra `plot`)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rnncore import tables

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Panel",
    "available",
    "confusion_matrix",
    "forecast",
    "forecast_title",
    "gradient_norms",
    "training_curves",
]

DPI = 120
MOST = 12  # panels of a picture: more take minutes and nobody reads them
MOST_ROWS = 200  # of a forecast that can be told apart
LONGEST = 30  # letters of a name


class Panel(NamedTuple):
    """One plot of several that share their horizontal axis.

    Attributes
    ----------
    label : str
        Of the vertical axis.
    curves : mapping of str to sequence of float
        Values by name.
    logarithmic : bool, default False
    """

    label: str
    curves: Mapping[str, Sequence[float]]
    logarithmic: bool = False


def available() -> bool:
    """Return whether matplotlib is there to draw."""
    return importlib.util.find_spec("matplotlib") is not None


def training_curves(
    path: str | os.PathLike[str], title: str, updates: Sequence[float], panels: Sequence[Panel]
) -> None:
    """Draw what changed over training, a panel for each measure; of more than 12 the first 12.

    Parameters
    ----------
    path : path
        Of the PNG file to write.
    title : str
    updates : sequence of float
        At which updates the values were measured.
    panels : sequence of Panel
    """
    from matplotlib.ticker import LogFormatter

    if len(panels) > MOST:
        title = f"{title}: {MOST} of {len(panels)} panels"
        panels = panels[:MOST]
    figure, axes = _grid(title, len(panels))
    for axis, panel in zip(axes, panels, strict=True):
        for name, values in panel.curves.items():
            # a run of one validation has one point, which a line does not show
            axis.plot(updates, values, label=name, marker="o" if len(updates) == 1 else "")
        axis.set_ylabel(panel.label)
        if panel.logarithmic:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(LogFormatter())
            axis.yaxis.set_minor_formatter(LogFormatter())
        axis.grid(alpha=0.3)
    names = [name for panel in panels if len(panel.curves) > 1 for name in panel.curves]
    _label(figure, axes, "updates", list(dict.fromkeys(names)))
    figure.savefig(path, format="png", dpi=DPI)


def forecast_title(columns: Sequence[str], source: str | None) -> str:
    """Return the title of a forecast: what is predicted, and where it is from."""
    names = ", ".join(columns[:3]) + (f" and {len(columns) - 3} others" if len(columns) > 3 else "")
    return f"Forecast of {names}" + (f", {source}" if source else "")


def forecast(
    path: str | os.PathLike[str],
    title: str,
    columns: Sequence[str],
    truth: np.ndarray,
    start: int,
    prediction: np.ndarray,
    index: np.ndarray | None = None,
    index_name: str = "row",
) -> None:
    """Draw a series with a forecast over it, a panel for each column; of more than 12 the first 12.

    A long series is shown near the forecast alone, with twice as many rows before it as it has itself, but
    100 at least; and of a long forecast the beginning, 200 rows.

    Parameters
    ----------
    path : path
        Of the PNG file to write.
    title : str
    columns : sequence of str
        Their names.
    truth : ndarray, (S, C)
    start : int
        Row that the forecast begins with.
    prediction : ndarray, (steps, C)
    index : ndarray of datetime64 or float, (S,), optional
        What stands below the rows; their numbers if not given.
    index_name : str
    """
    if len(prediction) > MOST_ROWS:
        title = f"{title}: {MOST_ROWS} of {len(prediction):,} rows"
        prediction = prediction[:MOST_ROWS]
    stop = start + len(prediction)
    first = max(0, start - max(2 * len(prediction), 100))
    rows = max(stop, len(truth))
    places = np.arange(rows) if index is None else tables.extended(index, rows)
    shown = slice(first, max(stop, min(len(truth), stop + len(prediction))))
    if len(columns) > MOST:
        title = f"{title}: {MOST} of {len(columns)} columns"
    figure, axes = _grid(title, min(len(columns), MOST))
    for axis, name, known, predicted in zip(axes, columns, truth.T, prediction.T, strict=False):
        known = known[shown]
        axis.plot(places[first : first + len(known)], known, color="0.6", label="truth")
        axis.plot(
            places[start:stop],
            predicted,
            label="forecast",
            marker="o" if len(predicted) == 1 else "",
        )
        axis.axvline(places[start], color="0.3", linewidth=0.8, linestyle=":")
        axis.set_ylabel(_short(name))
        axis.grid(alpha=0.3)
        if places.dtype.kind == "M":
            _date_axis(axis)
    _label(figure, axes, index_name, ["truth", "forecast"])
    figure.savefig(path, format="png", dpi=DPI)


def confusion_matrix(path: str | os.PathLike[str], classes: Sequence[str], counts: np.ndarray) -> None:
    """Draw how often each class was taken for each.

    Parameters
    ----------
    path : path
        Of the PNG file to write.
    classes : sequence of str
        Their names.
    counts : ndarray of int, (C, C)
        Of sequences, by true class (row) and predicted class (column).
    """
    C = len(classes)
    names = [_short(name) for name in classes]
    longest = max(map(len, names), default=0)
    room = 0.09 * longest  # inches that the names take beside the matrix
    figure, (axis,) = _grid("Confusion matrix", 1, width=0.5 * C + 3 + room, height=0.5 * C + 2 + room)
    # shades by the part of a class, since classes may be of unequal size
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    for (true, found), count in np.ndenumerate(counts):
        shade = "white" if parts[true, found] > 0.5 else "black"
        axis.text(found, true, str(count), ha="center", va="center", color=shade)
    axis.set_xticks(range(C), names, rotation=90 if longest > 4 else 0)
    axis.set_yticks(range(C), names)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    figure.savefig(path, format="png", dpi=DPI)


def _grid(title: str, count: int, width: float = 7, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels that share their horizontal axis: up to 3 above one another, or a grid."""
    # The classes themselves: pyplot would load a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = 1 if count <= 3 else 2 if count <= 6 else 3
    down = -(-count // across)
    if across > 1:
        width = 5 * across
    figure = Figure(figsize=(width, height * down + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = list(figure.subplots(down, across, sharex=True, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis in axes[max(count - across, 0) : count]:
        axis.tick_params(labelbottom=True)  # also above a place that is left empty
    return figure, axes[:count]


def _label(figure: Figure, axes: Sequence[Axes], below: str, names: Sequence[str]) -> None:
    """Name the horizontal axis, and put a legend for all panels below them, where no curve can lie."""
    for axis in axes:
        if any(label.get_visible() for label in axis.get_xticklabels()):
            axis.set_xlabel(below)
    found: dict[str, Artist] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= {label: handle for label, handle in zip(labels, handles, strict=True) if label in names}
    if found:
        figure.legend(
            list(found.values()),
            list(found),
            loc="outside lower center",
            ncols=min(len(found), 4),
            frameon=False,
        )


def _date_axis(axis: Axes) -> None:
    """Write dates below an axis as short as can be."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3)  # type: ignore[no-untyped-call]
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _short(name: str) -> str:
    """Return a name that fits beside a panel."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def gradient_norms(
    path: str | os.PathLike[str], title: str, norms: Sequence[float], reaches: Sequence[int | str]
) -> None:
    """Draw how a gradient fades or grows on its way back through time.

    Parameters
    ----------
    path : path
        Of the PNG file to write.
    title : str
    norms : sequence of float, (T,)
        At each step, of the gradient of the last step's loss.
    reaches : sequence of int or "full"
        How far back it goes: one curve each.
    """
    figure, (axis,) = _grid(title, 1)
    T = len(norms)
    for i, reach in enumerate(reaches):
        k = T if reach == "full" else min(int(reach), T)
        # each one lies on those that reach further: the further, the thinner
        axis.semilogy(
            range(1 - k, 1),
            norms[T - k :],
            "o-",
            label=f"bptt = {reach}",
            linewidth=1 + 2 * i,
            markersize=3 + 2 * i,
        )
    axis.set_ylabel("norm of ∂ loss / ∂ h")
    axis.grid(alpha=0.3)
    _label(figure, [axis], "steps before the last one", [f"bptt = {reach}" for reach in reaches])
    figure.savefig(path, format="png", dpi=DPI)
