"""Character language models: streams and words, n-grams, sampling, and the published outcomes."""

import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import rnncore as rc
from rnncore import recipes
from rnncore.tasks import CharLM, sampling
from rnncore.tasks.characters import END, cross_entropy, decode, default_text, encode, sample
from rnncore.tasks.ngrams import witten_bell

TEXT = "the cat sat on the mat, the rat sat on the cat; " * 20
SOLVED = ["vector", *["ectoaxg"] * 14]  # after "ecto" the first letter alone tells what comes


@pytest.fixture
def task():
    return CharLM(TEXT, batch_size=4, chunk=10)


# --- texts ---


def test_text_is_split_in_order(task):
    assert task.vocabulary == " ,;acehmnorst"
    assert decode(task.ids, task.vocabulary) == TEXT
    assert (len(TEXT), task.split) == (960, 864)


def test_chunks_follow_one_another_in_each_stream(task):
    batches = list(task.batches(np.random.default_rng(0)))
    first = int(np.random.default_rng(0).integers(10))  # where the epoch begins is drawn
    L = (task.split - 1 - first) // 4
    assert len(batches) == L // 10
    assert [batch.carry for batch in batches] == [False, *[True] * (len(batches) - 1)]
    x, y = (np.concatenate([batch[i] for batch in batches], axis=1) for i in (0, 1))
    for n in range(4):
        stream = TEXT[first + n * L :][: len(batches) * 10 + 1]
        assert decode(x[n], task.vocabulary) == stream[:-1]
        assert decode(y[n], task.vocabulary) == stream[1:]


def test_loss_is_that_of_one_long_stream():
    # one stream: no warm-up but the chunk before it, so the state can be followed by hand
    task = CharLM(TEXT, batch_size=1, chunk=25)
    model = task.model(6, dtype="float64", seed=1)
    ids = task.ids[task.split - 26 :]
    logits, _ = model.forward(ids[None, :-1])
    p = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(len(p)), ids[1:]])[25:].mean()
    assert task.loss(model) == pytest.approx(expected, rel=1e-12)


def test_held_out_streams_cover_the_end_once(task):
    V = len(task.vocabulary)
    seen = Counter()

    def forward(ids, state=None):
        seen.update(decode(ids.ravel(), task.vocabulary))
        return np.zeros((*ids.shape, V)), state

    assert task.loss(SimpleNamespace(forward=forward)) == pytest.approx(math.log(V))
    L = 96 // 4
    parts = [TEXT[864 + n * L - 11 : 864 + (n + 1) * L - 1] for n in range(4)]
    assert seen == Counter("".join(parts))


