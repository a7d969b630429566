"""Checkpoints of one run: written completely, verified before use, two kept.

A checkpoint is ``step_<step>.pt`` with its SHA-256 in ``step_<step>.pt.sha256``. Loading runs no code from the file
(``weights_only=True``), so a state holds only tensors, numbers, strings, lists and dictionaries.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch

from llqr_sam.engine.records.atomic import TEMPORARY, replacing

logger = logging.getLogger(__name__)

DIGEST = ".sha256"

# Errors of I/O or of memory (torch's is a RuntimeError): they say nothing of the file and may not come again. Damaged
# content raises almost anything else.
PASSING = (OSError, MemoryError, RuntimeError)


class CheckpointStore:
    """The last ``keep`` checkpoints, in a folder that the first ``save`` makes."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write ``state`` as the checkpoint of ``step``; keep it and the ``keep - 1`` before it.

        Checkpoints of later steps are removed: the run continued from an earlier one. The digest is renamed into its
        place before the checkpoint is, so no checkpoint is ever without one. After an OSError the older ones are kept.
        """
        path = self.folder / f"step_{step:09d}.pt"
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()  # hashed here: the digest is of the intended bytes, not of what the disk returns
        with replacing(path) as file:
            file.write(content)
            with replacing(_digest_path(path)) as digest_file:
                digest_file.write(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode())
        self._keep([other for other in self._paths() if other <= path][-self.keep :])
        return path

    def keep_newest(self) -> None:
        """Remove all but the newest checkpoint, which makes room on a full disk."""
        self._keep(self._paths()[-1:])

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the newest intact checkpoint, on the CPU; a damaged one is passed over with a warning."""
        for path in reversed(self._paths()):
            try:
                return _step_of(path), _load(path)
            except PASSING:  # no reason to fall back to an older checkpoint
                raise
            except Exception as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                logger.warning("checkpoint %s is damaged and not used: %s", path, reason)
        return None

    def latest_step(self) -> int:
        """Step of the newest checkpoint, by its name; 0 if there is none."""
        return max((_step_of(path) for path in self._paths()), default=0)

    def clear(self) -> None:
        """Remove every checkpoint, and the folder if nothing else is in it."""
        self._remove_all_but(set())
        with contextlib.suppress(OSError):  # it does not exist, or holds other files
            self.folder.rmdir()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"))

    def _keep(self, paths: list[Path]) -> None:
        self._remove_all_but({*paths, *map(_digest_path, paths)})

    def _remove_all_but(self, kept: set[Path]) -> None:
        """Remove checkpoints, digests and the temporary files of interrupted writes."""
        for pattern in ("step_*.pt", f"step_*.pt{DIGEST}", f"step_*{TEMPORARY}"):
            for path in set(self.folder.glob(pattern)) - kept:
                path.unlink(missing_ok=True)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + DIGEST)


def _load(path: Path) -> dict[str, Any]:
    if not _digest_path(path).exists():
        raise ValueError("its SHA-256 is lost")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if _digest_path(path).read_text().split()[:1] != [digest]:
        raise ValueError(f"its SHA-256 is not the one in {_digest_path(path).name}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError("it does not hold a dictionary")
    return state
