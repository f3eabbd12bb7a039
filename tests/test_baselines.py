"""Baselines of forecasting: their rules, how they are fitted and compared, and seasons that are found."""

import numpy as np
import pytest
import series

from rnncore.tasks.baselines import (
    Autoregression,
    LastSeason,
    LastValue,
    autoregressions,
    best,
    candidates,
    errors,
    find_season,
    from_plain,
    futures,
    histories,
    orders,
    plain,
    thin,
)

HISTORY = np.array([[1.0, 2, 3, 5], [0, 4, 2, 6]])


def test_rules():
    assert LastValue().forecast(HISTORY, 3).tolist() == [[5, 5, 5], [6, 6, 6]]
    assert LastSeason(3).forecast(HISTORY, 5).tolist() == [[2, 3, 5, 2, 3], [4, 2, 6, 4, 2]]
    # 5 + 0.5 · 3 + 1 = 7.5, 7.5 + 0.5 · 5 + 1 = 11
    assert Autoregression(1, (1, 0.5)).forecast(HISTORY, 2).tolist() == [[7.5, 11], [8, 12]]


def test_autoregressions_are_least_squares():
    x = 1e6 + series.autoregressive([1.2, -0.5], np.random.default_rng(0).normal(size=400))
    tried = [1, 2, 5, 12]
    rows = np.arange(12, 400)  # all orders are fitted to the same rows
    for order, found in zip(tried, autoregressions(x, tried), strict=True):
        A = np.stack([x[rows - k] - 1e6 for k in range(1, order + 1)] + [np.ones(len(rows))], axis=1)
        expected = np.linalg.lstsq(A, x[rows] - 1e6, rcond=None)[0]
        assert found.coefficients == pytest.approx(expected[:-1], abs=1e-6)
        shift = 1e6 * (1 - expected[:-1].sum())
        assert found.intercept == pytest.approx(expected[-1] + shift, rel=1e-4)


def test_an_autoregression_that_is_not_unique_predicts_nevertheless():
    x = series.sine(200)  # two lags tell all, thirty are linearly dependent
    for rule in autoregressions(x[:150], [2, 30]):
        forecast = rule.forecast(x[None, :150], 50)
        assert forecast[0] == pytest.approx(x[150:], abs=1e-6)
    (constant,) = autoregressions(np.full(50, 14.62), [3])
    assert constant.forecast(np.full((1, 3), 14.62), 4) == pytest.approx(14.62)


def test_only_the_latest_rows_are_fitted():
    rng = np.random.default_rng(0)
    late = series.autoregressive([0.5], rng.normal(size=20_000))
    (found,) = autoregressions(np.concatenate([rng.normal(0, 100, 5000), late]), [1])
    assert found.coefficients[0] == pytest.approx(0.5, abs=0.02)


def test_orders():
    assert orders(30, None) == [1, 2, 3, 4, 5, 6, 7]
    assert {24, 25, 48, 49, 100} <= set(orders(1000, 24))
    assert max(orders(10_000, 168)) == 337
    assert orders(2, 12) == [1]


def test_errors_and_the_best():
    x = np.tile([0.0, 1, 2, 4], 10)
    starts = np.arange(20, 37)
    assert errors([LastSeason(4), LastValue()], x, starts, 1) == [0, pytest.approx(np.sqrt(104 / 17))]
    ar = Autoregression(0, (1,))
    assert best([(LastValue(), 1.01), (ar, 1.0)]) == LastValue()  # as good, and simpler
    assert best([(LastValue(), 1.03), (ar, 1.0)]) == ar
    assert best([(LastValue(), 0.5), (ar, 1.0)], Autoregression) == ar


def test_candidates_know_only_what_they_are_given():
    x = series.hourly(400)
    rules = candidates(x[:300], 24)
    assert [str(rule) for rule in rules[:4]] == ["last value", "last season", "AR(1)", "AR(2)"]
    assert not any(isinstance(rule, LastSeason) for rule in candidates(x[:20], 24))
    again = [from_plain(**plain(rule)) for rule in rules]
    assert again == rules


def test_cuts():
    x = np.arange(10.0)
    starts = np.array([3, 5])
    assert histories(x, starts, 2).tolist() == [[1, 2], [3, 4]]
    assert futures(x, starts, 3).tolist() == [[3, 4, 5], [5, 6, 7]]
    assert thin(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert thin(np.arange(10), 10).tolist() == list(range(10))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("make", "season"),
    [
        (lambda seed: series.hourly(800, seed), 24),
        (lambda seed: series.three_columns(800, seed), 24),
        (lambda seed: series.sales(150, seed), 12),
        (lambda seed: series.sales(40, seed), 12),
        (lambda seed: series.sine(300), 24),
        (lambda seed: series.walk(800, seed), None),
        (lambda seed: np.random.default_rng(seed).normal(size=500), None),
        (lambda seed: np.arange(300.0), None),
        (lambda seed: np.full(300, 14.62), None),
        (lambda seed: np.arange(5.0), None),
    ],
)
def test_seasons(make, season, seed):
    x = make(seed)
    assert find_season(x.reshape(len(x), -1)) == season


@pytest.mark.parametrize("value", [0.1, 14.62, 0.0])
def test_what_does_not_vary_has_no_regression(value):
    """The deviation of equal numbers, as it is computed, may be 2e-15; their differences mean nothing."""
    for fitted in autoregressions(np.full(200, value), [1, 2]):
        np.testing.assert_allclose(fitted.coefficients, 0, atol=1e-20)
        assert fitted.intercept == pytest.approx(value, rel=1e-14)
