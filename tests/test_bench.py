"""``rnncore bench``: what it measures is what it says."""

import re
from types import SimpleNamespace

from click.testing import CliRunner

from rnncore.cli import cli
from rnncore.commands import bench


def test_a_line_for_each_piece_of_work():
    result = CliRunner().invoke(cli, ["bench", "--seconds", "0"], catch_exceptions=False)
    head, *lines = result.output.splitlines()
    assert head.startswith("kernels ")
    assert [line[:44].rstrip() for line in lines] == [work.title for work in bench.works()]
    for line, work in zip(lines, bench.works(), strict=True):
        median, low, high, rate = map(float, re.findall(r"[\d.]+", line[44:]))
        assert low <= median <= high
        # all figures are rounded to a tenth
        assert work.operations / (median + 0.05) / 1e3 - 0.051 <= rate
        assert rate <= work.operations / (median - 0.05) / 1e3 + 0.051


def test_time_of_one_run(monkeypatch):
    now = 0.0

    def run():
        nonlocal now
        now += 2**-9

    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: now))
    assert bench.measure(run, 0.05) == [2**-9] * 6  # five runs at a time, until 0.05 s have passed


def test_refused():
    assert CliRunner().invoke(cli, ["bench", "--seconds", "-1"]).exit_code == 2
