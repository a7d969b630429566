from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from llqr_sam.engine.loop.interruption import SIGNALS, Interrupted, StopRequest


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_makes_the_request(signum: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    stop = StopRequest()
    with stop.on_signals():
        assert not stop.made
        os.kill(os.getpid(), signum)
        assert stop.made
    assert stop.signum == signum
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_second_sigint_stops_at_once() -> None:
    stop = StopRequest()
    with stop.on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.made
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_signals_may_come_twice() -> None:
    stop = StopRequest()
    with stop.on_signals():
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.signum == signal.SIGUSR2


def test_outside_the_main_thread_no_handler_is_set() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    inside = []

    def body() -> None:
        with StopRequest().on_signals():
            inside.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert inside == before


def test_the_message_is_one_line_and_says_how_to_go_on() -> None:
    message = str(Interrupted(120, Path("work/run"), signal.SIGTERM))
    assert message == "stopped by SIGTERM after step 120; the same command continues from work/run"
    assert "stopped by request" in str(Interrupted(1, Path("x"), None))
