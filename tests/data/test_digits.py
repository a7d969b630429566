"""The embedded digits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from llqr_sam.data.digits import read_digits
from llqr_sam.data.loading import Splits
from llqr_sam.models.registry import build


def test_split_is_fixed_disjoint_and_stratified() -> None:
    """All 1,797 images, once each; every class has its share of both parts; the order is the same every time."""
    from sklearn.datasets import load_digits

    arrays, again = read_digits(), read_digits()
    assert arrays.train_images.shape == (1297, 1, 8, 8)
    assert arrays.test_images.shape == (500, 1, 8, 8)
    assert torch.equal(arrays.train_images, again.train_images)
    assert arrays.test_labels.bincount().tolist() == [50, 51, 49, 51, 50, 51, 50, 50, 48, 50]
    together = torch.cat([arrays.train_images, arrays.test_images]).flatten(1)
    original = (torch.from_numpy(load_digits().data) * 255 / 16).round().to(torch.uint8)
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, original.tolist()))


def test_normalisation_is_that_of_the_training_images(load_with: Callable[..., Splits]) -> None:
    splits = load_with("digits", augment=False, batch_size=1297)
    ((images, _),) = splits.train.batches(0)
    assert abs(images.mean().item()) < 1e-3
    assert abs(images.std().item() - 1) < 1e-3


def test_path_has_no_use(load_with: Callable[..., Splits], tmp_path: object) -> None:
    with pytest.raises(ValueError, match=r"dataset.path=.* dataset=digits"):
        load_with("digits", path=tmp_path)


def test_a_small_network_learns_them(load_with: Callable[..., Splits]) -> None:
    """Eight epochs, a second of training: more than 97 % of clean digits."""
    torch.manual_seed(0)
    splits = load_with("digits", batch_size=64)
    model = build("small_cnn", classes=10, image_size=8, channels=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8 * splits.train.steps_per_epoch)
    for epoch in range(8):
        for images, labels in splits.train.batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in splits.test)
    assert right / splits.samples.test > 0.97
