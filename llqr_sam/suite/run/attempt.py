"""One attempt at a run, from its ``Job`` to a record or ``Reply``: locked, watched, and noted if it fails."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from llqr_sam.data.streams import MissingDataError
from llqr_sam.engine import plugins
from llqr_sam.engine.devices.team import ALONE, Team, is_loss
from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.loop.run import execute
from llqr_sam.engine.loop.trainer import CheckpointMismatchError
from llqr_sam.engine.observers.observer import Observer
from llqr_sam.engine.observers.terminal import Terminal
from llqr_sam.engine.observers.wandb_logger import WandbLogger
from llqr_sam.engine.records.checkpoint import CheckpointStore
from llqr_sam.engine.records.record import KEPT, Record, UnwrittenRecordError, epoch_words, read_record
from llqr_sam.engine.settings.run_settings import RunOptions, RunSettings
from llqr_sam.suite.run.lock import LeftAlone, RunLock
from llqr_sam.suite.run.run_folder import (
    Begun,
    Epochs,
    Failure,
    ProgressFile,
    Queued,
    find_record,
    note_begun,
    note_failure,
    reason_of,
    record_files,
)

# The data are missing, or are not those that the run began with: every run of the command would fail like this.
WRONG_DATA = (MissingDataError, CheckpointMismatchError)
Mistakes = tuple[type[Exception], ...]
_CUDA_ERRORS = ("CUDA error", "Triton Error [CUDA]")  # not "CUDA out of memory": a process survives that


class ProcessLost(RuntimeError):
    """A process of the run has ended; the message is one line, and a traceback would say no more."""


class RankLost(ProcessLost):
    """One of the run's ranks; the next launch continues the run."""


class LoaderLost(ProcessLost):
    """A process that reads the data set."""


class DeviceLost(RuntimeError):
    """CUDA refuses all further work in this process, for example after an illegal memory access."""


@dataclass(frozen=True)
class Job:
    """A run, and how to carry it out. As JSON it goes to other processes and machines, with every path absolute."""

    settings: Annotated[RunSettings, PlainSerializer(RunSettings.as_dict), PlainValidator(RunSettings.from_dict)]
    options: RunOptions
    results: Path
    wandb: dict[str, Any] | None  # arguments of WandbLogger; None: no such logging
    stale_minutes: float
    retries: str | None = None  # hash of the failed result that this job retries (``outcome``); a newer result wins
    plugins: dict[str, str] = field(default_factory=plugins.loaded)  # module -> its folder, of those that may take part
    alone: bool = False  # the only run of a command, trained by it: a ValueError is a mistake of the command
    label: str = ""  # what tells it from the other runs of its command, for people

    @property
    def run_id(self) -> str:
        """Identity of the run."""
        return self.settings.run_id

    @property
    def folder(self) -> Path:
        """The run's folder in the workspace."""
        return self.options.workspace / self.run_id

    @property
    def begun(self) -> Begun:
        """What its folder says of it while it has no record."""
        return Begun(self.settings.as_dict(), self.options.record_path.parent.name)

    def outcome(self) -> str | None:
        """Hash of the run's record, or else of its failure; ``None`` while it has neither."""
        return file_hash(self.record_file() or Failure.path(self.folder))

    def record_file(self) -> Path | None:
        """The record that counts, if the run has one."""
        found, _ = find_record(self.run_id, record_files(self.results, self.run_id).get(self.run_id, []))
        return found[0] if found else None

    def to_json(self) -> str:
        """One line."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json") | {"run_id": self.run_id}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Inverse of ``to_json``; ``$NAME`` in the data root is expanded here, on the machine that runs the job.

        A ValueError if it is no job, or another version of the code made it: its settings make another run id.
        """
        tree = json.loads(text)
        plugins.load(tree.get("plugins", {}))  # before the settings are read, which may name parts of theirs
        job = _ADAPTER.validate_python(tree)
        if job.run_id != tree["run_id"]:
            raise ValueError(f"the job of run {tree['run_id']} describes run {job.run_id}: another version made it")
        data_root = Path(os.path.expandvars(job.options.data_root))
        return replace(job, options=replace(job.options, data_root=data_root))


_ADAPTER = TypeAdapter(Job)


