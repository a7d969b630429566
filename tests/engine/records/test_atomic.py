from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from llqr_sam.engine.records.atomic import creating, replacing


def test_writes_the_file_and_the_folders_above(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    with replacing(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_creating_never_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Not even of one that appears while the new file is being written, nor on a file system without hard links."""

    def refused(*_: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "a" / "file"

    def late() -> None:
        with creating(path) as file:
            file.write(b"second")
            path.write_bytes(b"first")

    with pytest.raises(FileExistsError):
        late()
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]
    with creating(path.with_name("other")) as file:
        file.write(b"whole")
    assert path.with_name("other").read_bytes() == b"whole"
    assert len(list(path.parent.iterdir())) == 2
