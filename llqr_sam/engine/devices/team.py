"""The processes that train one run together, and what they exchange.

    minibatch       each rank has its share of every minibatch and of the test samples (data/streams.py)
    gradient, loss  mean over ranks, with the same bits on every rank, so that the weights stay equal
    decisions       to stop and to save: taken between two steps, by all ranks together
    files           written by the first rank

``Team`` is a single process, where each exchange is the identity; ``DistributedTeam`` is a torch process group. Tensors
on a GPU are exchanged by NCCL, everything on the CPU (decisions, too) by gloo, which does not wait for the GPU.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=10)  # that a rank waits for the others before it gives up
Value = TypeVar("Value")


class Team:
    """A single process.

    Attributes:
        rank: Number of this process among ``size``.
        local_rank: Its number among the ``local_size`` on this machine.
        group: The process group; ``None`` for one process.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    group: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    def sum(self, own: Tensor) -> Tensor:
        """Sum over ranks."""
        return own

    def mean(self, own: Tensor) -> Tensor:
        """Mean over ranks."""
        return own

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its mean over ranks."""

    def max_over_ranks(self, *values: int) -> tuple[int, ...]:
        """The maximum of each value over ranks."""
        return values

    def broadcast(self, value: Value) -> Value:
        """The first rank's value, on all ranks."""
        return value

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks in order, on the first rank; an empty list on the others."""
        return [value]


class DistributedTeam(Team):
    """The ranks of the default process group; every method is collective."""

    def __init__(self, local_rank: int, local_size: int) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank, self.local_size = local_rank, local_size
        self.group = dist.group.WORLD

    def sum(self, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    def mean(self, own: Tensor) -> Tensor:
        return self.sum(own).mul_(1 / self.size)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """One exchange, laid out in the order of the parameters (docs/decisions.md)."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        means = torch.split(flat.mul_(1 / self.size), [g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [mean.view(g.shape) for g, mean in zip(gradients, means, strict=True)])

    def max_over_ranks(self, *values: int) -> tuple[int, ...]:
        highest = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return tuple(highest.tolist())

    def broadcast(self, value: Value) -> Value:
        box = [value]
        dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: Value) -> list[Value]:
        values: list[Value | None] | None = [None] * self.size if self.is_first else None
        dist.gather_object(value, values)
        return [] if values is None else values  # type: ignore[return-value]  # every place has been filled


ALONE = Team()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """Join the other processes of the run for the time of the block.

    Args:
        device: Of this rank.

    The environment names the ranks as torchrun does: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and
    MASTER_PORT.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield DistributedTeam(*local_place())
    finally:
        dist.destroy_process_group()


def local_place() -> tuple[int, int]:
    """Number of this rank among those on this machine, and how many there are."""
    return int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])


def is_loss(error: BaseException) -> bool:
    """Whether an exchange failed because another rank is gone or does not answer.

    gloo's errors have no type of their own; only the place that they come from identifies them.
    """
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))
