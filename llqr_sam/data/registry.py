"""From the name of a data set to its streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llqr_sam.data.arrays import ArrayTestBatches, ArrayTrainStream, ImageArrays
from llqr_sam.data.augment import Augmentation, Normalise, cifar_augmentation, digits_augmentation
from llqr_sam.data.label_noise import check_fraction, flip_labels
from llqr_sam.data.streams import WHOLE, DatasetInfo, Samples, Share, Splits, TestBatches, TrainStream, check_batch_size

if TYPE_CHECKING:
    from llqr_sam.data.imagenet import ImageFolders

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR, _TINYIMAGENET = Samples(50_000, 10_000), Samples(100_000, 10_000)

_INFOS = {
    known.name: known
    for known in (
        DatasetInfo("digits", 10, 8, 1, (0.3053,), (0.3758,), Samples(1_297, 500)),
        DatasetInfo("cifar10", 10, 32, 3, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), _CIFAR),
        DatasetInfo("cifar100", 100, 32, 3, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), _CIFAR),
        DatasetInfo("tinyimagenet", 200, 64, 3, (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821), _TINYIMAGENET),
        DatasetInfo("imagenet", 1000, 224, 3, _IMAGENET_MEAN, _IMAGENET_STD, Samples(1_281_167, 50_000)),
    )
}

DATASETS: tuple[str, ...] = tuple(_INFOS)
CROPS: tuple[str, ...] = ("image", "batch")


def info(name: str) -> DatasetInfo:
    """The description of a data set, without touching its files.

    Raises:
        ValueError: There is no data set of that name.
    """
    if name not in _INFOS:
        raise ValueError(f"dataset={name} is not a data set here. Choose from: {', '.join(DATASETS)}.")
    return _INFOS[name]


def load(
    name: str,
    *,
    path: Path | None,
    root: Path,
    label_noise: float,
    crop: str,
    augment: bool,
    batch_size: int,
    seed: int,
    device: torch.device,
    workers: int,
    share: Share = WHOLE,
) -> Splits:
    """Load a data set; nothing is ever downloaded here.

    Args:
        name: One of ``DATASETS``.
        path: An ``.npz`` (CIFAR) or a folder (TinyImageNet, ImageNet); None: under ``root``.
        root: Where scripts/prepare_data.py puts data sets.
        label_noise: Fraction of the training labels to flip, in [0, 1).
        crop: ``image`` draws one random crop per image, ``batch`` one per minibatch.
        augment: Whether training images are augmented.
        batch_size: Samples in a training minibatch.
        seed: Determines order, augmentation and label noise.
        device: Where minibatches are made.
        workers: Processes that decode images, for data sets that are read from files during training.
        share: This process's part of each minibatch and of the test samples.

    Raises:
        MissingDataError: The data is not there.
        ValueError: An argument is out of range, or the data is invalid.
    """
    known = info(name)
    _check(name, crop, label_noise)
    data, classes = read(name, path.expanduser() if path else None, root.expanduser())
    check_batch_size(batch_size, data.samples.train, name)
    labels = flip_labels(data.train_labels, label_noise, classes, seed)
    normalise = Normalise(known.mean, known.std, device)
    mine = share.of(data.samples.test)
    train: TrainStream
    test: TestBatches
    if isinstance(data, ImageArrays):
        augmentations = _augmentations(name, crop) if augment else ()
        train = ArrayTrainStream(
            data.train_images.to(device), labels.to(device), normalise, augmentations, batch_size, seed, share
        )
        test = ArrayTestBatches(data.test_images[mine].to(device), data.test_labels[mine].to(device), normalise)
    else:
        from llqr_sam.data.imagenet import FileTestBatches, FileTrainStream, Reader, Views

        train_views, test_views = (
            Views(files, seed, known.image_size, random)
            for files, random in ((replace(data.train, labels=labels), augment), (data.test, False))
        )
        train = FileTrainStream(Reader(train_views, normalise, device, workers), batch_size, seed, share)
        indices = torch.arange(data.samples.test)[mine]
        test = FileTestBatches(Reader(test_views, normalise, device, workers), batch_size, indices)
    return Splits(replace(known, classes=classes), train, test, data.fingerprint(), data.samples)


def _check(name: str, crop: str, label_noise: float) -> None:
    """Raise ValueError for arguments that can be refused before any data is read."""
    if crop not in CROPS:
        raise ValueError(f"dataset.crop={crop} is not a way to crop here. Choose from: {', '.join(CROPS)}.")
    if crop == "batch" and name == "imagenet":
        raise ValueError(
            "dataset.crop=batch does not fit dataset=imagenet: each image is cropped to a size of its own."
        )
    check_fraction(label_noise)


def _augmentations(name: str, crop: str) -> tuple[Augmentation, ...]:
    return digits_augmentation(crop) if name == "digits" else cifar_augmentation(crop)


def read(name: str, path: Path | None, root: Path) -> tuple[ImageArrays | ImageFolders, int]:
    """The samples of a data set and the number of classes found; each reader is imported only when it is used.

    Raises:
        MissingDataError: The data is not there.
        ValueError: The data is invalid, or there is no data set of that name.
    """
    known = info(name)
    if name == "digits":
        from llqr_sam.data.digits import read_digits

        if path is not None:
            raise ValueError(f"dataset.path={path} has no use with dataset=digits: scikit-learn brings the digits.")
        return read_digits(), known.classes
    if name == "tinyimagenet":
        from llqr_sam.data.folders import read_tinyimagenet

        return read_tinyimagenet(path, root)
    if name == "imagenet":
        from llqr_sam.data.imagenet import read_imagenet

        return read_imagenet(path or root / name)
    from llqr_sam.data.cifar import read_cifar

    return read_cifar(name, known.classes, path, root), known.classes
