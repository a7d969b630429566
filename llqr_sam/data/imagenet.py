"""ImageNet from a folder of JPEG files, decoded by worker processes while the device computes.

Workers hand over uint8 images; the device normalises them, which moves a quarter of the bytes. An image's crop and flip
depend on (seed, epoch, image) only: neither the number of workers nor what was drawn before changes them.
"""

from __future__ import annotations

import hashlib
import math
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llqr_sam.data.augment import Normalise
from llqr_sam.data.folders import list_images, open_rgb
from llqr_sam.data.label_noise import flip_labels
from llqr_sam.data.randomness import generator
from llqr_sam.data.streams import (
    WHOLE,
    DatasetInfo,
    MissingDataError,
    Samples,
    Share,
    Splits,
    check_batch_size,
    check_sample_size,
)

Key = tuple[str, int, int]  # purpose, epoch or step, index of the image
_ATTEMPTS = 10  # at a random crop that fits, before the central one is taken
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class ImageFiles:
    """Files below ``root`` (relative names, ``[N]`` bytes: 1.3 million strings would not be shared with workers)."""

    root: Path
    names: npt.NDArray[np.bytes_]
    labels: Tensor  # [N] int64

    def open(self, index: int) -> Image.Image:
        """The image in three channels."""
        return open_rgb(self.root / os.fsdecode(self.names[index]))


def load_imagenet(
    known: DatasetInfo,
    folder: Path,
    *,
    label_noise: float,
    augment: bool,
    batch_size: int,
    seed: int,
    device: torch.device,
    workers: int,
    share: Share = WHOLE,
) -> Splits:
    """ImageNet as ``folder/{train,val}/<wnid>/<image>``; class k is the k-th wnid in alphabetical order.

    Raises:
        MissingDataError: A folder is missing or empty.
        ValueError: train/ and val/ have different classes, or the batch size does not fit.
    """
    wnids, train, test = _indices(folder)
    found = replace(known, classes=len(wnids))
    fingerprint = _fingerprint(train, test)
    train = replace(train, labels=flip_labels(train.labels, label_noise, len(wnids), seed))
    delivery = _Delivery(Normalise(known.mean, known.std, device), device, workers)
    return Splits(
        found,
        FileTrainStream(
            _Views(train, seed, known.image_size, random=augment), delivery, batch_size, seed, share, name=known.name
        ),
        FileTestBatches(_Views(test, seed, known.image_size, random=False), delivery, batch_size, share),
        fingerprint,
        Samples(len(train.names), len(test.names)),
    )


def imagenet_fingerprint(folder: Path) -> str:
    """The fingerprint that ``load_imagenet`` finds: of the names of the images, for reading them takes an hour.

    Raises:
        MissingDataError: A folder is missing or empty.
        ValueError: train/ and val/ have different classes.
    """
    _, train, test = _indices(folder)
    return _fingerprint(train, test)


def _fingerprint(train: ImageFiles, test: ImageFiles) -> str:
    return hashlib.sha256(b"\n".join([*train.names, b"", *test.names])).hexdigest()


def _indices(folder: Path) -> tuple[list[str], ImageFiles, ImageFiles]:
    """Classes, training and validation images."""
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise MissingDataError(
                f"dataset=imagenet is not at {folder} (no {part}/ there). "
                "How to arrange it: python scripts/prepare_data.py imagenet"
            )
    wnids = _classes(folder / "train")
    if _classes(folder / "val") != wnids:
        raise ValueError(f"{folder / 'train'} and {folder / 'val'} must have the same classes.")
    return wnids, _index(folder / "train", wnids), _index(folder / "val", wnids)


