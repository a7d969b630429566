"""Name -> tensor dictionaries: vectors in parameter space, and their inner product."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Named = dict[str, Tensor]

HALF = (torch.float16, torch.bfloat16)


def single(named: Named) -> Named:
    """Half precision in float32, where small squares do not vanish; ``named`` itself where nothing is in half."""
    if not any(t.dtype in HALF for t in named.values()):
        return named
    return {name: t.float() if t.dtype in HALF else t for name, t in named.items()}


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """Inner product over all entries of two dictionaries with the same names; 0-d, on their device."""
    products = torch._foreach_mul(list(a.values()), [b[name] for name in a])
    return torch.stack([product.sum() for product in products]).sum()