def test_metrics_of_a_text(task):
    metrics = task.evaluate(task.model(5, init="zeros"))
    V = len(task.vocabulary)
    assert metrics["validation_loss"] == pytest.approx(math.log(V), rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(V, rel=1e-6)
    assert metrics["bits_per_character"] == pytest.approx(math.log2(V), rel=1e-6)
    assert metrics["ngram_loss"] == witten_bell(task.ids, task.split, V, 6)


def test_first_weights_suit_one_hot_vectors(task):
    options = {"cell": "lstm", "embedding_size": None, "seed": 5}
    model, usual = task.model(16, **options), task.model(16, **options, init="default")
    for name, value in model.params.items():
        factor = {"rnn.weight_ih_l0": math.sqrt(13), "rnn.bias_ih_l0": 0}.get(name, 1)
        assert value == pytest.approx(factor * usual.params[name], rel=1e-6)
    options["embedding_size"] = 8
    embedded, usual = task.model(16, **options), task.model(16, **options, init="default")
    assert np.array_equal(embedded.params["rnn.weight_ih_l0"], usual.params["rnn.weight_ih_l0"])


def test_a_small_text_is_learnt(task):
    run = recipes.characters(task, steps=300, hidden_size=24, lr=0.01, progress=False)
    assert run.metrics["validation_loss"] < run.metrics["ngram_loss"] < 0.4
    assert list(run.history.metrics) == [100, 200, 300]
    for step, metrics in run.history.metrics.items():
        assert metrics["training_loss"] == pytest.approx(np.mean(run.history.loss[step - 100 : step]))


def test_the_training_part_by_itself(task):
    assert task.ngram_loss  # of the end held out, and kept
    part = task.training_part(100)
    assert decode(part.ids, task.vocabulary) == TEXT[:864]
    assert part.split == 764
    assert part.vocabulary == task.vocabulary
    assert part.ngram_loss == witten_bell(task.ids[:864], 764, 13, 6)
    assert task.split == 864
    with pytest.raises(ValueError, match="text must have 4 streams of 10 characters"):
        task.training_part(830)


def test_sizes_by_the_length_of_a_text():
    small, large = CharLM(TEXT), CharLM(TEXT * 320)
    assert (small.batch_size, small.chunk, large.chunk) == (8, 32, 64)
    assert list(small.model(4).layers) == ["embedding", "rnn", "head"]
    model = large.model(init="zeros")
    assert list(model.layers) == ["rnn", "head"]
    assert isinstance(model.layers["rnn"], rc.GRU)
    assert model.layers["rnn"].hidden_size == 256


def test_a_text_is_learnt_for_as_long_as_it_bears():
    task = CharLM(default_text()[:10_000])
    run = recipes.characters(task, hidden_size=48, lr=0.01, progress=False)
    choice = run.choice
    losses = choice["validation_losses"]
    assert losses[choice["best_update"]] == min(losses.values())
    assert max(losses) == choice["best_update"] + 10 * 50  # patience
    # half as long again, and on the validation part too
    assert choice["validation_characters"] == 900
    assert choice["updates"] == round(1.5 * choice["best_update"] * 9000 / 8100)
    assert len(run.history.loss) == choice["updates"]
    held_out = [metrics["validation_loss"] for metrics in run.history.metrics.values()]
    assert run.metrics["validation_loss"] == held_out[-1] <= 1.02 * min(held_out)
    assert run.metrics["validation_loss"] < run.metrics["ngram_loss"]
    assert run.verdict(run.metrics) == []


@pytest.mark.parametrize("stop", [2, 22])  # in the first training, and in the second
def test_a_stopped_run_goes_on(monkeypatch, tmp_path, stop):
    task = CharLM(TEXT, batch_size=4, chunk=10)
    options = {"hidden_size": 8, "lr": 0.05, "patience": 2, "progress": False}
    whole = recipes.characters(task, **options)
    assert 4 < len(whole.choice["validation_losses"]) < 20
    validate, calls = CharLM.validate, iter(range(100))

    def stopped(self, model):
        if next(calls) == stop:
            raise KeyboardInterrupt
        return validate(self, model)

    checkpoints = {"checkpoint": tmp_path / "c.safetensors", "checkpoint_every": 10, "resume": True}
    monkeypatch.setattr(CharLM, "validate", stopped)
    with pytest.raises(KeyboardInterrupt):
        recipes.characters(task, **options, checkpoints=checkpoints)
    monkeypatch.setattr(CharLM, "validate", validate)
    again = recipes.characters(task, **options, checkpoints=checkpoints)
    assert again.choice == whole.choice
    assert again.history.loss == whole.history.loss


def test_steps_that_are_given_are_made(task):
    run = recipes.characters(task, steps=25, hidden_size=8, progress=False)
    assert len(run.history.loss) == 25
    assert run.choice["updates"] == 25


def test_a_network_that_counting_beats_says_so(task):
    run = recipes.characters(task, steps=1, hidden_size=8, progress=False)
    (line,) = run.verdict({"validation_loss": 2.5, "ngram_loss": 2.1})
    assert line.startswith(
        "The network does not beat the n-gram model on the held-out text: 2.500 against 2.100"
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", [10_000, 30_000, 100_000])
def test_the_best_of_a_run_is_what_is_kept(size):
    run = recipes.characters(CharLM(default_text()[-size:]), progress=False)
    held_out = [metrics["validation_loss"] for metrics in run.history.metrics.values()]
    assert run.metrics["validation_loss"] <= 1.02 * min(held_out)


def test_default_text():
    task = CharLM()
    assert task.source == "pydoc_data.topics"
    assert len(task.ids) > 400_000
    assert {"T", "h", "e", " ", "\n"} <= set(task.vocabulary)
    assert abs(task.ngram_loss - 1.34) < 0.1  # 1.34 on the text of Python 3.11


def test_any_characters(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Ελλάδα 한국 🎶\n" * 30, encoding="utf-8")
    task = CharLM(path, batch_size=2, chunk=5)
    assert task.vocabulary == "".join(sorted(set("Ελλάδα 한국 🎶\n")))
    (text,) = sample(task.model(4), task.vocabulary, "한국", 5)
    assert text.startswith("한국")
    assert len(text) == 7


def test_configuration_makes_the_same_task(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    task = CharLM(path, batch_size=3, chunk=7, held_out=0.25, order=2)
    again = CharLM.from_config(**json.loads(json.dumps(task.config())))
    assert again.config() == task.config()
    assert np.array_equal(again.ids, task.ids)
    path.write_text(TEXT.replace("cat", "tac"), encoding="utf-8")
    with pytest.raises(ValueError, match="holds another text now"):
        CharLM.from_config(**task.config())
    with pytest.raises(ValueError, match="not read from a file"):
        CharLM.from_config(**CharLM(TEXT, chunk=9).config())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"text": ""}, ValueError, "text must have 8 streams of 32 characters and an end held out, got 0"),
        ({"text": "short"}, ValueError, "got 4 characters to train on and 1 held out"),
        ({"text": TEXT, "held_out": 0, "chunk": 1}, ValueError, "got 960 .* and 0 held out"),
        ({"held_out": 1.0}, ValueError, r"held_out must lie in \[0, 1\), got 1"),
        ({"text": TEXT, "batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"text": TEXT, "chunk": 2.5}, TypeError, r"chunk must be an integer, got 2\.5"),
        ({"text": TEXT, "order": 0}, ValueError, "order must be at least 1, got 0"),
        ({"text": []}, ValueError, "words must hold at least one word"),
        ({"text": ["a", ""]}, ValueError, r"words\[1\] must have characters, and no newline, got ''"),
        ({"text": ["a\nb"]}, ValueError, r"words\[0\] must have characters, and no newline"),
        ({"text": ["a", 3]}, TypeError, r"words\[1\] must be a string, got 3"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        CharLM(**arguments)


def test_files_that_are_no_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="is no UTF-8 text: byte 0xe9 in line 1 cannot be read"):
        CharLM(path)
    with pytest.raises(FileNotFoundError):
        CharLM(tmp_path / "none.txt")


def test_encode():
    assert encode("cab", "abc").tolist() == [2, 0, 1]
    assert decode(encode("cab", "abc"), "abc") == "cab"
    assert encode("", "abc").tolist() == []
    with pytest.raises(ValueError, match="'x' in 'axe' is not in the vocabulary: 'abe'"):
        encode("axe", "abe")


def test_cross_entropy():
    logits = np.array([[[0.0, math.log(3)], [800.0, 0.0]]])
    assert cross_entropy(logits, np.array([[1, 1]])) == pytest.approx(np.array([[math.log(4 / 3), 800]]))


# --- words ---


def test_words_and_the_newline_are_learnt_one_an_update():
    task = CharLM(["vector", "to"], batch_size=1)
    assert task.vocabulary == "\nceortv"
    batches = list(task.batches(np.random.default_rng(0)))
    read = []
    for x, y, lengths, carry, _ in batches:
        assert x.shape == y.shape == (1, 6)
        assert not carry
        read.append(
            (decode(x[0, : lengths[0]], task.vocabulary), decode(y[0, : lengths[0]], task.vocabulary))
        )
    assert read == [("vector", "ector\n"), ("to", "o\n"), ("\n", "\n")]


def test_losses_of_words():
    task = CharLM(["vector", "to"])
    model = task.model(5, init="lecun", dtype="float64", seed=2)
    expected = []
    for word in ("vector", "to", END):
        ids = encode(word + END, task.vocabulary)
        logits, _ = model.forward(ids[None, :-1])
        p = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=1, keepdims=True)
        expected.append(-np.log(p[np.arange(len(p)), ids[1:]]).sum())
    assert task.word_losses(model) == pytest.approx(expected, rel=1e-12)
    metrics = task.evaluate(model)
    assert metrics["word_loss"] == pytest.approx(np.mean(expected))
    assert metrics["perplexity"] == pytest.approx(math.exp(sum(expected) / 9))
    assert task.probabilities(model, ["to", "vectors"[:-1]]) == pytest.approx(
        np.exp([-expected[1], -expected[0]])
    )


def test_what_the_first_letters_leave_open():
    task = CharLM(["to", "to", "ten", "vector"])
    # of 5 words, the newline among them: twice to costs log(3/2), ten log 3, the others nothing
    assert task.ideal_word_loss == pytest.approx((2 * math.log(1.5) + math.log(3)) / 5)
    assert task.evaluate(task.model(3))["ideal_word_loss"] == task.ideal_word_loss
    assert CharLM(["ab", "ac"], held_out=0.5).ideal_word_loss == 0


def invented(count, seed=0):
    """Words of syllables."""
    rng = np.random.default_rng(seed)
    words = set()
    while len(words) < count:
        pairs = rng.choice(list("bdgklmnprst"), 4), rng.choice(list("aeiou"), 4)
        words.add("".join(map("".join, zip(*pairs, strict=True)))[: rng.integers(3, 9)])
    return sorted(words)


def above_ideal(words, bptt):
    run = recipes.words(CharLM(words), bptt=bptt, progress=False)
    return run.metrics["word_loss"] - run.metrics["ideal_word_loss"]


def test_full_backpropagation_learns_a_list():
    naive, full = (above_ideal(invented(20), bptt) for bptt in (1, "full"))
    assert full <= naive
    assert full < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(("count", "most"), [(80, 0.1), (200, 0.2), (300, 0.3)])
def test_full_backpropagation_learns_long_lists(count, most):
    naive, full = (above_ideal(invented(count), bptt) for bptt in (1, "full"))
    assert full <= naive
    assert full < most


def test_the_curve_of_words():
    run = recipes.words(CharLM(invented(40)), epochs=120, hidden_size=8, progress=False)
    steps = list(run.history.metrics)
    assert len(steps) == 60
    assert steps[-1] == len(run.history.loss) == 240
    assert run.metrics["word_loss"] == run.history.metrics[240]["word_loss"]


def test_the_tutorial_makes_an_update_after_every_word():
    with pytest.raises(ValueError, match=r"task\.batch_size must be 1, got 3"):
        recipes.tutorial_words(CharLM(["to", "on"]), progress=False)


def test_words_held_out():
    task = CharLM(["aa", "b", "ab", "ba"], held_out=0.5, batch_size=2)
    model = task.model(3, seed=0)
    assert [batch.lengths.tolist() for batch in task.batches(np.random.default_rng(0))] == [[2, 1], [1]]
    assert task.word_losses(model) == pytest.approx(task.word_losses(model, ["ab", "ba"]))


# --- the n-gram model ---


def brute_force(text, split, symbols, order):
    """The same model from counts in dictionaries."""
    counts = defaultdict(Counter)
    for t in range(split):
        for length in range(min(order - 1, t) + 1):
            counts[text[t - length : t]][text[t]] += 1

    def p(context, symbol):
        lower = p(context[1:], symbol) if context else 1 / symbols
        followed = counts[context]
        if not followed:
            return lower
        different, total = len(followed), sum(followed.values())
        return (followed[symbol] + different * lower) / (total + different)

    return -np.mean([math.log(p(text[max(t - order + 1, 0) : t], text[t])) for t in range(split, len(text))])


@pytest.mark.parametrize("order", [1, 2, 3, 6])
@pytest.mark.parametrize("split", [3, 50, 299])
def test_witten_bell(order, split):
    ids = np.random.default_rng(order).integers(4, size=300)
    text = decode(ids, "abcd")
    assert witten_bell(ids, split, 4, order) == pytest.approx(brute_force(text, split, 4, min(order, split)))


def test_ngrams_are_a_distribution():
    ids = np.array([0, 1, 0, 2, 0, 1, 1])
    p = [math.exp(-witten_bell(np.append(ids, c), len(ids), 4, 3)) for c in range(4)]
    assert sum(p) == pytest.approx(1)


# --- sampling ---

LOGITS = np.log([[0.5, 0.25, 0.15, 0.1], [0.1, 0.2, 0.3, 0.4]])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[0.5, 0.25, 0.15, 0.1], [0.1, 0.2, 0.3, 0.4]]),
        ({"temperature": 0.5}, [np.array([100, 25, 9, 4]) / 138, np.array([1, 4, 9, 16]) / 30]),
        ({"top_k": 1}, [[1, 0, 0, 0], [0, 0, 0, 1]]),
        ({"top_k": 2}, [[2 / 3, 1 / 3, 0, 0], [0, 0, 3 / 7, 4 / 7]]),
        ({"top_k": 9}, [[0.5, 0.25, 0.15, 0.1], [0.1, 0.2, 0.3, 0.4]]),
        ({"top_p": 0.01}, [[1, 0, 0, 0], [0, 0, 0, 1]]),
        ({"top_p": 0.6}, [[2 / 3, 1 / 3, 0, 0], [0, 0, 3 / 7, 4 / 7]]),
        ({"top_p": 1.0}, [[0.5, 0.25, 0.15, 0.1], [0.1, 0.2, 0.3, 0.4]]),
        ({"top_k": 3, "top_p": 0.6}, [[2 / 3, 1 / 3, 0, 0], [0, 0, 3 / 7, 4 / 7]]),
    ],
)
def test_distribution(options, expected):
    assert sampling.distribution(LOGITS, **options) == pytest.approx(np.array(expected))


