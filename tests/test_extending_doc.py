"""The commands of docs/extending.md about files and code run as they are printed: each takes the user's folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import REPOSITORY

COMMANDS = ("mkdir", "cat", "echo", "python")


def typed(heading: str) -> list[str]:
    """The blocks of commands of a section, as one types them."""
    text = (REPOSITORY / "docs" / "extending.md").read_text()
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"(?:^ {4}.*\n|^\n(?=\n* {4}))+", section, re.MULTILINE)
    lines = [re.sub(r"^ {4}", "", block, flags=re.MULTILINE).strip() for block in blocks]
    return [block for block in lines if block.startswith(COMMANDS)]


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path) -> None:
    for part in ("conf", "llqr_sam", "scripts", "slurm", "results/paper"):
        shutil.copytree(REPOSITORY / part, tmp_path / part)
    shutil.copy(REPOSITORY / "train.py", tmp_path)
    blocks = typed("Your own files") + typed("Your own code")
    assert sum(block.count("\npython ") for block in blocks) == 8
    script = "\n".join(["set -e", 'python() { "$PYTHON" "$@"; }', *blocks])
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "\n6 runs: 6 missing\n" in done.stdout
    assert "table=mine: A radius of my own\n6 runs: 6 finished" in done.stdout
    results = tmp_path / "results"
    assert "mysam" in (results / "tables" / "mine.md").read_text()
    assert (results / "figures" / "figure_01.png").stat().st_size
    assert "A radius of my own" in (results / "report" / "index.html").read_text()
    assert len(list((results / "runs" / "adhoc").glob("digits-two_layers-*.json"))) == 1
