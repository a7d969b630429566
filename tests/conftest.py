"""Fixtures shared by all tests: where the real data and the authors' numbers are."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-slurm", action="store_true", help="fail where SLURM's packages could be installed and are not"
    )


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with data/ and golden/ (``LLQR_SAM_DATA``, else ../shared beside the repository)."""
    folder = Path(os.environ.get("LLQR_SAM_DATA", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"real data and golden files are not at {folder} (set LLQR_SAM_DATA)")
    return folder


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Ctrl-C means what it means in a terminal, also where the tests were started in the background and ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