def test_top_k_of_equals_takes_k():
    assert np.count_nonzero(sampling.distribution(np.zeros((1, 5)), top_k=2)) == 2


def test_samples_follow_the_model():
    # no weights but the head's bias: every symbol is drawn from one distribution
    model = rc.SequenceModel(4, 2, 4, init="zeros")
    model.params["head.bias"][...] = LOGITS[0]
    drawn = np.array(sampling.sample(model, [0], 50, count=400, seed=1))
    assert drawn.shape == (400, 50)
    share = np.bincount(drawn.ravel(), minlength=4) / drawn.size
    assert np.abs(share - [0.5, 0.25, 0.15, 0.1]).max() < 4 * math.sqrt(0.25 / drawn.size)
    limited = np.concatenate(sampling.sample(model, [0], 50, count=20, top_k=2))
    assert set(limited) == {0, 1}


def test_greedy_samples_are_what_the_model_predicts(task):
    model = task.model(8, seed=3)
    model.params["head.weight"][...] *= 20
    prompt = encode("the ", task.vocabulary)
    (drawn,) = sampling.sample(model, prompt, 12, top_k=1)
    logits, _ = model.forward(np.append(prompt, drawn)[None, :-1])
    assert drawn.tolist() == logits[0, 3:].argmax(axis=1).tolist()


