"""Keeps the weights of the best evaluation."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.record import CurvePoint


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
