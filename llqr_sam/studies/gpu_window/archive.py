"""An archive that follows files while they are written, so that a machine that dies leaves them behind."""

from __future__ import annotations

import contextlib
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from llqr_sam.engine.records.atomic import replacing

EVERY = 15.0  # seconds between two looks at the files

Files = Iterable[tuple[Path, str]]  # file, name in the archive
Contents = dict[str, tuple[Path, int, int]]  # name -> file, time of its last change, size


@contextlib.contextmanager
def archived(archive: Path, files: Callable[[], Files], every: float = EVERY) -> Iterator[None]:
    """Inside, the files are packed again whenever they have changed; and once more at the end.

    Args:
        archive: The ``.tar.gz``.
        files: Lists the files at the time of the call.
        every: Seconds between two looks.

    Raises:
        OSError: the archive cannot be written.
    """
    contents = pack(archive, files())
    ended = threading.Event()

    def follow() -> None:
        nonlocal contents
        while not ended.wait(every):
            with contextlib.suppress(OSError):  # the last call of `pack` reports it
                contents = pack(archive, files(), contents)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        pack(archive, files(), contents)


def pack(archive: Path, files: Files, packed: Contents | None = None) -> Contents:
    """Write the archive, unless it is there and ``packed``, its contents, are these files unchanged.

    Returns:
        The contents.
    """
    contents: Contents = {}
    for path, name in files:
        with contextlib.suppress(FileNotFoundError):  # removed since it was listed
            state = path.stat()
            contents[name] = path, state.st_mtime_ns, state.st_size
    if contents == packed and archive.exists():
        return contents
    with replacing(archive) as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, (path, *_) in sorted(contents.items()):
            with contextlib.suppress(FileNotFoundError):
                tar.add(path, arcname=name, recursive=False)
    return contents
