"""What a run without a record keeps in its folder of the workspace: how far it is, or why it failed.

``progress.json`` is written at the start and after each evaluation, and removed when the record is written.
``failure.json`` is the error of the last attempt, until the next attempt begins. ``log.txt`` has what workers printed
and the traceback of a failure.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.record import CurvePoint, Record, read_record
from llqr_sam.engine.records.typed_json import DamagedRecordError

logger = logging.getLogger(__name__)

Content = TypeVar("Content", "Failure", "Epochs")


class UnreadableRecordError(ValueError):
    """A record exists and the file system cannot read it; the message is one line: the file and the reason."""


@dataclass(frozen=True)
class Failure:
    """Why the last attempt at a run failed, or why its record cannot be read."""

    error: str  # type and last line of the exception
    log: str  # file with the traceback
    time: float = 0.0  # seconds since the epoch; makes two failures with one error differ


@dataclass(frozen=True)
class Epochs:
    """How far a run is."""

    done: float  # epochs finished at the last evaluation
    planned: int
    best: float | None  # score
    seconds: float  # spent on the run, over resumes
    time: float  # of the last evaluation, seconds since the epoch
    devices: int = 1  # that train it together
    unit: str = "%"  # of the score

    @property
    def device_seconds(self) -> float:
        """What the run has cost."""
        return self.seconds * self.devices

    def left(self, now: float) -> float | None:
        """Seconds to the end at the pace so far; ``None`` before the first evaluation."""
        if not self.done:
            return None
        return max(0.0, self.seconds / self.done * (self.planned - self.done) - max(0.0, now - self.time))


class ProgressFile(Observer):
    """Keeps ``progress.json``; a full disk costs a warning."""

    def on_start(self, run: RunInfo) -> None:
        self._run, self._curve = run, list(run.curve)
        self._write()

    def on_epoch(self, point: CurvePoint) -> None:
        self._curve.append(point)
        self._write()

    def on_end(self, record: Record) -> None:
        progress_path(self._run.folder).unlink(missing_ok=True)

    def _write(self) -> None:
        scores = [(point.score, point.unit) for point in self._curve if point.score is not None]
        best, unit = max(scores, default=(None, "%"))
        done, seconds = (self._curve[-1].epoch, self._curve[-1].seconds) if self._curve else (0, 0.0)
        epochs = Epochs(done, self._run.epochs, best, seconds, time.time(), self._run.devices, unit)
        path = progress_path(self._run.folder)
        try:
            _write(path, epochs)
        except OSError as error:
            logger.warning("%s is not written: %s", path, error)


def progress_path(folder: Path) -> Path:
    return folder / "progress.json"


def failure_path(folder: Path) -> Path:
    return folder / "failure.json"


def log_path(folder: Path) -> Path:
    return folder / "log.txt"


def reason_of(error: BaseException) -> str:
    """Type and last line of an exception."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + lines[-1] if lines else ''}"


def note_failure(run_id: str, folder: Path, error: BaseException) -> None:
    """Write ``failure.json`` and add the traceback to the log; a full disk costs a warning."""
    reason = reason_of(error)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with log_path(folder).open("a") as log:
            log.write("".join(traceback.format_exception(error)))
        _write(failure_path(folder), Failure(reason, str(log_path(folder)), time.time()))
    except OSError as problem:
        logger.warning("the failure of %s (%s) is not noted: %s", run_id, reason, problem)


def read_failure(folder: Path) -> Failure | None:
    """The failure noted in a run's folder."""
    return _read(failure_path(folder), Failure)


def read_progress(folder: Path) -> Epochs | None:
    """How far the run is, or was when it stopped."""
    return _read(progress_path(folder), Epochs)


def record_files(results: Path, run_id: str = "") -> dict[str, list[Path]]:
    """Run id -> its record files ``<run_id>.json``, ``<run_id>.2.json`` ..., folder by folder; "": of all runs."""
    files: dict[str, list[Path]] = {}
    found = (results / "runs").glob(f"*/{run_id}*.json")
    for path in sorted(found, key=lambda path: (path.parent, len(path.name), path.name)):
        files.setdefault(path.name.partition(".")[0], []).append(path)
    return files


def find_record(run_id: str, candidates: Sequence[Path]) -> tuple[tuple[Path, Record] | None, list[str]]:
    """The record of a run, and a line for each other candidate that should not be there.

    The first finished record counts, else the last diverged one: a retry leaves the diverged record in place.

    Raises:
        UnreadableRecordError: no finished record can be read, and one file cannot be: the run may be finished.
    """
    counted: tuple[Path, Record] | None = None
    unreadable = None
    not_counted: list[str] = []
    for path in candidates:
        try:
            record = read_record(path)
            if record.run_id != run_id:
                raise DamagedRecordError(f"{path}: it holds the run {record.run_id}")
        except FileNotFoundError:
            continue  # removed since it was listed
        except OSError as error:
            unreadable = f"{path}: {error.strerror}"
            not_counted.append(unreadable)
            continue
        except DamagedRecordError as error:
            not_counted.append(str(error))
            continue
        if counted is None or counted[1].status != "finished":
            counted = path, record
        elif record.status == "finished":
            not_counted.append(f"{path}: the run has a record already, {counted[0]}")
    if unreadable is not None and (counted is None or counted[1].status != "finished"):
        raise UnreadableRecordError(unreadable)
    return counted, not_counted


def _write(path: Path, content: Failure | Epochs) -> None:
    with replacing(path) as file:
        file.write((json.dumps(asdict(content), sort_keys=True, indent=1) + "\n").encode())


def _read(path: Path, kind: type[Content]) -> Content | None:
    """``None`` if there is no file, or one of another version."""
    try:
        return kind(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
