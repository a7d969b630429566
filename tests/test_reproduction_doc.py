"""docs/reproduction.md is true: what it says of showing the records of its list works as printed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.suite.plans import plan_of
from tests.suite.records import write_record

REPOSITORY = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```bash\n(.*?)```", (REPOSITORY / "docs" / "reproduction.md").read_text(), re.DOTALL)
COMMANDS = [shlex.split(line) for block in BLOCKS for line in block.splitlines()]
WORDS = ("precision=fast", "precision.deterministic=true")  # of conf/reproduction.yaml
SHOWING = {  # script -> what it writes, and what of the record is in there
    "scripts/render_tables.py": ("tables/table_07.md", b"80.50 (1 of 5)"),
    "scripts/figures.py": ("figures/figure_01.png", b"PNG"),
    "scripts/report.py": ("report/index.html", b"80.50 (1 of 5)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SHOWING)
def test_commands_show_a_record_of_the_list(script, tmp_path):
    (command,) = [words for words in COMMANDS if words[1] == script and set(WORDS) <= set(words)]
    for table in ("table=7", "table=2"):
        write_record(tmp_path, replace(plan_of(table, *WORDS)[0], folder="reproduction"), [80.0, 80.5])
    done = subprocess.run(
        [sys.executable, *command[1:], f"paths.results={tmp_path}"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("table=6 passed over: ") for line in done.stderr.splitlines())
    path, content = SHOWING[script]
    assert content in (tmp_path / path).read_bytes().replace("\u00a0".encode(), b" ")


def test_make_hands_the_words_on():
    (command,) = [words for words in COMMANDS if words[:2] == ["make", "tables"]]
    planned = subprocess.run(["make", "--dry-run", *command[1:]], cwd=REPOSITORY, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr
    for script in SHOWING:
        (line,) = [line for line in planned.stdout.splitlines() if script in line]
        assert set(WORDS) <= set(line.split())
