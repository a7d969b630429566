"""A terminal that is closed: its session gets SIGHUP, and nothing can be printed any more."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from llqr_sam.engine.loop.interruption import SIGNALS
from llqr_sam.engine.records.checkpoint import CheckpointStore
from llqr_sam.suite.run.lock import holder
from llqr_sam.suite.run.run_folder import Epochs
from tests.processes import REPOSITORY, start
from tests.suite.jobs import jobs_of, words_in
from tests.waiting import PATIENCE, wait_for

RUN = ("optim=sgdm", "protocol.epochs=10000")


class Session:
    """``python train.py <words>`` in a terminal of its own, all of it read; it ends with its block."""

    def __init__(self, words: Sequence[str]) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(REPOSITORY)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where nohup started the tests
            os.execv(sys.executable, [sys.executable, "train.py", *words])
        self.shown = b""
        self._ended = False

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._ended:
            os.kill(self.pid, signal.SIGTERM)
            self.status()

    def read(self) -> bool:
        """Take what is there; False at the end."""
        if select.select([self._terminal], [], [], 0.05)[0]:
            try:
                new = os.read(self._terminal, 1 << 16)
            except OSError:  # the other side is closed
                return False
            self.shown += new
            return bool(new)
        return True

    def hang_up(self) -> None:
        os.close(self._terminal)

    def status(self) -> int:
        """The exit status."""
        ended: list[tuple[int, int]] = []
        wait_for(lambda: ended.append(os.waitpid(self.pid, os.WNOHANG)) or ended[-1][0])
        self._ended = True
        return os.waitstatus_to_exitcode(ended[-1][1])


def is_training(folder: Path) -> bool:
    epochs = Epochs.read(folder)
    return epochs is not None and epochs.done > 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["launch=inline", "launch=local"])
def test_a_closed_terminal_saves_the_run(tmp_path, how):
    """The run, and the pool's worker, though the live bar and the last lines have nowhere to go."""
    (job,) = jobs_of(tmp_path, *RUN)
    with Session(words_in(tmp_path, *RUN, how)) as session:
        wait_for(lambda: session.read() and is_training(job.folder))
        session.hang_up()
        assert session.status() == 130
    assert holder(job.folder, 10) is None
    assert CheckpointStore(job.folder / "checkpoints").load_latest() is not None
    assert not (job.folder / "failure.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["devices=1", "devices=2"])
def test_a_run_says_that_it_was_hung_up(tmp_path, devices):
    (job,) = jobs_of(tmp_path, *RUN, devices)
    process = start("-c", HUNG_UP, *words_in(tmp_path, *RUN, devices))
    wait_for(lambda: is_training(job.folder))
    process.send_signal(signal.SIGHUP)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, error
    assert "interrupted: stopped by SIGHUP after step " in error


@pytest.mark.slow
def test_a_run_under_nohup_goes_on(tmp_path):
    """Until another signal comes."""
    (job,) = jobs_of(tmp_path, *RUN)
    process = start("-c", IGNORING, *words_in(tmp_path, *RUN))
    wait_for(lambda: is_training(job.folder))
    process.send_signal(signal.SIGHUP)
    before = Epochs.read(job.folder)
    wait_for(lambda: Epochs.read(job.folder) not in (None, before))
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=PATIENCE)
    assert "interrupted: stopped by SIGTERM after step " in error


START = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.{}); "
START += "os.execv(sys.executable, [sys.executable, 'train.py', *sys.argv[1:]])"
HUNG_UP, IGNORING = START.format("SIG_DFL"), START.format("SIG_IGN")  # as a shell starts it, and as nohup does


def test_a_hang_up_is_a_signal_unless_it_is_ignored():
    assert (signal.SIGHUP in SIGNALS) == (signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN)
