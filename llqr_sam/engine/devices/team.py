"""The processes that train one run together, and what they exchange.

    minibatch       each rank has its share of every minibatch and of the test samples (data/streams.py)
    gradient, loss  mean over ranks, with the same bits on every rank, so that the weights stay equal
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
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

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
        yield Team(dist.get_rank(), dist.get_world_size(), *local_place())
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
