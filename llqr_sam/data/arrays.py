"""Data sets that fit on the training device: uint8 arrays, shuffled, gathered and augmented there in minibatches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llqr_sam.data.augment import Augmentation, Normalise
from llqr_sam.data.streams import WHOLE, Samples, Share, draw_sample, generator, shuffled


@dataclass(frozen=True)
class ImageArrays:
    """A whole data set: images ``[N, C, H, W]`` uint8 and labels ``[N]`` int64 of both splits."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def samples(self) -> Samples:
        return Samples(len(self.train_labels), len(self.test_labels))

    def fingerprint(self) -> str:
        """SHA-256 of shapes and contents."""
        digest = hashlib.sha256()
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class ArrayTrainStream:
    """Training minibatches from arrays on the device (``TrainStream``).

    Several processes augment the whole minibatch and then take their share, so that an image draws the same random
    numbers as in a single process.
    """

    images: Tensor  # [N, C, H, W] uint8
    labels: Tensor  # [N] int64
    normalise: Normalise
    augmentations: Sequence[Augmentation]  # applied in order to the uint8 images
    batch_size: int
    seed: int  # determines order and augmentation, together with the epoch and the number of the batch
    share: Share = WHOLE

    @property
    def size(self) -> int:
        return len(self.images)

    @property
    def steps_per_epoch(self) -> int:
        return self.size // self.batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        order = shuffled(self.size, self.seed, "order", epoch).to(self.images.device)
        for batch, chosen in enumerate(torch.split(order, self.batch_size)[start : self.steps_per_epoch], start):
            yield self._gather(chosen, "augment", epoch, batch)

    def sample(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        chosen = draw_sample(step, size, self.size, self.seed).to(self.images.device)
        return self._gather(chosen, "refresh augment", step)

    def _gather(self, chosen: Tensor, *purpose: int | str) -> tuple[Tensor, Tensor]:
        images = self.images.index_select(0, chosen)
        random = generator(self.images.device, self.seed, *purpose)
        for augmentation in self.augmentations:
            images = augmentation(images, random)
        part = self.share.of(len(chosen))
        return self.normalise(images[part]), self.labels.index_select(0, chosen[part])


@dataclass(frozen=True)
class ArrayTestBatches:
    """Test minibatches from arrays on the device: images ``[N, C, H, W]`` uint8, labels ``[N]`` int64."""

    images: Tensor
    labels: Tensor
    normalise: Normalise
    batch_size: int = 500

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.images), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            yield self.normalise(self.images[chosen]), self.labels[chosen]
