"""The forecaster: what it mixes, how it is trained and chosen, and what it is worth."""

import time

import numpy as np
import pytest
import series

import rnncore as rc
from rnncore import recipes
from rnncore.recipes.forecaster import Residuals
from rnncore.tasks import Forecaster, Forecasting
from rnncore.tasks.baselines import Autoregression, LastSeason, LastValue
from rnncore.tasks.forecaster import Correction, Window

HISTORY = np.stack([np.arange(10.0), 100 - np.arange(10.0)], axis=1)
READS = Window(3, 4, np.array([1.0, 2.0]))


class Says:
    """Stands for a network that always gives the same outputs."""

    def __init__(self, outputs):
        self.outputs = np.array(outputs, float)

    def predict(self, x):
        assert x.shape[1:] == (3, 4)
        return np.tile(self.outputs, (len(x), 1))


def forecaster(weights, ahead=2):
    """One of two columns: last value, corrected by networks that say 1 and 2 ... in units of ½ and 10."""
    rules = [LastValue(), LastValue()]
    closed = Correction(Says([1, -1]), rules, np.array([[0.5, 10.0]]))
    direct = Correction(Says([1, 1, 2, 2]), rules, np.array([[0.5, 10.0], [0.5, 10.0]]))
    return Forecaster(
        ["a", "b"],
        ahead,
        READS,
        {"next": rules, "ahead": [LastValue(), LastSeason(3)]},
        {"closed_loop": closed, "direct": direct},
        {kind: np.array(own, float) for kind, own in weights.items()},
    )


NOTHING = [[0, 0], [0, 0]]


# --- what it is ---


def test_what_networks_read():
    x = READS.read(HISTORY[None])
    assert READS.reach == 6
    assert x.shape == (1, 3, 4)
    assert x[0, :, 0].tolist() == [-2, -1, 0]  # less the last row, in deviations
    assert x[0, :, 1].tolist() == [1, 0.5, 0]
    assert x[0, :, 2].tolist() == [-5, -4, -3]  # rows 4, 5, 6: a season before rows 8, 9 and the next
    assert x[0, :, 3].tolist() == [2.5, 2, 1.5]
    assert np.array_equal(READS.read(HISTORY[None, -6:]), x)
    assert Window(3, None, np.ones(2)).read(HISTORY[None]).shape == (1, 3, 2)


def test_baselines_alone():
    found = forecaster({"next": NOTHING, "ahead": NOTHING}).forecast(HISTORY, 5)
    assert found[:, 0].tolist() == [9] * 5
    # the first row of each two by its own rule; farther ones go on from what was predicted
    assert found[:, 1].tolist() == [91, 92, 92, 91, 91]


def test_networks_correct():
    closed = forecaster({"next": [[1, 0], [0, 0]], "ahead": [[1, 0], [0, 0]]}).forecast(HISTORY, 4)
    assert closed[:, 0].tolist() == [9.5, 10, 10.5, 11]
    assert closed[0, 1] == 91
    direct = forecaster({"next": [[0, 1], [0, 0.5]], "ahead": [[0, 1], [0, 0]]}).forecast(HISTORY, 4)
    assert direct[:, 0].tolist() == [9.5, 10, 10.5, 11]
    assert direct[:2, 1].tolist() == [96, 92]
    both = forecaster({"next": [[0.5, 0.25], [0, 0]], "ahead": NOTHING}).forecast(HISTORY, 1)
    assert both.tolist() == [[9 + 0.5 * 0.5 + 0.25 * 0.5, 91]]


def test_shapes():
    rules = {"next": [LastValue()], "ahead": [LastValue()]}
    weights = {kind: np.zeros((1, 2)) for kind in rules}
    one = Forecaster(["a"], 3, Window(2, None, np.ones(1)), rules, {}, weights)
    assert one.rows == 1
    assert one.forecast([1.0, 2]).tolist() == [2, 2, 2]
    assert one.forecast([[1.0], [2]], 2).tolist() == [[2], [2]]
    assert one.forecast([[[1.0], [2]], [[3], [4]]], 1).tolist() == [[[2]], [[4]]]


@pytest.mark.parametrize(
    ("history", "steps", "message"),
    [
        (HISTORY[:5], 1, "history must have at least 6 rows, got 5"),
        (HISTORY[:, 0], 1, "history must have shape"),
        (HISTORY, 0, "steps must be at least 1, got 0"),
        (np.where(HISTORY == 9, np.nan, HISTORY), 1, "a value is missing in the last 6 rows"),
    ],
)
def test_histories_that_are_refused(history, steps, message):
    with pytest.raises(ValueError, match=message):
        forecaster({"next": NOTHING, "ahead": NOTHING}).forecast(history, steps)


@pytest.fixture(scope="module")
def trained():
    """Return a task of three columns and its run."""
    task = Forecasting(series.three_columns(500), season="auto", columns=["t", "h", "l"])
    return task, recipes.series(task, progress=False)


