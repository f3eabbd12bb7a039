"""What a container grants, read from the files that tell it."""

import math
import subprocess
import sys

import pytest

from rnncore import machine


@pytest.fixture
def container(monkeypatch, tmp_path):
    """Write the files of a container, on a host of 64 cores."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("cpu_", "cpu.", 1).replace("memory_", "memory.")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        ({"cpu_max": "max 100000\n"}, 64),
        ({"cpu_max": "200000 100000\n"}, 2),
        ({"cpu_max": "150000 100000\n"}, 2),  # one and a half cores keep two threads busy
        ({"cpu_max": "10000 100000\n"}, 1),
        ({"cpu_max": "9900000 100000\n"}, 64),
        ({"cpu_max": "what is this\n"}, 64),
    ],
)
def test_cores_of_a_container(container, files, cores):
    container(**files)
    assert machine.cores() == cores


def test_cores_of_a_container_of_the_first_version(container, tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.cores() == 3
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")  # no limit
    assert machine.cores() == 64


def test_free_memory(container):
    assert machine.free_memory() == math.inf
    container(meminfo="MemTotal: 2000 kB\nMemAvailable:    1000 kB\n")
    assert machine.free_memory() == 1_024_000
    container(memory_max="max\n", memory_current="5000\n")
    assert machine.free_memory() == 1_024_000
    container(memory_max="30000\n", memory_current="5000\n")
    assert machine.free_memory() == 25_000


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"RNNCORE_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "many"}, None),
        ({"OMP_NUM_THREADS": "0"}, 1),
        ({"OMP_NUM_THREADS": "1000"}, 64),
        ({}, None),
    ],
)
def test_default_threads(monkeypatch, tmp_path, environment, threads):
    pytest.importorskip("rnncore._stage")
    for name in ("RNNCORE_NUM_THREADS", "OMP_NUM_THREADS", "RNNCORE_KERNELS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = "import rnncore; print(rnncore.get_num_threads())"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert int(run.stdout) == (min(machine.cores(), 64) if threads is None else threads)
