"""The house keeps its floors: a file imports only from its own room and from lower floors (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from llqr_sam.repository import PACKAGE

FLOORS = {
    "integrations": 6,
    "studies": 5,
    "report": 4,
    "suite": 3,
    "engine": 2,
    "plugins": 2,
    "methods": 1,
    "data": 1,
    "models": 1,
    "repository": 0,
    "torchvision_compat": 0,
    "fairseq_compat": 0,
}
# Inside a room a file imports from its own part and from those before it.
PARTS = {
    "methods": (
        ("shards",),
        ("bases",),
        ("named",),
        ("curvature",),
        ("distributed",),
        ("blocks",),
        ("settings",),
        ("metrics", "directions"),
        ("step",),
        ("llqr", "sharpness_aware"),
        ("factory",),
    ),
    "engine": (
        ("plugins",),
        ("settings",),
        ("records",),
        ("devices",),
        ("measurements", "observers"),
        ("tasks",),
        ("loop",),
    ),
    "suite": (("config",), ("plan",), ("run",), ("status", "weights"), ("launch",)),
    "report": (("records",), ("tables",), ("figures",), ("claims", "sweeps"), ("page",)),
    "studies": (("theory", "table_9"), ("table_10",), ("gpu_window", "figures")),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _imports(path: Path, *, at_once: bool = False) -> set[str]:
    """Absolute names of the modules a file imports; ``at_once``: without those that its functions import."""
    names = set()
    tree = ast.parse(path.read_text())
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _rooms_imported(path: Path, *, at_once: bool = False) -> set[str]:
    return {name.split(".")[1] for name in _imports(path, at_once=at_once) if name.startswith("llqr_sam.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = _room(path)
    if room == "__init__":
        assert _rooms_imported(path, at_once=True) <= {"methods"}
        assert _rooms_imported(path) <= {"methods", "suite"}  # load_network reads what the suite wrote
        return
    for other in _rooms_imported(path) - {room}:
        assert FLOORS[other] < FLOORS[room], f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("room", sorted(PARTS))
def test_imports_inside_a_room_run_one_way(room):
    level = {part: number for number, parts in enumerate(PARTS[room]) for part in parts}
    for path in (path for path in FILES if _room(path) == room and path.stem != "__init__"):
        part = _module(path).split(".")[2]
        assert part in level, f"{path.relative_to(PACKAGE)} is in no part of {room} that this test knows"
        parts = {name.split(".")[2] for name in _imports(path) if name.startswith(f"llqr_sam.{room}.")}
        for other in parts & set(level) - {part}:
            assert level[other] < level[part], f"{path.relative_to(PACKAGE)} imports {room}/{other}"


def test_no_files_import_each_other():
    modules = {_module(path): path for path in FILES}
    graph = {module: _imports(path) & set(modules) - {module} for module, path in modules.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", [p for p in FILES if _room(p) == "methods"], ids=lambda path: path.stem)
def test_methods_import_torch_alone(path):
    roots = {name.split(".")[0] for name in _imports(path)}
    assert roots <= {"torch", "llqr_sam", *sys.stdlib_module_names}


_TORCH_ALONE = """
import sys
sys.modules.update(dict.fromkeys({suite}))
import torch
from llqr_sam import LLQR, SharpnessAware

layers = torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 3)
model = torch.nn.Sequential(*layers)
inputs, targets, loss_fn = torch.randn(6, 1, 4, 4), torch.randint(0, 3, (6,)), torch.nn.CrossEntropyLoss()
base = torch.optim.SGD(model.parameters(), lr=0.1)
for divergence in ("ngd", "newton"):
    metric = LLQR(model, divergence=divergence, structure="ekfac", inner_steps=2)
    assert metric.refresh(inputs, targets, loss_fn).accepted
    optimizer = SharpnessAware(base, rho=0.1, probe=metric, transport=metric)
    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        return loss
    assert torch.isfinite(optimizer.step(closure))
"""


def test_the_library_works_with_torch_alone():
    """None of the suite's dependencies can be imported; refreshes and steps do not need them."""
    suite = {"numpy", "hydra", "omegaconf", "torchvision", "timm", "wandb", "sklearn", "rich"}
    run = subprocess.run([sys.executable, "-c", _TORCH_ALONE.replace("{suite}", repr(suite))], capture_output=True)
    assert run.returncode == 0, run.stderr.decode()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_short(path):
    assert len(path.read_text().splitlines()) <= 400
