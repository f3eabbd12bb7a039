"""Which rows of a packed batch belong to which step.

A batch of ragged sequences is *packed time-major*: the sequences are sorted by length, longest first, and
the array holds the rows of step 0 of every sequence that has one, then those of step 1, and so on. Steps
behind the end of a sequence do not exist, so nothing has to be masked and the cost follows the valid steps.
The rows of one step, and all rows of the batch, are one block for a matrix product.

Dimension letters, here and in all kernels: N sequences, T steps, M valid steps of the whole batch, D input
size, H hidden size, O output size, G gates of a cell, V vocabulary, R rows of a stage.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

PAIR = 128  # bytes of two cache lines


def zeros(shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Return zeros from the boundary of a pair of cache lines on, as `numpy.zeros` does not.

    A vector register of 64 bytes then reads and writes one line at a time instead of two; and threads that
    have neighbouring rows seldom share a pair, which cores fetch together.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) if isinstance(shape, tuple) else shape
    memory = np.zeros(size * dtype.itemsize + PAIR, np.uint8)
    start = -memory.__array_interface__["data"][0] % PAIR
    return memory[start : start + size * dtype.itemsize].view(dtype).reshape(shape)


class Variable(NamedTuple):
    """An array and the gradient of the loss with respect to it.

    Attributes
    ----------
    value : ndarray
    grad : ndarray or None
        Same shape and dtype; None where nobody asks for it (token ids, inference).
    room : int
        Rows of memory before the first: in front of its outputs, a recurrent layer keeps its initial state.
    bounded : bool
        Whether no number is much larger than the others of its row, as of hidden states, in -1 ... 1.
    """

    value: np.ndarray
    grad: np.ndarray | None = None
    room: int = 0
    bounded: bool = False


class Rows:
    """The layout of a packed batch of up to N sequences of up to T steps; all of them full at first.

    The arrays are allocated once and filled in place, so that a kernel may keep pointers to them.

    Parameters
    ----------
    N, T : int
        Number of sequences and capacity in steps.

    Attributes
    ----------
    order : ndarray of intp, shape (N,)
        Row n of every step is sequence ``order[n]`` of the caller's batch.
    lengths : ndarray of intp, shape (N,)
        Valid steps of each row's sequence, descending.
    counts : ndarray of intp, shape (T,)
        Sequences that have step t: they are the rows 0 ... ``counts[t] - 1`` of the sorted batch.
    offsets : ndarray of intp, shape (T + 1,)
        Step t holds the packed rows ``offsets[t]`` ... ``offsets[t + 1] - 1``; ``offsets[T]`` is M.
    M : int
        Valid steps of the whole batch.
    full : bool
        All sequences have T steps, and so are in the caller's order.
    horizon : ndarray of intp, shape (3,)
        How far back a loss reaches, for the backward pass: k, phase, per sequence; see `truncate`.
    """

    def __init__(self, N: int, T: int) -> None:
        self.N = N
        self.T = T
        self.order = np.empty(N, np.intp)
        self.lengths = np.empty(N, np.intp)
        self.counts = np.empty(T, np.intp)
        self.offsets = np.zeros(T + 1, np.intp)
        self.horizon = np.zeros(3, np.intp)
        self.arrange(None)

    def arrange(self, lengths: np.ndarray | None) -> None:
        """Lay out a batch anew.

        Parameters
        ----------
        lengths : ndarray of integers, shape (N,), or None
            Valid steps of each sequence, 0 ... T, in the caller's order; None: all T.
        """
        self.lengths[:] = self.T if lengths is None else lengths
        self.order[:] = np.argsort(-self.lengths, kind="stable")
        self.lengths[:] = self.lengths[self.order]
        self.counts[:] = np.searchsorted(-self.lengths, -np.arange(self.T))
        np.cumsum(self.counts, out=self.offsets[1:])
        self.M = int(self.offsets[-1])
        self.full = self.M == self.N * self.T

    def truncate(self, k: int, per_sequence: bool) -> None:
        """Let the loss at step t reach the steps t-k+1 ... t alone, or with k = 0 all.

        With a loss at every step this takes k backward passes, of phase 0 ... k-1: each has the losses of the
        steps t = phase (mod k), and there the gradient from the step after is cut. So no step of any layer
        belongs to two of these losses. With one loss for each sequence, at its last step, one pass will do.
        """
        self.horizon[:] = k, 0, per_sequence

    def callers_lengths(self) -> np.ndarray:
        """Return the valid steps of each sequence, (N,), in the caller's order."""
        lengths = np.empty_like(self.lengths)
        lengths[self.order] = self.lengths
        return lengths

    def _origins(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which sequence and which step each packed row is, of the caller's batch: (M,) each."""
        step = np.repeat(np.arange(self.T), self.counts)
        return self.order[np.arange(self.M) - self.offsets[step]], step

    def gather(self, x: np.ndarray, out: np.ndarray) -> None:
        """Pack the valid steps of x into the first M rows of out.

        Parameters
        ----------
        x : ndarray, shape (N, T', ...)
            The caller's batch; T' may be less than T as long as no sequence is longer than T'.
        out : ndarray, shape (N * T, ...)
        """
        if self.full:  # packing is a transpose then, which takes a copy but no temporary array
            steps = out.reshape(self.T, self.N, *out.shape[1:])
            np.copyto(steps, x.swapaxes(0, 1), casting="unsafe")
        else:
            out[: self.M] = x[self._origins()]

    def scatter(self, packed: np.ndarray, out: np.ndarray) -> None:
        """Unpack the first M rows of packed: the inverse of `gather`.

        Parameters
        ----------
        packed : ndarray, shape (N * T, ...)
        out : ndarray, shape (N, T', ...)
            In the caller's order; zero where a sequence has no step.
        """
        if self.full:
            out[...] = packed.reshape(self.T, self.N, *packed.shape[1:]).swapaxes(0, 1)
        else:
            out[...] = 0
            out[self._origins()] = packed[: self.M]
