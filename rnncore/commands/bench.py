"""Times of a few usual pieces of work; ``benchmarks/`` of the repository compares with other packages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import click
import numpy as np

import rnncore
from rnncore import kernels
from rnncore.models import SequenceModel
from rnncore.optimizers import SGD
from rnncore.trainer import Trainer

__all__ = ["Work", "bench", "measure", "works"]

BLOCK = 0.01  # seconds, at least, that are timed at once


class Work(NamedTuple):
    """Something to be timed: what it is, what does it once, and its model's arithmetic."""

    title: str
    run: Callable[[], object]
    operations: float


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="For each line.",
)
def bench(seconds: float) -> None:
    """Measure how long training, inference and streaming take here: medians and quartiles."""
    click.echo(f"kernels {kernels.active.name}, float32, up to {rnncore.get_num_threads()} threads")
    for title, run, operations in works():
        low, median, high = (1e6 * t for t in np.quantile(measure(run, seconds), [0.25, 0.5, 0.75]))
        rate = operations / median / 1e3
        click.echo(f"{title:44} {median:10.1f} µs ({low:.1f} – {high:.1f}), {rate:.1f} GFLOP/s")


def works() -> Iterator[Work]:
    """Yield what is measured."""
    rng = np.random.default_rng(0)
    bits = rng.integers(2, size=(1, 8, 2)).astype(np.float32)
    adder = SequenceModel(2, 16, 1, "rnn", input="dense", output_activation="sigmoid", bias=False)
    trainer = Trainer(adder, "half_mse", SGD(lr=0.1), reduction="sum")
    operations = 3 * 2 * 8 * 16 * (16 + 2 + 1)
    yield Work(
        "training step, Elman N=1 T=8 D=2 H=16", partial(trainer.step, bits, bits[..., :1]), operations
    )
    for H, T in ((128, 50), (256, 100)):
        tokens = rng.integers(65, size=(32, T))
        trainer = Trainer(SequenceModel(65, H, 65), "cross_entropy", SGD(lr=0.1))
        operations = 3 * 2 * 32 * T * H * (4 * H + 65)  # ids are gathered: they cost no product
        yield Work(
            f"training step, LSTM N=32 T={T} V=65 H={H}", partial(trainer.step, tokens, tokens), operations
        )
    model = SequenceModel(8, 128, 8, input="dense")
    x = rng.normal(size=(32, 100, 8)).astype(np.float32)
    operations = 2 * 32 * 100 * 128 * (4 * 128 + 4 * 8 + 8)
    yield Work("inference, LSTM N=32 T=100 D=8 H=128", partial(model.predict, x), operations)
    stream = SequenceModel(8, 64, 1, input="dense").stream()
    x_t = np.ascontiguousarray(x[:1, 0])
    operations = 2 * 64 * (4 * 64 + 4 * 8 + 1)
    yield Work("one streamed step, LSTM D=8 H=64", partial(stream.step, x_t), operations)


def measure(run: Callable[[], object], seconds: float) -> list[float]:
    """Return the seconds that single runs take, measured for `seconds` and at least once."""
    run()
    count = max(1, round(BLOCK / _per_run(run, 1)))
    end = time.perf_counter() + seconds
    times = [_per_run(run, count)]
    while time.perf_counter() < end:
        times.append(_per_run(run, count))
    return times


def _per_run(run: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count
