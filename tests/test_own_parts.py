"""The example of own parts: short, and its table has the own optimizer beside the paper's methods."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from llqr_sam.engine.records.record import read_records
from tests.waiting import PATIENCE

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLE = REPOSITORY / "examples" / "own_parts"
WORDS = ("-cd", str(EXAMPLE / "conf"), "plugins=[my_parts]", "table=rings", "logger=none")


def test_it_is_short():
    files = [*EXAMPLE.rglob("*.py"), *EXAMPLE.rglob("*.yaml")]
    assert {path.parent.name for path in files} == {"own_parts", "optim", "arch", "dataset", "table"}
    assert sum(len(path.read_text().splitlines()) for path in files) <= 60


@pytest.mark.slow
def test_its_table_compares_the_own_optimizer(tmp_path):
    paths = (f"paths.results={tmp_path}/results", f"paths.workspace={tmp_path}/work")
    for script in ("train.py", "scripts/render_tables.py"):
        command = [sys.executable, str(REPOSITORY / script), *WORDS, *paths]
        run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=EXAMPLE)
        assert run.returncode == 0, run.stderr
    with (tmp_path / "results" / "rings" / "table.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"sgdm", "signum", "sam"}
    assert all(float(row["mean"]) > 60 for row in rows.values())  # chance is 25
    records, damaged = read_records(tmp_path / "results" / "runs")
    assert (len(records), damaged) == (9, [])
    assert all(record.packages["my_parts"].startswith("sha256:") for record in records)
