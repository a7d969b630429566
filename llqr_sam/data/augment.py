"""What is changed in training data: images are augmented, by whole minibatches on their device, and labels flipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from llqr_sam.data.streams import generator

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Images ``[B, C, H, W]`` uint8 and a generator on their device -> new images of the same shape and dtype."""


@dataclass(frozen=True)
class Recipe:
    """How the images of a data set are augmented, in this order."""

    pad: int | None = None  # pixels around an image before it is cropped to its size; None: an eighth of its side
    flip: bool = True  # mirror half of the images
    cutout: int = 0  # side of the blackened square; 0: none

    def steps(self, side: int, crop: str) -> tuple[Augmentation, ...]:
        """For images of a side; ``crop`` draws one offset per "image" or, as the authors, per "batch"."""
        pad = side // 8 if self.pad is None else self.pad
        steps: list[Augmentation] = [partial(random_crop, pad=pad, per_batch=crop == "batch")]
        steps += [random_flip] if self.flip else []
        return (*steps, partial(cutout, side=self.cutout)) if self.cutout else tuple(steps)


PLAIN = Recipe()  # of data of your own
PAPER = Recipe(pad=4, cutout=16)  # the paper's, of CIFAR and TinyImageNet
DIGITS = Recipe(pad=1, flip=False)  # a mirrored digit is no digit, and Cutout would hide most of an 8 x 8 image


def random_crop(images: Tensor, random: torch.Generator, *, pad: int, per_batch: bool = False) -> Tensor:
    """Pad by reflection and crop to the original size at a uniformly random offset."""
    count, channels, height, width = images.shape
    draws = 1 if per_batch else count
    offsets = torch.randint(-pad, pad + 1, (2, draws, 1), generator=random, device=images.device)
    rows = _reflect(offsets[0] + torch.arange(height, device=images.device), height)
    columns = _reflect(offsets[1] + torch.arange(width, device=images.device), width)
    # Gathering pixels straight from the unpadded images is several times faster than padding and cutting.
    pixels = (rows[:, :, None] * width + columns[:, None, :]).view(draws, 1, height * width)
    flat = images.reshape(count, channels, height * width)
    return flat.gather(2, pixels.expand(count, channels, height * width)).view_as(images)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Mirror positions outside [0, size - 1] at the border pixel, which is not repeated."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


def random_flip(images: Tensor, random: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    return torch.where(_half(images, random)[:, None, None, None], images.flip(-1), images)


def cutout(images: Tensor, random: torch.Generator, *, side: int) -> Tensor:
    """Blacken a square in each image with probability one half (DeVries and Taylor, arXiv 1708.04552).

    The centre is uniform over the pixels, so the border may clip the square. For an even side the centre is the pixel
    to the lower right of the middle.
    """

    def inside(size: int) -> Tensor:
        """Mask of the rows or columns that each square covers, ``[B, size]`` bool."""
        centres = torch.randint(0, size, (len(images), 1), generator=random, device=images.device)
        distance = torch.arange(size, device=images.device) - (centres - side // 2)
        return (distance >= 0) & (distance < side)

    chosen, rows, columns = _half(images, random), inside(images.shape[2]), inside(images.shape[3])
    return images * ~(chosen[:, None, None] & rows[:, :, None] & columns[:, None, :])[:, None]


def _half(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image is chosen with probability one half, ``[B]`` bool."""
    return torch.rand(len(images), generator=random, device=images.device) < 0.5


class Normalise:
    """Convert uint8 images ``[B, C, H, W]`` to float32, per channel: (x / 255 - mean) / std."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        average, deviation = (torch.tensor(x, dtype=torch.float64).view(-1, 1, 1) for x in (mean, std))
        self._scale = (1 / (255 * deviation)).to(device, torch.float32)
        self._shift = (-average / deviation).to(device, torch.float32)

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().mul_(self._scale).add_(self._shift)


def flip_labels(labels: Tensor, fraction: float, classes: int, seed: int) -> Tensor:
    """Replace exactly round(fraction N) of the labels ``[N]``, chosen at random, by a uniformly random other class.

    ``fraction`` is gamma of the paper's Table 8, in [0, 1). The seed determines which labels change and to what, on
    every device alike. ValueError if there is no other class.
    """
    count = round(fraction * len(labels))
    noisy = labels.clone()
    if count and classes < 2:
        raise ValueError(f"dataset.label_noise={fraction} needs at least two classes, not {classes}.")
    if count:
        random = generator("cpu", seed, "label noise")
        flipped = torch.randperm(len(labels), generator=random)[:count].to(labels.device)
        # A shift by 1 .. classes - 1, modulo the classes, is uniform over the other classes.
        shifts = torch.randint(1, classes, (count,), generator=random).to(labels.device)
        noisy[flipped] = (noisy[flipped] + shifts) % classes
    return noisy
