"""What the recurrent families share: the walk over a packed batch, the states, the weight gradients.

A running buffer of N rows holds the state. At step t its first ``counts[t]`` rows take part and are replaced;
the others wait, either still at their initial state (in the reverse direction, until their last step is
reached) or already at their final one. So both directions, and sequences of no step at all, need no case of
their own. The backward pass does the same with the gradient of the state, from the final to the initial one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rnncore.reference._stage import Stage, add_by_token, column_sums, gradient
from rnncore.rows import Rows, Variable

__all__ = ["Recurrent"]


class Recurrent(Stage):
    """One direction of a recurrent layer over a packed batch; a family adds `step` and `step_backward`.

    Parameters
    ----------
    rows : Rows
    x : Variable
        Input, (N*T, D); or token ids, (N*T,) intp, which pick columns of weight_ih.
    y : Variable
        Output h of every valid step, (N*T, H). Without a gradient nobody reads the single steps.
    weights : tuple of Variable
        weight_ih (G*H, D), weight_hh (G*H, H) and, where there are biases, bias_ih (G*H,), bias_hh (G*H,).
    initial, final : tuple of Variable
        State before the first and after the last step of each sequence, (N, H) each: h, or h and c.
    reverse : bool
        Walk from the last step of each sequence to its first.
    adds : bool
        Add to the gradient of x, which the other direction has filled before.

    Attributes
    ----------
    gates : ndarray, shape (N*T, G*H)
        The input's part of the pre-activations; after a step, what the family keeps for the backward pass.
    dz : ndarray, shape (N*T, G*H)
        Gradients of the pre-activations, filled by `backward` and read by `accumulate`.
    before : list of ndarray, shape (N*T, H) each
        The state that each step started from.
    """

    def __init__(
        self,
        rows: Rows,
        x: Variable,
        y: Variable,
        weights: Sequence[Variable],
        initial: Sequence[Variable],
        final: Sequence[Variable],
        reverse: bool,
        adds: bool,
    ) -> None:
        self.rows, self.x, self.y = rows, x, y
        self.weight_ih, self.weight_hh, *self.biases = weights
        self.initial, self.final = initial, final
        self.reverse, self.adds = reverse, adds
        GH, H = self.weight_hh.value.shape
        capacity, dtype = rows.capacity, self.weight_hh.value.dtype
        self.gates = np.empty((capacity, GH), dtype)
        self.dz = np.empty((capacity, GH), dtype)
        self.before = [np.empty((capacity, H), dtype) for _ in initial]

    def step(self, here: slice, *state: np.ndarray) -> Sequence[np.ndarray]:
        """Return the state (n, H) after the step whose packed rows are `here`, given the one before it."""
        raise NotImplementedError

    def step_backward(self, here: slice, *dstate: np.ndarray) -> Sequence[np.ndarray]:
        """Fill dz[here] and return the gradient of the state before the step, given that of the one after."""
        raise NotImplementedError

    def cut(self, t: int) -> slice | np.ndarray:
        """Return the rows for which step t gets no gradient from the step after it: see `Rows.truncate`."""
        k, phase, per_sequence = self.rows.horizon.tolist()
        if k and per_sequence:
            return self.rows.lengths == t + k + 1
        return slice(None) if k and t % k == phase else slice(0)

    def walk(self) -> list[slice]:
        """Return the packed rows of each step in the order of time, or of time reversed."""
        offsets = self.rows.offsets[0].tolist()
        steps = [slice(start, stop) for start, stop in pairwise(offsets) if start < stop]
        return steps[::-1] if self.reverse else steps

    def forward(self) -> None:
        """Fill y and the final state."""
        self.project()
        running = [state.value.copy() for state in self.initial]
        for here in self.walk():
            state = [buffer[: here.stop - here.start] for buffer in running]
            for before, now in zip(self.before, state, strict=True):
                before[here] = now
            for now, after in zip(state, self.step(here, *state), strict=True):
                now[...] = after
            self.y.value[here] = state[0]
        for final, buffer in zip(self.final, running, strict=True):
            final.value[...] = buffer

    def backward(self) -> None:
        """Fill the gradient of x, and add to that of the initial state."""
        M = self.rows.M
        running = [gradient(state.grad).copy() for state in self.final]
        for here in reversed(self.walk()):
            dstate = [buffer[: here.stop - here.start] for buffer in running]
            cut = self.cut(int(np.searchsorted(self.rows.offsets[0], here.start, side="right")) - 1)
            for buffer in running:
                buffer[cut] = 0
            if self.y.grad is not None:
                dstate[0] += self.y.grad[here]
            for after, before in zip(dstate, self.step_backward(here, *dstate), strict=True):
                after[...] = before
        if self.x.grad is not None:
            dx = self.dz[:M] @ self.weight_ih.value
            self.x.grad[:M] = self.x.grad[:M] + dx if self.adds else dx
        for initial, buffer in zip(self.initial, running, strict=True):
            if initial.grad is not None:
                initial.grad[...] += buffer

    def accumulate(self) -> None:
        """Add to the gradients of the weights: one product over all steps each."""
        M = self.rows.M
        x, dz = self.x.value[:M], self.dz[:M]
        dweight = gradient(self.weight_ih.grad)
        if x.ndim == 1:
            add_by_token(dweight.T, x, dz)
        else:
            dweight += dz.T @ x
        self.accumulate_hidden()
        for bias in self.biases[:1]:
            gradient(bias.grad)[...] += column_sums(dz)

    def accumulate_hidden(self) -> None:
        """Add to the gradients of weight_hh and bias_hh; their pre-activations are those of the input."""
        M = self.rows.M
        gradient(self.weight_hh.grad)[...] += self.dz[:M].T @ self.before[0][:M]
        for bias in self.biases[1:]:
            gradient(bias.grad)[...] += column_sums(self.dz[:M])

    def project(self) -> None:
        """Fill gates with W_ih x + b_ih of all steps; of a token, W_ih x is the column of its id."""
        M = self.rows.M
        x, weight = self.x.value[:M], self.weight_ih.value
        self.gates[:M] = weight.T[x] if x.ndim == 1 else x @ weight.T
        for bias in self.biases[:1]:
            self.gates[:M] += bias.value

    def recur(self, h: np.ndarray, units: slice = slice(None)) -> np.ndarray:
        """Return W_hh h + b_hh, the state's part of the pre-activations, (n, G*H), or some columns of it."""
        product = h @ self.weight_hh.value[units].T
        for bias in self.biases[1:]:
            product += bias.value[units]
        return product
