"""Data sets of torchvision (``torchvision.datasets``) that have classes and a training and a test split.

They are decoded once and kept on the device, at the size they all have or at the one that is asked for. Nothing is
downloaded, and no file runs code: torchvision unpickles CIFAR alone, after comparing its MD5.
"""

from __future__ import annotations

import difflib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from llqr_sam.data.arrays import ImageArrays
from llqr_sam.data.own import ReadOptions, Split, own_arrays
from llqr_sam.data.streams import DatasetInfo, MissingDataError
from llqr_sam.torchvision_compat import ensure_torchvision

_TRAIN: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False})
_SPLIT: tuple[dict[str, Any], dict[str, Any]] = ({"split": "train"}, {"split": "test"})
_TRAINVAL: tuple[dict[str, Any], dict[str, Any]] = ({"split": "trainval"}, {"split": "test"})
# Class -> its arguments for images to train and to test on.
COLLECTIONS = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"), _TRAIN),
    "EMNIST": ({"split": "balanced", "train": True}, {"split": "balanced", "train": False}),
    **dict.fromkeys(("Country211", "DTD", "Flowers102", "Food101", "GTSRB", "RenderedSST2", "STL10", "SVHN"), _SPLIT),
    **dict.fromkeys(("FGVCAircraft", "OxfordIIITPet"), _TRAINVAL),
}


def read_collection(root: Path, options: ReadOptions) -> tuple[ImageArrays, DatasetInfo]:
    """Decode ``options.collection``, one of ``COLLECTIONS``, as torchvision keeps it under ``root``.

    Raises:
        MissingDataError: It is not there, or damaged.
        ValueError: There is no such collection, it needs a package, or its images differ in size and no side is given.
    """
    name = options.collection
    if name not in COLLECTIONS:
        close = difflib.get_close_matches(str(name), COLLECTIONS, n=1, cutoff=0.5)
        meant = f" (did you mean {close[0]}?)" if close else "."
        asked = "null names no data set" if name is None else f"{name} is not read here"
        raise ValueError(f"dataset.collection={asked}. Choose from: {', '.join(sorted(COLLECTIONS))}{meant}")
    ensure_torchvision()
    from torchvision import datasets

    splits: list[Split] = []
    for arguments in COLLECTIONS[name]:
        try:
            found = getattr(datasets, name)(root, **arguments, download=False)
        except ImportError as error:
            raise ValueError(f"dataset.collection={name} needs a package that is not installed: {error}.") from error
        except (RuntimeError, OSError, ValueError) as error:
            how = f"torchvision.datasets.{name}({str(root)!r}, download=True)"
            first = (str(error).splitlines() or [""])[0].rstrip(".")
            raise MissingDataError(
                f"dataset.collection={name} is not in dataset.path={root} ({first}): fetch it with {how}."
            ) from error
        splits.append(_decoded(found, name, options.image_size))
    return own_arrays(f"dataset.collection={name}", splits[0], splits[1], options)


def _decoded(found: Any, name: str, side: int | None) -> Split:
    """All images, grey or RGB as the first one is, and their labels."""
    grey = found[0][0].mode in ("1", "L")

    def decode(index: int) -> tuple[npt.NDArray[Any], int]:
        image, label = found[index]
        image = image.convert("L" if grey else "RGB")
        if side is not None and image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(image), int(label)

    with ThreadPoolExecutor() as threads:
        images, labels = zip(*threads.map(decode, range(len(found))), strict=True)
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"dataset.collection={name} has images of many sizes: set dataset.image_size=, such as 64.")
    return np.stack(images), np.array(labels)
