"""Loss scaling for float16: what a sharpness-aware step asks of a ``GradScaler``."""

from __future__ import annotations

from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

UNSCALED = GradScaler("cpu", enabled=False)


def unscale(scaler: GradScaler, optimizer: Optimizer) -> bool:
    """Divides the gradients by the loss scale, which a direction must not see; returns whether all are finite."""
    if not scaler.is_enabled():
        return True
    # A record per optimizer and update: the passes name this optimizer and its base, so ``scaler.update()`` sees both.
    scaler.unscale_(optimizer)
    return not any(bool(found) for found in scaler._found_inf_per_device(optimizer).values())


def require_shared_overflow(scaler: GradScaler) -> None:
    """Raises ValueError where one worker may overflow alone and the scaler would not tell the others."""
    if scaler.is_enabled() and not hasattr(scaler, "process_group"):
        raise ValueError(
            f"first_pass= may overflow on one worker alone, which a {type(scaler).__name__} keeps from the others; "
            "use torch.distributed.fsdp.sharded_grad_scaler.ShardedGradScaler."
        )


def require_no_hidden_scale(optimizer: Optimizer) -> None:
    """Raises RuntimeError where a GradScaler calls ``optimizer.step``: it cannot unscale what the closure makes."""
    if vars(optimizer).pop("grad_scale", None) is not None:
        vars(optimizer).pop("found_inf", None)
        raise RuntimeError(
            "scaler.step(optimizer) would apply scaled gradients; write optimizer.step(closure, scaler=scaler), or "
            "first_step(scaler=scaler) and second_step(), and then scaler.update()."
        )
