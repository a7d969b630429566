"""A process that trains what it is handed: many runs from a launcher on this machine, or one run under SLURM.

    python -m llqr_sam.suite.run.worker        reads a ``Job`` a line, answers each with a ``Reply`` a line

What a run prints goes to its ``log.txt``. The end of standard input means that the launcher is done or dead: a run that
is training is saved, and the worker ends.

SLURM sends USR2 before the time limit: engine/loop/interruption.py makes it a stop after the current step with a
checkpoint (``Interrupted``), and ``SlurmRun`` then requeues the job.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.records.record import Record, epoch_words
from llqr_sam.suite.run.attempt import WRONG_DATA, DeviceLost, RankLost, attempt
from llqr_sam.suite.run.job import Job
from llqr_sam.suite.run.lock import LeftAlone, slurm_job
from llqr_sam.suite.run.multi_device import take_part, train
from llqr_sam.suite.run.run_folder import log_path, reason_of


@dataclass(frozen=True)
class Reply:
    """What became of a run."""

    kind: Literal["finished", "diverged", "failed", "interrupted", "left", "mistake", "killed"]
    reason: str = ""  # one line
    ends: bool = False  # the worker ends and takes no other run


class SlurmRun:
    """What submitit calls in a SLURM task: it trains one run, or one rank of it.

    Args:
        text: The job's JSON. Nothing else is pickled.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self) -> str:
        """Train; after a signal, requeue the job.

        Returns:
            What became of the run.

        Raises:
            Exception: the run failed; the failure is noted in its folder.
        """
        job = Job.from_json(self.text)
        with _printing_to(log_path(job.folder)):
            try:
                return self._train(job).status
            except LeftAlone as reason:
                return str(reason)
            except Interrupted as interruption:
                print(f"interrupted: {interruption}", file=sys.stderr, flush=True)
                is_first = os.environ.get("SLURM_PROCID", "0") == "0"
                raise SystemExit(requeue() if is_first else 0) from interruption

    def _train(self, job: Job) -> Record:
        if job.options.devices == 1:
            return attempt(job)
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        return take_part(job)

    def checkpoint(self) -> Any:
        """submitit's own way to requeue, for a signal before or after training."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def requeue() -> int:
    """Requeue this process's SLURM job, unless SLURM is ending it.

    A job that was warned (time limit, preemption with grace time) still counts as running. One that was cancelled does
    not, and SLURM would requeue it all the same; one that SLURM itself requeues does not either.

    Returns:
        Exit status for the job: 0 if it is in the queue again, else 1.
    """
    number = slurm_job()
    assert number is not None
    if "JobState=RUNNING" not in _scontrol("show", "job", number).stdout:
        print(f"job {number} is being ended: SLURM or the next launch continues it", file=sys.stderr, flush=True)
        return 1
    answer = _scontrol("requeue", number)
    print(answer.stderr.strip() or f"job {number} is in the queue again", file=sys.stderr, flush=True)
    return min(answer.returncode, 1)


def _scontrol(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["scontrol", *words], capture_output=True, text=True, check=False)


def carry_out(text: str) -> Reply:
    """Train the run of a job's JSON; whatever happens, returns what became of it."""
    try:
        job = Job.from_json(text)
        with _printing_to(log_path(job.folder)):
            record = train(job, mistakes=WRONG_DATA)
    except LeftAlone as reason:
        return Reply("left", str(reason))
    except (Interrupted, KeyboardInterrupt) as interruption:
        return Reply("interrupted", str(interruption), ends=True)
    except RankLost as loss:
        return Reply("killed", str(loss), ends=True)
    except WRONG_DATA as error:
        return Reply("mistake", str(error))
    except Exception as error:
        return Reply("failed", reason_of(error), ends=isinstance(error, DeviceLost))
    best = record.metrics.best
    score = "" if best.score is None else f"best {best.words} (epoch {epoch_words(best.epoch)})"
    return Reply(record.status, ", ".join(filter(None, [score, record.error])))


def main() -> int:
    """Serve standard input until it ends, a run is interrupted, or CUDA refuses further work."""
    training, ended = threading.Event(), threading.Event()
    threading.Thread(target=_watch_input, args=(training, ended), daemon=True).start()
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    for line in sys.stdin:
        training.set()
        if ended.is_set():
            break
        reply = carry_out(line)
        training.clear()
        with contextlib.suppress(BrokenPipeError):  # the launcher has died
            print(json.dumps(asdict(reply)), file=replies, flush=True)
        if reply.ends:
            break
    return 0


def _watch_input(training: threading.Event, ended: threading.Event) -> None:
    """When the launcher closes the input, stop the run that is training; ``main`` begins no other."""
    hang_up = select.poll()
    hang_up.register(0, 0)
    hang_up.poll()
    ended.set()
    if training.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Append standard output and error to a file, those of child processes too, and the reason of an interruption."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    except Interrupted as interruption:
        print(f"interrupted: {interruption}", file=sys.stderr)
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)


if __name__ == "__main__":
    sys.exit(main())
