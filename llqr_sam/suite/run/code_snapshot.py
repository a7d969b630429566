"""The code as it was at launch, kept for as long as somebody may start with it.

``<workspace>/snapshots/<hash of the contents>/`` is the code; beside it each launch that uses it has a file
``<hash>.<token>.json`` that says who does: a process, or arrays in a SLURM's queue. Whoever ends a launch removes the
code that nobody uses any more. What cannot be known (another machine's process, another cluster's queue, a SLURM that
does not answer) counts as used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.repository import ROOT
from llqr_sam.suite.run.lock import Owner
from llqr_sam.suite.run.slurm_queue import Queue, queue

ROOMS = ("llqr_sam", "conf")
SUFFIXES = (".py", ".yaml", ".typed")


@dataclass(frozen=True)
class _User:
    """Who starts processes with a snapshot."""

    process: Owner
    cluster: str | None = None  # the SLURM that has the arrays; None: the process itself is the user
    arrays: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> _User | None:
        """``None`` for a file that is not whole, or of another version."""
        try:
            tree = json.loads(path.read_text())
            return cls(Owner(**tree["process"]), tree["cluster"], tuple(tree["arrays"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, path: Path) -> None:
        with replacing(path) as file:
            file.write(json.dumps(asdict(self)).encode())

    def is_gone(self, queue: Queue | None) -> bool:
        """Whether it is known to have ended; ``queue``: of the SLURM here, if there is one that answers."""
        if self.cluster is None:
            return self.process.is_gone(Owner.this_process())
        return queue is not None and queue.cluster == self.cluster and not queue.arrays & set(self.arrays)


class Snapshot:
    """A context in which the code of now is kept in ``folder``, the one to put first in PYTHONPATH.

    Args:
        workspace: Keeps it.
        source: The checkout to copy.
    """

    def __init__(self, workspace: Path, source: Path = ROOT) -> None:
        self._home = workspace / "snapshots"
        self._source = source
        self._process = Owner.this_process()
        self._handed_over = False

    def __enter__(self) -> Self:
        self._home.mkdir(parents=True, exist_ok=True)
        with _alone(self._home):
            self.folder = _copy(self._source, self._home)
            self._user = self._home / f"{self.folder.name}.{self._process.token}.json"
            _User(self._process).write(self._user)
        return self

    def hand_over(self, jobs: Sequence[str]) -> None:
        """From now on it is kept for SLURM's jobs of these numbers, until none of them is queued or running."""
        self._handed_over = True
        here = queue()
        arrays = sorted({number.partition("_")[0] for number in jobs})
        _User(self._process, here.cluster if here else "", tuple(arrays)).write(self._user)

    def __exit__(self, *_: object) -> None:
        with _alone(self._home) as alone:
            if not self._handed_over:
                self._user.unlink(missing_ok=True)
            if alone:
                _remove_unused(self._home)


def environment(snapshot: Path) -> dict[str, str]:
    """What makes Python import from ``snapshot``, wherever it starts (PYTHONSAFEPATH: not from that folder)."""
    paths = [str(snapshot), os.environ.get("PYTHONPATH")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}


def _copy(source: Path, home: Path) -> Path:
    """Package and conf/ in ``home/<hash of their contents>``, whole or not at all."""
    total = hashlib.sha256()
    for path in _files(source):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{content}  {path.relative_to(source).as_posix()}\n".encode())
    folder = home / total.hexdigest()[:16]
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(dir=home, prefix=".making-", ignore_cleanup_errors=True) as making:
        copy = Path(making) / "code"
        for path in _files(source):
            target = copy / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        with contextlib.suppress(OSError):  # without locks, another launch was faster
            copy.rename(folder)
    return folder


def _remove_unused(home: Path) -> None:
    here = queue() if any(home.glob("*.json")) else None
    used: set[str] = set()
    for path in home.glob("*.json"):
        user = _User.read(path)
        if user is not None and user.is_gone(here):
            path.unlink(missing_ok=True)
        else:
            used.add(path.name.partition(".")[0])
    for folder in home.iterdir():
        if folder.is_dir() and folder.name not in used:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[bool]:
    """Inside, no other launch takes or removes snapshots; false where the file system has no locks."""
    with (home / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True


def _files(source: Path) -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted(path for path in (source / room).rglob("*") if path.suffix in SUFFIXES)
