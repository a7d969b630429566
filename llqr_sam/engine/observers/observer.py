"""What the trainer tells the observers of a run, and when."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.record import CurvePoint, Record, RefreshPoint


@dataclass(frozen=True)
class RunInfo:
    """A run that is about to train or to continue."""

    run_id: str
    config: dict[str, Any]  # RunSettings.as_dict()
    git_commit: str | None  # of the code that trains it
    device: str
    parameters: int
    epochs: int
    steps_per_epoch: int
    first_step: int  # 0, or where the run continues
    curve: tuple[CurvePoint, ...]  # earlier evaluations
    refreshes: tuple[RefreshPoint, ...]  # earlier refreshes of U
    folder: Path  # of this run in the workspace
    request_stop: Callable[[], None]  # ends the run after the current step, with a checkpoint
    devices: int = 1  # that train it together

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def best_score(self) -> float | None:
        """Best score of the earlier evaluations; ``None`` if none has one."""
        return max((point.score for point in self.curve if point.score is not None), default=None)


class Observer:
    """Base class whose methods do nothing; observers override what they need."""

    def on_start(self, run: RunInfo) -> None:
        """Training begins."""

    def on_step(self, step: int, loss: float) -> None:
        """``step`` steps are finished. ``loss`` is the mean since the last evaluation, as last read from the device."""

    def on_refresh(self, point: RefreshPoint) -> None:
        """U has been refreshed."""

    def on_epoch(self, point: CurvePoint) -> None:
        """The network has been evaluated, after an epoch or as ``protocol.evaluate_every`` says."""

    def on_save(self) -> None:
        """A checkpoint or the record is about to be written; an exception ends the run without it."""

    def on_end(self, record: Record) -> None:
        """The run is over and its record is written."""

    def close(self) -> None:
        """Always called last. Without an ``on_end`` before it the run was interrupted or failed."""


class BestWeights(Observer):
    """Writes the weights of ``model`` to ``path`` whenever an evaluation has a better score than all before it."""

    def __init__(self, model: nn.Module, path: Path) -> None:
        self._model, self._path, self._best = model, path, -math.inf

    def on_start(self, run: RunInfo) -> None:
        if run.best_score is not None:
            self._best = run.best_score

    def on_epoch(self, point: CurvePoint) -> None:
        if point.score is not None and point.score > self._best:
            self._best = point.score
            with replacing(self._path) as file:
                torch.save(self._model.state_dict(), file)
