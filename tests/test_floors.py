"""The house keeps its floors: a file imports only from its own room and from lower floors (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "llqr_sam"
FLOORS = {
    "report": 4,
    "suite": 3,
    "engine": 2,
    "control": 2,
    "potholes": 2,
    "methods": 1,
    "data": 1,
    "models": 1,
    "torchvision_compat": 0,
    "fairseq_compat": 0,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _imports(path: Path) -> set[str]:
    """Absolute names of all modules a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _rooms_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in _imports(path) if name.startswith("llqr_sam.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = _room(path)
    if room == "__init__":
        assert _rooms_imported(path) <= {"methods"}
        return
    for other in _rooms_imported(path) - {room}:
        assert FLOORS[other] < FLOORS[room], f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("path", [p for p in FILES if _room(p) == "methods"], ids=lambda path: path.stem)
def test_methods_import_torch_alone(path):
    roots = {name.split(".")[0] for name in _imports(path)}
    assert roots <= {"torch", "llqr_sam", *sys.stdlib_module_names}


def test_the_library_loads_nothing_of_the_suite():
    """`from llqr_sam import LLQR` works in an environment that has torch only."""
    code = (
        "import sys; from llqr_sam import LLQR, SharpnessAware; "
        "print(*{'hydra', 'omegaconf', 'torchvision', 'timm', 'wandb', 'pandas', 'sklearn', 'matplotlib', 'rich'} "
        "& set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_short(path):
    assert len(path.read_text().splitlines()) <= 400
