"""Which rows of a packed batch belong to which step.

A batch of ragged sequences is *packed time-major*: the sequences are sorted by length, longest first, and
the array holds the rows of step 0 of every sequence that has one, then those of step 1, and so on. For
example, the rows of sequences A, B, C with 3, 2 and 1 steps:

::

    packed row   0   1   2   3   4   5
                 A0  B0  C0  A1  B1  A2

Steps after the end of a sequence do not exist, so nothing has to be masked and the cost is proportional to
the valid steps. The rows of one step, and all rows of the batch, are one block for a matrix product. For
several threads, a batch is laid out in shares of whole sequences, each packed like that. The memory that a
core prefetches behind what it reads is then its own.

Dimension letters, here and in all kernels: N sequences, T steps, M valid steps of the whole batch, D input
size, H hidden size, O output size, G gates of a cell, V vocabulary, F fragments, R rows of a stage (M, or N
for output "last").
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Fragments", "Rows", "Variable", "zeros"]

PAIR = 128  # bytes of two cache lines


def zeros(shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Return zeros that begin at the boundary of a pair of cache lines, unlike those of `numpy.zeros`.

    A vector register of 64 bytes then reads or writes one cache line instead of two. And two threads with
    neighbouring rows seldom share a pair of lines, which cores fetch together.
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
        Same shape and dtype; None if it is not needed (token ids, inference).
    room : int
        Rows of memory before the first row; a recurrent layer keeps its initial state there, before its
        outputs.
    bounded : bool
        Whether no number is much larger than the others of its row, as in hidden states within -1 ... 1.
    """

    value: np.ndarray
    grad: np.ndarray | None = None
    room: int = 0
    bounded: bool = False


