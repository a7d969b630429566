"""Processes of their own that a test starts, and that end with it, whether it passes or fails."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 30.0  # in which a process that is asked to end saves its run and ends its workers

_running: list[subprocess.Popen[str]] = []


def start(*command: str, **options: Any) -> subprocess.Popen[str]:
    """A Python process in the repository, its output piped.

    Args:
        command: What follows ``python``.
        options: As ``subprocess.Popen`` takes them.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, *command], **{"cwd": REPOSITORY, "text": True} | pipes | options)
    _running.append(process)
    return process


def without(folder: Path, *modules: str, code: Path = REPOSITORY) -> dict[str, str]:
    """The environment of a process that has the code in ``code``, and in which modules are not installed.

    A file that hides them is written into ``folder``.
    """
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({modules!r}))\n")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(code)])}


def end_all() -> None:
    """End what a failed test left behind: it would slow down all that follow."""
    left = [process for process in _running if process.poll() is None]
    _running.clear()
    for process in left:
        process.terminate()
    for process in left:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=SECONDS)
        process.kill()
