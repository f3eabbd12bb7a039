"""The n-gram model that a recurrent one has to beat."""

from __future__ import annotations

import numpy as np

__all__ = ["witten_bell"]


def witten_bell(ids: np.ndarray, split: int, symbols: int, order: int = 6) -> float:
    """Return the loss of an interpolated n-gram model on the end of a sequence, in nats a symbol.

    A context h that was followed n(h) times, by u(h) different symbols, leaves room for new ones::

        p(c | h) = (n(h c) + u(h) p(c | h')) / (n(h) + u(h)),    h' = h without its first symbol

    down to the empty context, behind which all symbols are equally likely. All counts are of the training
    part; the contexts of the first symbols held out reach into it.

    Parameters
    ----------
    ids : ndarray of int, (M,)
        Symbols 0 ... symbols - 1.
    split : int
        The model learns from ``ids[:split]`` and predicts ``ids[split:]``.
    symbols : int
        V.
    order : int, default 6
        Longest n-gram: order - 1 symbols of context.

    References
    ----------
    Witten & Bell, *The zero-frequency problem: estimating the probabilities of novel events in adaptive text
    compression*, 1991.
    """
    ids = np.asarray(ids, dtype=np.int64)
    p = np.full(len(ids) - split, 1 / symbols)
    contexts = np.zeros(len(ids), dtype=np.int64)  # the number of the context of each symbol
    for length in range(min(order, split)):
        # behind `length` symbols: those before have no such context
        _, grams = np.unique(contexts * symbols + ids[length:], return_inverse=True)
        learnt = split - length
        count = np.bincount(grams[:learnt], minlength=grams.max() + 1)
        followed = np.bincount(contexts[:learnt], minlength=contexts.max() + 1)
        first = np.unique(grams[:learnt], return_index=True)[1]  # where each gram occurs for the first time
        different = np.bincount(contexts[first], minlength=len(followed))
        h = contexts[learnt:]
        known = followed[h] > 0
        total = np.where(known, followed[h] + different[h], 1)
        p = np.where(known, (count[grams[learnt:]] + different[h] * p) / total, p)
        contexts = grams[:-1]
    return float(-np.log(p).mean())
