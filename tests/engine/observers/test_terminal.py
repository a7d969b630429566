from __future__ import annotations

import contextlib
import io
import math
import os
import pty
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.observers.terminal import REDRAW, Terminal
from llqr_sam.engine.records.record import SCHEMA_VERSION, CurvePoint, Metrics, Record, Seconds

CURVE = [CurvePoint(1, 20, 0.05, 1.5, 1.25, 60.0, 2.0), CurvePoint(2, 40, 0.02, 1.0, 1.75, 55.5, 65.0)]


def run_info(**changes: Any) -> RunInfo:
    steps = {"epochs": 2, "steps_per_epoch": 20, "first_step": 0}
    others = {"curve": (), "refreshes": (), "folder": Path(), "request_stop": int}
    return RunInfo("digits-run", {}, None, "a CPU", 24058, **(steps | others | changes))


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {"status": "finished", "error": None, "metrics": Metrics.from_curve(CURVE)} | changes
    return Record(
        schema=SCHEMA_VERSION,
        run_id="digits-run",
        config={},
        git_commit=None,
        git_dirty=False,
        packages={},
        device="a CPU",
        parameters=24058,
        refreshes=[],
        weights_sha256="",
        seconds=Seconds(0, 0, 0, 0, 0, 66),
        started="",
        resumes=0,
        **values,
    )


def show(observer: Observer, ended: Record, **run: Any) -> None:
    observer.on_start(run_info(**run))
    for point in CURVE:
        for step in range(point.step - 19, point.step + 1):
            observer.on_step(step, math.nan if step == 1 else 1.0)
        observer.on_epoch(point)
    observer.on_end(ended)
    observer.close()


def test_a_plain_line_an_epoch_where_nobody_is_watching() -> None:
    stream = io.StringIO()
    show(Terminal(Console(file=stream)), record())
    assert stream.getvalue().splitlines() == [
        "digits-run: 40 steps, 24058 parameters, a CPU",
        "epoch 1/2  loss 1.5000  test 1.2500  top-1 60.00  best 60.00  0:00:02",
        "epoch 2/2  loss 1.0000  test 1.7500  top-1 55.50  best 60.00  0:01:05",
        "digits-run: best top-1 60.00 (epoch 1), last 55.50, 0:01:06",
    ]


def test_a_run_of_a_sweep_is_called_by_its_label() -> None:
    """The first line has its id too, by which it can be found."""
    stream = io.StringIO()
    show(Terminal(Console(file=stream), "sam rho=0.05 s1"), record())
    first, *_, last = stream.getvalue().splitlines()
    assert first == "sam rho=0.05 s1 (digits-run): 40 steps, 24058 parameters, a CPU"
    assert last == "sam rho=0.05 s1: best top-1 60.00 (epoch 1), last 55.50, 0:01:06"


def test_a_score_of_nothing_is_one() -> None:
    """BLEU is 0 at first; and before anything was scored the best is unknown."""
    stream = io.StringIO()
    lines = Terminal(Console(file=stream))
    lines.on_start(run_info())
    lines.on_epoch(replace(CURVE[0], perplexity=9.0, bleu=None))
    lines.on_epoch(replace(CURVE[0], perplexity=9.0, bleu=0.0))
    unscored, scored = stream.getvalue().splitlines()[1:]
    assert "BLEU -  best -" in unscored
    assert "BLEU 0.00  best 0.00" in scored


def test_a_continued_run_knows_its_best() -> None:
    stream = io.StringIO()
    lines = Terminal(Console(file=stream))
    lines.on_start(run_info(first_step=25, curve=(CURVE[0],)))
    lines.on_epoch(CURVE[1])
    assert "continues at step 25" in stream.getvalue()
    assert "best 60.00" in stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_diverged_run_says_why(terminal: bool) -> None:
    stream = io.StringIO()
    error = "the training loss is nan at step 7 [not markup]"
    ended = record(status="diverged", error=error, metrics=Metrics.from_curve([]))
    show(Terminal(Console(file=stream, force_terminal=terminal)), ended)
    assert f"digits-run: diverged: {error}" in stream.getvalue()


def test_a_bar_on_a_terminal() -> None:
    stream = io.StringIO()
    show(Terminal(Console(file=stream, force_terminal=True, width=160)), record())
    shown = stream.getvalue()
    for text in ("epoch 1/2", "step 0/40", "step 40/40", "loss 1.0000", "top-1 55.50", "best 60.00", "eta"):
        assert text in shown


def test_an_interrupted_bar_gives_the_terminal_back() -> None:
    stream = io.StringIO()
    bar = Terminal(Console(file=stream, force_terminal=True))
    bar.on_start(run_info())
    bar.close()
    assert stream.getvalue().rstrip("\n").endswith("\x1b[?25h")
    bar.close()


def test_a_step_between_two_drawings_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: here the clock stands still, then goes on."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream = io.StringIO()
    bar = Terminal(Console(file=stream, force_terminal=True, width=160))
    bar.on_start(run_info())
    bar.on_step(1, 1.0)
    drawn = stream.getvalue()
    for step in range(2, 39):
        bar.on_step(step, 1.0)
    assert stream.getvalue() == drawn
    now += REDRAW
    bar.on_step(39, 1.0)
    assert "step 39/40" in stream.getvalue().removeprefix(drawn)
    bar.close()


SHOWING = """
import sys
from tests.engine.observers.test_terminal import Terminal, record, show

show(Terminal(), record())
"""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 120])
def test_every_line_stays_on_a_real_terminal(columns: int) -> None:
    """The bar is drawn below the lines, and erases none of them."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(
            sys.executable, [sys.executable, "-c", SHOWING], os.environ | {"TERM": "xterm", "COLUMNS": str(columns)}
        )
    shown = b""
    with contextlib.suppress(OSError):  # at its end
        while new := os.read(terminal, 1 << 16):
            shown += new
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert b"step 40/40" in shown
    assert b"\x1b[1A" not in shown, "no line above is gone back to"
    lines = shown.decode().replace("\r\n", "\n").split("\n")
    left = [re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", line.rpartition("\x1b[2K")[2]).lstrip("\r") for line in lines]
    stream = io.StringIO()
    show(Terminal(Console(file=stream)), record())
    assert [line for line in left if "step 40/40" not in line and line] == stream.getvalue().splitlines()
