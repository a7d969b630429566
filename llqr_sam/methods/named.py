"""Name -> tensor dictionaries: vectors in parameter space, and their inner product."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Named = dict[str, Tensor]

HALF = (torch.float16, torch.bfloat16)


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree in shape, dtype, device and memory format."""
    return (a.shape, a.dtype, a.device, a.stride()) == (b.shape, b.dtype, b.device, b.stride())


def follow(averages: Named, gradients: Named) -> None:
    """Makes each average like its gradient, in place of the one there was: a model may be cast or moved between steps.

    Args:
        averages: Name -> average, changed. The average of a gradient of another shape is dropped, since the parameter
            of that name is another one.
        gradients: Name -> gradient. Averages of other names stay as they are.
    """
    for name, g in gradients.items():
        average = averages.get(name)
        if average is not None and average.shape != g.shape:
            del averages[name]
        elif average is not None and not alike(average, g):
            averages[name] = torch.empty_like(g).copy_(average)


def single(named: Named) -> Named:
    """Half precision in float32, where small squares do not vanish; ``named`` itself where nothing is in half."""
    if not any(t.dtype in HALF for t in named.values()):
        return named
    return {name: t.float() if t.dtype in HALF else t for name, t in named.items()}


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """Inner product over all entries of two dictionaries with the same names; 0-d, on their device."""
    products = torch._foreach_mul(list(a.values()), [b[name] for name in a])
    return torch.stack([product.sum() for product in products]).sum()
