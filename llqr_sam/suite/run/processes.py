"""The processes that train for this one: the workers of a pool, and the ranks of a run on several devices.

Each runs ``worker.py``, takes a ``Job`` a line and answers with a ``Reply`` a line. Ranks are joined by torchrun's
variables: here ``train`` starts them and ends all when one is lost (docs/decisions.md), under SLURM srun does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch's stub does not list it

from llqr_sam.engine.devices.device import find_device
from llqr_sam.engine.devices.team import Team, joined, local_place
from llqr_sam.engine.loop.interruption import SIGNALS, StopRequest, handled
from llqr_sam.repository import ROOT
from llqr_sam.suite.run.attempt import Job, Reply, attempted, how_it_ended
from llqr_sam.suite.run.code_snapshot import environment

PATIENCE = 10.0  # seconds that a process may take to end, and ranks when one of them is lost
TICK = 0.1  # seconds between two looks at the ranks
# Of several replies the first of these kinds says most: a cause comes before its effects on other ranks.
TELLING = ("left", "unwritten", "failed", "mistake", "interrupted", "killed", "diverged", "finished")


class Worker:
    """A process of ``llqr_sam.suite.run.worker``, in a session of its own: Ctrl-C does not reach it.

    ``variables`` are added to this process's environment; messages call it ``name``.
    """

    def __init__(self, variables: dict[str, str], name: str = "its worker", *arguments: str) -> None:
        self._name = name
        command, pipe = [sys.executable, "-m", "llqr_sam.suite.run.worker", *arguments], subprocess.PIPE
        # The process inherits the block, until its ``main`` ignores these signals.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, text=True, env=os.environ | variables, start_new_session=True
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


class Pool:
    """Runs jobs with the code of ``snapshot``; one worker for each of ``environments`` trains run after run."""

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
                    if self._stopping:
                        self.stop()
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
            self._stopping = True  # ``run`` stops the workers: it may be writing to one now
            return
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


def train(job: Job) -> Reply:
    """Attempt a run on this machine, with one process for each of its devices. Raises as ``attempted``."""
    if job.options.devices == 1:
        return attempted(job)
    stop, ranks = StopRequest(), list[Worker]()
    with stop.on_signals():
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        try:
            for number in range(job.options.devices):
                variables = environment(ROOT) | _variables(number, job.options.devices, store.port)
                ranks.append(Worker(variables, f"rank {number}", str(number)))
                ranks[-1].give(job)
            reply = _wait(ranks, stop)
        finally:
            for rank in ranks:
                rank.process.kill()
                rank.close()
    if reply.kind == "interrupted" and stop.signum is not None:  # the ranks have seen a SIGTERM
        return replace(reply, reason=reply.reason.replace("SIGTERM", signal.Signals(stop.signum).name, 1))
    if reply.kind in ("finished", "diverged"):
        stop.pass_on()
    return replace(reply, ends=reply.ends and reply.kind != "failed")  # CUDA has refused the rank, not this process


def take_part(device: str) -> contextlib.AbstractContextManager[Team]:
    """Join the other ranks of a run as the one that the environment says this process is."""
    return joined(find_device(device, *local_place()))


def _variables(number: int, size: int, port: int) -> dict[str, str]:
    """The environment of a rank: torchrun's variables and a share of the cores."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // size))
    return {
        "RANK": str(number),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(number),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # this process has the store
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
    } | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})  # whatever the host's name resolves to


def _wait(ranks: list[Worker], stop: StopRequest) -> Reply:
    """The most telling reply once all ranks have ended, or ``PATIENCE`` seconds after one failed, was lost or left."""
    running, replies, end = list(ranks), list[tuple[int, bool, Reply]](), float("inf")
    while running and (now := time.monotonic()) < end:
        if stop.made:
            ranks[0].stop()  # the others stop after the same step
        for rank in [rank for rank in running if rank.process.poll() is not None]:
            running.remove(rank)
            reply = rank.reply()
            replies.append((TELLING.index(reply.kind), rank.process.returncode == 0, reply))
            if reply.kind not in ("finished", "diverged", "interrupted"):
                end = min(end, now + PATIENCE)
        time.sleep(TICK)
    return min(replies, key=lambda each: each[:2])[2]  # of two lost ranks the cause is the one that has not replied
