"""CIFAR in pieces: bit for bit what was split, from all pieces or from those that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_preparation import pieces
from data_preparation.pieces import join, split
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llqr_sam.data.cifar import read_cifar
from llqr_sam.data.streams import MissingDataError


def write(path: Path, train: int, test: int) -> dict[str, Any]:
    """An array file of random images; the label of an image is its number, so that none can be mistaken."""
    random = np.random.default_rng(0)
    arrays = {
        "x_train": random.integers(0, 256, (train, 32, 32, 3), dtype=np.uint8),
        "y_train": np.arange(train),
        "x_test": random.integers(0, 256, (test, 32, 32, 3), dtype=np.uint8),
        "y_test": np.arange(test),
    }
    np.savez(path, **arrays)
    return arrays


def read(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 40 images."""
    monkeypatch.setattr(pieces, "PIECE", 40)


@settings(max_examples=25)
@given(train=st.integers(1, 230), test=st.integers(1, 120), most=st.integers(30, 150))
def test_what_was_split_is_joined(train: int, test: int, most: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    arrays = write(folder / "a.npz", train, test)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pieces, "PIECE", most)
        files = split(folder / "a.npz", folder / "pieces")
        said = join(folder / "pieces", folder / "b.npz")
    assert len(files) == 1 + -(-train // most) + -(-test // most)
    assert sorted(files) == sorted((folder / "pieces").iterdir())
    assert said == f"{train} of {train} training images and {test} of {test} test images"
    joined = read(folder / "b.npz")
    assert joined.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(joined[name], array)
        assert joined[name].dtype == array.dtype


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("lost", "kept"), [(0, [*range(40, 100)]), (1, [*range(40), *range(80, 100)]), (2, range(80))])
def test_labels_are_those_of_the_pieces_that_are_there(tmp_path: Path, lost: int, kept: list[int]) -> None:
    arrays = write(tmp_path / "a.npz", 100, 10)
    split(tmp_path / "a.npz", tmp_path / "pieces")
    (tmp_path / "pieces" / f"train_{lost}.webp").unlink()
    assert (
        join(tmp_path / "pieces", tmp_path / "b.npz") == f"{len(kept)} of 100 training images and 10 of 10 test images"
    )
    joined = read(tmp_path / "b.npz")
    assert joined["y_train"].tolist() == list(kept)
    np.testing.assert_array_equal(joined["x_train"], arrays["x_train"][joined["y_train"]])


def test_the_first_images_alone(tmp_path: Path) -> None:
    arrays = write(tmp_path / "a.npz", 100, 10)
    split(tmp_path / "a.npz", tmp_path / "few", images=(7, 3))
    assert join(tmp_path / "few", tmp_path / "b.npz") == "7 of 7 training images and 3 of 3 test images"
    np.testing.assert_array_equal(read(tmp_path / "b.npz")["x_test"], arrays["x_test"][:3])


@pytest.mark.usefixtures("small")
def test_a_later_join_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    write(tmp_path / "a.npz", 100, 10)
    split(tmp_path / "a.npz", tmp_path / "pieces")
    late = (tmp_path / "pieces" / "train_1.webp").rename(tmp_path / "late.webp")
    assert join(tmp_path / "pieces", tmp_path / "b.npz").startswith("60 of 100 training")
    late.rename(tmp_path / "pieces" / "train_1.webp")
    assert join(tmp_path / "pieces", tmp_path / "b.npz").startswith("100 of 100 training")
    assert len(read(tmp_path / "b.npz")["y_train"]) == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz", "pieces"]


def test_the_real_sample(shared: Path, tmp_path: Path) -> None:
    """Its labels.npz holds more than labels."""
    joined = join(shared / "data/cifar10_sample", tmp_path / "cifar10.npz")
    assert joined == "5,000 of 5,000 training images and 1,000 of 1,000 test images"
    arrays = read_cifar(tmp_path / "cifar10.npz", 10)
    assert arrays.train_labels.bincount().tolist() == [500] * 10


def spoil_labels(folder: Path, **changes: Any) -> None:
    arrays = read(folder / "labels.npz") | changes
    np.savez(folder / "labels.npz", **{name: array for name, array in arrays.items() if array is not None})


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:500])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "labels.npz").unlink(), "has no labels.npz"),
        (lambda folder: shorten(folder / "labels.npz"), "labels.npz is not an .npz"),
        (lambda folder: spoil_labels(folder, y_test=None), "labels.npz is not an .npz with y_train, y_test"),
        (
            lambda folder: spoil_labels(folder, y_test=np.zeros(10)),
            "y_test in .* must be integers .* float64",
        ),
        (lambda folder: spoil_labels(folder, y_train=np.array(3)), "y_train in .*labels.npz must be integers of shape"),
        (lambda folder: (folder / "test_0.webp").unlink(), "no piece of the test images"),
        (lambda folder: shorten(folder / "train_1.webp"), "train_1.webp is not a readable image"),
        (lambda folder: (folder / "train_1.webp").write_text("text"), "train_1.webp is not a readable image"),
        (
            lambda folder: spoil_labels(folder, y_train=np.arange(80)),
            "train_2.webp must be 3200 x 0 pixels for its 0 labels",
        ),
        (
            lambda folder: Image.new("RGB", (3200, 64)).save(folder / "train_1.webp"),
            "train_1.webp must be 3200 x 32 pixels for its 40 labels, not 3200 x 64",
        ),
    ],
)
def test_what_cannot_be_joined_gets_one_sentence(tmp_path: Path, spoil: Any, words: str) -> None:
    """And an older file stays as it was."""
    write(tmp_path / "a.npz", 100, 10)
    split(tmp_path / "a.npz", tmp_path / "pieces")
    (tmp_path / "b.npz").write_text("older")
    spoil(tmp_path / "pieces")
    with pytest.raises((ValueError, MissingDataError), match=words) as caught:
        join(tmp_path / "pieces", tmp_path / "b.npz")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "b.npz").read_text() == "older"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"archive": Path("nowhere.npz")}, "nowhere.npz does not exist"),
        ({"images": (101, 10)}, "cannot give 101 train images: it must be between 1 and its 100"),
        ({"images": (1, 0)}, "cannot give 0 test images: it must be between 1 and its 10"),
    ],
)
def test_what_cannot_be_split_gets_one_sentence(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    write(tmp_path / "a.npz", 100, 10)
    with pytest.raises((ValueError, MissingDataError), match=words):
        split(**{"archive": tmp_path / "a.npz", "folder": tmp_path / "pieces", **options})
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_pieces_are_not_mixed_with_others(tmp_path: Path) -> None:
    write(tmp_path / "a.npz", 5, 5)
    (tmp_path / "pieces").mkdir()
    split(tmp_path / "a.npz", tmp_path / "pieces")
    with pytest.raises(ValueError, match="is not an empty folder"):
        split(tmp_path / "a.npz", tmp_path / "pieces")
