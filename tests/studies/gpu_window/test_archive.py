"""The archive holds what there is, is never half, and follows what grows."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from llqr_sam.studies.gpu_window.archive import archived, pack
from tests.waiting import wait_for


def held(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {name: file.read() for name in tar.getnames() if (file := tar.extractfile(name))}


def test_it_follows_what_is_made_while_it_is_open(tmp_path):
    files, archive = tmp_path / "files", tmp_path / "out" / "all.tar.gz"
    files.mkdir()
    (files / "a").write_text("1")
    with archived(archive, lambda: [(path, f"results/{path.name}") for path in files.iterdir()], every=0.05):
        wait_for(archive.exists)
        assert held(archive) == {"results/a": b"1"}
        (files / "b").write_text("2")
        wait_for(lambda: len(held(archive)) == 2)
        (files / "a").write_text("longer")
        wait_for(lambda: held(archive)["results/a"] == b"longer")
        (files / "c").write_text("3")
    assert held(archive) == {"results/a": b"longer", "results/b": b"2", "results/c": b"3"}
    assert [path.name for path in archive.parent.iterdir()] == ["all.tar.gz"]


def test_it_is_made_also_when_the_work_fails(tmp_path):
    (tmp_path / "a").write_text("1")
    with pytest.raises(KeyboardInterrupt), archived(tmp_path / "all.tar.gz", lambda: [(tmp_path / "a", "a")]):
        raise KeyboardInterrupt
    assert held(tmp_path / "all.tar.gz") == {"a": b"1"}


def test_what_has_not_changed_is_not_packed_again(tmp_path):
    (tmp_path / "a").write_text("1")
    archive, files = tmp_path / "all.tar.gz", [(tmp_path / "a", "a"), (tmp_path / "gone", "gone")]
    contents = pack(archive, files)
    written = archive.stat().st_mtime_ns
    contents = pack(archive, files, contents)
    assert archive.stat().st_mtime_ns == written
    archive.unlink()
    pack(archive, files, contents)
    assert held(archive) == {"a": b"1"}


def test_a_file_that_cannot_be_read_does_not_cost_the_others(tmp_path, monkeypatch):
    """It goes between being listed and being packed."""
    for name in "ab":
        (tmp_path / name).write_text(name)
    add = tarfile.TarFile.add

    def gone(tar: tarfile.TarFile, path: Path, **keywords: object) -> None:
        if path.name == "a":
            raise FileNotFoundError(path)
        add(tar, path, **keywords)

    monkeypatch.setattr(tarfile.TarFile, "add", gone)
    pack(tmp_path / "all.tar.gz", [(tmp_path / name, name) for name in "ab"])
    assert held(tmp_path / "all.tar.gz") == {"b": b"b"}
