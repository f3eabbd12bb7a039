"""Character language models: a network reads a text and says what comes next."""

from __future__ import annotations

import copy
import functools
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnncore import checks, initializers, pictures
from rnncore.files import read_text
from rnncore.models import SequenceModel, Sequential
from rnncore.tasks import sampling
from rnncore.tasks.ngrams import witten_bell
from rnncore.tasks.task import Batch, digest, written

__all__ = ["END", "CharLM", "cross_entropy", "decode", "default_text", "encode", "one_hot", "read", "sample"]

DEFAULT_TEXT = "pydoc_data.topics"  # Python's language reference, which every CPython has
END = "\n"  # of a word
MARK = "\ufeff"  # with which some programs begin a file; no part of the text
# Sizes by the length of a text, in characters, chosen by the loss on texts of 10 kB to 1 MB.
SMALL_TEXT = 30_000  # up to here characters are embedded: fewer weights to learn
LARGE_TEXT = 300_000  # from here on chunks are twice as long


class CharLM:
    """The next character of a text, or of words that have nothing to do with each other.

    *A text* is read as `batch_size` contiguous streams in chunks of `chunk` steps; each chunk begins with the
    state that the one before ended with (truncated backpropagation through time). Where the first chunks
    begin is drawn anew for each epoch. What is held out is the text's end. The loss is the mean over
    characters, in nats.

    *Words* each begin with the zero state, and a newline ends them; the newline by itself is learnt as one
    more word. The loss of a word is the sum over its steps, ``-log P(word | its first character)``.

    Parameters
    ----------
    text : str, Path or iterable of str, optional
        A text, a file with a text, or words. If not given, the text is Python's own language reference
        (pydoc_data.topics), which differs a little from version to version.
    held_out : float, optional
        Part that training never sees: the last 10 % of a text; of words none.
    batch_size : int, optional
        N: 8 streams of a text, or 32 words an update (fewer of a shorter list).
    chunk : int, optional
        T of a text: 32, or 64 from 300,000 characters on.
    order : int, default 6
        Of the n-gram model to compare with; see `rnncore.tasks.ngrams`.
    encoding : str, optional
        Of the file; UTF-8 or UTF-16 if not given.

    Attributes
    ----------
    vocabulary : str
        All characters of text or words, sorted: the character of each token id.
    ids : ndarray of intp
        The text as token ids; empty for words.
    words : tuple of str
        Empty for a text.
    longest : int
        Number of characters of the longest word.
    split : int
        Number of characters, or of words, to train on: the first ones.

    Raises
    ------
    ValueError, TypeError
        For an argument out of its range, a file that is no UTF-8 text, or too few characters.
    OSError
        If a file cannot be read.
    """

    def __init__(
        self,
        text: str | Path | Iterable[str] | None = None,
        *,
        held_out: float | None = None,
        batch_size: int | None = None,
        chunk: int | None = None,
        order: int = 6,
        encoding: str | None = None,
    ) -> None:
        self.source: str | None = None
        self.encoding = encoding
        if text is None:
            self.source, text = DEFAULT_TEXT, default_text()
        elif isinstance(text, Path):
            self.source, text = str(text.resolve()), read(text, encoding)
        if isinstance(text, str):
            text = text.removeprefix(MARK)
        self.words = () if isinstance(text, str) else _words(text)
        characters = text if isinstance(text, str) else "".join([*self.words, END])
        self.longest = max(map(len, self.words), default=0)
        self.vocabulary = "".join(sorted(set(characters)))
        self.ids = encode("" if self.words else characters, self.vocabulary)
        # the newline is one more word
        default = (0.0, min(32, len(self.words) + 1)) if self.words else (0.1, 8)
        self.held_out = checks.real("held_out", default[0] if held_out is None else held_out, high=1.0)
        self.batch_size = checks.integer("batch_size", default[1] if batch_size is None else batch_size)
        self.order = checks.integer("order", order)
        size = len(self.words) or len(self.ids)
        self.split = size - math.ceil(self.held_out * size)
        self.chunk = checks.integer("chunk", (64 if size >= LARGE_TEXT else 32) if chunk is None else chunk)
        if not self.words:
            self._check_length()
        elif not self.split:
            raise ValueError(f"words must leave one to train on, got {size} with held_out {self.held_out:g}")

    def _check_length(self) -> None:
        """Raise unless the training part has a chunk of every stream, and something is held out."""
        held_out = len(self.ids) - self.split
        if (self.split - 1) // self.batch_size < self.chunk or not held_out:
            raise ValueError(
                f"text must have {self.batch_size} streams of {self.chunk} characters and an end held out, "
                f"got {self.split} characters to train on and {held_out} held out"
            )

    def training_part(self, validation: int) -> CharLM:
        """Return the task of the training part alone, whose end is held out in turn: to decide when to stop.

        Parameters
        ----------
        validation : int
            Number of characters to hold out.
        """
        part = copy.copy(self)
        part.__dict__.pop("ngram_loss", None)  # of another end
        part.ids = self.ids[: self.split]
        part.split = self.split - checks.integer("validation", validation)
        part._check_length()
        return part

    @classmethod
    def from_config(cls, vocabulary: str, **config: Any) -> CharLM:
        """Make a task again from its `config`; a text is read again from where it was."""
        if "words" in config:
            return cls(config.pop("words"), **config)
        source, checksum = config.pop("source"), config.pop("checksum")
        if source is None:
            raise ValueError("its text was not read from a file")
        task = cls(None if source == DEFAULT_TEXT else Path(source), **config)
        if task._checksum() != checksum:
            raise ValueError(f"{source} holds another text now")
        return task

    def config(self) -> dict[str, Any]:
        """Return what `from_config` takes, in plain types: the words, or where the text is to be found."""
        data: dict[str, Any] = {"source": self.source, "checksum": self._checksum()}
        if self.words:
            data = {"words": list(self.words)}
        options = ("held_out", "batch_size", "chunk", "order", "encoding")
        return {"vocabulary": self.vocabulary, **data, **{name: getattr(self, name) for name in options}}

    def __repr__(self) -> str:
        size = f"{len(self.words)} words" if self.words else f"a text of {len(self.ids):,}"
        options = {name: getattr(self, name) for name in ("held_out", "batch_size", "chunk", "order")}
        return written(self, size, f"{len(self.vocabulary)} different characters", **options)

    def fingerprint(self) -> dict[str, Any]:
        """Return what the batches depend on."""
        options = ("held_out", "batch_size", "chunk")
        data = {"text": digest(self.ids, self.vocabulary), "words": digest(self.words)}
        return {**data, **{name: getattr(self, name) for name in options}}

    def _checksum(self) -> int:
        return zlib.crc32(decode(self.ids, self.vocabulary).encode())

    def model(self, hidden_size: int | None = None, **options: Any) -> SequenceModel:
        """Return a network for the task: a GRU for a text, an Elman network for words.

        Parameters
        ----------
        hidden_size : int, optional
            256 for a text, 50 for words.
        options
            Arguments of `rnncore.SequenceModel`; a text of up to 30,000 characters has an `embedding_size` of
            64.
        """
        size, defaults = 256, dict[str, Any](cell="gru", init=one_hot)
        if len(self.ids) <= SMALL_TEXT:
            defaults["embedding_size"] = 64
        if self.words:
            size, defaults = 50, {"cell": "rnn", "bias": "single", "init": "normal"}
        V = len(self.vocabulary)
        return SequenceModel(V, size if hidden_size is None else hidden_size, V, **defaults | options)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the training part once, in its order, a text from one of its first characters on."""
        if self.words:
            words = [*self.words[: self.split], END]
            for start in range(0, len(words), self.batch_size):
                yield self._word_batch(words[start : start + self.batch_size])
            return
        N, T = self.batch_size, self.chunk
        first = int(rng.integers(min(T, self.split - N * T)))
        L = (self.split - 1 - first) // N
        x = self.ids[first : first + N * L].reshape(N, L)
        y = self.ids[first + 1 : first + N * L + 1].reshape(N, L)
        for start in range(0, L - T + 1, T):
            yield Batch(x[:, start : start + T], y[:, start : start + T], carry=start > 0)

    def _word_batch(self, words: Iterable[str]) -> Batch:
        """Return words with their ends as sequences padded to the longest of the task's."""
        words = list(words)
        lengths = np.array([len(word) for word in words])
        T = max(self.longest, lengths.max())
        x, y = np.zeros((2, len(words), T), dtype=np.intp)
        for n, word in enumerate(words):
            ids = encode(word + END, self.vocabulary)
            x[n, : len(word)], y[n, : len(word)] = ids[:-1], ids[1:]
        return Batch(x, y, lengths)

    def validate(self, model: Sequential) -> dict[str, float]:
        """Return the loss on what is held out; of words, if none is, on all."""
        if self.words:
            return {"word_loss": float(self.word_losses(model).mean())}
        return {"validation_loss": self.loss(model)}

    def evaluate(self, model: Sequential) -> dict[str, float]:
        """Return the loss in several units, beside that of the n-gram model.

        Returns
        -------
        dict
            Of a text "validation_loss" in nats a character, "perplexity", "bits_per_character" and
            "ngram_loss". Of words "word_loss" in nats a word, "perplexity" and "bits_per_character", and
            "ideal_word_loss".
        """
        metrics = self.validate(model)
        loss = metrics["validation_loss"] if not self.words else self._loss_of_character(model)
        metrics |= {
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "bits_per_character": loss / math.log(2),
        }
        reference = (
            {"ideal_word_loss": self.ideal_word_loss} if self.words else {"ngram_loss": self.ngram_loss}
        )
        return metrics | reference

    @property
    def ideal_word_loss(self) -> float:
        """The least mean loss, in nats a word, that a model which knows the list by heart can reach.

        Where k of n words with one first character are equal, each of them costs ``log(n / k)``.
        """
        learnt = [*self.words[: self.split], END]
        count, first = Counter(learnt), Counter(word[0] for word in learnt)
        return sum(math.log(first[word[0]] / count[word]) for word in learnt) / len(learnt)

    @functools.cached_property
    def ngram_loss(self) -> float:
        """Loss of the n-gram model on the end of the text, in nats a character."""
        return witten_bell(self.ids, self.split, len(self.vocabulary), self.order)

    def loss(self, model: Sequential) -> float:
        """Return the loss on the end of the text, in nats a character.

        It is read as several streams at once, each warmed up by the chunk of the text before it; of the last
        characters fewer than the streams are left out.
        """
        held_out = len(self.ids) - self.split
        N = min(self.batch_size, held_out)
        L = held_out // N
        starts = self.split + L * np.arange(N)[:, None]
        state, total = None, 0.0
        for begin in range(-self.chunk, L, self.chunk):
            places = starts + np.arange(begin, min(begin + self.chunk, L))
            logits, state = model.forward(self.ids[places - 1], state)
            if begin >= 0:
                total += float(cross_entropy(logits, self.ids[places]).sum())
        return total / (N * L)

    def word_losses(self, model: Sequential, words: Iterable[str] | None = None) -> np.ndarray:
        """Return the losses of words, -log P(word | its first character), (N,).

        Parameters
        ----------
        model : Sequential
        words : iterable of str, optional
            If not given, those held out; if none is, those to train on and the newline.
        """
        if words is None:
            words = self.words[self.split :] or (*self.words, END)
        x, y, lengths, *_ = self._word_batch(words)
        logits, _ = model.forward(x, lengths=lengths)
        assert lengths is not None
        valid = np.arange(x.shape[1]) < lengths[:, None]
        return np.where(valid, cross_entropy(logits, y), 0).sum(axis=1)

    def probabilities(self, model: Sequential, words: Iterable[str]) -> np.ndarray:
        """Return P(word | its first character) of words, the newline behind them included, (N,)."""
        return np.exp(-self.word_losses(model, words))

    def _loss_of_character(self, model: Sequential) -> float:
        """Return the loss of words in nats a character."""
        words = self.words[self.split :] or (*self.words, END)
        return float(self.word_losses(model, words).sum()) / sum(map(len, words))

    def draw(self, path: str | os.PathLike[str], metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Draw the loss over training into a PNG file.

        Parameters
        ----------
        path : path
        metrics : mapping of int to mapping of str to float
            What `validate` gave, by the number of updates until then; "training_loss" is drawn as well.
        """
        titles = {"training_loss": "training", "validation_loss": "held out", "word_loss": "loss"}
        curves = {
            title: [values[name] for values in metrics.values()]
            for name, title in titles.items()
            if all(name in values for values in metrics.values())
        }
        if self.words:
            label, title = "loss of a word, nats", f"{len(self.words)} words, character by character"
        else:
            curves[f"{self.order}-gram model, held out"] = [self.ngram_loss] * len(metrics)
            label, title = "loss of a character, nats", f"Language model of {len(self.ids):,} characters"
        panel = pictures.Panel(label, curves, logarithmic=bool(self.words))
        pictures.training_curves(path, title, list(metrics), [panel])


def one_hot(layers: Sequence[initializers.Initializable], rng: np.random.Generator) -> None:
    """Draw first weights for a text whose characters are one-hot vectors.

    As `initializers.default`, with two differences. Glorot's input weights count on V numbers coming in,
    where there is one: they are √V times as large. And no bias holds the forget gates open, since most of
    what matters is near.
    """
    initializers.default(layers, rng)
    first = layers[0].params
    if "weight_ih_l0" in first:  # behind an embedding the input is dense
        first["weight_ih_l0"][...] *= math.sqrt(first["weight_ih_l0"].shape[1])
    for layer in layers:
        for name, value in layer.params.items():
            if name.startswith("bias"):
                value[...] = 0


def default_text() -> str:
    """Return Python's own language reference."""
    from pydoc_data.topics import topics  # half a megabyte, so only when asked for

    return "\n".join(topics[name] for name in sorted(topics))


def read(path: Path, encoding: str | None = None) -> str:
    """Return the text of a file; see `rnncore.files.read_text`."""
    return read_text(path, encoding)[0]


def encode(text: str, vocabulary: str) -> np.ndarray:
    """Return the token ids (T,) of characters.

    Raises
    ------
    ValueError
        For a character that is not in the vocabulary.
    """
    unknown = sorted(set(text) - set(vocabulary))
    if unknown:
        raise ValueError(f"{unknown[0]!r} in {text[:20]!r} is not in the vocabulary: {vocabulary[:100]!r}")
    codes, known = (np.array([*map(ord, s)], dtype=np.intp) for s in (text, vocabulary))
    return np.searchsorted(known, codes)


def decode(ids: Iterable[int], vocabulary: str) -> str:
    """Return the characters of token ids (T,)."""
    return "".join(map(vocabulary.__getitem__, ids))


def sample(
    model: Sequential, vocabulary: str, prompt: str, length: int, *, stop: str | None = None, **options: Any
) -> list[str]:
    """Continue a text with what the model draws.

    Parameters
    ----------
    model : Sequential
    vocabulary : str
        Of the task that it was trained on.
    prompt : str
        At least one character to begin with.
    length : int
        Of a continuation, at most.
    stop : str, optional
        The character that ends a continuation, and is then left out.
    options
        count, temperature, top_k, top_p and seed; see `rnncore.tasks.sampling.sample`.

    Returns
    -------
    list of str
        `count` times the prompt, continued.
    """
    if stop is not None and (len(stop) != 1 or stop not in vocabulary):
        raise ValueError(f"stop must be a character of the vocabulary {vocabulary[:100]!r}, got {stop!r}")
    end = None if stop is None else vocabulary.index(stop)
    drawn = sampling.sample(model, encode(prompt, vocabulary), length, stop=end, **options)
    return [prompt + decode(ids, vocabulary).removesuffix(stop or "") for ids in drawn]


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return -log softmax(logits)[target] in nats.

    Parameters
    ----------
    logits : ndarray, (N, T, V)
    targets : ndarray of int, (N, T)

    Returns
    -------
    ndarray of float64, (N, T)
    """
    z = logits - logits.max(axis=2, keepdims=True)
    chosen = np.take_along_axis(z, targets[:, :, None], axis=2)[:, :, 0]
    log_sum: np.ndarray = np.log(np.exp(z).sum(axis=2, dtype=np.float64))
    return log_sum - chosen


def _words(words: Iterable[str]) -> tuple[str, ...]:
    """Return words as a tuple; each must have a character, and no end within."""
    found = tuple(words)
    if found and isinstance(found[0], str):
        found = (found[0].removeprefix(MARK), *found[1:])
    for i, word in enumerate(found):
        if not isinstance(word, str):
            raise TypeError(f"words[{i}] must be a string, got {word!r}")
        if not word or END in word:
            raise ValueError(f"words[{i}] must have characters, and no newline, got {word!r}")
    if not found:
        raise ValueError("words must hold at least one word")
    return found
