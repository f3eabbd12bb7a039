"""What is installed, and what the README promises about installing."""

import contextlib
import io
import re
import zlib
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import rnncore
from rnncore import kernels

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PACKAGE = Path(rnncore.__file__).parent
ROOT = Path(__file__).parents[1]
LEVELS = [name for name in kernels.available() if name != "numpy"]


def test_version_is_that_of_the_build():
    version = re.search(r"version: '([^']+)'", (ROOT / "meson.build").read_text()).group(1)
    assert rnncore.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_metadata():
    about = metadata("rnncore")
    assert about["License-Expression"] == "BSD-3-Clause"
    assert about["Requires-Python"] == ">=3.11"
    required = {
        re.match(r"\w+", line).group() for line in about.get_all("Requires-Dist") if "extra" not in line
    }
    assert required == {"numpy", "click", "tqdm", "safetensors"}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("family", kernels.FAMILIES)
def test_every_level_is_compiled(family, level):
    assert find_spec(f"rnncore._{family}_{level}").origin.endswith((".so", ".pyd"))


@pytest.mark.parametrize(
    "name", ["py.typed", "_cpu.pyi", "_lstm_base.pyi", "reference/lstm.py", "tasks/addition.py"]
)
def test_files_that_nothing_imports_by_name_are_installed(name):
    assert (PACKAGE / name).is_file()


def test_size_of_the_wheel():
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files += [
        Path(find_spec(f"rnncore._{family}_{level}").origin)
        for family in kernels.FAMILIES
        for level in LEVELS
    ]
    size = sum(len(zlib.compress(path.read_bytes())) for path in set(files))
    assert size <= 3_000_000


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_readme_opens_with_two_commands():
    assert blocks("sh")[:2] == [
        'pip install ".[plot]" && rnncore train addition\n',
        'pip install ".[test]" && pytest\n',
    ]


def test_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code, expected in re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", README, re.DOTALL):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, names)
        assert out.getvalue() == expected
    assert ((names["p"] > 0.5) == names["y"]).mean() > 0.9
    streamed, whole = np.concatenate(names["streamed"]), names["whole"]
    # compiled kernels give the same bits, NumPy's the same numbers but for rounding
    assert abs(streamed - whole).max() <= (1e-6 * abs(whole).max() if kernels.active.name == "numpy" else 0)
