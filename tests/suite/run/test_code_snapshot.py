"""Snapshots of a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llqr_sam.repository import ROOT
from llqr_sam.suite.run.code_snapshot import KEPT_DAYS, environment, take_snapshot


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkout of our own to change."""
    for name in ("llqr_sam", "conf"):
        shutil.copytree(ROOT / name, tmp_path / "checkout" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "checkout"


def change(source: Path) -> None:
    with (source / "conf" / "config.yaml").open("a") as file:
        file.write("# changed\n")


def test_equal_code_is_kept_once_and_changed_code_beside_it(tmp_path, source):
    first = take_snapshot(tmp_path / "work", source)
    (source / "llqr_sam" / "__pycache__").mkdir()
    (source / "llqr_sam" / "__pycache__" / "a.pyc").touch()
    assert take_snapshot(tmp_path / "work", source) == first
    change(source)
    second = take_snapshot(tmp_path / "work", source)
    assert set((tmp_path / "work" / "snapshots").iterdir()) == {first, second}
    assert not (first / "conf" / "config.yaml").read_text().endswith("# changed\n")
    assert (second / "conf" / "config.yaml").read_text().endswith("# changed\n")


def test_code_that_no_launch_has_used_for_long_is_removed(tmp_path, source):
    first = take_snapshot(tmp_path / "work", source)
    long_ago = time.time() - 86400 * (KEPT_DAYS + 1)
    os.utime(first, (long_ago, long_ago))
    assert take_snapshot(tmp_path / "work", source) == first  # used again
    change(source)
    second = take_snapshot(tmp_path / "work", source)
    assert first.exists()
    os.utime(first, (long_ago, long_ago))
    assert take_snapshot(tmp_path / "work", source) == second
    assert not first.exists()


def test_python_imports_from_the_snapshot_wherever_it_starts(tmp_path, source):
    """Even in the checkout, where ``python -m`` would find the package of today first."""
    (source / "llqr_sam" / "__init__.py").write_text("MARK = 'launch'\n")
    snapshot = take_snapshot(tmp_path / "work", source)
    (source / "llqr_sam" / "__init__.py").write_text("MARK = 'later'\n")
    code = [sys.executable, "-c", "import llqr_sam; print(llqr_sam.MARK, llqr_sam.__file__)"]
    variables = os.environ | environment(snapshot)
    done = subprocess.run(code, cwd=source, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["launch", str(snapshot / "llqr_sam" / "__init__.py")]
