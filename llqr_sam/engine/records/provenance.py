"""Where a result comes from, the commit and the packages that it was computed with; and a hash of its weights."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from llqr_sam.engine import plugins
from llqr_sam.repository import PACKAGE

PACKAGES = (
    *("llqr-sam", "torch", "torchvision", "timm", "pytorch_optimizer", "numpy"),
    *("scikit-learn", "hydra-core", "wandb", "fairseq"),
)
VARIABLE = "LLQR_SAM_COMMIT"
TIMEOUT = 10  # seconds, so that git on a slow network file system does not delay a run


def git_state(folder: Path = PACKAGE) -> tuple[str | None, bool]:
    """Commit of the checkout that tracks ``folder``, and whether anything in ``folder`` differs from it.

    Without one, ``LLQR_SAM_COMMIT`` may give the commit, with ``-dirty`` appended if the code was changed; ValueError
    if that is no commit. Otherwise it is ``(None, False)``: an installed package may lie in somebody else's repository.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit and _git(folder, "ls-files", "."):
        return commit, bool(_git(folder, "status", "--porcelain", "--", "."))
    value = os.environ.get(VARIABLE, "")
    if not value:
        return None, False
    match = re.fullmatch(r"([0-9a-f]{40})(-dirty)?", value)
    if match is None:
        raise ValueError(f"{VARIABLE}={value!r} must be a commit of 40 hexadecimal digits, with or without -dirty.")
    return match[1], match[2] is not None


def packages() -> dict[str, str]:
    """Versions of Python, of the installed packages that a result can depend on, and of the user's plugins."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions | plugins.versions()


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of a state dict: the same on any device and in any memory format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command; ``None`` if it fails."""
    try:
        return subprocess.check_output(
            ["git", "-C", folder, *arguments], stderr=subprocess.DEVNULL, text=True, timeout=TIMEOUT
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None


def commit_label(commit: str | None, dirty: bool) -> str:
    """``7310066``, with ``+`` where files had been changed since; ``unknown`` without a commit."""
    return f"{(commit or 'unknown')[:7]}{'+' * dirty}"
