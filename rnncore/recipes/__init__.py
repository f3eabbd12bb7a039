"""Ready-made training runs: what the command line offers, as functions."""

from rnncore.recipes.addition import addition, tutorial_addition
from rnncore.recipes.characters import characters
from rnncore.recipes.forecaster import series
from rnncore.recipes.forecasting import network_series, sine, tutorial_sine
from rnncore.recipes.problems import adding_problem, reber, temporal_order
from rnncore.recipes.run import Run, WrittenTask
from rnncore.recipes.words import tutorial_words, words

__all__ = [
    "Run",
    "WrittenTask",
    "adding_problem",
    "addition",
    "characters",
    "network_series",
    "reber",
    "series",
    "sine",
    "temporal_order",
    "tutorial_addition",
    "tutorial_sine",
    "tutorial_words",
    "words",
]
