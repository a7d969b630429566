"""How a run is stopped between two steps: by a signal of ``SIGNALS`` (SIGINT is Ctrl-C) or by an observer.

1. A signal sets a flag (``StopRequest``) and nothing else. SLURM sends SIGUSR2 some minutes before the time limit; an
   ssh session that is closed sends SIGHUP.
2. After the current step the trainer sees the flag, on any of the ranks (``Trainer._boundary``).
3. It writes a checkpoint and raises ``Interrupted``; no record is written.
4. The same command continues from the checkpoint. Under SLURM the job queues itself again (suite/run/worker.py).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

# nohup starts a process with SIGHUP ignored: then it stays ignored.
_HANG_UP = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, *_HANG_UP)


@dataclass(eq=False)
class Interrupted(Exception):
    """A run that stopped before its end; its checkpoint is on disk, and the same call continues it."""

    step: int  # finished optimizer steps
    checkpoint: Path  # folder of the checkpoint
    signum: int | None  # the signal that stopped the run; None: an observer did

    def __str__(self) -> str:
        cause = signal.Signals(self.signum).name if self.signum else "request"
        return f"stopped by {cause} after step {self.step}; the same command continues from {self.checkpoint}"


@contextlib.contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Send the signals of ``SIGNALS`` to ``handler`` within the block, in the main thread of a process."""
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


class StopRequest:
    """The flag that the trainer looks at between steps."""

    def __init__(self) -> None:
        self.made = False
        self.signum: int | None = None

    def __call__(self, signum: int | None = None, frame: FrameType | None = None) -> None:
        """Ask the run to stop after the current step; the first request counts, and a second SIGINT does not wait."""
        if signum == self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.made:
            self.made, self.signum = True, signum

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let the signals of ``SIGNALS`` set the flag within the block; outside the main thread they cannot."""
        here = threading.current_thread() is threading.main_thread()
        with handled(self) if here else contextlib.nullcontext():
            yield

    def pass_on(self) -> None:
        """Send a signal that came too late for a checkpoint to the earlier handler, so that no further run starts."""
        if self.signum is not None:
            signal.raise_signal(self.signum)
