"""The choice of kernels, and the compiled ones against the NumPy reference: every level that runs here."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import count, cycle, product

import numpy as np
import pytest
from kernel_cases import (
    CELL_NAMES,
    CELLS,
    GATES,
    STATES,
    Case,
    Draw,
    activation,
    assert_close,
    dropout,
    embedding,
    join,
    linear,
    loss,
    ragged,
    recurrent,
    relative_error,
    update,
)

import rnncore
from rnncore import kernels
from rnncore.rows import Rows, Variable

NUMPY = kernels.load("numpy")
LEVELS = [name for name in kernels.available() if name != "numpy"]
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}

each_level = pytest.mark.parametrize("level", LEVELS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
each_cell = pytest.mark.parametrize(("cell", "options"), CELLS, ids=CELL_NAMES)


# --- the choice ---


def test_numpy_kernels_are_always_available():
    assert kernels.available()[0] == "numpy"
    assert NUMPY.name == "numpy"


def test_unknown_kernels():
    with pytest.raises(ValueError, match=r"kernels 'v9' do not run here, expected one of numpy"):
        kernels.load("v9")


def chosen(**environment: str) -> subprocess.CompletedProcess:
    """Import the installed package (hence -P) in a fresh interpreter and print its choice."""
    program = "from rnncore import kernels; print(kernels.active.name)"
    env = {name: value for name, value in os.environ.items() if name != "RNNCORE_KERNELS"} | environment
    return subprocess.run(
        [sys.executable, "-P", "-c", program], env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", kernels.available())
def test_environment_chooses(name):
    assert chosen(RNNCORE_KERNELS=name).stdout.strip() == name


def test_highest_level_is_the_default():
    assert chosen().stdout.strip() == kernels.available()[-1]


def test_unknown_kernels_in_the_environment():
    result = chosen(RNNCORE_KERNELS="v9")
    assert result.returncode != 0
    assert "kernels 'v9' do not run here, expected one of numpy" in result.stderr


def test_missing_compiled_kernels_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rnncore._cpu", None)
    monkeypatch.delattr(rnncore, "_cpu", raising=False)
    monkeypatch.delenv("RNNCORE_KERNELS", raising=False)
    with pytest.warns(RuntimeWarning, match="the compiled ones are missing"):
        assert kernels.choose().name == "numpy"
    monkeypatch.setenv("RNNCORE_KERNELS", "numpy")
    assert kernels.choose().name == "numpy"  # asked for, so without a warning


# --- one interface ---


def parameters(function) -> list:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@each_level
@pytest.mark.parametrize("member", [member for members in kernels.FAMILIES.values() for member in members])
def test_signatures_are_those_of_the_reference(level, member):
    compiled, reference = getattr(kernels.load(level), member), getattr(NUMPY, member)
    assert parameters(compiled) == parameters(reference)
    for method in ("pack", "forward", "backward", "accumulate"):
        assert hasattr(compiled, method) == hasattr(reference, method)


# --- values and gradients ---

# All combinations of what may be asked of a layer; every size of the grid below takes the next one.
VARIATIONS = [
    dict(zip(("biases", "tokens", "reverse", "read_steps", "columns", "rest", "room"), options, strict=True))
    for options in product((2, 1, 0), *[(False, True)] * 6)
]
SIZES = (1, 3, 16, 17, 33)
ROWS = (1, 3, 6, 15)  # alone, one short of a tile (of 4 or 8), several remainders of tiles
GRID = list(zip(product(ROWS, (1, 3, 7), SIZES, SIZES), cycle(VARIATIONS), strict=False))


def recurrent_results(name, cell, options, size, variation, seed, dtype, shaken=0.0) -> dict[str, np.ndarray]:
    """Run a case, whose inputs are all first changed a little where `shaken` is not zero."""
    (N, T, D, H), variation = size, dict(variation)
    options = options | {"reverse": variation.pop("reverse")}
    case = recurrent(
        kernels.load(name), cell, options, ragged(N, T), D=D, H=H, seed=seed, dtype=dtype, **variation
    )
    rng = np.random.default_rng(0)
    for variable in case.inputs.values():
        variable.value[...] *= 1 + shaken * rng.standard_normal(variable.value.shape)
    return case.run().results()


@cache
def reference(cell_name: str) -> list[tuple[tuple, dict[str, np.ndarray]]]:
    """All cases of the grid, and their results in float64: the true ones for float32 as well.

    A tensor of a single number may be a sum that cancels, and then the rounding of any float32 computation
    shows without bound. So a case is drawn anew until NumPy's float32, and inputs changed by as much as
    float32 rounds, come ten times closer than is asked.
    """
    cell, options = CELLS[CELL_NAMES.index(cell_name)]
    cases = []
    for size, variation in GRID:
        for seed in count():
            case = cell, options, size, variation, seed
            expected = recurrent_results("numpy", *case, np.float64)
            close = (
                recurrent_results("numpy", *case, np.float32),
                recurrent_results("numpy", *case, np.float64, 1e-7),
            )
            if all(relative_error(near[name], expected[name]) < 1e-6 for near in close for name in expected):
                cases.append((case, expected))
                break
    return cases


@each_level
@each_dtype
@pytest.mark.parametrize("cell_name", CELL_NAMES)
def test_recurrent_layers_equal_the_reference(level, dtype, cell_name):
    for case, expected in reference(cell_name):
        results = recurrent_results(level, *case, dtype)
        assert {array.dtype for array in results.values()} == {np.dtype(dtype)}
        assert_close(results, expected, TOLERANCE[dtype], case)


# More rows than go through the steps at a time, longer sums, more columns and weights than stay in a cache;
# whole and broken tiles of many rows, and steps of few rows beside them; more k than are summed up as digits.
LARGE = [(70, 9, 6, 17), (130, 3, 20, 5), (6, 2, 530, 400), (37, 5, 150, 140), (150, 2, 98, 144)]
LARGE += [(22, 2, 90, 370), (5, 26, 8, 330)]


@each_level
@each_dtype
@pytest.mark.parametrize(("cell", "options"), [("RNN", {"activation": "tanh"}), ("LSTM", {}), ("GRU", {})])
@pytest.mark.parametrize("size", LARGE)
def test_large_recurrent_layers_equal_the_reference(level, dtype, cell, options, size):
    for variation in (*VARIATIONS[:3], {"reverse": False, "bounded": True}):
        case = cell, options, size, variation, 0
        expected = recurrent_results("numpy", *case, np.float64)
        assert_close(recurrent_results(level, *case, dtype), expected, TOLERANCE[dtype], case)


tiles = pytest.mark.skipif("amx" not in LEVELS, reason="no tile registers")


# With fewer products of digits, tiles would come close as well, but not as close as multiply-adds.
@tiles
@pytest.mark.parametrize("size", [(64, 30, 128, 128), (40, 3, 700, 140)])
def test_tiles_are_as_accurate_as_multiply_adds(size):
    case = "LSTM", {}, size, {"reverse": False}, 0
    expected = recurrent_results("numpy", *case, np.float64)
    usual, tiled = (recurrent_results(level, *case, np.float32) for level in ("v4", "amx"))
    for name in ("y", "dx", "dweight_ih", "dweight_hh", "dh_0"):
        assert (usual[name] != tiled[name]).any()
        size = np.sqrt(np.square(expected[name]).mean())
        errors = [
            np.sqrt(np.square(results[name] - expected[name]).mean()) / size for results in (usual, tiled)
        ]
        assert errors[1] < max(errors[0], 1.5e-7), name  # the latter is what numbers of 24 bits allow


# A row of x and a column of the weights are rounded to half a unit, a share of the largest number in
# them; the products of their lowest digits alone are left out.
@tiles
@pytest.mark.parametrize(("N", "I", "O"), [(3, 130, 260), (40, 257, 128), (70, 1100, 130)])
def test_errors_are_small_beside_the_largest_numbers(N, I, O):  # noqa: E741
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, I)) * np.exp(3 * rng.standard_normal((N, I)))
    w = rng.standard_normal((O, I)) * 10.0 ** rng.integers(-9, 9, (O, 1))
    x[1], w[2], w[3, 5] = 0, 0, 1e9
    x, w, y = (array.astype(np.float32) for array in (x, w, np.zeros((N, O))))
    predicted(kernels.load("amx").Linear, Rows(N, 1), Variable(x, bounded=True), Variable(y), (Variable(w),))
    expected = x.astype(np.float64) @ w.T.astype(np.float64)
    most = 8355584  # units in a number
    unit = np.abs(x).max(axis=1).astype(np.float64)[:, None] / most * np.abs(w).max(axis=1) / most
    assert (np.abs(y - expected) <= unit * I * (most + 128**2) + np.abs(expected) * 1e-6).all()
    assert (np.abs(y - expected) <= unit * np.sqrt(I) * most).mean() > 0.999
    assert (y[1] == 0).all()
    assert (y[:, 2] == 0).all()


# In a weight gradient, it is the largest numbers of one gradient and of one input in 256 steps that count.
@tiles
@pytest.mark.parametrize(("R", "I", "O"), [(170, 64, 65), (256, 130, 80), (700, 100, 530)])
def test_errors_of_weight_gradients_are_small_beside_the_largest_numbers(R, I, O):  # noqa: E741
    rng = np.random.default_rng(0)
    x, dy = (
        rng.standard_normal((R, n)) * np.exp(3 * rng.standard_normal((R, n))) * 10.0 ** rng.integers(-9, 9, n)
        for n in (I, O)
    )
    x[:, 2], dy[:, 1], dy[7] = 0, 0, 0
    x, dy, dw = (array.astype(np.float32) for array in (x, dy, np.ones((O, I))))
    accumulate(kernels.load("amx"), x, dy, dw)
    expected = 1 + dy.T.astype(np.float64) @ x.astype(np.float64)
    unit = sum(np.outer(abs(dy[k : k + 256]).max(0), abs(x[k : k + 256]).max(0)) for k in range(0, R, 256))
    error = abs(dw - expected) - 1e-6 * abs(expected)
    assert (error <= unit / 8355584 * 256).all()
    assert (error <= unit / 8355584 * 16).mean() > 0.999
    assert (dw[1] == 1).all()
    assert (dw[:, 2] == 1).all()


def accumulate(implementation, x, dy, dw) -> None:
    """dw += dy.T @ x, as a linear map's."""
    y, weight = Variable(np.zeros_like(dy), dy), Variable(np.zeros_like(dw), dw)
    implementation.Linear(Rows(len(x), 1), Variable(x), y, (weight,)).accumulate()


