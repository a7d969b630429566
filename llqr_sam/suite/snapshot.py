"""The code as it was at launch, kept for jobs that start hours later."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
ROOMS = ("llqr_sam", "conf")
SUFFIXES = (".py", ".yaml", ".typed")


def take_snapshot(workspace: Path, source: Path = SOURCE) -> Path:
    """Copy package and conf/ to ``workspace/snapshots/<hash of their contents>``, unless they are there already.

    Returns:
        The folder that goes first in PYTHONPATH. It appears whole or not at all, whoever else takes the same one.
    """
    total = hashlib.sha256()
    for path in _files(source):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{content}  {path.relative_to(source).as_posix()}\n".encode())
    folder = workspace / "snapshots" / total.hexdigest()[:16]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-", ignore_cleanup_errors=True) as making:
        copy = Path(making) / "code"
        for path in _files(source):
            target = copy / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        with contextlib.suppress(OSError):  # another launch was faster
            copy.rename(folder)
    return folder


def environment(snapshot: Path) -> dict[str, str]:
    """What makes Python import from ``snapshot``, wherever it starts (PYTHONSAFEPATH: not from that folder)."""
    paths = [str(snapshot), os.environ.get("PYTHONPATH")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}


def _files(source: Path) -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted(path for path in (source / room).rglob("*") if path.suffix in SUFFIXES)
