"""Forecasting: windows, scaling, closed loop, baselines, and what is learnt."""

import numpy as np
import pytest

import rnncore as rc
from rnncore import datasets, recipes, tables
from rnncore.tasks import Forecasting, NoisySine

RAMP = np.arange(40.0)


class Repeats:
    """Stands for a model that predicts the last row it has read, `horizon` times."""

    output_activation = None

    def __init__(self, output="last", horizon=1):
        self.output, self.horizon = output, horizon

    def forward(self, x, state=None):
        y = np.tile(x, self.horizon)
        return (y if self.output == "all" else y[:, -1]), None


def windows(task):
    """All (x, y) of an epoch in the series' own units, in order."""
    batches = list(task.batches(np.random.default_rng(0)))
    x, y = (np.concatenate([batch[i] for batch in batches]) for i in (0, 1))
    order = np.argsort(x[:, 0, 0])
    return x[order] * task.deviation + task.mean, y[order] * task.deviation[0] + task.mean[0]


def test_windows_many_to_one():
    task = Forecasting(RAMP, window=3, held_out=0.5, ahead=2, batch_size=17)
    x, y = windows(task)
    assert x.shape == (17, 3, 1)
    np.testing.assert_allclose(x[:, :, 0], np.arange(17)[:, None] + np.arange(3), atol=1e-5)
    np.testing.assert_allclose(y, np.arange(3, 20)[:, None], atol=1e-5)  # of 20 rows to train on


def test_windows_many_to_many_with_horizon():
    task = Forecasting(RAMP, window=3, horizon=2, output="all", held_out=0, ahead=2, batch_size=36)
    x, y = windows(task)
    assert y.shape == (36, 3, 2)
    np.testing.assert_allclose(y[0], [[1, 2], [2, 3], [3, 4]], atol=1e-5)
    np.testing.assert_allclose(y[-1], [[36, 37], [37, 38], [38, 39]], atol=1e-5)
    np.testing.assert_allclose(x[-1, :, 0], [35, 36, 37], atol=1e-5)


def test_several_columns_and_horizon():
    series = np.stack([RAMP, 100 - RAMP], axis=1)
    task = Forecasting(series, window=3, horizon=2, held_out=0, ahead=2, batch_size=36)
    (batch,) = task.batches(np.random.default_rng(0))
    y = batch.y.reshape(36, 2, 2) * task.deviation + task.mean
    np.testing.assert_allclose(y.sum(axis=2), 100, atol=1e-4)
    np.testing.assert_allclose(y[:, 1, 0] - y[:, 0, 0], 1, atol=1e-4)
    assert task.model().predict(batch.x).shape == (36, 4)


def test_windows_left_over_wait():
    task = Forecasting(RAMP, window=3, held_out=0, batch_size=10)
    assert [len(batch.x) for batch in task.batches(np.random.default_rng(0))] == [10, 10, 10]


def test_scaling_is_learnt_on_the_training_part():
    series = np.concatenate([RAMP, [1e6] * 10])
    task = Forecasting(series, window=3, held_out=0.2, ahead=2)
    assert task.split == 40
    assert task.mean == [19.5]
    assert task.deviation == [RAMP.std()]
    assert Forecasting(np.ones(30), window=3).deviation == [1]


def test_noise_is_of_the_inputs_alone_and_fresh():
    task = Forecasting(RAMP, window=3, held_out=0, noise=0.5, batch_size=37)
    rng = np.random.default_rng(0)
    (first,), (second,) = task.batches(rng), task.batches(rng)
    assert np.array_equal(np.sort(first.y, axis=0), np.sort(second.y, axis=0))
    (clean,) = Forecasting(RAMP, window=3, held_out=0, batch_size=37).batches(np.random.default_rng(0))
    assert 0.4 < (first.x - clean.x).std() < 0.6
    assert np.array_equal(first.y, clean.y)