# What is not finite makes its row or column NaN, and nothing else.
@tiles
def test_weight_gradients_of_numbers_that_have_no_digits():
    rng = np.random.default_rng(0)
    shapes = (300, 100), (300, 130), (130, 100)
    x, dy, dw = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    x[3, 7], dy[290, 99], dy[5, 8] = np.nan, -np.inf, np.inf
    accumulate(kernels.load("amx"), x, dy, dw)
    lost = np.zeros(dw.shape, bool)
    lost[[8, 99]] = lost[:, 7] = True
    np.testing.assert_array_equal(np.isnan(dw), lost)


@tiles
def test_numbers_that_have_no_digits():
    rng = np.random.default_rng(0)
    x, w, y = (rng.standard_normal(shape).astype(np.float32) for shape in ((21, 200), (180, 200), (21, 180)))
    x[3, 7], x[20, 199], x[5], w[9, 8], w[10] = np.nan, -np.inf, 1e-38, np.inf, 1e37
    predicted(kernels.load("amx").Linear, Rows(21, 1), Variable(x, bounded=True), Variable(y), (Variable(w),))
    lost = np.zeros(y.shape, bool)
    lost[[3, 20]] = lost[:, 9] = True
    np.testing.assert_array_equal(np.isnan(y), lost)
    assert (np.abs(y[5, :9]) < 1e-28).all()
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(y[0, :9], x[0].astype(np.float64) @ w[:9].T.astype(np.float64), rtol=1e-4)
        np.testing.assert_allclose(y[0, 10], np.sum(x[0], dtype=np.float64) * 1e37, rtol=1e-5)


