"""What a data set looks like to a training loop: a stream to train on, batches to test on, and what is known of it.

Streams are stateless. A minibatch is a function of (seed, epoch, number of the batch), a preconditioner minibatch of
(seed, optimizer step), so that a run resumed anywhere sees the data it would have seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor


class MissingDataError(FileNotFoundError):
    """A data set is not where it was looked for; the message says what is missing, where, and how to fetch it."""


@dataclass(frozen=True)
class Samples:
    """How many samples there are to train on and to test on."""

    train: int
    test: int


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set without touching it.

    ``mean`` and ``std`` hold one value a channel, for pixels in [0, 1]; ``whole`` counts the official images.
    """

    name: str
    classes: int
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    whole: Samples


@dataclass(frozen=True)
class Share:
    """The part of every minibatch that one of ``count`` processes has, where several train one run."""

    index: int = 0
    count: int = 1

    def of(self, size: int) -> slice:
        """Its places among ``size`` samples; the shares together are every sample once."""
        return slice(size * self.index // self.count, size * (self.index + 1) // self.count)


WHOLE = Share()

Inputs = Tensor | tuple[Tensor, ...]  # what a network is called with: one argument, or several
Batch = TypeVar("Batch")


class TrainStream(Protocol):
    """Endless, shuffled, augmented training data, cut into epochs; a process may have a share of each minibatch."""

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in an epoch; the last, incomplete one is dropped."""

    @property
    def size(self) -> int:
        """Number of training samples."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Inputs, Tensor]]:
        """Minibatches of an epoch, from number ``start`` on.

        Yields:
            Inputs and targets, on the device: normalised images ``[B, C, H, W]`` float32 and labels ``[B]`` int64, or
            sentences (``llqr_sam.data.translation``).
        """

    def sample(self, step: int, size: int) -> tuple[Inputs, Tensor]:
        """The preconditioner minibatch of an optimizer step, drawn without replacement and augmented like the others.

        Raises:
            ValueError: ``size`` is not between 1 and the number of training samples.
        """


class TestBatches(Protocol):
    """Every test sample of a process's share once, in a fixed order, without augmentation."""

    @property
    def size(self) -> int:
        """Number of test samples in the share."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images ``[B, C, H, W]`` float32 and labels ``[B]`` int64, on the device; the last B is smaller."""


@dataclass(frozen=True)
class Splits:
    """A loaded data set.

    ``info.classes`` is the number of classes found, which a sample of a data set may lower; ``fingerprint`` a SHA-256
    of all samples before label noise, or of their names where they are only read in training; ``samples`` counts those
    of all shares.
    """

    info: DatasetInfo
    train: TrainStream
    test: TestBatches
    fingerprint: str
    samples: Samples


@contextlib.contextmanager
def open_batches(batches: Iterable[Batch]) -> Iterator[Iterator[Batch]]:
    """Minibatches within a block, at whose end whatever reads them has been shut down.

    Readers may be processes that outlive all but their generator's ``close``. It cannot be left to the generator's end:
    a kept traceback puts that off, and since Python 3.12 so does a generator around it that is closed.
    """
    iterator = iter(batches)
    try:
        yield iterator
    finally:
        if isinstance(iterator, Generator):
            iterator.close()


def check_batch_size(batch_size: int, size: int, name: str) -> None:
    """Raise ValueError unless at least one whole minibatch fits into the training set of data set ``name``."""
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"protocol.batch_size={batch_size} does not fit dataset={name}: "
            f"it must be between 1 and its {size} training samples."
        )


def check_sample_size(size: int, available: int) -> None:
    """Raise ValueError unless a preconditioner minibatch of ``size`` can be drawn without replacement."""
    if not 1 <= size <= available:
        raise ValueError(
            f"a preconditioner minibatch of {size} cannot be drawn: "
            f"it must have between 1 and the {available} training samples."
        )
