"""Files are written whole or not at all."""

import pytest

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
