"""Training losses, read from the device without making every step wait for it; and what is not finite."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from llqr_sam.engine.devices.team import ALONE, Team

WINDOW = 100  # losses that are kept on a GPU and then read at once


class Diverged(RuntimeError):
    """Training produced a number that is not finite; the message names the step."""


def all_finite(model: nn.Module) -> bool:
    """Whether no parameter and no buffer holds an infinity or a NaN. Waits for the device once."""
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


class LossLog:
    """Mean of the losses since the last evaluation, over the ranks of ``team``; refuses a loss that is not finite."""

    def __init__(self, device: torch.device, window: int | None = None, team: Team = ALONE) -> None:
        self._team = team
        self._window = window or (WINDOW if device.type == "cuda" else 1)
        self._waiting: list[tuple[int, Tensor]] = []  # step and loss
        self._sum = 0.0
        self._count = 0

    def add(self, step: int, loss: Tensor) -> bool:
        """Take the loss (0-d) of ``step``; returns whether this call read the losses and so waited for the device."""
        self._waiting.append((step, loss))
        if len(self._waiting) < self._window:
            return False
        self.drain()
        return True

    def drain(self) -> None:
        """Read what is still on the device; raises ``Diverged`` at a loss that is not finite."""
        if not self._waiting:
            return
        steps, losses = zip(*self._waiting, strict=True)
        self._waiting.clear()
        for step, value in zip(steps, self._team.mean(torch.stack(losses)).tolist(), strict=True):
            if not math.isfinite(value):
                raise Diverged(f"the training loss is {value} at step {step}")
            self._sum += value
            self._count += 1

    @property
    def mean(self) -> float:
        """Mean of what has been read since ``restart``; NaN before the first reading."""
        return self._sum / self._count if self._count else math.nan

    def restart(self) -> None:
        """Begin a new mean, after an evaluation."""
        self._sum, self._count = 0.0, 0

    def state_dict(self) -> dict[str, float]:
        """Sum and count; call ``drain`` first."""
        return {"sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._sum, self._count = state["sum"], state["count"]
