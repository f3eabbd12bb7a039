"""Binary addition: the bits, the split, and what the two recipes learn."""

import csv
import json

import numpy as np
import pytest

import rnncore as rc
from rnncore import recipes
from rnncore.tasks import BinaryAddition
from rnncore.tasks.addition import encode, report, score

EXACT = {f"exact_{bits}": 1.0 for bits in (8, 10, 16, 64)}


def numbers(bits: np.ndarray) -> list[int]:
    """Return the integers whose bits stand along axis 1, least significant first."""
    return [sum(int(bit) << t for t, bit in enumerate(row)) for row in bits]


def exact(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "error"}


# --- the data ---


def test_least_significant_bit_comes_first():
    x, y = encode(np.array([[9, 60]], np.uint64), 8)
    assert x[0, :, 0].tolist() == [1, 0, 0, 1, 0, 0, 0, 0]
    assert x[0, :, 1].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert y[0, :, 0].tolist() == [1, 0, 1, 0, 0, 0, 1, 0]
    assert x.dtype == y.dtype == np.float32


@pytest.mark.parametrize("bits", [2, 8, 10, 63, 64])
def test_sums_are_true_at_every_length(bits):
    pairs = BinaryAddition().sums(bits, 500)
    x, y = encode(pairs, bits)
    assert x.shape == (500, bits, 2)
    assert y.shape == (500, bits, 1)
    a, b, c = numbers(x[:, :, 0]), numbers(x[:, :, 1]), numbers(y[:, :, 0])
    assert [a, b] == pairs.T.tolist()
    assert c == [m + n for m, n in zip(a, b, strict=True)]
    assert max(a) < 2 ** (bits - 1)
    assert max(a) >= 2 ** (bits - 2)  # the whole range is drawn from


def test_random_sums_are_the_same_each_time_and_differ_by_seed():
    task = BinaryAddition(seed=5)
    assert np.array_equal(task.sums(16, 100), task.sums(16, 100))
    assert not np.array_equal(task.sums(16, 100), BinaryAddition(seed=6).sums(16, 100))


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_a_fifth_of_all_pairs_is_held_out(bits):
    task = BinaryAddition(bits)
    trained, tested = ({tuple(pair) for pair in pairs.tolist()} for pairs in (task.pairs, task.test_pairs))
    side = 2 ** (bits - 1)
    assert trained | tested == {(a, b) for a in range(side) for b in range(side)}
    assert not trained & tested
    assert len(tested) == round(side * side / 5)


def test_the_split_depends_on_the_seed_alone():
    assert np.array_equal(BinaryAddition(seed=1).pairs, BinaryAddition(seed=1, batch_size=2).pairs)
    assert not np.array_equal(BinaryAddition(seed=1).pairs, BinaryAddition(seed=2).pairs)


def test_nothing_held_out():
    task = BinaryAddition(held_out=0)
    assert len(task.pairs) == 128 * 128
    assert len(task.test_pairs) == 10_000


def test_batches_hold_no_pair_that_is_held_out():
    task = BinaryAddition(4, held_out=0.5, batch_size=50)
    batches = task.batches(np.random.default_rng(0))
    seen = set()
    for _ in range(20):
        x, y, lengths, carry, _ = next(batches)
        assert x.shape == (50, 4, 2)
        assert y.shape == (50, 4, 1)
        assert lengths is None
        assert not carry
        seen |= set(zip(numbers(x[:, :, 0]), numbers(x[:, :, 1]), strict=True))
    assert seen == {tuple(pair) for pair in task.pairs.tolist()}


