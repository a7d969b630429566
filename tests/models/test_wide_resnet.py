"""Wide ResNets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from llqr_sam.models.wide_resnet import WideResNet


def test_curvature_products(check_curvature_products: Callable[[nn.Module, Tensor], None]) -> None:
    torch.manual_seed(0)
    model = WideResNet(10, depth=10, factor=1).double()
    check_curvature_products(model, torch.randn(2, 3, 16, 16, dtype=torch.float64))


def test_published_counts() -> None:
    """arXiv 1605.07146, Table 4: WRN-40-4 8.9M, WRN-16-8 11.0M, WRN-22-8 17.2M, WRN-28-10 36.5M."""
    for depth, factor, millions in [(40, 4, 8.9), (16, 8, 11.0), (22, 8, 17.2), (28, 10, 36.5)]:
        with torch.device("meta"):
            model = WideResNet(10, depth=depth, factor=factor)
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("depth", [4, 27])
def test_impossible_depth(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth={depth}"):
        WideResNet(10, depth=depth, factor=1)
