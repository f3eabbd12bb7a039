"""Stages bound to random data, for the tests of the kernels.

The numbers of a case depend on its seed and its shape alone: every value is one that float32 can hold, so
that a case is the same problem in every precision. Rows of a buffer that no stage may touch hold NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnncore.rows import Rows, Variable

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
STATES = {"RNN": 1, "LSTM": 2, "GRU": 1}
CELLS: list[tuple[str, dict[str, Any]]] = [
    *(("RNN", {"activation": name}) for name in ("tanh", "sigmoid", "relu", "prelu", "identity")),
    ("LSTM", {}),
    ("GRU", {"reset_after": True}),
    ("GRU", {"reset_after": False}),
]
CELL_NAMES = [
    "-".join([cell, *(f"{name}={value}" for name, value in options.items())]) for cell, options in CELLS
]


@dataclass
class Case:
    """A stage, the variables it computes the gradients of, and those whose values it computes.

    x is the input of a recurrent layer or an embedding, which is none of the variables where it consists of
    tokens; or the target of a loss.
    """

    stage: Any
    inputs: dict[str, Variable]
    outputs: dict[str, Variable]
    x: np.ndarray | None = None

    def run(self) -> Case:
        self.stage.pack()
        self.stage.forward()
        self.stage.backward()
        self.stage.accumulate()
        return self

    def results(self) -> dict[str, np.ndarray]:
        """All outputs, and the gradients of all inputs."""
        gradients = {f"d{name}": variable.grad for name, variable in self.inputs.items()}
        return {name: variable.value for name, variable in self.outputs.items()} | gradients

    def objective(self) -> Any:
        """The number that the gradients are those of: the outputs weighted by the gradients given to them."""
        self.stage.pack()
        self.stage.forward()
        return sum((out.value * out.grad).sum() for out in self.outputs.values() if out.grad is not None)


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """Return max|a - b| / max|b|; a NaN is an error without bound."""
    assert a.shape == b.shape
    error = np.abs(a - b).max(initial=0)
    if error == 0:
        return 0.0
    return math.inf if np.isnan(error) else float(error / np.abs(b).max())


def assert_close(
    a: dict[str, np.ndarray], b: dict[str, np.ndarray], tolerance: float, what: object = ""
) -> None:
    assert a.keys() == b.keys()
    for name in a:
        error = relative_error(a[name], b[name])
        assert error <= tolerance, f"{name}: {error:.1e} > {tolerance:.0e} {what}"


class Draw:
    """Random arrays of one dtype."""

    def __init__(self, seed: int, dtype: Any) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype

    def array(self, *shape: int, size: float = 1.0) -> np.ndarray:
        return (size * self.rng.standard_normal(shape)).astype(np.float32).astype(self.dtype)

    def weight(self, *shape: int) -> Variable:
        """A parameter, of a size that keeps that of the vectors it is multiplied with."""
        return Variable(self.array(*shape, size=1 / math.sqrt(shape[-1])), np.zeros(shape, self.dtype))

    def source(self, *shape: int) -> Variable:
        """What a stage reads, and adds to the gradient of: that is zero so far."""
        return Variable(self.array(*shape), np.zeros(shape, self.dtype))

    def input(self, *shape: int, capacity: int) -> Variable:
        """What it reads, and fills the gradient of."""
        return Variable(
            spare(self.array(*shape), capacity), np.full((capacity, *shape[1:]), np.nan, self.dtype)
        )

    def sink(self, *shape: int, capacity: int | None = None) -> Variable:
        """What a stage writes: values that are NaN so far, gradients of one sign, lest their sums cancel."""
        empty = np.full(shape, np.nan, self.dtype)
        grad = abs(self.array(*shape)).astype(self.dtype)
        return Variable(spare(empty, capacity), spare(grad, capacity))

    def ids(self, rows: int, vocabulary: int, capacity: int | None = None) -> np.ndarray:
        return spare(self.rng.integers(vocabulary, size=rows), capacity, vocabulary)


def spare(array: np.ndarray, capacity: int | None, filler: float = np.nan) -> np.ndarray:
    """Lengthen an array to its capacity by rows that nobody may read."""
    if capacity is None:
        return array
    longer = np.full((capacity, *array.shape[1:]), filler, array.dtype)
    longer[: len(array)] = array
    return longer


def first(rows: int, variable: Variable) -> Variable:
    """The rows of a variable that a stage uses."""
    return Variable(variable.value[:rows], None if variable.grad is None else variable.grad[:rows])


def ragged(N: int, T: int) -> Rows:
    """Sequences of lengths from T down to zero."""
    rows = Rows(N, T)
    rows.arrange(np.linspace(T, 0, N).round().astype(np.intp))
    return rows


def recurrent(
    kernels: Any,
    cell: str,
    options: dict[str, Any],
    rows: Rows,
    *,
    D: int = 2,
    H: int = 3,
    biases: int = 2,
    tokens: bool = False,
    read_steps: bool = True,
    columns: bool = False,
    rest: bool = False,
    room: bool = False,
    bounded: bool = False,
    dtype: Any = np.float64,
    seed: int = 0,
) -> Case:
    """One direction of a recurrent layer.

    With `columns`, y is some columns of a wider array; without `read_steps`, it has no gradient. With `rest`,
    the initial states are zero, and nobody asks for their gradients. With `room`, there are N rows before y.
    With `bounded`, x is said to be.
    """
    draw = Draw(seed, dtype)
    M, capacity, GH = rows.M, rows.N * rows.T, GATES[cell] * H
    states = ["h", "c"][: STATES[cell]]
    weights = {"weight_ih": draw.weight(GH, D), "weight_hh": draw.weight(GH, H)}
    weights |= {name: draw.source(GH) for name in ("bias_ih", "bias_hh")[:biases]}
    if options.get("activation") == "prelu":
        weights["slope"] = draw.source(1)
    initial = {f"{name}_0": draw.source(rows.N, H) for name in states}
    if rest:
        initial = {name: Variable(np.zeros((rows.N, H), dtype)) for name in initial}
    final = {f"{name}_T": draw.sink(rows.N, H) for name in states}
    x = Variable(draw.ids(M, D, capacity)) if tokens else draw.input(M, D, capacity=capacity)
    x = x._replace(bounded=bounded)
    if options.get("adds") and not tokens:
        x.grad[:M] = 0
    y = draw.sink(M, H, capacity=capacity)
    if columns:
        y = Variable(*(np.concatenate([array] * 3, axis=1)[:, H : 2 * H] for array in (y.value, y.grad)))
    if room:
        longer = np.full((rows.N + capacity, 3 * H if columns else H), np.nan, dtype)
        y = Variable(longer[rows.N :, -H:], y.grad, rows.N)
    if not read_steps:
        y = y._replace(grad=None)
    make = getattr(kernels, cell)
    stage = make(
        rows, x, y, tuple(weights.values()), tuple(initial.values()), tuple(final.values()), **options
    )
    inputs = weights | ({} if rest else initial) | ({} if tokens else {"x": first(M, x)})
    return Case(stage, inputs, final | {"y": first(M, y)}, x.value[:M])


def stage_rows(rows: Rows, last: bool) -> int:
    return rows.N if last else rows.M


def linear(
    kernels: Any,
    rows: Rows,
    *,
    I: int = 3,  # noqa: E741
    O: int = 2,  # noqa: E741
    bias: bool = True,
    last: bool = False,
    bounded: bool = False,
    dtype: Any = np.float64,
) -> Case:
    draw = Draw(0, dtype)
    R, capacity = stage_rows(rows, last), rows.N * rows.T
    weights = {"weight": draw.weight(O, I)} | ({"bias": draw.source(O)} if bias else {})
    x, y = draw.input(R, I, capacity=capacity), draw.sink(R, O, capacity=capacity)
    x = x._replace(bounded=bounded)
    stage = kernels.Linear(rows, x, y, tuple(weights.values()), last=last)
    return Case(stage, weights | {"x": first(R, x)}, {"y": first(R, y)})


def embedding(kernels: Any, rows: Rows, *, V: int = 4, E: int = 3, dtype: Any = np.float64) -> Case:
    draw = Draw(0, dtype)
    M, capacity = rows.M, rows.N * rows.T
    weight, y = draw.weight(V, E), draw.sink(M, E, capacity=capacity)
    ids = draw.ids(M, V, capacity)
    stage = kernels.Embedding(rows, Variable(ids), y, (weight,))
    return Case(stage, {"weight": weight}, {"y": first(M, y)}, ids[:M])


def dropout(kernels: Any, rows: Rows, *, H: int = 3, dtype: Any = np.float64) -> Case:
    draw = Draw(0, dtype)
    M, capacity = rows.M, rows.N * rows.T
    x, y = draw.input(M, H, capacity=capacity), draw.sink(M, H, capacity=capacity)
    mask = (draw.rng.random((capacity, H)) < 0.75).astype(dtype) / dtype(0.75)
    return Case(kernels.Dropout(rows, x, y, mask), {"x": first(M, x)}, {"y": first(M, y)})


def join(kernels: Any, rows: Rows, *, H: int = 3, parts: int = 2, dtype: Any = np.float64) -> Case:
    draw = Draw(0, dtype)
    sides = {f"part {i}": draw.source(rows.N, H) for i in range(parts)}
    y = draw.sink(rows.N, parts * H)
    return Case(kernels.Join(rows, tuple(sides.values()), y), sides, {"y": y})


def activation(
    kernels: Any,
    rows: Rows,
    *,
    kind: str,
    O: int = 3,  # noqa: E741
    last: bool = False,
    dtype: Any = np.float64,
) -> Case:
    draw = Draw(0, dtype)
    R, capacity = stage_rows(rows, last), rows.N * rows.T
    x, y = draw.input(R, O, capacity=capacity), draw.sink(R, O, capacity=capacity)
    stage = kernels.Activation(rows, x, y, kind=kind, last=last)
    return Case(stage, {"x": first(R, x)}, {"y": first(R, y)})


def loss(
    kernels: Any,
    rows: Rows,
    *,
    kind: str,
    reduction: str = "mean",
    O: int = 3,  # noqa: E741
    last: bool = False,
    dtype: Any = np.float64,
) -> Case:
    draw = Draw(0, dtype)
    R, capacity = stage_rows(rows, last), rows.N * rows.T
    p = draw.input(R, O, capacity=capacity)
    target = draw.ids(R, O, capacity) if kind == "cross_entropy" else spare(draw.array(R, O), capacity)
    stage = kernels.Loss(rows, p, target, kind=kind, reduction=reduction, last=last)
    return Case(stage, {"p": first(R, p)}, {"loss": Variable(stage.value, np.ones(1))}, target[:R])


def update(
    kernels: Any, rule: str, param: np.ndarray, grad: np.ndarray, slots: Any, *settings: float
) -> None:
    """Change a parameter by an optimizer's rule; settings: the learning rate, the update's number, ..."""
    getattr(kernels, rule)(Variable(param, grad), *slots, np.array(settings, float)).update()
