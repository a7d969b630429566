"""Subsets and validation splits: balanced, disjoint, the same where they should be and different where they should."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from llqr_sam.data.arrays import ImageArrays
from llqr_sam.data.imagenet import ImageFiles, ImageFolders
from llqr_sam.data.loading import Splits
from llqr_sam.data.subsets import Whole, take_subset

CLASSES, EACH = 5, 20


@pytest.fixture(params=["arrays", "folders"])
def whole(request: pytest.FixtureRequest) -> Whole:
    """100 training samples in mixed order; a sample can be told by its pixel, or by its name."""
    labels = torch.arange(CLASSES * EACH)[torch.randperm(CLASSES * EACH, generator=torch.Generator().manual_seed(1))]
    labels %= CLASSES
    if request.param == "arrays":
        images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None]
        return ImageArrays(images, labels, images[:7] + 200, labels[:7])
    names = np.array([f"{number:03}".encode() for number in range(len(labels))])
    files = ImageFiles(Path("train"), names, labels)
    return ImageFolders(files, ImageFiles(Path("val"), np.array([b"200", b"201"]), labels[:2]))


def trained(data: Whole) -> list[int]:
    """Numbers of the training samples."""
    return data.train_images.flatten().tolist() if isinstance(data, ImageArrays) else [int(n) for n in data.train.names]


def scored(data: Whole) -> list[int]:
    """Numbers of the samples that are scored."""
    return data.test_images.flatten().tolist() if isinstance(data, ImageArrays) else [int(n) for n in data.test.names]


def labels_of(data: Whole, numbers: list[int]) -> Tensor:
    return data.train_labels[numbers]


@pytest.mark.parametrize("count", [10, 13, 99])
def test_a_subset_is_balanced_and_keeps_labels(whole: Whole, count: int) -> None:
    """Each class has count / classes samples, rounded down or up."""
    part = take_subset(whole, count, None, seed=0)
    numbers = trained(part)
    assert len(set(numbers)) == count
    assert numbers == sorted(numbers)
    assert torch.equal(part.train_labels, labels_of(whole, numbers))
    sizes = Counter(part.train_labels.tolist()).values()
    assert len(sizes) == CLASSES
    assert max(sizes) - min(sizes) <= 1
    assert scored(part) == scored(whole)


def test_seeds_draw_other_subsets_and_the_same_validation_images(whole: Whole) -> None:
    parts = [take_subset(whole, 20, 10, seed=seed) for seed in (0, 0, 1)]
    assert trained(parts[0]) == trained(parts[1]) != trained(parts[2])
    assert scored(parts[0]) == scored(parts[1]) == scored(parts[2])


@pytest.mark.parametrize("subset", [None, 60, 90])
def test_validation_images_are_training_images_that_are_not_trained_on(whole: Whole, subset: int | None) -> None:
    part = take_subset(whole, subset, 10, seed=3)
    assert not set(trained(part)) & set(scored(part))
    assert (len(trained(part)), len(scored(part))) == (subset or 90, 10)
    labels = part.test_labels if isinstance(part, ImageArrays) else part.test.labels
    assert torch.equal(labels, labels_of(whole, scored(part)))
    assert set(Counter(labels.tolist()).values()) == {2}


def test_nothing_asked_for_changes_nothing(whole: Whole) -> None:
    assert take_subset(whole, None, None, seed=0) is whole


@pytest.mark.parametrize(
    ("subset", "validation", "words"),
    [
        (101, None, "dataset.subset=101 is too many: .* 21 training images of class . and there are 20"),
        (91, 10, "dataset.subset=91 is too many: .* 19 training images of class . and there are 18"),
        (None, 101, "dataset.validation=101 is too many"),
    ],
)
def test_more_than_there_are_is_refused(whole: Whole, subset: int | None, validation: int | None, words: str) -> None:
    with pytest.raises(ValueError, match=re.sub(r"class \. and", "class .,? and", words)):
        take_subset(whole, subset, validation, seed=0)


def test_a_loaded_part_is_noisy_by_its_own_size_and_keeps_the_whole_fingerprint(
    load_with: Callable[..., Splits],
) -> None:
    """40 % of the 100 labels that are left; records of a part and of the whole are of the same data."""
    plain, clean, noisy = (
        load_with("digits", **more) for more in ({}, {"subset": 100}, {"subset": 100, "label_noise": 0.4})
    )
    assert (clean.samples.train, clean.samples.test, clean.train.steps_per_epoch) == (100, 500, 100 // 16)
    assert clean.fingerprint == plain.fingerprint
    (x, y), (noisy_x, noisy_y) = (splits.train.sample(0, 100) for splits in (clean, noisy))
    assert torch.equal(x, noisy_x)
    assert int((y != noisy_y).sum()) == 40
