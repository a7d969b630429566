"""From the name of a data set to its streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from llqr_sam.data.arrays import EVALUATION_BATCH, ArrayTestBatches, ArrayTrainStream, ImageArrays
from llqr_sam.data.augment import Augmentation, Normalise, cifar_recipe, digits_recipe
from llqr_sam.data.cifar import read_cifar
from llqr_sam.data.digits import read_digits
from llqr_sam.data.folders import read_tinyimagenet
from llqr_sam.data.imagenet import load_imagenet
from llqr_sam.data.label_noise import flip_labels
from llqr_sam.data.streams import WHOLE, DatasetInfo, Samples, Share, Splits

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
    """What is known of the data set without touching it.

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
        path: Where the data is: an ``.npz`` (CIFAR) or a folder (TinyImageNet, ImageNet); None: under ``root``.
        root: Where scripts/prepare_data.py puts data sets.
        label_noise: Fraction of the training labels to flip, in [0, 1).
        crop: ``image`` draws one random crop an image, ``batch`` one a minibatch.
        augment: Whether the training stream is augmented.
        batch_size: Samples in a training minibatch.
        seed: Decides order, augmentation and label noise.
        device: Where minibatches are made.
        workers: Processes that decode images, for data sets that stream from files.
        share: Part of each minibatch, and of the test samples, that this process has.

    Raises:
        MissingDataError: The data is not there.
        ValueError: An argument is out of range, or the data is not what it should be.
    """
    known = info(name)
    _check(name, crop, label_noise)
    path, root = path.expanduser() if path else None, root.expanduser()
    if name == "imagenet":
        return load_imagenet(
            known,
            path or root / name,
            label_noise=label_noise,
            augment=augment,
            batch_size=batch_size,
            seed=seed,
            device=device,
            workers=workers,
            share=share,
        )
    arrays, found = read_arrays(name, path, root)
    normalise = Normalise(found.mean, found.std, device)
    train = ArrayTrainStream(
        arrays.train_images.to(device),
        flip_labels(arrays.train_labels, label_noise, found.classes, seed).to(device),
        normalise=normalise,
        augmentations=_recipe(name, crop) if augment else (),
        batch_size=batch_size,
        seed=seed,
        name=name,
        share=share,
    )
    part = share.of(len(arrays.test_labels))
    held_out = arrays.test_images[part].to(device), arrays.test_labels[part].to(device)
    test = ArrayTestBatches(*held_out, normalise=normalise, batch_size=EVALUATION_BATCH)
    samples = Samples(len(arrays.train_labels), len(arrays.test_labels))
    return Splits(found, train, test, arrays.fingerprint(), samples)


def _check(name: str, crop: str, label_noise: float) -> None:
    """Raise ValueError for what can be refused before any data is touched."""
    if crop not in CROPS:
        raise ValueError(f"dataset.crop={crop} is not a way to crop here. Choose from: {', '.join(CROPS)}.")
    if crop == "batch" and name == "imagenet":
        raise ValueError("dataset.crop=batch does not fit dataset=imagenet: its crops are resized, one an image.")
    if not 0 <= label_noise < 1:
        raise ValueError(f"dataset.label_noise={label_noise} is not a fraction of the labels: it must be in [0, 1).")


def _recipe(name: str, crop: str) -> tuple[Augmentation, ...]:
    return digits_recipe(crop) if name == "digits" else cifar_recipe(crop)


def read_arrays(name: str, path: Path | None, root: Path) -> tuple[ImageArrays, DatasetInfo]:
    """The arrays of a data set that fits on the device, and its description with the number of classes found.

    Raises:
        MissingDataError: The data is not there.
        ValueError: It is not what it should be, or there is no such data set.
    """
    known = info(name)
    if known.name == "digits":
        if path is not None:
            raise ValueError(f"dataset.path={path} has no use with dataset=digits: scikit-learn brings the digits.")
        return read_digits(), known
    if known.name == "tinyimagenet":
        arrays, classes = read_tinyimagenet(path, root)
        return arrays, replace(known, classes=classes)
    return read_cifar(known.name, known.classes, path, root), known
