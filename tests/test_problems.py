"""Long-lag problems: the data are what the literature says, the metric counts right, and networks learn."""

import re

import numpy as np
import pytest

from rnncore import recipes
from rnncore.tasks import AddingProblem, EmbeddedReber, TemporalOrder
from rnncore.tasks.problems import REBER

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]
RNG = np.random.default_rng


class Predicts:
    """Stands for a model with these outputs."""

    def __init__(self, outputs):
        self.outputs = np.asarray(outputs, float)

    def predict(self, x, lengths=None):
        return self.outputs

    def forward(self, x, state=None, lengths=None):
        return self.outputs, None


@pytest.mark.parametrize("length", [2, 7, 100])
def test_adding_problem(length):
    x, y, lengths, carry, _ = AddingProblem(length).sample(200, RNG(0))
    assert x.shape == (200, length, 2)
    assert x.dtype == np.float32
    assert lengths is None
    assert not carry
    half = length // 2
    assert (x[:, :half, 1].sum(axis=1) == 1).all()
    assert (x[:, half:, 1].sum(axis=1) == 1).all()
    assert set(np.unique(x[:, :, 1])) <= {0, 1}
    np.testing.assert_allclose(y[:, 0], (x[:, :, 0] * x[:, :, 1]).sum(axis=1), rtol=1e-6)


def test_adding_problem_is_scored_by_the_squared_error():
    task = AddingProblem(100)
    sequences = task.sample(5000, RNG(1))
    score = task.score(Predicts(np.ones((5000, 1))), sequences)["mse"]
    assert score == pytest.approx(np.mean((sequences.y - 1.0) ** 2), rel=1e-6)
    # the variance of two uniform numbers' sum, up to four standard errors: its fourth moment is 1/15
    assert score == pytest.approx(1 / 6, abs=4 * np.sqrt((1 / 15 - 1 / 36) / 5000))
    assert task.score(Predicts(sequences.y), sequences) == {"mse": 0}


@pytest.mark.parametrize("symbols", [2, 3])
def test_temporal_order(symbols):
    task = TemporalOrder(50, symbols)
    x, y, *_ = task.sample(300, RNG(0))
    ranges = [(5, 10), (16, 21), (33, 38)] if symbols == 3 else [(5, 10), (25, 30)]
    for ids, label in zip(x, y, strict=True):
        text = "".join(task.ALPHABET[i] for i in ids)
        assert re.fullmatch("E[abcdXY]{48}B", text)
        places = [t for t, symbol in enumerate(text) if symbol in "XY"]
        assert len(places) == symbols
        assert all(first <= t < end for t, (first, end) in zip(places, ranges, strict=True))
        bits = "".join("01"[text[t] == "Y"] for t in places)
        assert int(bits, 2) == label
    assert set(y) == set(range(2**symbols))


def test_temporal_order_is_scored_by_accuracy():
    task = TemporalOrder()
    sequences = task.sample(8, RNG(0))
    outputs = np.eye(8)[sequences.y]
    outputs[:2] = np.roll(outputs[:2], 1, axis=1)
    assert task.score(Predicts(outputs), sequences) == {"accuracy": 0.75}


def walk(inner):
    state = 0
    for symbol in inner:
        state = REBER[state][symbol]
    return state


def test_reber_strings():
    task = EmbeddedReber()
    rng = RNG(0)
    strings = [task.string(rng) for _ in range(500)]
    for string in strings:
        assert re.fullmatch(r"B([TP])B[TPSXV]+E\1E", string)
        assert walk(string[2:-2]) == 7
    assert {len(string) for string in strings} >= {9, 10, 11, 12, 13}
    assert max(map(len, strings)) <= 50
    assert 0.4 < np.mean([string[1] == "T" for string in strings]) < 0.6
    short = EmbeddedReber(longest=9)
    found = {short.string(rng) for _ in range(100)}
    assert found == {f"B{o}B{inner}E{o}E" for o in "TP" for inner in ("TXS", "PVV")}