def file_hash(path: Path) -> str | None:
    """SHA-256 of a file, ``None`` if there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


@dataclass(frozen=True)
class Reply:
    """What became of a run."""

    kind: Literal["finished", "diverged", "failed", "interrupted", "left", "mistake", "killed", "unwritten"]
    reason: str = ""  # one line
    ends: bool = False  # the process that trained it must end and takes no other run


def attempted(job: Job, team: Team = ALONE) -> Reply:
    """What became of an attempt; a bug or mistake in the only run of a command is raised, for its traceback."""
    mistakes = (*WRONG_DATA, ValueError) if job.alone else WRONG_DATA
    try:
        record = attempt(job, mistakes, team)
    except LeftAlone as reason:
        return Reply("left", str(reason))
    except Interrupted as interruption:
        return Reply("interrupted", str(interruption), ends=True)
    except RankLost as loss:
        return Reply("killed", str(loss), ends=True)
    except UnwrittenRecordError as problem:
        return Reply("unwritten", str(problem))
    except mistakes as error:
        if job.alone and team.size == 1:
            raise
        return Reply("mistake", str(error))
    except Exception as error:
        if job.alone and not isinstance(error, (ProcessLost, OSError)):
            raise
        return Reply("failed", reason_of(error), ends=isinstance(error, DeviceLost))
    best = record.metrics.best
    score = "" if best.score is None else f"best {best.words} (epoch {epoch_words(best.epoch)})"
    return Reply(record.status, ", ".join(filter(None, [score, record.error])))


def attempt(job: Job, mistakes: Mistakes = (), team: Team = ALONE, observers: Sequence[Observer] = ()) -> Record:
    """Train a run, unless another process does or has done so.

    Args:
        job: The run.
        mistakes: Exceptions that say something of the command, not of the run: they are not noted as its failure.
        team: The ranks that train it, each in its own call. The first rank holds the lock and is watched.
        observers: Added to the job's own.

    Raises:
        LeftAlone: another process trains the run, or it has a result that the job does not retry.
        Interrupted: a checkpoint is written; the next attempt continues.
        UnwrittenRecordError: its record cannot be written and is kept in its folder.
        RankLost: another rank has ended; the next attempt continues from the last checkpoint.
        Exception: the attempt failed; ``failure.json`` says why.
    """
    with contextlib.ExitStack() as held:
        if team.is_first:
            held.callback(_remove_if_empty, job.folder)
        watchers = _begin(job, team, held)
        try:
            record = execute(job.settings, job.options, [*watchers, *observers], team)
        except Exception as caught:
            error = explained(caught)
            if not isinstance(error, (Interrupted, LeftAlone, RankLost, UnwrittenRecordError, *mistakes)):
                note_failure(job.run_id, job.folder, error)
            elif isinstance(error, mistakes) and not (job.folder / "checkpoints").exists():
                Begun.path(job.folder).unlink(missing_ok=True)  # there is no such run
            if error is caught:
                raise
            raise error from caught
        if team.is_first:
            _forget(job.folder)
        return record


def _forget(folder: Path) -> None:
    """Remove the notes about a run that has a record now."""
    for note in (Begun, Epochs, Queued):
        note.path(folder).unlink(missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it holds checkpoints, a log or kept weights
        folder.rmdir()


def _begin(job: Job, team: Team, held: contextlib.ExitStack) -> list[Observer]:
    """Take the lock for as long as ``held`` is open and return the observers; every rank learns whether to train."""
    watchers: list[Observer] = []
    refusal: Exception | None = None
    if team.is_first:
        try:
            lock = held.enter_context(RunLock(job.folder, job.stale_minutes))
            if job.outcome() not in (None, job.retries):
                raise LeftAlone("done meanwhile: left alone")
            _write_kept_record(job)
            note_begun(job.folder, job.begun)
            watchers = [Terminal(label=job.label), ProgressFile(), lock]
            if job.wandb is not None:
                watchers.append(WandbLogger(**job.wandb))
        except (LeftAlone, OSError) as reason:
            refusal = reason
    if (refusal := team.broadcast(refusal)) is not None:
        raise refusal
    return watchers


def _write_kept_record(job: Job) -> None:
    """Write the record that an earlier attempt could not; the run has ended then, and is left alone."""
    kept = job.folder / KEPT
    if not kept.exists():
        return
    record = read_record(kept)
    path = record.write_or_keep(job.options.record_path, job.folder)
    kept.unlink()
    _forget(job.folder)
    if record.status == "finished":
        CheckpointStore(job.folder / "checkpoints").clear()
    raise LeftAlone(f"it had ended, and its record is written now: {path}")


def explained(error: Exception) -> Exception:
    """The fault behind ``error``, or ``error`` itself if it is none of these faults."""
    if is_loss(error):
        return RankLost("another rank of the run is gone or does not answer; the next launch continues the run")
    if not isinstance(error, RuntimeError):
        return error
    # torch gives these errors no type of their own (AcceleratorError, a RuntimeError, since torch 2.8).
    if found := re.match(r"DataLoader worker \(pid\S* ([\d, ]+)\)(.*)", str(error)):
        fate = found[2].strip().rstrip(". ")
        return LoaderLost(f"process {found[1]}, which reads the data set, {fate}; retry=failed continues the run")
    if isinstance(error, getattr(torch, "AcceleratorError", ())) or str(error).startswith(_CUDA_ERRORS):
        return DeviceLost(f"{str(error).splitlines()[0]}; the next run needs a new process")
    return error


def how_it_ended(status: int) -> str:
    """A process's exit status in words."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
