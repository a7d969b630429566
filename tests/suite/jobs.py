"""Jobs of real runs on digits, for what carries runs out."""

from __future__ import annotations

from pathlib import Path

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.launch.launch import make_job
from llqr_sam.suite.plan.plan import plan
from llqr_sam.suite.run.attempt import Job
from llqr_sam.suite.status.status import Status

WORDS = ("logger=none", "device=cpu")


def words_in(folder: Path, *words: str) -> list[str]:
    """A command that leaves everything in ``folder``."""
    kept = [word for word in WORDS if not any(other.startswith(word.partition("=")[0] + "=") for other in words)]
    return [*kept, *words, f"paths.results={folder}/results", f"paths.workspace={folder}/work"]


def jobs_of(folder: Path, *words: str) -> list[Job]:
    """The jobs that ``python train.py <words>`` makes."""
    command = Command.of(*words_in(folder, *words))
    status = Status.under(plan(command), command.config)
    return [make_job(run, status, command.config, folder) for run in status.runs]
