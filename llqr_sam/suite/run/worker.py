"""A worker process: it trains many runs for a launcher on this machine, or one run under SLURM.

    python -m llqr_sam.suite.run.worker          reads a ``Job`` a line, answers each with a ``Reply`` a line
    python -m llqr_sam.suite.run.worker RANK     is a rank of one job (``processes.train``), and ends after it

What a run prints goes to its ``log.txt``, what a rank prints to standard error. The end of standard input means that
the launcher is done or dead: a run that is training is saved, and the process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llqr_sam.engine.loop.interruption import SIGNALS, Interrupted
from llqr_sam.engine.records.record import UnwrittenRecordError
from llqr_sam.suite.run.attempt import Job, Reply, attempt, attempted
from llqr_sam.suite.run.lock import LeftAlone, slurm_job
from llqr_sam.suite.run.processes import take_part, train
from llqr_sam.suite.run.run_folder import log_path, reason_of

# SLURM's warning may come while Python starts and torch is imported, when USR2 would end the process. So a bare
# interpreter blocks it first, which lasts over exec. What came meanwhile is delivered once ``SlurmRun`` unblocks it.
_BLOCK = """import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
os.execv(sys.argv[1], sys.argv[1:])"""
PYTHON = shlex.join([sys.executable, "-I", "-S", "-c", _BLOCK, sys.executable])  # what starts a SLURM task, for a shell


class SlurmRun:
    """What submitit calls in a SLURM task: trains one run, or one rank of it. Only the job's JSON is pickled."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self) -> str:
        """Train; after a signal (USR2 before the time limit), requeue the job. Returns what became of the run."""
        job = Job.from_json(self.text)
        with _printing_to(log_path(job.folder)):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})  # until training submitit requeues on it
            try:
                if job.options.devices == 1:
                    return attempt(job).status
                from submitit.helpers import TorchDistributedEnvironment

                TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
                with take_part(job.options.device) as team:
                    return attempt(job, team=team).status
            except LeftAlone as reason:
                return str(reason)
            except UnwrittenRecordError as problem:
                print(problem, file=sys.stderr, flush=True)
                raise SystemExit(1) from problem
            except Interrupted as interruption:
                print(f"interrupted: {interruption}", file=sys.stderr, flush=True)
                is_first = os.environ.get("SLURM_PROCID", "0") == "0"
                raise SystemExit(requeue() if is_first else 0) from interruption

    def checkpoint(self) -> Any:
        """submitit's own way to requeue, for a signal before or after training."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def requeue() -> int:
    """Requeue this process's SLURM job, unless SLURM is ending it; returns 0 if it is in the queue again, else 1.

    A job that was warned (time limit, preemption with grace time) still counts as running. One that was cancelled does
    not, and SLURM would requeue it all the same; one that SLURM itself requeues does not either.
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


def carry_out(text: str, *, as_rank: bool = False) -> Reply:
    """Train the run of a job's JSON, alone or as one of its ranks; whatever happens, returns what became of it."""
    try:
        job = Job.from_json(text)
        if as_rank:
            with take_part(job.options.device) as team:
                return attempted(job, team)
        with _printing_to(log_path(job.folder)):
            reply = train(job)
            if reply.kind == "interrupted":
                print(f"interrupted: {reply.reason}", file=sys.stderr)
            return reply
    except KeyboardInterrupt:
        return Reply("interrupted", ends=True)
    except Exception as error:
        if as_rank:
            traceback.print_exc()
        return Reply("failed", reason_of(error))


def main() -> int:
    """Serve standard input until it ends, a run is interrupted, or CUDA refuses further work."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # before and after training, which handles them
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    is_rank = len(sys.argv) > 1
    for line in sys.stdin:
        reply = carry_out(line, as_rank=is_rank)
        with contextlib.suppress(BrokenPipeError):  # the launcher has died
            print(json.dumps(asdict(reply)), file=replies, flush=True)
        if reply.ends or is_rank:
            break
    return 0


def _stop_at_end_of_input() -> None:
    hang_up = select.poll()
    hang_up.register(0, 0)
    hang_up.poll()
    while True:  # again and again: before training the signal is ignored
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Append standard output and error to a file, those of child processes too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)


if __name__ == "__main__":
    sys.exit(main())
