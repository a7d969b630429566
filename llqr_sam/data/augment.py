"""Augmentation of whole minibatches, on the device that holds them; each image draws its own random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Images ``[B, C, H, W]`` uint8 and a generator on their device -> new images of the same shape and dtype."""


@dataclass(frozen=True)
class RandomCrop:
    """Pad by reflection and crop to the original size at a uniformly random offset.

    With ``per_batch`` the whole minibatch shares one offset, as in the authors' code.
    """

    pad: int
    per_batch: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
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
    """Mirror positions outside [0, size - 1] at the border pixel, which is not repeated."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror each image left to right with probability ``probability``."""

    probability: float = 0.5

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        chosen = _choose(images, self.probability, generator)
        return torch.where(chosen[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class Cutout:
    """Blacken a square in each image with probability ``probability`` (DeVries and Taylor, arXiv 1708.04552).

    The centre is uniform over the pixels, so the border may clip the square. For an even side the centre is the pixel
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
        """Mask of the rows or columns that each square covers, ``[count, size]`` bool."""
        centres = torch.randint(0, size, (count, 1), generator=generator, device=device)
        distance = torch.arange(size, device=device) - (centres - self.side // 2)
        return (distance >= 0) & (distance < self.side)


def _choose(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(len(images), generator=generator, device=images.device) < probability


class Normalise:
    """Convert uint8 images ``[B, C, H, W]`` to float32, per channel: (x / 255 - mean) / std."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        deviation = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
        average = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1)
        self._scale = (1 / (255 * deviation)).to(device, torch.float32)
        self._shift = (-average / deviation).to(device, torch.float32)

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().mul_(self._scale).add_(self._shift)


def cifar_augmentation(crop: str) -> tuple[Augmentation, ...]:
    """The paper's augmentation of CIFAR and TinyImageNet; ``crop`` draws one offset per "image" or per "batch"."""
    return RandomCrop(4, per_batch=crop == "batch"), HorizontalFlip(), Cutout(16)


def digits_augmentation(crop: str) -> tuple[Augmentation, ...]:
    """A crop alone: a mirrored digit is no digit, and Cutout would hide most of an 8 x 8 image."""
    return (RandomCrop(1, per_batch=crop == "batch"),)
