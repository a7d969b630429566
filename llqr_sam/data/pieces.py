"""CIFAR in pieces: a folder of image files of a few megabytes each, where one file of 180 MB is too large to copy.

The folder has ``labels.npz`` with y_train and y_test, and lossless images ``train_0.webp``, ``train_1.webp``, ... and
``test_0.webp``, ... A piece is a mosaic of at most 10,000 samples in rows of 100 tiles of 32 x 32 pixels, its last row
filled up with black. The labels are those of all samples, in order. ``labels.npz`` may hold ``images_per_piece``, the
number of samples in a full piece; without it, that is 10,000.
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

_MOST = 10_000  # samples in a piece
_TILE, _COLUMNS = 32, 100
_WIDTH = _TILE * _COLUMNS
_LIMIT = 16_383 // _TILE * _COLUMNS  # samples; a WebP image has at most 16,383 rows of pixels


def split(archive: Path, folder: Path, most: int = _MOST, images: tuple[int, int] | None = None) -> list[Path]:
    """Write an ``.npz`` as pieces. The folder appears when it is complete.

    Args:
        archive: ``.npz`` with x_train and x_test ``[N, 32, 32, 3]`` uint8, y_train and y_test ``[N]`` integers.
        folder: To create; it may exist if it is empty.
        most: Images in a piece.
        images: Take the first so many training and test images; None: all.

    Returns:
        The files, labels first.

    Raises:
        MissingDataError: There is no such archive.
        ValueError: The archive is invalid or has fewer images, the folder is not empty, or ``most`` is out of range.
    """
    if not 1 <= most <= _LIMIT:
        raise ValueError(f"a piece of {most} images is not possible: it must have between 1 and {_LIMIT}.")
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
    labels: dict[str, Any] = {f"y_{part}": arrays[f"y_{part}"] for part in SPLITS}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        np.savez_compressed(made / "labels.npz", images_per_piece=np.int64(most), **labels)
        names = ["labels.npz"]
        for part in SPLITS:
            pixels = arrays[f"x_{part}"]
            for start in range(0, len(pixels), most):
                names.append(f"{part}_{start // most}.webp")
                Image.fromarray(_mosaic(pixels[start : start + most])).save(made / names[-1], lossless=True)
        os.replace(made, folder)
    return [folder / name for name in names]


def join(folder: Path, archive: Path) -> str:
    """Write the pieces that are there as one ``.npz``, which replaces an older one only when it is complete.

    Args:
        folder: Of pieces, at least one of each split; labels of missing pieces are left out.
        archive: To write, uncompressed: x_train and x_test ``[N, 32, 32, 3]`` uint8, y_train and y_test ``[N]`` int64.

    Returns:
        How many images it has, in words: "60 of 100 training images and 10 of 10 test images".

    Raises:
        MissingDataError: There are no labels, or a split has no piece.
        ValueError: The labels cannot be read or are too few, or a piece is damaged or of another size.
    """
    labels, most = _read_labels(folder)
    arrays: dict[str, Any] = {}
    for part in SPLITS:
        arrays[f"x_{part}"], arrays[f"y_{part}"] = _read_pieces(folder, part, labels[part], most)
    archive.parent.mkdir(parents=True, exist_ok=True)
    temporary = archive.with_name(f".{archive.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:  # given a name, NumPy would append .npz
            np.savez(file, **arrays)
        os.replace(temporary, archive)
    finally:
        temporary.unlink(missing_ok=True)
    train, test = (f"{len(arrays[f'y_{part}']):,} of {len(labels[part]):,}" for part in SPLITS)
    return f"{train} training images and {test} test images"


def _read_labels(folder: Path) -> tuple[dict[str, npt.NDArray[np.int64]], int]:
    """Labels ``[N]`` of each split, and the number of images in a full piece."""
    file = folder / "labels.npz"
    if not file.is_file():
        raise MissingDataError(f"{folder} is not a folder of pieces: it has no labels.npz.")
    stored = load_arrays(file, str(file), tuple(f"y_{part}" for part in SPLITS), optional="images_per_piece")
    most = stored.pop("images_per_piece", np.array(_MOST))
    if most.shape != () or not np.issubdtype(most.dtype, np.integer) or most < 1:
        raise ValueError(f"images_per_piece in {file} must be an integer >= 1, not {most}.")
    for name, numbers in stored.items():
        if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"{name} in {file} must be integers of shape [N], not {numbers.dtype} of {numbers.shape}.")
    return {part: stored[f"y_{part}"].astype(np.int64) for part in SPLITS}, int(most)


def _read_pieces(
    folder: Path, part: str, labels: npt.NDArray[np.int64], most: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images ``[N, 32, 32, 3]`` and labels ``[N]`` of the pieces of a split that are there, in order."""
    found = (re.fullmatch(rf"{part}_(\d+)\.webp", path.name) for path in folder.iterdir())
    numbers = sorted(int(match[1]) for match in found if match)
    if not numbers:
        raise MissingDataError(f"{folder} has no piece of the {part} images: {part}_0.webp, or another number.")
    images, chosen = [], []
    for number in numbers:
        file = folder / f"{part}_{number}.webp"
        own = labels[number * most : (number + 1) * most]
        if not len(own):
            raise ValueError(f"{folder / 'labels.npz'} has {len(labels)} labels in y_{part}, none for {file.name}.")
        images.append(_tiles(file, len(own)))
        chosen.append(own)
    return np.concatenate(images), np.concatenate(chosen)


def _mosaic(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images ``[N, 32, 32, 3]`` -> rows of tiles ``[32 R, 3200, 3]``, the last one filled up with black."""
    rows = -(-len(images) // _COLUMNS)
    tiles = np.zeros((rows * _COLUMNS, *images.shape[1:]), images.dtype)
    tiles[: len(images)] = images
    return tiles.reshape(rows, _COLUMNS, _TILE, _TILE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, _WIDTH, 3)


def _tiles(file: Path, count: int) -> npt.NDArray[np.uint8]:
    """The first ``count`` images ``[count, 32, 32, 3]`` of a mosaic, which must have no further row."""
    mosaic = np.asarray(open_rgb(file))
    rows = -(-count // _COLUMNS)
    if mosaic.shape[:2] != (rows * _TILE, _WIDTH):
        size = f"{mosaic.shape[1]} x {mosaic.shape[0]}"
        raise ValueError(f"{file} must be {_WIDTH} x {rows * _TILE} pixels for its {count} labels, not {size}.")
    return mosaic.reshape(rows, _TILE, _COLUMNS, _TILE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, _TILE, _TILE, 3)[:count]
