"""The processes that train for this one: the workers of a pool, and the ranks of a run on several devices.

Each runs ``worker.py``, takes a ``Job`` a line and answers with a ``Reply`` a line. Ranks are joined by torchrun's
variables. Here ``train`` starts them, passes a stop on to them, and ends all when one is lost (docs/decisions.md);
under SLURM srun starts and ends them, and each task calls ``take_part``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch's stub does not list it

from llqr_sam.engine.devices.device import find_device
from llqr_sam.engine.devices.team import Team, joined, local_place
from llqr_sam.engine.loop.interruption import SIGNALS, StopRequest
from llqr_sam.repository import ROOT
from llqr_sam.suite.run.attempt import Job, Reply, attempted, how_it_ended
from llqr_sam.suite.run.code_snapshot import environment

PATIENCE = 10.0  # seconds that a process may take to end, and ranks when one of them is lost
TICK = 0.1  # seconds between two looks at the ranks
# Of several replies the first of these kinds says most: a cause comes before its effects on other ranks.
TELLING = ("left", "failed", "mistake", "interrupted", "killed", "diverged", "finished")


class Worker:
    """A process of ``llqr_sam.suite.run.worker``, in a session of its own: Ctrl-C does not reach it.

    ``variables`` are added to this process's environment; messages call it ``name``.
    """

    def __init__(self, variables: dict[str, str], name: str = "its worker", *arguments: str) -> None:
        self._name = name
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # which the process inherits, until it can hear them
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llqr_sam.suite.run.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | variables,
                start_new_session=True,
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
    """The most telling reply once all ranks have ended, or ``PATIENCE`` seconds after one has failed, was lost or left.

    Of two lost ranks the one that has not replied is the cause.
    """
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
    return min(replies, key=lambda each: each[:2])[2]