def test_temperature_0_takes_the_likeliest(task):
    model = task.model(8, seed=3)
    greedy = sample(model, task.vocabulary, "the", 20, temperature=0)
    assert greedy == sample(model, task.vocabulary, "the", 20, top_k=1, seed=5)
    p = sampling.distribution(np.array([[1.0, 3, 2], [5, 5, 0]]), 0, top_k=3, top_p=0.9)
    np.testing.assert_array_equal(p, [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused(value):
    """They would give symbol 0 for ever."""
    logits = np.zeros((2, 3))
    logits[1, 2] = value
    for options in ({}, {"temperature": 0}, {"top_k": 1}, {"top_p": 0.5}):
        with pytest.raises(ValueError, match=rf"logits\[1, 2\] = {value}"):
            sampling.distribution(logits, **options)
    model = rc.SequenceModel(3, 2, 3)
    model.params["head.bias"][1] = value
    with pytest.raises(ValueError, match=rf"logits\[0, 1\] = {value}"):
        sample(model, "abc", "a", 5)


class Points:
    """Stands for a generator that draws these."""

    def __init__(self, *points):
        self.points = points

    def random(self, shape):
        return np.array(self.points).reshape(shape)


def test_a_symbol_of_probability_0_is_never_drawn():
    """Not at the edges of the unit interval, nor where the probabilities do not add up to 1."""
    last = np.nextafter(1, 0)
    p = np.array([[0.0, 0.5, 0.5, 0.0]] * 3)
    assert sampling._draw(p, Points(0, 0.5, last)).tolist() == [1, 2, 2]
    tenths = np.array([[0.1] * 10 + [0.0]])
    assert np.cumsum(tenths)[-1] < 1  # rounded
    assert sampling._draw(tenths, Points(last)).tolist() == [9]


def test_stop_is_the_last_token():
    model = rc.SequenceModel(3, 2, 3, init="zeros")
    whole = sampling.sample(model, [0], 30, count=40)
    stopped = sampling.sample(model, [0], 30, count=40, stop=2)
    for tokens, expected in zip(stopped, whole, strict=True):
        end = expected.tolist().index(2) + 1 if 2 in expected else 30
        assert tokens.tolist() == expected[:end].tolist()
    assert sum(tokens[-1] == 2 for tokens in stopped) > 30


def test_stop_ends_each_sample():
    model = rc.SequenceModel(3, 2, 3, init="zeros")
    samples = sample(model, "ab.", "a", 30, stop=".", count=50)
    whole = sample(model, "ab.", "a", 30, count=50)
    assert samples == [text.partition(".")[0] for text in whole]
    assert len({len(text) for text in samples}) > 3


def test_seed_decides_what_is_drawn(task):
    model = task.model(4)
    first, second, other = (sample(model, task.vocabulary, "the", 20, seed=s) for s in (1, 1, 2))
    assert first == second != other


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt": ""}, ValueError, "prompt must hold at least one token"),
        ({"prompt": "x"}, ValueError, "'x' in 'x' is not in the vocabulary"),
        ({"length": 0}, ValueError, "length must be at least 1, got 0"),
        ({"count": 0}, ValueError, "count must be at least 1, got 0"),
        ({"temperature": -1}, ValueError, r"temperature must lie in \[0, inf\), got -1"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
        ({"top_p": 0}, ValueError, r"top_p must lie in \(0, inf\), got 0"),
        ({"top_p": 1.5}, ValueError, r"top_p must lie in \(0, 1\], got 1.5"),
        ({"stop": "x"}, ValueError, "stop must be a character of the vocabulary 'ab', got 'x'"),
    ],
)
def test_sampling_that_makes_no_sense(options, error, message):
    with pytest.raises(error, match=message):
        sample(rc.SequenceModel(2, 3, 2), "ab", **{"prompt": "a", "length": 3} | options)


def test_samples_are_drawn_from_logits(task):
    """Also where the model predicts probabilities, whose logarithms may be -inf."""
    model = task.model(4)
    model.params["head.weight"][...] *= 500
    expected = sample(model, task.vocabulary, "the", 40, temperature=300.0)
    rc.Trainer(model, "cross_entropy")
    assert model.output_activation == "softmax"
    assert sample(model, task.vocabulary, "the", 40, temperature=300.0) == expected
    assert model.output_activation == "softmax"
    with pytest.raises(ValueError, match="a model to sample from must end in a softmax, got 'sigmoid'"):
        sample(rc.SequenceModel(2, 3, 2, output_activation="sigmoid"), "ab", "a", 3)


# --- the published worked example ---


@pytest.fixture(scope="module")
def example():
    content = json.loads(
        Path(__file__).with_name("golden").joinpath("words.json").read_text(encoding="utf-8")
    )
    return {name: np.array(value) for name, value in content.items() if name != "about"}


def by_hand(example, full):
    """Loss, states, logits and gradients of the worked example, step by step."""
    W_xh, W_hh, W_hy = (example[name] for name in ("W_xh", "W_hh", "W_hy"))
    states, logits, dlogits, loss = [np.zeros(4)], [], [], 0.0
    for token, target in zip(example["inputs"], example["targets"], strict=True):
        states.append(np.tanh(W_xh[:, token] + W_hh @ states[-1]))
        logits.append(W_hy @ states[-1])
        p = np.exp(logits[-1]) / np.exp(logits[-1]).sum()
        loss -= np.log(p[target])
        p[target] -= 1
        dlogits.append(p)
    dW_xh, dW_hh, dW_hy, db, dc = (np.zeros(shape) for shape in ((4, 7), (4, 4), (7, 4), 4, 7))
    from_next = np.zeros(4)
    dh, dh_raw = [], []
    for t in reversed(range(6)):
        dh.insert(0, W_hy.T @ dlogits[t] + from_next)
        dh_raw.insert(0, dh[0] * (1 - states[t + 1] ** 2))
        dW_xh[:, example["inputs"][t]] += dh_raw[0]
        dW_hh += np.outer(dh_raw[0], states[t])
        dW_hy += np.outer(dlogits[t], states[t + 1])
        db += dh_raw[0]
        dc += dlogits[t]
        if full:
            from_next = W_hh.T @ dh_raw[0]
    names = ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "head.weight", "head.bias")
    grads = dict(zip(names, (dW_xh, dW_hh, db, dW_hy, dc), strict=True))
    return loss, np.array(states[1:]), np.array(logits), np.array(dh), np.array(dh_raw), grads


