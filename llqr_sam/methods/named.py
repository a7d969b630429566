"""Name -> tensor dictionaries: vectors in parameter space, and their inner product."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from llqr_sam.methods.shards import WHOLE, Shards, summed

Named = dict[str, Tensor]

HALF = (torch.float16, torch.bfloat16)
SMALL = 2048  # entries; below it on a CPU, joining tensors costs less than an operation on each


def is_cheap_to_read(tensor: Tensor) -> bool:
    """Whether nobody waits for a value of this tensor, as on a CPU."""
    return tensor.is_cpu


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree in shape, dtype, device and memory format."""
    return (a.shape, a.dtype, a.device, a.stride()) == (b.shape, b.dtype, b.device, b.stride())


def follow(averages: Named, gradients: Named, start: Callable[[Tensor], Tensor] = torch.clone) -> Named:
    """Casts and moves each average to its gradient, since a model may be cast or moved; returns those that had one.

    A gradient without an average starts one, as does a gradient of another shape, which is another parameter's.
    """
    known: Named = {}
    for name, g in gradients.items():
        average = averages.get(name)
        if average is None or average.shape != g.shape:
            averages[name] = start(g)
        else:
            known[name] = g
            averages[name] = average if alike(average, g) else torch.empty_like(g).copy_(average)
    return known


def float32_if_half(named: Named) -> Named:
    """Casts half precision to float32, where small squares do not vanish; without any, returns ``named`` itself."""
    half = {name: t for name, t in named.items() if t.dtype in HALF}
    if not half:
        return named
    wide = [torch.empty_like(t, dtype=torch.float32) for t in half.values()]
    torch._foreach_copy_(wide, list(half.values()))
    return {**named, **dict(zip(half, wide, strict=True))}


def squared_norm(a: Mapping[str, Tensor], shards: Shards = WHOLE) -> Tensor:
    """Sum of the squares of all entries; 0-d, in their widest dtype and on their device."""

    if not shards:  # saves looking each up by name
        return _squared_norm(list(a.values()))
    return summed(a, shards, lambda names: _squared_norm([a[name] for name in names]))


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor], shards: Shards = WHOLE) -> Tensor:
    """Inner product over all entries of two dictionaries with the same names; 0-d, in their dtype, on their device.

    Norms of all tensors are one kernel on a GPU, sums are one each. With p the products and p+ their positive part,
    sum p = 2 |p+|_1 - |p|_1, not finite where a product is not, rounded relative to |p|_1. No gradient flows.
    """
    if a is b:
        return squared_norm(a, shards)

    def total(names: Sequence[str]) -> Tensor:
        products = torch._foreach_mul([a[name] for name in names], [b[name] for name in names])
        sums = _norms(products, 1)
        torch._foreach_clamp_min_(products, 0)
        torch._foreach_lerp_(sums, _norms(products, 1), 2.0)
        return torch.stack(sums).sum(dtype=_widest(products))

    return summed(a, shards, total)


def _squared_norm(tensors: Sequence[Tensor]) -> Tensor:
    tensors = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    if is_cheap_to_read(tensors[0]) and sum(map(Tensor.numel, tensors)) < SMALL * len(tensors):
        joined: Tensor = _flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
        norm: Tensor = torch.linalg.vector_norm(joined, dtype=torch.float64)
        return norm.square().to(joined.dtype)  # the widest of theirs
    return torch.stack(_norms(tensors, 2)).square().sum(dtype=_widest(tensors))


def _norms(tensors: Sequence[Tensor], order: int) -> list[Tensor]:
    """Each tensor's norm, 0-d; on the CPU, which adds one entry after the other, in float64."""
    return list(torch._foreach_norm(list(tensors), order, dtype=torch.float64 if tensors[0].is_cpu else None))


def _widest(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that holds all of these."""
    return functools.reduce(torch.promote_types, {t.dtype for t in tensors})
