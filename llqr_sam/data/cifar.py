"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from a file of arrays.

The file is an ``.npz`` with x_train and x_test ``[N, 32, 32, 3]`` uint8, y_train and y_test ``[N]`` integers.
scripts/prepare_data.py makes it from the official archive; reading it runs no code, which unpickling the archive could.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llqr_sam.data.arrays import ImageArrays
from llqr_sam.data.streams import MissingDataError

PARTS = ("train", "test")


def read_cifar(name: str, classes: int, path: Path | None, root: Path) -> ImageArrays:
    """Read ``path``, or ``root/<name>.npz`` where no path is given.

    Raises:
        MissingDataError: The file does not exist.
        ValueError: It is not an ``.npz``, or an array is missing or has the wrong shape, type or range.
    """
    file = path or root / f"{name}.npz"
    if not file.is_file():
        where = f"dataset.path={file} does not exist" if path else f"dataset={name} is not at {file}"
        raise MissingDataError(f"{where}. Fetch it with: python scripts/prepare_data.py {name}")
    arrays = read_npz(file, f"dataset.path={file}")
    splits = {part: _tensors(arrays[f"x_{part}"], arrays[f"y_{part}"], part, classes, file) for part in PARTS}
    return ImageArrays(*splits["train"], *splits["test"])


def read_npz(file: Path, called: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays x_train, y_train, x_test and y_test of a file; labels are of any range.

    Args:
        file: The ``.npz``.
        called: What a message calls it.

    Raises:
        ValueError: It is not an ``.npz``, or an array is missing or has the wrong shape or type.
    """
    if not zipfile.is_zipfile(file):  # numpy would advise to run code from it
        raise ValueError(f"{called} is not an .npz: it is no zip archive.")
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("x_train", "y_train", "x_test", "y_test")}
    except (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{called} is not an .npz with x_train, y_train, x_test and y_test ({_brief(error)})."
        ) from error
    for part in PARTS:
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (32, 32, 3) or len(images) == 0:
            raise ValueError(
                f"x_{part} in {file} must be uint8 of shape [N, 32, 32, 3], not {images.dtype} of {list(images.shape)}."
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
            raise ValueError(
                f"y_{part} in {file} must be {len(images)} integers, not {labels.dtype} of shape {list(labels.shape)}."
            )
    return arrays


def _tensors(
    images: npt.NDArray[Any], labels: npt.NDArray[Any], part: str, classes: int, file: Path
) -> tuple[Tensor, Tensor]:
    """Images ``[N, 3, 32, 32]`` uint8 and labels ``[N]`` int64 of one split, or ValueError."""
    numbers = labels.astype(np.int64)
    if numbers.min() < 0 or numbers.max() >= classes:
        raise ValueError(
            f"y_{part} in {file} must be in [0, {classes - 1}], but holds {numbers.min()} to {numbers.max()}."
        )
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), torch.from_numpy(numbers)


def _brief(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