@pytest.mark.parametrize(("output", "horizon"), [("last", 1), ("all", 1), ("last", 3), ("all", 2)])
def test_closed_loop_reads_its_own_predictions(output, horizon):
    task = Forecasting(RAMP, window=3, horizon=horizon, output=output)

    class Counts(Repeats):
        def forward(self, x, state=None):
            one = 1 / task.deviation[0]
            y = np.concatenate([x + one * k for k in range(1, self.horizon + 1)], axis=2)
            return (y if self.output == "all" else y[:, -1]), None

    predicted = task.closed_loop(Counts(output, horizon), [RAMP[:5, None], RAMP[10:15, None]], 7)
    np.testing.assert_allclose(predicted[:, :, 0], [np.arange(5, 12), np.arange(15, 22)], atol=1e-9)


def test_forecast_of_any_range():
    task = Forecasting(RAMP, window=3, held_out=0.25, ahead=4)
    model = Repeats()
    assert task.span() == (30, 10)
    assert task.span(40) == (40, 4)
    np.testing.assert_allclose(task.forecast(model), np.full((10, 1), 29))
    np.testing.assert_allclose(task.forecast(model, 3, 2), np.full((2, 1), 2))
    np.testing.assert_allclose(task.forecast(model, 40, 50), np.full((50, 1), 39))  # beyond the end
    for start in (2, 41):
        with pytest.raises(ValueError, match=rf"start must lie in 3 \.\.\. 40, .*, got {start}"):
            task.forecast(model, start)


def test_errors_beside_the_baselines():
    seasons = np.tile([0.0, 1.0, 2.0, 4.0], 10)
    task = Forecasting(seasons, window=3, season=4, held_out=0.5)
    metrics = task.evaluate(Repeats())
    names = ("rmse", "last_value", "seasonal", "autoregression")
    assert list(metrics) == [f"{name}_{steps}" for steps in (1, 4) for name in names]
    assert metrics["autoregression_1"] == pytest.approx(0, abs=1e-9)
    assert metrics["seasonal_1"] == metrics["seasonal_4"] == 0
    # one ahead: the differences 1, 1, 2, -4, five times each
    assert metrics["last_value_1"] == pytest.approx(np.sqrt(22 / 4))
    assert metrics["rmse_1"] == pytest.approx(metrics["last_value_1"])
    assert metrics["rmse_4"] == pytest.approx(metrics["last_value_4"])
    errors = [seasons[20 + i : 24 + i] - seasons[19 + i] for i in range(17)]
    assert metrics["last_value_4"] == pytest.approx(np.sqrt(np.mean(np.square(errors))))


def test_errors_name_the_columns():
    task = Forecasting(np.stack([RAMP, -2 * RAMP], axis=1), window=3, columns=["up", "down"])
    metrics = task.evaluate(Repeats())
    assert metrics["last_value_1_up"] == 1
    assert metrics["rmse_1_down"] == pytest.approx(2)


def test_the_task_from_its_configuration():
    task = Forecasting(RAMP, window=3, horizon=2, output="all", season=5, noise=0.1, columns=["a"])
    again = Forecasting(**task.config())
    assert np.array_equal(again.series, task.series)
    old, new = ({**t.config(), "series": None} for t in (task, again))
    assert old == new
    sine = NoisySine(3, carry=True)
    assert np.array_equal(NoisySine(**sine.config()).series, sine.series)


def missing(row, column):
    series = np.zeros((40, 2))
    series[row, column] = np.nan
    return series


@pytest.mark.parametrize(
    ("series", "options", "message"),
    [
        (missing(17, 1), {}, r"series\[17\] holds nan in column 1: a value is missing"),
        ([*RAMP, np.inf], {}, r"series\[40\] holds inf"),
        (
            RAMP[:10],
            {"window": 20},
            r"series has 10 rows, of which 8 are to train on .*, but window = 20 and horizon = 1 take 21",
        ),
        (RAMP, {"window": 3, "ahead": 9}, r"40 rows, of which 8 are to evaluate on .* ahead = 9 rows$"),
        (RAMP, {"window": 3, "season": 33}, "season = 33 is longer"),
        (RAMP[None, None], {}, "series must have shape"),
        (RAMP, {"window": 0}, "window must be at least 1"),
        (RAMP, {"output": "first"}, "output must be one of 'last', 'all'"),
        (RAMP, {"held_out": 1.0}, "held_out must lie in"),
        (RAMP, {"window": 3, "columns": ["a", "b"]}, "columns must name 1 columns, got 2"),
    ],
)
def test_refused(series, options, message):
    with pytest.raises(ValueError, match=message):
        Forecasting(series, **options)


