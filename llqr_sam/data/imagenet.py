"""ImageNet from a folder of JPEG files, decoded by worker processes while the device computes.

Workers return uint8 images and the device normalises them, which moves a quarter of the bytes. An image's crop and flip
depend on (seed, epoch, image) only, so the number of workers and earlier draws do not change them.
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
from llqr_sam.data.streams import WHOLE, Images, Samples, Share, existing, generator

Key = tuple[str, int, int]  # purpose, epoch or step, index of the image
_RATIO = (3 / 4, 4 / 3)  # of a crop


@dataclass(frozen=True)
class ImageFiles:
    """The image files of one split."""

    folder: Path  # train/ or val/
    names: npt.NDArray[np.bytes_]  # [N], relative; workers share one array, but would copy 1.3 million strings
    labels: Tensor  # [N] int64

    @classmethod
    def of(cls, folder: Path, wnids: list[str]) -> ImageFiles:
        """All images of ``folder/<wnid>/``; class k is the k-th wnid."""
        files = [list_images(folder / wnid) for wnid in wnids]
        names = [os.fsencode(f"{file.parent.name}/{file.name}") for images in files for file in images]
        labels = torch.arange(len(wnids)).repeat_interleave(torch.tensor([len(images) for images in files]))
        return cls(folder, np.array(names, dtype=np.bytes_), labels)

    def chosen(self, indices: Tensor) -> ImageFiles:
        """The files of some int64 indices."""
        return replace(self, names=self.names[indices.numpy()], labels=self.labels[indices])


@dataclass(frozen=True)
class ImageFolders:
    """ImageNet's training and validation images."""

    train: ImageFiles
    test: ImageFiles

    @property
    def samples(self) -> Samples:
        return Samples(len(self.train.names), len(self.test.names))

    @property
    def train_labels(self) -> Tensor:
        return self.train.labels

    def fingerprint(self) -> str:
        """SHA-256 of the names of the images; reading the images would take an hour."""
        return hashlib.sha256(b"\n".join([*self.train.names, b"", *self.test.names])).hexdigest()

    def with_train(self, chosen: Tensor) -> ImageFolders:
        """The data set with ``chosen`` training images, int64 indices, and the same validation images."""
        return replace(self, train=self.train.chosen(chosen))

    def with_test(self, chosen: Tensor) -> ImageFolders:
        """The data set with ``chosen`` training images, int64 indices, in the place of its validation images."""
        return replace(self, test=self.train.chosen(chosen))


def read_imagenet(folder: Path) -> tuple[ImageFolders, int]:
    """List ``folder/{train,val}/<wnid>/<image>`` and count the classes; class k is the k-th wnid in alphabetical order.

    Raises:
        MissingDataError: A folder is missing or empty.
        ValueError: train/ and val/ have different classes.
    """
    train, test = existing(folder / "train"), existing(folder / "val")
    wnids, others = (sorted(entry.name for entry in part.iterdir() if entry.is_dir()) for part in (train, test))
    check_same_classes(train, wnids, test, others)
    return ImageFolders(ImageFiles.of(train, wnids), ImageFiles.of(test, wnids)), len(wnids)


def check_same_classes(train: Path, classes: list[str], test: Path, others: list[str]) -> None:
    """ValueError unless two folders have the same classes; it names one that only one of them has."""
    if differing := sorted({*classes} ^ {*others}):
        lacking = test if differing[0] in classes else train
        raise ValueError(f"{train} and {test} must have the same classes: {lacking} has no {differing[0]}.")


@dataclass(frozen=True)
class FileReader(Dataset[tuple[Tensor, int]]):
    """Decodes minibatches of files, and puts this process's share of each on the device."""

    files: ImageFiles
    side: int
    random: bool  # a random crop and flip of each image, or its central crop
    seed: int
    normalise: Normalise
    device: torch.device
    workers: int  # decoding processes; 0 decodes in this one
    share: Share = WHOLE
    flip: bool = True  # mirror half of the random crops

    @property
    def size(self) -> int:
        return len(self.files.names)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        """Image ``[3, side, side]`` uint8 and label."""
        index = key[2]
        image = open_rgb(self.files.folder / os.fsdecode(self.files.names[index]))
        if self.random:
            view = random_view(image, self.side, generator("cpu", self.seed, *key), flip=self.flip)
        else:
            view = central_view(image, self.side)
        return torch.from_numpy(np.array(view)).permute(2, 0, 1), int(self.files.labels[index])

    def stream(self, purpose: str, number: int, order: Tensor, batch_size: int, start: int = 0) -> Iterator[Images]:
        """Minibatches decoded ahead by the workers; ValueError if a file is not a readable image."""
        chunks = (order[i : i + batch_size] for i in range(start * batch_size, len(order), batch_size))
        mine = (chunk[self.share.of(len(chunk))].tolist() for chunk in chunks)
        loader: DataLoader[tuple[Tensor, int]] = DataLoader(
            self,
            batch_sampler=([(purpose, number, index) for index in chunk] for chunk in mine),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),  # without one, the loader draws a seed from the global generator
        )
        delivered = iter(loader)
        try:
            while batch := next(delivered, None):
                yield self._place(*batch)
        except ConnectionResetError:  # a worker died; within a second torch's signal handler raises an error naming it
            time.sleep(1.0)
            raise
        except ValueError as error:  # without the worker's traceback
            raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from None
        finally:
            # Workers ignore SIGTERM and exit waits for them, so stop them even if a traceback keeps the iterator alive.
            if self.workers:
                delivered._shutdown_workers()  # type: ignore[attr-defined]

    def in_order(self, batch_size: int) -> Iterator[Images]:
        """Minibatches of all images."""
        return self.stream("test", 0, torch.arange(self.size), batch_size)

    def gather(self, purpose: str, number: int, chosen: Tensor) -> Images:
        """One minibatch, decoded by threads."""
        keys: list[Key] = [(purpose, number, index) for index in chosen[self.share.of(len(chosen))].tolist()]
        with ThreadPoolExecutor(max(1, self.workers)) as threads:
            images, labels = zip(*threads.map(self.__getitem__, keys), strict=True)
        return self._place(torch.stack(images), torch.tensor(labels))

    def _place(self, images: Tensor, labels: Tensor) -> Images:
        images, labels = (tensor.to(self.device, non_blocking=True) for tensor in (images, labels))
        return self.normalise(images), labels


def _ignore_signals(_: int) -> None:
    """Ignore signals in workers: a scheduler sends them to all processes, but the run needs its data to save."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def random_view(image: Image.Image, side: int, random: torch.Generator, *, flip: bool = True) -> Image.Image:
    """Random crop of 8 to 100 % of the area with aspect 3/4 to 4/3, resized, and mirrored half of the time if ``flip``.

    If none of ten draws fits into the image, the largest central crop of allowed aspect is taken (the recipe of Szegedy
    et al., arXiv 1409.4842, as in torchvision's RandomResizedCrop).
    """
    box = _random_box(image.width, image.height, random)
    view = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
    if torch.rand((), generator=random) < 0.5 and flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return view


def _random_box(width: int, height: int, random: torch.Generator) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge of a random crop."""
    log_ratio = math.log(_RATIO[0]), math.log(_RATIO[1])
    for draw in torch.rand((10, 4), generator=random, dtype=torch.float64).tolist():
        area = width * height * (0.08 + draw[0] * 0.92)
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

    Rounds like torchvision's Resize and CenterCrop.
    """
    shorter = side * 8 // 7
    width, height = (shorter * length // min(image.size) for length in image.size)
    left, upper = round((width - side) / 2), round((height - side) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, upper, left + side, upper + side))
