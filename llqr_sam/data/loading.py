"""A data set as the training loop sees it: a stream of minibatches to train on, and images to test on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from llqr_sam.data.arrays import ArrayReader, ImageArrays
from llqr_sam.data.augment import Normalise, flip_labels
from llqr_sam.data.imagenet import FileReader
from llqr_sam.data.own import AS_IT_IS, ReadOptions
from llqr_sam.data.registry import find, read
from llqr_sam.data.streams import WHOLE, DatasetInfo, Images, Samples, Share, draw_sample, shuffled
from llqr_sam.data.subsets import take_subset

ImageReader = ArrayReader | FileReader
_TEST_BATCH = 500  # images, where all are on the device


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
    flip: bool | None = None,
    options: ReadOptions = AS_IT_IS,
    share: Share = WHOLE,
) -> Splits:
    """Load a data set; nothing is ever downloaded here.

    Args:
        name: One of ``registry.names()``.
        path: The file or folder of the data set; None: under ``root``.
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
        flip: Whether half of the images are mirrored when they are augmented; None: the data set's own habit.
        options: What to make of data whose size or split is not fixed.
        share: This process's part of each minibatch and of the test samples.

    Raises:
        MissingDataError: The data is not there.
        ValueError: The arguments do not fit the data, or the data is invalid.
    """
    entry = find(name)
    if crop == "batch" and entry.has_files:
        raise ValueError(f"dataset.crop=batch does not fit dataset={name}: each image is cropped to a size of its own.")
    whole, known = read(name, path, root, options)
    data = take_subset(whole, subset, validation, seed)
    size, mirrored = data.samples.train, entry.recipe.flip if flip is None else flip
    if batch_size > size:
        raise ValueError(
            f"protocol.batch_size={batch_size} does not fit dataset={name}: "
            f"it must be between 1 and its {size} training samples."
        )
    labels = flip_labels(data.train_labels, label_noise, known.classes, seed)
    normalise = Normalise(known.mean, known.std, device)
    mine = share.of(data.samples.test)
    train: ImageReader
    test: ImageReader
    if isinstance(data, ImageArrays):
        chosen = replace(entry.recipe, flip=mirrored).steps(known.image_size, crop) if augment else ()
        train = ArrayReader(data.train_images.to(device), labels.to(device), normalise, chosen, seed, share)
        test = ArrayReader(data.test_images[mine].to(device), data.test_labels[mine].to(device), normalise)
        test_size = _TEST_BATCH
    else:
        side, rest = known.image_size, (seed, normalise, device, workers)
        train = FileReader(replace(data.train, labels=labels), side, augment, *rest, share, mirrored)
        own = replace(data.test, names=data.test.names[mine], labels=data.test.labels[mine])
        test = FileReader(own, side, False, *rest)
        test_size = batch_size
    stream = ImageStream(train, batch_size, seed)
    return Splits(known, stream, ImagesInOrder(test, test_size), whole.fingerprint(), data.samples)
