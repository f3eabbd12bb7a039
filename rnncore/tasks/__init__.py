"""Tasks: the data to learn from, a default model, and how well a model does."""

from rnncore.tasks.addition import BinaryAddition
from rnncore.tasks.characters import CharLM
from rnncore.tasks.task import Batch, Task

__all__ = ["Batch", "BinaryAddition", "CharLM", "Task"]
