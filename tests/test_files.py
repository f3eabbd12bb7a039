"""Files are written whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import rnncore as rc
from rnncore.files import replacing


def test_a_whole_file_takes_its_place(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def fail_midway(path):
    with replacing(path) as part:
        part.write_text("ne")
        raise RuntimeError("midway")


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="midway"):
        fail_midway(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "nowhere" / "a.txt") as part:
        part.write_text("new")


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    with (
        pytest.raises(OSError, match=rf"No such file .*'{tmp_path}/nowhere/a\.txt'$"),
        replacing(tmp_path / "nowhere" / "a.txt") as part,
    ):
        part.write_text("new")
    with pytest.raises(OSError, match="other"), replacing(tmp_path / "a.txt"):
        Path("other").read_text()


# --- what else a model file holds ---


@pytest.fixture
def model():
    return rc.SequenceModel(3, 4, 2, input="dense")


def test_extra_comes_back_as_it_was(tmp_path, model):
    extra = {
        "task": {
            "name": "series",
            "columns": ["a", "é"],
            "series": np.arange(6.0).reshape(2, 3),
            "season": None,
        },
        "ids": [np.array([1, 2], np.intp), {"nested": np.array([[0.1]])[:, ::-1]}],
        "order": 7,
    }
    model.save(tmp_path / "m", extra)
    found = rc.load_extra(tmp_path / "m")
    assert found["task"]["series"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["ids"][0].dtype == np.intp
    assert found["ids"][0].tolist() == [1, 2]
    assert found["ids"][1]["nested"].tolist() == [[0.1]]
    assert (found["order"], found["task"]["columns"], found["task"]["season"]) == (7, ["a", "é"], None)
    again = rc.load(tmp_path / "m")
    assert again.config() == model.config()
    assert all(np.array_equal(again.params[name], value) for name, value in model.params.items())
    assert model.params.keys() < load_file(tmp_path / "m").keys()


def test_a_file_without_extra(tmp_path, model):
    model.save(tmp_path / "m")
    assert rc.load_extra(tmp_path / "m") == {}


@pytest.mark.parametrize("old", [b"\x05\x06\x07\x08", b"cats"])
def test_a_changed_extra_is_noticed(tmp_path, model, old):
    model.save(tmp_path / "m", {"rows": np.frombuffer(b"\x05\x06\x07\x08", np.uint8), "name": "cats"})
    content = (tmp_path / "m").read_bytes()
    assert content.count(old) == 1
    (tmp_path / "m").write_bytes(content.replace(old, old[::-1]))
    with pytest.raises(ValueError, match="damaged: its content does not match"):
        rc.load(tmp_path / "m")
    with pytest.raises(ValueError, match="damaged: its content does not match"):
        rc.load_extra(tmp_path / "m")
