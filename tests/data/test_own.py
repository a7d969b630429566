"""Arrays of your own, from a file or a function: any shape, and one sentence where they cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llqr_sam.data.loading import Splits
from llqr_sam.data.own import ReadOptions
from llqr_sam.data.registry import _DATASETS, names, read, register
from llqr_sam.data.streams import MissingDataError


def arrays(train: int = 40, test: int = 20, shape: tuple[int, ...] = (12, 12), classes: int = 4) -> dict[str, Any]:
    """Random images, and labels in turn."""
    random = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for split, count in (("train", train), ("test", test)):
        made[f"x_{split}"] = random.integers(0, 256, (count, *shape), dtype=np.uint8)
        made[f"y_{split}"] = np.arange(count) % classes
    return made


def write(path: Path, **changes: Any) -> Path:
    """``arrays`` in a file, some of them changed, or left out where None."""
    np.savez(path, **{key: value for key, value in (arrays() | changes).items() if value is not None})
    return path


@pytest.mark.parametrize("shape", [(12, 12), (20, 20, 1), (9, 9, 3)])
def test_shape_and_classes_are_those_of_the_file(
    load_with: Callable[..., Splits], tmp_path: Path, shape: tuple[int, ...]
) -> None:
    """Pixels arrive unchanged up to the normalisation, which is that of the training images: mean 0, deviation 1."""
    made = arrays(shape=shape)
    splits = load_with("npz", path=write(tmp_path / "a.npz", **made), augment=False, batch_size=40)
    channels = shape[2] if len(shape) == 3 else 1
    assert (splits.info.classes, splits.info.image_size, splits.info.channels) == (4, shape[0], channels)
    ((images, _),) = splits.train.batches(0)
    assert images.shape == (40, channels, shape[0], shape[0])
    assert images.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (images.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    pixels = torch.cat([x for x, _ in splits.test]) * torch.tensor(splits.info.std).view(-1, 1, 1)
    pixels = (pixels + torch.tensor(splits.info.mean).view(-1, 1, 1)) * 255
    expected = torch.from_numpy(made["x_test"]).reshape(20, shape[0], shape[0], channels).permute(0, 3, 1, 2)
    torch.testing.assert_close(pixels, expected.float(), atol=1e-3, rtol=0)


def test_without_test_images_a_fifth_of_each_class_is_it(load_with: Callable[..., Splits], tmp_path: Path) -> None:
    """The same images for every seed; no image is in both splits."""
    file = write(tmp_path / "a.npz", x_test=None, y_test=None)
    splits = [load_with("npz", path=file, seed=seed, augment=False) for seed in (0, 1)]
    assert splits[0].fingerprint == splits[1].fingerprint
    assert (splits[0].samples.train, splits[0].samples.test) == (32, 8)
    assert torch.cat([labels for _, labels in splits[0].test]).bincount().tolist() == [2] * 4
    more = load_with("npz", path=file, options=ReadOptions(test_fraction=0.5))
    assert (more.samples.train, more.samples.test) == (20, 20)
    whole, _ = read("npz", file, tmp_path)
    everything = torch.cat([whole.train_images, whole.test_images]).flatten(1)  # type: ignore[union-attr]
    assert len(everything.unique(dim=0)) == 40


def test_images_are_resized_if_asked(load_with: Callable[..., Splits], tmp_path: Path) -> None:
    """To a square, from any shape; a constant image stays what it is."""
    made = arrays(shape=(10, 14, 3))
    made["x_test"][:] = 77
    file = write(tmp_path / "a.npz", **made)
    with pytest.raises(ValueError, match="images of 10 x 14 pixels, .* set dataset.image_size= .* such as 14"):
        load_with("npz", path=file)
    whole, info = read("npz", file, tmp_path, ReadOptions(image_size=16))
    assert info.image_size == 16
    assert whole.test_images.unique().tolist() == [77]  # type: ignore[union-attr]


def test_subset_validation_and_label_noise_work(load_with: Callable[..., Splits], tmp_path: Path) -> None:
    file = write(tmp_path / "a.npz")
    splits = load_with("npz", path=file, subset=16, validation=8, label_noise=0.5, flip=False)
    assert (splits.samples.train, splits.samples.test) == (16, 8)
    assert splits.fingerprint == load_with("npz", path=file).fingerprint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.zeros((40, 12, 12), np.float32)}, "x_train must be uint8, 0 to 255, .* not float32 of shape"),
        ({"x_train": np.zeros((40, 144), np.uint8)}, r"x_train must be .* not uint8 of shape \[40, 144\]"),
        ({"y_train": np.zeros(39, int)}, "y_train must be 40 integers, not int64 of shape"),
        ({"y_train": np.zeros(40)}, "y_train must be 40 integers, not float64"),
        ({"y_train": 1 + np.arange(40) % 4}, "y_train must hold every label from 0 .* but holds 1 to 4 without 0"),
        ({"y_train": 2 * (np.arange(40) % 3)}, "but holds 0 to 4 without 1"),
        ({"y_train": np.zeros(40, int)}, "but holds 0 alone"),
        ({"y_train": np.arange(40) % 4 - 1}, "but holds -1 to 2 without 3"),
        ({"y_test": np.full(20, 4)}, r"y_test must be in \[0, 3\] as y_train is, but holds 4 to 4"),
        ({"y_test": None}, "must have both x_test and y_test, or neither"),
        ({"x_train": None}, "is not an .npz with x_train, y_train"),
        ({"x_test": np.zeros((20, 8, 8), np.uint8)}, "must have images of one shape, not 1x12x12 and 1x8x8"),
        ({"x_test": None, "y_test": None, "y_train": np.arange(40) // 39}, "class 1 has one image"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    load_with: Callable[..., Splits], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    file = write(tmp_path / "a.npz", **changes)
    with pytest.raises(ValueError, match=words) as caught:
        load_with("npz", path=file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fraction_of_data_with_test_images_is_refused(load_with: Callable[..., Splits], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dataset.test_fraction=0.5 has no use with"):
        load_with("npz", path=write(tmp_path / "a.npz"), options=ReadOptions(test_fraction=0.5))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("npz", ReadOptions(), "dataset.path=null must have a value for dataset=npz"),
        ("digits", ReadOptions(image_size=3), "dataset.image_size=3 has no use with dataset=digits. It is for: folder"),
        ("npz", ReadOptions(collection="MNIST"), "dataset.collection=MNIST has no use with dataset=npz"),
    ],
)
def test_options_without_use_are_one_sentence(
    load_with: Callable[..., Splits], name: str, options: ReadOptions, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        load_with(name, options=options)


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what a test registers."""
    monkeypatch.setattr("llqr_sam.data.registry._DATASETS", dict(_DATASETS))


@pytest.mark.usefixtures("_registry")
def test_a_registered_reader_is_read_like_a_file(load_with: Callable[..., Splits], tmp_path: Path) -> None:
    """Arrays or tensors, with or without a path; its name is taken then."""
    asked: list[Path | None] = []

    def reader(path: Path | None) -> tuple[Any, Any, Any, Any]:
        asked.append(path)
        made = arrays()
        return torch.from_numpy(made["x_train"]), made["y_train"], made["x_test"], torch.from_numpy(made["y_test"])

    register("mine", reader)
    assert "mine" in names()
    splits = load_with("mine", augment=False)
    assert splits.fingerprint == load_with("npz", path=write(tmp_path / "a.npz")).fingerprint
    load_with("mine", path=tmp_path)
    assert asked == [None, tmp_path]
    with pytest.raises(MissingDataError, match="dataset=mine is not at .*absent. Set dataset.path="):
        load_with("mine", path=tmp_path / "absent")
    with pytest.raises(ValueError, match="the data set mine exists already"):
        register("mine", reader)
    register("short", lambda path: reader(path)[:3])  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="dataset=short: its reader must return images and labels"):
        load_with("short")
