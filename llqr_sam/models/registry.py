"""From the name of a network to a module."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from typing import Any

from torch import nn

from llqr_sam.models.convolutional import VGG16BN, PyramidNet, ResNet18, SmallCNN, WideResNet
from llqr_sam.models.imported import resnet50, vision_transformer
from llqr_sam.models.libraries import LIBRARIES, library_network

_GIVEN = ("classes", "channels", "image_size", "width", "model", "pretrained")  # no arch.args, but keys of their own


@dataclass(frozen=True)
class _Arch:
    make: Callable[..., nn.Module]  # takes classes and channels=, and where it has them width= and image_size=
    image_sizes: tuple[int, ...] = ()  # that it is meant for; none: it takes what it is given, or raises
    least: int | None = None  # it also takes any side from this one on

    def takes(self, parameter: str) -> bool:
        """Whether ``make`` has such a parameter."""
        return parameter in self.parameters

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """Those of ``make``."""
        return signature(self.make).parameters

    @property
    def takes_any(self) -> bool:
        """Whether ``make`` takes further parameters of any name."""
        return any(each.kind is Parameter.VAR_KEYWORD for each in self.parameters.values())

    def fits(self, side: int) -> bool:
        """Whether it takes images of this side, as far as is known before it is built."""
        larger = self.least is not None and side >= self.least
        return not self.image_sizes or side in self.image_sizes or larger


_ARCHS: dict[str, _Arch] = {
    "small_cnn": _Arch(SmallCNN, (8,)),
    "vgg16_bn": _Arch(VGG16BN, (32,)),
    "resnet18": _Arch(ResNet18, (32, 64), least=16),
    "wrn28_10": _Arch(partial(WideResNet, depth=28, factor=10), (32, 64), least=16),
    "wrn34_10": _Arch(partial(WideResNet, depth=34, factor=10), (32, 64), least=16),
    "pyramidnet110": _Arch(partial(PyramidNet, depth=110, alpha=270), (32, 64), least=16),
    "resnet50": _Arch(resnet50, (224,)),
    "vit_tiny": _Arch(partial(vision_transformer, "vit_tiny"), (64, 224)),
    "vit_small": _Arch(partial(vision_transformer, "vit_small"), (224,)),
    "vit_base": _Arch(partial(vision_transformer, "vit_base"), (224,)),
    "vit_large": _Arch(partial(vision_transformer, "vit_large"), (224,)),
    **{library: _Arch(partial(library_network, library)) for library in LIBRARIES},
}


def names() -> tuple[str, ...]:
    """Those of the paper, ``timm`` and ``torchvision``, and what ``register`` added."""
    return tuple(_ARCHS)


def register(name: str, make: Callable[..., nn.Module]) -> None:
    """Add a network of your own under a name.

    Args:
        name: What ``arch=`` or ``arch.source=`` calls it.
        make: ``make(classes, *, channels, image_size)``, and ``width`` if ``arch.width`` is to set it; other parameters
            are ``arch.args``. It returns a module from images ``[B, channels, image_size, image_size]`` to logits
            ``[B, classes]``, with weights from the global generator, or raises a ValueError.

    Raises:
        ValueError: The name is taken.
    """
    if name in _ARCHS:
        raise ValueError(f"the network {name} exists already: register yours under another name.")
    _ARCHS[name] = _Arch(make)


def image_sizes(name: str) -> tuple[int, ...]:
    """Sides of the square images that the network is meant for, none for one that may take any.

    ValueError if there is no network of that name.
    """
    return _find(name).image_sizes


def sides(name: str) -> str:
    """``image_sizes`` in words: "32x32 or 64x64", or "16x16 or larger"."""
    arch = _find(name)
    exact = " or ".join(f"{side}x{side}" for side in arch.image_sizes)
    return exact if arch.least is None else f"{arch.least}x{arch.least} or larger"


def fits(name: str, side: int) -> bool:
    """Whether the network takes images of this side, as far as is known before it is built; ValueError as above."""
    return _find(name).fits(side)


def takes_width(name: str) -> bool:
    """Whether the network's width is adjustable; ValueError if there is no network of that name."""
    return _find(name).takes("width")


def check_options(
    name: str,
    *,
    width: int | None = None,
    model: str | None = None,
    pretrained: bool | None = None,
    args: Mapping[str, Any] | None = None,
) -> None:
    """ValueError if an option of ``build`` is set that the network has no use for, or it lacks one."""
    arch = _find(name)
    for key, value in (("width", width), ("model", model), ("pretrained", pretrained)):
        if value is not None and not arch.takes(key):
            takes = ", ".join(other for other, each in _ARCHS.items() if each.takes(key))
            raise ValueError(f"arch.{key}={value} has no use with arch={name}. Only these take a {key}: {takes}.")
    if width is not None and width < 1:
        raise ValueError(f"arch.width={width} is not a number of channels: it must be at least 1.")
    if model is None and arch.takes("model"):
        raise ValueError(f"arch.model=null must have a value for arch={name}: the name of one of its networks.")
    for key, value in (args or {}).items():
        if key in _GIVEN or not (arch.takes(key) or arch.takes_any):
            own = ", ".join(each for each in arch.parameters if each not in _GIVEN) or "none"
            known = "" if arch.takes_any else f" Its arguments: {own}."
            raise ValueError(f"arch.args.{key}={value} has no use with arch={name}.{known}")


def build(
    name: str,
    *,
    classes: int,
    image_size: int,
    channels: int = 3,
    width: int | None = None,
    model: str | None = None,
    pretrained: bool | None = None,
    args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A network with fresh weights, drawn from the global generator.

    Args:
        name: One of ``names()``.
        classes: Length C of the output.
        image_size: Side S of the square images.
        channels: Channels of the images.
        width: Channels of the first stage; None: the published width.
        model: The network's name in timm or torchvision, if ``name`` is one of these.
        pretrained: Whether it starts from the library's weights, which are downloaded.
        args: Further arguments of the builder.

    Returns:
        A module from images ``[B, channels, S, S]`` to logits ``[B, C]``.

    Raises:
        ValueError: No such network, an image size it does not take, an option it has no use for, or a width that is not
            positive.
    """
    arch = _find(name)
    if not arch.fits(image_size):
        sides = " or ".join(map(str, arch.image_sizes)) if arch.least is None else f"{arch.least} or more"
        fitting = ", ".join(other for other in names() if fits(other, image_size)) or "none"
        raise ValueError(f"arch={name} takes images of side {sides}, not {image_size}; for {image_size}: {fitting}.")
    check_options(name, width=width, model=model, pretrained=pretrained, args=args)
    given = {"width": width, "model": model, "pretrained": pretrained, "image_size": image_size}
    options = {key: value for key, value in given.items() if value is not None and arch.takes(key)}
    return arch.make(classes, channels=channels, **options, **(args or {}))


def _find(name: str) -> _Arch:
    if name not in _ARCHS:
        close = difflib.get_close_matches(name, _ARCHS, n=1)
        meant = f" (did you mean {close[0]}?)" if close else "."
        raise ValueError(f"arch={name} is not a network here. Choose from: {', '.join(names())}{meant}")
    return _ARCHS[name]
