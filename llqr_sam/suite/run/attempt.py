"""One attempt at a run, wherever it happens: locked, watched, and noted if it fails."""

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
    """Train a run, unless another process does or has done so.

    Args:
        job: The run.
        mistakes: Exceptions that say something of the command, not of the run: they are not noted as its failure.
        team: The ranks that train it, each in its own call. The first rank holds the lock and is watched.
        observers: Added to the job's own.

    Raises:
        LeftAlone: another process trains the run, or it has a result that the job does not retry.
        Interrupted: a checkpoint is written; the next attempt continues.
        RankLost: another rank has ended; the next attempt continues from the last checkpoint.
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
        with contextlib.suppress(OSError):  # it keeps a log or kept weights
            job.folder.rmdir()
    return record


def _begin(job: Job, team: Team, held: contextlib.ExitStack) -> list[Observer]:
    """Take the lock for as long as ``held`` is open and return the observers; every rank learns whether to train.

    Raises:
        LeftAlone: see ``attempt``.
    """
    watchers: list[Observer] = []
    refusal = None
    if team.is_first:
        try:
            lock = held.enter_context(RunLock(job.folder, job.stale_minutes))
            if job.outcome() not in (None, job.retries):
                raise LeftAlone("done meanwhile: left alone")
            failure_path(job.folder).unlink(missing_ok=True)  # the log keeps its traceback
            watchers = [Terminal(), ProgressFile(), lock]
            if job.wandb is not None:
                watchers.append(WandbLogger(**job.wandb))
        except LeftAlone as reason:
            refusal = str(reason)
    refusal = team.broadcast(refusal)
    if refusal is not None:
        raise LeftAlone(refusal)
    return watchers
