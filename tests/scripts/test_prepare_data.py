"""The command as a person types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_preparation.pieces import PIECE, split

from llqr_sam.data.registry import fingerprint
from tests.scripts.data_preparation.archives import cifar100_members, write_tar
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/prepare_data.py"


def prepare_data(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)


def test_imagenet_explains_itself(tmp_path: Path) -> None:
    result = prepare_data("imagenet", "--root", "elsewhere", folder=tmp_path)
    assert result.returncode == 0
    assert "elsewhere/imagenet/train/<wnid>/" in result.stdout


def test_digits_needs_nothing(tmp_path: Path) -> None:
    assert "nothing to prepare" in prepare_data("digits", folder=tmp_path).stdout


def test_an_unofficial_archive_gets_one_line(tmp_path: Path) -> None:
    """The small archive is well-formed, but its checksum is not the official one."""
    write_tar(tmp_path / "small.tar.gz", cifar100_members())
    result = prepare_data("cifar100", "--archive", "small.tar.gz", folder=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: small.tar.gz has MD5 ")
    assert "eb9058c3a382ffc7106e4002c42a8d85" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "data/cifar100.npz").exists()


def test_a_second_call_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cifar10.npz").touch()
    result = prepare_data("cifar10", folder=tmp_path)
    assert result.returncode == 0
    assert result.stdout == "cifar10 is already at data/cifar10.npz\n"


@pytest.mark.parametrize("arguments", [("cifar11",), ()])
def test_wrong_arguments(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = prepare_data(*arguments, folder=tmp_path)
    assert result.returncode == 2
    assert "cifar100" in result.stderr


def archive_of(path: Path, train: int, test: int) -> None:
    """An array file with images of one colour each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        arrays[f"x_{part}"] = np.resize(np.arange(256, dtype=np.uint8), (3, 32, 32, count)).T
        arrays[f"y_{part}"] = np.arange(count) % 10
    np.savez(path, **arrays)


def test_a_data_set_travels_in_pieces(tmp_path: Path) -> None:
    """Its fingerprint arrives unchanged."""
    archive_of(tmp_path / "here/cifar10.npz", 1200, 30)
    result = prepare_data("cifar10", "--root", "here", "--split", "pieces", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("cifar10 is in pieces: 3 files of at most 0.")
    result = prepare_data("cifar10", "--root", "there", "--join", "pieces", folder=tmp_path)
    assert result.stdout == (
        "cifar10 is at there/cifar10.npz: 1,200 of 1,200 training images and 30 of 30 test images\n"
    )
    assert fingerprint("cifar10", None, tmp_path / "here") == fingerprint("cifar10", None, tmp_path / "there")


def test_joins_anew_when_more_has_arrived(tmp_path: Path) -> None:
    archive_of(tmp_path / "a.npz", PIECE + 70, 3)
    split(tmp_path / "a.npz", tmp_path / "pieces")
    late = (tmp_path / "pieces/train_1.webp").rename(tmp_path / "late")
    first = prepare_data("cifar100", "--join", "pieces", folder=tmp_path).stdout
    late.rename(tmp_path / "pieces/train_1.webp")
    second = prepare_data("cifar100", "--join", "pieces", folder=tmp_path).stdout
    assert "10,000 of 10,070 training images and 3 of 3 test images" in first
    assert "10,070 of 10,070 training images" in second


def test_a_small_sample(tmp_path: Path) -> None:
    archive_of(tmp_path / "data/cifar10.npz", 20, 10)
    prepare_data("cifar10", "--split", "few", "--images", "7", "2", folder=tmp_path)
    result = prepare_data("cifar10", "--root", "sample", "--join", "few", folder=tmp_path)
    assert "7 of 7 training images and 2 of 2 test images" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("digits", "--split", "x"), 2, "--split and --join are for cifar10 and cifar100, not for digits"),
        (("cifar10", "--images", "1", "1"), 2, "--images has no use without --split"),
        (("cifar10", "--split", "x", "--join", "y"), 2, "not allowed with"),
        (("cifar10", "--join", "x"), 1, "error: x is not a folder of pieces: it has no labels.npz."),
        (("cifar10", "--split", "x"), 1, "error: data/cifar10.npz does not exist."),
    ],
)
def test_a_mistake_with_pieces_is_named(tmp_path: Path, arguments: tuple[str, ...], status: int, words: str) -> None:
    result = prepare_data(*arguments, folder=tmp_path)
    assert result.returncode == status
    assert words in result.stderr.splitlines()[-1]
