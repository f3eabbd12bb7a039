"""What the learning rate is at every update, and when a run ends before its time."""

import math

import numpy as np
import pytest

import rnncore as rc
from rnncore.schedules import (
    Constant,
    Cosine,
    EarlyStopping,
    ReduceOnPlateau,
    StepDecay,
    WarmUp,
    describe,
)
from rnncore.tasks import Batch

X = np.random.default_rng(0).normal(size=(3, 5, 2))


class Scripted:
    """A task whose validations give what was written down beforehand."""

    def __init__(self, values):
        self.values = list(values)
        self.validated = 0

    def batches(self, rng):
        while True:
            x = rng.normal(size=(3, 5, 2))
            yield Batch(x, x.cumsum(axis=1))

    def validate(self, model):
        self.validated += 1
        return {"error": self.values[self.validated - 1]}


def make(**options):
    model = rc.SequenceModel(2, 3, 2, input="dense", dtype="float64", **options)
    return rc.Trainer(model, "mse", rc.SGD(lr=0.5))


def factors(schedule, steps):
    return [schedule.factor(t) for t in range(steps)]


# --- schedules ---


def test_constant():
    assert factors(Constant(), 3) == [1, 1, 1]


def test_step_decay():
    assert factors(StepDecay(2, 0.5), 6) == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_cosine():
    found = factors(Cosine(4, final=0.2), 7)
    expected = [0.2 + 0.4 * (1 + math.cos(math.pi * t / 4)) for t in (0, 1, 2, 3, 4, 4, 4)]
    np.testing.assert_allclose(found, expected, rtol=1e-15)
    assert found[0] == 1
    assert found[4:] == [0.2] * 3
    assert Cosine(3).factor(3) == 0


def test_warm_up():
    assert factors(WarmUp(4), 6) == [0.25, 0.5, 0.75, 1, 1, 1]
    assert factors(WarmUp(2, StepDecay(2, 0.5)), 8) == [0.5, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]


def test_plateau():
    schedule = ReduceOnPlateau("error", decay=0.5, patience=1, lowest=0.2)
    found = []
    for error in (3, 2, 2, 2, 1, 1, math.nan, 1, 1, 1, 1):
        schedule.observe({"error": error})
        found.append(schedule.factor(0))
    assert found == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]


def test_plateau_of_what_should_grow():
    schedule = ReduceOnPlateau("accuracy", "max", patience=0, min_delta=0.1)
    for accuracy, factor in ((0.5, 1), (0.7, 1), (0.75, 0.1), (0.9, 0.1), (0.1, 0.01)):
        schedule.observe({"accuracy": accuracy})
        assert schedule.factor(9) == pytest.approx(factor, rel=1e-15)


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(),
        StepDecay(3, 0.3),
        Cosine(7, final=0.1),
        WarmUp(3, Cosine(5)),
        WarmUp(2, ReduceOnPlateau("e", "max", patience=3)),
    ],
)
def test_a_description_makes_the_same_rule_again(schedule):
    described = describe(schedule)
    inner = described.get("then")
    if inner:
        described["then"] = globals()[inner.pop("type")](**inner)
    again = globals()[described.pop("type")](**described)
    assert describe(again) == describe(schedule)
    assert factors(again, 20) == factors(schedule, 20)


@pytest.mark.parametrize("kind", ["step", "cosine", "warm-up", "plateau"])
def test_rates_are_pytorchs(kind):
    torch = pytest.importorskip("torch")
    of = torch.optim.lr_scheduler
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule, other = {
        "step": lambda: (StepDecay(3, 0.7), of.StepLR(optimizer, 3, 0.7)),
        "cosine": lambda: (Cosine(9, 0.2), of.CosineAnnealingLR(optimizer, 9, 0.1)),
        "warm-up": lambda: (WarmUp(5), of.LinearLR(optimizer, 1 / 5, 1.0, total_iters=4)),
        "plateau": lambda: (
            ReduceOnPlateau("e", "min", patience=2, decay=0.3),
            of.ReduceLROnPlateau(optimizer, factor=0.3, patience=2, threshold=0),
        ),
    }[kind]()
    errors = np.random.default_rng(3).normal(size=10).round(1)
    for t, error in enumerate(errors):
        assert 0.5 * schedule.factor(t) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        if kind == "plateau":
            schedule.observe({"e": error})
            other.step(error)
        else:
            other.step()


