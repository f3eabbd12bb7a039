"""``rnncore bench``: what it measures is what it says."""

import re
import time

import numpy as np
import pytest
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
        assert rate == pytest.approx(work.operations / median / 1e3, rel=0.02, abs=0.1)


def test_time_of_one_run():
    times = bench.measure(lambda: time.sleep(2e-3), 0.05)
    assert 2e-3 <= np.median(times) < 2e-2


def test_refused():
    assert CliRunner().invoke(cli, ["bench", "--seconds", "-1"]).exit_code == 2
