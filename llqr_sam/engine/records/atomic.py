"""Files that are either complete or absent: written beside their place, flushed to disk, then renamed into it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp"  # suffix of an unfinished file


def replacing(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """Open a temporary file that replaces ``path`` when the block ends.

    Args:
        path: File to create or replace. Missing parent folders are made.

    If the block raises, ``path`` is unchanged and the temporary file is removed; if the machine stops, ``path`` is
    unchanged and a ``*.tmp`` file is left behind.
    """
    return _placing(path, os.replace)


def creating(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """Like ``replacing``, but never replaces another file.

    Raises:
        FileExistsError: when the block ends, if ``path`` exists by then.
    """
    return _placing(path, _place_new)


@contextlib.contextmanager
def _placing(path: Path, place: Callable[[Path, Path], None]) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _place_new(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: reserve the name with an empty file first
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(temporary, path)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable, where the file system can (some network file systems cannot)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
