"""Imports run one way, and what is slow to import waits until it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rnncore

PACKAGE = Path(rnncore.__file__).parent
# each may import what stands before it
ORDER = [
    "interrupt",
    "rows",
    "reference",
    "kernels",
    "checks",
    "files",
    "tables",
    "datasets",
    "initializers",
    "losses",
    "optimizers",
    "plan",
    "layers",
    "models",
    "pictures",
    "schedules",
    "tasks",
    "checkpoints",
    "diagnosis",
    "trainer",
    "recipes",
    "",  # the package itself
    "commands",
    "cli",
]
COMPILED = "_cpu"  # besides the kernels, which are imported by name


def imported(path):
    """The modules of the package that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "rnncore":
                module = rest.partition(".")[0]
                yield module if module in {*ORDER, COMPILED} else ""


def module(path):
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_run_one_way(path):
    own = module(path)
    for other in imported(path):
        if own != other and other != COMPILED:
            assert ORDER.index(other) < ORDER.index(own), f"{own or 'rnncore'} imports {other or 'rnncore'}"


def test_slow_modules_wait():
    program = "import sys, rnncore; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    slow = {"click", "tqdm", "safetensors", "matplotlib", "importlib.metadata"}
    assert not slow & set(done.stdout.split())


def test_public_names():
    for name in rnncore.__all__:
        if name != "__version__":
            assert getattr(rnncore, name) is not None
    assert (PACKAGE / "py.typed").exists()
    with pytest.raises(AttributeError, match="module 'rnncore' has no attribute 'nothing'"):
        _ = rnncore.nothing
