"""From the name of a data set to its streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from llqr_sam.data.arrays import ArrayReader, ImageArrays
from llqr_sam.data.augment import Normalise, augmentations, flip_labels
from llqr_sam.data.cifar import read_cifar
from llqr_sam.data.digits import read_digits
from llqr_sam.data.folders import read_tinyimagenet
from llqr_sam.data.imagenet import FileReader, ImageFolders, read_imagenet
from llqr_sam.data.streams import WHOLE, DatasetInfo, Images, MissingDataError, Samples, Share, draw_sample, shuffled
from llqr_sam.data.subsets import take_subset

ImageReader = ArrayReader | FileReader
_TEST_BATCH = 500  # images, where all are on the device
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR, _TINYIMAGENET = Samples(50_000, 10_000), Samples(100_000, 10_000)

_INFOS = {
    "digits": DatasetInfo(10, 8, 1, (0.3053,), (0.3758,), Samples(1_297, 500)),
    "cifar10": DatasetInfo(10, 32, 3, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), _CIFAR),
    "cifar100": DatasetInfo(100, 32, 3, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), _CIFAR),
    "tinyimagenet": DatasetInfo(200, 64, 3, (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821), _TINYIMAGENET),
    "imagenet": DatasetInfo(1000, 224, 3, _IMAGENET_MEAN, _IMAGENET_STD, Samples(1_281_167, 50_000)),
}

DATASETS: tuple[str, ...] = tuple(_INFOS)
# What scripts/prepare_data.py calls it under its root, if not by the data set's name.
_PLACES = {"cifar10": "cifar10.npz", "cifar100": "cifar100.npz", "tinyimagenet": "tiny-imagenet-200"}


_OWN: dict[str, object] = {}


def register(name: str, read: Callable[[Path | None], tuple[object, object, object, object]]) -> None:
    """Stub."""
    if name in (*_INFOS, *_OWN):
        raise ValueError(f"the data set {name} exists already: register yours under another name.")
    _OWN[name] = read


def info(name: str) -> DatasetInfo:
    """The description of a data set, without touching its files; ValueError if there is none of that name."""
    if name not in _INFOS:
        raise ValueError(f"dataset={name} is not a data set here. Choose from: {', '.join(DATASETS)}.")
    return _INFOS[name]


@dataclass(frozen=True)
class ImageStream:
    """Training minibatches of images (``TrainStream``)."""

    reader: ImageReader
    batch_size: int
    seed: int  # determines the order, together with the epoch

    @property
    def size(self) -> int:
        return self.reader.size

    @property
    def steps_per_epoch(self) -> int:
        return self.size // self.batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[Images]:
        order = shuffled(self.size, self.seed, "order", epoch)[: self.steps_per_epoch * self.batch_size]
        return self.reader.stream("augment", epoch, order, self.batch_size, start)

    def sample(self, step: int, size: int) -> Images:
        return self.reader.gather("refresh augment", step, draw_sample(step, size, self.size, self.seed))


@dataclass(frozen=True)
class ImagesInOrder:
    """Every image of a reader once, in order."""

    reader: ImageReader
    batch_size: int

    def __iter__(self) -> Iterator[Images]:
        return self.reader.in_order(self.batch_size)


@dataclass(frozen=True)
class Splits:
    """A loaded data set."""

    info: DatasetInfo  # with the number of classes found, which may be lower in a part of a data set
    train: ImageStream
    test: ImagesInOrder  # this process's share, not augmented
    fingerprint: str  # SHA-256 of the whole data set, or of its samples' names if they are read during training
    samples: Samples  # of all processes together


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
    subset: int | None = None,
    validation: int | None = None,
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
        seed: Determines subset, order, augmentation and label noise.
        device: Where minibatches are made.
        workers: Processes that decode images, for data sets that are read from files during training.
        subset: Training images to keep, as many of each class; None: all.
        validation: Training images to score on in the test images' place, as many of each class; None: none.
        share: This process's part of each minibatch and of the test samples.

    Raises:
        MissingDataError: The data is not there.
        ValueError: The arguments do not fit the data, or the data is invalid.
    """
    if crop == "batch" and name == "imagenet":
        raise ValueError(
            "dataset.crop=batch does not fit dataset=imagenet: each image is cropped to a size of its own."
        )
    whole, classes = read(name, path, root)
    data = take_subset(whole, subset, validation, seed)
    known, size = replace(info(name), classes=classes), data.samples.train
    if batch_size > size:
        raise ValueError(
            f"protocol.batch_size={batch_size} does not fit dataset={name}: "
            f"it must be between 1 and its {size} training samples."
        )
    labels = flip_labels(data.train_labels, label_noise, classes, seed)
    normalise = Normalise(known.mean, known.std, device)
    mine = share.of(data.samples.test)
    train: ImageReader
    test: ImageReader
    if isinstance(data, ImageArrays):
        chosen = augmentations(name, crop) if augment else ()
        train = ArrayReader(data.train_images.to(device), labels.to(device), normalise, chosen, seed, share)
        test = ArrayReader(data.test_images[mine].to(device), data.test_labels[mine].to(device), normalise)
        test_size = _TEST_BATCH
    else:
        side, rest = known.image_size, (seed, normalise, device, workers)
        train = FileReader(replace(data.train, labels=labels), side, augment, *rest, share)
        own = replace(data.test, names=data.test.names[mine], labels=data.test.labels[mine])
        test = FileReader(own, side, False, *rest)
        test_size = batch_size
    stream = ImageStream(train, batch_size, seed)
    return Splits(known, stream, ImagesInOrder(test, test_size), whole.fingerprint(), data.samples)


def fingerprint(name: str, path: Path | None, root: Path) -> str | None:
    """``Splits.fingerprint`` of a data set, in seconds; None for TinyImageNet, whose images would have to be decoded.

    Raises:
        MissingDataError: The data is not there.
        ValueError: The data is invalid, or there is no data set of that name.
    """
    return None if name == "tinyimagenet" else read(name, path, root)[0].fingerprint()


def locate(name: str, path: Path | None, root: Path) -> Path | None:
    """The file or folder of a data set, which is not read; None for the digits, which scikit-learn brings.

    Raises:
        MissingDataError: The data is not there.
        ValueError: There is no data set of that name, or it has no file.
    """
    info(name)
    if name == "digits":
        if path is not None:
            raise ValueError(f"dataset.path={path} has no use with dataset=digits: scikit-learn brings the digits.")
        return None
    place = (path or root / _PLACES.get(name, name)).expanduser()
    if not place.exists():
        how = f"Prepare it with: python scripts/prepare_data.py {name}"
        raise MissingDataError(f"dataset={name} is not at {place}. {how}")
    return place


def read(name: str, path: Path | None, root: Path) -> tuple[ImageArrays | ImageFolders, int]:
    """The samples of a data set and the number of classes found.

    Raises:
        MissingDataError: The data is not there.
        ValueError: The data is invalid, or there is no data set of that name.
    """
    known, place = info(name), locate(name, path, root)
    if place is None:
        return read_digits(), known.classes
    if name == "tinyimagenet":
        return read_tinyimagenet(place)
    if name == "imagenet":
        return read_imagenet(place)
    return read_cifar(place, known.classes), known.classes
