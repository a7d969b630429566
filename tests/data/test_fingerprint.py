"""The hash of a data set that is only looked at is the one that a run finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llqr_sam.data.loading import Splits
from llqr_sam.data.registry import fingerprint
from llqr_sam.data.streams import MissingDataError
from tests.data.test_cifar import write


def test_of_arrays(tmp_path: Path, load_with: Callable[..., Splits]) -> None:
    file = write(tmp_path / "cifar10.npz")
    found = load_with("cifar10", path=file, batch_size=2).fingerprint
    assert fingerprint("cifar10", file, tmp_path / "nothing") == found
    assert fingerprint("cifar10", None, tmp_path) == found
    assert fingerprint("digits", None, tmp_path) == load_with("digits").fingerprint


def test_of_a_folder_of_images(shared: Path, load_with: Callable[..., Splits], tmp_path: Path) -> None:
    """No image is read, and one more changes it."""
    sample = shared / "data/imagenet_sample"
    assert fingerprint("imagenet", sample, tmp_path) == load_with("imagenet", path=sample).fingerprint
    for part in ("train", "val"):
        (tmp_path / part / "n1").mkdir(parents=True)
        (tmp_path / part / "n1" / "a.JPEG").touch()
    before = fingerprint("imagenet", tmp_path, tmp_path)
    (tmp_path / "train" / "n1" / "b.JPEG").touch()
    assert fingerprint("imagenet", tmp_path, tmp_path) != before
    assert fingerprint("tinyimagenet", tmp_path, tmp_path) is None


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_data_that_are_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=f"dataset={name} is not at {tmp_path}"):
        fingerprint(name, None, tmp_path)
