"""A process that trains what it is handed: a run a line on standard input, or one run under SLURM.

    python -m llqr_sam.suite.run.worker        a ``Job`` a line in, a ``Reply`` a line out; ends with its input

What a run prints goes to its ``log.txt``. When the input ends, the launcher is dead or done: a run that is training
finishes its step and is saved, one that waits is not begun, and the worker ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
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
from llqr_sam.suite.run.attempt import attempt
from llqr_sam.suite.run.faults import WRONG_DATA, DeviceLost, RankLost
from llqr_sam.suite.run.job import Job
from llqr_sam.suite.run.lock import LeftAlone
from llqr_sam.suite.run.multi_device import take_part, train
from llqr_sam.suite.run.run_folder import log_path, reason_of

Kind = Literal["finished", "diverged", "failed", "interrupted", "left", "mistake", "killed"]


@dataclass(frozen=True)
class Reply:
    """What became of a run, and in one line why; ``killed``: a process is gone, and the next launch continues it."""

    kind: Kind
    reason: str = ""
    ends: bool = False  # the worker takes no other run


class SlurmRun:
    """What SLURM calls, through submitit: one run, or one rank of it, requeued when it is stopped by a signal.

    Args:
        text: The job's JSON. Nothing else is pickled.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self) -> str:
        """Train; returns what became of the run.

        Raises:
            Exception: the run failed; it is noted in the run's folder.
        """
        job = Job.from_json(self.text)
        with _printing_to(log_path(job.folder)):
            try:
                return self._train(job).status
            except LeftAlone as reason:
                return str(reason)
            except Interrupted as interruption:
                print(f"interrupted: {interruption}", file=sys.stderr, flush=True)
                first = os.environ.get("SLURM_PROCID", "0") == "0"
                raise SystemExit(requeue() if first else 0) from interruption

    def _train(self, job: Job) -> Record:
        """The run, or its rank that this task is."""
        if job.options.devices == 1:
            return attempt(job)
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        return take_part(job)

    def checkpoint(self) -> Any:
        """submitit's way to requeue, for a signal that comes before training has begun or after it has ended."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def requeue() -> int:
    """Put the SLURM job of this process back in the queue, unless SLURM is ending it already; 0, or 1 if it is not.

    A job that was warned (of its time limit, or within the grace time of a preemption) still counts as running. One
    that somebody has cancelled does not, but SLURM would requeue it all the same; one that SLURM requeues neither.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    number = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    if "JobState=RUNNING" not in _scontrol("show", "job", number).stdout:
        print(f"job {number} is being ended: SLURM or the next launch continues it", file=sys.stderr, flush=True)
        return 1
    answer = _scontrol("requeue", number)
    print(answer.stderr.strip() or f"job {number} is in the queue again", file=sys.stderr, flush=True)
    return min(answer.returncode, 1)


def _scontrol(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["scontrol", *words], capture_output=True, text=True, check=False)


def carry_out(text: str) -> Reply:
    """Train the run of a job's JSON and say what became of it, whatever happens."""
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
    accuracy = "" if best.score is None else f"best {best.words} (epoch {epoch_words(best.epoch)})"
    return Reply(record.status, ", ".join(filter(None, [accuracy, record.error])))


def main() -> int:
    """Serve standard input until it ends, a run is interrupted or CUDA refuses further work."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    busy, ended = threading.Event(), threading.Event()
    threading.Thread(target=_read, args=(lines, busy, ended), daemon=True).start()
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    while text := lines.get():
        busy.set()
        if ended.is_set():
            break
        reply = carry_out(text)
        busy.clear()
        with contextlib.suppress(BrokenPipeError):  # the launcher is gone
            print(json.dumps(asdict(reply)), file=replies, flush=True)
        if reply.ends:
            break
    return 0


def _read(lines: queue.SimpleQueue[str], busy: threading.Event, ended: threading.Event) -> None:
    """Pass on the lines; either this thread sees that a run is training, or the main one that no run should begin."""
    for line in sys.stdin:
        lines.put(line)
    ended.set()
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
    lines.put("")


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Inside, standard output and error are appended to a file, those of child processes too; so is an interruption."""
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
