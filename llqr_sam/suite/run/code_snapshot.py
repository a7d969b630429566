"""A copy of the code as it was at launch, so that a job which starts later does not run what was edited meanwhile.

``<workspace>/snapshots/<hash of the contents>/`` holds the package and conf/. Launches of the same code share a copy.
Nobody can tell whether a job on another cluster still needs one, and a copy is under 2 MB: a launch removes those that
no launch has used for ``KEPT_DAYS``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from llqr_sam.repository import ROOT

KEPT_DAYS = 90  # longer than a job waits in a queue
FOLDERS = ("llqr_sam", "conf")
SUFFIXES = (".py", ".yaml", ".typed")


def take_snapshot(workspace: Path, source: Path = ROOT) -> Path:
    """Copy the code of ``source`` and remove old copies.

    Returns:
        The copy: the folder to put first in PYTHONPATH.
    """
    home = workspace / "snapshots"
    home.mkdir(parents=True, exist_ok=True)
    folder = home / _contents_hash(source)
    if not folder.is_dir():
        _copy(source, folder)
    os.utime(folder)  # the date of its last use
    for other in home.iterdir():
        with contextlib.suppress(FileNotFoundError):  # removed by another launch
            if time.time() - other.stat().st_mtime > KEPT_DAYS * 86400:
                shutil.rmtree(other, ignore_errors=True)
    return folder


def environment(snapshot: Path) -> dict[str, str]:
    """Variables that make Python import from ``snapshot``, whatever folder it starts in (PYTHONSAFEPATH)."""
    paths = [str(snapshot), os.environ.get("PYTHONPATH")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}


def _contents_hash(source: Path) -> str:
    total = hashlib.sha256()
    for path in _files(source):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{content}  {path.relative_to(source).as_posix()}\n".encode())
    return total.hexdigest()[:16]


def _copy(source: Path, folder: Path) -> None:
    """Copy the code to ``folder``, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-", ignore_cleanup_errors=True) as making:
        copy = Path(making) / "code"
        for path in _files(source):
            target = copy / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        with contextlib.suppress(OSError):  # another launch was faster
            copy.rename(folder)


def _files(source: Path) -> Iterator[Path]:
    for name in FOLDERS:
        yield from sorted(path for path in (source / name).rglob("*") if path.suffix in SUFFIXES)
