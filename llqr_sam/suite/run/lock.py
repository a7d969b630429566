"""The lock of a run: one process at a time trains it, on any machine that shares the file system.

``lock.json`` in the run's folder names its owner. It is created with O_EXCL, so one of two processes succeeds. Its
modification time is the heartbeat: the file server's clock sets it, so the machines need not agree on the time.
The lock of a dead owner is never replaced: between our look and our write another process may have done so. Instead
the new owner creates ``lock.<token of the dead owner>.json``, with O_EXCL too: an owner has at most one successor, and
the last file of this chain names the holder. After creating a file, a process checks that the chain is still there.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from llqr_sam.engine.observers.observer import Observer, RunInfo

logger = logging.getLogger(__name__)

HEARTBEAT = 30.0  # seconds between two heartbeats, at most


class LeftAlone(Exception):
    """The run is done or belongs to another process: the message is one line."""


@dataclass(frozen=True)
class Owner:
    """A process that trains, or trained, a run."""

    token: str
    host: str
    pid: int
    machine: str  # boot and process namespace in which ``pid`` has a meaning
    job: str | None  # SLURM job
    restarts: int  # how often SLURM has requeued the job
    heartbeat: float = field(default=0.0, compare=False)  # seconds since the epoch, by the file server's clock

    @classmethod
    def this_process(cls) -> Owner:
        """This process, with a new token."""
        number, cluster = slurm_job(), os.environ.get("SLURM_CLUSTER_NAME", "slurm")
        job, restarts = f"{cluster}:{number}" if number else None, int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        return cls(secrets.token_hex(8), socket.gethostname(), os.getpid(), _machine(), job, restarts)

    def __str__(self) -> str:
        return f"{self.host} (job {self.job})" if self.job else f"{self.host} (process {self.pid})"

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """``None`` if there is no file. A file that is not whole (a full disk) has an owner without a name."""
        try:
            status, text = path.stat(), path.read_text()
        except FileNotFoundError:
            return None
        try:
            return cls(**json.loads(text) | {"heartbeat": status.st_mtime})
        except (ValueError, TypeError):
            return cls(f"inode{status.st_ino}", "", 0, "", None, 0, status.st_mtime)

    def is_gone(self, seen_by: Owner, now: float, stale_minutes: float) -> bool:
        """Whether its heartbeat is too old, or ``seen_by`` knows its end: on its machine, or as its job requeued."""
        silent = now - self.heartbeat > 60 * stale_minutes
        requeued = self.job is not None and self.job == seen_by.job and self.restarts < seen_by.restarts
        here = (self.host, self.machine) == (seen_by.host, seen_by.machine)
        return silent or requeued or (here and not _is_alive(self.pid))


def slurm_job() -> str | None:
    """SLURM's number of this process's job, ``None`` outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def holder(folder: Path, stale_minutes: float) -> Owner | None:
    """Who trains the run of ``folder`` now, as far as this machine can tell."""
    last = _last(folder)
    return last if last and not last.is_gone(Owner.this_process(), time.time(), stale_minutes) else None


class RunLock(Observer):
    """A context in which only this process trains the run of a folder.

    As an observer of the run it stops a run whose lock is lost: a process that was suspended for longer than
    ``stale_minutes`` may find that another one has taken over. It then writes nothing, since its checkpoint would
    replace the other's. If the lock was removed and nobody has taken over, the run is saved.
    """

    def __init__(self, folder: Path, stale_minutes: float) -> None:
        self.folder = folder
        self.owner = Owner.this_process()
        self._stale_minutes = stale_minutes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._path = folder  # the file of this owner
        self._request_stop: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        """Take the lock, or raise ``LeftAlone`` if another process has it."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # the last owner has just removed the folder
                self._acquire()
                break
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if _last(self.folder) == self.owner:
            # lock.json goes first: without it the others mean nothing, and the run is free.
            for path in (self.folder / "lock.json", *self.folder.glob("lock.*.json")):
                path.unlink(missing_ok=True)

    def on_start(self, run: RunInfo) -> None:
        self._request_stop = run.request_stop

    def on_save(self) -> None:
        """Raise ``LeftAlone`` if the run has been taken over: the checkpoint would replace the other owner's."""
        last = _last(self.folder)
        if last is not None and last != self.owner:
            raise LeftAlone(f"taken over by {last}: left alone")

    def _acquire(self) -> None:
        if last := _last(self.folder):
            with tempfile.TemporaryFile(dir=self.folder) as new:
                now = os.fstat(new.fileno()).st_mtime  # by the file server's clock
            if not last.is_gone(self.owner, now, self._stale_minutes):
                raise LeftAlone(f"running on {last}: left alone")
        self._path = _successor(self.folder, last)
        beaten = LeftAlone("somebody else has just started it: left alone")
        try:
            file = self._path.open("x")
        except FileExistsError:
            raise beaten from None
        try:
            with file:
                json.dump(asdict(self.owner), file)
            if _last(self.folder) != self.owner:
                raise beaten
        except BaseException:  # beaten, or a full disk
            self._path.unlink(missing_ok=True)
            raise
        if last:
            logger.warning("%s: taken over from %s, which is gone", self.folder.name, last)

    def _beat(self) -> None:
        while not self._over.wait(min(HEARTBEAT, 60 * self._stale_minutes / 4)):
            with contextlib.suppress(OSError):  # the file server may be away for a while
                last = _last(self.folder)
                if last == self.owner:
                    os.utime(self._path)
                    continue
                what = f"{last} has taken the run over" if last else f"{self._path} has been removed"
                logger.warning("%s: %s: it stops here", self.folder.name, what)
                self._request_stop()
                return


def _last(folder: Path) -> Owner | None:
    """The owner that the last file of the chain names."""
    last = None
    while owner := Owner.read(_successor(folder, last)):
        last = owner
    return last


def _successor(folder: Path, owner: Owner | None) -> Path:
    return folder / (f"lock.{owner.token}.json" if owner else "lock.json")


def _machine() -> str:
    """Boot and process namespace: containers may share a host name and number their processes separately."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"boot {boot}, processes {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux
        return ""


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's process
    return True
