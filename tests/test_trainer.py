"""Updates and whole runs: what is learnt, what stays unchanged on failure, what is carried on."""

import copy
import csv
import itertools
import math
import pickle
import tracemalloc

import numpy as np
import pytest

import rnncore as rc
from rnncore import kernels
from rnncore.tasks import Batch

N, T, D, O = 3, 5, 2, 2  # noqa: E741
LENGTHS = np.array([2, 5, 4])


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def make(optimizer="sgd", loss="mse", cell="lstm", dtype="float64", **options):
    """A trainer of a small model."""
    names = ("clip_norm", "clip_value", "reduction", "bptt")
    of_trainer = {name: options.pop(name) for name in names if name in options}
    model = rc.SequenceModel(D, 3, O, cell, input="dense", dtype=dtype, **options)
    return rc.Trainer(model, loss, optimizer, **of_trainer)


X, Y = draw(N, T, D), draw(N, T, O, seed=1)


def replaced(array, index, value):
    array = array.copy()
    array[index] = value
    return array


def snapshot(trainer):
    """Everything that a later step depends on."""
    state = trainer.model.state_dict() | trainer.optimizer.state_dict()
    return state | {
        "rng": np.array(list(trainer.model.rng.bit_generator.state["state"].values()), dtype=object)
    }


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


class Counting:
    """A task: sums of the inputs so far. Counts what is asked of it."""

    def __init__(self, batches=4):
        self.count = batches
        self.epochs = self.validated = 0

    def batches(self, rng):
        self.epochs += 1
        for _ in range(self.count):
            x = rng.normal(size=(N, T, D))
            yield Batch(x, x.cumsum(axis=1))

    def validate(self, model):
        self.validated += 1
        return {"mean": float(model.predict(X).mean()), "calls": self.validated}

    def evaluate(self, model):
        return {"mean": float(model.predict(X).mean())}


# --- one step ---


def test_a_step_descends_the_gradient():
    trainer = make(rc.SGD(lr=0.5))
    before = trainer.model.state_dict()
    loss = trainer.step(X, Y, LENGTHS)
    assert isinstance(loss, float)
    for name, value in trainer.model.params.items():
        np.testing.assert_array_equal(value, before[name] - 0.5 * trainer.model.grads[name])
    assert trainer.step(X, Y, LENGTHS) < loss


def test_gradients_are_of_this_step_alone():
    trainer = make(rc.SGD(lr=0))
    trainer.step(X, Y)
    first = {name: grad.copy() for name, grad in trainer.model.grads.items()}
    trainer.step(2 * X, Y, LENGTHS)
    trainer.step(X, Y)
    for name, grad in trainer.model.grads.items():
        np.testing.assert_array_equal(grad, first[name])


@pytest.mark.parametrize(
    ("optimizer", "lr"),
    [(rc.SGD, 0.3), (rc.Adagrad, 0.01), (rc.RMSprop, 0.01), (rc.Adam, 0.01), (rc.AdamW, 0.01)],
)
def test_every_optimizer_learns(optimizer, lr):
    trainer = make(optimizer(lr=lr), dtype="float32")
    losses = [trainer.step(X, Y) for _ in range(30)]
    assert losses[-1] < losses[0] - 0.05


