"""What becomes of a run: it is kept whatever happens behind it, resumed, and never lost by accident."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest

import rnncore as rc
from rnncore import pictures, recipes, tasks
from rnncore.tasks import CharLM

COMMAND = str(Path(sysconfig.get_path("scripts")) / "rnncore")
KEPT = "the trained model is kept in runs/{}/model.safetensors"
TEXT = "the cat sat on the mat, the rat sat on the cat; " * 20


def assert_model(folder, name):
    """A whole model that tells its task."""
    rc.load(folder / "runs" / name / "model.safetensors")
    assert rc.load_extra(folder / "runs" / name / "model.safetensors")["task"]["name"]
    assert (folder / "runs" / name / "history.csv").read_text().startswith("step,loss")


def one_line(result, code=2):
    assert result.code == code
    assert result.err.count("\n") == 1
    assert result.err.startswith("rnncore: ")
    return result.err


# --- what may happen when training is over ---


def test_nobody_reads_the_output(tmp_path):
    with start(COMMAND, "train", "adding-problem", "--length", "5", "--steps", "3", cwd=tmp_path) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 2
    assert errors == f"rnncore: Broken pipe; {KEPT.format('adding-problem')}\n"
    assert_model(tmp_path, "adding-problem")


def test_head(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    script = f'"{COMMAND}" train chars text.txt --batch 4 --chunk 10 --steps 3 | head -1'
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("960 characters, 13 different ones\n")
    assert "Traceback" not in done.stderr
    assert_model(tmp_path, "chars")


def test_a_closed_pipe_of_other_commands_is_silent():
    with start(COMMAND, "train", "--help") as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_a_terminal_without_the_letters(tmp_path):
    (tmp_path / "text.txt").write_text("Москва слезам не верит; " * 60, encoding="utf-8")
    done = subprocess.run(
        [COMMAND, "train", "chars", "text.txt", "--batch", "4", "--chunk", "10", "--steps", "200"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )
    assert r"\u0432\u0435\u0440\u0438\u0442" in done.stdout  # верит
    assert_model(tmp_path, "chars")


def test_ctrl_c_while_a_trained_model_is_measured(rnncore, monkeypatch, tmp_path):
    def interrupted(self, model):
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks.AddingProblem, "evaluate", interrupted)
    result = rnncore("train", "adding-problem", "--length", 5, "--steps", 2, "--quiet")
    assert result.code == 130
    assert KEPT.format("adding-problem") in result.err
    assert_model(tmp_path, "adding-problem")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("no font")])
def test_a_picture_that_fails(rnncore, monkeypatch, tmp_path, error):
    pytest.importorskip("matplotlib")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(pictures, "training_curves", fail)
    result = rnncore("train", "adding-problem", "--length", 5, "--steps", 2, "--quiet")
    message = one_line(result)
    assert KEPT.format("adding-problem") in message
    assert ("No space left" in message) or ("RuntimeError: no font" in message)
    assert ".part" not in message
    assert result.out.startswith("mean squared error")
    assert_model(tmp_path, "adding-problem")
    assert (tmp_path / "runs" / "adding-problem" / "metrics.json").exists()


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    script = "import rnncore.cli, rnncore.checkpoints\n"
    script += "def full(*_): raise OSError(28, 'No space left on device', 'checkpoint')\n"
    script += "rnncore.checkpoints.save_arrays = full\nrnncore.cli.main()\n"
    command = [sys.executable, "-P", "-c", script, "train", "adding-problem", "--length", "5", "--steps", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == (
        "rnncore: no checkpoint at the end of the run: [Errno 28] No space left on device: 'checkpoint'\n"
    )
    assert_model(tmp_path, "adding-problem")


def test_an_enormous_loss_has_an_infinite_perplexity(rnncore, monkeypatch, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.setattr(CharLM, "loss", lambda self, model: 800.0)
    result = rnncore("train", "chars", "text.txt", "--batch", 4, "--chunk", 10, "--steps", 2, "--quiet")
    assert result.code == 0
    assert "perplexity" in result.out
    about = json.loads((tmp_path / "runs/chars/metrics.json").read_text(), parse_constant=pytest.fail)
    assert about["metrics"]["perplexity"] is None
    assert about["metrics"]["bits_per_character"] == pytest.approx(800 / np.log(2))
    assert_model(tmp_path, "chars")


def test_each_run_of_words_is_kept(rnncore, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise RuntimeError("no font")

    monkeypatch.setattr(pictures, "training_curves", fail)
    result = rnncore("train", "words", "to", "--epochs", 1, "--quiet")
    assert "the trained model is kept in runs/words/bptt-1/model.safetensors" in one_line(result)


def test_pictures_alone_need_matplotlib(rnncore, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / "text.txt").write_text(TEXT)
    rnncore("train", "chars", "text.txt", "--batch", 4, "--chunk", 10, "--steps", 2, "--quiet")
    assert 'pip install "rnncore[plot]"' in one_line(rnncore("gradients", "runs/chars"))


# --- Ctrl-C, by its signal ---


def start(*arguments, **options):
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_ctrl_c_during_training(tmp_path):
    with start(COMMAND, "train", "adding-problem", "--steps", "1000000", cwd=tmp_path) as process:
        while not (tmp_path / "runs/adding-problem/run.json").exists():
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines() == [
        "runs/adding-problem/checkpoint.safetensors: --resume goes on from there",
        "",
        "rnncore: stopped",
    ]


@pytest.mark.parametrize("module", ["typing", "numpy", "rnncore.trainer", "rnncore.cli", "click", "tqdm"])
def test_ctrl_c_during_an_import(tmp_path, module):
    script = tmp_path / "rnncore"  # The installed command, with a signal sent at a chosen moment.
    script.write_text(
        f"""import os, signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from rnncore.cli import main