def test_configuration_makes_the_same_task():
    task = BinaryAddition(6, held_out=0.3, batch_size=7, seed=8)
    again = BinaryAddition(**task.config())
    assert np.array_equal(again.test_pairs, task.test_pairs)
    assert again.config() == task.config()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bits": 1}, ValueError, r"bits must lie in 2 \.\.\. 12, got 1"),
        ({"bits": 13}, ValueError, r"bits must lie in 2 \.\.\. 12, got 13"),
        ({"bits": 8.0}, TypeError, r"bits must be an integer, got 8\.0"),
        ({"held_out": 1.0}, ValueError, r"held_out must lie in \[0, 1\), got 1"),
        ({"held_out": "all"}, TypeError, r"held_out must be a number, got 'all'"),
        ({"batch_size": 0}, ValueError, r"batch_size must be at least 1, got 0"),
        ({"seed": -1}, ValueError, r"seed must be at least 0, got -1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        BinaryAddition(**arguments)


@pytest.mark.parametrize("bits", [1, 65])
def test_sums_of_impossible_length(bits):
    with pytest.raises(ValueError, match=rf"bits must lie in 2 \.\.\. 64, got {bits}"):
        BinaryAddition().sums(bits)


# --- how well ---


def test_score():
    y = np.array([[[1.0], [0.0]], [[1.0], [1.0]]])
    prediction = np.array([[[0.75], [0.5]], [[0.25], [1.0]]])
    assert score(prediction, y) == ((0.75 + 0.75) / 2, 0.5)


def test_report():
    x, y = encode(np.array([[9, 60], [1, 2]], np.uint64), 8)
    y[1, 0] = 0.4
    assert report(x, y).splitlines() == [
        "9 + 60 = 69  right  predicted 01000101  true      01000101",
        "1 + 2 = 2  wrong: 3  predicted 00000010  true      00000011",
    ]


def test_an_untrained_network_cannot_add():
    task = BinaryAddition()
    metrics = task.evaluate(task.model(seed=0), count=1000)
    assert list(metrics) == ["error", *EXACT]
    assert metrics["error"] > 3
    assert metrics["exact_8"] < 0.05
    assert metrics["exact_64"] == 0


def test_validation_looks_two_bits_further():
    task = BinaryAddition(5)
    assert list(task.validate(task.model())) == ["error", "exact_5", "exact_7"]


# --- what is learnt ---


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_default_recipe_learns_to_carry(seed):
    run = recipes.addition(seed, progress=False)
    assert len(run.task.test_pairs) == round(128 * 128 / 5)
    assert exact(run.metrics) == EXACT
    assert run.metrics["error"] < 0.05
    assert len(run.history.loss) == 800


def test_same_seed_same_bits():
    first, second, other = (recipes.addition(seed, 30, progress=False) for seed in (3, 3, 4))
    assert first.history.loss == second.history.loss
    assert first.history.metrics == second.history.metrics
    assert first.history.loss != other.history.loss
    for name, value in first.model.state_dict().items():
        assert np.array_equal(value, second.model.params[name])


def test_the_task_trains_by_hand():
    task = rc.tasks.BinaryAddition(bits=4, batch_size=32)
    model = task.model(hidden_size=8, seed=1)
    trainer = rc.Trainer(model, "bce", rc.Adam(lr=0.05), seed=1)
    trainer.fit(task, steps=600, progress=False)
    assert trainer.evaluate(task)["exact_4"] == 1


# the errors that the tutorials print every 1000 updates, for NumPy's legacy seed 0 and operands 0 ... 127
PUBLISHED = [3.46, 3.63, 3.91, 3.72, 3.59, 2.53, 0.58, 1.43, 0.47, 0.22]


def tutorial(steps: int) -> tuple[recipes.Run, list[str]]:
    lines: list[str] = []
    return recipes.tutorial_addition(
        0, steps, smallest=0, every=1000, say=lines.append, progress=False
    ), lines


def test_tutorial_recipe_begins_as_published():
    run, lines = tutorial(1001)
    assert lines == [
        "update 0  error 3.4564  9 + 60 = 1  wrong: 69  predicted 00000001  true      01000101",
        "update 1000  error 3.6339  28 + 35 = 255  wrong: 63  predicted 11111111  true      00111111",
    ]
    assert list(run.history.metrics) == [1000, 1001]
    assert run.model.dtype == np.float64
    assert list(run.model.params) == ["rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"]


@pytest.mark.slow
def test_tutorial_recipe_prints_the_published_errors():
    run, lines = tutorial(10_000)
    printed = [float(line.split("error ")[1].split()[0]) for line in lines]
    assert [round(error, 2) for error in printed] == PUBLISHED
    assert all("right" in line for line in lines[6:])  # from update 6000 on
    assert run.history.metrics[10_000]["error"] < 0.6  # in the mean of the last 1000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_tutorial_recipe_learns_to_carry(seed):
    run = recipes.tutorial_addition(seed, progress=False)
    assert exact(run.metrics) == EXACT
    assert len(run.history.loss) == 20_000
    assert list(run.history.metrics) == list(range(100, 20_001, 100))


# --- the folder ---


def test_run_writes_its_folder(tmp_path):
    folder = tmp_path / "deep" / "run"
    run = recipes.addition(0, 50, progress=False)
    names = run.write(folder)
    assert names == ["model.safetensors", "history.csv", "metrics.json", "curves.png"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)

    again = rc.load(folder / "model.safetensors")
    x, _ = encode(run.task.sums(20, 10), 20)
    assert np.array_equal(again.predict(x), run.model.predict(x))

    about = json.loads((folder / "metrics.json").read_text())
    assert about["task"] == {"name": "addition", **run.task.config()}
    assert about["metrics"] == run.metrics

    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 51))
    assert [float(row["loss"]) for row in rows] == run.history.loss
    assert {int(row["step"]): float(row["error"]) for row in rows if row["error"]} == {
        step: metrics["error"] for step, metrics in run.history.metrics.items()
    }
    assert list(run.history.metrics) == [20, 40, 50]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