def test_reber_batches():
    task = EmbeddedReber()
    x, y, lengths, *_ = task.sample(20, RNG(0))
    rng = RNG(0)
    for n in range(20):
        string = task.string(rng)
        assert lengths[n] == len(string) - 1
        assert "".join(task.ALPHABET[i] for i in x[n, : lengths[n]]) == string[:-1]
        assert "".join(task.ALPHABET[i] for i in y[n, : lengths[n]]) == string[1:]


def legal(string):
    """What may follow each symbol, as the grammar's picture shows it for this string."""
    return {
        "BTBTXSETE": ["TP", "B", "TP", "SX", "XS", "E", "T", "E"],
        "BPBPVVEPE": ["TP", "B", "TP", "TV", "PV", "E", "P", "E"],
        "BTBTSXXTVPSETE": ["TP", "B", "TP", "SX", "SX", "XS", "TV", "TV", "PV", "XS", "E", "T", "E"],
    }[string]


@pytest.mark.parametrize("string", ["BTBTXSETE", "BPBPVVEPE", "BTBTSXXTVPSETE"])
def test_reber_is_scored_by_every_legal_continuation(string):
    task = EmbeddedReber()
    sequences = encode(task, string)
    outputs = np.zeros((1, 50, 7))
    for t, symbols in enumerate(legal(string)):
        for symbol in symbols:
            outputs[0, t, task.ALPHABET.index(symbol)] = 1
    assert task.score(Predicts(outputs), sequences) == {"legal": 1}
    for t, symbols in enumerate(legal(string)):  # one that is missing, or one too many, is wrong
        for symbol in task.ALPHABET:
            wrong = outputs.copy()
            wrong[0, t, task.ALPHABET.index(symbol)] = 0 if symbol in symbols else 1
            assert task.score(Predicts(wrong), sequences) == {"legal": 0}


def encode(task, string):
    class Fixed(EmbeddedReber):
        def string(self, rng):
            return string

    return Fixed().sample(1, RNG(0))


@pytest.mark.parametrize("make", [AddingProblem, TemporalOrder, EmbeddedReber])
def test_batches_are_fresh_and_tests_fixed(make):
    task = make(batch_size=4, seed=3)
    batches = task.batches(RNG(0))
    first, second = next(batches), next(batches)
    assert len(first.x) == 4
    assert not np.array_equal(first.x, second.x)
    model = task.model(seed=0)
    assert task.validate(model) == task.validate(model)
    again = make(**task.config())
    assert again.config() == task.config()
    assert again.evaluate(model) == task.evaluate(model)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (AddingProblem, {"length": 1}, "length must be at least 2, got 1"),
        (TemporalOrder, {"length": 19}, "length must be at least 20, got 19"),
        (TemporalOrder, {"symbols": 4}, "symbols must be one of 2, 3, got 4"),
        (EmbeddedReber, {"longest": 8}, "longest must be at least 9, got 8"),
        (AddingProblem, {"batch_size": 0}, "batch_size must be at least 1"),
        (AddingProblem, {"seed": -1}, "seed must be at least 0"),
    ],
)
def test_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


# --- what is learnt ---


def test_a_short_adding_problem_is_learnt():
    run = recipes.adding_problem(0, 500, length=20, progress=False)
    assert run.metrics["mse"] < 0.005


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_adding_problem_is_learnt(seed):
    assert recipes.adding_problem(seed, progress=False).metrics["mse"] < 0.002


@pytest.mark.parametrize("seed", SEEDS)
def test_temporal_order_is_learnt(seed):
    assert recipes.temporal_order(seed, progress=False).metrics["accuracy"] >= 0.99


def test_reber_is_learnt():
    run = recipes.reber(0, progress=False)
    assert run.metrics["legal"] == 1
    assert len(run.history.loss) < 8440
    assert list(run.history.metrics.values())[-6:] == [{"legal": 1.0}] * 6
