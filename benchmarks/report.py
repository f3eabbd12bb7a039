"""What was measured, as text, JSON and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cases import Curve, Entry, Line
from measure import Quartiles, quartiles


@dataclass(frozen=True)
class Limits:
    """The machine, and what it can do at most.

    Attributes
    ----------
    cpu : str
    versions : dict
        Of Python and of the packages measured.
    level : str
        Instruction-set level in use.
    product : float
        Best rate of NumPy's float32 matrix product, operations a second on one thread.
    peaks : dict of str to float
        Rate of float32 multiply-adds in registers, by level; empty without a C compiler.
    """

    cpu: str
    versions: Mapping[str, str]
    level: str
    product: float
    peaks: Mapping[str, float]

    def describe(self) -> str:
        """Return the machine in a few lines."""
        peaks = ", ".join(f"{level} {rate / 1e9:.0f}" for level, rate in self.peaks.items())
        return "\n".join(
            [
                f"{self.cpu}, kernels {self.level}",
                ", ".join(f"{name} {version}" for name, version in self.versions.items()),
                f"one thread, float32, GFLOP/s: NumPy's best matrix product {self.product / 1e9:.0f}; "
                f"multiply-adds in registers: {peaks or 'not measured, as there is no C compiler'}",
            ]
        )


@dataclass(frozen=True)
class Result:
    """A measured line.

    Attributes
    ----------
    line : Line
    entries : sequence of Entry
        Those that ran.
    times : ndarray, (rounds, entries)
        Seconds.
    peaks : ndarray, (rounds,), optional
        Rate of multiply-adds in registers beside them, operations a second on one thread.
    """

    line: Line
    entries: Sequence[Entry]
    times: np.ndarray
    peaks: np.ndarray | None = None

    def seconds(self, i: int) -> Quartiles:
        """Return the quartiles of a contender's time."""
        return quartiles(self.times[:, i])

    def ratio(self, i: int) -> Quartiles:
        """Return the quartiles of a contender's time over the first one's in the same round."""
        return quartiles(self.times[:, i] / self.times[:, 0])

    @property
    def operations(self) -> float:
        """Model arithmetic of a run; training counts as 3 passes."""
        return (3 if self.line.kind == "training" else 1) * self.line.work.arithmetic

    @property
    def rate(self) -> float:
        """Of the first contender, operations a second."""
        return self.operations / self.seconds(0).median

    def shares(self, limits: Limits) -> dict[str, float]:
        """Return the first contender's rate as a share of the machine's limits, on as many threads."""
        if self.line.work.dtype != "float32":
            return {}
        threads = self.entries[0].threads
        shares = {"product": self.rate / threads / limits.product}
        if self.peaks is not None:
            of_peak = self.operations / self.times[:, 0] / self.peaks
            shares["peak"] = quartiles(of_peak).median / threads
        return shares

    def describe(self, limits: Limits) -> str:
        """Return the line in full."""
        text = [f"\n{self.line.name} · {self.line.describe()}"]
        for i, entry in enumerate(self.entries):
            row = f"    {entry.label:20} {_spread(self.seconds(i))}"
            if i:
                low, median, high = self.ratio(i)
                row += f"   ratio {_number(median)} ({_number(low)} – {_number(high)})"
                if entry.goal is not None:
                    row += f", goal {_number(entry.goal)}{'' if median >= entry.goal else '  BELOW'}"
            text.append(row)
        shares = self.shares(limits)
        if shares:
            peak = f"{shares['peak']:.0%} of the peak, " if "peak" in shares else ""
            product = f"{shares['product']:.0%} of NumPy's best product"
            text.append(f"    {self.rate / 1e9:.1f} GFLOP/s: {peak}{product}")
        return "\n".join(text)


def markdown(results: Sequence[Result], limits: Limits) -> str:
    """Return a table: the first contender's time, how many times as long others took, share of the peak."""
    rows = ["| work | time | times as long | share of peak |", "|---|---|---|---|"]
    for result in results:
        ratios = ", ".join(
            f"{entry.label} {_number(result.ratio(i).median)}×" for i, entry in enumerate(result.entries) if i
        )
        share = result.shares(limits).get("peak")
        cells = [
            result.line.describe(),
            f"{result.entries[0].label} {_duration(result.seconds(0).median)}",
            ratios,
            "" if share is None else f"{share:.0%}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def write_json(
    path: Path, results: Sequence[Result], curves: Mapping[Curve, Sequence[Result]], limits: Limits
) -> None:
    """Write all figures: quartiles in seconds, ratios and shares."""
    content = {
        "machine": {
            "cpu": limits.cpu,
            "versions": dict(limits.versions),
            "kernels": limits.level,
            "best_product_of_numpy": limits.product,
            "peaks": dict(limits.peaks),
        },
        "lines": [_as_dict(result, limits) for result in results],
        "curves": {
            curve.size: [_as_dict(result, limits) for result in found] for curve, found in curves.items()
        },
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _as_dict(result: Result, limits: Limits) -> dict[str, Any]:
    return {
        "name": result.line.name,
        "work": result.line.describe(),
        "rounds": len(result.times),
        "contenders": {
            entry.label: {
                "threads": entry.threads,
                "seconds": _rounded(result.seconds(i)),
                "ratio": _rounded(result.ratio(i)),
                "goal": entry.goal,
            }
            for i, entry in enumerate(result.entries)
        },
        "rate": float(f"{result.rate:.4g}"),
        "shares": {name: round(share, 4) for name, share in result.shares(limits).items()},
    }


def _rounded(values: Quartiles) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in values._asdict().items()}


def _number(value: float) -> str:
    """Return a ratio with two or three digits."""
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _unit(seconds: float) -> tuple[float, str]:
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 1000:
            return factor, unit
    return 1.0, "s"


def _duration(seconds: float) -> str:
    factor, unit = _unit(seconds)
    return f"{seconds * factor:.3g} {unit}"


def _spread(times: Quartiles) -> str:
    factor, unit = _unit(times.median)
    low, median, high = (f"{time * factor:.3g}" for time in times)
    return f"{median:>7} {unit} ({low} – {high})"


def draw(path: Path, curves: Mapping[Curve, Sequence[Result]], limits: Limits) -> None:
    """Draw the time of a training step over H, N and T on logarithmic axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Training step of an LSTM on tokens, one thread, float32 · {limits.cpu}", fontsize=11)
    axes = figure.subplots(1, len(curves), sharey=True)
    for axis, (curve, results) in zip(axes, curves.items(), strict=True):
        for i, entry in enumerate(results[0].entries):
            times = 1e3 * np.array([result.seconds(i) for result in results])
            width = 1.5 if i else 2.5
            (drawn,) = axis.plot(curve.values, times[:, 1], "o-", lw=width, ms=4, label=entry.label)
            axis.fill_between(curve.values, times[:, 0], times[:, 2], color=drawn.get_color(), alpha=0.2)
        fixed = ", ".join(f"{size}={getattr(curve.work, size)}" for size in "NTH" if size != curve.size)
        axis.set(xscale="log", yscale="log", xlabel=f"{curve.size}   ({fixed})")
        axis.xaxis.set_major_locator(FixedLocator(curve.values))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticklabels(map(str, curve.values))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend()
    figure.savefig(path, format="png", dpi=110)
