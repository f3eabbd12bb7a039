"""Classes and numbers of whole sequences: what is taken, what is refused, and what is learnt."""

import numpy as np
import pytest

import rnncore as rc
from rnncore import kernels
from rnncore.tasks import SequenceClassification, SequenceRegression

# the data of a tutorial that meant to teach stacked layers
X = [[[1, 2, 3, 4], [3, 4, 5, 6], [4, 5, 6, 7]], [[3, 4, 1, 1], [4, 5, 1, 1], [5, 6, 1, 1]]]
Y = [[0], [1]]


class Answers:
    """Stands for a model that always gives the same outputs."""

    def __init__(self, outputs):
        self.outputs = np.asarray(outputs, float)

    def predict(self, x, lengths=None):
        assert len(x) == len(self.outputs)
        return self.outputs


def ragged(count, longest, seed=0):
    """Sequences of noise, whose class is the sign of the first step."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=count)
    x = [rng.standard_normal((rng.integers(1, longest + 1), 1)) for _ in range(count)]
    for sequence, positive in zip(x, y, strict=True):
        sequence[0] = 1 if positive else -1
    return x, y


def test_unequal_lengths_are_padded():
    task = SequenceClassification([[1.0, 2, 3], [4], [5, 6]], ["b", "a", "b"], held_out=0)
    order = np.argsort(task.train.x[:, 0, 0])
    assert task.train.x[order, :, 0].tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    assert task.train.lengths[order].tolist() == [3, 1, 2]
    assert task.classes.tolist() == ["a", "b"]
    assert task.train.y[order].tolist() == [1, 0, 1]


def test_arrays_pass_with_their_lengths():
    x = np.arange(24.0).reshape(3, 4, 2)
    task = SequenceRegression(x, [1, 2, 3], [4, 2, 0], held_out=0)
    order = np.argsort(task.train.x[:, 0, 0])
    assert np.array_equal(task.train.x[order], x)
    assert task.train.lengths[order].tolist() == [4, 2, 0]
    assert task.train.y[order].tolist() == [[1], [2], [3]]
    assert SequenceRegression(x, [1, 2, 3]).train.lengths is None


def test_a_part_is_held_out():
    x = np.arange(20.0)[:, None]
    task = SequenceRegression(x, x, held_out=0.25, batch_size=8, seed=1)
    assert len(task.test.x) == 5
    seen = {*task.train.x.ravel(), *task.test.x.ravel()}
    assert seen == set(range(20))
    batches = list(task.batches(np.random.default_rng(0)))
    assert [len(batch.x) for batch in batches] == [8, 7]
    assert np.array_equal(
        np.sort(np.concatenate([b.y for b in batches]), axis=0),
        np.sort((task.train.y - task.mean) / task.deviation, axis=0),
    )
    other = SequenceRegression(x, x, held_out=0.25, seed=2)
    assert not np.array_equal(task.test.x, other.test.x)


def test_a_test_of_ones_own():
    task = SequenceClassification([[1, 2], [3, 4]], [5, 7], test=([[1], [2, 2], [3]], [7, 5, 5]))
    assert task.test.y.tolist() == [1, 0, 0]
    assert task.test.lengths.tolist() == [1, 2, 1]
    assert len(task.train.x) == 2


def test_confusion_and_accuracy():
    x = np.zeros((5, 1))
    task = SequenceClassification(x, list("abcab"), test=(x, list("aabcc")))
    model = Answers(np.eye(3)[[0, 1, 1, 2, 0]])
    assert task.confusion(model).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert task.evaluate(model) == {"accuracy": 0.6}


def test_regression_errors():
    x = np.zeros((4, 1))
    task = SequenceRegression(x, [0, 2, 4, 6], test=(x, [0.0, 2.0, 4.0, 6.0]), scale=False)
    assert task.evaluate(Answers([[0], [2], [4], [2]])) == {"rmse": 2.0, "r2": pytest.approx(0.2)}
    flat = SequenceRegression(x, [1, 1, 1, 1], held_out=0)
    assert np.isnan(flat.evaluate(Answers(np.ones((4, 1))))["r2"])


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        ([[1, 2], [3, np.nan]], [0, 1], {}, r"x\[1\] at step 1 is \[nan\]: a value is missing"),
        ([[1, 2], [[3], [4]]], [0, 1], {}, r"x\[1\] must have shape \(T,\), got \(2, 1\)"),
        (np.zeros((2, 3)), [0, 1, 2], {}, r"y must have shape \(2,\), got \(3,\)"),
        (np.zeros((2, 3)), [0, 1], {"lengths": [3, 4]}, r"lengths\[1\] = 4, but x has only T = 3 steps"),
        (np.zeros((0, 3)), [], {}, "x must hold a sequence with a step"),
        (np.zeros((2, 3)), [0, 1], {"test": (np.zeros((1, 3)), [2])}, r"test\[1\]\[0\] = .*2.* is not among"),
        (np.zeros((2, 3)), [0, 1], {"test": (np.zeros((1, 3, 2)), [1])}, r"test\[0\] must have shape"),
        (np.zeros((2, 3)), [0, 1], {"held_out": 1.0}, "held_out must lie in"),
    ],
)
def test_refused(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        SequenceClassification(x, y, **options)


def test_what_stands_behind_the_end_may_be_missing():
    task = SequenceRegression([[1, np.nan], [3, 4]], [0, 1], [1, 2], held_out=0)
    assert np.isnan(task.train.x).sum() == 1
    with pytest.raises(ValueError, match=r"y\[1\] = \[nan\]: a value is missing"):
        SequenceRegression([[1], [2]], [0, np.nan])


# --- token ids ---


def orders(count, seed=0):
    """Sequences of the ids 0 ... 9, of unequal length; is there a 3 before the first 7?"""
    rng = np.random.default_rng(seed)
    x = [rng.permutation(10)[: rng.integers(4, 11)] for _ in range(count)]
    return x, [int(3 in ids and (7 not in ids or [*ids].index(3) < [*ids].index(7))) for ids in x]


@pytest.mark.parametrize(
    "x",
    [
        [[4, 0, 2], [1], [3, 1]],
        [np.array([4, 0, 2], np.uint8), np.array([1], np.int16), np.array([3, 1])],
        np.array([[4, 0, 2], [1, -1, -1], [3, 1, -100]]),
        [[4, 0, 2], [1], [3, 1], []],
    ],
)
def test_integers_are_token_ids(x):
    lengths = [3, 1, 2] if isinstance(x, np.ndarray) else None
    for make in (SequenceClassification, SequenceRegression):
        task = make(x, [0, 1, 0, 1][: len(x)], lengths, held_out=0)
        model = task.model(4)
        assert (task.input, task.input_size, model.input) == ("tokens", 5, "tokens")
        order = np.argsort(-np.asarray(task.train.lengths))
        found = [ids[:length].tolist() for ids, length in zip(task.train.x, task.train.lengths, strict=True)]
        assert [found[n] for n in order][:3] == [[4, 0, 2], [3, 1], [1]]
        assert np.isfinite(list(task.evaluate(model).values())).all()


def test_token_ids_in_the_test_alone():
    task = SequenceClassification([[0, 1], [1, 0]], [0, 1], test=([[5]], [0]))
    assert task.input_size == 6
    assert task.confusion(task.model(4)).sum() == 1


@pytest.mark.parametrize(
    ("x", "options"),
    [
        (np.array([[4, 0], [1, 2]]), {"input": "dense"}),
        (np.array([[4, 0], [1, 2]]), {"input": "dense", "test": ([[9, -9]], [1])}),
        (np.array([[4.0, 0], [1, 2]]), {}),
        (np.array([[4.0, 0], [1, 2]]), {"test": (np.array([[1, 2]]), [0])}),
        (np.array([[[4], [0]], [[1], [2]]]), {}),
        (np.array([[True, False], [False, False]]), {}),
    ],
)
def test_numbers_are_taken_as_numbers(x, options):
    task = SequenceClassification(x, [0, 1], **options)
    assert (task.input, task.input_size, task.model(4).input) == ("dense", 1, "dense")


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (
            [[1, 2], [3, -4]],
            {},
            ValueError,
            r"x\[1\] at step 1 is -4, but integers are token ids .*input='dense'",
        ),
        (
            [[1.0, 2]] * 2,
            {"input": "tokens"},
            TypeError,
            r"x must hold integers \(token ids\), got dtype float64",
        ),
        (np.zeros((2, 3, 1), int), {"input": "tokens"}, ValueError, r"x must have shape \(N, T\)"),
        ([[1], [2]], {"test": ([[0.5]], [0])}, TypeError, r"test\[0\] must hold integers"),
        ([[1], [2]], {"input": "words"}, ValueError, "input must be one of 'dense', 'tokens', got 'words'"),
    ],
)
def test_token_ids_refused(x, options, error, message):
    with pytest.raises(error, match=message):
        SequenceClassification(x, [0, 1], **options)


def test_the_order_of_tokens_is_learnt():
    """As magnitudes it is not: ids have no size."""
    x, y = orders(2000)
    accuracy = []
    for sequences in (x, [ids.astype(float) for ids in x]):
        task = SequenceClassification(sequences, y)
        trainer = rc.Trainer(task.model(16), "cross_entropy", rc.Adam(lr=0.01), clip_norm=1.0)
        trainer.fit(task, epochs=8, progress=False)
        accuracy.append(trainer.evaluate(task)["accuracy"])
    assert accuracy[0] >= 0.995
    assert accuracy[1] < 0.95


# --- targets in their own units ---


def test_targets_are_scaled():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8, 2))
    y = np.stack([50_000 + 300 * x[:, -1, 0], 1e-3 * x[:, -2, 1]], axis=1)
    task = SequenceRegression(x, y)
    batches = np.concatenate([batch.y for batch in task.batches(rng)])
    np.testing.assert_allclose(batches.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(batches.std(axis=0), 1, rtol=1e-12)
    trainer = rc.Trainer(task.model(16), "mse", rc.Adam(lr=0.01), clip_norm=1.0)
    trainer.fit(task, epochs=60, progress=False)
    predicted = task.predict(trainer.model, x)
    own = 1 - ((predicted - y) ** 2).sum(axis=0) / ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    assert (own > 0.97).all()
    assert trainer.evaluate(task)["r2"] > 0.97
    scaled = task.predict(trainer.model, [*x[:3]], None)
    # NumPy's products may depend on the batch
    tolerance = 1e-5 if kernels.active.name == "numpy" else 0
    assert (np.abs(scaled - predicted[:3]) / y.std(axis=0)).max() <= tolerance
    raw = SequenceRegression(x, y, scale=False)
    expected = trainer.model.predict((x - raw.x_mean) / raw.x_deviation).astype(float)
    np.testing.assert_array_equal(raw.predict(trainer.model, x), expected)


def test_inputs_are_scaled_by_their_valid_steps():
    rng = np.random.default_rng(0)
    x = [1e4 + 1e-2 * rng.normal(size=(t, 2)) for t in (3, 5, 8, 2)]
    x[0][:, 1] = x[1][:, 1] = x[2][:, 1] = x[3][:, 1] = 7  # does not vary
    task = SequenceClassification(x, [0, 1, 0, 1], held_out=0)
    steps = np.concatenate(x)
    assert task.x_mean == pytest.approx(steps.mean(axis=0), rel=1e-12)
    assert task.x_deviation == pytest.approx([steps[:, 0].std(), 1], rel=1e-9)
    (batch,) = task.batches(rng)
    valid = np.concatenate([row[:count] for row, count in zip(batch.x, batch.lengths, strict=True)])
    assert valid.mean(axis=0) == pytest.approx(0, abs=1e-6)
    assert valid.std(axis=0) == pytest.approx([1, 0], abs=1e-9)
    model = task.model(4)
    expected = model.predict((x[2][None] - task.x_mean) / task.x_deviation)
    np.testing.assert_allclose(task.predict(model, x)[2], expected[0], rtol=1e-6)
    tokens = SequenceClassification([[1, 2], [0]], [0, 1], held_out=0)
    assert next(iter(tokens.batches(rng))).x.dtype.kind == "i"


def test_the_default_network():
    x, y = ragged(50, 9)
    layer = SequenceClassification(x, y).model().layers["rnn"]
    assert (type(layer), layer.hidden_size, layer.num_layers) == (rc.GRU, 64, 2)
    assert (layer.bidirectional, layer.dropout) == (True, 0.3)
    one = SequenceRegression(x, y).model(8, num_layers=1, bidirectional=False).layers["rnn"]
    assert (one.num_layers, one.dropout, one.bidirectional) == (1, 0, False)


@pytest.mark.slow
def test_digits_by_the_default():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = 1e3 + 1e-3 * data.images, data.target  # of any scale
    task = SequenceClassification(x[:898], y[:898], test=(x[898:], y[898:]))
    trainer = rc.Trainer(task.model(), "cross_entropy", rc.Adam(lr=0.003), clip_norm=1.0)
    trainer.fit(task, 1500, schedule=rc.schedules.Cosine(1500), progress=False)
    assert trainer.evaluate(task)["accuracy"] >= 0.94


@pytest.mark.parametrize("value", [0.1, 14.62, -1e9, 0.0])
def test_targets_that_do_not_vary(value):
    x = np.zeros((7, 2))
    task = SequenceRegression(x, np.full(7, value), held_out=0)
    assert task.deviation == [1]
    found = task.evaluate(Answers(np.full((7, 1), 0.5)))
    assert np.isnan(found["r2"])
    assert found["rmse"] == pytest.approx(0.5)
    y = np.full(7, value)
    y[0] += max(1e-9 * abs(value), 1e-12)
    assert SequenceRegression(x, y, held_out=0).deviation < 1


# --- what is learnt ---


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "prelu", "identity"])
def test_stacked_layers_learn_with_every_activation(activation):
    layers = [
        rc.RNN(4, 8, activation=activation, seed=0),
        rc.RNN(8, 8, activation=activation, seed=1),
        rc.RNN(8, 1, activation="sigmoid", seed=2),
    ]
    model = rc.Sequential(layers, output="last")
    task = SequenceRegression(X, Y, held_out=0, scale=False)  # the outputs lie in 0 ... 1
    rc.Trainer(model, "mse", rc.Adam(lr=0.01)).fit(task, 1000, progress=False)
    assert task.evaluate(model)["rmse"] ** 2 < 1e-3
    if activation == "prelu":
        assert layers[0].params["slope_l0"] != 0.25


def classify_ragged(epochs, **options):
    x, y = ragged(1000, 30)
    task = SequenceClassification(x, y, held_out=0.5)
    assert len(task.test.x) == 500
    model = task.model(16, seed=0, **options)
    rc.Trainer(model, "cross_entropy", rc.Adam(lr=0.01), clip_norm=1.0).fit(
        task, epochs=epochs, progress=False
    )
    return task.evaluate(model)["accuracy"]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_first_step_of_ragged_sequences_is_remembered(cell):
    assert classify_ragged(15, cell=cell) >= 0.98


def test_stacked_lstm_layers_remember_too():
    assert classify_ragged(15, num_layers=2) >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "least"), [("gru", 0.91), ("lstm", 0.88)])
def test_digits_row_by_row(cell, least):
    data = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = data.images / 16, data.target
    accuracies = []
    for seed in range(5):
        task = SequenceClassification(x[:898], y[:898], test=(x[898:], y[898:]))
        model = task.model(cell=cell, seed=seed)
        trainer = rc.Trainer(model, "cross_entropy", rc.Adam(lr=0.01), clip_norm=1.0, seed=seed)
        steps = 30 * 29
        trainer.fit(task, steps, schedule=rc.schedules.Cosine(steps), progress=False)
        accuracies.append(trainer.evaluate(task)["accuracy"])
    assert np.median(accuracies) >= least


# --- pictures ---


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    task = SequenceClassification(np.zeros((5, 1)), list("abcab"), held_out=0)
    task.draw(tmp_path / "curves.png", {1: {"accuracy": 0.2}, 2: {"accuracy": 0.6}})
    task.draw_confusion(tmp_path / "confusion.png", Answers(np.eye(3)[[0, 1, 1, 2, 0]]))
    for name in ("curves.png", "confusion.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
