"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from an ``.npz`` file.

It holds x_train and x_test ``[N, 32, 32, 3]`` uint8, y_train and y_test ``[N]`` integers. scripts/prepare_data.py makes
it from the official archive; unlike unpickling that archive, reading it runs no code.
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

SPLITS = ("train", "test")


def read_cifar(file: Path, classes: int) -> ImageArrays:
    """Read an ``.npz``; ValueError if it is none, or an array is missing or has the wrong shape, dtype or range."""
    arrays = read_npz(file, f"dataset.path={file}")
    tensors: list[Tensor] = []
    for split in SPLITS:
        labels = arrays[f"y_{split}"].astype(np.int64)
        least, most = labels.min(), labels.max()
        if least < 0 or most >= classes:
            raise ValueError(f"y_{split} in {file} must be in [0, {classes - 1}], but holds {least} to {most}.")
        images = np.ascontiguousarray(arrays[f"x_{split}"].transpose(0, 3, 1, 2))
        tensors += torch.from_numpy(images), torch.from_numpy(labels)
    return ImageArrays(*tensors)


def read_npz(file: Path, called: str) -> dict[str, npt.NDArray[Any]]:
    """The four arrays of a CIFAR file, named ``called`` in messages; the range of the labels is not checked.

    Raises:
        ValueError: It is not an ``.npz``, or an array is missing or has the wrong shape or dtype.
    """
    arrays = load_arrays(file, called, ("x_train", "y_train", "x_test", "y_test"))
    for split in SPLITS:
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or len(images) == 0:
            found = f"{images.dtype} of shape {list(images.shape)}"
            raise ValueError(f"x_{split} in {file} must be uint8 of shape [N, 32, 32, 3], not {found}.")
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
            found = f"{labels.dtype} of shape {list(labels.shape)}"
            raise ValueError(f"y_{split} in {file} must be {len(images)} integers, not {found}.")
    return arrays


def load_arrays(file: Path, called: str, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """The named arrays of an ``.npz``; ValueError unless it can be read and has all of them."""
    if not zipfile.is_zipfile(file):  # NumPy would advise to unpickle it, which runs code
        raise ValueError(f"{called} is not an .npz: it is no zip archive.")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{called} is not an .npz with {', '.join(names)} ({reason}).") from error
