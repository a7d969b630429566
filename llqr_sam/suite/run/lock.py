"""Who is training a run: one process at a time, on whatever machine, through files alone.

``lock.json`` in the run's folder names the owner. It is created with O_EXCL, so of two that try one succeeds, and its
modification time is the heartbeat: the file server's clock, so that no two machines need agree on the time.

A lock whose owner is gone is not replaced, for between looking and replacing somebody else may have done so. It gets
a successor, ``lock.<token of the dead owner>.json``, created with O_EXCL too: the token is unique, so a dead owner is
succeeded once. The holder is the end of that chain, and whoever creates a file looks again whether it is the end.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from llqr_sam.engine.observers.observer import Observer, RunInfo

logger = logging.getLogger(__name__)

HEARTBEAT = 30.0  # seconds between two signs of life, at most


class LeftAlone(Exception):
    """A run that is somebody else's, or done already: the message is one line."""


@dataclass(frozen=True)
class Owner:
    """A process that trains, or trained, a run."""

    token: str
    host: str
    pid: int
    job: str | None  # SLURM's name of it
    restarts: int  # how often SLURM has requeued that job
    machine: str | None = None  # where ``pid`` is a process; None in locks of before

    @classmethod
    def this_process(cls) -> Owner:
        """An owner with a token of its own."""
        number = os.environ.get("SLURM_JOB_ID")
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        if array and task:
            number = f"{array}_{task}"
        cluster = os.environ.get("SLURM_CLUSTER_NAME", "slurm")
        return cls(
            token=secrets.token_hex(8),
            host=socket.gethostname(),
            pid=os.getpid(),
            job=f"{cluster}:{number}" if number else None,
            restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            machine=_machine(),
        )

    def __str__(self) -> str:
        return f"{self.host} (job {self.job})" if self.job else f"{self.host} (process {self.pid})"

    def is_gone(self, seen_by: Owner) -> bool:
        """Whether ``seen_by`` knows that this owner has ended: its process here, or its own job before a requeue."""
        if self.job is not None and self.job == seen_by.job and self.restarts < seen_by.restarts:
            return True
        here = (self.host, self.machine) == (seen_by.host, seen_by.machine)
        return here and not _alive(self.pid)


@dataclass(frozen=True)
class _Link:
    """One file of the chain."""

    path: Path
    owner: Owner
    heartbeat: float  # seconds since the epoch, by the file server's clock


def holder(folder: Path, stale_minutes: float) -> Owner | None:
    """Who trains the run of ``folder`` now, as far as this machine can see; changes nothing."""
    chain = _chain(folder)
    if not chain or _stale(chain[-1], Owner.this_process(), time.time(), stale_minutes):
        return None
    return chain[-1].owner


class RunLock(Observer):
    """A context in which this process alone trains a run.

    Args:
        folder: Of the run in the workspace; made if missing.
        stale_minutes: A lock without a heartbeat for so long may be taken over.

    Given to the run as an observer too, it stops the run should the lock be lost all the same. A process that was
    suspended for longer than ``stale_minutes`` finds another at its work: it writes nothing more, since a checkpoint of
    its own would take the place of the other's. Where the lock was removed and nobody has the run, it saves it.
    """

    def __init__(self, folder: Path, stale_minutes: float) -> None:
        self.folder = folder
        self.owner = Owner.this_process()
        self._stale_minutes = stale_minutes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._path = folder  # the file of this owner
        self._request_stop: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            LeftAlone: somebody else has it.
        """
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # whoever had the run has ended it and removed the folder
                self._acquire()
                break
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        chain = _chain(self.folder)
        if self._last(chain):
            # The first file goes first: without it the others mean nothing, and the run is free.
            for link in chain:
                link.path.unlink(missing_ok=True)
            for path in self.folder.glob("lock.*.json"):
                path.unlink(missing_ok=True)

    def on_start(self, run: RunInfo) -> None:
        self._request_stop = run.request_stop

    def on_save(self) -> None:
        """See that nobody else's files are written over.

        Raises:
            LeftAlone: the run has been taken over.
        """
        chain = _chain(self.folder)
        if chain and not self._last(chain):
            raise LeftAlone(f"taken over by {chain[-1].owner}: left alone")

    def _acquire(self) -> None:
        chain = _chain(self.folder)
        if chain and not _stale(chain[-1], self.owner, _file_server_time(self.folder), self._stale_minutes):
            raise LeftAlone(f"running on {chain[-1].owner}: left alone")
        self._path = _successor(self.folder, chain[-1].owner if chain else None)
        try:
            with self._path.open("x") as file:
                json.dump(asdict(self.owner), file)
        except FileExistsError:
            raise LeftAlone("somebody else has just started it: left alone") from None
        except BaseException:
            self._path.unlink(missing_ok=True)  # a full disk
            raise
        if not self._last(_chain(self.folder)):
            self._path.unlink(missing_ok=True)
            raise LeftAlone("somebody else has just started it: left alone")
        if chain:
            logger.warning("%s: taken over from %s, which is gone", self.folder.name, chain[-1].owner)

    def _beat(self) -> None:
        while not self._over.wait(min(HEARTBEAT, 60 * self._stale_minutes / 4)):
            with contextlib.suppress(OSError):  # a file server that is away for a while
                chain = _chain(self.folder)
                if not self._last(chain):
                    self._lose(chain)
                    return
                os.utime(self._path)

    def _lose(self, chain: list[_Link]) -> None:
        what = f"{chain[-1].owner} has taken the run over" if chain else f"{self._path} has been removed"
        logger.warning("%s: %s: it stops here", self.folder.name, what)
        if self._request_stop is not None:
            self._request_stop()

    def _last(self, chain: list[_Link]) -> bool:
        return bool(chain) and chain[-1].owner.token == self.owner.token


def _successor(folder: Path, owner: Owner | None) -> Path:
    return folder / (f"lock.{owner.token}.json" if owner else "lock.json")


def _chain(folder: Path) -> list[_Link]:
    """The files from ``lock.json`` to the holder's."""
    chain: list[_Link] = []
    while link := _read(_successor(folder, chain[-1].owner if chain else None)):
        chain.append(link)
    return chain


def _read(path: Path) -> _Link | None:
    """A file of the chain; one that is not whole, being written or left by a full disk, has a nameless owner."""
    try:
        status = path.stat()
        text = path.read_text()
    except FileNotFoundError:
        return None
    try:
        owner = Owner(**json.loads(text))
    except (ValueError, TypeError):
        owner = Owner(token=f"inode{status.st_ino}", host="", pid=0, job=None, restarts=0)
    return _Link(path, owner, status.st_mtime)


def _stale(link: _Link, seen_by: Owner, now: float, stale_minutes: float) -> bool:
    return now - link.heartbeat > 60 * stale_minutes or link.owner.is_gone(seen_by)


def _file_server_time(folder: Path) -> float:
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _machine() -> str:
    """Where process numbers of here mean something: machines and containers of one host name have their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"boot {boot}, processes {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux
        return socket.gethostname()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