def test_reductions():
    mean, total = make(rc.SGD(lr=0)), make(rc.SGD(lr=0), reduction="sum")
    elements = LENGTHS.sum() * O
    np.testing.assert_allclose(total.step(X, Y, LENGTHS), mean.step(X, Y, LENGTHS) * elements, rtol=1e-12)
    for name, grad in total.model.grads.items():
        np.testing.assert_allclose(grad, mean.model.grads[name] * elements, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("part", [0.1, 0.999, 1.001, 10])
def test_clip_norm(part):
    free = make(rc.SGD(lr=0))
    free.step(X, Y)
    norm = math.sqrt(sum((grad**2).sum() for grad in free.model.grads.values()))
    assert free.grad_norm == pytest.approx(norm, rel=1e-12)
    clipped = make(rc.SGD(lr=0), clip_norm=part * norm)
    clipped.step(X, Y)
    assert clipped.grad_norm == free.grad_norm  # before clipping
    factor = min(1, part * norm / (norm + 1e-6))
    for name, grad in clipped.model.grads.items():
        np.testing.assert_allclose(grad, free.model.grads[name] * factor, rtol=1e-12)


def test_the_norm_of_large_gradients():
    """It is summed in double precision: in single precision the squares would overflow."""
    model = rc.Sequential([rc.Linear(1, 1, init="zeros")])
    trainer = rc.Trainer(model, "mse", rc.SGD(lr=0), clip_norm=1.0)
    trainer.step([[[1]]], [[[1e19]]])
    assert trainer.grad_norm == pytest.approx(2e19 * math.sqrt(2), rel=1e-6)
    for grad in model.grads.values():
        np.testing.assert_allclose(grad, -1 / math.sqrt(2), rtol=1e-6)


def test_clip_value():
    free, clipped = make(rc.SGD(lr=0)), make(rc.SGD(lr=0), clip_value=0.01)
    free.step(X, Y)
    clipped.step(X, Y)
    for name, grad in clipped.model.grads.items():
        np.testing.assert_array_equal(grad, np.clip(free.model.grads[name], -0.01, 0.01))


def test_the_prediction_is_from_before_the_update():
    for loss, activation in (("bce", "sigmoid"), ("mse", "sigmoid"), ("mse", None)):
        trainer = make(loss=loss, output_activation=activation)
        expected = trainer.model.predict(X, LENGTHS)
        trainer.step(X, np.ones_like(Y), LENGTHS)
        np.testing.assert_allclose(trainer.prediction, expected, rtol=1e-12)
        assert not np.allclose(trainer.model.predict(X, LENGTHS), expected)
    with pytest.raises(RuntimeError, match="prediction needs a step before it"):
        _ = make().prediction


def test_same_seed_same_bits():
    runs = []
    for _ in range(2):
        trainer = make("adam", num_layers=2, dropout=0.5, bidirectional=True, seed=3)
        losses = [trainer.step(X, Y, LENGTHS) for _ in range(5)]
        runs.append(trainer.model.state_dict() | {"losses": np.array(losses)})
    assert same(*runs)


@pytest.mark.skipif(kernels.active.name == "numpy", reason="the NumPy kernels are written to be read")
@pytest.mark.parametrize("ragged", [False, True])
def test_a_step_allocates_no_array(ragged):
    rng = np.random.default_rng(0)
    model = rc.SequenceModel(20, 32, 20, num_layers=2)
    trainer = rc.Trainer(model, "cross_entropy", clip_norm=1.0)
    x, y = rng.integers(0, 20, (2, 32, 128))
    lengths = rng.integers(1, 129, 32) if ragged else None
    stream = model.stream(512)
    x_t = x[0, 0].repeat(512)

    def run(count):
        for _ in range(count):
            trainer.step(x, y, lengths)
            stream.step(x_t)

    run(20)
    tracemalloc.start()
    try:
        run(20)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        run(500)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The smallest array, a layer's state, takes 4 kB, a batch's ids 32 kB; an arrangement of lengths is some
    # arrays of N numbers, and of T for each share. An object left behind by each step would be 8 kB at least.
    assert abs(after - before) < 4000
    assert peak - before < (8000 + 4000 * rc.get_num_threads() if ragged else 4000)


def test_dropout_is_drawn_anew_for_every_step():
    trainer = make(rc.SGD(lr=0), num_layers=2, dropout=0.5)
    losses = {trainer.step(X, Y) for _ in range(10)}
    assert len(losses) == 10
    assert trainer.measure(X, Y)[0] == trainer.measure(X, Y)[0] not in losses


def test_a_ragged_batch_is_its_valid_steps():
    """The mean over a ragged batch weighs the sequences by their lengths."""
    trainer = make(rc.SGD(lr=0))
    ragged = trainer.step(X, Y, LENGTHS)
    grads = {name: grad.copy() for name, grad in trainer.model.grads.items()}
    parts = []
    total = dict.fromkeys(grads, 0.0)
    for x, y, length in zip(X, Y, LENGTHS, strict=True):
        parts.append(trainer.step(x[None, :length], y[None, :length]))
        for name, grad in trainer.model.grads.items():
            total[name] = total[name] + grad * length / LENGTHS.sum()
    np.testing.assert_allclose(ragged, np.average(parts, weights=LENGTHS), rtol=1e-12)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, total[name], rtol=1e-9, atol=1e-15)


