"""Pictures of a training run, drawn by matplotlib (the extra `plot`)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple


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
    # The classes themselves: pyplot would load a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(7, 2.6 * len(panels) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
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
