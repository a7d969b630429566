"""TinyImageNet in its official layout: a real sample, and small folders that go wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llqr_sam.data.folders import list_images, open_rgb, read_tinyimagenet
from llqr_sam.data.loading import Splits
from llqr_sam.data.streams import MissingDataError

WNIDS = ["n02", "n01"]  # wnids.txt is not sorted in the official archive either


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two classes of two training images and one validation image; the first is grey."""
    folder = tmp_path / "tiny-imagenet-200"
    (folder / "val/images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    for wnid in WNIDS:
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for number in range(2):
            mode, colour = ("L", 100) if number == 0 else ("RGB", (10, 20, 30))
            Image.new(mode, (64, 64), colour).save(images / f"{wnid}_{number}.JPEG")
    for number, wnid in enumerate(reversed(WNIDS)):
        Image.new("RGB", (64, 64)).save(folder / f"val/images/val_{number}.JPEG")
        with (folder / "val/val_annotations.txt").open("a") as file:
            file.write(f"val_{number}.JPEG\t{wnid}\t0\t0\t1\t1\n")
    return folder


def test_labels_follow_wnids_and_grey_gets_three_channels(small: Path) -> None:
    arrays, classes = read_tinyimagenet(small)
    assert classes == 2
    assert arrays.train_labels.tolist() == [0, 0, 1, 1]
    assert arrays.test_labels.tolist() == [1, 0]
    assert arrays.train_images[0].unique().numel() == 1
    assert arrays.train_images.shape == (4, 3, 64, 64)


def test_real_sample(shared: Path, load_with: Callable[..., Splits]) -> None:
    """10 classes x (100 train + 20 val) real images; their statistics are near the full data set's."""
    folder = shared / "data/tinyimagenet_sample/tiny-imagenet-200"
    splits = load_with("tinyimagenet", path=folder, batch_size=100)
    assert (splits.info.classes, splits.info.image_size) == (10, 64)
    assert (splits.train.size, splits.samples.test) == (1000, 200)
    images, labels = zip(*splits.test, strict=True)
    assert torch.cat(labels).bincount().tolist() == [20] * 10
    assert torch.cat(images).mean().abs() < 0.5
    batch, _ = next(splits.train.batches(0))
    assert batch.shape == (100, 3, 64, 64)
    file = folder / "train" / (folder / "wnids.txt").read_text().split()[0] / "images"
    first = np.asarray(open_rgb(list_images(file)[0]))
    arrays, _ = read_tinyimagenet(folder)
    np.testing.assert_array_equal(arrays.train_images[0].permute(1, 2, 0).numpy(), first)


def test_incomplete_folders_are_refused(small: Path) -> None:
    (small / "val/val_annotations.txt").rename(small / "elsewhere")
    with pytest.raises(MissingDataError, match="val_annotations.txt is missing"):
        read_tinyimagenet(small)
    for file in (small / "train/n01/images").iterdir():
        file.unlink()
    with pytest.raises(MissingDataError, match="n01/images is missing or has no images"):
        read_tinyimagenet(small)
    (small / "wnids.txt").unlink()
    with pytest.raises(MissingDataError, match="wnids.txt is missing"):
        read_tinyimagenet(small)


def test_wrong_content_is_named(small: Path) -> None:
    annotations = small / "val/val_annotations.txt"
    kept = annotations.read_text()
    annotations.write_text(kept + "val_9.JPEG\tn99\t0\t0\t1\t1\n")
    with pytest.raises(ValueError, match="line 3: class 'n99'"):
        read_tinyimagenet(small)
    annotations.write_text(kept)
    image = small / "train/n01/images/n01_0.JPEG"
    Image.new("RGB", (32, 64)).save(image)
    with pytest.raises(ValueError, match="n01_0.JPEG must be 64 x 64 pixels, not 32 x 64"):
        read_tinyimagenet(small)
    image.write_bytes(b"no image")
    with pytest.raises(ValueError, match="n01_0.JPEG is not a readable image"):
        read_tinyimagenet(small)
