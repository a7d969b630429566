"""From the name of a network to a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from llqr_sam.models.pyramidnet import PyramidNet
from llqr_sam.models.resnet import ResNet18, resnet50
from llqr_sam.models.small_cnn import SmallCNN
from llqr_sam.models.vgg import VGG16BN
from llqr_sam.models.vit import vision_transformer
from llqr_sam.models.wide_resnet import WideResNet


@dataclass(frozen=True)
class _Request:
    """What a network is built for."""

    classes: int
    image_size: int
    channels: int


@dataclass(frozen=True)
class _Arch:
    """A network: the image sides it takes, its published width (None: not adjustable), how it is built."""

    image_sizes: tuple[int, ...]
    make: Callable[[_Request, int], nn.Module]
    width: int | None = None


def _transformer(name: str) -> Callable[[_Request, int], nn.Module]:
    return lambda r, _: vision_transformer(name, r.classes, image_size=r.image_size, channels=r.channels)


_ARCHS: dict[str, _Arch] = {
    "small_cnn": _Arch((8,), lambda r, w: SmallCNN(r.classes, channels=r.channels, width=w), width=16),
    "vgg16_bn": _Arch((32,), lambda r, w: VGG16BN(r.classes, channels=r.channels, width=w), width=64),
    "resnet18": _Arch((32, 64), lambda r, w: ResNet18(r.classes, channels=r.channels, width=w), width=64),
    "wrn28_10": _Arch((32, 64), lambda r, _: WideResNet(r.classes, depth=28, factor=10, channels=r.channels)),
    "wrn34_10": _Arch((32, 64), lambda r, _: WideResNet(r.classes, depth=34, factor=10, channels=r.channels)),
    "pyramidnet110": _Arch((32, 64), lambda r, _: PyramidNet(r.classes, depth=110, alpha=270, channels=r.channels)),
    "resnet50": _Arch((224,), lambda r, _: resnet50(r.classes, channels=r.channels)),
    "vit_tiny": _Arch((64, 224), _transformer("vit_tiny")),
    "vit_small": _Arch((224,), _transformer("vit_small")),
    "vit_base": _Arch((224,), _transformer("vit_base")),
    "vit_large": _Arch((224,), _transformer("vit_large")),
}

ARCHS: tuple[str, ...] = tuple(_ARCHS)


def image_sizes(name: str) -> tuple[int, ...]:
    """Sides of the square images that the network takes.

    Raises:
        ValueError: There is no network of that name.
    """
    return _find(name).image_sizes


def takes_width(name: str) -> bool:
    """Whether ``width`` can be chosen for the network.

    Raises:
        ValueError: There is no network of that name.
    """
    return _find(name).width is not None


def build(name: str, *, classes: int, image_size: int, channels: int = 3, width: int | None = None) -> nn.Module:
    """A network with fresh weights, drawn from the global generator.

    Args:
        name: One of ``ARCHS``.
        classes: Length C of the output.
        image_size: Side S of the square images.
        channels: Channels of the images.
        width: Channels of the first stage; None: the published width.

    Returns:
        A module from images ``[B, channels, S, S]`` to logits ``[B, C]``.

    Raises:
        ValueError: No such network, an image size it does not take, or a width that is not adjustable or not positive.
    """
    arch = _find(name)
    if image_size not in arch.image_sizes:
        sides = " or ".join(map(str, arch.image_sizes))
        fitting = ", ".join(other for other in ARCHS if image_size in _ARCHS[other].image_sizes) or "none"
        raise ValueError(f"arch={name} takes images of side {sides}, not {image_size}; for {image_size}: {fitting}.")
    if width is not None and arch.width is None:
        adjustable = ", ".join(other for other in ARCHS if _ARCHS[other].width is not None)
        raise ValueError(f"arch.width={width} cannot be set for arch={name}, only for: {adjustable}.")
    if width is not None and width < 1:
        raise ValueError(f"arch.width={width} is not a number of channels: it must be at least 1.")
    return arch.make(_Request(classes, image_size, channels), width or arch.width or 0)


def _find(name: str) -> _Arch:
    if name not in _ARCHS:
        raise ValueError(f"arch={name} is not a network here. Choose from: {', '.join(ARCHS)}.")
    return _ARCHS[name]
