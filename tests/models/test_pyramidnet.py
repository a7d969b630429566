"""PyramidNet with bottleneck blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from llqr_sam.models.pyramidnet import PyramidBottleneck, PyramidNet


def test_curvature_products(check_curvature_products: Callable[[nn.Module, Tensor], None]) -> None:
    torch.manual_seed(0)
    model = PyramidNet(10, depth=29, alpha=12).double()
    check_curvature_products(model, torch.randn(2, 3, 16, 16, dtype=torch.float64))


def test_known_counts() -> None:
    """Bottleneck networks of the model zoo osmr/imgclsmob (CIFAR-10), which reproduces the paper's errors."""
    for depth, alpha, expected in [(164, 270, 27_216_021), (200, 240, 26_752_702)]:
        with torch.device("meta"):
            model = PyramidNet(10, depth=depth, alpha=alpha)
        assert sum(p.numel() for p in model.parameters()) == expected


def test_shortcut_pools_and_pads_with_zeros() -> None:
    """With the last batch-norm at zero the block is its shortcut."""
    block = PyramidBottleneck(8, 3, stride=2).eval()
    nn.init.zeros_(block.bn4.weight)
    x = torch.randn(2, 8, 6, 6)
    y = block(x)
    torch.testing.assert_close(y[:, :8], nn.functional.avg_pool2d(x, 2))
    assert y[:, 8:].eq(0).all()
    assert y.shape == (2, 12, 3, 3)


@pytest.mark.parametrize("depth", [2, 100])
def test_impossible_depth(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth={depth}"):
        PyramidNet(10, depth=depth)