def test_text_is_refused():
    with pytest.raises(TypeError, match="series must hold real numbers"):
        Forecasting(["a"] * 40)


def test_history_too_short():
    with pytest.raises(ValueError, match="history must have at least 3 rows, got 2"):
        Forecasting(RAMP, window=3).closed_loop(Repeats(), np.zeros((1, 2, 1)), 1)


# --- what is learnt ---


def test_a_forecaster_learns_and_is_loaded_again(tmp_path):
    t = np.arange(300)
    task = Forecasting(10 + 5 * np.sin(t / 3), window=10, ahead=10, output="all")
    run = recipes.network_series(task, steps=300, progress=False)
    assert run.metrics["rmse_1"] < 0.25
    assert 5 * run.metrics["rmse_10"] < run.metrics["last_value_10"]
    run.write(tmp_path)
    again = rc.load(tmp_path / "model.safetensors")
    assert np.array_equal(task.forecast(again), task.forecast(run.model))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_sine_is_drawn_from_its_beginning(seed):
    run = recipes.sine(seed, progress=False)
    assert run.metrics["rmse_91"] <= 0.08


def test_tutorial_sine_begins_as_told():
    run = recipes.tutorial_sine(0, 18, progress=False)
    assert run.model.num_parameters == 4 * 45 * (1 + 45 + 1) + 45 + 1
    assert len(list(run.task.batches(np.random.default_rng(0)))) == 9
    assert all(batch.carry for batch in run.task.batches(np.random.default_rng(0)))
    assert run.history.loss[-1] < run.history.loss[0]


@pytest.mark.slow
def test_sunspots_are_forecast_better_than_by_the_last_season():
    series = tables.read(datasets.SUNSPOTS).values
    task = Forecasting(series, season=11)
    metrics = recipes.series(task, progress=False).metrics
    assert metrics["rmse_1"] < 22 < 33 < metrics["last_value_1"] < metrics["seasonal_1"]
    assert metrics["rmse_11"] < metrics["seasonal_11"] < metrics["last_value_11"]


@pytest.mark.parametrize("value", [0.1, 14.62, 1e150, -3e-9, 0.0])
def test_a_constant_column_has_deviation_1(value):
    """As it is computed, that of equal numbers may be 2.6e-16."""
    series = np.stack([np.sin(np.arange(200)), np.full(200, value)], axis=1)
    task = Forecasting(series, window=5)
    assert task.deviation[1] == 1
    assert task.deviation[0] == pytest.approx(np.sin(np.arange(160)).std())
    rounded = series.copy()
    rounded[::3, 1] = np.nextafter(value, np.inf)
    assert Forecasting(rounded, window=5).deviation[1] == (1 if value else task.deviation[1])


def test_a_column_that_moves_when_held_out_leaves_the_other_alone():
    t = np.arange(300)
    series = np.stack([np.sin(t / 3), np.full(300, 14.62)], axis=1)
    series[280:, 1] += 0.1
    task = Forecasting(series, window=10, ahead=1)
    trainer = rc.Trainer(task.model(16, cell="gru"), "mse", rc.Adam(lr=0.01), clip_norm=1.0)
    trainer.fit(task, 300, progress=False)
    assert task.evaluate(trainer.model)["rmse_1_column 0"] < 0.1


def test_the_seasonal_baseline_goes_on_beyond_a_season():
    """Every forecast repeats the last season before it, as often as need be."""
    rng = np.random.default_rng(0)
    series = rng.normal(size=60)
    task = Forecasting(series, window=4, season=3, ahead=8)
    errors = [
        series[start : start + 8] - np.resize(series[start - 3 : start], 8) for start in range(48, 60 - 8 + 1)
    ]
    found = task.evaluate(Repeats())
    assert found["seasonal_8"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-12)
    assert found["seasonal_1"] == pytest.approx(
        np.sqrt(np.mean((series[48:] - series[45:-3]) ** 2)), rel=1e-12
    )
