from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llqr_sam.engine.settings.run_settings import ProtocolSettings


def rate(**protocol: Any) -> Callable[[int], float]:
    """The rate at each step, with 5 epochs of 10 steps and a base rate of 0.05."""
    settings = ProtocolSettings(**{"epochs": 5, "batch_size": 1} | protocol)
    return lambda step: settings.learning_rate(step, 0.05, 10)


def torch_rates(scheduler: type, steps: int, **arguments: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.05)
    schedule = scheduler(optimizer, **arguments)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_cosine_is_torchs_stepped_per_step() -> None:
    expected = torch_rates(torch.optim.lr_scheduler.CosineAnnealingLR, 51, T_max=50)
    assert [rate()(step) for step in range(51)] == pytest.approx(expected, rel=1e-12, abs=1e-16)


def test_cosine_ends_at_zero() -> None:
    assert rate()(0) == 0.05
    assert rate()(50) == pytest.approx(0, abs=1e-16)


def test_step_is_torchs_multistep() -> None:
    schedule = rate(schedule="step", milestones=[1, 3], gamma=0.1)
    expected = torch_rates(torch.optim.lr_scheduler.MultiStepLR, 50, milestones=[10, 30], gamma=0.1)
    assert [schedule(step) for step in range(50)] == pytest.approx(expected, rel=1e-12)


def test_constant() -> None:
    assert {rate(schedule="constant")(step) for step in range(50)} == {0.05}


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_warm_up_is_linear_and_then_over(schedule: str) -> None:
    warm = rate(schedule=schedule, warmup_epochs=1.5, milestones=[3])
    assert [warm(step) for step in range(15)] == pytest.approx([0.05 * (step + 1) / 15 for step in range(15)])
    assert warm(15) == 0.05
    assert all(warm(step) >= warm(step + 1) for step in range(15, 50))


def test_milestones_count_the_warm_up() -> None:
    warm = rate(schedule="step", warmup_epochs=1, milestones=[2])
    assert (warm(19), warm(20)) == pytest.approx((0.05, 0.005))


def test_cosine_after_warm_up_spans_what_is_left() -> None:
    warm = rate(warmup_epochs=1)
    assert warm(30) == pytest.approx(0.05 * 0.5 * (1 + math.cos(math.pi / 2)))


def test_inverse_sqrt_is_fairseqs() -> None:
    """With --warmup-updates 4: the rate of the update after k updates."""
    rates = rate(schedule="inverse_sqrt", warmup_steps=4)
    assert [rates(step) for step in (0, 1, 2, 4, 16)] == pytest.approx([0, 0.0125, 0.025, 0.05, 0.025])
