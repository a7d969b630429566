"""One attempt at a run, wherever it happens: locked, watched, and with a note if it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from llqr_sam.engine.devices.team import ALONE, Team
from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.loop.run import execute
from llqr_sam.engine.observers.observer import Observer
from llqr_sam.engine.observers.terminal import Terminal
from llqr_sam.engine.observers.wandb_logger import WandbLogger
from llqr_sam.engine.records.record import Record
from llqr_sam.suite.run.faults import RankLost, explained
from llqr_sam.suite.run.job import Job
from llqr_sam.suite.run.lock import LeftAlone, RunLock
from llqr_sam.suite.run.run_folder import ProgressFile, failure_path, note_failure


def attempt(
    job: Job,
    mistakes: tuple[type[Exception], ...] = (),
    team: Team = ALONE,
    observers: Sequence[Observer] = (),
) -> Record:
    """Train a run, unless somebody else does or has done so.

    Args:
        job: The run.
        mistakes: Exceptions that tell of the command, not of the run: they leave no note.
        team: The ranks that train it, each in an attempt of its own. The first one holds the lock and is watched; the
            one that fails notes it.
        observers: Who watches beside the job's own.

    Raises:
        LeftAlone: the run is being trained elsewhere, perhaps since a moment ago, or has a record or a failure that the
            job does not know of.
        Interrupted: a checkpoint is written; the next attempt continues.
        RankLost: another rank is gone; the next attempt continues from the last checkpoint.
        Exception: the attempt failed; ``failure.json`` says why.
    """
    with contextlib.ExitStack() as held:
        watchers = _begin(job, team, held)
        try:
            record = execute(job.settings, job.options, [*watchers, *observers], team)
        except Exception as caught:
            error = explained(caught)
            if not isinstance(error, (Interrupted, LeftAlone, RankLost, *mistakes)):
                note_failure(job.run_id, job.folder, error)
            if error is caught:
                raise
            raise error from caught
    if team.is_first:
        with contextlib.suppress(OSError):  # logs, or what the next one needs to know, are in there
            job.folder.rmdir()
    return record


def _begin(job: Job, team: Team, held: contextlib.ExitStack) -> list[Observer]:
    """Take the lock, for as long as ``held`` is open, and say who watches; all ranks hear whether there is a run.

    Raises:
        LeftAlone: see ``attempt``.
    """
    watchers: list[Observer] = []
    reason = None
    if team.is_first:
        try:
            lock = held.enter_context(RunLock(job.folder, job.stale_minutes))
            if job.outcome() not in (None, job.retries):
                raise LeftAlone("done meanwhile: left alone")
            failure_path(job.folder).unlink(missing_ok=True)  # the log has its traceback
            watchers = [*_observers(job), ProgressFile(), lock]
        except LeftAlone as left:
            reason = str(left)
    reason = team.broadcast(reason)
    if reason is not None:
        raise LeftAlone(reason)
    return watchers


def _observers(job: Job) -> list[Observer]:
    observers: list[Observer] = [Terminal()]
    if job.wandb is not None:
        observers.append(WandbLogger(**job.wandb))
    return observers
