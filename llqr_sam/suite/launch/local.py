"""A queue of runs on the workers of this machine: one a GPU, or a few on a share of the cores each.

Workers are processes of their own, started once and handed run after run, so that Python starts as often as there are
workers and a worker that dies takes one run with it. They are in sessions of their own: Ctrl-C reaches the launcher,
which asks each worker to save its run and end.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import torch

from llqr_sam.engine.loop.interruption import handled
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.run.code_snapshot import environment
from llqr_sam.suite.run.job import Job
from llqr_sam.suite.run.worker import Reply

PATIENCE = 10.0  # seconds that an idle worker may take to end


class Worker:
    """One process of ``llqr_sam.suite.run.worker``.

    Args:
        variables: Its environment, beside this process's.
    """

    def __init__(self, variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llqr_sam.suite.run.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        """Hand over a run; a worker that has died in the meantime says so in ``reply``."""
        self.job = job
        with contextlib.suppress(BrokenPipeError):
            self.stdin.write(job.to_json() + "\n")
            self.stdin.flush()

    def reply(self) -> Reply:
        """What became of the run; waits for it."""
        line = self.stdout.readline()
        if line:
            return Reply(**json.loads(line))
        status = self.process.wait()
        cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return Reply("killed", f"its worker ended with {cause}; the next launch continues it", ends=True)

    def signal(self, signum: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.process.poll() is None:
            self.process.send_signal(signum)

    def close(self) -> None:
        """Let it end, and see that it does: a run that is training is saved first."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.stdout.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Pool:
    """Runs jobs on workers, one for each of ``places``.

    Args:
        places: Environment of each worker: which GPU, how many threads.
        snapshot: The code they run.
    """

    def __init__(self, places: Sequence[dict[str, str]], snapshot: Path) -> None:
        self._places = [place | environment(snapshot) for place in places]
        self._workers: list[Worker | None] = [None] * len(places)
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._killed = False

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Reply]]:
        """Yield each run as it ends. After a signal the rest of the queue is not started.

        Raises:
            KeyboardInterrupt: Ctrl-C came twice: the workers were killed.
        """
        waiting = deque(jobs)
        with handled(self._handle):
            try:
                self._fill(waiting)
                while self._selector.get_map():
                    for key, _ in self._selector.select(timeout=1.0):
                        yield self._collect(key.data)
                    if self._killed:
                        raise KeyboardInterrupt
                    self._fill(waiting)
            finally:
                self._close()

    def stop(self) -> None:
        """Start no more runs, and let those that train save themselves and end."""
        self._stopping = True
        for worker in filter(None, self._workers):
            worker.signal(signal.SIGTERM)

    def _fill(self, waiting: deque[Job]) -> None:
        """Give every free place a run."""
        for place, variables in enumerate(self._places):
            worker = self._workers[place]
            if not waiting or self._stopping or (worker is not None and worker.job is not None):
                continue
            if worker is None:
                worker = self._workers[place] = Worker(variables)
            worker.give(waiting.popleft())
            self._selector.register(worker.stdout, selectors.EVENT_READ, place)

    def _collect(self, place: int) -> tuple[Job, Reply]:
        worker = self._workers[place]
        assert worker is not None
        assert worker.job is not None
        self._selector.unregister(worker.stdout)
        job, reply = worker.job, worker.reply()
        worker.job = None
        if reply.ends:
            worker.close()
            self._workers[place] = None
        return job, reply

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum != signal.SIGINT or not self._stopping:
            return self.stop()
        self._killed = True
        for worker in filter(None, self._workers):
            worker.signal(signal.SIGKILL)

    def _close(self) -> None:
        for worker in filter(None, self._workers):
            worker.close()
        self._selector.close()


def places(workers: int | None, device: str, devices: int = 1) -> list[dict[str, str]]:
    """The environment of each worker.

    Args:
        workers: How many; ``None``: as many as the GPUs allow, or as runs on the CPU need for two processes.
        device: As in the configuration. ``auto`` and ``cuda`` spread over the GPUs that are visible here.
        devices: How many a run takes, each with a share of the worker's cores.

    Raises:
        UsageError: fewer than one worker.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"launch.workers={workers} must be >= 1.")
    gpus = _gpus() if device in ("auto", "cuda") else []
    sets = [",".join(gpus[first : first + devices]) for first in range(0, len(gpus) - devices + 1, devices)]
    count = workers or len(sets) or (1 if device.startswith("cuda") else max(1, 2 // devices))
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, len(os.sched_getaffinity(0)) // (count * devices)))
    share = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return [share | ({"CUDA_VISIBLE_DEVICES": sets[place % len(sets)]} if sets else {}) for place in range(count)]


def _gpus() -> list[str]:
    """Names of the visible GPUs, as CUDA_VISIBLE_DEVICES has them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(index) for index in range(count)]
