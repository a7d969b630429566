"""Commands of a SLURM that is not here, as scripts: what runs on a real one is in tests/integration/slurm."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


def commands(folder: Path, patch: pytest.MonkeyPatch, **scripts: str) -> Callable[[], list[str]]:
    """Puts shell scripts on the PATH, by name; returns what lists the names of those that were called, in order."""
    place, called = folder / "bin", folder / "called"
    place.mkdir()
    for name, script in scripts.items():
        (place / name).write_text(f"#!/bin/sh\necho {name} >>{called}\n{script}\n")
        (place / name).chmod(0o755)
    patch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return lambda: called.read_text().splitlines() if called.exists() else []
