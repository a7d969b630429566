"""Stopping a run between two steps: Ctrl-C, a scheduler's warning signal, or a caller who has seen enough."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Interrupted(Exception):
    """A run stopped before its end; its checkpoint is on disk and the same call continues it.

    Args:
        step: Optimizer steps finished.
        checkpoint: Where the state is.
        signum: The signal that stopped it, or ``None`` when an observer asked.
    """

    def __init__(self, step: int, checkpoint: Path, signum: int | None) -> None:
        self.step = step
        self.checkpoint = checkpoint
        self.signum = signum
        cause = signal.Signals(signum).name if signum else "request"
        super().__init__(f"stopped by {cause} after step {step}; the same command continues from {checkpoint}")

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int, Path, int | None]]:
        return type(self), (self.step, self.checkpoint, self.signum)  # an exception's own way is to repeat its message


@contextlib.contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, the signals of ``SIGNALS`` go to ``handler``; afterwards to whoever handled them before.

    Args:
        handler: As ``signal.signal`` takes it. Only a process's main thread can set one.
    """
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


class StopRequest:
    """A flag that the trainer looks at between steps."""

    def __init__(self) -> None:
        self.made = False
        self.signum: int | None = None

    def __call__(self, signum: int | None = None) -> None:
        """Ask the run to stop after the current step."""
        if not self.made:
            self.made, self.signum = True, signum

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Inside, a signal of ``SIGNALS`` makes the request; a second SIGINT raises ``KeyboardInterrupt`` at once.

        Only a process's main thread can set handlers: in another thread this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with handled(self._handle):
            yield

    def pass_on(self) -> None:
        """Send a signal that came too late for a checkpoint once more, to whoever handled it before.

        The run is over and its record written, but the person who pressed Ctrl-C wants no next run to start.
        """
        if self.signum is not None:
            signal.raise_signal(self.signum)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        self(signum)
