"""From the name of a network to a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature

from torch import nn

from llqr_sam.models.convolutional import VGG16BN, PyramidNet, ResNet18, SmallCNN, WideResNet
from llqr_sam.models.imported import resnet50, vision_transformer


@dataclass(frozen=True)
class _Arch:
    make: Callable[..., nn.Module]  # takes classes and channels=, and where it has them width= and image_size=
    image_sizes: tuple[int, ...]

    def takes(self, parameter: str) -> bool:
        """Whether ``make`` has such a parameter."""
        return parameter in signature(self.make).parameters


_ARCHS: dict[str, _Arch] = {
    "small_cnn": _Arch(SmallCNN, (8,)),
    "vgg16_bn": _Arch(VGG16BN, (32,)),
    "resnet18": _Arch(ResNet18, (32, 64)),
    "wrn28_10": _Arch(partial(WideResNet, depth=28, factor=10), (32, 64)),
    "wrn34_10": _Arch(partial(WideResNet, depth=34, factor=10), (32, 64)),
    "pyramidnet110": _Arch(partial(PyramidNet, depth=110, alpha=270), (32, 64)),
    "resnet50": _Arch(resnet50, (224,)),
    "vit_tiny": _Arch(partial(vision_transformer, "vit_tiny"), (64, 224)),
    "vit_small": _Arch(partial(vision_transformer, "vit_small"), (224,)),
    "vit_base": _Arch(partial(vision_transformer, "vit_base"), (224,)),
    "vit_large": _Arch(partial(vision_transformer, "vit_large"), (224,)),
}

ARCHS = _ARCHS.keys()


def register(name: str, make: Callable[..., nn.Module]) -> None:
    """Stub."""
    if name in _ARCHS:
        raise ValueError(f"the network {name} exists already: register yours under another name.")
    _ARCHS[name] = _Arch(make, (8, 32, 64, 224))


def image_sizes(name: str) -> tuple[int, ...]:
    """Sides of the square images that the network takes; ValueError if there is no network of that name."""
    return _find(name).image_sizes


def takes_width(name: str) -> bool:
    """Whether the network's width is adjustable; ValueError if there is no network of that name."""
    return _find(name).takes("width")


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
        fitting = ", ".join(other for other in ARCHS if image_size in image_sizes(other)) or "none"
        raise ValueError(f"arch={name} takes images of side {sides}, not {image_size}; for {image_size}: {fitting}.")
    if width is not None and not arch.takes("width"):
        adjustable = ", ".join(filter(takes_width, ARCHS))
        raise ValueError(f"arch.width={width} cannot be set for arch={name}, only for: {adjustable}.")
    if width is not None and width < 1:
        raise ValueError(f"arch.width={width} is not a number of channels: it must be at least 1.")
    options = {} if width is None else {"width": width}
    if arch.takes("image_size"):
        options["image_size"] = image_size
    return arch.make(classes, channels=channels, **options)


def _find(name: str) -> _Arch:
    if name not in _ARCHS:
        raise ValueError(f"arch={name} is not a network here. Choose from: {', '.join(ARCHS)}.")
    return _ARCHS[name]
