"""The machine and its limits."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

LEVELS = {  # compiler options and width of a register in bytes
    "base": ([], 16),
    "v3": (["-march=x86-64-v3"], 32),
    "v4": (["-march=x86-64-v4", "-mprefer-vector-width=512"], 64),
}
LEVELS["amx"] = LEVELS["v4"]  # what tiles add is told in shares of the same peak
PACKAGES = ("rnncore", "numpy", "torch", "jax", "keras", "onnxruntime")


def cpu_name() -> str:
    """Return the CPU's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def versions() -> dict[str, str]:
    """Return the versions of the packages that are installed, and of Python."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def product_rate(seconds: float) -> float:
    """Return the best rate of NumPy's float32 matrix product over several sizes, in operations a second."""
    rng = np.random.default_rng(0)
    best = 0.0
    sizes = (256, 512, 768, 1024)
    for size in sizes:
        a = rng.random((size, size), dtype=np.float32)
        out = np.empty_like(a)
        end = time.perf_counter() + seconds / len(sizes)
        while (start := time.perf_counter()) < end:
            np.matmul(a, a, out=out)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


class Peak:
    """Float32 multiply-adds in registers at a level, by a loop compiled on the spot: what no program exceeds.

    Attributes
    ----------
    operations : float
        Of a run.
    """

    def __init__(self, library: Path) -> None:
        self._multiply_add = ctypes.CDLL(str(library)).multiply_add
        self._multiply_add.restype = ctypes.c_double
        self._multiply_add.argtypes = [ctypes.c_long, ctypes.POINTER(ctypes.c_float)]
        self._data = (ctypes.c_float * 3)(0.5, 1.0)
        self.operations = self.run()

    def run(self) -> float:
        """Do some, and return how many operations they are."""
        return self._multiply_add(200_000, self._data)

    def rate(self, seconds: float) -> float:
        """Return the best rate, in operations a second."""
        best = 0.0
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            self.run()
            best = max(best, self.operations / (time.perf_counter() - start))
        return best


def peak(level: str) -> Peak | None:
    """Return the loop of a level; None without a C compiler."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or level not in LEVELS:
        return None
    options, width = LEVELS[level]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        library = Path(folder) / "peak.so"
        source = Path(__file__).with_name("peak.c")
        flags = ["-O2", "-shared", "-fPIC", "-ffp-contract=fast", f"-DBYTES={width}", *options]
        if subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=False).returncode:
            return None
        return Peak(library)
