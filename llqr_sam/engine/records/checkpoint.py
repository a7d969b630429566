"""Checkpoints of one run: written whole, verified before use, two kept.

A checkpoint is ``step_<step>.pt`` with its SHA-256 in ``step_<step>.pt.sha256``. Loading runs no code from the file
(``weights_only=True``), so a state holds tensors, numbers, strings, lists and dictionaries only.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from llqr_sam.engine.records.atomic import TEMPORARY, replacing

logger = logging.getLogger(__name__)

DIGEST = ".sha256"
BLOCK = 1 << 20  # bytes read at a time

# Not about a file's content, and perhaps over the next time: an I/O error, or a want of memory, which is a RuntimeError
# where it is torch's. Garbage raises almost anything else.
PASSING = (OSError, MemoryError, RuntimeError)


class CheckpointStore:
    """The checkpoints in one folder, newest last.

    Args:
        folder: Where they are; made by the first ``save``.
        keep: How many to keep, >= 1.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write ``state`` as the checkpoint of ``step``; keep it and what is newest before it, ``keep`` in all.

        One of a later step goes: the run has passed it over and is not that far.

        The digest gets its name before the checkpoint does: whatever moment the machine stops at, no checkpoint
        stands without one.

        Raises:
            OSError: the disk does not take it; the older checkpoints stand.
        """
        path = self.folder / f"step_{step:09d}.pt"
        with replacing(path) as file:
            hashing = _HashingFile(file)
            try:
                torch.save(state, cast("BinaryIO", hashing))
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # which torch's writer hides behind one of its own
                    raise error.__context__ from None
                raise
            with replacing(_digest_path(path)) as digest_file:
                digest_file.write(f"{hashing.digest.hexdigest()}  {path.name}\n".encode())
        self._prune(path)
        return path

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the newest checkpoint that is intact, on the CPU; ``None`` if there is none.

        A damaged one is named in a warning and passed over.

        Raises:
            OSError, MemoryError, RuntimeError: one cannot be read or held now, damaged or not.
        """
        for path in reversed(self._paths()):
            try:
                return int(path.stem.removeprefix("step_")), _load(path)
            except PASSING:  # no checkpoint is given up for it
                raise
            except Exception as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                logger.warning("checkpoint %s is damaged and not used: %s", path, reason)
        return None

    def clear(self) -> None:
        """Remove every checkpoint, and the folder if nothing else is in it."""
        if not self.folder.is_dir():
            return
        for path in self._files():
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something that is not ours is in there
            self.folder.rmdir()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"))

    def _files(self) -> list[Path]:
        """Checkpoints, digests, and what interrupted writes left behind."""
        patterns = ("step_*.pt", f"step_*.pt{DIGEST}", f"step_*{TEMPORARY}")
        return [path for pattern in patterns for path in self.folder.glob(pattern)]

    def _prune(self, saved: Path) -> None:
        kept = [path for path in self._paths() if path <= saved][-self.keep :]
        for path in set(self._files()) - {*kept, *map(_digest_path, kept)}:
            path.unlink(missing_ok=True)


class _HashingFile:
    """Passes writes on and hashes them, so that the digest is of what was meant, not of what the disk gives back."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + DIGEST)


def _load(path: Path) -> dict[str, Any]:
    try:
        expected = _digest_path(path).read_text().split()
    except FileNotFoundError:
        raise ValueError("its SHA-256 is lost") from None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if expected[:1] != [digest.hexdigest()]:
        raise ValueError(f"its SHA-256 is not the one in {_digest_path(path).name}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError("it does not hold a dictionary")
    return state
