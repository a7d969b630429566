"""Image files in folders, and TinyImageNet-200, which is small enough to be decoded once and kept on the device."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from llqr_sam.data.arrays import ImageArrays
from llqr_sam.data.streams import MissingDataError, existing

_SIDE = 64
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def list_images(folder: Path) -> list[Path]:
    """The image files directly inside a folder, sorted by name; MissingDataError if there is none."""
    names = os.listdir(folder) if folder.is_dir() else []  # text: slow paths would cost seconds for ImageNet
    images = sorted(name for name in names if os.path.splitext(name)[1].lower() in _SUFFIXES)
    if not images:
        raise MissingDataError(f"{folder} is missing or has no images: the data set is incomplete.")
    return [folder / name for name in images]


def open_rgb(file: Path) -> Image.Image:
    """Decode an image to three channels; ValueError if it is not readable."""
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{file} is not a readable image ({error}).") from error


def read_tinyimagenet(folder: Path) -> tuple[ImageArrays, int]:
    """TinyImageNet-200 in its official layout, decoded to ``[N, 3, 64, 64]``, and the number of classes.

    The official validation images are the test split; label k is line k of wnids.txt.

    Raises:
        MissingDataError: A part of the folder does not exist.
        ValueError: An image does not decode to 64 x 64, or an annotation names no known class.
    """
    labels = {wnid: label for label, wnid in enumerate(existing(folder / "wnids.txt").read_text().split())}
    train = [(file, labels[wnid]) for wnid in labels for file in list_images(folder / "train" / wnid / "images")]
    return ImageArrays(*_decode(train), *_decode(_annotated(folder / "val", labels))), len(labels)


def _annotated(folder: Path, labels: dict[str, int]) -> list[tuple[Path, int]]:
    """Image and label of each line of val_annotations.txt: file, wnid and a box, separated by tabs."""
    annotations = existing(folder / "val_annotations.txt")
    samples = []
    for number, line in enumerate(annotations.read_text().splitlines(), start=1):
        file, wnid, *_ = [*line.split("\t"), ""]
        if wnid not in labels:
            raise ValueError(f"{annotations}, line {number}: class {wnid!r} is not in wnids.txt.")
        samples.append((folder / "images" / file, labels[wnid]))
    return samples


def _decode(samples: list[tuple[Path, int]]) -> tuple[Tensor, Tensor]:
    """Images ``[N, 3, 64, 64]`` uint8 and labels ``[N]`` int64, decoded by threads (Pillow releases the GIL)."""
    images = np.empty((len(samples), _SIDE, _SIDE, 3), dtype=np.uint8)

    def decode(index: int) -> None:
        file = samples[index][0]
        pixels = np.asarray(open_rgb(file))
        if pixels.shape != images.shape[1:]:
            raise ValueError(f"{file} must be {_SIDE} x {_SIDE} pixels, not {pixels.shape[1]} x {pixels.shape[0]}.")
        images[index] = pixels

    with ThreadPoolExecutor() as threads:
        list(threads.map(decode, range(len(samples))))
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels
