"""Snapshots of a checkout, and who they are kept for; a SLURM is two scripts that answer as one does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llqr_sam.repository import ROOT
from llqr_sam.suite.run.code_snapshot import Snapshot, environment
from tests.suite.jobs import start, words_in
from tests.waiting import PATIENCE, wait_for


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkout of our own to change."""
    for room in ("llqr_sam", "conf"):
        shutil.copytree(ROOT / room, tmp_path / "checkout" / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "checkout"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with what ``squeue`` prints: the arrays of this user; without the file it fails."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, line in (("scontrol", "echo 'ClusterName             = here'"), ("squeue", f"cat {tmp_path}/queue")):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return tmp_path / "queue"


def kept(folder: Path) -> set[str]:
    """The snapshots of a workspace."""
    return {path.name for path in (folder / "work" / "snapshots").iterdir() if path.is_dir()}


def change(source: Path) -> None:
    with (source / "conf" / "config.yaml").open("a") as file:
        file.write("# changed\n")


def test_equal_code_is_kept_once_and_changed_code_beside_it(tmp_path, source):
    with Snapshot(tmp_path / "work", source) as first:
        (source / "llqr_sam" / "__pycache__").mkdir()
        (source / "llqr_sam" / "__pycache__" / "a.pyc").touch()
        with Snapshot(tmp_path / "work", source) as again:
            assert again.folder == first.folder
        change(source)
        with Snapshot(tmp_path / "work", source) as second:
            assert second.folder != first.folder
            assert kept(tmp_path) == {first.folder.name, second.folder.name}
            assert not (first.folder / "conf" / "config.yaml").read_text().endswith("# changed\n")


def test_code_goes_with_its_last_user(tmp_path, source):
    with Snapshot(tmp_path / "work", source) as first, Snapshot(tmp_path / "work", source):
        change(source)
        with Snapshot(tmp_path / "work", source):
            pass
        assert kept(tmp_path) == {first.folder.name}
    assert kept(tmp_path) == set()
    assert {path.name for path in (tmp_path / "work" / "snapshots").iterdir()} == {".lock"}


def test_a_launch_that_was_killed_keeps_nothing(tmp_path):
    words = ("table=demo", "optim=sgdm", "protocol.epochs=1000", "launch=local", "launch.workers=1")
    launcher = start("train.py", *words_in(tmp_path, *words))
    wait_for(lambda: list(tmp_path.glob("work/snapshots/*.json")))
    launcher.kill()
    launcher.communicate(timeout=PATIENCE)
    assert len(kept(tmp_path)) == 1
    with Snapshot(tmp_path / "work", tmp_path):
        pass
    assert kept(tmp_path) == set()


def test_code_of_queued_jobs_is_kept_until_none_is_left(tmp_path, source, slurm):
    def launch() -> None:
        """Another one, with code of its own."""
        change(source)
        with Snapshot(tmp_path / "work", source):
            pass

    slurm.write_text("7\n9\n")
    with Snapshot(tmp_path / "work", source) as snapshot:
        snapshot.hand_over(["9_0", "9_1"])
    queued = {snapshot.folder.name}
    launch()
    assert kept(tmp_path) == queued
    slurm.unlink()  # SLURM does not answer
    launch()
    assert kept(tmp_path) == queued
    slurm.write_text("7\n")
    (user,) = (tmp_path / "work" / "snapshots").glob("*.json")
    ours = user.read_text()
    user.write_text(json.dumps(json.loads(ours) | {"cluster": "elsewhere"}))
    launch()
    assert kept(tmp_path) == queued
    user.write_text(ours[:20])
    launch()
    assert kept(tmp_path) == queued
    user.write_text(ours)
    launch()
    assert kept(tmp_path) == set()


def test_python_imports_from_the_snapshot_wherever_it_starts(tmp_path, source):
    """Even in the checkout, where ``python -m`` would find the package of today first."""
    (source / "llqr_sam" / "__init__.py").write_text("MARK = 'launch'\n")
    with Snapshot(tmp_path / "work", source) as snapshot:
        (source / "llqr_sam" / "__init__.py").write_text("MARK = 'later'\n")
        code = [sys.executable, "-c", "import llqr_sam; print(llqr_sam.MARK, llqr_sam.__file__)"]
        variables = os.environ | environment(snapshot.folder)
        done = subprocess.run(code, cwd=source, env=variables, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["launch", str(snapshot.folder / "llqr_sam" / "__init__.py")]