def test_measure_changes_nothing():
    trainer = make("adam", num_layers=2, dropout=0.5)
    trainer.step(X, Y)
    before, state = snapshot(trainer), trainer.state
    loss, count, (h, _) = trainer.measure(X, Y, LENGTHS)
    prediction = trainer.model.predict(X, LENGTHS)
    valid = np.arange(T) < LENGTHS[:, None]
    assert loss == pytest.approx(((prediction - Y)[valid] ** 2).mean(), rel=1e-12)
    assert count == valid.sum() * O
    np.testing.assert_array_equal(h, trainer.model.forward(X, lengths=LENGTHS)[1][0])
    assert same(snapshot(trainer), before)
    np.testing.assert_array_equal(trainer.state[0], state[0])


def test_parameters_may_be_written_into_between_steps():
    trainer = make("sgd")
    trainer.step(X, Y)
    for value in trainer.model.params.values():
        value[...] = 0
    assert trainer.step(X, Y) == pytest.approx((Y**2).mean(), rel=1e-12)


# --- state ---


def test_state_goes_on_from_step_to_step():
    trainer = make(rc.SGD(lr=0))
    assert trainer.state is None
    whole, _, final = trainer.measure(X, Y)
    first = trainer.step(X[:, :2], Y[:, :2])
    rest = trainer.step(X[:, 2:], Y[:, 2:], state=trainer.state)
    np.testing.assert_allclose((2 * first + 3 * rest) / 5, whole, rtol=1e-12)
    for found, expected in zip(trainer.state, final, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert trainer.step(X[:, :2], Y[:, :2]) == first  # without a state, from zero


def test_state_is_in_the_order_of_the_batch():
    trainer = make(rc.SGD(lr=0))
    trainer.step(X, Y, LENGTHS)
    expected = trainer.model.forward(X, lengths=LENGTHS)[1]
    for found, array in zip(trainer.state, expected, strict=True):
        np.testing.assert_allclose(found, array, rtol=1e-12)
    again = trainer.model.forward(X, expected, LENGTHS[::-1])[0]
    loss = trainer.step(X, Y, LENGTHS[::-1], state=trainer.state)
    valid = np.arange(T) < LENGTHS[::-1, None]
    assert loss == pytest.approx(((again - Y)[valid] ** 2).mean(), rel=1e-12)


def test_the_batch_size_of_a_state_may_not_change():
    trainer = make()
    trainer.step(X, Y)
    with pytest.raises(
        ValueError, match=r"state\[0\] must have shape \(1, 2, 3\) for a batch of N = 2, got \(1, 3, 3\)"
    ):
        trainer.step(X[:2], Y[:2], state=trainer.state)


# --- failure ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": X * np.nan}, r"x\[0, 0, 0\] = nan, expected a finite number"),
        ({"x": replaced(X, (2, 3, 1), np.inf)}, r"x\[2, 3, 1\] = inf, expected a finite number"),
        ({"y": replaced(Y, (1, 4, 0), -np.inf)}, r"y\[1, 4, 0\] = -inf, expected a finite number"),
        ({"y": Y[:, :4]}, r"y must have shape \(3, 5, 2\), got \(3, 4, 2\)"),
        ({"lengths": [5, 6, 5]}, r"lengths\[1\] = 6, but x has only T = 5 steps"),
        ({"lengths": [0, 0, 0]}, "x has no valid step: there is nothing to learn from"),
        ({"x": X[:0], "y": Y[:0]}, "x has no valid step: there is nothing to learn from"),
        ({"x": X[:, :0], "y": Y[:, :0]}, "x has no valid step: there is nothing to learn from"),
        ({"state": (np.zeros((1, N, 3)),)}, r"state must be a pair \(h, c\), got tuple"),
    ],
)
def test_a_refused_batch_changes_nothing(arguments, message):
    trainer = make("adam", num_layers=2, dropout=0.5) if "state" not in arguments else make("adam")
    trainer.step(X, Y)
    before, state = snapshot(trainer), trainer.state
    with pytest.raises(ValueError, match=message):
        trainer.step(**({"x": X, "y": Y} | arguments))
    assert same(snapshot(trainer), before)
    np.testing.assert_array_equal(trainer.state[0], state[0])


