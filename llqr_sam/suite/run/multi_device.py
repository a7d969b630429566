"""A run on several devices: one process a rank, which find each other by torchrun's variables.

    here     ``train`` starts the ranks, passes signals on, and ends all when one is lost
    SLURM    srun starts them and ends them: a task is a rank

    python -m llqr_sam.suite.run.multi_device ANSWER        a rank that is told its job by ``train``

A rank's answer is the exception that its attempt ended with, or ``None``, pickled into the file ANSWER. Ranks started
here are in sessions of their own, and their standard input stays open for as long as whoever started them lives.
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
from llqr_sam.suite.run.attempt import attempt
from llqr_sam.suite.run.code_snapshot import environment
from llqr_sam.suite.run.faults import RankLost
from llqr_sam.suite.run.job import Job
from llqr_sam.suite.run.lock import LeftAlone

PATIENCE = 10.0  # seconds that ranks may take to end when one of them is lost
TICK = 0.1  # seconds between two looks at them
Mistakes = tuple[type[Exception], ...]


def train(job: Job, mistakes: Mistakes = ()) -> Record:
    """Attempt a run on this machine, with as many processes as it has devices.

    Raises:
        KeyboardInterrupt: Ctrl-C came twice.
        Exception: those of ``attempt``.
    """
    if job.options.devices == 1:
        return attempt(job, mistakes)
    stop = StopRequest()
    with stop.on_signals(), tempfile.TemporaryDirectory() as folder:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        with _signals_wait():
            ranks = [_Rank(number, store.port, job, mistakes, Path(folder)) for number in range(job.options.devices)]
        try:
            ended = _wait(ranks, stop)
        finally:
            for rank in ranks:
                rank.end()
        _raise_what_happened(ended, stop.signum)
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


class _Rank:
    """A rank that this process has started."""

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
        """What it ended with; one that was killed is lost."""
        try:
            answer: BaseException | None = pickle.loads(self._answer.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            status = self.process.returncode
            cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            return _Killed(f"rank {self._number} ended with {cause}; the next launch continues the run")
        return answer

    def end(self) -> None:
        """See that it has ended."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()


class _Killed(RankLost):
    """A rank that could not say what has happened to it."""


def _variables(number: int, size: int, port: int) -> dict[str, str]:
    """The environment of a rank, all of them here and on a share of the cores each."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // size))
    return {
        "RANK": str(number),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(number),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is this process's
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
    } | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})  # whatever the host's name resolves to


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Processes started inside are deaf to signals until ``main`` listens; ours come when the block ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(ranks: list[_Rank], stop: StopRequest) -> list[_Rank]:
    """Until all have ended: when one fails, is lost or leaves the run, the others have ``PATIENCE`` seconds.

    Returns:
        Those that have ended, in that order.
    """
    running, ended = list(ranks), list[_Rank]()
    end, asked = float("inf"), 0.0
    while running and (now := time.monotonic()) < end:
        if stop.made and now - asked >= 1:  # again and again, since a rank that is starting does not hear it
            asked = now
            running[0].process.send_signal(signal.SIGTERM)
        for rank in [rank for rank in running if rank.process.poll() is not None]:
            running.remove(rank)
            ended.append(rank)
            if not isinstance(rank.answer(), (NoneType, Interrupted)):
                end = min(end, now + PATIENCE)
        time.sleep(TICK)
    return ended


def _raise_what_happened(ended: list[_Rank], signum: int | None) -> None:
    """The exception of the first rank that failed by itself, else of one that was killed, else of any.

    Ranks were stopped by SIGTERM, whatever signal reached this process.
    """
    answers = [answer for rank in ended if (answer := rank.answer()) is not None]
    own = [answer for answer in answers if not isinstance(answer, RankLost)]
    own.sort(key=lambda answer: not isinstance(answer, LeftAlone))  # the first rank alone knows of the lock
    killed = [answer for answer in answers if isinstance(answer, _Killed)]
    for answer in (*own, *killed, *answers):
        if isinstance(answer, Interrupted) and signum is not None:
            raise Interrupted(answer.step, answer.checkpoint, signum)
        raise answer


def main() -> int:
    """A rank from its job to its answer."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # before and after training: whoever started this rank deals with them
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    text, mistakes = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_stop_when_abandoned, daemon=True).start()
    outcome: BaseException | None = None
    try:
        take_part(Job.from_json(text), mistakes)
    except Exception as error:
        outcome = _portable(error)
    Path(sys.argv[1]).write_bytes(pickle.dumps(outcome))
    return 0


def _stop_when_abandoned() -> None:
    while os.read(0, 1):  # nothing comes: it waits for the end
        pass
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note, or one like it if it cannot be pickled."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    sys.exit(main())
