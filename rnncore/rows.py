"""Which rows of a packed batch belong to which step.

A batch of ragged sequences is *packed time-major*: the sequences are sorted by length, longest first, and
the array holds the rows of step 0 of every sequence that has one, then those of step 1, and so on. Steps
behind the end of a sequence do not exist, so nothing has to be masked and the cost follows the valid steps.
The rows of one step, and all rows of the batch, are one block for a matrix product. For several threads a
batch is laid out in shares, each packed like that: what a core fetches ahead of what it reads is its own.

Dimension letters, here and in all kernels: N sequences, T steps, M valid steps of the whole batch, D input
size, H hidden size, O output size, G gates of a cell, V vocabulary, R rows of a stage.
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


class Fragments(NamedTuple):
    """Sequences that begin anew at some of their steps, cut there: each fragment runs like a sequence.

    Attributes
    ----------
    lengths : ndarray of intp, shape (F,)
        Valid steps of each fragment.
    begins : ndarray of intp, shape (F,)
        Its first row in the caller's batch, taken as (N * T, ...).
    first, last : ndarray of intp, shape (N,)
        The first and the last fragment of each sequence.
    anew : ndarray of bool, shape (N,)
        Whether the state before the first fragment that is run is not the given one.
    """

    lengths: np.ndarray
    begins: np.ndarray
    first: np.ndarray
    last: np.ndarray
    anew: np.ndarray

    @classmethod
    def cut(cls, resets: np.ndarray, lengths: np.ndarray | None, last: bool) -> Fragments:
        """Cut sequences where resets (N, T) are true; keep the last fragment of each alone if `last`."""
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
        """Rows to lay out: N times a power of two, so that few plans serve any number of resets."""
        N = len(self.first)
        return N << max(-(-len(self.lengths) // max(N, 1)) - 1, 0).bit_length()

    def padded(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return lengths and begins of so many fragments, of which those that do not exist have no step."""
        missing = (0, count - len(self.lengths))
        return np.pad(self.lengths, missing), np.pad(self.begins, missing)


class Rows:
    """The layout of a packed batch of up to N sequences of up to T steps; all of them full at first.

    The arrays are allocated once and filled in place, so that a kernel may keep pointers to them.

    Parameters
    ----------
    N, T : int
        Number of sequences and capacity in steps.
    most : int
        Shares that there may be, of two rows at least.
    capacity : int, optional
        Packed rows that there is room for; N * T if not given. Fragments of fewer sequences need less.

    Attributes
    ----------
    order : ndarray of intp, shape (N,)
        Row n of every step is sequence ``order[n]`` of the caller's batch, or fragment ``order[n]`` of its
        sequences.
    begins : ndarray of intp, shape (N,)
        Step 0 of row n is row ``begins[n]`` of the caller's batch, taken as (N * T, ...).
    lengths : ndarray of intp, shape (N,)
        Valid steps of each row's sequence, descending.
    counts : ndarray of intp, shape (T,)
        Sequences that have step t: they are the rows 0 ... ``counts[t] - 1`` of the sorted batch.
    middle : ndarray of intp, shape (1,)
        The first row of the second half of the batch, which has about as many steps as the first one.
    bounds : ndarray of intp, shape (most + 1,)
        Share p has the rows ``bounds[p]`` ... ``bounds[p + 1] - 1``.
    offsets : ndarray of intp, shape (most, T + 1)
        Step t of row n of share p is packed row ``offsets[p, t] + n``; step T is the end of the share.
    sizes : ndarray of intp, shape (2,)
        M and the number of shares, for kernels.
    M, shares : int
        Valid steps of the whole batch, and the number of shares.
    full : bool
        All sequences have T steps, and so are in the caller's order.
    horizon : ndarray of intp, shape (3,)
        How far back a loss reaches, for the backward pass: k, phase, per sequence; see `truncate`.
    """

    def __init__(self, N: int, T: int, most: int = 1, capacity: int | None = None) -> None:
        self.N = N
        self.T = T
        self.capacity = N * T if capacity is None else capacity
        self.most = most = max(min(most, N // 2), 1)
        self.order = np.empty(N, np.intp)
        self.begins = np.empty(N, np.intp)
        self.lengths = np.empty(N, np.intp)
        self._before = np.zeros(N, np.intp)  # steps of all rows before
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
            Valid steps of each sequence, 0 ... T, in the caller's order; None: all T.
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
        """Lay out the batch in shares of about as many steps each; nothing has been packed yet.

        Parameters
        ----------
        shares : int
            1 ... most.
        """
        self.shares = shares
        self.sizes[:] = self.M, shares
        self.bounds[shares] = self.N
        if shares == 1:  # as at first for every batch of unequal lengths
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
        """Let the loss at step t reach the steps t-k+1 ... t alone, or with k = 0 all.

        With a loss at every step this takes k backward passes, of phase 0 ... k-1: each has the losses of the
        steps t = phase (mod k), and there the gradient from the step after is cut. So no step of any layer
        belongs to two of these losses. With one loss for each sequence, at its last step, one pass will do.
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
        """Return which row of the sorted batch and which of its steps each packed row is: (M,) each."""
        rows, steps = [], []
        for first, last in pairwise(self.bounds[: self.shares + 1]):
            step, row = np.nonzero(np.arange(self.T)[:, None] < self.lengths[first:last])
            rows.append(first + row)
            steps.append(step)
        return np.concatenate(rows), np.concatenate(steps)

    def origins(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which sequence and which step each packed row is, of the caller's batch: (M,) each."""
        rows, steps = self.steps()
        sequences, found = np.divmod(self.begins[rows] + steps, max(self.T, 1))
        return sequences, found

    def places(self) -> np.ndarray:
        """Return where each packed row comes among all of them in the caller's order: (M,)."""
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
        if self.full:  # packing is a transpose then, which takes a copy but no temporary array
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
            In the caller's order; zero where a sequence has no step.
        """
        if self.full:
            for sequences, steps in self._by_share(out, packed):
                sequences[...] = steps.swapaxes(0, 1)
        else:
            out[...] = 0
            out[self.origins()] = packed[: self.M]

    def _by_share(self, x: np.ndarray, packed: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the sequences of each share of a full batch, (n, T, ...), and its rows, (T, n, ...)."""
        for first, last in pairwise(self.bounds[: self.shares + 1].tolist()):
            rows = packed[first * self.T : last * self.T]
            yield x[first:last], rows.reshape(self.T, last - first, *packed.shape[1:])