def _classes(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def _index(folder: Path, wnids: list[str]) -> ImageFiles:
    samples = [
        (f"{wnid}/{file.name}", label) for label, wnid in enumerate(wnids) for file in list_images(folder / wnid)
    ]
    names = np.array([os.fsencode(name) for name, _ in samples], dtype=np.bytes_)
    return ImageFiles(folder, names, torch.tensor([label for _, label in samples], dtype=torch.int64))


class FileTrainStream:
    """Training minibatches decoded from files; a ``TrainStream``.

    Raises:
        ValueError: The batch size is less than 1 or more than the number of files.
    """

    def __init__(
        self, views: _Views, delivery: _Delivery, batch_size: int, seed: int, share: Share, *, name: str
    ) -> None:
        check_batch_size(batch_size, len(views), name)
        self._views = views
        self._delivery = delivery
        self._seed = seed
        self._share = share
        self.batch_size = batch_size
        self.size = len(views)
        self.steps_per_epoch = self.size // batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``TrainStream.batches``."""
        order = torch.randperm(self.size, generator=generator("cpu", self._seed, "order", epoch))
        whole = order[start * self.batch_size : self.steps_per_epoch * self.batch_size]
        mine = whole.view(-1, self.batch_size)[:, self._share.of(self.batch_size)]
        return self._delivery.stream(self._views, _Batches("augment", epoch, mine.flatten(), mine.shape[1]))

    def sample(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """See ``TrainStream.sample``."""
        check_sample_size(size, self.size)
        order = torch.randperm(self.size, generator=generator("cpu", self._seed, "refresh order", step))
        mine = order[:size][self._share.of(size)].tolist()
        return self._delivery.gather(self._views, [("refresh augment", step, index) for index in mine])


class FileTestBatches:
    """Test minibatches decoded from files; a ``TestBatches``."""

    def __init__(self, views: _Views, delivery: _Delivery, batch_size: int, share: Share) -> None:
        self._views = views
        self._delivery = delivery
        self._batch_size = batch_size
        self._order = torch.arange(len(views))[share.of(len(views))]
        self.size = len(self._order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``TestBatches.__iter__``."""
        return self._delivery.stream(self._views, _Batches("test", 0, self._order, self._batch_size))


class _Views(Dataset[tuple[Tensor, int]]):
    """Key to image ``[3, side, side]`` uint8 and label; a random crop and flip, or the central crop."""

    def __init__(self, files: ImageFiles, seed: int, side: int, *, random: bool) -> None:
        self._files = files
        self._seed = seed
        self._side = side
        self._random = random

    def __len__(self) -> int:
        return len(self._files.names)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        index = key[2]
        image = self._files.open(index)
        if self._random:
            view = random_view(image, self._side, generator("cpu", self._seed, *key))
        else:
            view = central_view(image, self._side)
        return torch.from_numpy(np.array(view)).permute(2, 0, 1), int(self._files.labels[index])


def random_view(image: Image.Image, side: int, random: torch.Generator) -> Image.Image:
    """Random crop of 8 to 100 % of the area with aspect 3/4 to 4/3, resized to ``side``, mirrored half of the time.

    Ten draws are tried; if none fits into the image, the largest central crop of allowed aspect is taken (the recipe of
    Szegedy et al., arXiv 1409.4842, as torchvision's RandomResizedCrop has it).
    """
    box = _random_box(image.width, image.height, random)
    view = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
    if torch.rand((), generator=random) < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return view


def _random_box(width: int, height: int, random: torch.Generator) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge of a random crop."""
    log_ratio = math.log(_RATIO[0]), math.log(_RATIO[1])
    for draw in torch.rand((_ATTEMPTS, 4), generator=random, dtype=torch.float64).tolist():
        area = width * height * (_AREA[0] + draw[0] * (_AREA[1] - _AREA[0]))
        ratio = math.exp(log_ratio[0] + draw[1] * (log_ratio[1] - log_ratio[0]))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(draw[2] * (width - w + 1)), int(draw[3] * (height - h + 1))
            return left, upper, left + w, upper + h
    ratio = min(max(width / height, _RATIO[0]), _RATIO[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def central_view(image: Image.Image, side: int) -> Image.Image:
    """The shorter side resized to 8/7 of ``side`` (256 for 224), then the central square of that side.

    Rounds as torchvision's Resize and CenterCrop do.
    """
    shorter = side * 8 // 7
    width, height = (shorter * length // min(image.size) for length in image.size)
    left, upper = round((width - side) / 2), round((height - side) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, upper, left + side, upper + side))


@dataclass(frozen=True)
class _Batches:
    """The keys of an epoch's minibatches, made as they are asked for."""

    purpose: str
    number: int
    order: Tensor
    batch_size: int

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.order), self.batch_size):
            chosen = self.order[start : start + self.batch_size].tolist()
            yield [(self.purpose, self.number, index) for index in chosen]

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)


@dataclass(frozen=True)
class _Delivery:
    """From keys to normalised minibatches on the device."""

    normalise: Normalise
    device: torch.device
    workers: int

    def stream(self, views: _Views, batches: _Batches) -> Iterator[tuple[Tensor, Tensor]]:
        """Minibatch by minibatch, decoded ahead by the workers.

        Raises:
            ValueError: A file is not a readable image.
        """
        loader: DataLoader[tuple[Tensor, int]] = DataLoader(
            views,
            batch_sampler=batches,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),  # without one, the loader draws a seed from the global generator
        )
        delivered = iter(loader)
        try:
            while batch := self._next(delivered):
                yield self._place(*batch)
        finally:
            # Workers are deaf to SIGTERM, and exit waits for them: a traceback may keep the iterator until then.
            if self.workers:
                delivered._shutdown_workers()  # type: ignore[attr-defined]

    def _next(self, delivered: Iterator[list[Tensor]]) -> list[Tensor] | None:
        """Images and labels, if there are more; of an error in a worker the sentence and not its traceback."""
        try:
            return next(delivered, None)
        except ConnectionResetError:  # a worker is gone: in a moment torch's signal handler raises, and says which
            time.sleep(1.0)
            raise
        except ValueError as error:
            sentence = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
        raise ValueError(sentence)

    def gather(self, views: _Views, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """One minibatch, decoded by threads."""
        with ThreadPoolExecutor(max(1, self.workers)) as threads:
            decoded = list(threads.map(views.__getitem__, keys))
        return self._place(torch.stack([image for image, _ in decoded]), torch.tensor([label for _, label in decoded]))

    def _place(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        placed = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        return self.normalise(placed[0]), placed[1]


def _ignore_signals(_: int) -> None:
    """Leave signals to the parent: a scheduler sends them to all processes, and the run must outlive them to save."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
