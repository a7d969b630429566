"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from an ``.npz`` file, or from the folder of the official archive.

The ``.npz`` holds x_train and x_test ``[N, 32, 32, 3]`` uint8, y_train and y_test ``[N]`` integers;
scripts/prepare_data.py makes it. Reading either runs no code: the archive's pickles pass an unpickler that builds
arrays and nothing else.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llqr_sam.data.arrays import ImageArrays

SPLITS = ("train", "test")
# Classes -> folder of the official archive, the files of each split, and the key of the labels.
_OFFICIAL = {
    10: ("cifar-10-batches-py", ([f"data_batch_{number}" for number in range(1, 6)], ["test_batch"]), "labels"),
    100: ("cifar-100-python", (["train"], ["test"]), "fine_labels"),
}


def read_cifar(file: Path, classes: int) -> ImageArrays:
    """Read an ``.npz``, the folder of the official archive, or one that holds this folder.

    Raises:
        ValueError: It is none of them, or an array is missing or has the wrong shape, dtype or range.
    """
    arrays = _read_folder(file, classes) if file.is_dir() else read_npz(file, f"dataset.path={file}")
    tensors: list[Tensor] = []
    for split in SPLITS:
        labels = arrays[f"y_{split}"].astype(np.int64)
        least, most = labels.min(), labels.max()
        if least < 0 or most >= classes:
            raise ValueError(f"y_{split} in {file} must be in [0, {classes - 1}], but holds {least} to {most}.")
        images = np.ascontiguousarray(arrays[f"x_{split}"].transpose(0, 3, 1, 2))
        tensors += torch.from_numpy(images), torch.from_numpy(labels)
    return ImageArrays(*tensors)


def read_batches(files: Iterable[IO[bytes]], labels: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Images ``[N, 32, 32, 3]`` uint8 and labels ``[N]`` int64 of the archive's pickles; ``labels`` is their key.

    ValueError, KeyError, EOFError or pickle.UnpicklingError if they are not what the official ones are.
    """
    # Written by Python 2, whose strings are read as text here.
    batches = [_ArrayUnpickler(file, encoding="latin1").load() for file in files]
    pixels = np.concatenate([batch["data"] for batch in batches])
    found = np.concatenate([np.asarray(batch[labels], np.int64) for batch in batches])
    if pixels.dtype != np.uint8 or pixels.shape != (len(found), 3072):
        raise ValueError(f"it has images of {pixels.dtype} and shape {list(pixels.shape)}")
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), found


_ARRAY_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # by the name it had when these were made
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds containers, strings, numbers and NumPy arrays; any other global in the pickle is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_GLOBALS:
            raise pickle.UnpicklingError(f"a pickle asks for {module}.{name}, which no batch of images needs")
        return _ARRAY_GLOBALS[module, name]


def _read_folder(place: Path, classes: int) -> dict[str, npt.NDArray[Any]]:
    """The four arrays of the official archive's folder."""
    name, splits, key = _OFFICIAL[classes]
    folder = place / name if (place / name).is_dir() else place
    arrays = {}
    for split, names in zip(SPLITS, splits, strict=True):
        files = [folder / each for each in names]
        if missing := next((file for file in files if not file.is_file()), None):
            raise ValueError(f"dataset.path={place} is neither an .npz nor {name}: it has no {missing.name}.")
        try:
            with ExitStack() as opened:
                batches = [opened.enter_context(file.open("rb")) for file in files]
                arrays[f"x_{split}"], arrays[f"y_{split}"] = read_batches(batches, key)
        except (pickle.UnpicklingError, KeyError, EOFError, ValueError, TypeError, IndexError) as error:
            raise ValueError(f"{folder} is not the official {name}: {error}.") from error
    return arrays


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


def load_arrays(
    file: Path, called: str, names: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, npt.NDArray[Any]]:
    """The named arrays of an ``.npz``; ValueError unless it can be read and has all that are not ``optional``."""
    if not zipfile.is_zipfile(file):  # NumPy would advise to unpickle it, which runs code
        raise ValueError(f"{called} is not an .npz: it is no zip archive.")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in (*names, *(name for name in optional if name in archive))}
    except (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{called} is not an .npz with {', '.join(names)} ({reason}).") from error
