"""Data sets that fit on the training device: uint8 arrays, shuffled, gathered and augmented there in minibatches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from llqr_sam.data.augment import Augmentation, Normalise
from llqr_sam.data.randomness import generator, shuffled
from llqr_sam.data.streams import WHOLE, Samples, Share, check_batch_size, check_sample_size

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class ImageArrays:
    """A whole data set: images ``[N, C, H, W]`` uint8 and labels ``[N]`` int64 of both splits."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def samples(self) -> Samples:
        """Numbers of images."""
        return Samples(len(self.train_labels), len(self.test_labels))

    def fingerprint(self) -> str:
        """SHA-256 of shapes and contents."""
        digest = hashlib.sha256()
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


class ArrayTrainStream:
    """Training minibatches from arrays on the device (``TrainStream``).

    Args:
        images: ``[N, C, H, W]`` uint8, on the device.
        labels: ``[N]`` int64, on the device.
        normalise: Turns augmented uint8 images into the network's input.
        augmentations: Applied in order to the uint8 images.
        batch_size: Samples in a minibatch.
        seed: Determines order and augmentation, together with the epoch and the number of the batch.
        name: Data set, for messages.
        share: This process's part of each minibatch. The whole minibatch is augmented first, so that an image draws
            the same random numbers as in a single process.

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
        self._augmentations = augmentations
        self._seed = seed
        self._share = share
        self._batch_size = batch_size
        self.size = len(images)
        self.steps_per_epoch = self.size // batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Minibatches of an epoch, from number ``start`` on."""
        order = shuffled(self.size, self._seed, "order", epoch).to(self._images.device)
        for batch in range(start, self.steps_per_epoch):
            chosen = order[batch * self._batch_size : (batch + 1) * self._batch_size]
            yield self._gather(chosen, "augment", epoch, batch)

    def sample(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """The preconditioner minibatch of an optimizer step."""
        check_sample_size(size, self.size)
        order = shuffled(self.size, self._seed, "refresh order", step).to(self._images.device)
        return self._gather(order[:size], "refresh augment", step)

    def _gather(self, chosen: Tensor, *purpose: int | str) -> tuple[Tensor, Tensor]:
        images = self._images.index_select(0, chosen)
        random = generator(self._images.device, self._seed, *purpose)
        for augmentation in self._augmentations:
            images = augmentation(images, random)
        part = self._share.of(len(chosen))
        return self._normalise(images[part]), self._labels.index_select(0, chosen[part])


class ArrayTestBatches:
    """Test minibatches from arrays on the device: images ``[N, C, H, W]`` uint8, labels ``[N]`` int64."""

    def __init__(self, images: Tensor, labels: Tensor, *, normalise: Normalise, batch_size: int) -> None:
        self._images = images
        self._labels = labels
        self._normalise = normalise
        self._batch_size = batch_size
        self.size = len(images)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, self.size, self._batch_size):
            chosen = slice(start, start + self._batch_size)
            yield self._normalise(self._images[chosen]), self._labels[chosen]
