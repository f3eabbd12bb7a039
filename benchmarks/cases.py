"""The lines of the table, and the curves of the picture: who is measured at what, and the ratio to reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from works import Work


@dataclass(frozen=True)
class Entry:
    """A contender in a line.

    Attributes
    ----------
    label : str
    peer : str
        Module in `peers`.
    threads : int
    options : dict
        For the module's function.
    changes : dict
        What is different in its work; then its result is its own, too.
    goal : float
        Ratio of its time to the first contender's that rnncore is to reach.
    """

    label: str
    peer: str
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    goal: float | None = None


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes
    ----------
    name : str
    work : Work
    entries : tuple of Entry
        Ratios are to the first.
    kind : {"training", "inference", "stream"}
        Function of the peers' modules.
    note : str
        What the work alone does not tell.
    level : str, optional
        Instruction-set level whose peak limits the first entry, if not the best one's.
    """

    name: str
    work: Work
    entries: tuple[Entry, ...]
    kind: str = "training"
    note: str = ""
    level: str | None = None

    def describe(self) -> str:
        """Return what is done in one line."""
        kind = {"training": "training step", "inference": "inference", "stream": "one streamed step"}
        return ", ".join(filter(None, [kind[self.kind], self.note, self.work.describe()]))


OWN = Entry("rnncore", "own")


def numpy(goal: float) -> Entry:
    """Return NumPy in the style of tutorials."""
    return Entry("NumPy", "tutorial", goal=goal)


def torch(goal: float | None = None) -> Entry:
    """Return PyTorch on one thread."""
    return Entry("PyTorch", "pytorch", goal=goal)


def jax(goal: float | None = None) -> Entry:
    """Return JAX on one thread."""
    return Entry("JAX", "jax_scan", goal=goal)


def onnx(goal: float | None = None) -> Entry:
    """Return ONNX Runtime on one thread."""
    return Entry("ONNX Runtime", "onnx_runtime", goal=goal)


def keras(goal: float | None = None) -> Entry:
    """Return Keras on one thread, on JAX; it has one bias."""
    return Entry("Keras", "keras_jax", changes={"bias": "single"}, goal=goal)


ADDITION = Work("rnn", 1, 8, 2, 16, 1, bias=False, sigmoid=True, reduction="sum", lr=0.1)
CHARACTERS = Work(
    "rnn",
    1,
    25,
    65,
    100,
    65,
    tokens=True,
    bias="single",
    loss="cross_entropy",
    reduction="sum",
    optimizer="adagrad",
    lr=0.01,
    clip_value=5.0,
)
SINE = Work("lstm", 10, 10, 1, 45, 1, last=True, bias="single", lr=0.008)
TOKENS = Work("lstm", 32, 50, 65, 128, 65, tokens=True, loss="cross_entropy", lr=0.1)
TOKENS_256 = replace(TOKENS, H=256, T=100)
# training as the tasks of rnncore do it
TEXT = replace(TOKENS, T=64, D=97, O=97, optimizer="adam", lr=3e-3, clip_norm=5.0)
SHAKESPEARE = replace(TOKENS, N=50, layers=2, optimizer="adam", lr=2e-3, clip_norm=5.0)
ADDING = Work("lstm", 50, 100, 2, 32, 1, last=True, optimizer="adam", lr=0.01, clip_norm=1.0)
DENSE = Work("lstm", 32, 100, 8, 64, 8)
DENSE_512 = replace(DENSE, N=64, T=64, D=128, H=512)
STREAM = Work("lstm", 1, 1, 8, 64, 1)


