"""What a run without a record keeps in its folder of the workspace: how far it is, or why it failed.

``settings.json``, ``progress.json`` and ``queue.json``, the SLURM job, stay until the record is written,
``failure.json`` until the next attempt trains. ``log.txt`` has what workers printed and the traceback of a failure.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.checkpoint import CheckpointStore
from llqr_sam.engine.records.record import CurvePoint, Record, read_record
from llqr_sam.engine.records.typed_json import DamagedRecordError

logger = logging.getLogger(__name__)


class UnreadableRecordError(ValueError):
    """A record exists and the file system cannot read it; the message is one line: the file and the reason."""


class _Note:
    """The content of one JSON file in a run's folder."""

    name: ClassVar[str]

    @classmethod
    def path(cls, folder: Path) -> Path:
        """The file."""
        return folder / cls.name

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """``None`` if there is no file, or one of another version."""
        try:
            return cls(**json.loads(cls.path(folder).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Create or replace the file."""
        with replacing(self.path(folder)) as file:
            file.write((json.dumps(vars(self), sort_keys=True, indent=1) + "\n").encode())


@dataclass(frozen=True)
class Failure(_Note):
    """Why the last attempt at a run failed, or why its record cannot be read."""

    name = "failure.json"
    error: str  # type and last line of the exception
    log: str  # file with the traceback
    time: float = 0.0  # seconds since the epoch; makes two failures with one error differ


@dataclass(frozen=True)
class Queued(_Note):
    """The SLURM job that was queued for a run last. It may be requeued, so it is kept until the run has a record."""

    name = "queue.json"
    job: str  # 123, or 123_4 of an array
    cluster: str | None  # None: scontrol did not say


@dataclass(frozen=True)
class Begun(_Note):
    """Which run it is; what lists runs without being told their settings finds it by this."""

    name = "settings.json"
    config: dict[str, Any]  # RunSettings.as_dict()
    folder: str  # of its record under results/runs: table_02, adhoc


@dataclass(frozen=True)
class Epochs(_Note):
    """How far a run is, or was when it stopped."""

    name = "progress.json"
    done: float  # epochs finished at the last evaluation
    planned: int
    best: float | None  # score
    seconds: float  # spent on the run, over resumes
    time: float  # of the last evaluation, seconds since the epoch
    devices: int = 1  # that train it together
    unit: str = "%"  # of the score
    steps_per_epoch: int | None = None
    kept: float | None = None  # epochs at the newest checkpoint, as ``read`` finds it; the file does not know

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        epochs = super().read(folder)
        if epochs is None or epochs.steps_per_epoch is None:
            return epochs
        step = CheckpointStore(folder / "checkpoints").latest_step()
        return replace(epochs, kept=step / epochs.steps_per_epoch)

    @property
    def lost(self) -> float:
        """What the next launch repeats, in seconds of one device; less than 0 if an evaluation came before the save."""
        return self.device_seconds * (1 - self.kept / self.done) if self.done and self.kept is not None else 0.0

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
    """Keeps ``progress.json``, and removes ``failure.json`` once training begins; a full disk costs a warning."""

    def on_start(self, run: RunInfo) -> None:
        Failure.path(run.folder).unlink(missing_ok=True)  # the log keeps its traceback
        self._run, self._curve = run, list(run.curve)
        self._write()

    def on_epoch(self, point: CurvePoint) -> None:
        self._curve.append(point)
        self._write()

    def on_end(self, record: Record) -> None:
        Epochs.path(self._run.folder).unlink(missing_ok=True)

    def _write(self) -> None:
        scores = [(point.score, point.unit) for point in self._curve if point.score is not None]
        best, unit = max(scores, default=(None, "%"))
        done, seconds = (self._curve[-1].epoch, self._curve[-1].seconds) if self._curve else (0, 0.0)
        run = self._run
        epochs = Epochs(done, run.epochs, best, seconds, time.time(), run.devices, unit, run.steps_per_epoch)
        try:
            epochs.write(self._run.folder)
        except OSError as error:
            logger.warning("%s is not written: %s", Epochs.path(self._run.folder), error)


def note_begun(folder: Path, begun: Begun) -> None:
    """Write ``settings.json``; a full disk costs a warning."""
    try:
        begun.write(folder)
    except OSError as error:
        logger.warning("%s is not written: %s", Begun.path(folder), error)


def log_path(folder: Path) -> Path:
    """The log of the run in ``folder``."""
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
        Failure(reason, str(log_path(folder)), time.time()).write(folder)
    except OSError as problem:
        logger.warning("the failure of %s (%s) is not noted: %s", run_id, reason, problem)


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
        except DamagedRecordError as error:
            not_counted.append(str(error))
        else:
            if counted is None or counted[1].status != "finished":
                counted = path, record
            elif record.status == "finished":
                not_counted.append(f"{path}: the run has a record already, {counted[0]}")
    if unreadable is not None and (counted is None or counted[1].status != "finished"):
        raise UnreadableRecordError(unreadable)
    return counted, not_counted
