"""Which data are here: the hash that ``Splits.fingerprint`` has, without the streams of a run."""

from __future__ import annotations

from pathlib import Path

from llqr_sam.data.imagenet import imagenet_fingerprint
from llqr_sam.data.registry import read_arrays


def fingerprint(name: str, path: Path | None, root: Path) -> str | None:
    """Hash a data set as a run does that loads it, in seconds.

    Args:
        name: An image data set of the registry.
        path: Where the data are; None: under ``root``.
        root: Where scripts/prepare_data.py puts data sets.

    Returns:
        The SHA-256. ``None`` for TinyImageNet, whose 110,000 images would have to be decoded.

    Raises:
        MissingDataError: The data are not there.
        ValueError: They are not what they should be, or there is no data set of that name.
    """
    path, root = path.expanduser() if path else None, root.expanduser()
    if name == "imagenet":
        return imagenet_fingerprint(path or root / name)
    if name == "tinyimagenet":
        return None
    return read_arrays(name, path, root)[0].fingerprint()
