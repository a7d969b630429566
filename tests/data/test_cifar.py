"""CIFAR from a file of arrays, with real images where they are at hand."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_preparation import pieces
from data_preparation.download import prepare

from llqr_sam.data.cifar import read_cifar
from llqr_sam.data.loading import Splits
from llqr_sam.data.registry import fingerprint
from tests.scripts.data_preparation.archives import cifar10_members, cifar100_members, write_tar


@pytest.fixture(scope="module")
def real_cifar10(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,000 + 1,000 real images as an ``.npz``."""
    target = tmp_path_factory.mktemp("cifar10") / "cifar10.npz"
    pieces.join(shared / "data/cifar10_sample", target)
    return target


def write(path: Path, **changes: Any) -> Path:
    """Four random training and two test images, with some arrays changed, or left out where None."""
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "x_train": random.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 9]),
        "x_test": random.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8),
        "y_test": np.array([5, 6]),
    }
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_pixels_and_labels_arrive_unchanged(tmp_path: Path) -> None:
    file = write(tmp_path / "cifar10.npz")
    arrays = read_cifar(file, 10)
    with np.load(file) as original:
        np.testing.assert_array_equal(arrays.train_images.permute(0, 2, 3, 1).numpy(), original["x_train"])
        np.testing.assert_array_equal(arrays.test_labels.numpy(), original["y_test"])
    assert arrays.train_images.is_contiguous()
    assert arrays.train_labels.dtype == torch.int64


def test_real_images_have_the_published_statistics(real_cifar10: Path, load_with: Callable[..., Splits]) -> None:
    """Normalised without augmentation, each channel has mean 0 and deviation 1; the sample is a tenth of the set."""
    splits = load_with("cifar10", path=real_cifar10, augment=False, batch_size=5000)
    ((images, labels),) = splits.train.batches(0)
    assert images.mean(dim=(0, 2, 3)).abs().max() < 0.02
    assert (images.std(dim=(0, 2, 3)) - 1).abs().max() < 0.02
    assert labels.bincount().tolist() == [500] * 10
    assert splits.samples.test == sum(len(labels) for _, labels in splits.test) == 1000
    assert splits.info.classes == 10


def test_real_images_augmented(real_cifar10: Path, load_with: Callable[..., Splits]) -> None:
    """The stream is repeatable; augmentation changes the pixels and not the labels; black is (0 - mean) / std."""
    first, again = (load_with("cifar10", path=real_cifar10, batch_size=128) for _ in range(2))
    plain = load_with("cifar10", path=real_cifar10, batch_size=128, augment=False)
    a, b, c = (next(splits.train.batches(1, 3)) for splits in (first, again, plain))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], c[1])
    assert not torch.equal(a[0], c[0])
    black = -torch.tensor(first.info.mean) / torch.tensor(first.info.std)
    cut = (a[0] - black.view(3, 1, 1)).abs().amax(1) < 1e-5
    share = float(cut.float().mean())
    assert 0.05 < share < 0.15  # half of the images, 16 x 16 of 32 x 32 less what the border clips


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "not an .npz with x_train.*y_test"),
        ({"x_train": np.zeros((4, 3, 32, 32), np.uint8)}, r"x_train .*\[4, 3, 32, 32\]"),
        ({"x_test": np.zeros((2, 32, 32, 3), np.float32)}, "x_test .*float32"),
        ({"x_test": np.zeros((0, 32, 32, 3), np.uint8), "y_test": np.zeros(0, int)}, "x_test"),
        ({"y_train": np.array([0, 1, 2])}, "y_train .*4 integers"),
        ({"y_train": np.array([0.0, 1.0, 2.0, 3.0])}, "y_train .*float64"),
        ({"y_train": np.array([0, 1, 2, 10])}, r"y_train .*\[0, 9\].* 10"),
        ({"y_test": np.array([-1, 0])}, "y_test .*-1"),
        ({"y_test": np.array([{}, 0], dtype=object)}, "not an .npz"),  # would need unpickling
    ],
)
def test_wrong_arrays_get_one_sentence(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    file = write(tmp_path / "bad.npz", **changes)
    with pytest.raises(ValueError, match=words) as caught:
        read_cifar(file, 10)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut short", b"\x93NUMPY"])
def test_damaged_files_get_one_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.npz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"dataset.path=.*bad.npz is not an .npz"):
        read_cifar(file, 10)


def test_truncated_file(tmp_path: Path) -> None:
    file = write(tmp_path / "bad.npz")
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(ValueError, match="is not an .npz"):
        read_cifar(file, 10)


def test_a_lone_array_is_refused(tmp_path: Path) -> None:
    """``np.save`` writes no archive, but ``np.load`` reads it."""
    file = tmp_path / "bad.npz"
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(ValueError, match="is not an .npz"):
        read_cifar(file, 10)


@pytest.mark.parametrize("below", ["", "held"])
@pytest.mark.parametrize(
    ("name", "members"), [("cifar10", cifar10_members), ("cifar100", cifar100_members)], ids=["cifar10", "cifar100"]
)
def test_the_official_folder_is_read_as_it_is(
    tmp_path: Path, name: str, members: Callable[[], dict[str, bytes]], below: str
) -> None:
    """It, or a folder that holds it; the same data as the .npz that is made of its archive, by their hash."""
    for member, content in members().items():
        (tmp_path / below / member).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / below / member).write_bytes(content)
    archive = tmp_path / "archive.tar.gz"
    npz, _ = prepare(name, tmp_path / "made", archive=archive, source=write_tar(archive, members()))
    official = tmp_path / below if below else tmp_path / next(iter(members())).partition("/")[0]
    assert fingerprint(name, official, tmp_path) == fingerprint(name, npz, tmp_path)


def test_another_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is neither an .npz nor cifar-100-python: it has no train"):
        read_cifar(tmp_path, 100)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"data": np.zeros((1, 3))}, protocol=2)])
def test_a_damaged_batch_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="is not the official cifar-100-python") as caught:
        read_cifar(tmp_path, 100)
    assert "\n" not in str(caught.value)


def test_a_batch_runs_no_code(tmp_path: Path) -> None:
    """A pickle that would make a folder is refused, and makes none."""
    made = tmp_path / "made"

    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(made),)

    for name in ("train", "test"):
        (tmp_path / name).write_bytes(pickle.dumps({"data": Harmful()}, protocol=2))
    with pytest.raises(ValueError, match="a pickle asks for .*mkdir"):
        read_cifar(tmp_path, 100)
    assert not made.exists()