# Steps enough for the weights' gradients to be summed up for each half of the batch.
@each_level
@each_dtype
@pytest.mark.parametrize(("cell", "options"), CELLS[:1] + CELLS[-3:])
@pytest.mark.parametrize("D", [1, 3, 7, 12, 70])
@pytest.mark.parametrize("variation", [{}, {"tokens": True}, {"reverse": True, "rest": True}])
def test_long_recurrent_layers_equal_the_reference(level, dtype, cell, options, D, variation):
    case = cell, options, (45, 60, D, 34), {"reverse": False} | variation, 0
    expected = recurrent_results("numpy", *case, np.float64)
    assert_close(recurrent_results(level, *case, dtype), expected, TOLERANCE[dtype], case)


@each_level
@each_dtype
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize(("I", "O"), [(700, 800), (70, 90), (48, 5)])  # in one, in two halves
def test_a_large_linear_layer_equals_the_reference(level, dtype, bounded, I, O):  # noqa: E741
    rows = ragged(80, 9 if O > 5 else 160)
    assert_equal_to_reference(linear, level, dtype, rows=rows, I=I, O=O, bounded=bounded)


@each_level
def test_rows_that_no_step_has_are_not_touched(level):
    case = linear(kernels.load(level), ragged(40, 9), I=3, O=17)
    y = case.outputs["y"].value
    assert len(y.base) > len(y) > 128
    y.base[len(y) :] = 7
    case.run()
    assert (y.base[len(y) :] == 7).all()


