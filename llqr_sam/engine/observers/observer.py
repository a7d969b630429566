"""Who may watch a run: what the trainer tells, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llqr_sam.engine.records.record import CurvePoint, Record, RefreshPoint


@dataclass(frozen=True)
class RunInfo:
    """A run about to train or to continue."""

    run_id: str
    config: dict[str, Any]  # RunSettings.as_dict()
    git_commit: str | None  # of the code that trains it
    device: str
    parameters: int
    epochs: int
    steps_per_epoch: int
    first_step: int  # 0, or where the run continues
    curve: tuple[CurvePoint, ...]  # evaluations before
    refreshes: tuple[RefreshPoint, ...]  # and what U was refreshed with
    folder: Path  # of this run in the workspace
    request_stop: Callable[[], None]  # ends the run after the current step, with a checkpoint
    devices: int = 1  # that train it together

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch


class Observer:
    """Does nothing; watchers override what they care for.

    ``close`` comes last, whatever happened; without an ``on_end`` before it the run was interrupted or has failed.
    """

    def on_start(self, run: RunInfo) -> None:
        """Training begins."""

    def on_step(self, step: int, loss: float) -> None:
        """``step`` steps are finished; ``loss`` is the epoch's mean so far, as last read from the device (or NaN).

        Called every step: it must cost microseconds.
        """

    def on_refresh(self, point: RefreshPoint) -> None:
        """U has been refreshed."""

    def on_epoch(self, point: CurvePoint) -> None:
        """The network has been evaluated: after each epoch, or as often as ``protocol.evaluate_every`` says."""

    def on_save(self) -> None:
        """A checkpoint, or what stays of the run, is about to be written; an exception ends the run without it."""

    def on_end(self, record: Record) -> None:
        """The run is over and its record is written."""

    def close(self) -> None:
        """Release what is held."""