sys.exit(main())
"""
    )
    with start(sys.executable, "-P", script, "train", "addition", cwd=tmp_path) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "\nrnncore: stopped\n")


# --- runs that are resumed ---

SHORT = ("train", "adding-problem", "--length", 5, "--quiet", "--out", "run")


def stop_at(monkeypatch, update):
    step, calls = rc.Trainer.step, iter(range(1, update + 1))

    def stopped(*batch):
        if next(calls) == update:
            raise KeyboardInterrupt
        return step(*batch)

    return monkeypatch.context(), stopped


@pytest.fixture
def unfinished(rnncore, monkeypatch, tmp_path):
    """Leave a run of 6 updates that was stopped behind the fourth."""
    context, stopped = stop_at(monkeypatch, 5)
    with context as patch:
        patch.setattr(rc.Trainer, "step", stopped)
        assert rnncore(*SHORT, "--steps", 6, "--checkpoint-every", 2).code == 130
    return tmp_path / "run" / "checkpoint.safetensors"


def updates(tmp_path):
    return len((tmp_path / "run" / "history.csv").read_text().splitlines()) - 1


def test_an_unfinished_run_is_not_overwritten(rnncore, unfinished, tmp_path):
    before = unfinished.read_bytes()
    message = one_line(rnncore(*SHORT, "--steps", 6))
    assert "run/checkpoint.safetensors is of an unfinished run: --resume goes on" in message
    assert unfinished.read_bytes() == before
    assert rnncore(*SHORT, "--steps", 3, "--overwrite").code == 0
    assert updates(tmp_path) == 3
    assert "exclude each other" in one_line(rnncore(*SHORT, "--overwrite", "--resume"))


def test_a_finished_run_may_be_made_again(rnncore, tmp_path):
    for steps in (4, 2):
        assert rnncore(*SHORT, "--steps", steps).code == 0
        assert updates(tmp_path) == steps


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--length", 6], ["--length 5, not 6"]),
        (["--cell", "gru", "--seed", 3], ["--cell lstm, not gru", "--seed 0, not 3"]),
    ],
)
def test_a_run_is_resumed_with_the_options_it_had(rnncore, unfinished, options, words):
    before = unfinished.read_bytes()
    message = one_line(rnncore(*SHORT, "--steps", 6, *options, "--resume"))
    assert all(word in message for word in ("the run in run was begun with", *words))
    assert unfinished.read_bytes() == before


def test_a_changed_rate_is_refused(rnncore, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = ("train", "chars", "text.txt", "--batch", 4, "--chunk", 10, "--steps", 2, "--quiet")
    rnncore(*arguments)
    assert "--lr 0.003, not 0.01" in one_line(rnncore(*arguments, "--lr", 0.01, "--resume"))
    (tmp_path / "text.txt").write_text(TEXT[::-1])
    assert "was begun with FILE text.txt" in one_line(rnncore(*arguments, "--resume"))


def test_a_run_of_another_command(rnncore, unfinished):
    message = one_line(rnncore("train", "reber", "--out", "run", "--resume"))
    assert "holds a run of train adding-problem, not of train reber" in message


def test_a_finished_run_goes_on_with_more_steps(rnncore, tmp_path):
    rnncore(*SHORT, "--steps", 4)
    for _ in range(2):
        assert rnncore(*SHORT, "--steps", 7, "--resume").code == 0
        assert updates(tmp_path) == 7
    longer = (tmp_path / "run" / "model.safetensors").read_bytes()
    rnncore(*SHORT, "--steps", 7, "--overwrite")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == longer
    assert "has made 7 updates already" in one_line(rnncore(*SHORT, "--steps", 5, "--resume"))


@pytest.mark.parametrize("command", [("sine",), ("series",), ("temporal-order", "--length", 20), ("reber",)])
def test_every_run_may_be_made_longer(rnncore, tmp_path, command):
    arguments = ("train", *command, "--quiet", "--out", "run")
    assert rnncore(*arguments, "--steps", 20).code == 0
    assert rnncore(*arguments, "--steps", 60, "--resume").code == 0
    networks = 2 if command == ("series",) else 1
    assert updates(tmp_path) == 60 * networks


def test_resume_without_a_checkpoint_begins(rnncore, tmp_path):
    assert rnncore(*SHORT, "--steps", 2, "--resume").code == 0
    (tmp_path / "run" / "run.json").write_text("{")
    assert "run.json is damaged" in one_line(rnncore(*SHORT, "--steps", 2, "--resume"))


# --- the folder of several runs ---


def test_a_folder_of_runs(rnncore):
    rnncore("train", "words", "to", "on", "--epochs", 2, "--hidden", 3, "--quiet")
    both = rnncore("evaluate", "runs/words")
    assert both.code == 0
    one, full = (rnncore("evaluate", f"runs/words/{name}").out for name in ("bptt-1", "bptt-full"))
    assert both.out == f"bptt-1\n{one}bptt-full\n{full}"
    message = one_line(rnncore("sample", "runs/words"))
    assert "runs/words holds several runs: give one of runs/words/bptt-1, runs/words/bptt-full" in message
    rnncore("train", "words", "to", "--epochs", 1, "--bptt", "full", "--quiet", "--out", "single")
    assert rnncore("sample", "single", "--seed", 1) == rnncore("sample", "single/bptt-full", "--seed", 1)


def test_runs_can_be_moved(rnncore, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    rnncore(
        "train", "chars", "text.txt", "--batch", 4, "--chunk", 10, "--steps", 2, "--quiet", "--out", "run"
    )
    before = rnncore("evaluate", "run").out
    sampled = rnncore("sample", "run", "--prompt", "the").out
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "model.safetensors").rename(tmp_path / "elsewhere" / "my.safetensors")
    (tmp_path / "text.txt").rename(tmp_path / "elsewhere" / "text.txt")
    assert rnncore("sample", "elsewhere/my.safetensors", "--prompt", "the").out == sampled
    assert "text.txt" in one_line(rnncore("evaluate", "elsewhere/my.safetensors"))
    again = rnncore("evaluate", "elsewhere/my.safetensors", "--file", "elsewhere/text.txt")
    assert again.out == before
    gradients = rnncore("gradients", "elsewhere/my.safetensors", "--file", "elsewhere/text.txt")
    assert gradients.code == 0
    rnncore("train", "series", "--steps", 1, "--quiet")
    assert "is no model of a text" in one_line(
        rnncore("evaluate", "runs/series", "--file", "elsewhere/text.txt")
    )


def test_the_progress_bar_is_for_terminals(tmp_path):
    done = subprocess.run(
        [COMMAND, "train", "addition", "--steps", "3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    terminal, stderr = pty.openpty()
    termios.tcsetwinsize(stderr, (24, 80))
    subprocess.run([COMMAND, "train", "addition", "--steps", "3"], cwd=tmp_path, stderr=stderr, check=True)
    os.write(stderr, b"end")
    shown = b""
    while b"end" not in shown:
        shown += os.read(terminal, 10_000)
    assert b"3/3" in shown
    os.close(stderr)
    os.close(terminal)


def test_recipes_are_measured_after_they_are_written(monkeypatch, tmp_path):
    run = recipes.adding_problem(steps=1, length=5, progress=False)
    monkeypatch.setattr(tasks.AddingProblem, "evaluate", lambda self, model: {"mse": float("nan")})
    run.write(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == {"mse": None}
