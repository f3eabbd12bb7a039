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
    "machine",
    "rows",
    "reference",
    "kernels",
    "checks",
    "files",
    "datasets",
    "initializers",
    "losses",
    "optimizers",
    "plan",
    "network",
    "layers",
    "models",
    "tables",
    "pictures",
    "schedules",
    "tasks",
    "checkpoints",
    "diagnosis",
    "steps",
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


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_every_module_says_what_is_public(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named, there, defined = None, set(), set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            there.add(node.name)
            defined |= {node.name} if not node.name.startswith("_") else set()
        elif isinstance(node, ast.Import | ast.ImportFrom):
            there |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            if "__all__" in names:
                named = ast.literal_eval(node.value)
            there |= names
    assert named is not None
    assert len(set(named)) == len(named)
    assert defined <= set(named)
    assert set(named) - {"__version__"} <= there
