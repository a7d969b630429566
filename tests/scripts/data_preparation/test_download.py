"""Preparing data sets from small archives in the official layouts, over a real local connection where one is needed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from data_preparation.download import _PREPARATIONS, PREPARABLE, PreparationError, prepare

from llqr_sam.data.cifar import read_cifar
from tests.conftest import REPOSITORY
from tests.scripts.data_preparation.archives import (
    cifar10_members,
    cifar100_members,
    cifar_arrays,
    python2_pickle,
    source_of,
    write_tar,
    write_zip,
)
from tests.waiting import PATIENCE


def visible(folder: Path) -> list[str]:
    """What is in the folder apart from the lock."""
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock"))


def test_cifar100_archive_becomes_arrays(tmp_path: Path) -> None:
    """Pickles as Python 2 wrote them, to images the loader reads; nothing else stays behind; a second call finds it."""
    archive, root = tmp_path / "archive.tar.gz", tmp_path / "data"
    source = write_tar(archive, cifar100_members())
    assert prepare("cifar100", root, archive=archive, source=source) == (root / "cifar100.npz", True)
    assert prepare("cifar100", root, archive=archive, source=source) == (root / "cifar100.npz", False)
    assert visible(root) == ["cifar100.npz"]
    arrays = read_cifar(root / "cifar100.npz", 100)
    images, labels = cifar_arrays(6, 100, seed=0)
    np.testing.assert_array_equal(arrays.train_images.flatten(1).numpy(), images)
    assert arrays.train_labels.tolist() == labels
    assert len(arrays.test_labels) == 3


def test_cifar10_archive_joins_its_batches_in_order(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar.gz"
    target, _ = prepare("cifar10", tmp_path, archive=archive, source=write_tar(archive, cifar10_members()))
    arrays = read_cifar(target, 10)
    expected = np.concatenate([cifar_arrays(2, 10, seed)[0] for seed in range(5)])
    np.testing.assert_array_equal(arrays.train_images.flatten(1).numpy(), expected)
    assert archive.exists()  # a person's own copy is not deleted


def test_official_checksums_are_torchvisions() -> None:
    from llqr_sam.torchvision_compat import ensure_torchvision

    ensure_torchvision()
    from torchvision.datasets import CIFAR10, CIFAR100

    for name, dataset in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        assert (_PREPARATIONS[name][0].url, _PREPARATIONS[name][0].checksum) == (dataset.url, dataset.tgz_md5)


def test_wrong_checksum_unpacks_nothing(tmp_path: Path) -> None:
    archive, root = tmp_path / "archive.tar.gz", tmp_path / "data"
    source = replace(write_tar(archive, cifar100_members()), checksum="0" * 32)
    with pytest.raises(PreparationError, match=rf"archive.tar.gz has MD5 \w+ instead of {'0' * 32}"):
        prepare("cifar100", root, archive=archive, source=source)
    assert visible(root) == []


class Touch:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("dump", [pickle.dumps, python2_pickle])
def test_a_pickle_runs_no_code(tmp_path: Path, dump: Callable[[object], bytes]) -> None:
    """Even under the right checksum only arrays are built."""
    archive, trap = tmp_path / "archive.tar.gz", tmp_path / "trap"
    source = write_tar(archive, {**cifar100_members(), "cifar-100-python/train": dump(Touch(trap))})
    with pytest.raises(PreparationError, match=r"not the official one: a pickle asks for (io|_io|builtins).*open"):
        prepare("cifar100", tmp_path / "data", archive=archive, source=source)
    assert not trap.exists()
    assert visible(tmp_path / "data") == []


def test_damaged_archives_get_one_sentence(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar.gz"
    incomplete = {name: content for name, content in cifar100_members().items() if "test" not in name}
    wrong_shape = python2_pickle({b"data": np.zeros((2, 5), np.uint8), b"fine_labels": [0, 1]})
    for members in (incomplete, {**cifar100_members(), "cifar-100-python/test": wrong_shape}):
        with pytest.raises(PreparationError, match="archive of cifar100 is not the official one"):
            prepare("cifar100", tmp_path, archive=archive, source=write_tar(archive, members))
    archive.write_bytes(b"no archive")
    with pytest.raises(PreparationError, match="archive of cifar100 is not the official one"):
        prepare("cifar100", tmp_path, archive=archive, source=source_of(archive))
    with pytest.raises(PreparationError, match="absent does not exist"):
        prepare("cifar100", tmp_path, archive=tmp_path / "absent")


def test_zip_is_unpacked_under_its_own_name(tmp_path: Path) -> None:
    archive, root = tmp_path / "archive.zip", tmp_path / "data"
    source = write_zip(archive, {"tiny-imagenet-200/wnids.txt": b"n01\n", "tiny-imagenet-200/train/n01/a.txt": b"x"})
    assert prepare("tinyimagenet", root, archive=archive, source=source) == (root / "tiny-imagenet-200", True)
    assert (root / "tiny-imagenet-200/wnids.txt").read_text() == "n01\n"
    assert visible(root) == ["tiny-imagenet-200"]


@pytest.mark.parametrize("name", ["../outside", "/outside", "tiny-imagenet-200/../../outside", "elsewhere/outside"])
def test_zip_members_stay_inside(tmp_path: Path, name: str) -> None:
    """Whatever the name, there is a file of the data set or none; nor are links made."""
    archive, root = tmp_path / "archive.zip", tmp_path / "a/data"
    write_zip(archive, {"tiny-imagenet-200/wnids.txt": b"n01\n", name: b"x"})
    link = zipfile.ZipInfo("tiny-imagenet-200/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as zipped:
        zipped.writestr(link, "/etc")
    target, _ = prepare("tinyimagenet", root, archive=archive, source=source_of(archive))
    assert visible(root) == ["tiny-imagenet-200"]
    assert {"wnids.txt", "link"} <= set(visible(target)) <= {"wnids.txt", "link", "outside"}
    assert not (target / "link").is_symlink()
    assert not [path for folder in (Path("/"), tmp_path, tmp_path / "a") for path in folder.glob("outside")]


def test_what_can_be_prepared() -> None:
    assert PREPARABLE == ("cifar10", "cifar100", "tinyimagenet")


def test_two_processes_at_once(tmp_path: Path) -> None:
    """Both succeed, one made it, and the result is whole."""
    archive, root = tmp_path / "archive.tar.gz", tmp_path / "data"
    source = write_tar(archive, cifar100_members())
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY / 'scripts')!r})\n"
        "from pathlib import Path; from data_preparation.download import Source, prepare\n"
        f"print(prepare('cifar100', Path({str(root)!r}), archive=Path({str(archive)!r}), source={source!r})[1])"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = sorted(process.communicate(timeout=PATIENCE)[0].strip() for process in running)
    assert answers == ["False", "True"]
    assert [process.returncode for process in running] == [0, 0]
    assert len(read_cifar(root / "cifar100.npz", 100).train_labels) == 6


def test_waits_for_the_lock(tmp_path: Path) -> None:
    """While another process holds the lock nothing happens; what that process leaves is then taken."""
    import fcntl

    archive = tmp_path / "archive.tar.gz"
    source = write_tar(archive, cifar100_members())
    answers: list[bool] = []
    waiting = threading.Thread(
        target=lambda: answers.append(prepare("cifar100", tmp_path, archive=archive, source=source)[1])
    )
    with (tmp_path / ".cifar100.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting.start()
        waiting.join(0.3)
        assert answers == []
        (tmp_path / "cifar100.npz").touch()
    waiting.join(PATIENCE)
    assert answers == [False]


def test_left_over_scratch_is_replaced(tmp_path: Path) -> None:
    """A process that was killed while it converted leaves a folder that the next call clears."""
    archive = tmp_path / "archive.tar.gz"
    source = write_tar(archive, cifar100_members())
    (tmp_path / ".cifar100.partial").mkdir()
    (tmp_path / ".cifar100.partial/cifar100.npz").write_bytes(b"half")
    assert prepare("cifar100", tmp_path, archive=archive, source=source)[1]
    assert not (tmp_path / ".cifar100.partial").exists()


class Server:
    """A local web server for one file: with ranges or without, and ending early if ``limit`` says so."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.ranges = True
        self.limit: int | None = None
        self.requested: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                outer.requested.append(asked)
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and outer.ranges else 0
                if start >= len(outer.content):
                    self.send_error(416)
                    return
                rest = outer.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(rest)))
                self.end_headers()
                self.wfile.write(rest[: outer.limit])

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/cifar-100-python.tar.gz"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serves a CIFAR-100-like archive."""
    write_tar(tmp_path / "served.tar.gz", cifar100_members())
    serving = Server((tmp_path / "served.tar.gz").read_bytes())
    thread = threading.Thread(target=serving.http.serve_forever)
    thread.start()
    yield serving
    serving.http.shutdown()
    serving.http.server_close()
    thread.join()