def example_model(example):
    model = rc.SequenceModel(7, 4, 7, cell="rnn", bias="single", init="zeros", dtype="float64")
    weights = {"rnn.weight_ih_l0": "W_xh", "rnn.weight_hh_l0": "W_hh", "head.weight": "W_hy"}
    for name, published in weights.items():
        model.params[name][...] = example[published]
    return model


@pytest.mark.parametrize("bptt", [1, "full"])
def test_worked_example_against_a_computation_by_hand(example, bptt):
    loss, states, logits, _, _, grads = by_hand(example, bptt == "full")
    model = example_model(example)
    x, y = example["inputs"][None], example["targets"][None]
    assert np.abs(model.layers["rnn"].forward(x)[0][0] - states).max() < 1e-12
    assert np.abs(model.forward(x)[0][0] - logits).max() < 1e-12
    trainer = rc.Trainer(model, "cross_entropy", rc.SGD(lr=0.1), reduction="sum", bptt=bptt)
    assert trainer.step(x, y) == pytest.approx(loss, abs=1e-12)
    for name, grad in grads.items():
        assert np.abs(model.grads[name] - grad).max() < 1e-12, name


def test_worked_example_as_published(example):
    # 8 decimals were printed, of weights as well: 1.5 of the last place
    model = example_model(example)
    x, y = example["inputs"][None], example["targets"][None]
    rnn, head = model.layers["rnn"], model.layers["head"]
    h, _ = rnn.forward(x)
    assert np.abs(h[0] - example["h"]).max() < 1.5e-8
    logits = head.forward(h, training=True)[0]
    assert np.abs(logits - example["logits"]).max() < 1.5e-10
    trainer = rc.Trainer(model, "cross_entropy", rc.SGD(lr=0.1), reduction="sum", bptt=1)
    assert trainer.measure(x, y)[0] * 6 == pytest.approx(example["loss"], abs=1e-10)
    dlogits = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    dlogits[range(6), y[0]] -= 1
    dh = head.backward(dlogits[None])
    assert np.abs(dh[0] - example["dh_naive"]).max() < 1.5e-8
    before = np.zeros((1, 1, 4))
    for t in range(6):  # one step at a time, the gradient of its bias is dh_raw
        rnn.zero_grad()
        _, after = rnn.forward(x[:, t : t + 1], before, training=True)
        rnn.backward(dh[:, t : t + 1])
        assert np.abs(rnn.grads["bias_ih_l0"] - example["dh_raw_naive"][t]).max() < 1.5e-8
        before = after