def test_a_refused_batch_leaves_the_latest_one_to_be_read():
    trainer = make(rc.SGD(lr=0))
    trainer.step(X, Y, LENGTHS)
    (h, c), prediction = trainer.state, trainer.prediction
    for lengths in (LENGTHS[::-1], None):
        trainer.step(X, Y, LENGTHS)
        with pytest.raises(ValueError, match="expected a finite number"):
            trainer.step(X, Y * np.nan, lengths)
        np.testing.assert_array_equal(trainer.prediction, prediction)
        np.testing.assert_array_equal(trainer.state, (h, c))


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
def test_a_loss_that_is_no_number_stops_training():
    trainer = make("adam", cell="rnn", activation="identity")
    trainer.step(X, Y)
    state = trainer.state
    parameters = trainer.model.state_dict()
    optimizer = trainer.optimizer.state_dict()
    with pytest.raises(FloatingPointError, match=r"the loss is (inf|nan) at update 2: the parameters stay"):
        trainer.step(X * 1e200, Y, state=state)
    assert same(trainer.model.state_dict(), parameters)
    assert same(trainer.optimizer.state_dict(), optimizer)
    np.testing.assert_array_equal(trainer.state, state)


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
def test_a_gradient_that_is_no_number_stops_training():
    model = rc.SequenceModel(
        D, 3, 1, "rnn", input="dense", activation="identity", dtype="float32", output="last"
    )
    trainer = rc.Trainer(model, "mse", "sgd", clip_value=1.0)
    for name, value in model.params.items():
        value[...] = 1e15 if name == "rnn.weight_hh_l0" else 0
    model.params["head.weight"][...] = 1
    before = model.state_dict()
    x = np.zeros((1, 6, D))  # the outputs are zero; the way back is a product of five large matrices
    with pytest.raises(FloatingPointError, match=r"the norm of the gradients is (inf|nan) at update 1"):
        trainer.step(x, np.ones((1, 1)))
    assert same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": "adamm"}, ValueError, "optimizer must be one of"),
        ({"loss": "l2"}, ValueError, "loss must be one of"),
        ({"clip_norm": True}, TypeError, "clip_norm must be a number, got True"),
        ({"clip_norm": np.True_}, TypeError, "clip_norm must be a number, got "),
        ({"clip_norm": 0}, ValueError, r"clip_norm must lie in \(0, inf\), got 0"),
        ({"clip_value": -1}, ValueError, r"clip_value must lie in \(0, inf\), got -1"),
        ({"clip_norm": 1, "clip_value": 1}, ValueError, "clip_norm and clip_value exclude each other"),
        ({"reduction": "max"}, ValueError, "reduction must be one of 'mean', 'sum', got 'max'"),
        ({"bptt": 0}, ValueError, "bptt must be at least 1, got 0"),
    ],
)
def test_arguments_that_make_no_sense(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_a_trainer_wants_a_model():
    with pytest.raises(TypeError, match="model must be a Sequential or a SequenceModel, got LSTM"):
        rc.Trainer(rc.LSTM(2, 3), "mse")


# --- runs ---


def test_fit_for_steps():
    trainer, task = make("adam"), Counting()
    history = trainer.fit(task, 10, progress=False)
    assert len(history.loss) == trainer.optimizer.steps == 10
    assert task.epochs == 3
    assert task.validated == 0
    assert history.metrics == {}


def test_fit_for_epochs():
    trainer, task = make("adam"), Counting()
    assert len(trainer.fit(task, epochs=3, progress=False).loss) == 12
    assert len(trainer.fit(task, 5, epochs=3, progress=False).loss) == 5
    assert len(trainer.fit(task, 0, progress=False).loss) == 0


def test_fit_is_its_steps():
    one, other = make("adam"), make("adam")
    history = one.fit(Counting(), 8, progress=False)
    rng = np.random.default_rng(0)
    batches = itertools.chain(Counting().batches(rng), Counting().batches(rng))
    assert history.loss == [other.step(batch.x, batch.y) for batch in batches]
    assert same(one.model.state_dict(), other.model.state_dict())


def test_fit_learns_with_a_progress_bar(capsys):
    losses = make(rc.Adam(lr=0.03)).fit(Counting(), 300).loss
    assert np.mean(losses[-20:]) < 0.3 * np.mean(losses[:20])
    bar = capsys.readouterr().err.split("\r")[-1]
    assert "300/300" in bar
    assert f"loss {np.mean(losses[-100:]):.4g}" in bar


def test_validation_and_callbacks():
    trainer, task, called, also = make("adam"), Counting(), [], []
    callbacks = [lambda step, loss: called.append((step, loss)), lambda step, loss: also.append(step)]
    history = trainer.fit(task, 7, validate_every=3, callbacks=callbacks, progress=False)
    assert also == list(range(1, 8))
    assert list(history.metrics) == [3, 6, 7]
    assert [metrics["calls"] for metrics in history.metrics.values()] == [1, 2, 3]
    assert called == list(enumerate(history.loss, 1))
    assert trainer.evaluate(task) == {"mean": history.metrics[7]["mean"]}


def test_batches_that_carry_the_state_on():
    class Stream(Counting):
        def batches(self, rng):
            yield Batch(X[:, :2], Y[:, :2])
            yield Batch(X[:, 2:], Y[:, 2:], carry=True)

    trainer = make(rc.SGD(lr=0))
    first, rest = trainer.fit(Stream(), epochs=1, progress=False).loss
    np.testing.assert_allclose((2 * first + 3 * rest) / 5, trainer.measure(X, Y)[0], rtol=1e-12)


def test_fit_arguments():
    with pytest.raises(ValueError, match="fit needs steps or epochs"):
        make().fit(Counting())
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        make().fit(Counting(), -1)
    with pytest.raises(ValueError, match="validate_every must be at least 1, got 0"):
        make().fit(Counting(), 1, validate_every=0)
    with pytest.raises(ValueError, match=r"task.batches\(\) gave no batch"):
        make().fit(Counting(batches=0), 1, progress=False)


def test_history_as_csv(tmp_path):
    history = make("adam").fit(Counting(), 4, validate_every=2, progress=False)
    path = tmp_path / "history.csv"
    history.to_csv(path)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "loss", "mean", "calls"]
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["loss"]) for row in rows] == history.loss
    assert [row["calls"] for row in rows] == ["", "1", "", "2"]
    assert float(rows[3]["mean"]) == history.metrics[4]["mean"]


