"""Runs one process at a time with a time limit, and forwards signals to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from llqr_sam.engine.loop.interruption import handled
from llqr_sam.repository import ROOT
from llqr_sam.suite.run.attempt import how_it_ended

GRACE = 30.0  # seconds between SIGTERM, on which a run saves its checkpoint, and SIGKILL
POLL = 0.1  # seconds between two looks at the clock and at the signals received


class Finished(NamedTuple):
    """How a process ended."""

    cause: str  # its exit status, or the signal that ended it, in words
    succeeded: bool
    output: str | None  # its standard output; None if that went to a file
    stopped: bool  # it was asked to end, by the time limit or by a signal


class ProcessRunner:
    """Runs Python processes one after another, each in a process group of its own.

    Attributes:
        signals: Those that this process received inside ``on_signals``.
    """

    def __init__(self) -> None:
        self.signals: list[int] = []

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Inside, SIGINT and a scheduler's signals ask every process to end; a second SIGINT kills it."""
        with handled(lambda signum, frame: self.signals.append(signum)):
            yield

    def run(
        self,
        arguments: Sequence[str],
        seconds: float,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: IO[bytes] | None = None,
    ) -> Finished:
        """Run Python with these arguments and wait for it; it can import from the repository.

        Args:
            arguments: Of the Python interpreter.
            seconds: After these the process gets SIGTERM; ``GRACE`` seconds later SIGKILL.
            stdout: Where its standard output goes; the default returns it.
            stderr: Where its standard error goes; ``None``: where that of this process goes.
        """
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment, command = os.environ | {"PYTHONPATH": paths}, [sys.executable, *arguments]
        process = subprocess.Popen(
            command, stdout=stdout, stderr=stderr, text=True, env=environment, start_new_session=True
        )
        end, stopped = time.monotonic() + seconds, False
        while True:
            try:
                output, _ = process.communicate(timeout=POLL)
                break
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                end = min(end, now) if self.signals else end
                if now >= end + GRACE or self.signals.count(signal.SIGINT) > 1:
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
