"""Prepare data sets: download, compare the checksum, convert, and only then use the final name.

Everything happens under a lock file and under temporary names, so that two jobs may start at once and an interrupted
one leaves nothing half-made; a download continues where it stopped. No code from an archive is run: tar members are
read without unpacking them, CIFAR's pickles pass an unpickler that builds arrays and nothing else, and zip members are
checked before they are written.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import pickle
import shutil
import stat
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True)
class _Preparation:
    """A data set: its archive, the name it gets, and ``convert(archive, made)``, which writes it to a scratch path."""

    source: Source
    target: str
    convert: Callable[[Path, Path], None]


def prepare(
    name: str,
    root: Path,
    *,
    archive: Path | None = None,
    source: Source | None = None,
) -> tuple[Path, bool]:
    """Make a data set under ``root`` unless it is there.

    Args:
        name: One of ``PREPARABLE``.
        root: Folder for data sets; created.
        archive: A local copy of the official archive, instead of a download.
        source: Another place and checksum than the official ones.

    Returns:
        Where the data set is, and whether this call made it.

    Raises:
        PreparationError: The download failed, the checksum is wrong, or the archive has other contents.
    """
    if name not in _PREPARATIONS:
        raise PreparationError(f"{name} is not a data set to prepare. Choose from: {', '.join(PREPARABLE)}.")
    preparation = _PREPARATIONS[name]
    source = source or preparation.source
    target = root / preparation.target
    if target.exists():
        return target, False
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / f".{name}.lock"):
        if target.exists():  # another process made it while this one waited
            return target, False
        scratch = root / f".{name}.partial"
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        scratch.mkdir()
        try:
            with official(source, root, archive) as file:
                preparation.convert(file, scratch / target.name)
                os.replace(scratch / target.name, target)
        except (tarfile.TarError, zipfile.BadZipFile, pickle.UnpicklingError, KeyError, EOFError, ValueError) as error:
            raise PreparationError(f"the archive of {name} is not the official one: {error}.") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target, True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file. The system releases the lock when the process dies, so the file itself may stay."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def official(
    source: Source, root: Path, archive: Path | None, is_known: Callable[[Path], bool] = lambda path: False
) -> Iterator[Path]:
    """The verified archive: a local copy, or a download that is deleted when the block ends well.

    Args:
        source: Where it is published, and its checksum.
        root: Folder for the download, which continues an interrupted one.
        archive: The local copy; None: download.
        is_known: Whether the content of a download without a checksum is right.

    Raises:
        PreparationError: There is no such copy, the download failed, the checksum is wrong, or there is none and the
            content is not known.
    """
    if archive is not None:
        if not archive.is_file():
            raise PreparationError(f"the archive {archive} does not exist.")
        if wrong := _mismatch(archive, str(archive), source):
            raise PreparationError(f"{wrong}: it is not the official archive.")
        yield archive
        return
    part = root / f".{PurePosixPath(source.url).name}.part"
    if not part.exists() or source.digest(part) != source.checksum:
        try:
            _download(source.url, part)
        except (OSError, http.client.HTTPException) as error:
            raise PreparationError(
                f"{source.url} could not be downloaded ({error}); run the command again to go on, "
                "or give a local copy with --archive."
            ) from error
    if wrong := _mismatch(part, source.url, source):
        part.unlink()
        raise PreparationError(f"{wrong}; the download was deleted, nothing was unpacked.")
    if source.checksum is None and not is_known(part):
        found = source.digest(part)
        raise PreparationError(
            f"{source.url} is downloaded, but its content is not what is expected there. It has {source.algorithm} "
            f"{found}: compare that with a copy you trust, then run the command again with --sha256 {found}"
        )
    yield part
    part.unlink()


def _mismatch(file: Path, called: str, source: Source) -> str:
    """What is wrong with the checksum of a file, or nothing."""
    found = source.digest(file)
    right = source.checksum in (None, found)
    return "" if right else f"{called} has {source.algorithm} {found} instead of {source.checksum}"


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
                file.write(chunk)
                done += len(chunk)
                if sys.stderr.isatty():  # one line, rewritten
                    share = f" of {total / 1e6:.0f}" if total else ""
                    end = "\n" if done == total else ""
                    print(f"\rdownloaded {done / 1e6:.0f}{share} MB", end=end, file=sys.stderr)
    if total not in (None, done):
        raise ConnectionError("the connection ended early")


_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ARRAY_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,  # as NumPy 1 calls it
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,  # as NumPy 2 calls it
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds containers, strings, numbers and NumPy arrays; any other global in the pickle is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_GLOBALS:
            raise pickle.UnpicklingError(f"a pickle asks for {module}.{name}, which no batch of images needs")
        return _ARRAY_GLOBALS[module, name]


def _cifar(train: list[str], test: list[str], label_key: str) -> Callable[[Path, Path], None]:
    """Convert a CIFAR archive to an ``.npz``, given the names of the pickled batches of each split."""

    def convert(archive: Path, made: Path) -> None:
        with tarfile.open(archive, "r:gz") as tar:
            x_train, y_train = _read_batches(tar, train, label_key)
            x_test, y_test = _read_batches(tar, test, label_key)
        np.savez(made, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)

    return convert


def _read_batches(
    tar: tarfile.TarFile, members: list[str], label_key: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images ``[N, 32, 32, 3]`` and labels ``[N]`` of several pickled batches, one after another."""
    images, labels = [], []
    for member in members:
        file = tar.extractfile(member)
        if file is None:
            raise KeyError(f"{member} is not a file")
        batch = _ArrayUnpickler(file, encoding="latin1").load()  # written by Python 2
        pixels, numbers = batch["data"], np.asarray(batch[label_key], dtype=np.int64)
        if pixels.dtype != np.uint8 or pixels.shape != (len(numbers), 3072):
            raise pickle.UnpicklingError(f"a batch has images of {pixels.dtype} and shape {list(pixels.shape)}")
        images.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(numbers)
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)


def _unzip(archive: Path, made: Path) -> None:
    """Unpack a zip whose members all lie in a folder named like the data set."""
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            path = PurePosixPath(member.filename)
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            if path.is_absolute() or ".." in path.parts or path.parts[:1] != (made.name,) or is_link:
                raise zipfile.BadZipFile(f"member {member.filename!r} does not stay in {made.name}/")
        zipped.extractall(made.parent)


_PREPARATIONS = {
    "cifar10": _Preparation(
        Source("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
        "cifar10.npz",
        _cifar(
            [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)],
            ["cifar-10-batches-py/test_batch"],
            "labels",
        ),
    ),
    "cifar100": _Preparation(
        Source("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
        "cifar100.npz",
        _cifar(["cifar-100-python/train"], ["cifar-100-python/test"], "fine_labels"),
    ),
    "tinyimagenet": _Preparation(
        Source("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"),
        "tiny-imagenet-200",
        _unzip,
    ),
}

PREPARABLE: tuple[str, ...] = tuple(_PREPARATIONS)