def assert_equal_to_reference(build, level, dtype, **options) -> None:
    """Compare what two runs give: gradients but that of the input are added to what is there."""
    results = build(kernels.load(level), dtype=dtype, **options).run().run().results()
    expected = build(NUMPY, dtype=np.float64, **options).run().run().results()
    assert_close(results, expected, TOLERANCE[dtype], options)


@each_level
@each_dtype
def test_linear_equals_the_reference(level, dtype):
    for I, O, bias, last in product(SIZES, SIZES, (False, True), (False, True)):  # noqa: E741
        for N, T in ((1, 1), (2, 7), (9, 3)):
            assert_equal_to_reference(linear, level, dtype, rows=ragged(N, T), I=I, O=O, bias=bias, last=last)


@each_level
@each_dtype
def test_embedding_dropout_and_join_equal_the_reference(level, dtype):
    for size in SIZES:
        assert_equal_to_reference(embedding, level, dtype, rows=ragged(5, 7), V=4, E=size)
        assert_equal_to_reference(dropout, level, dtype, rows=ragged(5, 7), H=size)
        assert_equal_to_reference(join, level, dtype, rows=ragged(5, 7), H=size)


@each_level
@each_dtype
@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_activations_equal_the_reference(level, dtype, kind):
    for size, last in product(SIZES, (False, True)):
        assert_equal_to_reference(activation, level, dtype, rows=ragged(5, 7), kind=kind, O=size, last=last)


@each_level
@each_dtype
@pytest.mark.parametrize("kind", ["mse", "half_mse", "bce", "cross_entropy"])
def test_losses_equal_the_reference(level, dtype, kind):
    for size, last, reduction in product((2, 3, 16, 17, 33), (False, True), ("mean", "sum")):
        rows = ragged(5, 7)
        assert_equal_to_reference(
            loss, level, dtype, rows=rows, kind=kind, reduction=reduction, O=size, last=last
        )


@each_level
@each_dtype
def test_losses_and_activations_of_huge_logits(level, dtype):
    compiled = kernels.load(level)
    x = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype)
    for kind, expected in {
        "sigmoid": [[1, 0, 0.5], [0, 1, 1]],
        "softmax": [[1, 0, 0], [0, 0.5, 0.5]],
    }.items():
        y = np.empty_like(x)
        compiled.Activation(Rows(2, 1), Variable(x), Variable(y), kind=kind).forward()
        np.testing.assert_array_equal(y, np.array(expected, dtype))
    stage = compiled.Loss(
        Rows(2, 1), Variable(x), np.array([[0, 1, 1], [1, 0, 0]], dtype), kind="bce", reduction="sum"
    )
    stage.forward()
    assert stage.value[0] == pytest.approx(5e4 + np.log(2), rel=1e-6)
    stage = compiled.Loss(Rows(2, 1), Variable(x), np.array([1, 2]), kind="cross_entropy", reduction="sum")
    stage.forward()
    assert stage.value[0] == pytest.approx(2e4 + np.log(2), rel=1e-6)


