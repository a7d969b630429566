"""Pages that scripts/report.py writes for tests: of few tables, for all of them take half a minute."""

from __future__ import annotations

import io
import runpy
import sys
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from llqr_sam.suite.config import command, command_line
from tests.suite.plans import plan_of

RUNS = plan_of("table=7")  # FisherSAM, LLQR^Delta+SAM, LLQR+SAM, five seeds each
REPOSITORY = Path(__file__).resolve().parents[2]
GROUPS = command_line.groups()


def report(results: Path, *words: str, tables: tuple[str, ...] = ("7", "10")) -> tuple[int, list[str]]:
    """Run the script where there are few tables, for all of them take half a minute; exit status and errors."""
    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        for module in (command, command_line):
            patch.setattr(module, "groups", lambda: GROUPS | {"table": tables})
        patch.setattr(sys, "argv", ["report.py", *words, "--results", str(results)])
        runpy.run_path(str(REPOSITORY / "scripts" / "report.py"), run_name="__main__")
    return ended.value.code, errors.getvalue().splitlines()
