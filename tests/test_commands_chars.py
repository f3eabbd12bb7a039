"""The commands for character language models."""

import json
import re
import sys

import pytest

from rnncore.tasks import CharLM

TEXT = "the cat sat on the mat, the rat sat on the cat; " * 20
FILES = ["model.safetensors", "history.csv", "metrics.json", "curves.png"]
SMALL = ["--batch", 4, "--chunk", 10, "--hidden", 8]


@pytest.fixture
def text(rnncore, tmp_path):
    """Write a text into the folder of the run."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return "text.txt"


def test_train_chars(rnncore, text, tmp_path):
    result = rnncore("train", "chars", text, *SMALL, "--steps", 30, "--cell", "gru", "--layers", 2)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == f"{tmp_path / text}: 960 characters, 13 different ones"
    for line, words in zip(
        lines[1:4], ["loss on the held-out text", "perplexity", "loss in bits"], strict=True
    ):
        assert re.fullmatch(rf"{words} +\d\.?\d*.* \(n-gram model: \d\.?\d*\)", line)
    assert result.out.count("\n\nt") == 1  # a sample that begins as the text does
    assert lines[-1] == f"written to runs/chars: {', '.join(FILES)}"

    folder = tmp_path / "runs" / "chars"
    task = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["task"]
    assert task["name"] == "chars"
    assert task["vocabulary"] == " ,;acehmnorst"
    again = rnncore("evaluate", folder)
    assert again == (0, "\n".join(lines[1:4]) + "\n", "")


def test_a_stopped_run_is_resumed(rnncore, text, monkeypatch, tmp_path):
    arguments = ["train", "chars", text, *SMALL, "--quiet", "--steps", 230]
    whole = rnncore(*arguments, "--out", "whole")
    validate = CharLM.validate

    def stopped(self, model):
        raise KeyboardInterrupt

    monkeypatch.setattr(CharLM, "validate", stopped)
    assert rnncore(*arguments, "--out", "stopped", "--checkpoint-every", 40).code == 130
    monkeypatch.setattr(CharLM, "validate", validate)
    assert rnncore(*arguments, "--out", "stopped", "--resume").out == whole.out.replace("whole", "stopped")
    for name in ("model.safetensors", "history.csv", "metrics.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_sample(rnncore, text):
    rnncore("train", "chars", text, *SMALL, "--steps", 2, "--quiet", "--out", "run")
    arguments = ["sample", "run", "--prompt", "the ", "--length", 20, "--count", 3]
    first = rnncore(*arguments)
    lines = first.out.splitlines()
    assert (first.code, first.err, len(lines)) == (0, "", 3)
    assert all(line.startswith("the ") and len(line) == 24 for line in lines)
    assert len(set(lines)) == 3
    assert rnncore(*arguments) == first
    assert rnncore(*arguments, "--seed", 1).out != first.out
    greedy = rnncore(*arguments, "--top-k", 1, "--temperature", 0.3, "--top-p", 0.9).out.splitlines()
    assert len(set(greedy)) == 1
    stopped = rnncore(*arguments, "--stop", "a").out.splitlines()
    assert stopped == ["the " + line[4:].partition("a")[0] for line in lines]


def test_gradients(rnncore, text, tmp_path):
    rnncore("train", "chars", text, *SMALL, "--steps", 2, "--quiet", "--out", "run")
    result = rnncore("gradients", "run", "--bptt", "full", "--bptt", 3)
    assert result.code == 0
    assert result.out.endswith("arrives 9 steps earlier; picture: gradients.png\n")
    assert (tmp_path / "gradients.png").read_bytes().startswith(b"\x89PNG")


def test_train_words_compares_how_far_the_gradient_goes(rnncore, tmp_path):
    result = rnncore("train", "words", "vector", "ectoaxg", "--epochs", 3, "--hidden", 5, "--out", "w")
    assert result.code == 0
    lines = result.out.splitlines()
    assert [line for line in lines if line.startswith("bptt")] == ["bptt-1", "bptt-full"]
    assert sum(line.startswith("  P(vector | v) = 0.") for line in lines) == 2
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["bptt-1", "bptt-full", "curves.png"]
    for name in ("bptt-1", "bptt-full"):
        assert sorted(path.name for path in (tmp_path / "w" / name).iterdir()) == sorted(FILES)
        again = rnncore("evaluate", f"w/{name}").out.splitlines()
        start = lines.index(name) + 1
        assert again == lines[start : start + 3]
        shown = [line.split("  ")[0] for line in again]
        assert shown == ["loss of a word", "perplexity", "loss in bits"]


def test_words_by_the_tutorial(rnncore):
    words = ["train", "words", "vector", "--recipe", "tutorial", "--quiet", "--bptt", 1]
    result = rnncore(*words, "--epochs", 101)
    assert result.code == 0
    loss = re.match(r"loss of a word +(\S+) nats", result.out.splitlines()[1])
    assert float(loss[1]) < 0.025
    assert "is an Elman network" in rnncore(*words, "--batch", 2).err
    assert "is an Elman network" in rnncore(*words, "--cell", "gru").err


def test_what_was_chosen_is_told(rnncore, text, tmp_path):
    result = rnncore("train", "chars", text, "--hidden", 8, "--quiet", "--verbose", "--patience", 1)
    assert result.code == 0
    shown = dict(line.split(": ", 1) for line in result.out.splitlines() if ": " in line)
    assert {"updates", "epochs", "best_update", "validation_losses"} <= set(shown)
    about = json.loads((tmp_path / "runs" / "chars" / "metrics.json").read_text(encoding="utf-8"))
    assert str(about["choice"]["updates"]) == shown["updates"]


def test_words_from_a_file_are_learnt(rnncore, tmp_path):
    (tmp_path / "words.txt").write_text("on\nno\n\nup\n", encoding="utf-8")
    result = rnncore("train", "words", "words.txt", "--bptt", "full", "--epochs", 300, "--quiet")
    assert result.code == 0
    metrics = json.loads((tmp_path / "runs/words/bptt-full/metrics.json").read_text(encoding="utf-8"))
    assert metrics["task"]["words"] == ["on", "no", "up"]
    assert metrics["metrics"]["word_loss"] < 0.05
    assert rnncore("sample", "runs/words/bptt-full").out == "on\n"  # the first letter of the first word
    assert rnncore("sample", "runs/words/bptt-full", "--prompt", "u", "--top-k", 1).out == "up\n"


def test_a_word_list_has_a_word_a_line(rnncore, tmp_path):
    content = "\ufeffMary Ann\r\n\r\nJo\tE\r\n tab \u2028\r\n"
    (tmp_path / "words.txt").write_bytes(content.encode())
    assert (
        rnncore("train", "words", "words.txt", "--bptt", 1, "--epochs", 1, "--quiet", "--out", "w").code == 0
    )
    metrics = json.loads((tmp_path / "w/bptt-1/metrics.json").read_text(encoding="utf-8"))
    assert metrics["task"]["words"] == ["Mary Ann", "Jo\tE", " tab \u2028"]


@pytest.mark.parametrize(("text", "begin"), [("ab\nc", "\n"), ("b c", " "), ("cb", "b")])
def test_a_sample_without_a_prompt(rnncore, tmp_path, text, begin):
    (tmp_path / "text.txt").write_text(text * 300, encoding="utf-8")
    rnncore("train", "chars", "text.txt", *SMALL, "--steps", 1, "--quiet", "--out", "run")
    result = rnncore("sample", "run", "--length", 5)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(begin)
    assert len(result.out) == 7  # the prompt, what continues it, and the end of the line
    greedy = rnncore("sample", "run", "--temperature", 0, "--count", 3, "--length", 5)
    assert greedy.out == 3 * rnncore("sample", "run", "--top-k", 1, "--length", 5).out


def test_without_matplotlib(rnncore, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert rnncore("train", "words", "to", "--epochs", 1, "--quiet", "--out", "w").code == 0
    assert not list((tmp_path / "w").rglob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["train", "chars", "nowhere.txt"], "nowhere.txt"),
        (["train", "chars", "latin.txt"], "latin.txt is no UTF-8 text"),
        (["train", "chars", "short.txt"], "text must have 8 streams of 32 characters"),
        (["train", "chars", "--bptt", "0"], "must be 'full' or a number of steps, got '0'"),
        (["train", "chars", "--cell", "brain"], "brain"),
        (["train", "chars", "--quiet", "--lr", "-1"], "lr must lie in"),
        (["train", "words"], "WORDS"),
        (["train", "words", ""], "words[0] must have characters"),
        (["train", "words", "empty.txt"], "words must hold at least one word"),
        (["train", "words", "to", "--bptt", "some"], "must be 'full' or a number of steps, got 'some'"),
        (["sample", "nowhere"], "nowhere"),
        (["sample", "run", "--prompt", "Q"], "'Q' in 'Q' is not in the vocabulary"),
        (["sample", "run", "--prompt", ""], "prompt must hold at least one token"),
        (["sample", "run", "--temperature", "-1"], "temperature must lie in [0, inf)"),
        (["sample", "run", "--top-p", "2"], "top_p must lie in (0, 1]"),
        (["sample", "run", "--stop", "ab"], "stop must be a character"),
        (["sample", "sums"], "is no character model"),
        (["gradients", "sums"], "is no model of a text"),
        (["gradients", "run"], "is no model of a text"),
    ],
)
def test_wrong_input_is_one_line(rnncore, tmp_path, arguments, word):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "short.txt").write_text("short", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    if "run" in arguments:
        rnncore("train", "words", "to", "--epochs", 1, "--quiet", "--bptt", 1, "--out", ".")
        (tmp_path / "bptt-1").rename(tmp_path / "run")
    if "sums" in arguments:
        rnncore("train", "addition", "--steps", 1, "--quiet", "--out", "sums")
    result = rnncore(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("rnncore: ")
    assert result.err.count("\n") == 1
    assert word in result.err


def test_a_text_that_changed_is_not_gone_on_with(rnncore, text, monkeypatch, tmp_path):
    arguments = ["train", "chars", text, *SMALL, "--quiet", "--steps", 230, "--out", "run"]
    validate = CharLM.validate

    def stopped(self, model):
        raise KeyboardInterrupt

    monkeypatch.setattr(CharLM, "validate", stopped)
    assert rnncore(*arguments, "--checkpoint-every", 40).code == 130
    monkeypatch.setattr(CharLM, "validate", validate)
    (tmp_path / text).write_text(TEXT.replace("c", "q"), encoding="utf-8")
    result = rnncore(*arguments, "--resume")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "the run in run was begun with FILE text.txt, checksum " in result.err
    (tmp_path / "run" / "run.json").unlink()  # the checkpoint tells it too
    result = rnncore(*arguments, "--resume")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "cannot be resumed: it is of a run with task.text = 'checksum " in result.err


def test_a_text_that_changed_is_not_evaluated_on(rnncore, text, tmp_path):
    rnncore("train", "chars", text, *SMALL, "--steps", 1, "--quiet", "--out", "run")
    (tmp_path / text).write_text(TEXT.upper(), encoding="utf-8")
    result = rnncore("evaluate", "run")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "holds another text now" in result.err


@pytest.mark.parametrize("word", ["words.txt", "lists/words", "../words"])
def test_a_missing_word_list_is_not_learnt_by_heart(rnncore, word):
    result = rnncore("train", "words", word, "--quiet")
    assert (result.code, result.out, result.err) == (2, "", f"rnncore: there is no file {word}\n")


def test_encodings(rnncore, tmp_path):
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        (tmp_path / "text.txt").write_bytes(("Die Füße, die Größe. " * 50).encode(encoding))
        told = ["--encoding", "cp1252"] if encoding == "cp1252" else []
        result = rnncore("train", "chars", "text.txt", *SMALL, *told, "--steps", 1, "--out", "run")
        assert result.out.startswith(f"{tmp_path}/text.txt: 1,050 characters, 13 different ones")
        assert rnncore("evaluate", "run").code == 0
    refused = rnncore("train", "chars", "text.txt", *SMALL, "--steps", 1)
    assert refused.code == 2
    assert refused.err.startswith(
        "rnncore: text.txt is no UTF-8 text: byte 0xfc in line 1 cannot be read: give"
    )
    (tmp_path / "words.txt").write_bytes("Füße\nÖl\n".encode("cp1252"))
    refused = rnncore("train", "words", "words.txt")
    assert (refused.code, refused.err.split(":")[1]) == (2, " words.txt is no UTF-8 text")
    assert rnncore("train", "words", "words.txt", "--encoding", "latin-1", "--epochs", 1).code == 0
