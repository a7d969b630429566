"""Prepare data sets: download, compare the checksum, convert, and only then use the final name.

Everything happens under a lock file and under temporary names, so that two jobs may start at once and an interrupted
one leaves nothing half-made; a download continues where it stopped. No code from an archive is run: tar members are
read without unpacking them, CIFAR's pickles pass an unpickler that builds arrays and nothing else.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import io
import os
import pickle
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from llqr_sam.data.cifar import read_batches

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 60.0  # seconds without a byte


class PreparationError(RuntimeError):
    """A data set could not be prepared; the message is one sentence for the person who asked for it."""


@dataclass(frozen=True)
class Source:
    """An archive on the web, with the MD5 that its publisher or torchvision gives, or else a SHA-256."""

    url: str
    checksum: str | None  # None: none is published
    algorithm: Literal["MD5", "SHA-256"] = "MD5"

    def digest(self, path: Path) -> str:
        """The checksum of a file."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, self.algorithm.replace("-", "")).hexdigest()


def prepare(name: str, root: Path, archive: Path | None = None, source: Source | None = None) -> tuple[Path, bool]:
    """Make a data set under ``root`` unless it is there; returns its place, and whether this call made it.

    Args:
        name: One of ``PREPARABLE``.
        root: Folder for data sets; created.
        archive: A local copy of the official archive, instead of a download.
        source: Another place and checksum than the official ones.

    Raises:
        PreparationError: The download failed, the checksum is wrong, or the archive has other contents.
    """
    published, final_name, convert = _PREPARATIONS[name]
    target, scratch = root / final_name, root / f".{name}.partial"
    if target.exists():
        return target, False
    with locked(root / f".{name}.lock"):
        if target.exists():  # another process made it while this one waited
            return target, False
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        scratch.mkdir()
        try:
            with official(source or published, root, archive) as file:
                convert(file, scratch / final_name)
                os.replace(scratch / final_name, target)
        except (tarfile.TarError, zipfile.BadZipFile, pickle.UnpicklingError, KeyError, EOFError, ValueError) as error:
            raise PreparationError(f"the archive of {name} is not the official one: {error}.") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target, True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, whose folder is made. The system releases it when the process dies, so the file may stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def official(
    source: Source, root: Path, archive: Path | None, is_known: Callable[[Path], bool] = lambda path: False
) -> Iterator[Path]:
    """The verified archive: a local copy, or a download that is deleted when the block ends well.

    A download goes to ``root`` and continues an interrupted one. If no checksum is published, ``is_known`` says whether
    its content is right.

    Raises:
        PreparationError: There is no such copy, the download failed, or its checksum or content is wrong.
    """
    file = archive or root / f".{PurePosixPath(source.url).name}.part"
    if archive and not archive.is_file():
        raise PreparationError(f"the archive {archive} does not exist.")
    if not archive and not (file.exists() and source.digest(file) == source.checksum):
        try:
            _download(source.url, file)
        except (OSError, http.client.HTTPException) as error:
            raise PreparationError(
                f"{source.url} could not be downloaded ({error}); run the command again to go on, "
                "or give a local copy with --archive."
            ) from error
    found = source.digest(file)
    if source.checksum not in (None, found):
        if not archive:
            file.unlink()
        wrong = f"{archive or source.url} has {source.algorithm} {found} instead of {source.checksum}"
        end = ": it is not the official archive." if archive else "; the download was deleted, nothing was unpacked."
        raise PreparationError(wrong + end)
    if not archive and source.checksum is None and not is_known(file):
        raise PreparationError(
            f"{source.url} is downloaded, but its content is not what is expected there. It has {source.algorithm} "
            f"{found}: compare that with a copy you trust, then run the command again with --sha256 {found}"
        )
    yield file
    if not archive:
        file.unlink()


def _download(url: str, part: Path) -> None:
    """Append the missing bytes to ``part``; ConnectionError if not all arrived."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing, or ``part`` is wrong: the checksum decides
        raise
    with response:
        continued = response.status == http.HTTPStatus.PARTIAL_CONTENT
        done = have if continued else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if continued else "wb") as file:
            while chunk := response.read(_CHUNK):
                done += file.write(chunk)
                if sys.stderr.isatty():  # one line, rewritten
                    share = f" of {total / 1e6:.0f}" if total else ""
                    end = "\n" if done == total else ""
                    print(f"\rdownloaded {done / 1e6:.0f}{share} MB", end=end, file=sys.stderr)
    if total not in (None, done):
        raise ConnectionError("the connection ended early")


def _convert_cifar(archive: Path, made: Path, *, train: list[str], test: list[str], labels: str) -> None:
    """Write the pickled batches of a CIFAR archive as an ``.npz``; ``labels`` is their key in a batch."""
    arrays: dict[str, Any] = {}
    with tarfile.open(archive, "r:gz") as tar:
        for split, members in (("train", train), ("test", test)):
            files = [tar.extractfile(name) or io.BytesIO() for name in members]
            arrays[f"x_{split}"], arrays[f"y_{split}"] = read_batches(files, labels)
    np.savez(made, **arrays)


def _unzip(archive: Path, made: Path) -> None:
    """Unpack beside ``made``, which the archive holds. zipfile keeps every member inside and makes no links."""
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(made.parent)


# Where the archive is, the name of the data set, and ``convert(archive, made)``, which writes it to a scratch path.
_PREPARATIONS: dict[str, tuple[Source, str, Callable[[Path, Path], None]]] = {
    "cifar10": (
        Source("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
        "cifar10.npz",
        partial(
            _convert_cifar,
            train=[f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)],
            test=["cifar-10-batches-py/test_batch"],
            labels="labels",
        ),
    ),
    "cifar100": (
        Source("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
        "cifar100.npz",
        partial(_convert_cifar, train=["cifar-100-python/train"], test=["cifar-100-python/test"], labels="fine_labels"),
    ),
    "tinyimagenet": (
        Source("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"),
        "tiny-imagenet-200",
        _unzip,
    ),
}

PREPARABLE: tuple[str, ...] = tuple(_PREPARATIONS)
