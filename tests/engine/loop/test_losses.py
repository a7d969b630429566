from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from llqr_sam.engine.loop.losses import WINDOW, Diverged, LossLog

CPU = torch.device("cpu")


def losses(*values: float) -> list[Tensor]:
    return [torch.tensor(value) for value in values]


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_the_mean_does_not_depend_on_when_losses_are_read(window: int) -> None:
    log = LossLog(CPU, window)
    assert math.isnan(log.mean)
    reads = [log.add(step, loss) for step, loss in enumerate(losses(1.0, 2.0, 4.0, 0.5))]
    log.drain()
    assert log.mean == 7.5 / 4
    assert sum(reads) == 4 // window
    log.restart()
    assert math.isnan(log.mean)


def test_every_loss_is_read_at_once_on_the_cpu() -> None:
    log = LossLog(CPU)
    assert log.add(0, torch.tensor(2.0))
    assert log.mean == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_names_the_first_step_that_is_not_finite(window: int, bad: float) -> None:
    def train() -> None:
        log = LossLog(CPU, window)
        for step, loss in enumerate(losses(1.0, bad, math.nan, 1.0), start=40):
            log.add(step, loss)
        log.drain()

    with pytest.raises(Diverged, match=f"the training loss is {bad} at step 41"):
        train()


def test_continues_from_its_state() -> None:
    log, other = LossLog(CPU), LossLog(CPU)
    for step, loss in enumerate(losses(0.1, 0.2, 0.3)):
        log.add(step, loss)
    other.load_state_dict(log.state_dict())
    for each in (log, other):
        each.add(3, torch.tensor(0.7))
    assert log.mean == other.mean


@pytest.mark.gpu
def test_a_gpu_is_read_once_in_a_window() -> None:
    log = LossLog(torch.device("cuda", 0))
    loss = torch.ones((), device="cuda")
    assert [step for step in range(2 * WINDOW) if log.add(step, loss)] == [WINDOW - 1, 2 * WINDOW - 1]
