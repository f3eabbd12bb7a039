"""The command line: what it prints and writes, and one line for whatever is wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import rnncore as rc
from rnncore import kernels, recipes, tasks

FILES = [
    "checkpoint.safetensors",
    "curves.png",
    "history.csv",
    "metrics.json",
    "model.safetensors",
    "run.json",
]


def test_the_installed_command():
    command = Path(sysconfig.get_path("scripts")) / "rnncore"
    result = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"{rc.__version__}\n"


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("RNNCORE_KERNELS", "rnncore: kernels 'v9' do not run here, expected one of numpy"),
        ("RNNCORE_NUM_THREADS", "rnncore: RNNCORE_NUM_THREADS must be a whole number of 1 ... 64, got 'v9'"),
    ],
)
def test_a_wrong_environment_is_one_line(variable, message):
    if variable == "RNNCORE_NUM_THREADS" and kernels.active.name == "numpy":
        pytest.skip("the NumPy kernels use one thread")
    command = Path(sysconfig.get_path("scripts")) / "rnncore"
    environment = os.environ | {variable: "v9"}
    result = subprocess.run([command, "info"], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_info(rnncore):
    result = rnncore("info")
    assert result.code == 0
    rows = dict(line.split(maxsplit=1) for line in result.out.splitlines())
    assert rows["rnncore"] == rc.__version__
    assert rows["kernels"] == f"{kernels.active.name}, of {', '.join(kernels.available())}"
    assert rows["Python"].endswith(f"NumPy {np.__version__}")
    assert list(rows) == ["rnncore", "kernels", "threads", "CPU", "Python"]


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "addition", "-h"]])
def test_help(rnncore, arguments):
    result = rnncore(*arguments)
    assert result.code == 0
    assert result.out.startswith("Usage: rnncore")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_shows_whole_sentences(rnncore, arguments):
    _, listed = rnncore(*arguments).out.split("Commands:\n")
    rows = re.findall(r"^  (\S+) +(.*(?:\n {6,}.*)*)", listed, re.M)
    assert len(rows) >= 7
    assert all(text.endswith(".") and "..." not in text for _, text in rows)


@pytest.mark.parametrize("arguments", [[], ["train"]])
def test_a_missing_command_shows_what_there_is(rnncore, arguments):
    result = rnncore(*arguments)
    assert result.code == 2
    assert "Commands:" in result.err


def test_train_addition(rnncore, tmp_path):
    result = rnncore("train", "addition")
    assert result.code == 0
    lines = result.out.splitlines()
    assert sum(line.endswith("  right") for line in lines) == 7
    assert lines[1:5] == [f"exact sums of {bits:>2} bits      100.00%" for bits in (8, 10, 16, 64)]
    assert lines[-1] == "written to runs/addition: model.safetensors, history.csv, metrics.json, curves.png"
    assert result.err == ""  # the progress bar is for terminals
    folder = tmp_path / "runs" / "addition"
    assert sorted(path.name for path in folder.iterdir()) == FILES

    for model in (folder, folder / "model.safetensors"):
        again = rnncore("evaluate", model)
        assert again == (0, "\n".join(lines[:5]) + "\n", "")


def test_the_sums_are_those_that_are_right(rnncore):
    lines = rnncore("train", "addition", "--steps", 1, "--out", "short").out.splitlines()[5:]
    for first, second, third in zip(lines[0:21:3], lines[1:21:3], lines[2:21:3], strict=True):
        a, _, b, _, found, verdict, *true = first.split()
        assert int(found) == int(second.split()[1], 2)
        assert int(a) + int(b) == int(third.split()[1], 2)
        assert (verdict == "right") == (int(found) == int(a) + int(b))
        assert [int(number) for number in true] in ([], [int(a) + int(b)])


def test_tutorial_recipe(rnncore, tmp_path):
    result = rnncore("train", "addition", "--recipe", "tutorial", "--steps", 201, "--seed", 3, "--out", "t")
    assert result.code == 0
    reports = [line for line in result.out.splitlines() if line.startswith("update")]
    assert [line.split()[1] for line in reports] == ["0", "100", "200"]
    assert json.loads((tmp_path / "t" / "metrics.json").read_text())["task"]["held_out"] == 0


@pytest.mark.parametrize("recipe", ["default", "tutorial"])
def test_quiet(rnncore, recipe):
    result = rnncore("train", "addition", "--quiet", "--steps", 2, "--recipe", recipe, "--out", "q")
    assert result.code == 0
    assert result.err == ""
    assert [line.split()[0] for line in result.out.splitlines()] == ["error", *["exact"] * 4, "written"]


def test_seed_decides(rnncore, tmp_path):
    for seed, out in [(1, "a"), (1, "b"), (2, "c")]:
        rnncore("train", "addition", "--quiet", "--steps", 3, "--seed", seed, "--out", out)
    a, b, c = ((tmp_path / out / "model.safetensors").read_bytes() for out in "abc")
    assert a == b != c


def test_without_matplotlib(rnncore, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = rnncore("train", "addition", "--quiet", "--steps", 2)
    assert result.code == 0
    assert result.out.splitlines()[-2:] == [
        "written to runs/addition: model.safetensors, history.csv, metrics.json",
        'no picture without matplotlib: pip install "rnncore[plot]"',
    ]
    assert not (tmp_path / "runs" / "addition" / "curves.png").exists()


def test_interruption(rnncore, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "addition", interrupted)
    assert rnncore("train", "addition") == (130, "", "\nrnncore: stopped\n")


# --- wrong input ---


def assert_refused(result, *words):
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("rnncore: ")
    assert result.err.count("\n") == 1
    for word in words:
        assert word in result.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["fly"], "fly"),
        (["--fast"], "--fast"),
        (["train", "subtraction"], "subtraction"),
        (["train", "addition", "--steps", "0"], "--steps"),
        (["train", "addition", "--steps", "many"], "many"),
        (["train", "addition", "--steps"], "--steps"),
        (["train", "addition", "--seed", "-1"], "--seed"),
        (["train", "addition", "--seed", "4294967296"], "--seed"),
        (["train", "addition", "--recipe", "grandmother"], "grandmother"),
        (["train", "addition", "extra"], "extra"),
        (["evaluate"], "MODEL"),
        (["evaluate", "nowhere"], "nowhere"),
    ],
)
def test_wrong_arguments(rnncore, arguments, word):
    assert_refused(rnncore(*arguments), word)


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_unwritable_out_is_found_before_training(rnncore, tmp_path, monkeypatch, out):
    monkeypatch.delattr(recipes, "addition")
    (tmp_path / "file").write_text("a file, not a folder")
    assert_refused(rnncore("train", "addition", "--out", out), out)
    assert (tmp_path / "file").read_text() == "a file, not a folder"


@pytest.fixture
def run(rnncore, tmp_path):
    """Return the folder of a short run."""
    rnncore("train", "addition", "--quiet", "--steps", 1, "--out", "run")
    return tmp_path / "run"


@pytest.mark.parametrize("command", ["evaluate", "sample", "forecast"])
def test_a_folder_without_a_model(rnncore, tmp_path, command):
    assert_refused(rnncore(command, tmp_path), f"the folder {tmp_path} has no model.safetensors")


def test_damaged_model(rnncore, run):
    content = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(content[:-4])
    assert_refused(rnncore("evaluate", run), "model.safetensors", "damaged")


def test_foreign_model(rnncore, run):
    save_file({"weight": np.zeros(3)}, run / "model.safetensors")
    assert_refused(rnncore("evaluate", run), "model.safetensors", "no model of rnncore")


def test_folder_without_model(rnncore, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_refused(rnncore("evaluate", "empty"), "model.safetensors")


def test_the_model_file_is_enough(rnncore, run):
    before = rnncore("evaluate", run)
    (run / "metrics.json").unlink()
    moved = (run / "model.safetensors").rename(run.parent / "moved")
    assert rnncore("evaluate", moved) == before
    assert before.code == 0


@pytest.mark.parametrize(
    "extra",
    [{}, {"task": 3}, {"task": {}}, {"task": {"name": "flying"}}, {"task": {"name": "addition", "bits": 99}}],
)
def test_models_that_tell_no_task(rnncore, run, extra):
    rc.load(run / "model.safetensors").save(run / "model.safetensors", extra)
    assert_refused(rnncore("evaluate", run), "model.safetensors", "task")


def test_model_of_another_task(rnncore, run):
    extra = rc.load_extra(run / "model.safetensors")
    rc.SequenceModel(3, 4, 1, input="dense").save(run / "model.safetensors", extra)
    assert_refused(rnncore("evaluate", run), "x must have shape")


# --- stopped runs ---


def test_a_stopped_run_is_resumed(rnncore, monkeypatch, tmp_path):
    whole = rnncore("train", "addition", "--quiet", "--steps", 60, "--out", "whole")

    def validate(self, model, before=tasks.BinaryAddition.validate):
        validate.calls += 1
        if validate.calls == 2:
            signal.raise_signal(signal.SIGINT)
        return before(self, model)

    validate.calls = 0
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal
    monkeypatch.setattr(tasks.BinaryAddition, "validate", validate)
    arguments = ("train", "addition", "--quiet", "--steps", 60, "--out", "stopped", "--resume")
    stopped = rnncore(*arguments, "--checkpoint-every", 7)
    signal.signal(signal.SIGINT, before)
    assert stopped.code == 130
    assert "checkpoint.safetensors: --resume goes on from there" in stopped.err
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == [
        "checkpoint.safetensors",
        "run.json",
    ]

    resumed = rnncore(*arguments)
    assert resumed.code == 0
    assert resumed.out == whole.out.replace("whole", "stopped")
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == FILES
    for name in ("history.csv", "metrics.json", "model.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_tutorial_recipe_has_no_checkpoints(rnncore):
    assert_refused(
        rnncore("train", "addition", "--recipe", "tutorial", "--resume"), "tutorial", "checkpoints"
    )


@pytest.mark.parametrize(
    "command",
    [
        ("chars", "--hidden", 8, "--batch", 4, "--chunk", 5),
        ("sine",),
        ("sine", "--recipe", "tutorial"),
        ("series",),
        ("adding-problem", "--length", 5),
        ("temporal-order", "--length", 20),
        ("reber",),
    ],
    ids=lambda command: " ".join(map(str, command)),
)
def test_every_training_command_is_resumed(rnncore, monkeypatch, tmp_path, command):
    arguments = ("train", *command, "--quiet", "--steps", 6, "--out")
    assert rnncore(*arguments, "whole").code == 0
    step = rc.Trainer.step
    calls = iter(range(4))

    def killed(*batch):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return step(*batch)

    with monkeypatch.context() as patch:
        patch.setattr(rc.Trainer, "step", killed)
        assert rnncore(*arguments, "stopped", "--checkpoint-every", 2).code == 130
    assert list((tmp_path / "stopped").glob("checkpoint*.safetensors"))
    assert rnncore(*arguments, "stopped", "--resume").code == 0
    for name in ("history.csv", "metrics.json", "model.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
