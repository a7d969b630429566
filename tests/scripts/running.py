"""Scripts as they are typed, in this process."""

from __future__ import annotations

import io
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def script(name: str, *words: str) -> tuple[int, list[str], list[str]]:
    """``python scripts/<name> <words>``: exit status, and the lines of standard output and error."""
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", [name, *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    assert isinstance(ended.value.code, int)
    return ended.value.code, output.getvalue().splitlines(), errors.getvalue().splitlines()
