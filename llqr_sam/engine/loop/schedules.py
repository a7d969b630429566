"""The learning rate as a function of the optimizer step.

Stateless, so a resumed run needs nothing but its step. The trainer writes the value to every parameter group.

    cosine    1/2 (1 + cos(pi t / T))         t, T counted after warm-up; reaches 0 at the end of training
    step      gamma^k                         k milestones passed, in epochs from the start of training
    constant  1

Warm-up multiplies none of these: the first W steps take (step + 1) / W of the base rate, linearly.

    inverse_sqrt  step / W for step < W, then sqrt(W / step)     fairseq's; W = warmup_steps, and step 0 does nothing
"""

from __future__ import annotations

import bisect
import math

from llqr_sam.engine.settings.run_settings import ProtocolSettings


class LearningRate:
    """Learning rate of each step of a run; ``base_lr`` is the rate at factor 1."""

    def __init__(self, protocol: ProtocolSettings, base_lr: float, steps_per_epoch: int) -> None:
        self.base_lr, self.schedule, self.gamma = base_lr, protocol.schedule, protocol.gamma
        self.total = protocol.epochs * steps_per_epoch
        self.warmup = protocol.warmup_steps or round(protocol.warmup_epochs * steps_per_epoch)
        self.milestones = sorted(epoch * steps_per_epoch for epoch in protocol.milestones)

    def at(self, step: int) -> float:
        """Rate of optimizer step ``step``, counted from 0."""
        return self.base_lr * self._factor(step)

    def _factor(self, step: int) -> float:
        if self.schedule == "inverse_sqrt":
            return min(step / self.warmup, math.sqrt(self.warmup / max(step, 1)))
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / (self.total - self.warmup)))
        if self.schedule == "step":
            return float(self.gamma ** bisect.bisect_right(self.milestones, step))
        return 1.0
