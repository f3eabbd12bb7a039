"""What all tasks share: how they are written."""

import numpy as np
import pytest

from rnncore import tasks

X = np.zeros((10, 4, 3))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (tasks.BinaryAddition(4, seed=2), "BinaryAddition(bits=4, held_out=0.2, batch_size=64, seed=2)"),
        (tasks.AddingProblem(9), "AddingProblem(length=9, batch_size=50, seed=0)"),
        (tasks.TemporalOrder(), "TemporalOrder(length=50, symbols=3, batch_size=50, seed=0)"),
        (tasks.EmbeddedReber(), "EmbeddedReber(batch_size=1, longest=50, seed=0)"),
        (
            tasks.NoisySine(3),
            "NoisySine(101 rows of 1 column, seed=3, noise=0.1, batch_size=30, carry=False)",
        ),
        (
            tasks.Forecasting(np.zeros((90, 2)), window=5),
            "Forecasting(90 rows of 2 columns, window=5, horizon=1, output='last', held_out=0.2, "
            "season=None, ahead=5, noise=0.0, batch_size=32)",
        ),
        (
            tasks.CharLM("ab" * 5000),
            "CharLM(a text of 10,000, 2 different characters, held_out=0.1, batch_size=8, chunk=32, order=6)",
        ),
        (
            tasks.CharLM(["ab", "c"]),
            "CharLM(2 words, 4 different characters, held_out=0.0, batch_size=3, chunk=32, order=6)",
        ),
        (
            tasks.SequenceRegression(X, X[:, 0, 0]),
            "SequenceRegression(8 sequences to learn from, 2 to test on, input='dense', input_size=3, "
            "batch_size=32)",
        ),
        (
            tasks.SequenceClassification([[0, 3], [1]], ["a", "b"], held_out=0),
            "SequenceClassification(2 sequences to learn from, 2 to test on, input='tokens', input_size=4, "
            "batch_size=32)",
        ),
    ],
)
def test_repr(task, expected):
    assert repr(task) == expected
