"""The learning rate as a function of the optimizer step.

Stateless, so a resumed run needs nothing but its step. The trainer writes the value to every parameter group.

    cosine    1/2 (1 + cos(pi t / T))         t, T counted after warm-up; reaches 0 at the end of training
    step      gamma^k                         k milestones passed, in epochs from the start of training
    constant  1

The first W steps take (step + 1) / W of the base rate instead.

    inverse_sqrt  step / W for step < W, then sqrt(W / step)     fairseq's; W = warmup_steps, and step 0 does nothing
"""

from __future__ import annotations

import math

from llqr_sam.engine.settings.run_settings import ProtocolSettings


def learning_rate(step: int, protocol: ProtocolSettings, base_lr: float, steps_per_epoch: int) -> float:
    """Rate of optimizer step ``step``, counted from 0; ``base_lr`` is the rate at factor 1."""
    warmup = protocol.warmup_steps or round(protocol.warmup_epochs * steps_per_epoch)
    factor = 1.0
    if protocol.schedule == "inverse_sqrt":
        factor = min(step / warmup, math.sqrt(warmup / max(step, 1)))
    elif step < warmup:
        factor = (step + 1) / warmup
    elif protocol.schedule == "cosine":
        total = protocol.epochs * steps_per_epoch
        factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    elif protocol.schedule == "step":
        factor = protocol.gamma ** sum(epoch * steps_per_epoch <= step for epoch in protocol.milestones)
    return base_lr * factor
