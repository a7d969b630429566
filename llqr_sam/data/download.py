"""Fetching data sets: download, checksum, convert, and only then appear under the final name.

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
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 60.0  # seconds without a byte
Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all where known


class PreparationError(RuntimeError):
    """A data set could not be prepared; the message is one sentence for the person who asked for it."""


@dataclass(frozen=True)
class Source:
    """Where an archive is published, and a checksum: the MD5 its publisher or torchvision gives, or else a SHA-256."""

    url: str
    md5: str | None = None
    sha256: str | None = None

    @property
    def algorithm(self) -> str:
        """Name of the checksum for messages."""
        return "MD5" if self.md5 else "SHA-256"

    @property
    def checksum(self) -> str | None:
        """What the archive must hash to; ``None``: nobody has said."""
        return self.md5 or self.sha256

    def digest(self, path: Path) -> str:
        """What a file hashes to."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5" if self.md5 else "sha256").hexdigest()


@dataclass(frozen=True)
class _Recipe:
    """How a data set is made: from which archive, under which name, by which conversion (archive, scratch, target)."""

    source: Source
    target: str
    convert: Callable[[Path, Path, Path], None]


def prepare(
    name: str,
    root: Path,
    *,
    archive: Path | None = None,
    source: Source | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[Path, bool]:
    """Make a data set under ``root`` unless it is there.

    Args:
        name: One of ``PREPARABLE``.
        root: Folder for data sets; created.
        archive: A local copy of the official archive, instead of a download.
        source: Another place and checksum than the official ones.
        progress: Called with the bytes downloaded so far and in all.

    Returns:
        Where the data set is, and whether this call made it.

    Raises:
        PreparationError: The download failed, the checksum is wrong, or the archive does not hold what it should.
    """
    if name not in _RECIPES:
        raise PreparationError(f"{name} is not a data set to prepare. Choose from: {', '.join(PREPARABLE)}.")
    recipe = _RECIPES[name]
    source = source or recipe.source
    target = root / recipe.target
    if target.exists():
        return target, False
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / f".{name}.lock"):
        if target.exists():  # another process made it while this one waited
            return target, False
        scratch = root / f".{name}.partial"
        _remove(scratch)
        scratch.mkdir()
        try:
            recipe.convert(verified(archive, source) if archive else fetch(source, root, progress), scratch, target)
        except (tarfile.TarError, zipfile.BadZipFile, pickle.UnpicklingError, KeyError, EOFError, ValueError) as error:
            raise PreparationError(f"the archive of {name} is not the official one: {error}.") from error
        finally:
            _remove(scratch)
        if archive is None:
            _part(source, root).unlink()
    return target, True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the system frees it if the process dies, so the file itself may stay."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove(scratch: Path) -> None:
    if scratch.exists():
        shutil.rmtree(scratch)


def verified(archive: Path, source: Source) -> Path:
    """The local archive, if its checksum is right or there is none to compare.

    Raises:
        PreparationError: There is no such file, or its checksum is wrong.
    """
    if not archive.is_file():
        raise PreparationError(f"the archive {archive} does not exist.")
    found = source.digest(archive)
    if source.checksum not in (None, found):
        raise PreparationError(
            f"{archive} has {source.algorithm} {found} instead of {source.checksum}: it is not the official archive."
        )
    return archive


def _part(source: Source, root: Path) -> Path:
    return root / f".{PurePosixPath(source.url).name}.part"


def fetch(
    source: Source, root: Path, progress: Progress, is_known: Callable[[Path], bool] = lambda path: False
) -> Path:
    """Download, going on from what an interrupted call left, and verify.

    Args:
        source: Where from.
        root: Folder that the archive is put in.
        progress: Told of the download.
        is_known: Asked about an archive without a checksum: whether its content is what it should be.

    Raises:
        PreparationError: It could not be downloaded, or it has a wrong checksum, or none and is not known.
    """
    part = _part(source, root)
    if part.exists() and source.digest(part) == source.checksum:
        return part
    try:
        complete = _download(source.url, part, progress)
    except (OSError, http.client.HTTPException) as error:
        raise PreparationError(
            f"{source.url} could not be downloaded ({error}); run the command again to go on, "
            "or give a local copy with --archive."
        ) from error
    if not complete:
        raise PreparationError(f"the connection to {source.url} ended early; run the command again to go on.")
    found = source.digest(part)
    if source.checksum is None:
        if is_known(part):
            return part
        raise PreparationError(
            f"{source.url} is downloaded, but its content is not what is expected there. It has {source.algorithm} "
            f"{found}: compare that with a copy you trust, then run the command again with --sha256 {found}"
        )
    if found != source.checksum:
        part.unlink()
        raise PreparationError(
            f"{source.url} has {source.algorithm} {found} instead of {source.checksum}; the download was deleted, "
            "nothing was unpacked."
        )
    return part


