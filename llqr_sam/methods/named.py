"""Name -> tensor dictionaries: vectors in parameter space, and their inner product."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Named = dict[str, Tensor]


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """Inner product over all entries of two dictionaries with the same names; 0-d, on their device."""
    products = torch._foreach_mul(list(a.values()), [b[name] for name in a])
    return torch.stack([product.sum() for product in products]).sum()
