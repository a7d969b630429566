"""A run on several devices: one process (rank) for each, joined by torchrun's variables.

    here     ``train`` starts the ranks, passes a stop on to them, and ends all when one is lost (docs/decisions.md)
    SLURM    srun starts and ends them; each task calls ``take_part``

    python -m llqr_sam.suite.run.multi_device ANSWER        a rank, started by ``train``

A rank reads its job from standard input. When its input ends, because ``train`` closes it or has died, the rank stops
as at SIGTERM. It pickles the exception that its attempt ended with, or ``None``, into the file ANSWER.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import NoneType

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch's stub does not list it

from llqr_sam.engine.devices.device import find_device
from llqr_sam.engine.devices.team import joined, local_place
from llqr_sam.engine.loop.interruption import SIGNALS, Interrupted, StopRequest
from llqr_sam.engine.records.record import Record, read_record
from llqr_sam.repository import ROOT
from llqr_sam.suite.run.attempt import RankLost, attempt, how_it_ended
from llqr_sam.suite.run.code_snapshot import environment
from llqr_sam.suite.run.job import Job
from llqr_sam.suite.run.lock import LeftAlone

PATIENCE = 10.0  # seconds that the other ranks may take to end when one is lost
TICK = 0.1  # seconds between two looks at them
Mistakes = tuple[type[Exception], ...]


def train(job: Job, mistakes: Mistakes = ()) -> Record:
    """Attempt a run on this machine, with one process for each of its devices.

    Raises:
        KeyboardInterrupt: Ctrl-C came twice.
        Exception: those of ``attempt``.
    """
    if job.options.devices == 1:
        return attempt(job, mistakes)
    stop = StopRequest()
    with stop.on_signals(), tempfile.TemporaryDirectory() as folder:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        with _signals_blocked():
            ranks = [_Rank(number, store.port, job, mistakes, Path(folder)) for number in range(job.options.devices)]
        try:
            answers = _wait(ranks, stop)
        finally:
            for rank in ranks:
                rank.end()
    if errors := [answer for answer in answers if answer is not None]:
        error = min(errors, key=_precedence)
        if isinstance(error, Interrupted) and stop.signum is not None:
            error = Interrupted(error.step, error.checkpoint, stop.signum)  # the ranks have seen a SIGTERM
        raise error
    stop.pass_on()
    path = job.record_file()
    assert path is not None
    return read_record(path)


def take_part(job: Job, mistakes: Mistakes = ()) -> Record:
    """Attempt a run as the rank that the environment says this process is.

    Raises:
        Exception: those of ``attempt``.
    """
    with joined(find_device(job.options.device, *local_place())) as team:
        return attempt(job, mistakes, team)


class _Killed(RankLost):
    """A rank that ended without an answer."""


class _Rank:
    """A rank that this process has started, in a session of its own: Ctrl-C does not reach it."""

    def __init__(self, number: int, port: int, job: Job, mistakes: Mistakes, folder: Path) -> None:
        self._number = number
        self._answer = folder / str(number)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llqr_sam.suite.run.multi_device", str(self._answer)],
            stdin=subprocess.PIPE,
            env=os.environ | environment(ROOT) | _variables(number, job.options.devices, port),
            start_new_session=True,
        )
        assert self.process.stdin is not None
        self._stdin = self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            pickle.dump((job.to_json(), mistakes), self._stdin)
            self._stdin.flush()

    def answer(self) -> BaseException | None:
        """What it ended with."""
        try:
            answer: BaseException | None = pickle.loads(self._answer.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            how = how_it_ended(self.process.returncode)
            return _Killed(f"rank {self._number} ended with {how}; the next launch continues the run")
        return answer

    def stop(self) -> None:
        """Let it stop after the current step and save the run."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()

    def end(self) -> None:
        """Kill it if it has not ended."""
        self.process.kill()
        self.process.wait()
        self.stop()


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


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals while ranks start, so that they inherit the mask. Signals that arrive are delivered on exit."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(ranks: list[_Rank], stop: StopRequest) -> list[BaseException | None]:
    """Wait until all ranks have ended, or ``PATIENCE`` seconds after one has failed, was lost or has left the run.

    Returns:
        The answers of the ranks that have ended, in that order.
    """
    running, answers, end = list(ranks), list[BaseException | None](), float("inf")
    while running and (now := time.monotonic()) < end:
        if stop.made:
            ranks[0].stop()  # the others stop after the same step
        for rank in [rank for rank in running if rank.process.poll() is not None]:
            running.remove(rank)
            answers.append(rank.answer())
            if not isinstance(answers[-1], (NoneType, Interrupted)):
                end = min(end, now + PATIENCE)
        time.sleep(TICK)
    return answers


def _precedence(error: BaseException) -> int:
    """Rank errors by what they say: the cause comes before its effects on other ranks."""
    if isinstance(error, LeftAlone):
        return 0  # only the first rank knows of the lock
    if not isinstance(error, RankLost):
        return 1
    return 2 if isinstance(error, _Killed) else 3


def main() -> int:
    """A rank from its job to its answer."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # before and after training, which handles them
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    text, mistakes = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    answer: BaseException | None = None
    try:
        take_part(Job.from_json(text), mistakes)
    except Exception as error:
        answer = _picklable(error)
    Path(sys.argv[1]).write_bytes(pickle.dumps(answer))
    return 0


def _stop_at_end_of_input() -> None:
    while os.read(0, 1):
        pass
    while True:  # again and again: before training the signal is ignored
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


def _picklable(error: Exception) -> Exception:
    """The error with its traceback as a note, or a RuntimeError like it if it cannot be pickled."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    sys.exit(main())
