"""Processes end when their time is up or when this one is told to stop, and no later than the grace allows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from llqr_sam.studies.gpu_window.guard import Guard

SLEEPS = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUBBORN!r}])"


def started(code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_process_is_asked_to_end_when_its_time_is_up():
    process = started(SLEEPS)
    with Guard().limited(process.pid, 0.1) as watched:
        assert process.wait() == -signal.SIGTERM
    assert watched.ended


@pytest.mark.parametrize("code", [STUBBORN, PARENT])
def test_what_does_not_end_is_killed_with_its_children(code):
    process = started(code)
    assert process.stdout is not None
    with Guard(grace=0.2).limited(process.pid, 0.1) as watched:
        process.wait()
    assert watched.ended
    assert process.stdout.read() == "", "the last one that could write is gone"


def test_one_that_ends_in_time_is_left_alone():
    guard = Guard(grace=0.0)
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    with guard.limited(process.pid, 60.0) as watched:
        assert process.wait() == 0
    assert not watched.ended
    assert guard.signum is None


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_process_in_hand(signum):
    guard, process = Guard(), started(SLEEPS)
    before = signal.getsignal(signum)
    with guard.on_signals(), guard.limited(process.pid, None) as watched:
        os.kill(os.getpid(), signum)
        assert process.wait() == -signal.SIGTERM
    assert (watched.ended, guard.signum) == (True, signum)
    assert signal.getsignal(signum) == before


def test_a_second_ctrl_c_kills():
    guard, process = Guard(), started(STUBBORN)
    with guard.on_signals(), guard.limited(process.pid, None):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        assert process.poll() is None
        os.kill(os.getpid(), signal.SIGINT)
        assert process.wait() == -signal.SIGKILL


def test_a_signal_between_two_processes_reaches_the_next():
    guard = Guard()
    with guard.on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        process = started(SLEEPS)
        with guard.limited(process.pid, None):
            assert process.wait() == -signal.SIGTERM
