from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from llqr_sam.engine.observers.unread import StandardError, until_unread

def main():
    for number in range(100_000):
        print(number)
    return 0

sys.exit(until_unread(main))
"""


def run(program: str, shell: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-o", "pipefail", "-c", shell, "bash", sys.executable, program]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_program_that_nobody_reads_ends_quietly() -> None:
    """With the status that a shell gives to SIGPIPE."""
    done = run(PROGRAM, '"$1" -c "$2" | head -1')
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 141)


def test_a_program_that_is_read_says_its_status() -> None:
    done = run(PROGRAM.replace("return 0", "return 3"), '"$1" -c "$2" | tail -1')
    assert (done.stdout, done.stderr, done.returncode) == ("99999\n", "", 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "printing", ["print('x', file=StandardError())", "print('x', file=StandardError(), flush=True)"]
)
def test_standard_error_that_nobody_reads_ends_nothing(printing: str) -> None:
    program = PROGRAM.replace("print(number)", printing)
    done = run(program, '"$1" -c "$2" 2>&1 >/dev/null | head -1; echo "${PIPESTATUS[0]}"')
    assert done.stdout == "x\n0\n"
