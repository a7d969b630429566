"""Files in one archive, made anew while they grow, so that whatever ends this machine leaves what there was."""

from __future__ import annotations

import contextlib
import tarfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from llqr_sam.engine.records.atomic import replacing

EVERY = 15.0  # seconds between two looks


class Archive:
    """A ``.tar.gz`` that is made anew every few seconds, where anything has changed, and once more at the end.

    Args:
        path: Of the archive.
        files: The files at the time of the call, each with its name in the archive.
        every: Seconds between two looks.
    """

    def __init__(self, path: Path, files: Callable[[], Iterable[tuple[Path, str]]], every: float = EVERY) -> None:
        self._path, self._files, self._every = path, files, every
        self._packed: dict[str, tuple[float, int]] = {}  # name -> time and size
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep_packing, daemon=True)

    def __enter__(self) -> Self:
        self.pack()  # a place that cannot be written is known at once
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self.pack()

    def pack(self) -> None:
        """Make the archive now, unless it holds all of this already."""
        found: dict[str, tuple[Path, tuple[float, int]]] = {}
        for path, name in self._files():
            try:
                state = path.stat()
            except FileNotFoundError:  # between listing and looking
                continue
            found[name] = path, (state.st_mtime, state.st_size)
        states = {name: state for name, (_, state) in found.items()}
        if states == self._packed and self._path.exists():
            return
        with replacing(self._path) as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name, (path, _) in sorted(found.items()):
                try:
                    tar.add(path, arcname=name, recursive=False)
                except FileNotFoundError:
                    states.pop(name)
        self._packed = states

    def _keep_packing(self) -> None:
        while not self._end.wait(self._every):
            with contextlib.suppress(OSError):  # the last one says so
                self.pack()
