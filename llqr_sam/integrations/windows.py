"""One sharpness-aware step over the micro-batches of an accumulation window, under Hugging Face's accelerate.

Both passes need all micro-batches. So the adapters keep the micro-batches, and take the whole step where the window
ends, as one closure over them: batch-norm, random numbers and loss scaling are then those of a plain loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from llqr_sam.methods.sharpness_aware import SharpnessAware
from llqr_sam.methods.step.scaling import UNSCALED

REFUSED = (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM, DistributedType.XLA)


def take_step(
    accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, window: Sequence[Callable[[], Tensor]]
) -> Tensor:
    """Takes one step.

    Args:
        accelerator: Its ``scaler`` is used where there is one.
        model: The network, as ``accelerator.prepare`` returned it.
        optimizer: The ``SharpnessAware``, as ``accelerator.prepare`` returned it.
        window: For each micro-batch a function that evaluates the loss, calls ``accelerator.backward`` and returns the
            loss, detached.

    Returns:
        The sum of the losses at the unperturbed point.
    """
    inner, scaler = sharpness_aware_of(accelerator, optimizer), accelerator.scaler or UNSCALED
    steps, (*others, last) = inner.steps, window

    def closure() -> Tensor:
        inner.zero_grad()
        with accelerator.no_sync(model):  # the gradient travels between processes once, after the last micro-batch
            losses = [evaluate() for evaluate in others]
        return torch.stack([*losses, last()]).sum()

    loss: Tensor = inner.step(closure, scaler=scaler)
    scaler.update()
    vars(optimizer)["_is_overflow"] = inner.steps == steps  # so that learning-rate schedules skip this step too
    return loss


def clip(model: nn.Module, max_norm: float | None) -> Tensor:
    """Clips the gradients to an L2 norm over all of them, or not at all; returns the norm that they had."""
    norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if max_norm is not None:
        clip_grads_with_norm_(model.parameters(), max_norm, norm)
    return norm


def sharpness_aware_of(accelerator: Accelerator, optimizer: Optimizer) -> SharpnessAware:
    """Returns the ``SharpnessAware`` inside accelerate's wrapper.

    Raises:
        TypeError: there is another optimizer.
        ValueError: the distributed strategy shards or steps the parameters itself.
    """
    inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    if not isinstance(inner, SharpnessAware):
        raise TypeError(f"optimizer={type(inner).__name__} is not a SharpnessAware; wrap it in one.")
    if accelerator.distributed_type in REFUSED:
        strategy = accelerator.distributed_type.value
        raise ValueError(f"{strategy} shards or steps the parameters itself; train under DistributedDataParallel.")
    return inner
