"""Batch-norm over the whole minibatch that several ranks share; torch has such a layer for GPUs only."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from llqr_sam.engine.devices.team import Team


def with_sync_batch_norm(model: nn.Module, team: Team, device: torch.device) -> nn.Module:
    """Synchronise the batch-norm layers over ranks, in place; parameters, buffers and names stay.

    Except for rounding, the result does not depend on the number of ranks, which have equal shares of each minibatch.
    """
    if team.size == 1:
        return model
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, CpuSyncBatchNorm(child, team.size))
    return model


class CpuSyncBatchNorm(_BatchNorm):
    """``nn.SyncBatchNorm`` for the CPU, with the parameters and buffers of ``layer``."""

    def __init__(self, layer: _BatchNorm, ranks: int) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self._ranks = ranks

    def forward(self, inputs: Tensor) -> Tensor:
        """``[B, C, ...]`` to the same shape, B this rank's share."""
        if not self.training:
            return super().forward(inputs)
        values = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        others = [axis for axis in range(values.dim()) if axis != 1]
        own = values.mean(others)
        mean: Tensor = _SumOverRanks.apply(own) / self._ranks  # type: ignore[no-untyped-call]
        variance: Tensor = _SumOverRanks.apply(values.var(others, correction=0) + (own - mean).square()) / self._ranks  # type: ignore[no-untyped-call]
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            weight = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            samples = self._ranks * values.numel() // values.shape[1]
            self.running_mean.lerp_(mean.detach(), weight)
            self.running_var.lerp_(variance.detach() * (samples / (samples - 1)), weight)  # unbiased
        shape = [1, -1] + [1] * (values.dim() - 2)
        normal = (values - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(inputs.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes, as the layer that it replaces."""


class _SumOverRanks(torch.autograd.Function):
    """Differentiable sum. Gradients are summed over ranks, too, since each rank differentiates its own loss."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverRanks.forward(ctx, gradient)
