"""Where a result comes from: the commit and the packages it was computed with."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from llqr_sam.repository import PACKAGE

PACKAGES = ("llqr-sam", "torch", "torchvision", "timm", "numpy", "scikit-learn", "hydra-core", "wandb", "fairseq")
VARIABLE = "LLQR_SAM_COMMIT"
TIMEOUT = 10  # seconds; git on a slow network file system must not hold a run up


def git_state(folder: Path = PACKAGE) -> tuple[str | None, bool]:
    """Commit of the checkout that ``folder`` is tracked in, and whether anything in ``folder`` differs from it.

    Where there is no checkout, no commit or no git, whoever copied the code can say it in the environment:
    ``LLQR_SAM_COMMIT`` is the commit, with ``-dirty`` behind it if the code was changed. Without that it is
    ``(None, False)``: an installed package may lie inside somebody else's repository, which says nothing about it.

    Raises:
        ValueError: there is no checkout, and ``LLQR_SAM_COMMIT`` is no such thing.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit or not _git(folder, "ls-files", "."):
        return _told(os.environ.get(VARIABLE, ""))
    return commit, bool(_git(folder, "status", "--porcelain", "--", "."))


def _told(value: str) -> tuple[str | None, bool]:
    """What the environment says of the code."""
    if not value:
        return None, False
    match = re.fullmatch(r"([0-9a-f]{40})(-dirty)?", value)
    if match is None:
        raise ValueError(
            f"{VARIABLE}={value!r} must be a commit of 40 hexadecimal digits, or one with -dirty behind it."
        )
    return match[1], match[2] is not None


def packages() -> dict[str, str]:
    """Versions of Python and of the installed packages that a result can depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, or ``None`` if it fails."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
