"""float16 training: true gradients after each of the two passes, and no step on an overflow.

A gradient scaler multiplies the loss, so that small float16 gradients survive backward. Directions, probe metrics and
their averages need the gradients themselves, so a sharpness-aware step unscales after every pass. The scaler keeps one
record per optimizer and update; the wrapper and its base hold the same parameters, so each pass has a record of its own
and ``scaler.update()`` sees an overflow in either.
"""

from __future__ import annotations

from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

UNSCALED = GradScaler("cpu", enabled=False)
"""No scaling: it leaves losses and gradients as they are and steps whatever it is given."""


def unscale(scaler: GradScaler, optimizer: Optimizer) -> bool:
    """Divides the gradients of an optimizer by the loss scale in place, at most once between two updates of the scaler.

    Returns:
        Whether every gradient is finite. Always true for a scaler that is not enabled, which looks at nothing.
    """
    if not scaler.is_enabled():
        return True
    scaler.unscale_(optimizer)
    return not any(bool(found) for found in scaler._found_inf_per_device(optimizer).values())


def workers_agree(scaler: GradScaler) -> bool:
    """Whether all workers learn of an overflow on one (torch's ``ShardedGradScaler``), or none can occur."""
    return not scaler.is_enabled() or hasattr(scaler, "process_group")
