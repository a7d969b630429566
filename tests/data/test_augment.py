"""Augmentations against slow, obvious versions of themselves, their statistics, and label noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from llqr_sam.data.augment import (
    DIGITS,
    PAPER,
    PLAIN,
    Augmentation,
    Normalise,
    cutout,
    flip_labels,
    random_crop,
    random_flip,
)
from llqr_sam.data.streams import generator


def images(count: int = 64, side: int = 12) -> Tensor:
    return torch.randint(1, 256, (count, 3, side, side), generator=generator("cpu", 0), dtype=torch.uint8)


@pytest.mark.parametrize("per_batch", [False, True])
def test_crop_is_a_window_of_the_reflected_image(per_batch: bool) -> None:
    """Each output is one of the 81 windows of numpy's reflect-padded image; one offset a batch if asked."""
    before = images()
    after = random_crop(before, generator("cpu", 1), pad=4, per_batch=per_batch)
    offsets = []
    for source, result in zip(before.numpy(), after.numpy(), strict=True):
        padded = np.pad(source, ((0, 0), (4, 4), (4, 4)), mode="reflect")
        found = [(y, x) for y in range(9) for x in range(9) if (padded[:, y : y + 12, x : x + 12] == result).all()]
        assert len(found) == 1
        offsets += found
    assert (len(set(offsets)) == 1) == per_batch


def test_crop_offsets_are_uniform() -> None:
    """All 9 vertical shifts of 9,000 images within five standard deviations of 1,000."""
    ramp = torch.arange(64, dtype=torch.uint8)[None, None, :, None].expand(9000, 1, 64, 64)
    rows = random_crop(ramp, generator("cpu", 2), pad=4)[:, 0, 32, 0].long() - 28
    counts = rows.bincount(minlength=9)
    assert len(counts) == 9
    assert (counts - 1000).abs().max() < 5 * (1000 * 8 / 9) ** 0.5


def test_flip_mirrors_about_half() -> None:
    before = images(count=1000)
    after = random_flip(before, generator("cpu", 3))
    mirrored = (after == before.flip(-1)).flatten(1).all(1)
    unchanged = (after == before).flatten(1).all(1)
    assert (mirrored | unchanged).all()
    assert abs(int(mirrored.sum()) - 500) < 5 * (1000 / 4) ** 0.5


@pytest.mark.parametrize(("side", "size"), [(16, 32), (16, 64), (5, 12)])
def test_cutout_blackens_one_clipped_square(side: int, size: int) -> None:
    """Half of the images; a rectangle no larger than the square, smaller only at the border; centres everywhere."""
    before = images(count=1000, side=size)
    after = cutout(before, generator("cpu", 4), side=side)
    black = (after == 0).all(1)
    assert torch.equal(after, before * ~black[:, None])
    touched = black.flatten(1).any(1)
    assert abs(int(touched.sum()) - 500) < 5 * (1000 / 4) ** 0.5
    for mask in black[touched]:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        assert mask.sum() == len(rows) * len(columns)  # a full rectangle
        for edge in (rows, columns):
            assert torch.equal(edge, torch.arange(int(edge[0]), int(edge[-1]) + 1))
            clipped = edge[0] == 0 or edge[-1] == size - 1
            assert len(edge) == side or (clipped and side // 2 <= len(edge) < side)
    assert black.any(0).all()  # with centres uniform over the pixels, corners are reached too


def test_normalise_is_the_textbook_formula() -> None:
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    before = images()
    expected = (before.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    after = Normalise(mean, std, torch.device("cpu"))(before)
    assert after.dtype == torch.float32
    torch.testing.assert_close(after.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("augmentation", [*PAPER.steps(32, "image"), *DIGITS.steps(8, "batch")])
def test_pure_and_repeatable(augmentation: Augmentation) -> None:
    """Same generator, same result; the argument, its shape and its type stay; the global generator is not used."""
    before, state = images(), torch.get_rng_state()
    kept = before.clone()
    first, second = (augmentation(before, generator("cpu", 5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, kept)
    assert first.shape == before.shape
    assert first.dtype == torch.uint8
    assert torch.equal(torch.get_rng_state(), state)


def test_your_own_images_are_cropped_by_an_eighth_and_mirrored() -> None:
    crop, flip = PLAIN.steps(28, "image")
    assert (crop.func, crop.keywords) == (random_crop, {"pad": 3, "per_batch": False})
    assert flip is random_flip
    assert len(replace(PLAIN, flip=False).steps(28, "image")) == 1


def test_recipe_of_the_paper() -> None:
    crop, flip, cut = PAPER.steps(32, "batch")
    assert (crop.func, crop.keywords) == (random_crop, {"pad": 4, "per_batch": True})
    assert flip is random_flip
    assert (cut.func, cut.keywords) == (cutout, {"side": 16})
    assert [augmentation.keywords for augmentation in DIGITS.steps(8, "image")] == [{"pad": 1, "per_batch": False}]


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.6, 0.7, 0.8, 0.3333])
def test_the_exact_fraction_of_labels_changes(fraction: float) -> None:
    labels = torch.arange(1000) % 10
    kept = labels.clone()
    noisy = flip_labels(labels, fraction, 10, seed=0)
    assert int((noisy != labels).sum()) == round(fraction * 1000)
    assert torch.equal(labels, kept)
    assert noisy.min() >= 0
    assert noisy.max() < 10


def test_new_labels_are_uniform_over_the_other_classes() -> None:
    """Nine cells of 1,000 expected; five standard deviations."""
    noisy = flip_labels(torch.zeros(10_000, dtype=torch.int64), 0.9, 10, seed=1)
    counts = noisy.bincount(minlength=10)
    assert counts[0] == 1000
    assert (counts[1:] - 1000).abs().max() < 5 * (1000 * 8 / 9) ** 0.5


def test_the_seed_decides_which_labels_change() -> None:
    labels, state = torch.arange(100) % 10, torch.get_rng_state()
    assert torch.equal(flip_labels(labels, 0.4, 10, seed=2), flip_labels(labels, 0.4, 10, seed=2))
    assert not torch.equal(flip_labels(labels, 0.4, 10, seed=2), flip_labels(labels, 0.4, 10, seed=3))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    device = torch.device("cuda")
    batch, random = images(count=128, side=32).to(device), generator(device, 0)
    for augmentation in PAPER.steps(32, "image"):
        batch = augmentation(batch, random)
    assert batch.device.type == "cuda"


def test_one_class_cannot_be_noisy() -> None:
    with pytest.raises(ValueError, match="dataset.label_noise=0.5 needs at least two classes, not 1"):
        flip_labels(torch.zeros(4, dtype=torch.int64), 0.5, 1, seed=0)
