"""Measure rnncore beside its peers: ``python benchmarks/run.py``.

All contenders of a line take turns in one process, start from the same weights and must come to the same
results. Everything runs on one thread unless a line says two. Peers that are not installed are left out; all
of them: ``pip install torch jax keras onnx onnxruntime matplotlib``.
"""

from __future__ import annotations

import os

# before anything is imported that reads them
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NPROC": "1",  # of JAX
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "jax",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

import argparse
import importlib
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cases
import machine
import measure
import report

from rnncore import kernels

BUSY = 0.5  # load beyond which figures are in doubt
PEERS = {
    "own": "rnncore",
    "tutorial": "NumPy",
    "pytorch": "PyTorch",
    "jax_scan": "JAX",
    "keras_jax": "Keras",
    "onnx_runtime": "ONNX Runtime",
}


def main() -> None:
    """Measure, print, and write what was asked for."""
    options = _parse()
    start = time.perf_counter()
    peers = {name: importlib.import_module(f"peers.{name}") for name in PEERS}
    missing = [PEERS[name] for name, module in peers.items() if not module.installed]
    if missing:
        print(f"not installed, so left out: {', '.join(missing)}")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > BUSY:
        print(f"this machine is busy (load {load:.1f}): the figures mean little")
    loops = {level: machine.peak(level) for level in kernels.available()}
    peaks = {level: loop for level, loop in loops.items() if loop}
    limits = measure_limits(peaks, 0.2 if options.quick else 1.0)
    print(limits.describe(), flush=True)
    budget = (0.3, 3, 5) if options.quick else (6.0, 7, 40)
    results = []
    for line in _chosen(cases.lines(), options.only):
        for result in run_line(line, peers, peaks, budget):
            print(result.describe(limits), flush=True)
            results.append(result)
    curves = {}
    if options.picture:
        budget = (0.2, 3, 3) if options.quick else (1.5, 5, 20)
        for curve in cases.CURVES:
            curves[curve] = [
                result for line in curve.lines() for result in run_line(line, peers, peaks, budget)
            ]
            print(f"cost over {curve.size}: measured", flush=True)
        report.draw(options.picture, curves, limits)
    print(f"\n{report.markdown(results, limits)}\nmeasured in {time.perf_counter() - start:.0f} s")
    if options.json:
        report.write_json(options.json, results, curves, limits)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it works")
    parser.add_argument("--only", metavar="NAME", action="append", help="lines whose names begin so")
    parser.add_argument("--list", action="store_true", help="list the lines and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the cost over H, N and T")
    options = parser.parse_args()
    if options.list:
        for line in cases.lines():
            print(f"{line.name:16} {line.describe()}")
        sys.exit()
    return options


def _chosen(lines: Iterable[cases.Line], names: list[str] | None) -> list[cases.Line]:
    """Return the lines whose names begin with one of those given."""
    chosen = [line for line in lines if names is None or line.name.startswith(tuple(names))]
    if not chosen:
        sys.exit(f"no line begins with {' or '.join(names or [])}; --list shows all")
    return chosen


def measure_limits(peaks: dict[str, machine.Peak], seconds: float) -> report.Limits:
    """Return what this machine can do at most."""
    return report.Limits(
        machine.cpu_name(),
        machine.versions(),
        kernels.active.name,
        machine.product_rate(2 * seconds),
        {level: peak.rate(seconds) for level, peak in peaks.items()},
    )


def run_line(
    line: cases.Line,
    peers: dict[str, ModuleType],
    peaks: dict[str, machine.Peak],
    budget: tuple[float, int, int],
) -> Iterator[report.Result]:
    """Measure one line with those of its contenders that can run; yield nothing without the first of them.

    The machine's peak takes its turn as well: a shared machine is not always as fast.
    """
    entries = [
        entry
        for entry in line.entries
        if peers[entry.peer].installed and entry.options.get("level", "numpy") in kernels.available()
    ]
    if not entries or entries[0] != line.entries[0]:
        return
    contenders, outcomes = [], {}
    for entry in entries:
        measure.set_threads(entry.threads)
        make = getattr(peers[entry.peer], line.kind)
        work = replace(line.work, **entry.changes)
        run = make(work, **entry.options)
        contenders.append(measure.Contender(run, entry.threads))
        outcome = [run() for _ in range(3)][-1]
        if work == line.work:
            outcomes[entry.label] = outcome
    measure.check_results(outcomes)
    peak = peaks.get(line.level or kernels.active.name)
    if peak is None:
        yield report.Result(line, entries, measure.side_by_side(contenders, *budget))
    else:
        times = measure.side_by_side([*contenders, measure.Contender(peak.run)], *budget)
        yield report.Result(line, entries, times[:, :-1], peak.operations / times[:, -1])


if __name__ == "__main__":
    main()
