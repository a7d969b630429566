"""A queue of runs on the workers of this machine: one for each GPU, or a few that share the cores.

Workers are processes that are started once and train run after run: Python starts as often as there are workers, and a
worker that dies takes one run with it. Ctrl-C reaches the launcher alone, which asks each worker to save its run.
"""

from __future__ import annotations

import os
import select
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import torch

from llqr_sam.engine.loop.interruption import handled
from llqr_sam.suite.run.attempt import Job, Reply
from llqr_sam.suite.run.code_snapshot import environment
from llqr_sam.suite.run.processes import Worker


class Pool:
    """Runs jobs on workers, one for each of ``environments``; ``snapshot`` is the code they run."""

    def __init__(self, environments: Sequence[dict[str, str]], snapshot: Path) -> None:
        self._environments = [variables | environment(snapshot) for variables in environments]
        self._workers: list[Worker | None] = [None] * len(environments)
        self._stopping = False
        self._killed = False

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Reply]]:
        """Yield each run when it ends. After a signal no further run starts; a second Ctrl-C kills the workers."""
        waiting = deque(jobs)
        with handled(self._on_signal):
            try:
                while busy := self._hand_out(waiting):
                    readable, _, _ = select.select([worker.stdout for worker in busy], [], [], 1.0)
                    for worker in (worker for worker in busy if worker.stdout in readable):
                        yield self._collect(worker)
                    if self._killed:
                        raise KeyboardInterrupt
            finally:
                for worker in filter(None, self._workers):
                    worker.close()

    def stop(self) -> None:
        """Start no more runs; those that are training save themselves and end."""
        self._stopping = True
        for worker in filter(None, self._workers):
            worker.stop()

    def _hand_out(self, waiting: deque[Job]) -> list[Worker]:
        """Give each idle worker a run, starting workers where needed; returns the busy ones."""
        for place, variables in enumerate(self._environments):
            worker = self._workers[place]
            if waiting and not self._stopping and (worker is None or worker.job is None):
                worker = self._workers[place] = worker or Worker(variables)
                worker.give(waiting.popleft())
        return [worker for worker in self._workers if worker is not None and worker.job is not None]

    def _collect(self, worker: Worker) -> tuple[Job, Reply]:
        job, reply = worker.job, worker.reply()
        assert job is not None
        if reply.ends:
            worker.close()
            self._workers[self._workers.index(worker)] = None
        return job, reply

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if signum != signal.SIGINT or not self._stopping:
            return self.stop()
        self._killed = True
        for worker in filter(None, self._workers):
            worker.process.kill()


def worker_environments(workers: int | None, device: str, devices: int = 1) -> list[dict[str, str]]:
    """The variables of each worker: its GPUs and its number of threads. ``devices`` of a run share a worker's cores.

    Without a number of workers there is one for each set of ``devices`` GPUs that are visible here (``device=auto`` or
    ``cuda``), on the CPU as many as make two processes.
    """
    gpus = _gpus() if device in ("auto", "cuda") else []
    sets = [",".join(gpus[first : first + devices]) for first in range(0, len(gpus) - devices + 1, devices)]
    count = workers or len(sets) or (1 if device.startswith("cuda") else max(1, 2 // devices))
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, len(os.sched_getaffinity(0)) // (count * devices)))
    share = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return [share | ({"CUDA_VISIBLE_DEVICES": sets[number % len(sets)]} if sets else {}) for number in range(count)]


def _gpus() -> list[str]:
    """Names of the visible GPUs, as in CUDA_VISIBLE_DEVICES."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(index) for index in range(count)]
