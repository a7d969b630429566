"""The command as a person types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.archives import cifar100_members, write_tar
from tests.waiting import PATIENCE

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