@each_level
@each_dtype
@each_cell
@pytest.mark.parametrize("adds", [False, True])
def test_gradients_are_added_but_that_of_the_input(level, dtype, cell, options, adds):
    def case():
        return recurrent(
            kernels.load(level), cell, options | {"adds": adds}, ragged(3, 4), D=5, H=17, dtype=dtype
        )

    once, twice = case().run().results(), case().run().run().results()
    filled = () if adds else ("dx",)
    doubled = {
        name: array * (2 if name.startswith("d") and name not in filled else 1)
        for name, array in once.items()
    }
    assert_close(twice, doubled, TOLERANCE[dtype])


# --- optimizers ---

UPDATES = {
    "SGD": [(0.1, 1, 0.0, 0.0, 0.1, False)],
    "SGD-momentum": [(0.1, step, 0.9, 0.2, 0.1, nesterov) for nesterov in (False, True) for step in (1, 2)],
    "Adagrad": [(0.1, 1, 1e-10, 0.1)],
    "RMSprop": [(0.1, 1, 0.9, 1e-8, 0.9, 0.1)],
    "Adam": [
        (0.1, step, 0.9, 0.99, 1e-8, 0.1, decoupled) for decoupled in (False, True) for step in (1, 1000)
    ],
}
SLOTS = {"SGD": [0], "SGD-momentum": [1], "Adagrad": [1], "RMSprop": [1, 1, 1], "Adam": [1, 1]}


def updated(name, rule, settings, n, dtype, used) -> dict[str, np.ndarray]:
    draw = Draw(n, dtype)
    param, grad = draw.array(n), draw.array(n)
    slots = [abs(draw.array(n)) + dtype(4) if use else None for use in used]
    if rule == "RMSprop" and slots[2] is not None:
        slots[2] -= dtype(4)  # a mean whose square stays below the mean of the squares
        slots[0] += np.square(slots[2])
    update(kernels.load(name), rule, param, grad, slots, *settings)
    return {"param": param} | {f"slot{i}": array for i, array in enumerate(slots) if array is not None}


@each_level
@each_dtype
@pytest.mark.parametrize("name", list(UPDATES))
def test_optimizers_equal_the_reference(level, dtype, name):
    rule = name.partition("-")[0]
    choices = [SLOTS[name]] if rule != "RMSprop" else [[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]]
    for n, used, settings in product((1, 5, 16, 33, 1000), choices, UPDATES[name]):
        result = updated(level, rule, settings, n, dtype, used)
        expected = updated("numpy", rule, settings, n, np.float64, used)
        assert_close(result, expected, TOLERANCE[dtype], (n, used, settings))


@each_level
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SGD-momentum", (0.1, 0.9, 0.2, 0.1, False)),
        ("Adagrad", (0.1, 1e-10, 0.1)),
        ("RMSprop", (0.1, 0.99, 1e-8, 0.9, 0.1)),
        ("Adam", (0.1, 0.9, 0.999, 1e-8, 0.1, False)),
    ],
)
def test_what_optimizers_keep_is_exact_from_the_first_update_on(level, name, settings):
    """Averages that begin at zero consist of what is new alone, such as (1 - 0.999) of the first square."""
    rule, (lr, *others), n = name.partition("-")[0], settings, 33
    kept = []
    for these, dtype in ((kernels.load(level), np.float32), (NUMPY, np.float64)):
        draw = Draw(0, dtype)
        param, slots = draw.array(n), [np.zeros(n, dtype) for _ in SLOTS[name]]
        for step in (1, 2, 3):
            update(these, rule, param, draw.array(n), slots, lr, step, *others)
        kept.append({f"slot{i}": array for i, array in enumerate(slots)})
    assert_close(*kept, 1e-6)


@each_level
@each_dtype
def test_norms_and_clipping_equal_the_reference(level, dtype):
    compiled = kernels.load(level)
    for n in (1, 5, 16, 33, 1000):
        g = Draw(n, dtype).array(n)
        expected = g.copy()
        rule, reference = (
            these.Adagrad(Variable(grad, grad), grad, np.zeros(4))
            for these, grad in ((compiled, g), (NUMPY, expected))
        )
        assert rule.sum_of_squares() == pytest.approx(reference.sum_of_squares(), rel=1e-13)
        for method, argument in (("clip", 0.5), ("scale", 0.75)):
            getattr(rule, method)(argument)
            getattr(reference, method)(argument)
            np.testing.assert_array_equal(g, expected)
    g.fill(np.nan)
    rule.clip(1.0)
    assert np.isnan(g).all()


