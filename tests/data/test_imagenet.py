"""ImageNet from a folder of real photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llqr_sam.data.imagenet import _random_box, central_view, random_view
from llqr_sam.data.loading import Splits
from llqr_sam.data.streams import MissingDataError, Samples, generator
from llqr_sam.torchvision_compat import ensure_torchvision


@pytest.fixture
def sample(shared: Path) -> Path:
    """10 classes x (30 train + 10 val) photographs."""
    return shared / "data/imagenet_sample"


def test_real_sample(sample: Path, load_with: Callable[..., Splits]) -> None:
    """Labels follow the sorted wnids; every test image once; a training epoch without repetition."""
    splits = load_with("imagenet", path=sample, batch_size=64)
    assert (splits.info.classes, splits.train.size) == (10, 300)
    assert splits.samples == Samples(300, 100)
    tests = list(splits.test)
    assert [len(labels) for _, labels in tests] == [64, 36]
    assert torch.cat([labels for _, labels in tests]).tolist() == [label for label in range(10) for _ in range(10)]
    assert all(images.shape[1:] == (3, 224, 224) and images.dtype == torch.float32 for images, _ in tests)
    assert torch.cat([images for images, _ in tests]).mean().abs() < 0.3
    epoch = list(splits.train.batches(0))
    assert len(epoch) == splits.train.steps_per_epoch == 4
    assert torch.cat([labels for _, labels in epoch]).bincount().max() <= 30


def test_stateless_whatever_the_workers(sample: Path, load_with: Callable[..., Splits]) -> None:
    """Two worker processes, or none, or resumed at batch 2: bitwise equal; the global generator is untouched."""
    state = torch.get_rng_state()
    alone = load_with("imagenet", path=sample, batch_size=40)
    helped = load_with("imagenet", path=sample, batch_size=40, workers=2)
    late = list(alone.train.batches(1, start=5))
    for (a, x), (b, y) in zip(late, helped.train.batches(1, start=5), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(x, y)
    assert len(late) == 2
    whole = list(alone.train.batches(1))
    assert torch.equal(whole[5][0], late[0][0])
    first, second = alone.train.sample(3, 10), helped.train.sample(3, 10)
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], alone.train.sample(4, 10)[0])
    assert list(alone.train.batches(0, start=7)) == []
    assert torch.equal(torch.get_rng_state(), state)


def test_abandoned_epoch_leaves_no_worker(sample: Path, load_with: Callable[..., Splits]) -> None:
    import multiprocessing

    batches = load_with("imagenet", path=sample, batch_size=20, workers=1).train.batches(0)
    next(batches)
    assert multiprocessing.active_children()
    del batches
    assert not multiprocessing.active_children()


def test_label_noise_reaches_the_training_labels_only(sample: Path, load_with: Callable[..., Splits]) -> None:
    clean = load_with("imagenet", path=sample, batch_size=300, augment=False).train.sample(0, 300)[1]
    noisy = load_with("imagenet", path=sample, batch_size=300, augment=False, label_noise=0.4)
    assert int((noisy.train.sample(0, 300)[1] != clean).sum()) == 120
    assert torch.cat([labels for _, labels in noisy.test]).bincount().tolist() == [10] * 10


def test_central_view_equals_torchvision(sample: Path) -> None:
    """Resize 256, CenterCrop 224 of torchvision on Pillow images, pixel by pixel."""
    ensure_torchvision()
    from torchvision.transforms import v2

    reference = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    for file in sorted((sample / "val/n01440764").iterdir()):
        image = Image.open(file).convert("RGB")
        np.testing.assert_array_equal(np.asarray(central_view(image, 224)), np.asarray(reference(image)))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224)])
def test_random_crops_have_the_recipes_range(size: tuple[int, int]) -> None:
    """Inside the image, area 8 to 100 % and aspect 3/4 to 4/3 but for rounding; small and large ones occur."""
    boxes = [_random_box(*size, generator("cpu", number)) for number in range(500)]
    areas = []
    for left, upper, right, lower in boxes:
        assert 0 <= left < right <= size[0]
        assert 0 <= upper < lower <= size[1]
        assert 0.73 < (right - left) / (lower - upper) < 1.37
        areas.append((right - left) * (lower - upper) / (size[0] * size[1]))
    assert 0.075 < min(areas) < 0.12
    assert 0.85 < max(areas) <= 1


def test_thin_images_get_the_central_crop() -> None:
    """Nothing of allowed aspect and area fits 1000 x 60: the largest central crop of aspect 4/3."""
    assert _random_box(1000, 60, generator("cpu", 0)) == (460, 0, 540, 60)


def test_random_views_flip_half_of_the_time() -> None:
    """A left-to-right ramp falls in about half of 400 views (five standard deviations: 50)."""
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3)))
    rows = [np.asarray(random_view(ramp, 8, generator("cpu", number)))[4, :, 0].astype(int) for number in range(400)]
    assert 150 < sum(row[-1] < row[0] for row in rows) < 250


def test_missing_and_different_folders(tmp_path: Path, load_with: Callable[..., Splits]) -> None:
    (tmp_path / "imagenet/train/n1").mkdir(parents=True)
    with pytest.raises(MissingDataError, match=r"imagenet/val is missing"):
        load_with("imagenet", root=tmp_path)
    (tmp_path / "imagenet/val/n2").mkdir(parents=True)
    with pytest.raises(ValueError, match="must have the same classes"):
        load_with("imagenet", root=tmp_path)
    (tmp_path / "imagenet/val/n2").rename(tmp_path / "imagenet/val/n1")
    with pytest.raises(MissingDataError, match="n1 is missing or has no images"):
        load_with("imagenet", root=tmp_path)


def test_batch_crop_does_not_fit(sample: Path, load_with: Callable[..., Splits]) -> None:
    with pytest.raises(ValueError, match="dataset.crop=batch does not fit dataset=imagenet"):
        load_with("imagenet", path=sample, crop="batch")
