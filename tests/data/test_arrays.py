"""Streams from arrays: every sample once an epoch, and nothing remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llqr_sam.data.arrays import ArrayReader, ImageArrays
from llqr_sam.data.augment import DIGITS, Augmentation, Normalise, random_flip
from llqr_sam.data.loading import ImagesInOrder, ImageStream

CPU = torch.device("cpu")
UNIT = Normalise((0.0,), (1 / 255,), CPU)  # float32 images with the values of the uint8 ones


def stream(seed: int = 0, augment: tuple[Augmentation, ...] = (), batch_size: int = 6) -> ImageStream:
    """Fifty 4 x 4 images; every pixel of image k has the value k, as has its label."""
    labels = torch.arange(50)
    pixels = labels.to(torch.uint8)[:, None, None, None].expand(50, 1, 4, 4).contiguous()
    return ImageStream(ArrayReader(pixels, labels, UNIT, augment, seed), batch_size, seed)


def test_a_fingerprint_sees_every_pixel_label_and_shape() -> None:
    images, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3)
    arrays = ImageArrays(images, labels, images[:1], labels[:1])
    changed = images.clone()
    changed[2, 0, 1, 1] = 1
    others = [
        replace(arrays, train_images=changed),
        replace(arrays, train_labels=labels.flip(0)),
        replace(arrays, test_images=changed[2:]),
        replace(arrays, test_labels=labels[1:2]),
        replace(arrays, train_images=images.view(3, 1, 1, 4)),
    ]
    assert len({each.fingerprint() for each in (arrays, *others)}) == 6
    assert replace(arrays, train_images=images.clone()).fingerprint() == arrays.fingerprint()


def noisy_stream(seed: int = 0) -> ImageStream:
    pixels = torch.randint(0, 256, (50, 1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    chosen = (*DIGITS.steps(8, "image"), random_flip)
    return ImageStream(ArrayReader(pixels, torch.arange(50), UNIT, chosen, seed), 6, seed)


def equal(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True)
    )


def test_an_epoch_shows_each_sample_at_most_once() -> None:
    """50 samples in eight batches of 6: 48 different ones, images and labels together; the next epoch differs."""
    epochs = [list(stream().batches(epoch)) for epoch in (0, 1)]
    seen = [torch.cat([labels for _, labels in batches]) for batches in epochs]
    assert stream().steps_per_epoch == len(epochs[0]) == 8
    assert all(len(labels.unique()) == 48 for labels in seen)
    assert not torch.equal(seen[0], seen[1])
    for images, labels in epochs[0]:
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        torch.testing.assert_close(images, labels.float()[:, None, None, None].expand_as(images))


@pytest.mark.parametrize("start", [0, 1, 5, 8])
def test_resuming_mid_epoch_gives_the_same_batches(start: int) -> None:
    """A fresh stream started at batch k yields bitwise what an uninterrupted one yields from there."""
    whole = list(noisy_stream().batches(3))
    assert equal(list(noisy_stream().batches(3, start)), whole[start:])


def test_history_does_not_matter() -> None:
    """Other epochs, refresh samples and global draws in between change nothing, and global state stays."""
    expected = list(noisy_stream().batches(2))
    busy = noisy_stream()
    list(busy.batches(0))
    torch.rand(3)
    state = torch.get_rng_state()
    got = []
    for number, batch in enumerate(busy.batches(2)):
        busy.sample(number, 5)
        got.append(batch)
    assert equal(got, expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_changes_order_and_augmentation() -> None:
    assert not equal(list(noisy_stream(0).batches(0)), list(noisy_stream(1).batches(0)))


def test_sample_is_drawn_without_replacement_and_per_step() -> None:
    """The preconditioner minibatch depends on the step alone and is augmented like the others."""
    first, again, other = noisy_stream().sample(7, 50), noisy_stream().sample(7, 50), noisy_stream().sample(8, 50)
    assert equal([first], [again])
    assert first[1].sort().values.equal(torch.arange(50))
    assert not torch.equal(first[1], other[1])
    plain = stream().sample(7, 20)
    torch.testing.assert_close(plain[0][:, 0, 0, 0], plain[1].float())


def test_test_batches_are_every_sample_once_in_order() -> None:
    labels = torch.arange(10)
    pixels = labels.to(torch.uint8)[:, None, None, None].expand(10, 1, 2, 2)
    batches = ImagesInOrder(ArrayReader(pixels, labels, UNIT), batch_size=4)
    for _ in range(2):  # iterable again
        parts = list(batches)
        assert [len(part[1]) for part in parts] == [4, 4, 2]
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)
        torch.testing.assert_close(torch.cat([part[0] for part in parts])[:, 0, 0, 0], labels.float())


def test_test_batches_keep_the_memory_format_of_the_arrays() -> None:
    pixels = torch.zeros(8, 4, 4, 3, dtype=torch.uint8).permute(0, 3, 1, 2)  # as an archive stores images
    images, _ = next(iter(ImagesInOrder(ArrayReader(pixels, torch.zeros(8), UNIT), batch_size=4)))
    assert images.is_contiguous(memory_format=torch.channels_last)
