"""Small archives in the official layouts, for the download tests."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from data_preparation.download import Source


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes byte strings as Python 2's ``str``, as in the official CIFAR archives."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_bytes(self, value: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(value)) + value)

    dispatch[bytes] = save_bytes


def python2_pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.", b"numpy.core.")


def cifar_arrays(count: int, classes: int, seed: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Images ``[N, 3072]`` uint8, channel after channel, and labels."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3072), dtype=np.uint8), random.integers(0, classes, count).tolist()


def cifar100_members() -> dict[str, bytes]:
    members = {}
    for seed, (split, count) in enumerate([("train", 6), ("test", 3)]):
        images, labels = cifar_arrays(count, 100, seed)
        batch = {b"data": images, b"fine_labels": labels, b"coarse_labels": labels, b"filenames": [b"a.png"] * count}
        members[f"cifar-100-python/{split}"] = python2_pickle(batch)
    return members


def cifar10_members() -> dict[str, bytes]:
    members = {}
    for seed, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        images, labels = cifar_arrays(2, 10, seed)
        batch = {b"data": images, b"labels": labels, b"batch_label": b"batch"}
        members[f"cifar-10-batches-py/{name}"] = python2_pickle(batch)
    return members


def write_tar(path: Path, members: dict[str, bytes]) -> Source:
    """A ``.tar.gz`` of the members, and the source that accepts it."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return source_of(path)


def write_zip(path: Path, members: dict[str, bytes]) -> Source:
    """A ``.zip`` of the members, and the source that accepts it."""
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return source_of(path)


def source_of(path: Path, url: str = "http://127.0.0.1:9/unused") -> Source:
    return Source(url, hashlib.md5(path.read_bytes()).hexdigest())
