"""Small real runs: digits, the small CNN, and one method of each kind with a refresh every few steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.records.record import CurvePoint
from llqr_sam.engine.settings.run_settings import (
    ArchSettings,
    DatasetSettings,
    PrecisionSettings,
    ProtocolSettings,
    RunOptions,
    RunSettings,
)
from llqr_sam.methods.settings import MethodSettings

SGD = {"base": "sgd", "lr": 0.05, "weight_decay": 5e-4, "momentum": 0.9}
ADAM = {"base": "adam", "lr": 1e-3, "weight_decay": 1e-4, "betas": [0.9, 0.999]}
SAM = {"probe": "identity", "rho": 0.1, "norm": "metric", "start_step": 0, "batch_norm": "perturbed"}
GRADIENT = {"direction": "gradient"}
FRIENDLY = {"direction": "friendly", "friendly_sigma": 1.0, "friendly_decay": 0.6}
LLQR = {
    "transport": "llqr",
    "divergence": "ngd",
    "structure": "diagonal",
    "inner_steps": 3,
    "inner_lr": 1e-3,
    "inner_momentum": 0.9,
    "clip_norm": 5.0,
    "ema": 0.5,
    "damping": 0.0,
    "interval": 8,
    "reduction": "sum",
    "likelihood": "categorical",
    "refresh_batch": 16,
}
FISHER = {"probe": "fisher", "fisher_eta": 0.1, "fisher_form": "authors"}
METHODS: dict[str, dict[str, Any]] = {
    "sgdm": SGD,
    "adam": ADAM,
    "sam": SGD | SAM | GRADIENT,
    "f_sam": SGD | SAM | FRIENDLY,
    "fisher_sam": SGD | SAM | GRADIENT | FISHER,
    "llqr": SGD | LLQR,
    "llqr_sam": SGD | SAM | GRADIENT | LLQR | {"probe": "llqr", "structure": "kfac"},
    "llqr_f_sam": SGD | SAM | FRIENDLY | LLQR | {"probe": "llqr", "structure": "ekfac"},
}

Make = Callable[..., RunSettings]


@pytest.fixture
def make_settings() -> Make:
    """``make_settings(optim, optim_changes, **protocol_and_precision_changes)``: two epochs of digits."""

    def make(optim: str = "sgdm", changes: dict[str, Any] | None = None, **other: Any) -> RunSettings:
        protocol = {name: value for name, value in other.items() if name in ProtocolSettings.key_types()}
        precision = {name: value for name, value in other.items() if name not in protocol}
        return RunSettings(
            dataset=DatasetSettings("digits"),
            arch=ArchSettings("small_cnn", width=4),
            optim=MethodSettings.from_keys({"name": optim} | METHODS[optim] | (changes or {})),
            protocol=ProtocolSettings(**{"epochs": 2, "batch_size": 64} | protocol),
            precision=PrecisionSettings(**precision),
        )

    return make


@pytest.fixture
def make_options(tmp_path: Path) -> Callable[..., RunOptions]:
    """``make_options(name, **changes)``: a workspace and a record of that name, on the CPU."""

    def make(name: str = "run", **changes: Any) -> RunOptions:
        options = RunOptions(tmp_path / name, tmp_path / name / "record.json", device="cpu", keep_weights=True)
        return dataclasses.replace(options, **changes)

    return make


class StopAt(Observer):
    """Asks the run to stop after a step, or after the evaluation of an epoch."""

    def __init__(self, step: int | None = None, epoch: float | None = None) -> None:
        self.step, self.epoch = step, epoch

    def on_start(self, run: RunInfo) -> None:
        self.request_stop = run.request_stop

    def on_step(self, step: int, loss: float) -> None:
        if step == self.step:
            self.request_stop()

    def on_epoch(self, point: CurvePoint) -> None:
        if point.epoch == self.epoch:
            self.request_stop()


@pytest.fixture
def stop_at() -> type[StopAt]:
    return StopAt
