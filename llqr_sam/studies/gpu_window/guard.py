"""Time limits for processes: each is asked to end when its time is up, or when this process is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from llqr_sam.engine.loop.interruption import handled

GRACE = 30.0  # seconds from SIGTERM, upon which a run is saved, to SIGKILL


@dataclass
class Watched:
    """A process group with a limit. ``ended``: it was asked to end, by the limit or by a signal."""

    pid: int
    ended: bool = False

    def ask(self) -> None:
        """Ask it to end; what ignores that is killed later."""
        self.ended = True
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.ended = True
        self._send(signal.SIGKILL)

    def _send(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signum)


class Guard:
    """Limits the processes that are started one after another, and hands on the signals that come meanwhile.

    Args:
        grace: Seconds that a process has to end after it was asked to.

    Attributes:
        signum: Of the first signal that came, if any.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self.signum: int | None = None
        self._grace = grace
        self._watched: Watched | None = None

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Inside, SIGINT and a scheduler's signals reach the process in hand; a second SIGINT kills it."""
        with handled(self._handle):
            yield

    @contextlib.contextmanager
    def limited(self, pid: int, seconds: float | None) -> Iterator[Watched]:
        """Watch a process while it is waited for.

        Args:
            pid: Of the leader of a process group.
            seconds: Until it is asked to end; ``None``: no limit.
        """
        self._watched = watched = Watched(pid)
        timers = []
        if seconds is not None:
            timers = [threading.Timer(seconds, watched.ask), threading.Timer(seconds + self._grace, watched.kill)]
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            if self.signum is not None:  # it came before there was a process to hand it to
                watched.ask()
            yield watched
        finally:
            self._watched = None
            for timer in timers:
                timer.cancel()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again, self.signum = self.signum is not None, self.signum or signum
        if self._watched is not None:
            self._watched.kill() if again and signum == signal.SIGINT else self._watched.ask()
