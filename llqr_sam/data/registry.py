"""From the name of a data set to its images and labels.

A data set is known before it is read (CIFAR has 10 classes and 32 x 32 images), or once it is read (your own).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llqr_sam.data.arrays import ImageArrays
from llqr_sam.data.augment import DIGITS, PAPER, PLAIN, Recipe
from llqr_sam.data.cifar import read_cifar
from llqr_sam.data.class_folders import IMAGENET_MEAN, IMAGENET_STD, read_class_folders
from llqr_sam.data.digits import read_digits
from llqr_sam.data.folders import read_tinyimagenet
from llqr_sam.data.imagenet import ImageFolders, read_imagenet
from llqr_sam.data.own import AS_IT_IS, ReadOptions, own_arrays, read_own_npz
from llqr_sam.data.streams import DatasetInfo, MissingDataError, Samples
from llqr_sam.data.torchvision_sets import read_collection

Whole = ImageArrays | ImageFolders
OwnReader = Callable[[Path | None], tuple[Any, Any, Any, Any]]


@dataclass(frozen=True)
class Dataset:
    """A data set of the registry."""

    read: Callable[[Any, ReadOptions], tuple[Whole, int | DatasetInfo]]  # from its place: it, and its classes or more
    info: DatasetInfo | None = None  # None: known once it is read
    place: str | None = None  # what scripts/prepare_data.py calls it under its root
    recipe: Recipe = PLAIN
    options: tuple[str, ...] = ()  # the ReadOptions that it has a use for
    is_quick: bool = True  # whether it is read in seconds
    has_files: bool = False  # whether images are decoded in training, each cropped to a size of its own
    needs_path: bool = False


def _read_cifar(classes: int) -> Callable[[Any, ReadOptions], tuple[Whole, int]]:
    return lambda place, _: (read_cifar(place, classes), classes)


_CIFAR, _TINYIMAGENET = Samples(50_000, 10_000), Samples(100_000, 10_000)
_DATASETS = {
    "digits": Dataset(
        lambda *_: (read_digits(), 10),
        DatasetInfo(10, 8, 1, (0.3053,), (0.3758,), Samples(1_297, 500)),
        recipe=DIGITS,
    ),
    "cifar10": Dataset(
        _read_cifar(10),
        DatasetInfo(10, 32, 3, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), _CIFAR),
        "cifar10.npz",
        PAPER,
    ),
    "cifar100": Dataset(
        _read_cifar(100),
        DatasetInfo(100, 32, 3, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), _CIFAR),
        "cifar100.npz",
        PAPER,
    ),
    "tinyimagenet": Dataset(
        lambda place, _: read_tinyimagenet(place),
        DatasetInfo(200, 64, 3, (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821), _TINYIMAGENET),
        "tiny-imagenet-200",
        PAPER,
        is_quick=False,
    ),
    "imagenet": Dataset(
        lambda place, _: read_imagenet(place),
        DatasetInfo(1000, 224, 3, IMAGENET_MEAN, IMAGENET_STD, Samples(1_281_167, 50_000)),
        "imagenet",
        has_files=True,
    ),
    "folder": Dataset(read_class_folders, options=("image_size", "test_fraction"), has_files=True, needs_path=True),
    "npz": Dataset(read_own_npz, options=("image_size", "test_fraction"), needs_path=True),
    "torchvision": Dataset(read_collection, options=("image_size", "collection"), is_quick=False, needs_path=True),
}
OWN = tuple(name for name, entry in _DATASETS.items() if entry.needs_path)  # readers of data of your own


def names() -> tuple[str, ...]:
    """Those of the paper, ``folder``, ``npz`` and ``torchvision``, and what ``register`` added."""
    return tuple(_DATASETS)


def register(name: str, read: OwnReader) -> None:
    """Add a data set of your own under a name.

    Args:
        name: What ``dataset=`` or ``dataset.source=`` calls it.
        read: From ``dataset.path``, or None, to images to train on ``[N, H, W]`` or ``[N, H, W, C]`` uint8, their
            labels ``[N]``, integers from 0 to K - 1, and the same of images to test on (both None: a fraction of the
            others); arrays or tensors on the CPU.

    Raises:
        ValueError: The name is taken.
    """
    if name in _DATASETS:
        raise ValueError(f"the data set {name} exists already: register yours under another name.")

    def read_own(place: Path | None, options: ReadOptions) -> tuple[Whole, DatasetInfo]:
        parts = read(place)
        if not isinstance(parts, tuple | list) or len(parts) != 4:
            raise ValueError(f"dataset={name}: its reader must return images and labels to train on and to test on.")
        x, y, x_test, y_test = (None if part is None else np.asarray(part) for part in parts)
        test = None if x_test is None or y_test is None else (x_test, y_test)
        return own_arrays(f"dataset={name}", (np.asarray(x), np.asarray(y)), test, options)

    _DATASETS[name] = Dataset(read_own, options=("image_size", "test_fraction"))


def find(name: str) -> Dataset:
    """The entry of a data set; ValueError if there is none of that name."""
    if name not in _DATASETS:
        raise ValueError(f"dataset={name} is not a data set here. Choose from: {', '.join(names())}.")
    return _DATASETS[name]


def known(name: str) -> DatasetInfo | None:
    """The description of a data set without touching its files; None: known once it is read, or no such data set."""
    return _DATASETS[name].info if name in _DATASETS else None


def info(name: str) -> DatasetInfo:
    """``known``, where it must be; ValueError if it is not, or there is none of that name."""
    if (described := find(name).info) is None:
        raise ValueError(
            f"dataset={name} has no use here, where data are not read: its classes and image size are not known before."
        )
    return described


def check_options(name: str, options: ReadOptions) -> None:
    """ValueError where an option is set that the data set has no use for."""
    for key, value in vars(options).items():
        if value is not None and key not in find(name).options:
            takes = ", ".join(other for other, each in _DATASETS.items() if key in each.options)
            raise ValueError(f"dataset.{key}={value} has no use with dataset={name}. It is for: {takes}.")


def check_path(name: str, path: Path | None) -> None:
    """ValueError where a data set that is only where its path says has none, or one that brings its images has one."""
    if path is None and find(name).needs_path:
        raise ValueError(f"dataset.path=null must have a value for dataset={name}: where the data are.")
    if path is not None and name == "digits":
        raise ValueError(f"dataset.path={path} has no use with dataset=digits: scikit-learn brings the digits.")


def fingerprint(name: str, path: Path | None, root: Path, options: ReadOptions = AS_IT_IS) -> str | None:
    """``Splits.fingerprint`` of a data set, in seconds; None for one whose images would have to be decoded.

    Raises:
        MissingDataError: The data is not there.
        ValueError: The data is invalid, or there is no data set of that name.
    """
    return read(name, path, root, options)[0].fingerprint() if find(name).is_quick else None


def locate(name: str, path: Path | None, root: Path) -> Path | None:
    """The file or folder of a data set, which is not read; None for one that has none.

    Raises:
        MissingDataError: The data is not there.
        ValueError: There is no data set of that name, or its path is impossible.
    """
    entry = find(name)
    check_path(name, path)
    if path is None and entry.place:
        path = root / entry.place
    place = path.expanduser() if path else None
    if place is not None and not place.exists():
        prepare = f"Prepare it with: python scripts/prepare_data.py {name}"
        how = prepare if entry.place else "Set dataset.path= to where it is."
        raise MissingDataError(f"dataset={name} is not at {place}. {how}")
    return place


def read(name: str, path: Path | None, root: Path, options: ReadOptions = AS_IT_IS) -> tuple[Whole, DatasetInfo]:
    """The samples of a data set, and its description with the number of classes found.

    Raises:
        MissingDataError: The data is not there.
        ValueError: The data is invalid, or there is no data set of that name.
    """
    check_options(name, options)
    data, found = find(name).read(locate(name, path, root), options)
    return data, found if isinstance(found, DatasetInfo) else replace(info(name), classes=found)
