"""Wall time of a run, split by what it was spent on.

On a GPU the clock would time only the queueing of kernels, so a part is a pair of CUDA events in the stream. The time
between them is read later, when the run waits for the device anyway.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator

import torch

from llqr_sam.engine.records.record import Seconds

PARTS = ("data", "first_pass", "second_pass", "refresh", "evaluation")


class Stopwatch:
    """Seconds of the work on ``device`` by part, and in all since it was made."""

    def __init__(self, device: torch.device) -> None:
        self.started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")  # ISO 8601
        self._device = device
        self._begun = time.perf_counter()
        self._before = 0.0  # total of the interrupted runs that this one continues
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time of the block to ``part``, one of ``PARTS``."""
        if self._device.type == "cuda":
            start = self._mark()
            yield
            self._pending.append((part, start, self._mark()))
        else:
            begun = time.perf_counter()
            yield
            self._parts[part] += time.perf_counter() - begun

    def settle(self) -> None:
        """Read the pending events. This waits for the device."""
        for part, start, end in self._pending:
            end.synchronize()
            self._parts[part] += start.elapsed_time(end) / 1000  # milliseconds
        self._pending.clear()

    @property
    def total(self) -> float:
        """Seconds since the run started, over resumes; does not wait for the device."""
        return self._before + time.perf_counter() - self._begun

    def seconds(self) -> Seconds:
        """All parts and the total."""
        self.settle()
        return Seconds(**self._parts, total=self.total)

    def resume(self, earlier: Seconds) -> None:
        """Add the time that the run had spent when it was interrupted."""
        self._before += earlier.total
        for part in PARTS:
            self._parts[part] += getattr(earlier, part)

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