def _download(url: str, part: Path, progress: Progress) -> bool:
    """Append to ``part`` what is missing of it; whether all announced bytes arrived."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return True  # nothing is missing, or what is there is wrong: the checksum decides
    with response:
        continued = response.status == http.HTTPStatus.PARTIAL_CONTENT
        done = have if continued else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if continued else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
    return total is None or done == total


class _ArrayUnpickler(pickle.Unpickler):
    """Builds containers, strings, numbers and NumPy arrays; any other global in the pickle is refused."""

    _RECONSTRUCT = np.empty(0).__reduce__()[0]  # numpy's own function, wherever this version keeps it

    def find_class(self, module: str, name: str) -> Any:
        """The three names an array's pickle uses, under NumPy 1 and 2."""
        if (module, name) in {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}:
            return self._RECONSTRUCT
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise pickle.UnpicklingError(f"a pickle asks for {module}.{name}, which no batch of images needs")


def _read_batch(file: IO[bytes], label_key: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images ``[N, 32, 32, 3]`` and labels ``[N]`` of one pickled batch (written by Python 2, hence latin1)."""
    batch = _ArrayUnpickler(file, encoding="latin1").load()
    images, labels = batch["data"], np.asarray(batch[label_key], dtype=np.int64)
    if images.dtype != np.uint8 or images.shape != (len(labels), 3072):
        raise pickle.UnpicklingError(f"a batch has images of {images.dtype} and shape {list(images.shape)}")
    return np.ascontiguousarray(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _cifar(train: list[str], test: list[str], label_key: str) -> Callable[[Path, Path, Path], None]:
    """The conversion of a CIFAR archive: the batches of each split, as named in the archive, to one ``.npz``."""

    def convert(archive: Path, scratch: Path, target: Path) -> None:
        with tarfile.open(archive, "r:gz") as tar:
            x_train, y_train = _read_batches(tar, train, label_key)
            x_test, y_test = _read_batches(tar, test, label_key)
        finished = scratch / target.name
        np.savez(finished, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
        os.replace(finished, target)

    return convert


def _read_batches(
    tar: tarfile.TarFile, members: list[str], label_key: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images ``[N, 32, 32, 3]`` and labels ``[N]`` of several members, one after another."""
    batches = []
    for member in members:
        file = tar.extractfile(member)
        if file is None:
            raise KeyError(f"{member} is not a file")
        batches.append(_read_batch(file, label_key))
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def _unzip(archive: Path, scratch: Path, target: Path) -> None:
    """Unpack a zip whose members all lie in a folder named like the target."""
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            path = PurePosixPath(member.filename)
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            if path.is_absolute() or ".." in path.parts or path.parts[:1] != (target.name,) or is_link:
                raise zipfile.BadZipFile(f"member {member.filename!r} does not stay in {target.name}/")
        zipped.extractall(scratch)
    os.replace(scratch / target.name, target)


_RECIPES = {
    "cifar10": _Recipe(
        Source("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
        "cifar10.npz",
        _cifar(
            [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)],
            ["cifar-10-batches-py/test_batch"],
            "labels",
        ),
    ),
    "cifar100": _Recipe(
        Source("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
        "cifar100.npz",
        _cifar(["cifar-100-python/train"], ["cifar-100-python/test"], "fine_labels"),
    ),
    "tinyimagenet": _Recipe(
        Source("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"),
        "tiny-imagenet-200",
        _unzip,
    ),
}

PREPARABLE: tuple[str, ...] = tuple(_RECIPES)
