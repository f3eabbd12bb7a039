"""Several stages in one call: a forward pass, or a whole training step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rnncore.reference._stage import Stage
from rnncore.reference.losses import Loss
from rnncore.reference.optimizers import Rule

__all__ = ["Forward", "Step", "get_num_threads", "num_threads_to_come", "set_num_threads"]


class Forward:
    """A forward pass through several stages in one call.

    Parameters
    ----------
    stages : list of Stage

    Attributes
    ----------
    shares : int
        Into how many shares to lay out a batch of these lengths: see `rnncore.rows.Rows.share`.
    """

    shares = 1

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = stages

    def pack(self) -> None:
        """Read the weights."""
        for stage in self.stages:
            stage.pack()

    def run(self) -> None:
        """Compute the outputs from the inputs."""
        for stage in self.stages:
            stage.forward()


class Step:
    """A whole training step in one call: forward, loss, backward, clipping, update.

    Parameters
    ----------
    stages : list of Stage
        Forward order; the last is the loss.
    buffers : list of ndarray, (count, N, width)
        Gradients of the states, zeroed before the backward pass.
    finals : list of ndarray, (count, N, width)
        The final states; `restore` takes a run back.
    rules : list of Rule
        One for each flat parameter, whose gradient is zeroed too.
    settings : ndarray of float64
        The optimizer's: ``settings[1]`` counts the updates.
    clip_norm, clip_value : float
        Infinity for none.

    Attributes
    ----------
    loss, norm : float
        Of the latest run: the loss, and the gradients' global norm before clipping.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        buffers: Sequence[np.ndarray],
        finals: Sequence[np.ndarray],
        rules: Sequence[Rule],
        settings: np.ndarray,
        *,
        clip_norm: float = math.inf,
        clip_value: float = math.inf,
    ) -> None:
        loss = stages[-1]
        assert isinstance(loss, Loss)
        self.stages, self.value = stages, loss.value
        self.buffers, self.rules, self.settings = buffers, rules, settings
        self.finals, self.finals_before = finals, [final.copy() for final in finals]
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.loss = self.norm = math.nan

    def run(self, first: bool = True, last: bool = True, factor: float = 1.0) -> float:
        """Make one update, unless the loss or the norm is not finite: then no parameter changes.

        An update from several batches is a run for each of them.

        Parameters
        ----------
        first : bool
            Zero the parameters' gradients before; otherwise this batch's are added to them.
        last : bool
            Change the parameters after.
        factor : float
            What the sum of all batches' gradients is multiplied by, in the last run.

        Returns
        -------
        float
            The loss before the update.
        """
        for final, before in zip(self.finals, self.finals_before, strict=True):
            before[...] = final
        self.gradients(first, factor if last else 1.0)
        if last and math.isfinite(self.loss) and math.isfinite(self.norm):
            self.update()
        return self.loss

    def restore(self) -> None:
        """Let the final states be what they were before the latest run."""
        for final, before in zip(self.finals, self.finals_before, strict=True):
            final[...] = before

    def gradients(self, first: bool, factor: float) -> None:
        """Run the network forward and back, and multiply the gradients so far by the factor."""
        horizon = self.stages[0].rows.horizon
        for stage in self.stages:
            stage.pack()
        if first:
            for rule in self.rules:
                rule.grad.fill(0)
        for phase in range(1 if horizon[2] else max(1, horizon[0])):
            horizon[1] = phase
            for stage in self.stages:
                stage.forward()
            for buffer in self.buffers:
                buffer.fill(0)
            for stage in reversed(self.stages):
                stage.backward()
            for stage in self.stages:
                stage.accumulate()
        if factor != 1:
            for rule in self.rules:
                rule.scale(factor)
        self.loss = float(self.value[0])
        self.norm = math.sqrt(sum(rule.sum_of_squares() for rule in self.rules))

    def update(self) -> None:
        """Clip the gradients and change the parameters by them."""
        factor = self.clip_norm / (self.norm + 1e-6)
        self.settings[1] += 1
        for rule in self.rules:
            if factor < 1:
                rule.scale(factor)
            if self.clip_value < math.inf:
                rule.clip(self.clip_value)
            rule.update()


def set_num_threads(count: int) -> None:
    """Check the number, and go on with one thread."""
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"count must be an integer, got {count!r}")
    if not 1 <= count <= 64:
        raise ValueError(f"count must be 1 ... 64, got {count}")


def get_num_threads() -> int:
    """Return 1."""
    return 1


num_threads_to_come = get_num_threads
