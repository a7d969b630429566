"""torchvision's ResNet-50 and timm's vision transformers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from llqr_sam.models.imported import resnet50, vision_transformer
from llqr_sam.torchvision_compat import ensure_torchvision


def test_curvature_products_resnet50(check_curvature_products: Callable[[nn.Module, Tensor], None]) -> None:
    """Of torchvision's residual block, whose sum is in place, at its full width but one block a stage."""
    ensure_torchvision()
    from torchvision.models.resnet import Bottleneck

    block = Bottleneck(16, 4)
    block.relu.inplace = False
    model = nn.Sequential(nn.Conv2d(3, 16, 3), block, nn.Flatten(), nn.LazyLinear(5)).double()
    model(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    check_curvature_products(model, torch.randn(2, 3, 8, 8, dtype=torch.float64))


def test_resnet50_takes_other_channels() -> None:
    with torch.device("meta"):
        assert resnet50(10, channels=1)(torch.empty(1, 1, 64, 64)).shape == (1, 10)


def test_curvature_products_vit(check_curvature_products: Callable[[nn.Module, Tensor], None]) -> None:
    """Of timm's class, two blocks deep, with attention on the math backend."""
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5).double()
    check_curvature_products(model, torch.randn(2, 3, 16, 16, dtype=torch.float64))


@pytest.mark.parametrize(("name", "width", "heads"), [("vit_tiny", 192, 3), ("vit_small", 384, 6)])
def test_vits_have_the_published_sizes(name: str, width: int, heads: int) -> None:
    """arXiv 2012.12877, Table 1: 12 blocks of these sizes give the same weights from the same seed."""
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(1)
    ours = vision_transformer(name, 10, image_size=224)
    torch.manual_seed(1)
    theirs = VisionTransformer(embed_dim=width, depth=12, num_heads=heads, num_classes=10)
    assert ours.blocks[0].attn.num_heads == heads
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_vit_patch_follows_the_image_size() -> None:
    with torch.device("meta"):
        sides = [vision_transformer("vit_tiny", 10, image_size=size).patch_embed.patch_size for size in (64, 224)]
    assert sides == [(8, 8), (16, 16)]
