"""torchvision's own data sets, from files written here in their formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llqr_sam.data.loading import Splits
from llqr_sam.data.own import ReadOptions
from llqr_sam.data.streams import MissingDataError
from llqr_sam.data.torchvision_sets import COLLECTIONS
from llqr_sam.torchvision_compat import ensure_torchvision


def write_mnist(root: Path, name: str) -> None:
    """60 + 20 random images in the IDX format."""
    raw, random = root / name / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    for split, count in (("train", 60), ("t10k", 20)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        sizes = b"".join(n.to_bytes(4, "big") for n in images.shape)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + images.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + count.to_bytes(4, "big") + labels.tobytes())


def write_textures(root: Path) -> None:
    """DTD's folder: JPEG files of different sizes, and lists of them."""
    for part in ("images/banded", "images/dotted", "labels"):
        (root / "dtd/dtd" / part).mkdir(parents=True)
    for split in ("train", "test"):
        names = [f"{kind}/{split}{number}.jpg" for kind in ("banded", "dotted") for number in range(4)]
        for number, name in enumerate(names):
            Image.new("RGB", (30 + number, 40)).save(root / "dtd/dtd/images" / name)
        (root / "dtd/dtd/labels" / f"{split}1.txt").write_text("\n".join(names))


def test_the_classes_are_torchvisions() -> None:
    ensure_torchvision()
    from torchvision import datasets

    assert all(hasattr(datasets, name) for name in COLLECTIONS)


def test_grey_images_keep_their_size(load_with: Callable[..., Splits], tmp_path: Path) -> None:
    write_mnist(tmp_path, "FashionMNIST")
    splits = load_with("torchvision", path=tmp_path, options=ReadOptions(collection="FashionMNIST"))
    assert (splits.info.classes, splits.info.image_size, splits.info.channels) == (10, 28, 1)
    assert (splits.samples.train, splits.samples.test) == (60, 20)


def test_images_of_many_sizes_are_resized(load_with: Callable[..., Splits], tmp_path: Path) -> None:
    write_textures(tmp_path)
    with pytest.raises(ValueError, match="dataset.collection=DTD has images of many sizes: set dataset.image_size="):
        load_with("torchvision", path=tmp_path, options=ReadOptions(collection="DTD"))
    options = ReadOptions(collection="DTD", image_size=16)
    splits = load_with("torchvision", path=tmp_path, options=options, batch_size=8)
    assert (splits.info.classes, splits.info.image_size, splits.info.channels) == (2, 16, 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "dataset.collection=null names no data set. Choose from: CIFAR10"),
        ("FasionMNIST", r"dataset.collection=FasionMNIST is not read here.* \(did you mean FashionMNIST\?\)"),
        ("CocoDetection", "dataset.collection=CocoDetection is not read here"),
    ],
)
def test_an_unknown_collection_is_one_sentence(
    load_with: Callable[..., Splits], tmp_path: Path, name: str | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load_with("torchvision", path=tmp_path, options=ReadOptions(collection=name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["FashionMNIST", "CIFAR10", "DTD"])
def test_a_missing_collection_says_how_to_fetch_it(load_with: Callable[..., Splits], tmp_path: Path, name: str) -> None:
    fetch = rf"fetch it with torchvision.datasets.{name}\('{tmp_path}', download=True\)"
    with pytest.raises(MissingDataError, match=f"dataset.collection={name} is not in .*{fetch}") as caught:
        load_with("torchvision", path=tmp_path, options=ReadOptions(collection=name))
    assert "\n" not in str(caught.value)