def test_one_file_holds_all_of_it(trained, tmp_path):
    task, run = trained
    run.model.save(tmp_path / "f.safetensors", extra={"unit": "°C"})
    again = rc.load(tmp_path / "f.safetensors")
    assert isinstance(again, Forecaster)
    assert again.config() == run.model.config()
    history = task.series[:300]
    assert np.array_equal(again.forecast(history, 30), run.model.forecast(history, 30))
    assert rc.load_extra(tmp_path / "f.safetensors") == {"unit": "°C"}


def test_a_damaged_forecaster(tmp_path):
    from rnncore.files import save_arrays

    save_arrays(tmp_path / "f.safetensors", "model", {}, {"type": "Forecaster"})
    with pytest.raises(ValueError, match="is damaged"):
        rc.load(tmp_path / "f.safetensors")
    save_arrays(tmp_path / "f.safetensors", "model", {}, {"type": "Oracle"})
    with pytest.raises(ValueError, match="is damaged: 'Oracle'"):
        rc.load(tmp_path / "f.safetensors")


# --- how it is trained ---


def test_residuals():
    x = np.arange(100.0)[:, None] ** 2
    window = Window(4, None, x[:60].std(axis=0))
    left = Residuals(x, window, [LastValue()], 2, 60, 80, 16, 0.0)
    # from row t on the last value is off by 2t - 1 and 4t
    t = np.arange(4, 59)
    assert left.scale[:, 0] ** 2 == pytest.approx([np.mean((2 * t - 1) ** 2), np.mean((4 * t) ** 2)])
    assert left.y * left.scale[:, 0] == pytest.approx(np.stack([2 * t - 1, 4 * t], axis=1), rel=1e-6)
    batches = list(left.batches(np.random.default_rng(0)))
    assert [batch.x.shape for batch in batches] == [(16, 4, 1)] * 3  # of 55 windows
    ends = left.check_y * left.scale[:, 0]
    assert ends[[0, -1], 0] == pytest.approx([119, 155])  # rows 60 ... 78, of the validation part alone


def test_exact_baselines_leave_nothing():
    x = np.arange(100.0)[:, None]
    left = Residuals(x, Window(4, None, x.std(axis=0)), [Autoregression(1, (1,))], 1, 60, 80, 16, 0.0)
    assert not left.scale.any()
    assert not left.y.any()


@pytest.mark.parametrize("rows", [300, 5000, 60_000])
def test_validation_takes_a_fifth_of_the_time_at_most(rows):
    # a window costs three times as much in training as in validation
    x = series.walk(rows)[:, None]
    left = Residuals(x, Window(20, None, x.std(axis=0)), [LastValue()], 1, int(0.6 * rows), rows, 32, 0.0)
    assert len(left.x) <= 20_000
    assert len(left.check_x) <= 0.2 * 3 * left.every * 32
    assert 300 <= left.updates <= 1500


def test_the_held_out_part_decides_nothing(trained):
    task, run = trained
    other = task.series.copy()
    other[task.split :] = 1e3 * np.random.default_rng(0).normal(size=other[task.split :].shape)
    again = Forecasting(other, season="auto", columns=["t", "h", "l"])
    assert recipes.series(again, progress=False).model.config() == run.model.config()


def test_the_validation_part_is_not_trained_on():
    x = series.hourly(400)
    task = Forecasting(x, season=24)
    assert (task.stop, task.split) == (256, 320)
    other = x.copy()
    other[task.stop :] += np.random.default_rng(0).normal(size=len(x) - task.stop)
    again = Forecasting(other, season=24)
    for steps in (1, 24):
        rules, others = ([rule for rule, _ in t.compare(steps)[0]] for t in (task, again))
        assert rules == others


def test_what_was_tried_is_told(trained):
    choice = trained[1].choice
    assert (choice["season"], choice["window"]) == (24, 24)
    assert set(choice["best_update"]) == {"closed_loop", "direct"}
    for kind in ("next", "ahead"):
        for column in ("t", "h", "l"):
            chosen = choice[kind][column]
            assert {"last value", "last season", "AR(24)", "closed_loop", "direct"} <= set(chosen["tried"])
            assert chosen["validation_rmse"] <= 1.021 * min(chosen["tried"].values())
    history = trained[1].history
    assert set(history.metrics[len(history.loss)]) == {"direct"}


def test_options_reach_the_networks():
    task = Forecasting(series.logistic(300), ahead=2, window=5)
    options = {"cell": "lstm", "hidden_size": 5, "num_layers": 2, "dropout": 0.1, "noise": 0.1}
    run = recipes.series(task, steps=20, batch_size=8, lr=0.02, patience=3, progress=False, **options)
    layer = run.model.corrections["direct"].network.layers["rnn"]
    assert (type(layer), layer.hidden_size, layer.num_layers, layer.dropout) == (rc.LSTM, 5, 2, 0.1)
    assert run.model.window.rows == 5
    assert len(run.history.loss) <= 40


def test_one_row_ahead_takes_one_network():
    task = Forecasting(series.logistic(300), ahead=1, window=5)
    run = recipes.series(task, steps=50, progress=False)
    assert list(run.model.corrections) == ["closed_loop"]
    assert len(run.verdict(run.metrics)) == 1
    assert run.model.forecast(task.series[:100], 3).shape == (3, 1)