def test_training_follows_a_schedule():
    trainer, by_hand, rates = make(), make(), []
    task = Scripted([])
    trainer.fit(
        task,
        6,
        schedule=WarmUp(2, StepDecay(2)),
        callbacks=[lambda step, loss: rates.append(trainer.optimizer.lr)],
        progress=False,
    )
    np.testing.assert_allclose(rates, [0.25, 0.5, 0.5, 0.5, 0.05, 0.05], rtol=1e-15)
    assert trainer.optimizer.lr == 0.5
    for rate, batch in zip(rates, task.batches(np.random.default_rng(0)), strict=False):
        by_hand.optimizer.lr = rate
        by_hand.step(batch.x, batch.y)
    for name, value in trainer.model.params.items():
        np.testing.assert_array_equal(value, by_hand.model.params[name])


def test_training_slows_down_on_a_plateau():
    trainer, rates, schedule = make(), [], ReduceOnPlateau("error", patience=0)
    for _ in range(2):  # a schedule begins anew with every run
        rates.clear()
        trainer.fit(
            Scripted([1, 2, 3]),
            5,
            validate_every=2,
            schedule=schedule,
            callbacks=[lambda step, loss: rates.append(trainer.optimizer.lr)],
            progress=False,
        )
        np.testing.assert_allclose(rates, [0.5, 0.5, 0.5, 0.5, 0.05], rtol=1e-15)


def test_the_rate_is_the_optimizers_own_after_a_failure():
    def fail(step, loss):
        raise RuntimeError

    trainer = make()
    with pytest.raises(RuntimeError):
        trainer.fit(Scripted([]), 9, schedule=WarmUp(4), callbacks=[fail], progress=False)
    assert trainer.optimizer.lr == 0.5


# --- early stopping ---


def test_early_stopping_goes_back_to_the_best_weights():
    trainer, other = make(), make()
    history = trainer.fit(
        Scripted([5, 3, 4, 3, 3, 1]),
        100,
        validate_every=2,
        early_stopping=EarlyStopping("error", patience=3),
        progress=False,
    )
    assert len(history.loss) == 10
    assert list(history.metrics) == [2, 4, 6, 8, 10]
    other.fit(Scripted([]), 4, progress=False)
    for name, value in trainer.model.params.items():
        np.testing.assert_array_equal(value, other.model.params[name])


def test_the_best_weights_also_where_the_run_is_over_first():
    trainer, other = make(), make()
    stopping = EarlyStopping("error", "max", patience=9, min_delta=0.5)
    trainer.fit(Scripted([1, 2, 2.4]), 5, validate_every=2, early_stopping=stopping, progress=False)
    other.fit(Scripted([]), 4, progress=False)
    for name, value in trainer.model.params.items():
        np.testing.assert_array_equal(value, other.model.params[name])


def test_nan_is_never_the_best():
    trainer = make()
    stopping = EarlyStopping("error", patience=2)
    history = trainer.fit(
        Scripted([math.nan] * 9), 9, validate_every=1, early_stopping=stopping, progress=False
    )
    assert len(history.loss) == 2


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("loss", "min"),
        ("validation_loss", "min"),
        ("word_loss", "min"),
        ("error", "min"),
        ("mse", "min"),
        ("rmse", "min"),
        ("rmse_91_sin x", "min"),
        ("mae", "min"),
        ("perplexity", "min"),
        ("bits_per_character", "min"),
        ("accuracy", "max"),
        ("exact_16", "max"),
        ("legal", "max"),
        ("r2", "max"),
    ],
)
def test_known_measures_carry_their_direction(metric, mode):
    assert EarlyStopping(metric).mode == ReduceOnPlateau(metric).watch.mode == mode
    assert EarlyStopping(metric, "max").mode == "max"


