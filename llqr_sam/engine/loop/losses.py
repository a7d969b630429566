"""Training losses, read from the device without making every step wait for it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from llqr_sam.engine.devices.team import ALONE, Team

WINDOW = 100  # steps between two readings from a GPU


class Diverged(RuntimeError):
    """Training produced a number that is not finite; the message names the step."""


class LossLog:
    """Mean of the losses since the last evaluation, over the ranks of ``team``; refuses a loss that is not finite.

    Up to ``window`` losses are kept on ``device`` and then read at once; by default ``WINDOW`` on a GPU, 1 on the CPU.
    """

    def __init__(self, device: torch.device, window: int | None = None, team: Team = ALONE) -> None:
        self._team = team
        self._buffer = torch.zeros(window or (WINDOW if device.type == "cuda" else 1), device=device)
        self._first = 0  # step of the first loss in the buffer
        self._waiting = 0
        self._sum = 0.0
        self._count = 0

    def add(self, step: int, loss: Tensor) -> bool:
        """Take the loss (0-d) of ``step``; steps are consecutive.

        Returns:
            Whether this call waited for the device.

        Raises:
            Diverged: a loss that was read in this call is not finite.
        """
        if self._waiting == 0:
            self._first = step
        self._buffer[self._waiting].copy_(loss)
        self._waiting += 1
        if self._waiting < len(self._buffer):
            return False
        self.drain()
        return True

    def drain(self) -> None:
        """Read what is still on the device.

        Raises:
            Diverged: one of the losses is not finite.
        """
        if self._waiting == 0:
            return
        values, self._waiting = self._team.mean(self._buffer[: self._waiting]).tolist(), 0
        for offset, value in enumerate(values):
            if not math.isfinite(value):
                raise Diverged(f"the training loss is {value} at step {self._first + offset}")
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
