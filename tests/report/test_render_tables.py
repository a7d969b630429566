"""scripts/render_tables.py, as it is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.suite.plans import plan_of
from tests.suite.records import write_record

REPOSITORY = Path(__file__).resolve().parents[2]


def render(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/render_tables.py", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_renders_the_demo_from_its_records(tmp_path):
    for run in plan_of("table=demo")[:4]:
        write_record(tmp_path, run, [70.0, 60.0])
    words = ("table=demo", f"paths.results={tmp_path}")
    done = render(*words)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "demo"
    assert sorted(path.name for path in folder.iterdir()) == ["curves.png", "table.csv", "table.md"]
    assert "70.00 ± 0.00 (3)" in (folder / "table.md").read_text()
    assert "27 runs: 4 finished, 23 missing" in done.stdout
    last = render("--entry", "last", *words)
    assert last.returncode == 0
    assert "60.00 ± 0.00 (3)" in (folder / "table.md").read_text()


def test_a_mistake_is_one_line():
    done = render("table=66")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "table=66 is not a table here" in done.stderr
