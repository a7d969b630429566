"""Where a result comes from: the commit and the packages it was computed with."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
PACKAGES = ("llqr-sam", "torch", "torchvision", "timm", "numpy", "scikit-learn", "hydra-core", "wandb", "fairseq")
TIMEOUT = 10  # seconds; git on a slow network file system must not hold a run up


def git_state(folder: Path = PACKAGE) -> tuple[str | None, bool]:
    """Commit of the checkout that ``folder`` is tracked in, and whether anything in ``folder`` differs from it.

    ``(None, False)`` where there is no checkout, no commit or no git: an installed package may lie inside somebody
    else's repository, which says nothing about it.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit or not _git(folder, "ls-files", "."):
        return None, False
    return commit, bool(_git(folder, "status", "--porcelain", "--", "."))


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
