"""Image files of your own in class folders, with a split of their own or without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from llqr_sam.data.loading import Splits
from llqr_sam.data.own import ReadOptions
from llqr_sam.data.registry import fingerprint
from llqr_sam.data.streams import MissingDataError

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def fill(folder: Path, count: int, classes: dict[str, tuple[int, int, int]] = COLOURS, suffix: str = ".png") -> Path:
    """``count`` images of each class, of different sizes, each of one colour."""
    for name, colour in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20 + number, 30), colour).save(folder / name / f"{number}{suffix}")
    return folder


def colours(splits: Splits) -> list[tuple[int, int]]:
    """The brightest channel and the label of each test image."""
    images, labels = (torch.cat(parts) for parts in zip(*splits.test, strict=True))
    return list(zip(images.mean(dim=(2, 3)).argmax(dim=1).tolist(), labels.tolist(), strict=True))


def test_equal_names_are_not_yet_equal_data(tmp_path: Path) -> None:
    """Of one folder and its copy the hash is the same; with another image under a name it differs."""
    folders = [fill(tmp_path / name, 2) for name in ("one", "copy", "other")]
    Image.new("RGB", (90, 90), (1, 2, 3)).save(folders[2] / "red" / "0.png")
    one, copy, other = (fingerprint("folder", folder, tmp_path) for folder in folders)
    assert one == copy != other


@pytest.mark.parametrize("name", ["val", "valid", "test"])
def test_train_and_val_are_read(load_with: Callable[..., Splits], tmp_path: Path, name: str) -> None:
    """Class k is the k-th folder; images have the side that is asked for, 64 if none is."""
    fill(tmp_path / "train", 6)
    fill(tmp_path / name, 2, suffix=".webp")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    splits = load_with("folder", path=tmp_path, options=ReadOptions(image_size=24))
    assert (splits.info.classes, splits.info.image_size, splits.info.channels) == (3, 24, 3)
    assert (splits.samples.train, splits.samples.test) == (18, 6)
    ((images, _),) = splits.train.batches(0)
    assert images.shape == (16, 3, 24, 24)
    assert colours(splits) == [(2, 0), (2, 0), (1, 1), (1, 1), (0, 2), (0, 2)]
    assert load_with("folder", path=tmp_path).info.image_size == 64


@pytest.mark.parametrize("below", ["", "train"])
def test_class_folders_alone_are_split(load_with: Callable[..., Splits], tmp_path: Path, below: str) -> None:
    """A fifth of each class, the same for every seed."""
    fill(tmp_path / below, 10)
    splits = [load_with("folder", path=tmp_path, seed=seed) for seed in (0, 1)]
    assert (splits[0].samples.train, splits[0].samples.test) == (24, 6)
    assert splits[0].fingerprint == splits[1].fingerprint == fingerprint("folder", tmp_path, tmp_path)
    assert [label for _, label in colours(splits[0])] == [0, 0, 1, 1, 2, 2]
    more = load_with("folder", path=tmp_path, options=ReadOptions(test_fraction=0.4))
    assert more.samples.test == 12
    assert more.fingerprint != splits[0].fingerprint


def test_flips_can_be_left_out(load_with: Callable[..., Splits], tmp_path: Path) -> None:
    """A picture that is bright on its left stays so in every crop."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(10):
            image = Image.new("L", (40, 40))
            for x in range(40):
                image.paste(255 - 6 * x, (x, 0, x + 1, 40))
            image.save(tmp_path / name / f"{number}.png")
    brighter = []
    for flip in (False, None):
        images, _ = load_with("folder", path=tmp_path, flip=flip).train.sample(0, 16)
        brighter.append(int((images[..., 0].mean(dim=(1, 2)) > images[..., -1].mean(dim=(1, 2))).sum()))
    assert brighter[0] == 16
    assert 0 < brighter[1] < 16


def test_subset_validation_noise_and_one_offset_a_batch(load_with: Callable[..., Splits], tmp_path: Path) -> None:
    fill(tmp_path, 10)
    splits = load_with("folder", path=tmp_path, subset=9, validation=6, label_noise=0.5, batch_size=4)
    assert (splits.samples.train, splits.samples.test) == (9, 6)
    with pytest.raises(ValueError, match="dataset.crop=batch does not fit dataset=folder"):
        load_with("folder", path=tmp_path, crop="batch")


def test_what_does_not_fit_is_one_sentence(load_with: Callable[..., Splits], tmp_path: Path) -> None:
    def refused(path: Path, words: str, error: type[Exception] = ValueError, **options: object) -> None:
        with pytest.raises(error, match=words) as caught:
            load_with("folder", path=path, **options)
        assert "\n" not in str(caught.value)

    fill(tmp_path / "few", 3)
    refused(tmp_path / "few", "protocol.batch_size=16 does not fit dataset=folder: .* its 6 training samples")
    fill(tmp_path / "unequal/train", 3)
    fill(tmp_path / "unequal/val", 3, {"blue": (0, 0, 255), "green": (0, 255, 0)})
    refused(tmp_path / "unequal", "must have the same classes: .*val has no red")
    fill(tmp_path / "given/train", 3)
    fill(tmp_path / "given/val", 3)
    refused(tmp_path / "given", "dataset.test_fraction=0.5 has no use", options=ReadOptions(test_fraction=0.5))
    fill(tmp_path / "empty", 3)
    (tmp_path / "empty/yellow").mkdir()
    refused(tmp_path / "empty", "empty/yellow is missing or has no images", MissingDataError)
    fill(tmp_path / "one", 3, {"blue": (0, 0, 255)})
    refused(tmp_path / "one", "must have a folder for each of two classes or more, but has 1")
    fill(tmp_path / "no_train/val", 3)
    refused(tmp_path / "no_train", "has val/ and no train/")
    fill(tmp_path / "single", 1)
    refused(tmp_path / "single", "class 0 has one image")
    file = tmp_path / "few/blue/0.png"
    refused(file, "is not a folder")
    refused(tmp_path / "absent", "dataset=folder is not at .*absent", MissingDataError)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_one_sentence(load_with: Callable[..., Splits], tmp_path: Path, workers: int) -> None:
    fill(tmp_path / "train", 6)
    fill(tmp_path / "val", 2)
    (tmp_path / "val/red/1.png").write_bytes(b"no image")
    splits = load_with("folder", path=tmp_path, workers=workers)
    with pytest.raises(ValueError, match="val/red/1.png is not a readable image") as caught:
        list(splits.test)
    assert "\n" not in str(caught.value)
