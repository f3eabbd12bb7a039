"""Series that tests of forecasting share, each with its own generator."""

import numpy as np


def autoregressive(coefficients, noise):
    """x[t] = noise[t] + Σ coefficients[k] x[t - 1 - k]."""
    x = np.zeros(len(noise))
    for t in range(len(noise)):
        x[t] = noise[t] + sum(a * x[t - 1 - k] for k, a in enumerate(coefficients) if t > k)
    return x


def hourly(rows=1200, seed=0):
    """Temperatures: a daily season of two harmonics, and weather."""
    rng = np.random.default_rng(seed)
    t = np.arange(rows)
    weather = autoregressive([0.97], rng.normal(0, 0.35, rows))
    day = 5 * np.sin(2 * np.pi * t / 24 - 2) + 1.2 * np.sin(4 * np.pi * t / 24)
    return 12 + day + weather + rng.normal(0, 0.15, rows)


def three_columns(rows=1200, seed=0):
    """Temperature, humidity and light."""
    rng = np.random.default_rng(seed)
    t = 2 * np.pi * np.arange(rows) / 24
    humidity = 60 - 10 * np.sin(t + 0.5) + autoregressive([0.8], rng.normal(0, 3, rows))
    light = np.maximum(0, np.sin(t - 1.5)) + autoregressive([0.9], rng.normal(0, 0.05, rows))
    return np.stack([hourly(rows, seed), humidity, light], axis=1)


def sine(rows=600):
    return 10 * np.sin(2 * np.pi * np.arange(rows) / 24)


def sales(rows=240, seed=0):
    """Months: a trend and a season."""
    t = np.arange(rows)
    return 100 + 0.8 * t + 20 * np.sin(2 * np.pi * t / 12) + np.random.default_rng(seed).normal(0, 4, rows)


def logistic(rows=1200, x=0.3):
    """The logistic map in its chaotic range, which a linear rule cannot predict."""
    series = np.empty(rows)
    for t in range(rows):
        series[t] = x
        x = 3.9 * x * (1 - x)
    return series


def walk(rows=1000, seed=0):
    return np.random.default_rng(seed).normal(size=rows).cumsum()
