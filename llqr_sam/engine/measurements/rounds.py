"""Timing in rounds, and peak memory.

Every round times each workload once, in turn, so that a slow spell of the machine reaches all of them. A ratio is the
median over the rounds of the ratios within a round. (``torch.utils.benchmark`` times one workload after another.)
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
class Workload:
    """Something to time."""

    name: str
    work: Callable[[], object]  # does it once
    share: int = 1  # equal parts that the work consists of: the inner steps of a refresh
    repeats: int = 1  # runs in a round; several of short work: the first may pay for memory that long work returned
    seconds: list[float] = field(default_factory=list)  # of one part, one value a round
    peak_mib: float | None = None  # memory above what was in use before, in the first run; None where it is not known

    def run(self) -> None:
        """Do the work as often as it runs in a round."""
        for _ in range(self.repeats):
            self.work()

    def ratio(self, unit: Workload) -> float:
        """Time relative to another workload, median over the rounds."""
        return statistics.median(s / u for s, u in zip(self.seconds, unit.seconds, strict=True))

    @property
    def median(self) -> float:
        """Seconds of one part, median over the rounds."""
        return statistics.median(self.seconds)


def time_in_rounds(workloads: Sequence[Workload], rounds: int, device: torch.device) -> None:
    """Run each workload once to warm up, measuring its memory, then time all of them in turn."""
    workloads[0].run()  # the first evaluation of a process loads libraries, which counts for none of them
    for workload in workloads:
        workload.peak_mib = peak_mib(workload.run, device)
    for _ in range(rounds):
        for workload in workloads:
            start = clock(device)
            workload.run()
            workload.seconds.append((clock(device) - start) / (workload.repeats * workload.share))


def clock(device: torch.device) -> float:
    """Seconds on the clock when the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_mib(work: Callable[[], object], device: torch.device) -> float | None:
    """Run ``work`` once; returns its peak memory, with what it keeps, in MiB above that before; ``None``: not known."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # return freed memory to the system: reusing it would not show
        Path("/proc/self/clear_refs").write_text("5")  # reset the process's peak resident size
        before = _status_kib("VmRSS")
    except OSError:
        work()
        return None
    work()
    return (_status_kib("VmHWM") - before) / 2**10


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Exponent b of the least-squares fit seconds = a sizes^b, on logarithmic axes."""
    return statistics.linear_regression([*map(math.log, sizes)], [*map(math.log, seconds)]).slope


def _status_kib(key: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(f"{key}:")[2].split()[0])
