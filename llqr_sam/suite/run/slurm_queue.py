"""What the SLURM of this machine has in its queue."""

from __future__ import annotations

import getpass
import re
import subprocess
from dataclasses import dataclass

LIMIT = 30.0  # seconds for SLURM to answer


@dataclass(frozen=True)
class Queue:
    """One user's jobs on one cluster."""

    cluster: str
    arrays: frozenset[str]  # numbers of arrays, and of jobs that are in none, with a job waiting or running


def queue() -> Queue | None:
    """This user's; ``None`` where there is no SLURM or it does not answer."""
    configuration = _answer("scontrol", "show", "config")
    jobs = _answer("squeue", f"--user={getpass.getuser()}", "--noheader", "--format=%F")
    match = re.search(r"^ClusterName\s*=\s*(\S+)", configuration or "", re.MULTILINE)
    return Queue(match[1], frozenset(jobs.split())) if match and jobs is not None else None


def _answer(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
