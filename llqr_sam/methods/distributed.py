"""Several processes learning one U: what they exchange, and nothing where there is only one.

    g     mean over ranks                     the gradient of the minibatches taken together
    H v   sum over ranks where the curvature is a sum over samples, else the mean
    U     the same bits on every rank: all compute it from the same reduced values, and the first rank's is kept
    U v   where U's blocks are spread over the ranks, each fills in its own and the sum completes it

Batch-norm's running statistics are each rank's own, as ``DistributedDataParallel`` leaves them between two passes.
``Ranks`` is a process by itself, for which all of this is the identity; ``Group`` is a torch process group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from llqr_sam.methods.curvature.products import Curvature
from llqr_sam.methods.named import Named

Item = TypeVar("Item")


class Ranks:
    """A process by itself."""

    rank: int = 0
    size: int = 1

    def pooled(self, own: Curvature, *, summed: bool) -> Curvature:
        """The curvature of all ranks' minibatches taken together; of equal sizes, as everywhere in data parallelism.

        Args:
            own: Curvature of this rank's minibatch.
            summed: Whether it is a sum over samples, not a mean.
        """
        return own

    def complete(self, own: Named, like: Named) -> Named:
        """The entries every rank holds, put together; those of ``like``, of which ``own`` are this rank's."""
        return own

    def gathered(self, own: dict[str, Item]) -> dict[str, Item]:
        """On the first rank the entries of all, elsewhere this rank's."""
        return own

    def agree(self, holds: Tensor) -> bool:
        """Whether a 0-d boolean is true on every rank."""
        return bool(holds)

    def same(self, value: Any) -> bool:
        """Whether every rank has an equal value."""
        return True

    def keep_first_(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites each tensor with the first rank's."""

    def share(self, items: Sequence[Item], size: Callable[[Item], int]) -> list[Item]:
        """This rank's part of a list that all ranks hold alike: sizes balanced, largest first, order kept."""
        loads = [0] * self.size
        mine = set()
        for i in sorted(range(len(items)), key=lambda i: -size(items[i])):
            lightest = loads.index(min(loads))
            loads[lightest] += size(items[i])
            if lightest == self.rank:
                mine.add(i)
        return [item for i, item in enumerate(items) if i in mine]


class Group(Ranks):
    """The ranks of a process group; every method here is a collective, except ``share``."""

    def __init__(self, process_group: dist.ProcessGroup) -> None:
        self._group = process_group
        self.rank, self.size = dist.get_rank(process_group), dist.get_world_size(process_group)

    def pooled(self, own: Curvature, *, summed: bool) -> Curvature:
        """See ``Ranks``."""
        return _Pooled(own, self, 1.0 if summed else 1.0 / self.size)

    def complete(self, own: Named, like: Named) -> Named:
        """See ``Ranks``; what a rank does not hold counts as zero there."""
        return self.summed({name: own[name] if name in own else torch.zeros_like(x) for name, x in like.items()})

    def gathered(self, own: dict[str, Item]) -> dict[str, Item]:
        """See ``Ranks``."""
        shares: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(own, shares, dist.get_global_rank(self._group, 0), group=self._group)
        return own if shares is None else {name: entry for share in shares for name, entry in share.items()}

    def agree(self, holds: Tensor) -> bool:
        """See ``Ranks``."""
        doubts = (~holds).to(torch.float32)
        dist.all_reduce(doubts, group=self._group)
        return not bool(doubts)

    def same(self, value: Any) -> bool:
        """See ``Ranks``."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return all(other == value for other in values)

    def keep_first_(self, tensors: Iterable[Tensor]) -> None:
        """See ``Ranks``."""
        for tensor in tensors:
            dist.broadcast(tensor, dist.get_global_rank(self._group, 0), group=self._group)

    def summed(self, named: Named, scale: float = 1.0) -> Named:
        """``scale`` times the sum over ranks, in one exchange, each entry in its own dtype."""
        if not named:
            return {}
        flat = torch.cat([x.reshape(-1) for x in named.values()])
        dist.all_reduce(flat, group=self._group)
        pieces = torch.split(flat.mul_(scale), [x.numel() for x in named.values()])
        return {name: piece.view(x.shape).to(x.dtype) for (name, x), piece in zip(named.items(), pieces, strict=True)}


class _Pooled:
    """Reduced over ranks: the mean of the gradients, and the scaled sum of the products."""

    def __init__(self, own: Curvature, group: Group, scale: float) -> None:
        self._own, self._group, self._scale = own, group, scale
        self.gradient: Named = group.summed(own.gradient, 1.0 / group.size)

    def product(self, v: Named) -> Named:
        """H v."""
        return self._group.summed(self._own.product(v), self._scale)


def ranks_of(model: nn.Module, process_group: dist.ProcessGroup | None) -> Ranks:
    """The given group's ranks; without one, those of a ``DistributedDataParallel`` model, else the process alone."""
    for wrapper in _wrappers(model):
        if process_group is None and isinstance(wrapper, DistributedDataParallel):
            process_group = wrapper.process_group
    return Ranks() if process_group is None else Group(process_group)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile``, with its plain names."""
    return _wrappers(model)[-1]


def _wrappers(model: nn.Module) -> list[nn.Module]:
    """The model, what it wraps, what that wraps, ..., the network."""
    chain = [model]
    while True:
        parallel = isinstance(model, (DistributedDataParallel, DataParallel))
        inner = model.module if parallel else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return chain
        chain.append(inner)
        model = inner
