"""Pictures of a training run, drawn by matplotlib (the extra `plot`)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Panel", "available", "confusion_matrix", "forecast", "gradient_norms", "training_curves"]


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
    """Draw what changed over training, one panel above another.

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

    figure, axes = _panels(title, len(panels))
    for axis, panel in zip(axes, panels, strict=True):
        for name, values in panel.curves.items():
            axis.plot(updates, values, label=name)
        axis.set_ylabel(panel.label)
        if panel.logarithmic:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(LogFormatter())
            axis.yaxis.set_minor_formatter(LogFormatter())
        if len(panel.curves) > 1:
            axis.legend()
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("updates")
    figure.savefig(path, format="png", dpi=120)


def forecast(
    path: str | os.PathLike[str],
    title: str,
    columns: Sequence[str],
    truth: np.ndarray,
    start: int,
    prediction: np.ndarray,
) -> None:
    """Draw a series with a forecast over it, one panel a column.

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
    """
    figure, axes = _panels(title, len(columns))
    for axis, name, known, predicted in zip(axes, columns, truth.T, prediction.T, strict=True):
        axis.plot(known, color="0.6", label="truth")
        axis.plot(range(start, start + len(predicted)), predicted, label="closed-loop prediction")
        axis.axvline(start - 0.5, color="0.3", linewidth=0.8, linestyle=":")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[0].legend(loc="upper left", bbox_to_anchor=(0, 1.16), ncols=2, frameon=False)
    axes[-1].set_xlabel("row")
    figure.savefig(path, format="png", dpi=120)


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
    figure, (axis,) = _panels("Confusion matrix", 1, width=0.5 * C + 3, height=0.5 * C + 2)
    # shades by the part of a class, since classes may be of unequal size
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    for (true, found), count in np.ndenumerate(counts):
        shade = "white" if parts[true, found] > 0.5 else "black"
        axis.text(found, true, str(count), ha="center", va="center", color=shade)
    axis.set_xticks(range(C), classes)
    axis.set_yticks(range(C), classes)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    figure.savefig(path, format="png", dpi=120)


def _panels(title: str, count: int, width: float = 7, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels one above another, which share their horizontal axis."""
    # The classes themselves: pyplot would load a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * count + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure, list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])


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
    figure, (axis,) = _panels(title, 1)
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
    axis.set_xlabel("steps before the last one")
    axis.set_ylabel("norm of ∂ loss / ∂ h")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=120)
