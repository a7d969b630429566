"""Name -> tensor dictionaries: vectors in parameter space, and their inner product."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Named = dict[str, Tensor]

HALF = (torch.float16, torch.bfloat16)


def single(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Half precision in float32, where small squares do not vanish; every other tensor as it is."""
    return [t.float() if t.dtype in HALF else t for t in tensors]


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """Inner product over all entries of two dictionaries with the same names; 0-d, on their device."""
    products = torch._foreach_mul(single(a.values()), single(b[name] for name in a))
    return torch.stack([product.sum() for product in products]).sum()
