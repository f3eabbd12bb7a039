"""Sequences drawn from a language model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rnncore import checks
from rnncore.models import Sequential
from rnncore.network import Seed

__all__ = ["distribution", "sample"]


def distribution(
    logits: np.ndarray, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> np.ndarray:
    """Return the probabilities to draw from.

    Parameters
    ----------
    logits : ndarray, (N, V)
    temperature : float, default 1
        p ~ exp(logits / temperature): below 1 what is likely becomes likelier; 0 always takes the likeliest.
    top_k : int, optional
        Only the k likeliest symbols; 1 is the same as temperature 0.
    top_p : float, optional
        Only the likeliest symbols that together have at least this probability (Holtzman et al., *The curious
        case of neural text degeneration*, 2020). Applied after `top_k`.

    Returns
    -------
    p : ndarray of float64, (N, V)

    Raises
    ------
    ValueError
        If a logit is infinite or no number.
    """
    z = logits.astype(np.float64)
    for place in np.argwhere(~np.isfinite(z))[:1]:
        raise ValueError(f"logits{place.tolist()} = {z[tuple(place)]}: there is nothing to draw from")
    if temperature == 0:
        temperature, top_k = 1.0, 1
    z = (z - z.max(axis=1, keepdims=True)) / temperature
    order = np.argsort(-z, axis=1, kind="stable")  # the likeliest first
    if top_k is not None:
        np.put_along_axis(z, order[:, top_k:], -np.inf, axis=1)
    p = np.exp(z)
    p /= p.sum(axis=1, keepdims=True)
    if top_p is not None:
        sorted_p = np.take_along_axis(p, order, axis=1)
        before = np.cumsum(sorted_p, axis=1) - sorted_p
        np.put_along_axis(p, order, np.where(before < top_p, sorted_p, 0), axis=1)
        p /= p.sum(axis=1, keepdims=True)
    return p


def sample(
    model: Sequential,
    prompt: npt.ArrayLike,
    length: int,
    *,
    count: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: int | None = None,
    seed: Seed = 0,
) -> list[np.ndarray]:
    """Continue a sequence of tokens with what the model draws, again and again.

    Parameters
    ----------
    model : Sequential
        From tokens to the next one, at every step; an output activation other than softmax is refused.
    prompt : array_like of int, (T,)
        At least one token to begin with.
    length : int
        Of the continuation, at most.
    count : int, default 1
        Number of continuations, drawn at once.
    temperature, top_k, top_p
        See `distribution`.
    stop : int, optional
        The token that ends a continuation; it is the last one then.
    seed : int or numpy.random.Generator, default 0

    Returns
    -------
    list of ndarray of intp
        The continuations, without the prompt.

    Raises
    ------
    ValueError, TypeError
        For an argument out of its range, or where a logit of the model is infinite or no number.
    """
    begin = checks.integers("prompt", prompt, "tokens")
    checks.shape("prompt", begin, ("T",))
    if not begin.size:
        raise ValueError("prompt must hold at least one token")
    checks.integer("length", length)
    checks.integer("count", count)
    checks.real("temperature", temperature)
    if top_k is not None:
        checks.integer("top_k", top_k)
    if top_p is not None and checks.real("top_p", top_p, open_low=True) > 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p:g}")
    if model.output_activation not in (None, "softmax"):
        raise ValueError(f"a model to sample from must end in a softmax, got {model.output_activation!r}")
    rng = np.random.default_rng(seed)
    # a temperature acts on logits
    stream = Sequential(model.layers, input=model.input, output=model.output).stream(count)
    for token in begin:
        logits = stream.step(np.full(count, token))
    drawn = np.empty((count, length), dtype=np.intp)
    ends = np.full(count, length)
    for t in range(length):
        if t:
            logits = stream.step(drawn[:, t - 1])
        drawn[:, t] = _draw(distribution(logits, temperature, top_k, top_p), rng)
        if stop is not None:
            ends[(drawn[:, t] == stop) & (ends == length)] = t + 1
            if (ends <= t + 1).all():
                break
    return [tokens[:end] for tokens, end in zip(drawn, ends, strict=True)]


def _draw(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one symbol for each row of probabilities (N, V)."""
    bounds = np.cumsum(p, axis=1)
    # the rounded sum instead of 1: a symbol of probability 0 at the end must not be drawn
    points = rng.random((len(p), 1)) * bounds[:, -1:]
    symbols: np.ndarray = (bounds <= points).sum(axis=1)
    return symbols
