"""CIFAR in pieces: a folder of image files of a few megabytes each, where one file of 180 MB is too large to copy.

The folder has ``labels.npz`` with y_train and y_test, the labels of all samples in order, and lossless images
``train_0.webp``, ``train_1.webp``, ... and ``test_0.webp``, ... A piece is a mosaic of ``PIECE`` samples (the last one
of what is left) in rows of 100 tiles of 32 x 32 pixels, its last row filled up with black.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from llqr_sam.data.cifar import SPLITS, load_arrays, read_npz
from llqr_sam.data.folders import open_rgb
from llqr_sam.data.streams import MissingDataError
from llqr_sam.engine.records.atomic import replacing

PIECE = 10_000  # samples
_TILE, _COLUMNS = 32, 100
_WIDTH = _TILE * _COLUMNS


def split(archive: Path, folder: Path, images: tuple[int, int] | None = None) -> list[Path]:
    """Write an ``.npz``, or its first so many training and test images, as pieces; returns the files, labels first.

    The folder may exist if it is empty; it gets its name when it is complete.

    Raises:
        MissingDataError: There is no such archive.
        ValueError: The archive is invalid or has fewer images, or the folder is not empty.
    """
    if not archive.is_file():
        raise MissingDataError(f"{archive} does not exist.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder: pieces would be mixed with what is in it.")
    arrays = read_npz(archive, str(archive))
    for part, size in zip(SPLITS, images or (), strict=False):
        available = len(arrays[f"y_{part}"])
        if not 1 <= size <= available:
            raise ValueError(f"{archive} cannot give {size} {part} images: it must be between 1 and its {available}.")
        arrays |= {name: arrays[name][:size] for name in (f"x_{part}", f"y_{part}")}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        np.savez_compressed(made / "labels.npz", y_train=arrays["y_train"], y_test=arrays["y_test"])
        names = ["labels.npz"]
        for part in SPLITS:
            pixels = arrays[f"x_{part}"]
            for start in range(0, len(pixels), PIECE):
                names.append(f"{part}_{start // PIECE}.webp")
                Image.fromarray(_mosaic(pixels[start : start + PIECE])).save(made / names[-1], lossless=True)
        os.replace(made, folder)
    return [folder / name for name in names]


def join(folder: Path, archive: Path) -> str:
    """Write the pieces that are there, at least one of each split, as one uncompressed ``.npz``.

    An older file is replaced when the new one is complete. Labels of missing pieces are left out.

    Returns:
        How many images it has, in words: "60 of 100 training images and 10 of 10 test images".

    Raises:
        MissingDataError: There are no labels, or a split has no piece.
        ValueError: The labels cannot be read or are too few, or a piece is damaged or of another size.
    """
    file = folder / "labels.npz"
    if not file.is_file():
        raise MissingDataError(f"{folder} is not a folder of pieces: it has no labels.npz.")
    labels = load_arrays(file, str(file), ("y_train", "y_test"))
    for name, numbers in labels.items():
        if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"{name} in {file} must be integers of shape [N], not {numbers.dtype} of {numbers.shape}.")
    arrays: dict[str, Any] = {}
    for part in SPLITS:
        arrays[f"x_{part}"], arrays[f"y_{part}"] = _read_pieces(folder, part, labels[f"y_{part}"])
    with replacing(archive) as written:
        np.savez(written, **arrays)
    train, test = (f"{len(arrays[name]):,} of {len(labels[name]):,}" for name in ("y_train", "y_test"))
    return f"{train} training images and {test} test images"


def _read_pieces(folder: Path, part: str, labels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Images ``[N, 32, 32, 3]`` and labels ``[N]`` of the pieces of a split that are there, in order."""
    found = (re.fullmatch(rf"{part}_(\d+)\.webp", path.name) for path in folder.iterdir())
    numbers = sorted(int(match[1]) for match in found if match)
    if not numbers:
        raise MissingDataError(f"{folder} has no piece of the {part} images: {part}_0.webp, or another number.")
    images, chosen = [], []
    for number in numbers:
        file = folder / f"{part}_{number}.webp"
        own = labels[number * PIECE : (number + 1) * PIECE]
        images.append(_tiles(file, len(own)))
        chosen.append(own)
    return np.concatenate(images), np.concatenate(chosen)


def _mosaic(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images ``[N, 32, 32, 3]`` -> rows of tiles ``[32 R, 3200, 3]``, the last one filled up with black."""
    tiles = np.pad(images, ((0, -len(images) % _COLUMNS), (0, 0), (0, 0), (0, 0)))
    return tiles.reshape(-1, _COLUMNS, _TILE, _TILE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, _WIDTH, 3)


def _tiles(file: Path, count: int) -> npt.NDArray[np.uint8]:
    """The first ``count`` images ``[count, 32, 32, 3]`` of a mosaic, which must have no further row."""
    mosaic = np.asarray(open_rgb(file))
    height = -(-count // _COLUMNS) * _TILE
    if mosaic.shape[:2] != (height, _WIDTH):
        size = f"{mosaic.shape[1]} x {mosaic.shape[0]}"
        raise ValueError(f"{file} must be {_WIDTH} x {height} pixels for its {count} labels, not {size}.")
    return mosaic.reshape(-1, _TILE, _COLUMNS, _TILE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, _TILE, _TILE, 3)[:count]
