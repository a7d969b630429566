"""Several processes that learn one U: what they exchange.

    g     mean over ranks                     the gradient of the minibatches taken together
    H v   sum over ranks where the curvature is a sum over samples, else the mean
    U     the same bits on every rank: all compute it from the same reduced values, and the first rank's is broadcast
    U v   where U's blocks are sharded over the ranks, each fills in its own and the sum completes it

Batch-norm's running statistics are each rank's own, as ``DistributedDataParallel`` leaves them between two passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from llqr_sam.methods.named import Named

Item = TypeVar("Item")


class Ranks:
    """The ranks of a process group, or one process by itself. Every method is a collective, except ``share``."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank, self.size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        self._first = 0 if group is None else dist.get_global_rank(group, 0)

    def complete(self, own: Named, like: Named) -> Named:
        """Returns all entries of ``like``; each rank contributes those that it holds."""
        if self.group is None:
            return own
        return self.summed({name: own[name] if name in own else torch.zeros_like(x) for name, x in like.items()})

    def gathered(self, own: dict[str, Item]) -> dict[str, Item]:
        """Returns the entries of all ranks on the first rank, and this rank's entries elsewhere."""
        if self.group is None:
            return own
        shares: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(own, shares, self._first, group=self.group)
        return own if shares is None else {name: entry for share in shares for name, entry in share.items()}

    def agree(self, holds: Tensor) -> bool:
        """Whether a 0-d boolean is true on every rank."""
        if self.group is None:
            return bool(holds)
        doubts = (~holds).to(torch.float32)
        dist.all_reduce(doubts, group=self.group)
        return not bool(doubts)

    def same(self, value: Any) -> bool:
        """Whether every rank has an equal value."""
        values: list[Any] = [value] * self.size
        if self.group is not None:
            dist.all_gather_object(values, value, group=self.group)
        return all(other == value for other in values)

    def keep_first_(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites each tensor with the first rank's."""
        if self.group is not None:
            for tensor in tensors:
                dist.broadcast(tensor, self._first, group=self.group)

    def summed(self, named: Named, scale: float = 1.0) -> Named:
        """Returns ``scale`` times the sum over ranks, in one exchange; each entry keeps its dtype."""
        if self.group is None or not named:
            return named
        flat = torch.cat([x.reshape(-1) for x in named.values()])
        dist.all_reduce(flat, group=self.group)
        pieces = torch.split(flat.mul_(scale), [x.numel() for x in named.values()])
        return {name: piece.view(x.shape).to(x.dtype) for (name, x), piece in zip(named.items(), pieces, strict=True)}

    def share(self, items: Sequence[Item], size: Callable[[Item], int]) -> list[Item]:
        """Returns this rank's part of a list that all ranks have: sizes are balanced, the order is kept."""
        loads = [0] * self.size
        mine = set()
        for i in sorted(range(len(items)), key=lambda i: -size(items[i])):
            lightest = loads.index(min(loads))
            loads[lightest] += size(items[i])
            if lightest == self.rank:
                mine.add(i)
        return [item for i, item in enumerate(items) if i in mine]


def ranks_of(model: nn.Module, process_group: dist.ProcessGroup | Literal["none"] | None) -> Ranks:
    """The given group's ranks; without one, those of a ``DistributedDataParallel`` model, else the process alone."""
    groups = (wrapper.process_group for wrapper in _wrappers(model) if isinstance(wrapper, DistributedDataParallel))
    group = next(groups, None) if process_group is None else process_group
    return Ranks(None if isinstance(group, str) else group)


def require_group(ranks: Ranks, process_group: dist.ProcessGroup | Literal["none"] | None) -> None:
    """Raises ValueError where each of several processes would learn a U of its own, and nobody has said "none"."""
    alone = ranks.group is None and process_group != "none"
    if alone and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise ValueError(
            f"each of the {dist.get_world_size()} processes here would learn a U of its own, and replicas would "
            "diverge; give LLQR the DistributedDataParallel model or process_group=torch.distributed.group.WORLD, or "
            'process_group="none" where each process trains a network by itself.'
        )


def require_dynamic_graph(first_pass: Any) -> None:
    """Raises ValueError where a context is ``no_sync`` of a network whose static graph allows no pass without it."""
    ddp = getattr(first_pass, "__self__", None)
    if isinstance(ddp, DistributedDataParallel) and ddp.static_graph:
        raise ValueError("first_pass=ddp.no_sync needs DistributedDataParallel(static_graph=False).")


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile``, with its plain names."""
    *_, network = _wrappers(model)
    return network


def one_model(given: nn.Module | None, *of_metrics: nn.Module | None) -> nn.Module | None:
    """Returns the model of the metrics, or else the given one; all must be the same."""
    known = [unwrapped(model) for model in (*of_metrics, given) if model is not None]
    if any(model is not known[0] for model in known):
        raise ValueError("probe, transport and model= belong to different networks.")
    return known[0] if known else None


def _wrappers(model: nn.Module) -> Iterator[nn.Module]:
    """The model and the models it wraps, outermost first; the last one is the network."""
    inner: Any = model
    while isinstance(inner, nn.Module):
        yield inner
        parallel = isinstance(inner, (DistributedDataParallel, DataParallel))
        inner = inner.module if parallel else getattr(inner, "_orig_mod", None)
