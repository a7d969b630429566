from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llqr_sam.suite.snapshot import SOURCE, environment, take_snapshot


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkout of our own to change."""
    for room in ("llqr_sam", "conf"):
        shutil.copytree(SOURCE / room, tmp_path / "checkout" / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "checkout"


def test_equal_code_is_kept_once_and_changed_code_beside_it(tmp_path, source):
    first = take_snapshot(tmp_path / "work", source)
    assert take_snapshot(tmp_path / "work", source) == first
    (source / "llqr_sam" / "__pycache__").mkdir()
    (source / "llqr_sam" / "__pycache__" / "a.pyc").touch()
    assert take_snapshot(tmp_path / "work", source) == first
    with (source / "conf" / "config.yaml").open("a") as file:
        file.write("# changed\n")
    second = take_snapshot(tmp_path / "work", source)
    assert second != first
    assert {path.name for path in (tmp_path / "work" / "snapshots").iterdir()} == {first.name, second.name}
    assert not (first / "conf" / "config.yaml").read_text().endswith("# changed\n")


def test_python_imports_from_the_snapshot_wherever_it_starts(tmp_path, source):
    """Even in the checkout, where ``python -m`` would find the package of today first."""
    (source / "llqr_sam" / "__init__.py").write_text("MARK = 'launch'\n")
    snapshot = take_snapshot(tmp_path / "work", source)
    (source / "llqr_sam" / "__init__.py").write_text("MARK = 'later'\n")
    code = [sys.executable, "-c", "import llqr_sam; print(llqr_sam.MARK, llqr_sam.__file__)"]
    done = subprocess.run(
        code, cwd=source, env=os.environ | environment(snapshot), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["launch", str(snapshot / "llqr_sam" / "__init__.py")]
