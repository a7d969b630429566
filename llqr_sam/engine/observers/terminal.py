"""What a run shows on the terminal: a line an evaluation and, if it is a real terminal, a live bar below them.

A terminal that is closed ends no run: the signal that comes with it does, after the step (interruption.py).
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.observers.unread import StandardError
from llqr_sam.engine.records.record import CurvePoint, Record, epoch_words

REDRAW = 0.25  # seconds between two drawings of the bar, by the training thread


class Terminal(Observer):
    """Prints a line at the start, at each evaluation and at the end, on standard error by default."""

    def __init__(self, console: Console | None = None, label: str = "") -> None:
        self._label = label  # names the run in its last line, and before its id in the first
        self._console = console or Console(file=cast(TextIO, StandardError()))
        self._bar = Progress(
            BarColumn(bar_width=24),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]}"),
            console=self._console,
            auto_refresh=False,
            disable=not self._console.is_terminal,
        )
        self._next_drawing = 0.0

    def on_start(self, run: RunInfo) -> None:
        self._epochs, self._best = run.epochs, run.best_score
        where = f", continues at step {run.first_step}" if run.first_step else ""
        named = f"{self._label} ({run.run_id})" if self._label else run.run_id
        self._print(f"{named}: {run.steps} steps, {run.parameters} parameters, {run.device}{where}")
        self._bar.start()
        self._task = self._bar.add_task(run.run_id, total=run.steps, completed=run.first_step, loss="-")
        self._bar.refresh()

    def on_step(self, step: int, loss: float) -> None:
        if not self._bar.disable and time.monotonic() >= self._next_drawing:
            self._next_drawing = time.monotonic() + REDRAW
            self._bar.update(self._task, completed=step, loss=_number(loss, 4), refresh=True)

    def on_epoch(self, point: CurvePoint) -> None:
        loss = _number(point.train_loss, 4)
        self._bar.update(self._task, completed=point.step, loss=loss)
        self._best = max((score for score in (self._best, point.score) if score is not None), default=None)
        self._print(
            f"epoch {epoch_words(point.epoch)}/{self._epochs}  loss {loss}  test {_number(point.test_loss, 4)}  "
            f"{_label(point.unit)} {_number(point.score)}  best {_number(self._best)}  {_duration(point.seconds)}"
        )

    def on_end(self, record: Record) -> None:
        self.close()
        best, last, scoring = record.metrics.best, record.metrics.last, record.metrics.scoring
        copying = f", {scoring.copy_bleu:.2f} by copying the source" if scoring else ""
        said = (
            f"best {_label(best.unit)} {_number(best.score)} (epoch {epoch_words(best.epoch)}), "
            f"last {_number(last.score)}{copying}, {_duration(record.seconds.total)}"
        )
        self._print(
            f"{self._label or record.run_id}: " + (f"diverged: {record.error}" if record.status == "diverged" else said)
        )

    def close(self) -> None:
        if not self._bar.disable:  # rich prints an empty line otherwise
            self._bar.stop()

    def _print(self, line: str) -> None:
        self._console.out(line, highlight=False)


def _label(unit: str) -> str:
    return "top-1" if unit == "%" else unit


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or value != value else f"{value:.{digits}f}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
