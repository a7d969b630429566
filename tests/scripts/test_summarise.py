"""scripts/summarise.py, as it is typed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.suite.plans import plan_of
from tests.suite.records import write_record

REPOSITORY = Path(__file__).resolve().parents[2]


def summarise(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/summarise.py", *words, f"paths.results={folder}"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_records_of_a_table_and_of_single_runs_are_one_question(tmp_path):
    for rho in (0.05, 0.2):
        for run in plan_of("table=demo", "optim=sam", "table.seeds=[0,1]", f"optim.rho={rho}"):
            write_record(tmp_path, run, [90.0 + 10 * rho + run.settings.seed])
    (single,) = plan_of("table=demo", "optim=sam", "seed=0", "optim.rho=0.1")
    write_record(tmp_path, replace(single, folder="adhoc"), [99.0])
    done = summarise(tmp_path, "over=optim.rho", "dataset=digits")
    assert (done.returncode, done.stderr) == (0, "")
    assert "best optim.rho=0.1 for digits small_cnn sam: 99.00, n = 1" in done.stdout
    files = [tmp_path / "sweeps" / f"optim.rho-digits.{suffix}" for suffix in ("md", "csv", "png")]
    assert done.stdout.splitlines()[-1] == f"-> {', '.join(map(str, files))}"
    assert all(path.stat().st_size for path in files)
    assert "`python scripts/summarise.py over=optim.rho dataset=digits`" in files[0].read_text()


@pytest.mark.slow
def test_a_mistake_is_one_line(tmp_path):
    for words in (["over=optim.rho"], ["over=rho"]):
        done = summarise(tmp_path, *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith(f"error: no record is under {tmp_path}/runs: train some first")