@each_level
def test_a_pass_through_no_stage(level):
    forward = kernels.load(level).Forward([])
    forward.pack()
    forward.run()


@each_level
@each_cell
def test_an_empty_sequence_hands_its_state_on(level, cell, options):
    """Its output has no rows, and so no place: nothing lies before it that a kernel might write to."""
    state = tuple(Variable(Draw(0, np.float32).array(2, 16)) for _ in range(STATES[cell]))
    final = tuple(Variable(np.zeros((2, 16), np.float32)) for _ in state)
    memory = np.full((8, 16), 7, np.float32)
    weights = [Draw(1, np.float32).weight(GATES[cell] * 16, 16) for _ in range(2)]
    weights += [Draw(2, np.float32).weight(1)] * (options.get("activation") == "prelu")
    x = Variable(np.zeros((0, 16), np.float32))
    y = Variable(np.ndarray((0, 16), np.float32, memory, offset=4 * memory.strides[0]), room=2)
    weights = tuple(Variable(weight.value) for weight in weights)
    stage = getattr(kernels.load(level), cell)(Rows(2, 0), x, y, weights, state, final, **options)
    stage.pack()
    stage.forward()
    for before, after in zip(state, final, strict=True):
        np.testing.assert_array_equal(after.value, before.value)
    assert (memory == 7).all()


# --- the same bits ---


def predicted(make, rows, *arguments, **options) -> None:
    """Run a stage forward."""
    stage = make(rows, *arguments, **options)
    stage.pack()
    stage.forward()


def run_alone(compiled, cell, options, x, weights, state) -> tuple[np.ndarray, list[np.ndarray]]:
    """Run one sequence x, (T, D) or (T,), without gradients; return its outputs and its final state."""
    T, H = len(x), len(state[0])
    y = np.empty((1 + T, H), state[0].dtype)[1:]
    initial = tuple(Variable(s[None].copy()) for s in state)
    final = tuple(Variable(np.empty((1, H), y.dtype)) for _ in state)
    arguments = Variable(x), Variable(y, room=1), weights, initial, final
    predicted(getattr(compiled, cell), Rows(1, T), *arguments, **options)
    return y, [f.value[0] for f in final]


def stream(compiled, cell, options, x, weights, state) -> tuple[np.ndarray, list[np.ndarray]]:
    """The same, one step at a time."""
    outputs = []
    for t in range(len(x)):
        y, state = run_alone(compiled, cell, options, x[t : t + 1], weights, state)
        outputs.append(y[0])
    return np.array(outputs), state


def assert_shares_change_no_bit(build: Callable[[Rows], Case], rows: Rows, shares: int) -> None:
    """Run a case laid out in one share and in several."""
    split = Rows(rows.N, rows.T, shares)
    split.arrange(*rows.given)
    split.horizon[:] = rows.horizon
    split.share(shares)
    in_time = np.argsort(split.origins()[1], kind="stable")
    one, several = build(rows), build(split)
    for name in ("x", "p"):
        if name in one.inputs:
            several.inputs[name].value[in_time] = one.inputs[name].value
    if one.x is not None:
        several.x[in_time] = one.x
    if "y" in one.outputs:
        several.outputs["y"].grad[in_time] = one.outputs["y"].grad
    found = several.run().results()
    for name, expected in one.run().results().items():
        array = found[name][in_time] if name in ("y", "dx", "dp") else found[name]
        np.testing.assert_array_equal(array, expected, err_msg=name)


@each_level
@each_dtype
@each_cell
@pytest.mark.parametrize(
    ("tokens", "reverse", "H", "D"), [(False, True, 70, 3), (False, False, 9, 70), (True, False, 16, 5)]
)
def test_the_shares_of_a_layer_change_no_bit(level, dtype, cell, options, tokens, reverse, H, D):
    compiled = kernels.load(level)
    for N, T, shares in ((6, 9, 3), (21, 14, 2), (150, 5, 4)):
        for rest in (False, True):
            assert_shares_change_no_bit(
                lambda rows, rest=rest: recurrent(
                    compiled,
                    cell,
                    options | {"reverse": reverse},
                    rows,
                    D=D,
                    H=H,
                    tokens=tokens,
                    rest=rest,
                    dtype=dtype,
                ),
                ragged(N, T),
                shares,
            )


