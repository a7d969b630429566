"""Augmentation of whole minibatches, on the device that holds them.

An augmentation takes images ``[B, C, H, W]`` uint8 and a generator on their device, and returns images of the same
shape and type; a tuple of them is applied in order. Each image draws its own random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Augmentation(Protocol):
    """Images ``[B, C, H, W]`` uint8 to images of the same shape and type."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, changed at random; the argument is left alone."""


@dataclass(frozen=True)
class RandomCrop:
    """Pads by reflection and cuts a window of the original size at a uniformly random offset.

    ``per_batch`` draws one offset for the whole minibatch, as the authors' code does.
    """

    pad: int
    per_batch: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Raises ValueError if the padding is not smaller than the images."""
        count, channels, height, width = images.shape
        if self.pad >= min(height, width):
            raise ValueError(f"a crop with padding {self.pad} needs images larger than that, not {height} x {width}.")
        draws = 1 if self.per_batch else count
        offsets = torch.randint(-self.pad, self.pad + 1, (2, draws, 1), generator=generator, device=images.device)
        rows = _reflect(offsets[0] + torch.arange(height, device=images.device), height)
        columns = _reflect(offsets[1] + torch.arange(width, device=images.device), width)
        # Gathering pixels straight from the unpadded images is several times faster than padding and cutting.
        pixels = (rows[:, :, None] * width + columns[:, None, :]).view(draws, 1, height * width)
        flat = images.reshape(count, channels, height * width)
        return flat.gather(2, pixels.expand(count, channels, height * width)).view_as(images)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Positions outside [0, size - 1] mirrored at the border, which is not repeated."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirrors each image left to right with probability ``probability``."""

    probability: float = 0.5

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        chosen = _choose(images, self.probability, generator)
        return torch.where(chosen[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class Cutout:
    """Blackens a square in each image with probability ``probability`` (DeVries and Taylor, arXiv 1708.04552).

    The square's centre is uniform over the pixels, so the border may clip it. For an even side the centre is the pixel
    to the lower right of the middle.
    """

    side: int
    probability: float = 0.5

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        chosen = _choose(images, self.probability, generator)
        inside_rows = self._inside(count, height, images.device, generator)
        inside_columns = self._inside(count, width, images.device, generator)
        black = chosen[:, None, None] & inside_rows[:, :, None] & inside_columns[:, None, :]
        return images * ~black[:, None]

    def _inside(self, count: int, size: int, device: torch.device, generator: torch.Generator) -> Tensor:
        """Which of ``size`` positions the square covers, ``[count, size]`` bool."""
        centres = torch.randint(0, size, (count, 1), generator=generator, device=device)
        distance = torch.arange(size, device=device) - (centres - self.side // 2)
        return (distance >= 0) & (distance < self.side)


def _choose(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(len(images), generator=generator, device=images.device) < probability


class Normalise:
    """uint8 images ``[B, C, H, W]`` to float32, channel by channel: (x / 255 - mean) / std."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        deviation = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
        average = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1)
        self._scale = (1 / (255 * deviation)).to(device, torch.float32)
        self._shift = (-average / deviation).to(device, torch.float32)

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().mul_(self._scale).add_(self._shift)


def cifar_recipe(crop: str) -> tuple[Augmentation, ...]:
    """The paper's recipe for CIFAR and TinyImageNet: pad 4 and crop, flip, Cutout 16; ``crop`` is image or batch."""
    return RandomCrop(4, per_batch=crop == "batch"), HorizontalFlip(), Cutout(16)


def digits_recipe(crop: str) -> tuple[Augmentation, ...]:
    """Pad 1 and crop: a mirrored digit is no digit, and Cutout would hide most of an 8 x 8 image."""
    return (RandomCrop(1, per_batch=crop == "batch"),)
