"""The steps of a list: runs to train, and scripts whose output is kept. Each is done in a process of its own.

python -m llqr_sam.studies.gpu_window.steps JOB        trains the run of a ``Job``, JSON; prints its ``Reply`` as JSON
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, NamedTuple

from llqr_sam.repository import ROOT
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.launch.launch import make_job
from llqr_sam.suite.launch.preview import retried_kinds
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.run.attempt import Reply, how_it_ended
from llqr_sam.suite.run.worker import carry_out
from llqr_sam.suite.status.status import Status

GRACE = 30.0  # seconds between SIGTERM, on which a run saves its checkpoint, and SIGKILL
POLL = 0.1  # seconds between two looks at the clock and at the signals received


class Finished(NamedTuple):
    """How a process ended."""

    cause: str  # its exit status, or the signal that ended it, in words
    succeeded: bool
    output: str | None  # its standard output; None if that went to a file
    stopped: bool  # it was asked to end, by the time limit or by a signal


def run_python(
    arguments: Sequence[str],
    seconds: float,
    signals: Sequence[int],
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: IO[bytes] | None = None,
) -> Finished:
    """Run Python, which can import from the repository, in a process group of its own, and wait for it.

    Args:
        arguments: Of the interpreter.
        seconds: After these the process gets SIGTERM; ``GRACE`` seconds later SIGKILL.
        signals: Those that this process has received; one ends the other process, a second SIGINT kills it.
        stdout, stderr: Where its output goes; the default returns the standard output.
    """
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env, command = os.environ | {"PYTHONPATH": paths}, [sys.executable, *arguments]
    process = subprocess.Popen(command, stdout=stdout, stderr=stderr, text=True, env=env, start_new_session=True)
    end, stopped = time.monotonic() + seconds, False
    while True:
        try:
            output, _ = process.communicate(timeout=POLL)
            break
        except subprocess.TimeoutExpired:
            now = time.monotonic()
            end = min(end, now) if signals else end
            if now >= end + GRACE or signals.count(signal.SIGINT) > 1:
                _send(process, signal.SIGKILL)
            elif now >= end and not stopped:
                _send(process, signal.SIGTERM)
                stopped = True
    if stopped:
        _send(process, signal.SIGKILL)  # to children that outlive it
    return Finished(how_it_ended(process.returncode), process.returncode == 0, output, stopped)


def _send(process: subprocess.Popen[str], signum: int) -> None:
    """Send a signal to the process and its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signum)


class StepFailed(Exception):
    """A step failed; the message says why, in one line."""


@dataclass(frozen=True)
class Training:
    """A run."""

    label: str  # what the list calls it
    run: Planned
    config: Config  # of the list: paths, device, and whether failed runs are tried again

    unfinished = False  # a run continues from its checkpoint, so it keeps its place in the list

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.run.run_id

    @property
    def kind(self) -> str:
        """One of ``status.KINDS``."""
        return self._status().of_run(self.run)

    @property
    def pending(self) -> bool:
        """Whether there is anything to do."""
        return self.kind in ("missing", *retried_kinds(self.config))

    @property
    def state(self) -> str:
        """How far it is."""
        return f"{self.name}  {self._status().line(self.run)}"

    def carry_out(self, seconds: float, signals: Sequence[int]) -> str:
        """Train the run, or continue it, for ``seconds`` at most; returns the outcome, or raises ``StepFailed``."""
        job = make_job(self.run, self._status(), self.config, Path())
        command = ["-P", "-m", "llqr_sam.studies.gpu_window.steps", job.to_json()]
        finished = run_python(command, seconds, signals)
        if finished.output:
            reply = Reply(**json.loads(finished.output))
        else:
            reply = Reply("killed", f"its process ended with {finished.cause}; the same command continues it")
        if reply.kind == "interrupted" or (finished.stopped and reply.kind == "killed"):
            return f"{self.name} was cut off: the same command continues it"
        if reply.kind == "mistake":
            raise UsageError(reply.reason)
        if reply.kind in ("failed", "killed"):
            raise StepFailed(reply.reason)
        return f"{self.name}: " + (reply.reason if reply.kind == "left" else f"{reply.kind}: {reply.reason}")

    def _status(self) -> Status:
        return Status.under([self.run], self.config)


@dataclass(frozen=True)
class Output:
    """A script whose standard output is kept."""

    name: str
    command: tuple[str, ...]  # a file of the repository with its arguments, or ``-m`` and a module with its own
    # Gets the output when the script succeeds; <path>.part has it until then, and <path>.log has standard error.
    path: Path

    @property
    def label(self) -> str:
        """What the list calls it."""
        return f"output {self.name}"

    @property
    def pending(self) -> bool:
        """Whether there is anything to do."""
        return not self.path.exists()

    @property
    def unfinished(self) -> bool:
        """Whether an earlier call began it and it failed or was cut off: it may take longer than there is time."""
        return self.pending and self._beside(".log").exists()

    @property
    def state(self) -> str:
        """Whether it is done, and its file."""
        return "missing" if self.pending else f"done: {self.path}"

    def carry_out(self, seconds: float, signals: Sequence[int]) -> str:
        """Run the script for ``seconds`` at most; returns what to say of it, or raises ``StepFailed``."""
        part, log = self._beside(".part"), self._beside(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [str(ROOT / word) if (ROOT / word).exists() else word for word in self.command]
        with part.open("wb") as out, log.open("wb") as errors:
            finished = run_python(arguments, seconds, signals, out, errors)
        if finished.succeeded:
            os.replace(part, self.path)
            return ""
        if finished.stopped:
            return f"{self.name} was cut off: it starts again when everything else is done"
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise StepFailed(f"{finished.cause}{': ' + last if last else ''} ({log})")

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)


Step = Training | Output

if __name__ == "__main__":
    print(json.dumps(asdict(carry_out(sys.argv[1]))))
