"""The hash of a data set that a run would find, without loading it for training."""

from __future__ import annotations

from pathlib import Path

from llqr_sam.data.registry import read


def fingerprint(name: str, path: Path | None, root: Path) -> str | None:
    """``Splits.fingerprint`` of a data set, in seconds.

    Args:
        name: An image data set of the registry.
        path: Where the data is; None: under ``root``.
        root: Where scripts/prepare_data.py puts data sets.

    Returns:
        The SHA-256. None for TinyImageNet, whose 110,000 images would have to be decoded.

    Raises:
        MissingDataError: The data is not there.
        ValueError: The data is invalid, or there is no data set of that name.
    """
    path, root = path.expanduser() if path else None, root.expanduser()
    return None if name == "tinyimagenet" else read(name, path, root)[0].fingerprint()
