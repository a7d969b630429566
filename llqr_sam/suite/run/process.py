"""A process that trains what it is handed: the launcher's end of the pipes (``worker.py`` is the other)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

from llqr_sam.engine.loop.interruption import SIGNALS
from llqr_sam.suite.run.attempt import Reply, how_it_ended
from llqr_sam.suite.run.job import Job

PATIENCE = 10.0  # seconds that a process may take to end


class Worker:
    """A process of ``llqr_sam.suite.run.worker``, in a session of its own: Ctrl-C does not reach it.

    Args:
        variables: Added to this process's environment.
        name: What messages call it.
        arguments: Of the command.
    """

    def __init__(self, variables: dict[str, str], name: str = "its worker", *arguments: str) -> None:
        self._name = name
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # which the process inherits, until it can hear them
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llqr_sam.suite.run.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | variables,
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self.stdout = self.process.stdin, self.process.stdout
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        """Hand over a run; if the process has died, ``reply`` says so."""
        self.job = job
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(job.to_json() + "\n")
            self._stdin.flush()

    def reply(self) -> Reply:
        """Wait for the end of the run; returns what became of it."""
        self.job = None
        if line := self.stdout.readline():
            return Reply(**json.loads(line))
        how = how_it_ended(self.process.wait())
        return Reply("killed", f"{self._name} ended with {how}; the next launch continues the run", ends=True)

    def stop(self) -> None:
        """Let it save the run that is training and end."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()

    def close(self) -> None:
        """Let it end as ``stop`` does, after ``PATIENCE`` seconds by force."""
        self.stop()
        self.stdout.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