def test_download_reports_to_a_terminal_and_cleans_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that is rewritten; nothing in a log file."""
    source = source_of(tmp_path / "served.tar.gz", server.url)
    prepare("cifar100", tmp_path / "logged", source=source)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    prepare("cifar100", tmp_path / "data", source=source)
    assert capsys.readouterr().err.endswith(f"\rdownloaded 0 of {len(server.content) / 1e6:.0f} MB\n")
    assert visible(tmp_path / "data") == ["cifar100.npz"]


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_download_goes_on(server: Server, tmp_path: Path, ranges: bool) -> None:
    """The second call asks for the rest only; a server that knows no ranges sends all of it again."""
    source, root = source_of(tmp_path / "served.tar.gz", server.url), tmp_path / "data"
    server.limit, server.ranges = 1000, ranges
    with pytest.raises(PreparationError, match="run the command again to go on"):
        prepare("cifar100", root, source=source)
    server.limit = None
    assert prepare("cifar100", root, source=source)[1]
    assert server.requested == [None, "bytes=1000-"]
    assert visible(root) == ["cifar100.npz"]


def test_complete_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    """A process killed between download and conversion."""
    source, root = source_of(tmp_path / "served.tar.gz", server.url), tmp_path / "data"
    root.mkdir()
    (root / ".cifar-100-python.tar.gz.part").write_bytes(server.content)
    assert prepare("cifar100", root, source=source)[1]
    assert server.requested == []


@pytest.mark.parametrize("junk", [b"", b"junk" * 10_000])
def test_wrong_download_is_deleted(server: Server, tmp_path: Path, junk: bytes) -> None:
    """Of a wrong file on the server, or after a left-over that is longer than the file (status 416)."""
    source, root = replace(source_of(tmp_path / "served.tar.gz", server.url), checksum="0" * 32), tmp_path / "data"
    root.mkdir()
    (root / ".cifar-100-python.tar.gz.part").write_bytes(junk)
    with pytest.raises(PreparationError, match="the download was deleted, nothing was unpacked"):
        prepare("cifar100", root, source=source)
    assert visible(root) == []


def test_unreachable_server(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar.gz"
    write_tar(archive, cifar100_members())
    with pytest.raises(PreparationError, match=r"http://127.0.0.1:9/unused could not be downloaded .*--archive"):
        prepare("cifar100", tmp_path, source=source_of(archive))


def test_read_only_folder_is_an_ordinary_error(tmp_path: Path) -> None:
    """The script turns it into one line."""
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "data").mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        prepare("cifar100", tmp_path / "data", archive=tmp_path / "absent")
