"""Data sets that fit on the training device: uint8 arrays, shuffled, gathered and augmented there in minibatches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llqr_sam.data.augment import Augmentation, Normalise
from llqr_sam.data.randomness import generator
from llqr_sam.data.streams import WHOLE, Share, check_batch_size, check_sample_size

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class ImageArrays:
    """A data set whole: images ``[N, C, H, W]`` uint8 and labels ``[N]`` int64 of both splits."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def fingerprint(self) -> str:
        """SHA-256 of shapes and contents."""
        digest = hashlib.sha256()
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


class ArrayTrainStream:
    """Training minibatches from device-resident arrays.

    Args:
        images: ``[N, C, H, W]`` uint8, on the device.
        labels: ``[N]`` int64, on the device.
        normalise: Turns uint8 images into the network's input, last.
        augmentations: Applied in order to the uint8 images.
        batch_size: Samples in a minibatch.
        seed: Decides, with epoch and number of the batch, order and augmentation.
        name: The data set, for messages.
        share: Part of each minibatch that is handed out. The whole is augmented, so that each image draws what it
            would draw in one process.

    Raises:
        ValueError: The batch size is less than 1 or more than N.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        normalise: Normalise,
        augmentations: Sequence[Augmentation],
        batch_size: int,
        seed: int,
        name: str,
        share: Share = WHOLE,
    ) -> None:
        check_batch_size(batch_size, len(images), name)
        self._images = images
        self._labels = labels
        self._normalise = normalise
        self._augmentations = tuple(augmentations)
        self._seed = seed
        self._share = share
        self.batch_size = batch_size
        self.size = len(images)
        self.steps_per_epoch = self.size // batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``TrainStream.batches``."""
        order = self._order("order", epoch)
        for batch in range(start, self.steps_per_epoch):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield self._gather(chosen, "augment", epoch, batch)

    def sample(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """See ``TrainStream.sample``."""
        check_sample_size(size, self.size)
        return self._gather(self._order("refresh order", step)[:size], "refresh augment", step)

    def _order(self, purpose: str, number: int) -> Tensor:
        # Drawn on the CPU, so that the order of the samples does not depend on the device.
        order = torch.randperm(self.size, generator=generator("cpu", self._seed, purpose, number))
        return order.to(self._images.device)

    def _gather(self, chosen: Tensor, *purpose: int | str) -> tuple[Tensor, Tensor]:
        images = self._images.index_select(0, chosen)
        random = generator(self._images.device, self._seed, *purpose)
        for augmentation in self._augmentations:
            images = augmentation(images, random)
        part = self._share.of(len(chosen))
        return self._normalise(images[part]), self._labels.index_select(0, chosen[part])


class ArrayTestBatches:
    """Test minibatches from device-resident arrays; images ``[N, C, H, W]`` uint8, labels ``[N]`` int64."""

    def __init__(self, images: Tensor, labels: Tensor, *, normalise: Normalise, batch_size: int) -> None:
        self._images = images
        self._labels = labels
        self._normalise = normalise
        self._batch_size = batch_size
        self.size = len(images)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``TestBatches.__iter__``."""
        for start in range(0, self.size, self._batch_size):
            chosen = slice(start, start + self._batch_size)
            yield self._normalise(self._images[chosen]), self._labels[chosen]
