"""Networks that torchvision and timm have as the paper uses them, without pretrained weights."""

from __future__ import annotations

from torch import nn

from llqr_sam.models.convolutional import initialise_convolutions
from llqr_sam.torchvision_compat import ensure_torchvision


def resnet50(classes: int, *, channels: int = 3) -> nn.Module:
    """torchvision's ResNet-50 for 224 x 224 images: 25,557,032 parameters for 1000 classes.

    Its activations are made out-of-place, because curvature products need double backward and forward mode.
    """
    ensure_torchvision()
    from torchvision.models import resnet50 as torchvision_resnet50

    model: nn.Module = torchvision_resnet50(weights=None, num_classes=classes)
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        initialise_convolutions(model.conv1)
    make_out_of_place(model)
    return model


def make_out_of_place(model: nn.Module) -> None:
    """Switch activations and dropout to out-of-place: in-place ones overwrite what double backward needs."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]


def vision_transformer(name: str, classes: int, *, image_size: int, channels: int = 3) -> nn.Module:
    """timm's vision transformer (Dosovitskiy et al., arXiv 2010.11929; DeiT's tiny and small sizes, 2012.12877).

    Args:
        name: ``vit_tiny``, ``vit_small``, ``vit_base`` or ``vit_large``.
        classes: Length of the output.
        image_size: Side of the square images; patches have side 16 at 224, and 8 at 64: so the paper's Table 9 counts
            its "ViT-Ti/16" with 200 classes.
        channels: Channels of the images.
    """
    ensure_torchvision()
    import timm

    patch = 8 if image_size <= 64 else 16
    sizes = {"img_size": image_size, "patch_size": patch, "in_chans": channels, "num_classes": classes}
    model: nn.Module = timm.create_model(f"{name}_patch16_224", **sizes)
    return model
