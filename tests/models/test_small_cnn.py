"""The network for digits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llqr_sam.models.small_cnn import SmallCNN


def test_curvature_products(check_curvature_products: Callable[[nn.Module, Tensor], None]) -> None:
    torch.manual_seed(0)
    model = SmallCNN(10, width=4).double()
    check_curvature_products(model, torch.randn(3, 1, 8, 8, dtype=torch.float64))
