"""What a data set looks like to a training loop: a stream to train on, batches to test on, and a description.

Streams are stateless. A minibatch is a function of (seed, epoch, number of the batch), a preconditioner minibatch of
(seed, optimizer step), so that a run resumed anywhere sees the data it would have seen. Their random numbers therefore
come from generators seeded by names and numbers (``generator``), never from what was drawn before.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor


class MissingDataError(FileNotFoundError):
    """A data set is not where it was looked for; the message says what is missing, where, and how to fetch it."""


def existing(path: Path) -> Path:
    """A file or folder of a data set; MissingDataError if it is not there."""
    if not path.exists():
        raise MissingDataError(f"{path} is missing: the data set is incomplete.")
    return path


@dataclass(frozen=True)
class Samples:
    """Numbers of training and test samples."""

    train: int
    test: int


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is loaded."""

    classes: int
    image_size: int
    channels: int
    mean: tuple[float, ...]  # per channel, for pixels in [0, 1]
    std: tuple[float, ...]
    whole: Samples  # official numbers of images


@dataclass(frozen=True)
class Share:
    """The part of every minibatch that process ``index`` of ``count`` gets, where several train one run."""

    index: int = 0
    count: int = 1

    def of(self, size: int) -> slice:
        """This process's slice of ``size`` samples; the slices of all processes cover each sample once."""
        return slice(size * self.index // self.count, size * (self.index + 1) // self.count)


WHOLE = Share()

Inputs = Tensor | tuple[Tensor, ...]  # what a network is called with: one argument or several
Images = tuple[Tensor, Tensor]  # normalised [B, C, H, W] float32 and labels [B] int64, on the device
Batch = TypeVar("Batch")


class TrainStream(Protocol):
    """Endless, shuffled, augmented training data, cut into epochs."""

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in an epoch; the last, incomplete one is dropped."""

    @property
    def size(self) -> int:
        """Number of training samples."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Inputs, Tensor]]:
        """Minibatches of an epoch, from number ``start`` on.

        Yields:
            Inputs and targets on the device: ``Images``, or sentences (``llqr_sam.data.translation``).
        """

    def sample(self, step: int, size: int) -> tuple[Inputs, Tensor]:
        """The preconditioner minibatch of an optimizer step (``draw_sample``), augmented like the others."""


@contextlib.contextmanager
def open_batches(batches: Iterable[Batch]) -> Iterator[Iterator[Batch]]:
    """Iterate over minibatches inside a block; worker processes that read them are shut down at its end.

    Only ``close`` on the generator stops its workers. Garbage collection would call it too late: a kept traceback
    delays it, and since Python 3.12 so does an outer generator that is closed.
    """
    iterator = iter(batches)
    try:
        yield iterator
    finally:
        if isinstance(iterator, Generator):
            iterator.close()


def derived_seed(*parts: int | str) -> int:
    """A hash of the parts in [0, 2^63): neighbouring seeds, such as 0 and 1, give unrelated streams."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A fresh generator on ``device``, seeded with ``derived_seed(*parts)``; the global generator is not touched."""
    return torch.Generator(device).manual_seed(derived_seed(*parts))


def shuffled(size: int, *parts: int | str) -> Tensor:
    """A random order of 0 .. size - 1, int64. Drawn on the CPU, so that it is the same on every device."""
    return torch.randperm(size, generator=generator("cpu", *parts))


def draw_sample(step: int, size: int, available: int, seed: int) -> Tensor:
    """Numbers of the samples in the preconditioner minibatch of an optimizer step, drawn without replacement.

    Raises:
        ValueError: ``size`` is not between 1 and the ``available`` training samples.
    """
    if not 1 <= size <= available:
        raise ValueError(f"a preconditioner minibatch of {size} cannot be drawn from {available} training samples.")
    return shuffled(available, seed, "refresh order", step)[:size]