@pytest.mark.parametrize("metric", ["score", "exactness", "rmse_1_accuracy", "", "last_value_1"])
def test_an_unknown_measure_must_say_its_direction(metric):
    for rule in (EarlyStopping, ReduceOnPlateau):
        with pytest.raises(ValueError, match=f"mode must say which is better of '{metric}', less"):
            rule(metric)
        assert rule(metric, "min")


def test_every_metric_of_a_task_is_known():
    """But not those of forecasts without a model, which do not change."""
    text = rc.tasks.CharLM("abcab" * 90, batch_size=2, chunk=8)
    x = np.random.default_rng(0).normal(size=(8, 4, 2))
    for task in (
        text,
        rc.tasks.CharLM(["ab", "ba"]),
        rc.tasks.BinaryAddition(3),
        rc.tasks.Forecasting(x[:, 0, :].repeat(9, axis=0), window=5),
        rc.tasks.SequenceClassification(x, np.arange(8) % 2),
        rc.tasks.SequenceRegression(x, x[:, 0]),
        rc.tasks.AddingProblem(5),
        rc.tasks.TemporalOrder(20),
        rc.tasks.EmbeddedReber(),
    ):
        for name in task.validate(task.model(2)):
            if not name.startswith(("last_value", "autoregression")):
                assert EarlyStopping(name).mode in ("min", "max")


def test_early_stopping_on_accuracy_keeps_the_highest():
    class Accuracy(Scripted):
        def validate(self, model):
            return {"accuracy": super().validate(model)["error"]}

    trainer, best = make(), make()
    stopping = EarlyStopping("accuracy", patience=2)
    trainer.fit(Accuracy([0.5, 0.9, 0.6, 0.6]), 9, validate_every=2, early_stopping=stopping, progress=False)
    best.fit(Scripted([]), 4, progress=False)
    for name, value in trainer.model.params.items():
        np.testing.assert_array_equal(value, best.model.params[name])


@pytest.mark.parametrize(
    ("answer", "updates"),
    [(True, 3), (np.True_, 3), (np.bool_(False), 9), (1, 9), (0.5, 9), ("on", 9), (None, 9)],
)
def test_the_answers_of_callbacks(answer, updates):
    history = make().fit(Scripted([]), 9, callbacks=[lambda step, loss: step == 3 and answer], progress=False)
    assert len(history.loss) == updates


def test_a_callback_may_end_the_run():
    history = make().fit(Scripted([]), 9, callbacks=[lambda step, loss: step == 4], progress=False)
    assert len(history.loss) == 4


@pytest.mark.parametrize(
    ("make_rule", "error", "message"),
    [
        (lambda: StepDecay(0), ValueError, "every must be at least 1, got 0"),
        (lambda: StepDecay(3, -1), ValueError, r"decay must lie in \[0, inf\), got -1"),
        (lambda: Cosine(1.5), TypeError, "steps must be an integer, got 1.5"),
        (lambda: WarmUp(3, 0.1), TypeError, "then must be a schedule, got float"),
        (lambda: ReduceOnPlateau("e", "less"), ValueError, "mode must be one of 'min', 'max', got 'less'"),
        (lambda: ReduceOnPlateau("error", decay=1), ValueError, r"decay must lie in \[0, 1\), got 1"),
        (lambda: EarlyStopping("error", patience=0), ValueError, "patience must be at least 1, got 0"),
    ],
)
def test_arguments_that_make_no_sense(make_rule, error, message):
    with pytest.raises(error, match=message):
        make_rule()


def test_a_rule_needs_what_it_watches():
    with pytest.raises(ValueError, match="early_stopping needs validate_every"):
        make().fit(Scripted([]), 3, early_stopping=EarlyStopping("error"))
    with pytest.raises(ValueError, match="schedule WarmUp needs validate_every"):
        make().fit(Scripted([]), 3, schedule=WarmUp(1, ReduceOnPlateau("error")))
    with pytest.raises(ValueError, match=r"metric must be one that validation gives \(error\), got 'loss'"):
        make().fit(Scripted([1]), 3, validate_every=1, early_stopping=EarlyStopping("loss"), progress=False)
