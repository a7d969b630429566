"""A copy of the code as it was at launch, so that a job which starts later does not run what was edited meanwhile.

``<workspace>/snapshots/<hash of the contents>/`` holds the package and conf/; launches of the same code share it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from llqr_sam.repository import ROOT

KEPT_DAYS = 90  # since its last launch: nobody can tell whether a job on another cluster still needs a copy
FOLDERS = ("llqr_sam", "conf")
SUFFIXES = (".py", ".yaml", ".typed")


def take_snapshot(workspace: Path, source: Path = ROOT) -> Path:
    """Copy the code of ``source`` and remove old copies; returns the folder to put first in PYTHONPATH."""
    home = workspace / "snapshots"
    home.mkdir(parents=True, exist_ok=True)
    found = sorted(path for name in FOLDERS for path in (source / name).rglob("*") if path.suffix in SUFFIXES)
    files = [(path.relative_to(source).as_posix(), path.read_bytes()) for path in found]
    folder = home / hashlib.sha256(repr(files).encode()).hexdigest()[:16]
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=home, prefix=".making-", ignore_cleanup_errors=True) as making:
            copy = Path(making) / "code"
            for name, content in files:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(content)
            with contextlib.suppress(OSError):  # another launch was faster
                copy.rename(folder)
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
