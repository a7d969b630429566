"""Data of your own: arrays of any shape, checked, resized and split, with what is known of them once they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from llqr_sam.data.arrays import ImageArrays
from llqr_sam.data.cifar import SPLITS, load_arrays
from llqr_sam.data.streams import DatasetInfo
from llqr_sam.data.subsets import split

TEST_FRACTION = 0.2
_CHUNK = 1024  # images that are resized together


@dataclass(frozen=True)
class ReadOptions:
    """What to make of data whose size or split is not fixed; a data set without use for one leaves it at None."""

    image_size: int | None = None  # side that images are resized to
    test_fraction: float | None = None  # of the images of each class, where there are none to test on
    collection: str | None = None  # class of torchvision.datasets


AS_IT_IS = ReadOptions()
Split = tuple[npt.NDArray[Any], npt.NDArray[Any]]  # images and labels


def read_own_npz(file: Path, options: ReadOptions) -> tuple[ImageArrays, DatasetInfo]:
    """Read x_train, y_train and, to test on, x_test and y_test of an ``.npz``, as ``own_arrays`` takes them."""
    called = f"dataset.path={file}"
    if not file.is_file():
        raise ValueError(f"{called} is a folder: dataset=npz reads a file of arrays, dataset=folder image files.")
    found = load_arrays(file, called, ("x_train", "y_train"), ("x_test", "y_test"))
    if ("x_test" in found) != ("y_test" in found):
        raise ValueError(f"{called} must have both x_test and y_test, or neither.")
    test = (found["x_test"], found["y_test"]) if "x_test" in found else None
    return own_arrays(called, (found["x_train"], found["y_train"]), test, options)


def own_arrays(called: str, train: Split, test: Split | None, options: ReadOptions) -> tuple[ImageArrays, DatasetInfo]:
    """A data set from arrays, which messages call x_train, y_train, x_test and y_test.

    Args:
        called: Where they are from, for messages.
        train: Images ``[N, H, W]`` or ``[N, H, W, C]`` uint8, and labels ``[N]``, integers from 0 to K - 1.
        test: The same; None: split from the training images.
        options: A side to resize to, and a fraction to split off.

    Returns:
        The data set; and K, the side, and mean and deviation of the training images' pixels.

    Raises:
        ValueError: Another shape, dtype or range, no label in use, or sides that differ and are not resized.
    """
    tensors: list[Tensor] = []
    for name, part in zip(SPLITS, (train, test), strict=True):
        if part is not None:
            _check(called, name, *part)
            tensors += _resized(_channels_first(part[0]), options.image_size), torch.from_numpy(part[1].astype("int64"))
    classes = _class_count(called, *tensors[1::2])
    if test is None:
        kept, held_out = split(called, tensors[1], options.test_fraction or TEST_FRACTION)
        whole = ImageArrays(tensors[0][kept], tensors[1][kept], tensors[0][held_out], tensors[1][held_out])
    else:
        check_no_fraction(called, options)
        if tensors[0].shape[1:] != tensors[2].shape[1:]:
            sides = " and ".join("x".join(map(str, x.shape[1:])) for x in tensors[::2])
            raise ValueError(f"{called}: x_train and x_test must have images of one shape, not {sides}.")
        whole = ImageArrays(*tensors)
    _, channels, height, width = whole.train_images.shape
    if height != width:
        raise ValueError(
            f"{called} has images of {height} x {width} pixels, and networks take squares: set dataset.image_size= "
            f"to the side that they are resized to, such as {max(height, width)}."
        )
    return whole, DatasetInfo(classes, height, channels, *_statistics(whole.train_images), whole.samples)


def _class_count(called: str, train: Tensor, test: Tensor | None = None) -> int:
    """K > 1, where ``train`` holds each label of 0 .. K - 1 and ``test`` no others; else a ValueError."""
    found = sorted(set(train.tolist()))
    classes = len(found)
    if found != list(range(classes)) or classes < 2:
        missing = next((k for k in range(classes) if k not in found), None)
        ends = "0 alone" if missing is None else f"{found[0]} to {found[-1]} without {missing}"
        raise ValueError(f"{called}: y_train must hold every label from 0 to K - 1, K at least 2, but holds {ends}.")
    if test is not None and (test.min() < 0 or test.max() >= classes):
        ends = f"{test.min()} to {test.max()}"
        raise ValueError(f"{called}: y_test must be in [0, {classes - 1}] as y_train is, but holds {ends}.")
    return classes


def check_no_fraction(called: str, options: ReadOptions) -> None:
    """ValueError if a fraction is to be split off data that have images to test on."""
    if options.test_fraction is not None:
        raise ValueError(
            f"dataset.test_fraction={options.test_fraction} has no use with {called}: it has images to test on."
        )


def _check(called: str, name: str, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    """ValueError unless these are the images and labels of the split ``name``."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        found = f"{images.dtype} of shape {list(images.shape)}"
        problem = f"must be uint8, 0 to 255, of shape [N, H, W] or [N, H, W, C], not {found}"
        raise ValueError(f"{called}: x_{name} {problem}.")
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        found = f"{labels.dtype} of shape {list(labels.shape)}"
        raise ValueError(f"{called}: y_{name} must be {len(images)} integers, not {found}.")


def _channels_first(images: npt.NDArray[Any]) -> Tensor:
    """``[N, C, H, W]`` of ``[N, H, W]`` or ``[N, H, W, C]``."""
    array = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(array))


def _resized(images: Tensor, side: int | None) -> Tensor:
    """Images ``[N, C, S, S]`` uint8, resized by antialiased bilinear interpolation."""
    if side is None or images.shape[2:] == (side, side):
        return images
    chunks = (images[start : start + _CHUNK].float() for start in range(0, len(images), _CHUNK))
    parts = (F.interpolate(chunk, (side, side), mode="bilinear", antialias=True) for chunk in chunks)
    return torch.cat([part.round().clamp(0, 255).byte() for part in parts])


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel's pixels in [0, 1]; a constant channel has deviation 1."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        weights = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        weights /= weights.sum()
        mean = float(weights @ values)
        means.append(mean)
        deviations.append(float(weights @ (values - mean).square()) ** 0.5 or 1.0)
    return tuple(means), tuple(deviations)
