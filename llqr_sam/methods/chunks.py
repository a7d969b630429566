"""Curvature of a minibatch in chunks, when the whole does not fit in memory.

Every product linearises each chunk anew and forgets it, so memory is that of one chunk and a product costs about twice
what it does on a network linearised once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from llqr_sam.methods.curvature import Curvature
from llqr_sam.methods.named import Named

CurvatureAt = Callable[[Any, Any], Curvature]


class ChunkedCurvature:
    """g and H of a minibatch from those of its chunks.

    Args:
        curvature_at: Inputs and targets of a chunk to its curvature.
        inputs: Minibatch; tensors in it, nested in tuples or mappings, are split along the first axis.
        targets: Likewise.
        chunk_size: Samples in a chunk, the last one's may be fewer.
        summed: H is a sum over samples ("ngd" with reduction "sum") and not, like g, a mean.

    The loss must be a mean over samples, each counting alike.
    """

    def __init__(self, curvature_at: CurvatureAt, inputs: Any, targets: Any, chunk_size: int, *, summed: bool) -> None:
        size = _size(inputs)
        self._curvature_at = curvature_at
        self._chunks = list(zip(_split(inputs, chunk_size, size), _split(targets, chunk_size, size), strict=True))
        shares = [_size(chunk) / size for chunk, _ in self._chunks]
        self._weights = [1.0] * len(shares) if summed else shares
        self.gradient = self._weighted(lambda curvature: curvature.gradient, shares)

    def product(self, v: Named) -> Named:
        """H v."""
        return self._weighted(lambda curvature: curvature.product(v), self._weights)

    def _weighted(self, read: Callable[[Curvature], Named], weights: list[float]) -> Named:
        total: Named = {}
        for weight, (inputs, targets) in zip(weights, self._chunks, strict=True):
            part = read(self._curvature_at(inputs, targets))
            if not total:
                total = {name: torch.zeros_like(x) for name, x in part.items()}
            torch._foreach_add_(list(total.values()), [part[name] for name in total], alpha=weight)
        return total


def _size(tree: Any) -> int:
    """Length of the first axis of the first tensor."""
    if isinstance(tree, Tensor):
        return len(tree)
    return _size(next(iter(tree.values() if isinstance(tree, Mapping) else tree)))


def _split(tree: Any, chunk_size: int, size: int) -> Iterator[Any]:
    """The tree once a chunk, its tensors of ``size`` rows cut."""
    for start in range(0, size, chunk_size):
        yield _cut(tree, start, start + chunk_size, size)


def _cut(tree: Any, start: int, stop: int, size: int) -> Any:
    if isinstance(tree, Tensor):
        return tree[start:stop] if tree.ndim and len(tree) == size else tree
    if isinstance(tree, Mapping):
        return {key: _cut(value, start, stop, size) for key, value in tree.items()}
    return tuple(_cut(value, start, stop, size) for value in tree) if isinstance(tree, tuple) else tree
