"""Tensors that ``fully_shard`` or tensor parallelism spreads over ranks (DTensor): the part held here, and whole sums.

What a step does is elementwise but for its norm, so it works on local parts, and the norm alone is summed over ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Groups = tuple[dist.ProcessGroup, ...]
Shards = Mapping[str, Groups]  # name -> the process groups over which a tensor is spread; others are whole

WHOLE: Shards = {}


def is_spread(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    return hasattr(tensor, "to_local")  # the class itself takes half a second to import, and often nobody needs it


def local(tensor: Any) -> Tensor:
    """Returns the part of a DTensor that this process holds, sharing its memory; an ordinary tensor itself."""
    part: Tensor = tensor.to_local() if is_spread(tensor) else tensor
    return part


def groups_of(tensor: Any) -> Groups:
    """Returns the process groups over which a tensor is spread; none of an ordinary one."""
    if not is_spread(tensor):
        return ()
    mesh, placements = tensor.device_mesh, tensor.placements
    return tuple(mesh.get_group(axis) for axis, placement in enumerate(placements) if not placement.is_replicate())


def summed(names: Iterable[str], shards: Shards, total: Callable[[list[str]], Tensor]) -> Tensor:
    """Returns a sum over all entries of some tensors, given the sum over the entries of their local parts.

    Args:
        names: Of the tensors.
        shards: How they are spread.
        total: Names -> the sum over the entries of these, 0-d.
    """
    if not shards:
        return total(list(names))
    alike: defaultdict[Groups, list[str]] = defaultdict(list)
    for name in names:
        alike[shards.get(name, ())].append(name)
    totals = []
    for groups, own in alike.items():
        of_parts = total(own)
        for group in groups:
            dist.all_reduce(of_parts, group=group)
        totals.append(of_parts)
    return torch.stack(totals).sum()
