"""The wheel as a stranger gets it: built here, then installed alone with torch into an empty environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_readme import REPOSITORY, blocks
from tests.waiting import PATIENCE

pytestmark = pytest.mark.wheel


def run(*command: str | Path, folder: Path) -> str:
    """What a command prints where PYTHONPATH leads to no checkout; a failure shows all that it said."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of that environment, where torch has the pinned version."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy is built: from the checkout, the wheel would get what earlier builds left in build/.
    source = folder / "source"
    shutil.copytree(REPOSITORY / "llqr_sam", source / "llqr_sam", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    run(sys.executable, *pip, "wheel", "--no-deps", "--wheel-dir", folder, source, folder=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", folder / "env", folder=folder)
    python = folder / "env" / "bin" / "python"
    run(python, *pip, "install", "--constraint", REPOSITORY / "constraints.txt", wheel, folder=folder)
    return python


NEEDS = """
import importlib.metadata as metadata, json
print(json.dumps([line for line in metadata.requires("llqr-sam") if "extra ==" not in line]))
"""


def test_it_needs_torch_alone(python: Path, tmp_path: Path) -> None:
    needs = json.loads(run(python, "-c", NEEDS, folder=tmp_path))
    assert [need.partition(">")[0].strip() for need in needs] == ["torch"]


IMPORTED = """
import json, sys, torch
before = set(sys.modules)
import llqr_sam
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps([llqr_sam.__file__, sorted(new - sys.stdlib_module_names)]))
"""


def test_importing_it_imports_torch_alone(python: Path, tmp_path: Path) -> None:
    file, packages = json.loads(run(python, "-c", IMPORTED, folder=tmp_path))
    assert Path(file).is_relative_to(python.parent.parent), "it is the checkout"
    assert set(packages) <= {"llqr_sam", "torch", "torchgen"}


def test_it_is_typed(python: Path, tmp_path: Path) -> None:
    file = run(python, "-c", "import llqr_sam; print(llqr_sam.__file__)", folder=tmp_path).strip()
    assert Path(file).with_name("py.typed").exists()


@pytest.mark.parametrize("code", blocks("python"))
def test_the_readmes_example_runs(python: Path, tmp_path: Path, code: str) -> None:
    run(python, "-c", code, folder=tmp_path)
