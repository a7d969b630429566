"""Training losses, read from the device without making every step wait for it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llqr_sam.engine.devices.team import ALONE, Team

WINDOW = 100  # steps between two reads of a GPU


class Diverged(RuntimeError):
    """Training left the finite numbers; the message names the step."""


class LossLog:
    """Losses since the last evaluation: their mean, and a watch on the finite.

    On a GPU up to ``WINDOW`` losses wait on the device before one transfer brings them over; on the CPU each is read
    at once.

    Args:
        device: Where the losses are.
        window: Steps between two reads; by default ``WINDOW`` on a GPU, 1 on the CPU.
        team: Ranks whose shares of a minibatch the losses are of; read are their means.
    """

    def __init__(self, device: torch.device, window: int | None = None, team: Team = ALONE) -> None:
        self._team = team
        self._buffer = torch.zeros(window or (WINDOW if device.type == "cuda" else 1), device=device)
        self._first = 0  # step of the loss in the buffer's first place
        self._waiting = 0
        self._sum = 0.0
        self._count = 0

    def add(self, step: int, loss: Tensor) -> bool:
        """Take the loss (scalar tensor) of ``step``; steps come one after another.

        Returns:
            Whether this call has waited for the device.

        Raises:
            Diverged: a loss read in this call is not finite.
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
        """Read what waits on the device.

        Raises:
            Diverged: a loss among it is not finite.
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
        """Mean of what has been read since ``restart``; NaN before the first."""
        return self._sum / self._count if self._count else math.nan

    def restart(self) -> None:
        """Begin another mean, after an evaluation."""
        self._sum, self._count = 0.0, 0

    def state_dict(self) -> dict[str, float]:
        """Sum and count, after ``drain``."""
        return {"sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from ``state_dict``."""
        self._sum, self._count = float(state["sum"]), int(state["count"])