def test_many_shapes():
    """More shapes than there are plans kept: every one is trained as if it were alone."""
    trainer, fresh = make(rc.SGD(lr=0)), make(rc.SGD(lr=0))
    sizes = [(n, t) for n in (1, 2, 3) for t in range(1, 6)]
    expected = {}
    for n, t in sizes:
        expected[n, t] = rc.Trainer(fresh.model, "mse", rc.SGD(lr=0)).step(X[:n, :t], Y[:n, :t])
    for _ in range(2):
        for n, t in sizes:
            assert trainer.step(X[:n, :t], Y[:n, :t]) == expected[n, t]


# --- an update from several batches ---


@pytest.mark.parametrize("options", [{}, {"reduction": "sum"}, {"clip_norm": 0.1}, {"bptt": 2}])
def test_small_batches_add_up_to_a_large_one(options):
    x, y = draw(12, T, D), draw(12, T, O, seed=1)
    large, small = make("adam", **options), make("adam", **options)
    for _ in range(3):
        whole = large.step(x, y)
        parts = small.accumulate([Batch(x[k : k + 3], y[k : k + 3]) for k in range(0, 12, 3)])
        np.testing.assert_allclose(parts, whole, rtol=1e-12)
        np.testing.assert_allclose(small.grad_norm, large.grad_norm, rtol=1e-10)
        for name, grad in large.model.grads.items():
            np.testing.assert_allclose(small.model.grads[name], grad, rtol=1e-8, atol=1e-14)
    assert small.optimizer.steps == large.optimizer.steps == 3
    for name, value in large.model.params.items():
        np.testing.assert_allclose(small.model.params[name], value, rtol=1e-7, atol=1e-12)


def test_accumulated_batches_carry_the_state_on():
    trainer = make(rc.SGD(lr=0))
    expected = trainer.step(X[:, :2], Y[:, :2])
    expected += trainer.step(X[:, 2:4], Y[:, 2:4], state=trainer.state)
    final = trainer.state
    found = trainer.accumulate([Batch(X[:, :2], Y[:, :2]), Batch(X[:, 2:4], Y[:, 2:4], carry=True)])
    assert found == expected / 2
    np.testing.assert_array_equal(trainer.state, final)


def test_fit_accumulates():
    one, other = make("adam"), make("adam")
    history = one.fit(Counting(5), epochs=1, accumulate=2, progress=False)
    batches = list(Counting(5).batches(np.random.default_rng(0)))
    assert history.loss == [other.accumulate(batches[k : k + 2]) for k in (0, 2, 4)]
    assert same(one.model.state_dict(), other.model.state_dict())


