"""What a list of steps is made of: runs to train, networks to time, and scripts whose output is kept.

Each works in a process of its own, so that whatever happens to one leaves the others alone; its time is limited; and it
knows what of it is done, so that the same list goes on where it stopped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.repository import ROOT
from llqr_sam.studies.gpu_window.guard import Guard
from llqr_sam.studies.table_10.measurements import Measurements, measurements
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.launch.launch import make_job, retried_kinds
from llqr_sam.suite.launch.local import Worker
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.run.code_snapshot import environment
from llqr_sam.suite.run.run_folder import failure_path, log_path
from llqr_sam.suite.status.overview import Overview
from llqr_sam.suite.status.status import Status

Outcome = Literal["done", "failed", "cut", "left"]
"""``cut``: its time was up, or somebody stopped it; ``left``: somebody else is at it."""


@dataclass(frozen=True)
class Ended:
    """What became of a step, in a word and in a line."""

    outcome: Outcome
    reason: str = ""


class Step(Protocol):
    """One thing that a list does."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def waits(self) -> bool:
        """Whether there is anything to do."""
        ...

    @property
    def tried(self) -> float:
        """Seconds that did not suffice, where it begins anew each time; else 0."""
        ...

    def lines(self) -> Iterator[str]:
        """What is known of it."""
        ...

    def files(self) -> Iterator[Path]:
        """What it has left so far."""
        ...

    def carry_out(self, guard: Guard, seconds: float | None) -> Ended:
        """Do it, or as much of it as the time allows (``None``: no limit)."""
        ...


class OneWorker:
    """One worker, to which runs are handed one after another; one that ends is replaced."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def train(self, run: Planned, config: Config, guard: Guard, seconds: float | None) -> Ended:
        """Train a run or go on with it."""
        status = Status.under([run], config)
        worker = self._worker or Worker(environment(ROOT))
        worker.give(make_job(run, status, config, Path()))
        with guard.limited(worker.process.pid, seconds) as watched:
            reply = worker.reply()
        self._worker = worker
        if reply.ends or watched.ended:
            self.close()
        if reply.kind == "interrupted" or (watched.ended and reply.kind == "killed"):
            return Ended("cut", "the same command goes on with it")
        if reply.kind == "mistake":
            raise UsageError(reply.reason)
        if reply.kind in ("finished", "diverged"):
            return Ended("done", f"{reply.kind}: {reply.reason}")
        return Ended("left" if reply.kind == "left" else "failed", reply.reason)

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


@dataclass(frozen=True)
class Training:
    """A run.

    Args:
        words: What the list says of it.
        run: The run.
        config: Of the list: places, device, and what is tried again.
        trainer: Trains it.
    """

    words: str
    run: Planned
    config: Config
    trainer: OneWorker
    tried: float = 0.0

    @property
    def name(self) -> str:
        return self.run.run_id

    @property
    def kind(self) -> str:
        """One of ``status.KINDS``."""
        return self._status().of_run(self.run)

    @property
    def waits(self) -> bool:
        return self.kind in ("missing", *retried_kinds(self.config))

    def lines(self) -> Iterator[str]:
        line = Overview(self._status(), Path(self.config.paths.workspace)).line(self.run)
        yield f"{self.words}  {self.run.run_id}  {line}"

    def files(self) -> Iterator[Path]:
        yield from self._status().paths.values()
        folder = Path(self.config.paths.workspace) / self.run.run_id
        yield from (path for path in (log_path(folder), failure_path(folder)) if path.exists())

    def carry_out(self, guard: Guard, seconds: float | None) -> Ended:
        return self.trainer.train(self.run, self.config, guard, seconds)

    def _status(self) -> Status:
        return Status.under([self.run], self.config)


@dataclass(frozen=True)
class Output:
    """A script, whose standard output is kept.

    Args:
        name: Of the step.
        command: A file below the repository with its arguments, or ``-m`` and a module with its own.
        path: Gets the standard output once it has ended well; ``<path>.part`` has it until then, ``<path>.log`` what
            goes to standard error.
    """

    name: str
    command: tuple[str, ...]
    path: Path

    @property
    def waits(self) -> bool:
        return not self.path.exists()

    @property
    def tried(self) -> float:
        return _tried(self.path)

    def lines(self) -> Iterator[str]:
        yield f"output {self.name}  {'waiting' if self.waits else f'done: {self.path}'}"

    def files(self) -> Iterator[Path]:
        yield from _present(self.path)

    def carry_out(self, guard: Guard, seconds: float | None) -> Ended:
        part = _beside(self.path, ".part")
        ended = _ran(self.command, self.path, part, guard, seconds)
        if ended.outcome == "done":
            os.replace(part, self.path)
        return ended


@dataclass(frozen=True)
class Timings:
    """A table of times, whose networks train.py measures and keeps one by one.

    Args:
        name: Of the step.
        words: Of train.py, the table among them.
    """

    name: str
    words: tuple[str, ...]

    @property
    def waits(self) -> bool:
        return self._next() is not None

    @property
    def tried(self) -> float:
        path = self._next()
        return 0.0 if path is None else _tried(path)

    def lines(self) -> Iterator[str]:
        try:
            found = self._found()
        except UsageError as error:  # the device is elsewhere
            yield f"timing {self.name}  {error}"
            return
        yield from (f"timing {self.name}, {network.arch}  {network.state}" for network in found.networks)

    def files(self) -> Iterator[Path]:
        for network in self._found().networks:
            yield from _present(network.path)

    def carry_out(self, guard: Guard, seconds: float | None) -> Ended:
        path = self._next()
        assert path is not None
        return _ran(("train.py", *self.words), path, Path(os.devnull), guard, seconds)

    def _next(self) -> Path | None:
        """What it writes next; ``None`` when each network is measured, or left out on this device."""
        waiting = (network for network in self._found().networks if not network.reason)
        return next((network.path for network in waiting if not network.measured), None)

    def _found(self) -> Measurements:
        return measurements(Command.of(*self.words))


def _ran(command: Sequence[str], path: Path, output: Path, guard: Guard, seconds: float | None) -> Ended:
    """Run a Python command; where it is cut off before it wrote ``path``, the seconds are noted beside it."""
    log = _beside(path, ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(ROOT / word) if (ROOT / word).exists() else word for word in command]
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    with output.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, *words], stdout=out, stderr=err, env=os.environ | paths, start_new_session=True
        )
        with guard.limited(process.pid, seconds) as watched:
            status = process.wait()
    if watched.ended and status:
        if guard.signum is None and seconds is not None and not path.exists():
            with replacing(_beside(path, ".cut")) as mark:
                mark.write(f"{max(seconds, _tried(path))}\n".encode())
        return Ended("cut", "it begins anew with more time, or when all else is done")
    _beside(path, ".cut").unlink(missing_ok=True)
    if status == 0:
        return Ended("done")
    cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    last = log.read_text(errors="replace").strip().rpartition("\n")[2]
    return Ended("failed", f"{cause}{': ' + last if last else ''} ({log})")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _present(path: Path) -> Iterator[Path]:
    """The file, and what there is beside it."""
    yield from (file for file in (path, *(_beside(path, end) for end in (".part", ".log", ".cut"))) if file.exists())


def _tried(path: Path) -> float:
    """Seconds that did not suffice for a file; 0 if it has not been tried."""
    try:
        return float(_beside(path, ".cut").read_text())
    except (OSError, ValueError):
        return 0.0