def test_with_nothing_held_out():
    task = Forecasting(series.hourly(300), season=24, held_out=0)
    run = recipes.series(task, steps=20, progress=False)
    assert task.span(model=run.model) == (run.model.rows, 300 - run.model.rows)
    assert task.forecast(run.model).shape == (300 - run.model.rows, 1)
    with pytest.raises(ValueError, match=rf"start must lie in {run.model.rows} \.\.\. 300"):
        task.forecast(run.model, run.model.rows - 1)
    assert run.metrics["rmse_24"] < run.metrics["last_value_24"]


def test_resumed(tmp_path):
    task = Forecasting(series.logistic(300), ahead=2)
    whole = recipes.series(task, steps=60, progress=False)
    options = {"checkpoint": tmp_path / "c.safetensors", "resume": True}
    first = recipes.series(task, steps=60, progress=False, checkpoints=options)
    again = recipes.series(task, steps=60, progress=False, checkpoints=options)
    assert first.model.config() == again.model.config() == whole.model.config()
    assert len(list(tmp_path.iterdir())) == 2  # one of each network


# --- what it is worth ---


def errors(x, **options):
    """Return a run, and for each column its errors as parts of others'.

    One row ahead of autoregression's, a season ahead of the better one of last value and last season.
    """
    task = Forecasting(x, season="auto", **options)
    run = recipes.series(task, progress=False)
    m, k = run.metrics, task.ahead
    pairs = []
    for column in task.columns:
        s = task.suffix(column)
        naive = min(m[f"last_value_{k}{s}"], m.get(f"seasonal_{k}{s}", np.inf))
        pairs.append((m[f"rmse_1{s}"] / m[f"autoregression_1{s}"], m[f"rmse_{k}{s}"] / naive))
    return run, np.array(pairs)


def test_temperatures():
    run, pairs = errors(series.hourly())
    assert run.task.season == 24
    assert (pairs <= [1.05, 0.95]).all()


def test_three_columns():
    _, pairs = errors(series.three_columns())
    assert (pairs[:, 0] <= 1.05).all()
    assert (pairs[:, 1] <= 1).all()


def test_a_sine_without_noise():
    run, _ = errors(series.sine())
    assert run.metrics["rmse_1"] < 1e-9
    assert run.metrics["rmse_24"] < 1e-9
    assert "No network was trained: the baseline makes no errors." in run.verdict(run.metrics)


def test_trend_and_season():
    run, pairs = errors(series.sales())
    assert run.task.season == 12
    assert (pairs <= [1.1, 0.6]).all()


def test_networks_help_where_nothing_is_linear():
    run, pairs = errors(series.logistic())
    assert (pairs < [0.2, 0.7]).all()
    assert run.model.weights["next"].sum() > 0.9
    assert any("closed loop network" in line for line in run.verdict(run.metrics))


def test_of_a_walk_the_run_says_that_nothing_helps():
    run, pairs = errors(series.walk())
    assert pairs[0, 0] <= 1.02
    lines = run.verdict(run.metrics)
    assert lines[0] == "No season was found in the training part; --season sets one."
    assert lines[1].startswith("1 row ahead, column 0: last value alone")


@pytest.mark.parametrize("rows", [12, 30, 60])
def test_short_series_have_the_best_baseline(rows):
    run, pairs = errors(series.sales(rows))
    assert not run.model.corrections
    assert any(line.startswith("No network was trained: ") for line in run.verdict(run.metrics))
    assert pairs[0, 0] <= 1.15
    assert np.isfinite(run.model.forecast(run.task.series)).all()


def test_a_forecast_that_loses_says_so_and_why(trained):
    run = trained[1]
    chosen = run.choice["ahead"]["t"]
    worse = run.metrics | {"seasonal_24_t": 0.5 * run.metrics["rmse_24_t"]}
    assert (
        f"24 rows ahead, t: the last season does better on the held-out rows, RMSE "
        f"{worse['seasonal_24_t']:.4g} against {worse['rmse_24_t']:.4g}. On the validation part, "
        f"which decides, it had {chosen['tried']['last season']:.4g} and the choice "
        f"{chosen['validation_rmse']:.4g}."
    ) in run.verdict(worse)


def test_too_far_ahead():
    task = Forecasting(series.walk(100), window=5, ahead=50, held_out=0.5)
    with pytest.raises(ValueError, match="50 rows ahead are more than half of the 50 rows to train on"):
        recipes.series(task, progress=False)


@pytest.mark.slow
def test_a_long_series_takes_seconds():
    began = time.perf_counter()
    _, pairs = errors(series.hourly(100_000))
    assert time.perf_counter() - began < 60
    assert (pairs <= [1.05, 0.9]).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [series.hourly, series.three_columns, series.sales])
def test_no_worse_than_what_takes_no_training(make, seed):
    run, pairs = errors(make(seed=seed + 1))
    assert (pairs[:, 0] <= 1.15).all()
    told = sum("does better" in line and "row ahead" not in line for line in run.verdict(run.metrics))
    assert told >= (pairs[:, 1] > 1.005).sum()
