"""Fixtures that several files share."""

import sys
from typing import NamedTuple

import pytest


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def rnncore(monkeypatch, capsys, tmp_path):
    """Run the command line in an empty folder."""
    from rnncore import cli

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rnncore", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Result(end.value.code or 0, *capsys.readouterr())

    return run