# --- the published outcomes ---


def losses(run):
    """Mean losses of the words by iteration, from 0."""
    return [metrics["word_loss"] for metrics in run.history.metrics.values()]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_naive_backpropagation_learns_one_word(seed):
    run = recipes.tutorial_words(CharLM(["vector"], batch_size=1), seed, bptt=1, progress=False)
    assert 0.023 <= losses(run)[100] <= 0.025
    assert 0.0011 <= losses(run)[1000] <= 0.0012
    assert sample(run.model, run.task.vocabulary, "v", 20, stop=END, count=10, seed=seed) == ["vector"] * 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_only_full_backpropagation_solves_the_lag_at_once(seed):
    task = CharLM(SOLVED, batch_size=1)
    naive = recipes.tutorial_words(task, seed, 101, bptt=1, hidden_size=30, progress=False)
    assert losses(naive)[100] >= 0.25
    full = recipes.tutorial_words(task, seed, hidden_size=30, progress=False)
    assert losses(full)[100] <= 0.012
    assert losses(full)[1000] <= 0.0005
    assert task.probabilities(full.model, ["vector"]) >= 0.995


def test_a_byte_order_mark_is_no_character(tmp_path):
    text = "the cat sat on the mat. " * 20
    (tmp_path / "text.txt").write_text(f"\ufeff{text}", encoding="utf-8")
    plain = CharLM(text, batch_size=2, chunk=8)
    for marked in (f"\ufeff{text}", tmp_path / "text.txt"):
        task = CharLM(marked, batch_size=2, chunk=8)
        assert task.vocabulary == plain.vocabulary
        assert task.ids.tolist() == plain.ids.tolist()
        assert task.fingerprint() == plain.fingerprint()
    assert CharLM(["\ufeffab", "b"]).words == ("ab", "b")
    with pytest.raises(ValueError, match=r"words\[0\] must have characters"):
        CharLM(["\ufeff"])
