"""A run of one epoch with kept weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from llqr_sam.engine.records.record import Record
from llqr_sam.suite.run.attempt import attempt
from llqr_sam.suite.run.lookup import KnownRun, find_run
from tests.suite.jobs import jobs_of

LLQR = ("optim=llqr_sam", "optim.inner_steps=2", "protocol.epochs=1", "keep_weights=true")


@pytest.fixture(scope="package")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    """The record, and the folder with results/ and work/."""
    folder = tmp_path_factory.mktemp("kept")
    (job,) = jobs_of(folder, *LLQR)
    return attempt(job), folder


@pytest.fixture
def run(kept: tuple[Record, Path]) -> KnownRun:
    """The run as it is found."""
    record, folder = kept
    return find_run(record.run_id, folder / "results", folder / "work")
