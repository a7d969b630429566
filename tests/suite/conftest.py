"""A workspace with a run in every state."""

from __future__ import annotations

from pathlib import Path

import pytest

from llqr_sam.suite.run.run_folder import note_failure
from tests.suite.plans import plan_of
from tests.suite.records import write_progress, write_record

# Two cells of three seeds.
RUNS = plan_of("table=demo", "table.methods=[{optim: sgdm},{optim: sam}]", "table.seeds=[0,1,2]")


@pytest.fixture
def states(tmp_path: Path) -> Path:
    """sgdm: finished in an hour, diverged after half of one, failed; sam: running, interrupted, missing."""
    for run, status, hours in ((RUNS[0], "finished", 1.0), (RUNS[1], "diverged", 0.5)):
        write_record(tmp_path / "results", run, [90.0], status, hours)  # type: ignore[arg-type]
    note_failure(RUNS[2].run_id, tmp_path / "work" / RUNS[2].run_id, RuntimeError("CUDA out of memory"))
    write_progress(tmp_path / "work" / RUNS[3].run_id, 5, 1800.0)
    write_progress(tmp_path / "work" / RUNS[4].run_id, 2000 / 195, 3600.0)  # evaluated every 2000 steps
    return tmp_path