def test_a_refused_batch_ends_the_update_of_several():
    trainer = make("adam")
    trainer.step(X, Y)
    before = snapshot(trainer)
    with pytest.raises(ValueError, match="expected a finite number"):
        trainer.accumulate([Batch(X, Y), Batch(X * np.nan, Y)])
    with pytest.raises(ValueError, match="batches must not be empty"):
        trainer.accumulate([])
    assert same(snapshot(trainer), before)


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_an_update_of_several_that_fails_changes_nothing(wrong):
    trainer = make("adam", cell="rnn", activation="identity")
    trainer.step(X, Y)
    before = snapshot(trainer)
    batches = [Batch(X * (1e200 if k == wrong else 1), Y) for k in range(3)]
    with pytest.raises(FloatingPointError, match="the loss is inf at update 2"):
        trainer.accumulate(batches)
    assert same(snapshot(trainer), before)


def test_a_state_carried_to_another_batch_size():
    class Shrinking(Counting):
        def batches(self, rng):
            yield Batch(X, Y)
            yield Batch(X[:2], Y[:2], carry=True)

    with pytest.raises(ValueError, match=r"state\[0\] must have shape \(1, 2, 3\) for a batch of N = 2"):
        make().fit(Shrinking(), epochs=1, progress=False)


def test_the_progress_bar_knows_the_end_after_one_epoch(capsys, monkeypatch):
    monkeypatch.setattr("rnncore.trainer.REPORT_EVERY", 0)
    make().fit(Counting(), epochs=3, accumulate=2)
    assert "6/6" in capsys.readouterr().err


def test_the_progress_bar_shows_the_rate(capsys):
    make(rc.Adam(lr=0.25)).fit(Counting(), 3)
    assert "lr 0.25" in capsys.readouterr().err


def test_a_generator_shared_with_the_model_is_not_drawn_from():
    rng = np.random.default_rng(0)
    model = rc.SequenceModel(D, 3, O, input="dense", seed=rng)
    trainer = rc.Trainer(model, "mse", seed=rng)
    before = rng.bit_generator.state
    trainer.fit(Counting(), 3, progress=False)
    assert rng.bit_generator.state == before


# --- batches that are there already ---


def test_a_list_of_batches_is_an_epoch():
    batches = [Batch(X, Y, LENGTHS), (X[:2], Y[:2]), [X, Y, LENGTHS], (X, Y, None, True)]
    trainer, by_hand = make("adam"), make("adam")
    history = trainer.fit(batches, epochs=2, progress=False)
    expected = []
    for _ in range(2):
        expected += [by_hand.step(X, Y, LENGTHS), by_hand.step(X[:2], Y[:2]), by_hand.step(X, Y, LENGTHS)]
        expected.append(by_hand.step(X, Y, None, by_hand.state))
    assert history.loss == expected


@pytest.mark.parametrize("limits", [{}, {"epochs": 1}, {"steps": 9}, {"steps": 3}])
def test_a_generator_is_an_epoch(limits):
    history = make().fit(((X, Y) for _ in range(5)), progress=False, **limits)
    assert len(history.loss) == min(5, limits.get("steps", 5))


def test_a_task_may_yield_tuples():
    class Tuples(Counting):
        def batches(self, rng):
            return (tuple(batch[:2]) for batch in super().batches(rng))

    assert make().fit(Tuples(), 9, progress=False).loss == make().fit(Counting(), 9, progress=False).loss
    by_tuples, by_batches = make("adam"), make("adam")
    assert by_tuples.accumulate([(X, Y), (X, Y, LENGTHS)]) == by_batches.accumulate(
        [Batch(X, Y), Batch(X, Y, LENGTHS)]
    )


