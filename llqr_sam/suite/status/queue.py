"""Where the SLURM jobs of runs are, by one call of squeue; ``queue.json`` in a run's folder names its job."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llqr_sam.suite.run.run_folder import Queued

PATIENCE = 10.0  # seconds that SLURM may take to answer


class NoAnswer(Exception):
    """SLURM is not here or does not answer; the message says which."""


@dataclass(frozen=True)
class Place:
    """Where the job of a run is."""

    job: str
    state: str | None  # squeue's: PENDING, RUNNING ...; "": it is not in the queue; None: nobody here knows
    reason: str = ""  # squeue's; or why nobody knows

    @property
    def is_taken(self) -> bool:
        """Whether the job may still train the run."""
        return self.state != ""

    def __str__(self) -> str:
        if self.state is None:
            return f"queued as job {self.job} ({self.reason})"
        if self.state == "":
            return f"no job: {self.job} is not in the queue any more"
        if self.state == "PENDING":
            held = self.reason.startswith("JobHeld")
            return (
                f"held: job {self.job} ({self.reason})" if held else f"queued: job {self.job} pending ({self.reason})"
            )
        if self.state in ("RUNNING", "CONFIGURING"):
            return f"starting: job {self.job} is running and has not begun to train"
        return f"queued: job {self.job} {self.state.lower()}"


def places(notes: Mapping[str, Queued]) -> dict[str, Place]:
    """Run id -> where its job is, from run id -> its note. SLURM is asked only if there are notes."""
    if not notes:
        return {}
    here = cluster()
    others = {run_id: note for run_id, note in notes.items() if here and note.cluster and note.cluster != here}
    found = {run_id: Place(note.job, None, f"of cluster {note.cluster}") for run_id, note in others.items()}
    asked = {run_id: note.job for run_id, note in notes.items() if run_id not in others}
    try:
        queue = _squeue(asked.values()) if asked else {}
        return found | {run_id: queue.get(job, Place(job, "")) for run_id, job in asked.items()}
    except NoAnswer as answer:
        return found | {run_id: Place(job, None, str(answer)) for run_id, job in asked.items()}


def cluster() -> str | None:
    """The name of this machine's SLURM cluster; ``None`` where there is none or it does not answer."""
    try:
        name = re.search(r"^ClusterName\s*=\s*(\S+)", _ask("scontrol", "show", "config").stdout, re.MULTILINE)
    except NoAnswer:
        return None
    return name[1] if name else None


def _squeue(jobs: Iterable[str]) -> dict[str, Place]:
    """Job -> its place, of those that are in the queue."""
    numbers = ",".join(sorted({job.partition("_")[0] for job in jobs}))
    answer = _ask("squeue", "--noheader", "--array", "--format=%i|%T|%r", f"--jobs={numbers}")
    if answer.returncode != 0 and "Invalid job id" not in answer.stderr:  # so it says of a single job that is gone
        raise NoAnswer("squeue does not answer")
    lines = [line.split("|") for line in answer.stdout.splitlines()]
    return {job: Place(job, state, reason) for job, state, reason in lines}


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except OSError:
        raise NoAnswer(f"no {command[0]} here") from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} does not answer") from None
