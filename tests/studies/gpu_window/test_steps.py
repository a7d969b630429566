"""Processes end when their time is up or when this one is told to stop, and no later than the grace allows."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llqr_sam.engine.loop.interruption import handled
from llqr_sam.studies.gpu_window import steps
from llqr_sam.studies.gpu_window.steps import run_python
from tests.waiting import wait_for

SLEEPS = "import sys, time, pathlib; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUBBORN!r}, sys.argv[1]])"


def once_it_is_there(path: Path, *works: Callable[[], object]) -> None:
    """In another thread, so that this one can wait for the process."""

    def wait() -> None:
        wait_for(path.exists)
        for work in works:
            work()

    threading.Thread(target=wait).start()


def interrupt(signum: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


def test_a_process_is_asked_to_end_when_its_time_is_up(tmp_path):
    finished = run_python(["-c", SLEEPS, str(tmp_path / "ready")], 0.1, [])
    assert (finished.cause, finished.succeeded, finished.stopped) == ("SIGTERM", False, True)


@pytest.mark.parametrize("code", [STUBBORN, PARENT])
def test_what_does_not_end_is_killed_with_its_children(code, tmp_path, monkeypatch):
    """The output is known to be complete only when the last process that could write is gone."""
    monkeypatch.setattr(steps, "GRACE", 0.2)
    signals, began, ready = [], time.monotonic(), tmp_path / "ready"
    once_it_is_there(ready, lambda: signals.append(signal.SIGTERM))
    finished = run_python(["-c", code, str(ready)], 60.0, signals)
    assert finished.stopped
    assert ready.exists()
    assert time.monotonic() - began < 55


def test_one_that_ends_in_time_is_left_alone(tmp_path):
    finished = run_python(["-c", "print('done')"], 60.0, [])
    assert finished == ("exit status 0", True, "done\n", False)
    with (tmp_path / "out").open("wb") as file:
        finished = run_python(["-c", "print('kept'); raise SystemExit(3)"], 60.0, [], stdout=file)
    assert (finished.cause, finished.output, (tmp_path / "out").read_text()) == ("exit status 3", None, "kept\n")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_process(signum, tmp_path):
    signals, before = [], signal.getsignal(signum)
    once_it_is_there(tmp_path / "ready", interrupt(signum))
    with handled(lambda signum, frame: signals.append(signum)):
        finished = run_python(["-c", SLEEPS, str(tmp_path / "ready")], 60.0, signals)
    assert (finished.cause, finished.stopped, signals) == ("SIGTERM", True, [signum])
    assert signal.getsignal(signum) == before


def test_a_second_ctrl_c_kills(tmp_path):
    signals = []
    once_it_is_there(tmp_path / "ready", interrupt(signal.SIGINT), lambda: time.sleep(0.5), interrupt(signal.SIGINT))
    with handled(lambda signum, frame: signals.append(signum)):
        finished = run_python(["-c", STUBBORN, str(tmp_path / "ready")], 60.0, signals)
    assert (finished.cause, signals) == ("SIGKILL", [signal.SIGINT] * 2)


def test_a_signal_between_two_processes_reaches_the_next(tmp_path):
    assert run_python(["-c", SLEEPS, str(tmp_path / "ready")], 60.0, [signal.SIGTERM]).cause == "SIGTERM"
