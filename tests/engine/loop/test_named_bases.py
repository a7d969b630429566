"""Runs with base optimizers by name: resumed bit for bit, scheduled and evaluated as each class asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from llqr_sam.engine.devices.device import find_device
from llqr_sam.engine.loop.run import execute
from llqr_sam.engine.loop.trainer import Trainer
from llqr_sam.engine.observers.observer import Observer
from llqr_sam.engine.records.record import CurvePoint
from llqr_sam.methods import bases
from tests.engine.conftest import StopAt
from tests.engine.loop.test_trainer import make_trainer, run_in_pieces, timeless
from tests.methods.test_bases import TwiceCalled

SGD = {"lr": None, "momentum": None, "weight_decay": None}  # what the fixture's sgdm has: not for these
SLOW = [("Lion", "sam"), ("ScheduleFreeAdamW", "sgdm"), ("pytorch_optimizer.Muon", "sam"), ("SOAP", "sam")]


@pytest.mark.parametrize(
    ("base", "optim"),
    [
        ("Lion", "sgdm"),
        ("ScheduleFreeAdamW", "sam"),
        *(pytest.param(base, optim, marks=pytest.mark.slow) for base, optim in SLOW),
    ],
)
def test_an_interrupted_run_ends_as_the_whole_one(base: str, optim: str, make_settings: Any, make_options: Any) -> None:
    """Stopped between two steps, and after an evaluation, where ScheduleFree holds other weights than in training."""
    pytest.importorskip("pytorch_optimizer")
    settings = make_settings(optim, SGD | {"base": base})
    whole = execute(settings, make_options("whole"))
    pieces = run_in_pieces(settings, make_options("pieces"), [StopAt(5), StopAt(epoch=1)])
    assert whole.status == "finished"
    assert timeless(pieces) == timeless(whole)


def test_so_does_an_own_sharpness_aware_optimizer(
    make_settings: Any, make_options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "_REGISTERED", {"mysam": TwiceCalled})
    settings = make_settings("sgdm", SGD | {"base": "mysam", "lr": 0.1, "base_args": {"rho": 0.05}})
    whole = execute(settings, make_options("whole"))
    assert timeless(run_in_pieces(settings, make_options("pieces"), [StopAt(7)])) == timeless(whole)
    assert whole.metrics.curve[-1].train_loss < whole.metrics.curve[0].train_loss
    assert whole.config["optim"]["base_args"] == {"rho": 0.05}
    diverged = execute(make_settings("sgdm", SGD | {"base": "mysam", "lr": 1e30}), make_options("diverged"))
    assert diverged.status == "diverged"


def test_each_group_is_scheduled_from_its_own_rate(make_settings: Any, tmp_path: Path) -> None:
    """Muon has a rate for matrices and another for the rest; the schedule multiplies both."""
    pytest.importorskip("pytorch_optimizer")
    settings = make_settings(
        "sgdm", SGD | {"base": "pytorch_optimizer.Muon", "base_args": {"adamw_lr": 1e-3}}, epochs=1
    )
    rates: list[list[float]] = []

    class Reading(Observer):
        def on_step(self, step: int, loss: float) -> None:
            rates.append([group["lr"] for group in trainer.method.optimizer.param_groups])

    trainer = make_trainer(settings, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), tmp_path, [Reading()])
    trainer.run()
    assert rates == [[trainer.rate(step, 0.02), trainer.rate(step, 1e-3)] for step in range(trainer.steps)]
    assert rates[0] == [0.02, 1e-3]
    assert rates[-1][1] < 1e-4


@pytest.mark.parametrize("optim", ["sgdm", "sam"])
def test_averaged_weights_are_evaluated_and_kept(optim: str, make_settings: Any, make_options: Any) -> None:
    """ScheduleFree's ``eval`` comes before an evaluation and its ``train`` before a step."""
    pytest.importorskip("pytorch_optimizer")
    settings, options = make_settings(optim, SGD | {"base": "ScheduleFreeSGD"}), make_options()
    modes: list[tuple[str, bool]] = []

    class Reading(Observer):
        def on_step(self, step: int, loss: float) -> None:
            modes.append(("step", trainer.method.optimizer.param_groups[0]["train_mode"]))

        def on_epoch(self, point: CurvePoint) -> None:
            modes.append(("evaluation", trainer.method.optimizer.param_groups[0]["train_mode"]))

    trainer = Trainer(settings, options, find_device("cpu"), [Reading()])
    trainer.run()
    assert set(modes) == {("step", True), ("evaluation", False)}
    assert modes[-1] == ("evaluation", False)