def lines() -> Iterator[Line]:
    """Yield the lines of the table."""
    yield Line("addition", ADDITION, (OWN, numpy(30), torch(80), jax(7)), note="binary addition")
    yield Line("characters", CHARACTERS, (OWN, numpy(25), torch(25), jax(2.5)), note="character RNN")
    yield Line("sine", SINE, (OWN, numpy(8), torch(12), jax(6), keras()), note="sine wave")
    yield Line("lstm-128", TOKENS, (OWN, torch(2), jax(2), keras()))
    yield Line("gru-128", replace(TOKENS, cell="gru"), (OWN, torch(2.5), jax(2)))
    yield Line("rnn-128", replace(TOKENS, cell="rnn"), (OWN, torch(2.5), jax(2)))
    yield Line("lstm-256", TOKENS_256, (OWN, torch(1.8), jax(1.8)))
    yield Line("lstm-512", DENSE_512, (OWN, torch(1.4), jax(1.3)))
    yield Line("lstm-1024", replace(DENSE, N=64, T=32, D=256, H=1024), (OWN, torch(1.3), jax(1.3)))
    yield Line("two-layers", replace(TOKENS, layers=2), (OWN, torch(2)))
    yield Line("bidirectional", replace(TOKENS, bidirectional=True), (OWN, torch(2)))
    yield Line("float64", replace(TOKENS, dtype="float64"), (OWN, torch(1.5)))
    yield Line("adam-text", TEXT, (OWN, torch(2)), note="Adam, clipping by norm")
    yield Line("adam-shakespeare", SHAKESPEARE, (OWN, torch()), note="Adam, clipping by norm")
    yield Line("adam-adding", ADDING, (OWN, torch(2)), note="Adam, clipping by norm, adding problem")
    for T in (200, 1000):
        packed = replace(torch(15), label="PyTorch packed", options={"packed": True})
        padded = replace(torch(2), label="PyTorch padded")
        full = replace(OWN, label="rnncore, full batch", changes={"fill": 1.0}, goal=1 / 0.72)
        yield Line(f"ragged-{T}", replace(DENSE, T=T, fill=0.62), (OWN, packed, padded, full))
    yield from _threads()
    yield from _levels()
    for H, goal in ((64, 2), (128, 1.3), (256, 1.1)):
        yield Line(f"inference-{H}", replace(DENSE, H=H), (OWN, torch(goal), onnx(1.6), jax()), "inference")
    for H, goal, goal_onnx in ((16, 60, 10), (64, 45, 6), (128, 35, 4), (256, 20, 2.3)):
        yield Line(f"stream-{H}", replace(STREAM, H=H), (OWN, torch(goal), onnx(goal_onnx), jax()), "stream")
    yield Line("streams", replace(STREAM, N=1000), (OWN, torch(3), onnx(), jax()), "stream")


def _threads() -> Iterator[Line]:
    """Yield what two threads bring."""
    two = replace(OWN, label="rnncore, 2 threads", threads=2)
    torch_two = replace(torch(), label="PyTorch, 2 threads", threads=2)
    works = {
        "addition": ADDITION,
        "16": replace(TOKENS, H=16),
        "64": replace(TOKENS, H=64),
        "128": TOKENS,
        "256": TOKENS_256,
        "512": DENSE_512,
    }
    for name, work in works.items():
        entries: tuple[Entry, ...] = (two, replace(OWN, goal=1.9 if work.H >= 128 else 1.0))
        if name == "128":
            entries += (torch(2.4), replace(torch_two, goal=2.4))
        yield Line(f"threads-{name}", work, entries, note="two threads")
    for N, kind in ((1, "inference"), (8, "training")):  # few sequences and many weights
        few = replace(DENSE, N=N, D=64, H=512)
        entries = two, replace(OWN, goal=1.0), torch_two
        yield Line(f"threads-few-{N}", few, entries, kind, note="two threads")


def _levels() -> Iterator[Line]:
    """Yield instruction-set levels below the best; a line without its first one is not run."""
    v4, v3, base = (replace(OWN, label=f"rnncore {k}", options={"level": k}) for k in ("v4", "v3", "base"))
    yield Line("level-v4", TOKENS_256, (v4,), note="kernels v4", level="v4")
    yield Line("level-v3", TOKENS_256, (v3, v4, base), note="kernels v3", level="v3")
    yield Line("level-base", TOKENS_256, (base,), note="kernels base", level="base")


@dataclass(frozen=True, eq=False)
class Curve:
    """How the cost of a training step grows with one size, the others fixed."""

    size: str
    values: tuple[int, ...]
    work: Work
    entries: tuple[Entry, ...] = (OWN, torch(), jax())

    def lines(self) -> Iterator[Line]:
        """Yield a line for each value."""
        for value in self.values:
            work = replace(self.work, **{self.size: value})
            yield Line(f"curve-{self.size}-{value}", work, self.entries)


CURVES = (
    Curve("H", (16, 32, 64, 128, 256, 512), TOKENS),
    Curve("N", (1, 4, 16, 64, 256), replace(TOKENS, H=64)),
    Curve("T", (5, 20, 80, 320, 1000), replace(TOKENS, N=8, H=64)),
)