class Fragments(NamedTuple):
    """Sequences cut at the steps where they begin anew; each fragment then runs like a sequence.

    Attributes
    ----------
    lengths : ndarray of intp, shape (F,)
        Valid steps of each fragment.
    begins : ndarray of intp, shape (F,)
        First row of each fragment in the caller's batch, viewed as (N * T, ...).
    first, last : ndarray of intp, shape (N,)
        The first and the last fragment of each sequence.
    anew : ndarray of bool, shape (N,)
        Whether the first fragment of a sequence that is run begins anew, and not from the caller's state.
    """

    lengths: np.ndarray
    begins: np.ndarray
    first: np.ndarray
    last: np.ndarray
    anew: np.ndarray

    @classmethod
    def cut(cls, resets: np.ndarray, lengths: np.ndarray | None, last: bool) -> Fragments:
        """Cut sequences where resets (N, T) are true; if `last`, keep only the last fragment of each."""
        N, T = resets.shape
        ends = np.full(N, T, np.intp) if lengths is None else lengths
        begin = resets & (np.arange(T) < ends[:, None])
        anew = np.logical_or.reduce(begin[:, :1], axis=1)
        begin[:, :1] = True
        if last:
            first = T - 1 - begin[:, ::-1].argmax(axis=1)
            same = np.arange(N)
            return cls(ends - first, same * T + first, same, same, np.logical_or(anew, first > 0))
        sequences, steps = np.nonzero(begin)
        bounds = np.searchsorted(sequences, np.arange(N + 1))
        stops = np.append(steps[1:], 0)
        stops[bounds[1:] - 1] = ends
        return cls(stops - steps, sequences * T + steps, bounds[:-1], bounds[1:] - 1, anew)

    @property
    def room(self) -> int:
        """Rows to lay out: N times a power of two, so that a few plans serve any number of resets."""
        N = len(self.first)
        return N << max(-(-len(self.lengths) // max(N, 1)) - 1, 0).bit_length()

    def padded(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return lengths and begins of `count` fragments; those beyond the existing ones have no steps."""
        missing = (0, count - len(self.lengths))
        return np.pad(self.lengths, missing), np.pad(self.begins, missing)


class Rows:
    """The layout of a packed batch of N sequences of up to T steps; at first all of them have T steps.

    The arrays are allocated once and filled in place, so that a kernel may keep pointers to them.

    Parameters
    ----------
    N, T : int
        Number of sequences and capacity in steps.
    most : int
        Largest number of shares; fewer if each would have less than two rows.
    capacity : int, optional
        Number of packed rows that buffers have room for; N * T if not given. Where the N rows are fragments
        of fewer sequences, less is enough.

    Attributes
    ----------
    order : ndarray of intp, shape (N,)
        Row n of every step is sequence ``order[n]`` of the caller's batch, or fragment ``order[n]`` of its
        sequences.
    begins : ndarray of intp, shape (N,)
        Step 0 of row n is row ``begins[n]`` of the caller's batch, viewed as (N * T, ...).
    lengths : ndarray of intp, shape (N,)
        Valid steps of each row, in descending order.
    counts : ndarray of intp, shape (T,)
        Number of rows that have a step t; these are rows 0 ... ``counts[t] - 1`` of the sorted batch.
    middle : ndarray of intp, shape (1,)
        The first row of the second half of the batch; both halves have about the same number of steps.
    bounds : ndarray of intp, shape (most + 1,)
        Share p has rows ``bounds[p]`` ... ``bounds[p + 1] - 1``.
    offsets : ndarray of intp, shape (most, T + 1)
        Step t of row n of share p is packed row ``offsets[p, t] + n``; step T stands for the share's end.
    sizes : ndarray of intp, shape (2,)
        M and the number of shares, as an array that kernels read.
    M, shares : int
        Valid steps of the whole batch, and the number of shares.
    full : bool
        Whether all sequences have T steps; they are then in the caller's order.
    horizon : ndarray of intp, shape (3,)
        k, phase and per sequence: how far back a loss reaches in the backward pass; see `truncate`.
    """

    def __init__(self, N: int, T: int, most: int = 1, capacity: int | None = None) -> None:
        self.N = N
        self.T = T
        self.capacity = N * T if capacity is None else capacity
        self.most = most = max(min(most, N // 2), 1)
        self.order = np.empty(N, np.intp)
        self.begins = np.empty(N, np.intp)
        self.lengths = np.empty(N, np.intp)
        self._before = np.zeros(N, np.intp)  # number of steps of the rows before row n
        self.counts = np.empty(T, np.intp)
        self.middle = np.empty(1, np.intp)
        self.bounds = np.zeros(most + 1, np.intp)
        self.offsets = np.zeros((most, T + 1), np.intp)
        self.sizes = np.empty(2, np.intp)
        self.horizon = np.zeros(3, np.intp)
        self._whole = np.arange(N) * T
        self.arrange(None)

    def arrange(self, lengths: np.ndarray | None, fragments: Fragments | None = None) -> None:
        """Lay out a batch anew, in one share.

        Parameters
        ----------
        lengths : ndarray of integers, shape (N,), or None
            Valid steps of each sequence, 0 ... T, in the caller's order; None means that all have T.
        fragments : Fragments, optional
            Lay these out instead of whole sequences.
        """
        self.given = None if lengths is None else lengths.copy(), fragments
        begins = self._whole
        if fragments:
            lengths, begins = fragments.padded(self.N)
        self.lengths[:] = self.T if lengths is None else lengths
        self.order[:] = (-self.lengths).argsort(kind="stable")
        self.lengths[:] = self.lengths[self.order]
        self.begins[:] = begins[self.order]
        self.counts[:] = (-self.lengths).searchsorted(-np.arange(self.T))
        self._before[1:] = self.lengths[:-1].cumsum()
        self.M = int(self.counts.sum())
        self.full = self.M == self.N * self.T
        self.middle[0] = self._before.searchsorted((self.M + 1) // 2)
        self.share(1)

    def share(self, shares: int) -> None:
        """Lay out the batch in shares with about the same number of steps each, before anything is packed.

        Parameters
        ----------
        shares : int
            1 ... most.
        """
        self.shares = shares
        self.sizes[:] = self.M, shares
        self.bounds[shares] = self.N
        if shares == 1:  # a short cut for `arrange`, which every batch of unequal lengths passes through
            self.counts.cumsum(out=self.offsets[0, 1:])
            return
        self.bounds[1:shares] = self._before.searchsorted(np.arange(1, shares) * self.M / shares)
        first, last = self.bounds[:shares, None], self.bounds[1 : shares + 1, None]
        offsets = self.offsets[:shares]
        offsets[:, 0], steps = 0, offsets[:, 1:]
        np.subtract(self.counts, first, out=steps)
        np.minimum(np.maximum(steps, 0, out=steps), last - first, out=steps)
        steps.cumsum(axis=1, out=steps)
        begins = offsets[:, -1].cumsum() - offsets[:, -1]
        offsets += begins[:, None] - first

    def truncate(self, k: int, per_sequence: bool) -> None:
        """Let the loss at step t reach only steps t-k+1 ... t; k = 0 lets it reach all.

        With a loss at every step, this takes k backward passes, of phase 0 ... k-1. A pass has the losses of
        the steps t = phase (mod k), and cuts the gradient that comes to these steps from the step after. So
        in a pass each step of any layer belongs to one loss only. With one loss for each sequence, at its
        last step, a single pass is enough.
        """
        self.horizon[:] = k, 0, per_sequence

    def places_of_sequences(self, last: bool) -> np.ndarray:
        """Return the row of the first or the last fragment of each of the caller's sequences."""
        places = np.empty(self.N, np.intp)
        places[self.order] = np.arange(self.N)
        _, fragments = self.given
        if not fragments:
            return places
        chosen: np.ndarray = places[fragments.last if last else fragments.first]
        return chosen

    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the row of the sorted batch and the step of each packed row: two arrays (M,)."""
        rows, steps = [], []
        for first, last in pairwise(self.bounds[: self.shares + 1]):
            step, row = np.nonzero(np.arange(self.T)[:, None] < self.lengths[first:last])
            rows.append(first + row)
            steps.append(step)
        return np.concatenate(rows), np.concatenate(steps)

    def origins(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the caller's sequence and the step of each packed row: two arrays (M,)."""
        rows, steps = self.steps()
        sequences, found = np.divmod(self.begins[rows] + steps, max(self.T, 1))
        return sequences, found

    def places(self) -> np.ndarray:
        """Return the place of each packed row among all valid steps in the caller's order: (M,)."""
        rows, steps = self.steps()
        found = np.empty(self.M, np.intp)
        found[np.argsort(self.begins[rows] + steps)] = np.arange(self.M)
        return found

    def gather(self, x: np.ndarray, out: np.ndarray) -> None:
        """Pack the valid steps of x into the first M rows of out.

        Parameters
        ----------
        x : ndarray, shape (N, T', ...)
            The caller's batch; T' may be less than T as long as no sequence is longer than T'.
        out : ndarray, shape (N * T, ...)
        """
        if self.full:  # packing is then a transpose, which needs no temporary array
            for sequences, steps in self._by_share(x, out):
                np.copyto(steps, sequences.swapaxes(0, 1), casting="unsafe")
        else:
            out[: self.M] = x[self.origins()]

    def scatter(self, packed: np.ndarray, out: np.ndarray) -> None:
        """Unpack the first M rows of packed: the inverse of `gather`.

        Parameters
        ----------
        packed : ndarray, shape (N * T, ...)
        out : ndarray, shape (N, T', ...)
            The caller's order; zero where a sequence has no step.
        """
        if self.full:
            for sequences, steps in self._by_share(out, packed):
                sequences[...] = steps.swapaxes(0, 1)
        else:
            out[...] = 0
            out[self.origins()] = packed[: self.M]

    def _by_share(self, x: np.ndarray, packed: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each share of a full batch: its sequences (n, T, ...), and its packed rows (T, n, ...)."""
        for first, last in pairwise(self.bounds[: self.shares + 1].tolist()):
            rows = packed[first * self.T : last * self.T]
            yield x[first:last], rows.reshape(self.T, last - first, *packed.shape[1:])
