"""timm's vision transformers (Dosovitskiy et al., arXiv 2010.11929; DeiT's tiny and small sizes, arXiv 2012.12877).

The paper's Table 9 counts their parameters. Its row "ViT-Ti/16" is exact for patch 8, 64 x 64 images and 200 classes.
"""

from __future__ import annotations

from torch import nn

from llqr_sam.torchvision_compat import ensure_torchvision

SIZES = {  # name -> (embedding, blocks, heads)
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}


def vision_transformer(name: str, classes: int, *, image_size: int, channels: int = 3) -> nn.Module:
    """A vision transformer without pretrained weights.

    Args:
        name: One of ``SIZES``.
        classes: Length of the output.
        image_size: Side of the square images; patches have side 16 at 224 and 8 at 64.
        channels: Channels of the images.

    Returns:
        Images ``[B, channels, image_size, image_size]`` to logits ``[B, classes]``.
    """
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    width, depth, heads = SIZES[name]
    model: nn.Module = VisionTransformer(
        img_size=image_size,
        patch_size=8 if image_size <= 64 else 16,
        in_chans=channels,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
    )
    return model
