"""What a run leaves in its folder of the workspace while it has no record: how far it is, or why it failed.

``progress.json`` is written after each evaluation and goes with the record. ``failure.json`` is the last attempt's
error, until the next one begins. ``log.txt`` has what workers printed and the traceback of a failure.
"""

from __future__ import annotations

import json
import logging
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.record import CurvePoint, Record, read_record
from llqr_sam.engine.records.typed_json import DamagedRecordError

logger = logging.getLogger(__name__)

Trace = TypeVar("Trace", "Failure", "Epochs")


class UnreadableRecordError(ValueError):
    """A record that is there, whatever it says: the message is one line with the file and the reason."""


@dataclass(frozen=True)
class Failure:
    """Why the last attempt at a run ended, or what else stands in its way."""

    run_id: str
    error: str  # type and last line of the exception
    log: str  # file with the traceback
    host: str
    time: float  # seconds since the epoch


@dataclass(frozen=True)
class Epochs:
    """How far a run is."""

    done: float  # finished epochs, at the last evaluation
    planned: int
    best: float | None  # score
    seconds: float  # spent on the run, over resumes
    time: float  # of this count, seconds since the epoch
    devices: int = 1  # that train it together
    unit: str = "%"  # of the score

    @property
    def device_seconds(self) -> float:
        """What it has cost."""
        return self.seconds * self.devices

    def left(self, now: float) -> float | None:
        """Seconds to the end at the pace so far, if there was an evaluation."""
        if not self.done:
            return None
        return max(0.0, self.seconds / self.done * (self.planned - self.done) - max(0.0, now - self.time))


class ProgressFile(Observer):
    """Keeps ``progress.json``; a disk that does not take it costs a warning."""

    def on_start(self, run: RunInfo) -> None:
        self._path = progress_path(run.folder)
        self._planned, self._devices = run.epochs, run.devices
        self._best = max((point.score for point in run.curve if point.score is not None), default=None)
        self._unit = run.curve[-1].unit if run.curve else "%"
        last = run.curve[-1] if run.curve else None
        self._write(last.epoch if last else 0, last.seconds if last else 0.0)

    def on_epoch(self, point: CurvePoint) -> None:
        if point.score is not None:
            self._best = point.score if self._best is None else max(self._best, point.score)
            self._unit = point.unit
        self._write(point.epoch, point.seconds)

    def on_end(self, record: Record) -> None:
        self._path.unlink(missing_ok=True)

    def _write(self, done: float, seconds: float) -> None:
        try:
            epochs = Epochs(done, self._planned, self._best, seconds, time.time(), self._devices, self._unit)
            _write(self._path, asdict(epochs))
        except OSError as error:
            logger.warning("%s is not written: %s", self._path, error)


def progress_path(folder: Path) -> Path:
    return folder / "progress.json"


def failure_path(folder: Path) -> Path:
    return folder / "failure.json"


def log_path(folder: Path) -> Path:
    return folder / "log.txt"


def reason_of(error: BaseException) -> str:
    """Type and last line of an exception, as ``failure.json`` and messages give them."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + lines[-1] if lines else ''}"


def note_failure(run_id: str, folder: Path, error: BaseException) -> None:
    """Write ``failure.json`` and add the traceback to the log; where the disk is full, say so and go on."""
    reason = reason_of(error)
    failure = Failure(run_id, reason, str(log_path(folder)), socket.gethostname(), time.time())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with log_path(folder).open("a") as log:
            log.write("".join(traceback.format_exception(error)))
        _write(failure_path(folder), asdict(failure))
    except OSError as problem:
        logger.warning("the failure of %s (%s) is not noted: %s", run_id, reason, problem)


def read_failure(folder: Path) -> Failure | None:
    """The failure noted in a run's folder."""
    return _read(failure_path(folder), Failure)


def read_progress(folder: Path) -> Epochs | None:
    """How far the run of a folder is, or was when it stopped."""
    return _read(progress_path(folder), Epochs)


def record_files(results: Path, run_id: str = "") -> dict[str, list[Path]]:
    """Files named after a run, or after each: ``<run_id>.json``, ``<run_id>.2.json`` ..., folder by folder."""
    files: dict[str, list[Path]] = {}
    found = (results / "runs").glob(f"*/{run_id}*.json")
    for path in sorted(found, key=lambda path: (path.parent, len(path.name), path.name)):
        files.setdefault(path.name.partition(".")[0], []).append(path)
    return files


def find_record(run_id: str, candidates: Sequence[Path]) -> tuple[tuple[Path, Record] | None, list[str]]:
    """The record that counts among those of a run, and a line for each other that ought not to be there.

    It is the first finished one, or else the last diverged one: a retried run leaves what it ended with before.

    Raises:
        UnreadableRecordError: none is finished that can be read, and one cannot be: the run may well be done.
    """
    counted: tuple[Path, Record] | None = None
    unreadable = None
    passed: list[str] = []
    for path in candidates:
        try:
            record = read_record(path)
            if record.run_id != run_id:
                raise DamagedRecordError(f"{path}: it holds the run {record.run_id}")
        except FileNotFoundError:
            continue  # between listing and reading
        except OSError as error:
            unreadable = f"{path}: {error.strerror}"
            passed.append(unreadable)
            continue
        except DamagedRecordError as error:
            passed.append(str(error))
            continue
        if counted is None or counted[1].status != "finished":
            counted = path, record
        elif record.status == "finished":
            passed.append(f"{path}: the run has a record already, {counted[0]}")
    if unreadable is not None and (counted is None or counted[1].status != "finished"):
        raise UnreadableRecordError(unreadable)
    return counted, passed


def _write(path: Path, tree: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(tree, sort_keys=True, indent=1) + "\n").encode())


def _read(path: Path, kind: type[Trace]) -> Trace | None:
    """The trace in a file; ``None`` where there is none or it is of another version."""
    try:
        return kind(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
