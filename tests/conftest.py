"""What all tests share: one thread, repeatable draws, and where the real data and the authors' numbers are."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.processes import end_all

if TYPE_CHECKING:
    from tests.methods.workers import Workers  # which loads torch

# One thread in this process and in all that it starts, before torch and NumPy are loaded. The number of threads sets
# the order in which numbers are summed, and tests compare runs of different processes bit for bit.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

# No example has a time limit, and all machines draw the same ones.
settings.register_profile("anywhere", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("anywhere")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-slurm", action="store_true", help="fail where SLURM's packages could be installed and are not"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test of a GPU skips where there is none, before any of its fixtures is made."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with data/ and golden/ (``LLQR_SAM_DATA``, else ../shared beside the repository)."""
    folder = Path(os.environ.get("LLQR_SAM_DATA", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"real data and golden files are not at {folder} (set LLQR_SAM_DATA)")
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Two processes joined by gloo: ``two(function, *args)`` returns the results by rank."""
    from tests.methods.workers import Workers

    workers = Workers(2, tmp_path_factory.mktemp("two"))
    yield workers
    workers.close()


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    """Every test starts from the same random state."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Ctrl-C means what it means in a terminal, also where the tests were started in the background and ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _processes_end() -> Iterator[None]:
    """No process of a failed test runs on beside the tests that follow."""
    yield
    end_all()


@pytest.fixture(scope="session")
def captions(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a small, prepared ``multi30k``: the first 600, 40 and 40 pairs, 500 merges. Needs fairseq."""
    from data_preparation.subwords import prepare_folder

    source, root = tmp_path_factory.mktemp("text"), tmp_path_factory.mktemp("data")
    for split, stem, lines in (("train", "train", 600), ("valid", "val", 40), ("test", "test_2016_flickr", 40)):
        for language in ("de", "en"):
            text = (shared / "data" / "multi30k" / f"{stem}.{language}").read_text("utf-8").split("\n")[:lines]
            (source / f"{split}.{language}").write_text("\n".join(text) + "\n", "utf-8")
    prepare_folder(root / "multi30k", source, merges=500)
    return root
