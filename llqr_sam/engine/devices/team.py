"""The processes that train one run together, and what they exchange.

    minibatch       each rank has its share of every minibatch and of the test samples (data/streams.py)
    gradient, loss  mean over ranks, with the same bits on every rank, so that the weights stay equal
    batch-norm      statistics of the whole minibatch
    decisions       to stop and to save: taken between two steps, by all ranks together
    files           written by the first rank

Tensors on a GPU are exchanged by NCCL, everything on the CPU (decisions, too) by gloo, which does not wait for the GPU.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

TIMEOUT = timedelta(minutes=10)  # that a rank waits for the others before it gives up
Value = TypeVar("Value")


@dataclass(frozen=True)
class Team:
    """A single process, where each exchange is the identity, or the ranks of the default process group.

    Where there are several ranks, every method is collective.
    """

    rank: int = 0  # number of this process among ``size``
    size: int = 1
    local_rank: int = 0  # its number among the ``local_size`` on this machine
    local_size: int = 1

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The process group; ``None`` for one process."""
        return dist.group.WORLD if self.size > 1 else None

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    def sum(self, own: Tensor) -> Tensor:
        """Sum over ranks."""
        if self.size > 1:
            own = own.clone()
            dist.all_reduce(own)
        return own

    def mean(self, own: Tensor) -> Tensor:
        """Mean over ranks."""
        return own if self.size == 1 else self.sum(own).mul_(1 / self.size)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its mean: one exchange, in the order of the parameters (docs/decisions.md)."""
        if self.size > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            flat = torch.cat([g.reshape(-1) for g in gradients])
            dist.all_reduce(flat)
            means = torch.split(flat.mul_(1 / self.size), [g.numel() for g in gradients])
            torch._foreach_copy_(gradients, [mean.view(g.shape) for g, mean in zip(gradients, means, strict=True)])

    def max_over_ranks(self, *values: int) -> tuple[int, ...]:
        """The maximum of each value over ranks."""
        if self.size == 1:
            return values
        highest = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return tuple(highest.tolist())

    def broadcast(self, value: Value) -> Value:
        """The first rank's value, on all ranks."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks in order, on the first rank; an empty list on the others."""
        if self.size == 1:
            return [value]
        values = [value] * self.size if self.is_first else None
        dist.gather_object(value, values)
        return values or []


ALONE = Team()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """Join the other processes of the run, named by torchrun's variables, for the block; this rank is on ``device``."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Team(dist.get_rank(), dist.get_world_size(), *local_place())
    finally:
        dist.destroy_process_group()


def local_place() -> tuple[int, int]:
    """Number of this rank among those on this machine, and how many there are."""
    return int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])


def is_loss(error: BaseException) -> bool:
    """Whether an exchange failed because another rank is gone or does not answer; gloo's errors have no own type."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


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
    """``nn.SyncBatchNorm``, which torch has for GPUs only, with the parameters and buffers of ``layer``."""

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
