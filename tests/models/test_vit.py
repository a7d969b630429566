"""timm's vision transformers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llqr_sam.models.vit import vision_transformer
from llqr_sam.torchvision_compat import ensure_torchvision


def test_curvature_products(check_curvature_products: Callable[[nn.Module, Tensor], None]) -> None:
    """Of timm's class, two blocks deep, with attention on the math backend."""
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5).double()
    check_curvature_products(model, torch.randn(2, 3, 16, 16, dtype=torch.float64))


def test_equals_timms_named_model() -> None:
    """``vit_base`` has the tensors of timm's vit_base_patch16_224."""
    ensure_torchvision()
    import timm

    with torch.device("meta"):
        ours = vision_transformer("vit_base", 1000, image_size=224)
        theirs = timm.create_model("vit_base_patch16_224")
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}


def test_patch_follows_the_image_size() -> None:
    with torch.device("meta"):
        sides = [vision_transformer("vit_tiny", 10, image_size=size).patch_embed.patch_size for size in (64, 224)]
    assert sides == [(8, 8), (16, 16)]
