"""One attempt at a run, wherever it happens: locked, watched, and with a note if it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from llqr_sam.engine.interruption import Interrupted
from llqr_sam.engine.observer import Observer
from llqr_sam.engine.progress import progress
from llqr_sam.engine.record import Record
from llqr_sam.engine.run import execute
from llqr_sam.engine.wandb_logger import WandbLogger
from llqr_sam.suite.job import Job
from llqr_sam.suite.lock import LeftAlone, RunLock
from llqr_sam.suite.traces import ProgressFile, failure_path, note_failure


def attempt(job: Job, mistakes: tuple[type[Exception], ...] = (), observers: Sequence[Observer] = ()) -> Record:
    """Train a run, unless somebody else does or has done so.

    Args:
        job: The run.
        mistakes: Exceptions that tell of the command, not of the run: they leave no note.
        observers: Who watches beside the job's own.

    Raises:
        LeftAlone: the run is being trained elsewhere, or has a record or a failure that the job does not know of.
        Interrupted: a checkpoint is written; the next attempt continues.
        Exception: the attempt failed; ``failure.json`` says why.
    """
    with RunLock(job.folder, job.stale_minutes) as lock:
        if job.outcome() not in (None, job.retries):
            raise LeftAlone("done meanwhile: left alone")
        try:
            record = execute(job.settings, job.options, [*_observers(job), *observers, ProgressFile(), lock])
        except Exception as error:
            if not isinstance(error, (Interrupted, *mistakes)):
                note_failure(job.run_id, job.folder, error)
            raise
        failure_path(job.folder).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # logs, or what the next one needs to know, are in there
        job.folder.rmdir()
    return record


def _observers(job: Job) -> list[Observer]:
    observers: list[Observer] = [progress()]
    if job.wandb is not None:
        observers.append(WandbLogger(**job.wandb))
    return observers
