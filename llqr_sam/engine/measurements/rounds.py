"""Timing in rounds, and peak memory.

Every round times every row once, in turn, so that a slow spell of the machine reaches all of them; a row's ratio is the
median over the rounds of its time over the same round's gradient evaluation.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass
class Row:
    """One thing that is timed.

    Attributes:
        name: What it is.
        work: Does it once.
        share: Parts the work consists of; the inner steps of a refresh.
        repeats: Times it is done in a round. Short work needs several, or it pays for the memory that long work before
            it gave back.
        seconds: One figure a round, of one part.
        peak_mib: Memory above what was held before, at its highest, the first time.
    """

    name: str
    work: Callable[[], object]
    share: int = 1
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)
    peak_mib: float | None = None

    def ratio(self, unit: Row) -> float:
        """This row in units of another, median over the rounds."""
        return statistics.median(s / u for s, u in zip(self.seconds, unit.seconds, strict=True))

    @property
    def median(self) -> float:
        """Seconds of one part, median over the rounds."""
        return statistics.median(self.seconds)


def time_rows(rows: Sequence[Row], rounds: int, device: torch.device) -> None:
    """Warms every row up, noting its memory, then times all of them in turn."""
    rows[0].work()  # what the first evaluation of a process loads belongs to no row
    for row in rows:
        row.peak_mib = peak_mib(row.work, device)
    for _ in range(rounds):
        for row in rows:
            start = clock(device)
            for _ in range(row.repeats):
                row.work()
            row.seconds.append((clock(device) - start) / (row.repeats * row.share))


def clock(device: torch.device) -> float:
    """Seconds of the clock once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_mib(work: Callable[[], object], device: torch.device) -> float | None:
    """MiB above the present that the work needs, the buffers it leaves behind included; ``None`` if not known here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory goes back, or it would hide what is taken next
        Path("/proc/self/clear_refs").write_text("5")  # forget the process's highest resident size so far
        before = _status_kib("VmRSS")
    except OSError:
        work()
        return None
    work()
    return (_status_kib("VmHWM") - before) / 2**10


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """b of the least-squares fit seconds = a sizes^b, in logarithms."""
    fit = statistics.linear_regression([math.log(size) for size in sizes], [math.log(second) for second in seconds])
    return fit.slope


def _status_kib(key: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1])