@each_level
@pytest.mark.parametrize("k", [0, 1, 3])
def test_the_shares_of_other_stages_change_no_bit(level, k):
    compiled, rows = kernels.load(level), ragged(21, 14)
    rows.truncate(k, per_sequence=False)
    for kind in ("mse", "half_mse", "bce", "cross_entropy"):
        assert_shares_change_no_bit(
            lambda rows, kind=kind: loss(compiled, rows, kind=kind, dtype=np.float32), rows, 3
        )
    assert_shares_change_no_bit(lambda rows: linear(compiled, rows, I=80, O=65, dtype=np.float32), rows, 3)
    assert_shares_change_no_bit(lambda rows: embedding(compiled, rows, dtype=np.float32), rows, 3)


@each_level
@each_dtype
@each_cell
@pytest.mark.parametrize("tokens", [False, True])
def test_a_sequence_gives_the_same_bits_in_a_batch_alone_and_streamed(level, dtype, cell, options, tokens):
    compiled = kernels.load(level)
    rows = ragged(9, 7)
    for H, D, reverse in product((1, 3, 16, 17, 33, 70), (1, 17, 40), (False, True)):
        directed = options | {"reverse": reverse}
        case = recurrent(compiled, cell, directed, rows, D=D, H=H, tokens=tokens, dtype=dtype).run()
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "slope")
        weights = tuple(Variable(case.inputs[name].value) for name in names if name in case.inputs)
        for n in range(rows.counts[0]):
            here = rows.offsets[0, : rows.lengths[n]] + n
            state = [variable.value[n] for name, variable in case.inputs.items() if name.endswith("_0")]
            final = [variable.value[n] for name, variable in case.outputs.items() if name.endswith("_T")]
            for alone in (run_alone,) if reverse else (run_alone, stream):
                y, last = alone(compiled, cell, directed, case.x[here], weights, state)
                np.testing.assert_array_equal(y, case.outputs["y"].value[here])
                np.testing.assert_array_equal(last, final)


# Weights enough to be packed as digits where a level has them, and more k than are summed up as such; rows
# for whole blocks, for parts of one, and more than are multiplied at a time.
@each_level
@pytest.mark.parametrize(
    ("cell", "options", "H"),
    [
        ("RNN", {"activation": "tanh"}, 200),
        ("RNN", {"activation": "sigmoid"}, 1100),
        ("LSTM", {}, 130),
        ("LSTM", {}, 370),
        ("GRU", {"reset_after": True}, 190),
        ("GRU", {"reset_after": False}, 190),
    ],
)
def test_a_row_gives_the_same_bits_among_any_others(level, cell, options, H):
    draw, D, T, N = Draw(0, np.float32), 100, 2, 70
    weights = tuple(Variable(draw.weight(GATES[cell] * H, size).value) for size in (D, H))
    x, states = draw.array(T, N, D), [draw.array(N, H) for _ in range(STATES[cell])]

    def outputs(first: int, last: int) -> list[np.ndarray]:
        rows = last - first
        initial = tuple(Variable(state[first:last].copy()) for state in states)
        final = tuple(Variable(np.empty((rows, H), np.float32)) for _ in states)
        y = np.empty((T, rows, H), np.float32)
        arguments = Variable(x[:, first:last].reshape(-1, D).copy(), bounded=True), Variable(y.reshape(-1, H))
        make = getattr(kernels.load(level), cell)
        predicted(make, Rows(rows, T), *arguments, weights, initial, final, **options)
        return [y, *(variable.value[None] for variable in final)]

    for first, last in [(0, 1), (1, 3), (4, 8), (3, 8), (60, 69), (5, 21), (7, 24), (30, 63), (6, 70)]:
        for some, whole in zip(outputs(first, last), outputs(0, N), strict=True):
            np.testing.assert_array_equal(some, whole[:, first:last])