@pytest.mark.parametrize(
    ("task", "options", "error", "message"),
    [
        ([(X, Y)], {}, ValueError, "fit needs steps or epochs"),
        (iter([(X, Y)]), {"epochs": 2}, ValueError, "an iterator gives its batches once, but epochs = 2"),
        ((X, Y), {"epochs": 1}, TypeError, r"a batch must be a tuple \(x, y\) or .*, got ndarray"),
        ([(X,)], {"epochs": 1}, TypeError, r"a batch must be a tuple .*, got 1 items"),
        ([X], {"epochs": 1}, TypeError, r"a batch must be a tuple .*, got ndarray"),
        (X, {"epochs": 1}, TypeError, r"task must be a task or an iterable of batches .*, got ndarray"),
        (3, {"epochs": 1}, TypeError, r"task must be a task or an iterable of batches .*, got int"),
        ([], {"epochs": 1}, ValueError, r"gave no batch"),
        (
            [(X, Y)],
            {"epochs": 1, "validate_every": 1},
            TypeError,
            "needs a task with a method validate, got list",
        ),
    ],
)
def test_what_is_no_task(task, options, error, message):
    with pytest.raises(TypeError, match="task must be one with a method evaluate"):
        make().evaluate(task)
    with pytest.raises(error, match=message):
        make().fit(task, progress=False, **options)


# --- settings in use ---


@pytest.mark.parametrize(
    ("name", "value"),
    [("clip_norm", 0.01), ("clip_value", 0.01), ("reduction", "sum"), ("bptt", 1), ("bptt", 2)],
)
def test_a_setting_takes_effect_at_the_next_step(name, value):
    changed, made = make("adam"), make("adam", **{name: value})
    before = changed.step(X, Y)
    made.model.load_state_dict(changed.model.state_dict())
    made.optimizer.load_state_dict(changed.optimizer.state_dict())
    setattr(changed, name, value)
    assert getattr(changed, name) == value
    state = changed.state
    assert changed.step(X, Y) == made.step(X, Y)
    assert same(changed.model.state_dict(), made.model.state_dict())
    assert not np.array_equal(changed.state[0], state[0])
    assert before != changed.step(X, Y)


def test_a_setting_that_makes_no_sense_changes_nothing():
    trainer = make(clip_norm=0.1)
    trainer.step(X, Y)
    for name, value in (
        ("clip_norm", -1),
        ("clip_value", 1),
        ("reduction", "max"),
        ("bptt", 0),
        ("bptt", "half"),
    ):
        before = getattr(trainer, name)
        with pytest.raises((ValueError, TypeError), match=name):
            setattr(trainer, name, value)
        assert getattr(trainer, name) == before
    trainer.clip_norm = None
    trainer.clip_value = 1
    for name in ("model", "optimizer", "loss"):
        with pytest.raises(AttributeError, match=name):
            setattr(trainer, name, getattr(trainer, name))


# --- copies ---


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))])
@pytest.mark.parametrize("optimizer", [rc.SGD, rc.Adam])
def test_a_copy_of_a_trainer_goes_on_with_the_same_bits(copied, optimizer):
    trainer = make(optimizer(lr=0.01), num_layers=2, dropout=0.5, clip_norm=1.0, bptt=2)
    trainer.step(X, Y)
    twin = copied(trainer)
    np.testing.assert_array_equal(twin.state[0], trainer.state[0])
    assert twin.grad_norm == 0
    for _ in range(3):
        assert twin.step(X, Y, LENGTHS, twin.state) == trainer.step(X, Y, LENGTHS, trainer.state)
    assert same(snapshot(twin), snapshot(trainer))
    trainer.step(X, Y)
    assert not same(snapshot(twin), snapshot(trainer))  # nothing is shared
    assert copied(make()).state is None


def test_a_shallow_copy_of_a_trainer_would_share_its_optimizer():
    with pytest.raises(ValueError, match="this Adam is in use: give every trainer an optimizer of its own"):
        copy.copy(make("adam"))


def test_the_state_is_a_copy_each_time():
    trainer = make(rc.SGD(lr=0))
    trainer.step(X, Y)
    expected = trainer.state[0].copy()
    trainer.state[0][...] = 7
    np.testing.assert_array_equal(trainer.state[0], expected)


def test_repr():
    trainer = make(rc.SGD(lr=0.5), clip_norm=1)
    assert repr(trainer) == (
        "Trainer(SequenceModel, loss='mse', optimizer=SGD(lr=0.5, momentum=0.0, dampening=0.0, "
        "weight_decay=0.0, nesterov=False), clip_norm=1.0, clip_value=None, reduction='mean', bptt='full')"
    )
    history = rc.History()
    assert repr(history) == "History(0 updates)"
    history.loss, history.metrics = [3.0, 0.25], {2: {"error": 1.5, "legal": 0.5}}
    assert repr(history) == "History(2 updates, loss=0.25, error=1.5, legal=0.5)"
