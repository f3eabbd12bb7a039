"""Tasks: the data to learn from, a default model, and how well a model does."""

from rnncore.tasks.addition import BinaryAddition
from rnncore.tasks.characters import CharLM
from rnncore.tasks.forecaster import Forecaster
from rnncore.tasks.forecasting import Forecasting, NoisySine
from rnncore.tasks.problems import AddingProblem, EmbeddedReber, TemporalOrder
from rnncore.tasks.sequences import SequenceClassification, SequenceRegression
from rnncore.tasks.task import Batch, Task

__all__ = [
    "AddingProblem",
    "Batch",
    "BinaryAddition",
    "CharLM",
    "EmbeddedReber",
    "Forecaster",
    "Forecasting",
    "NoisySine",
    "SequenceClassification",
    "SequenceRegression",
    "Task",
    "TemporalOrder",
]
