"""What this process may use of the machine: cores and memory, also inside a container."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["cores", "free_memory"]

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def cores() -> int:
    """Return how many cores this process may use, by its affinity and by the quota of its container."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _quota())))


def _quota() -> float:
    """Return how many cores' time control groups of version 2 or 1 grant: infinity without a limit."""
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    if not quota:
        quota, period = (_read(CGROUP / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    try:
        granted = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or no such file
        return math.inf
    return granted if granted > 0 else math.inf


def free_memory() -> float:
    """Return the bytes that this process can still allocate: infinity where nothing tells."""
    fields = dict(line.split(":", 1) for line in _read(MEMINFO).splitlines() if ":" in line)
    try:
        free = float(fields["MemAvailable"].split()[0]) * 1024
    except (LookupError, ValueError):
        return math.inf
    try:
        return min(free, float(_read(CGROUP / "memory.max")) - float(_read(CGROUP / "memory.current")))
    except ValueError:  # "max", or no such file
        return free


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
