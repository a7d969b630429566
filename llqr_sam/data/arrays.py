"""Data sets that fit on the training device: uint8 arrays, shuffled, gathered and augmented there in minibatches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from llqr_sam.data.augment import Augmentation, Normalise
from llqr_sam.data.streams import WHOLE, Images, Samples, Share, generator


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

    def with_train(self, chosen: Tensor) -> ImageArrays:
        """The data set with ``chosen`` training images, int64 indices, and the same test images."""
        return replace(self, train_images=self.train_images[chosen], train_labels=self.train_labels[chosen])

    def with_test(self, chosen: Tensor) -> ImageArrays:
        """The data set with ``chosen`` training images, int64 indices, in the place of its test images."""
        return replace(self, test_images=self.train_images[chosen], test_labels=self.train_labels[chosen])


@dataclass(frozen=True)
class ArrayReader:
    """Gathers and augments minibatches of arrays on their device.

    Several processes augment the whole minibatch and then take their share, so that an image draws the same random
    numbers as in a single process.
    """

    images: Tensor  # [N, C, H, W] uint8
    labels: Tensor  # [N] int64
    normalise: Normalise
    augmentations: Sequence[Augmentation] = ()  # applied in order to the uint8 images
    seed: int = 0
    share: Share = WHOLE

    @property
    def size(self) -> int:
        return len(self.images)

    def stream(self, purpose: str, number: int, order: Tensor, batch_size: int, start: int = 0) -> Iterator[Images]:
        order = order.to(self.images.device)
        for batch, first in enumerate(range(start * batch_size, len(order), batch_size), start):
            yield self._gather(order[first : first + batch_size], purpose, number, batch)

    def in_order(self, batch_size: int) -> Iterator[Images]:
        """Minibatches of all images, not augmented; slices keep the memory format of the arrays and copy nothing."""
        for start in range(0, self.size, batch_size):
            chosen = slice(start, start + batch_size)
            yield self.normalise(self.images[chosen]), self.labels[chosen]

    def gather(self, purpose: str, number: int, chosen: Tensor) -> Images:
        return self._gather(chosen.to(self.images.device), purpose, number)

    def _gather(self, chosen: Tensor, *purpose: int | str) -> Images:
        images = self.images.index_select(0, chosen)
        random = generator(self.images.device, self.seed, *purpose)
        for augmentation in self.augmentations:
            images = augmentation(images, random)
        part = self.share.of(len(chosen))
        return self.normalise(images[part]), self.labels.index_select(0, chosen[part])
