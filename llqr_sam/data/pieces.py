"""CIFAR in pieces: a folder of image files of some megabytes each, where one file of 180 MB is too large to copy.

A folder of pieces has ``labels.npz`` with y_train and y_test, and ``train_0.webp``, ``train_1.webp``, ... and
``test_0.webp``, ...: lossless images of at most 10,000 samples each, rows of 100 tiles of 32 x 32 pixels. The labels
are those of all samples, in order; the tiles that fill up the last row of a piece have none. ``labels.npz`` may
say how many samples a whole piece has, and without that it has 10,000.
"""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from llqr_sam.data.cifar import PARTS, read_npz
from llqr_sam.data.folders import open_rgb
from llqr_sam.data.streams import MissingDataError

_MOST = 10_000  # samples in a piece
_TILE, _COLUMNS = 32, 100
_WIDTH = _TILE * _COLUMNS
_LIMIT = 16_383 // _TILE * _COLUMNS  # samples; a WebP image has at most so many rows of pixels


@dataclass(frozen=True)
class Joined:
    """How many images of each split were there, and how many have labels."""

    train: int
    all_train: int
    test: int
    all_test: int

    def __str__(self) -> str:
        train, test = f"{self.train:,} of {self.all_train:,}", f"{self.test:,} of {self.all_test:,}"
        return f"{train} training images and {test} test images"


def split(archive: Path, folder: Path, most: int = _MOST, images: tuple[int, int] | None = None) -> list[Path]:
    """Write an array file as pieces; the folder is there whole or not at all.

    Args:
        archive: ``.npz`` with x_train and x_test ``[N, 32, 32, 3]`` uint8, y_train and y_test ``[N]`` integers.
        folder: To create; an empty one is taken.
        most: Images in a piece.
        images: Take so many training and test images, the first ones; None: all.

    Returns:
        The files, labels first.

    Raises:
        MissingDataError: There is no such archive.
        ValueError: It is not such an archive, has fewer images, the folder is not empty, or ``most`` is out of range.
    """
    if not 1 <= most <= _LIMIT:
        raise ValueError(f"a piece of {most} images is not possible: it must have between 1 and {_LIMIT}.")
    if not archive.is_file():
        raise MissingDataError(f"{archive} does not exist.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder: pieces would be mixed with what is in it.")
    arrays = read_npz(archive, str(archive))
    sizes = dict(zip(PARTS, images or (len(arrays["y_train"]), len(arrays["y_test"])), strict=True))
    for part, size in sizes.items():
        available = len(arrays[f"y_{part}"])
        if not 1 <= size <= available:
            raise ValueError(f"{archive} cannot give {size} {part} images: it must be between 1 and its {available}.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        y_train, y_test = (arrays[f"y_{part}"][:size] for part, size in sizes.items())
        np.savez_compressed(made / "labels.npz", y_train=y_train, y_test=y_test, images_per_piece=np.int64(most))
        names = ["labels.npz"]
        for part, size in sizes.items():
            for number, start in enumerate(range(0, size, most)):
                names.append(f"{part}_{number}.webp")
                mosaic = _mosaic(arrays[f"x_{part}"][start : min(start + most, size)])
                Image.fromarray(mosaic).save(made / names[-1], lossless=True)
        os.replace(made, folder)
    return [folder / name for name in names]


def join(folder: Path, archive: Path) -> Joined:
    """Write the pieces that are there as one array file, in the place of any older one.

    Args:
        folder: Of pieces, at least one of each split; labels of those that are missing are left out.
        archive: ``.npz`` to write, uncompressed: x_train and x_test ``[N, 32, 32, 3]`` uint8, y_train and y_test
            ``[N]`` int64. It is there whole or as it was.

    Returns:
        How many images it has.

    Raises:
        MissingDataError: There are no labels, or a split has no piece.
        ValueError: The labels cannot be read or are too few, or a piece is damaged or of another size.
    """
    labels, most = _read_labels(folder)
    x_train, y_train = _read_pieces(folder, "train", labels["y_train"], most)
    x_test, y_test = _read_pieces(folder, "test", labels["y_test"], most)
    archive.parent.mkdir(parents=True, exist_ok=True)
    temporary = archive.with_name(f".{archive.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:  # a name would get the suffix .npz
            np.savez(file, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
        os.replace(temporary, archive)
    finally:
        temporary.unlink(missing_ok=True)
    return Joined(len(y_train), len(labels["y_train"]), len(y_test), len(labels["y_test"]))


def _read_labels(folder: Path) -> tuple[dict[str, npt.NDArray[np.int64]], int]:
    """Labels ``[N]`` of both splits, and the images of a whole piece."""
    file = folder / "labels.npz"
    if not file.is_file():
        raise MissingDataError(f"{folder} is not a folder of pieces: it has no labels.npz.")
    try:
        with np.load(file, allow_pickle=False) as stored:
            labels = {f"y_{part}": np.asarray(stored[f"y_{part}"]) for part in PARTS}
            most = int(stored["images_per_piece"]) if "images_per_piece" in stored else _MOST
    except (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is not an .npz with y_train and y_test.") from error
    for name, numbers in labels.items():
        if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"{name} in {file} must be integers of shape [N], not {numbers.dtype} of {numbers.shape}.")
    if most < 1:
        raise ValueError(f"images_per_piece in {file} must be >= 1, not {most}.")
    return {name: numbers.astype(np.int64) for name, numbers in labels.items()}, most


def _read_pieces(
    folder: Path, part: str, labels: npt.NDArray[np.int64], most: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images ``[N, 32, 32, 3]`` and labels ``[N]`` of the pieces of a split that are there, in order."""
    found = (re.fullmatch(rf"{part}_(\d+)\.webp", path.name) for path in folder.iterdir())
    numbers = sorted(int(match[1]) for match in found if match)
    if not numbers:
        raise MissingDataError(f"{folder} has no piece of the {part} images: {part}_0.webp, or another number.")
    images = []
    for number in numbers:
        file, count = folder / f"{part}_{number}.webp", min(most, len(labels) - number * most)
        if count < 1:
            raise ValueError(f"{folder / 'labels.npz'} has {len(labels)} labels in y_{part}, none for {file.name}.")
        images.append(_tiles(file, count))
    chosen = [labels[number * most : (number + 1) * most] for number in numbers]
    return np.concatenate(images), np.concatenate(chosen)


def _mosaic(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images ``[N, 32, 32, 3]`` -> rows of tiles ``[32 R, 3200, 3]``, the last one filled up with black."""
    rows = -(-len(images) // _COLUMNS)
    tiles = np.zeros((rows * _COLUMNS, *images.shape[1:]), images.dtype)
    tiles[: len(images)] = images
    return tiles.reshape(rows, _COLUMNS, _TILE, _TILE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, _WIDTH, 3)


def _tiles(file: Path, count: int) -> npt.NDArray[np.uint8]:
    """The first ``count`` images ``[count, 32, 32, 3]`` of a mosaic that has room for no further row."""
    mosaic = np.asarray(open_rgb(file))
    rows = -(-count // _COLUMNS)
    if mosaic.shape[:2] != (rows * _TILE, _WIDTH):
        size = f"{mosaic.shape[1]} x {mosaic.shape[0]}"
        raise ValueError(f"{file} must be {_WIDTH} x {rows * _TILE} pixels for its {count} labels, not {size}.")
    return mosaic.reshape(rows, _TILE, _COLUMNS, _TILE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, _TILE, _TILE, 3)[:count]
