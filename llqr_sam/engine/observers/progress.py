"""What a run shows on the terminal: a live bar, or one plain line an evaluation where nobody is watching."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.records.record import CurvePoint, Record, epoch_words

REDRAW = 0.25  # seconds between two drawings of the bar


def progress(stream: TextIO | None = None) -> Observer:
    """A bar if ``stream`` (standard error by default) is a terminal, else plain lines."""
    console = Console(file=stream or sys.stderr)
    return Bar(console) if console.is_terminal else Lines(console.file)


class Lines(Observer):
    """A line at the start, at each evaluation and at the end: for logs, pipes and SLURM.

    Args:
        stream: Text file the lines go to.
    """

    def __init__(self, stream: object) -> None:
        self._stream = stream
        self._epochs = 0
        self._best: float | None = None

    def on_start(self, run: RunInfo) -> None:
        self._epochs = run.epochs
        self._best = _best(run.curve)
        where = f", continues at step {run.first_step}" if run.first_step else ""
        self._print(f"{run.run_id}: {run.steps} steps, {run.parameters} parameters, {run.device}{where}")

    def on_epoch(self, point: CurvePoint) -> None:
        self._best = _better(self._best, point.score)
        self._print(
            f"epoch {epoch_words(point.epoch)}/{self._epochs}  "
            f"loss {_number(point.train_loss)}  test {_number(point.test_loss)}  "
            f"{_unit(point)} {_percent(point.score)}  best {_percent(self._best)}  {_duration(point.seconds)}"
        )

    def on_end(self, record: Record) -> None:
        self._print(_summary(record))

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)  # type: ignore[call-overload]


class Bar(Observer):
    """A progress bar with epoch, step, time left, loss, and current and best accuracy.

    It is drawn from the training thread, at most once in ``REDRAW`` seconds: a step in between costs one look at the
    clock.

    Args:
        console: Terminal to draw on.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("epoch {task.fields[epoch]}  step {task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[score]}  best {task.fields[best]}"),
            console=console,
            auto_refresh=False,
        )
        self._task = TaskID(0)
        self._next = 0.0  # clock time before which nothing is drawn
        self._best: float | None = None
        self._steps_per_epoch = 1
        self._epochs = 0

    def on_start(self, run: RunInfo) -> None:
        self._best = _best(run.curve)
        self._steps_per_epoch, self._epochs = run.steps_per_epoch, run.epochs
        last = run.curve[-1] if run.curve else None
        self._bar.start()
        self._task = self._bar.add_task(
            run.run_id,
            total=run.steps,
            completed=run.first_step,
            epoch=self._epoch(run.first_step),
            loss="-",
            score=f"{_unit(last)} {_percent(last.score)}" if last else "-",
            best=_percent(self._best),
        )
        self._bar.refresh()

    def on_step(self, step: int, loss: float) -> None:
        if time.monotonic() >= self._next:
            self._draw(completed=step, epoch=self._epoch(step), loss=_number(loss))

    def on_epoch(self, point: CurvePoint) -> None:
        self._best = _better(self._best, point.score)
        loss, score = _number(point.train_loss), f"{_unit(point)} {_percent(point.score)}"
        self._draw(
            completed=point.step,
            epoch=self._epoch(point.step),
            loss=loss,
            score=score,
            best=_percent(self._best),
        )

    def on_end(self, record: Record) -> None:
        self.close()
        self._console.print(_summary(record), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()

    def _draw(self, *, completed: int, **columns: str) -> None:
        """Set the columns, and show them unless the last drawing is too recent; stopping the bar always does."""
        self._bar.update(self._task, completed=completed, **columns)  # type: ignore[arg-type]
        now = time.monotonic()
        if now >= self._next:
            self._next = now + REDRAW
            self._bar.refresh()

    def _epoch(self, step: int) -> str:
        return f"{min(step // self._steps_per_epoch + 1, self._epochs)}/{self._epochs}"


def _best(curve: tuple[CurvePoint, ...]) -> float | None:
    return max((point.score for point in curve if point.score is not None), default=None)


def _better(best: float | None, score: float | None) -> float | None:
    return max((each for each in (best, score) if each is not None), default=None)


def _unit(point: CurvePoint) -> str:
    return "top-1" if point.perplexity is None else "BLEU"


def _summary(record: Record) -> str:
    best, last = record.metrics.best, record.metrics.last
    if record.status == "diverged":
        return f"{record.run_id}: diverged: {record.error}"
    unit = "top-1" if best.bleu is None else "BLEU"
    return (
        f"{record.run_id}: best {unit} {_percent(best.score)} (epoch {epoch_words(best.epoch)}), "
        f"last {_percent(last.score)}{_copying(record)}, {_duration(record.seconds.total)}"
    )


def _copying(record: Record) -> str:
    scoring = record.metrics.scoring
    return f", {scoring.copy_bleu:.2f} by copying the source" if scoring else ""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
