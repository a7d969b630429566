"""Tests of a GPU are found on a machine that has PyTorch and little else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
HIDING = """
import sys

class Hidden:
    NAMES = {"wandb", "pytorch_optimizer", "curvlinops", "submitit", "scipy",
             "fairseq", "sacrebleu", "sacremoses", "subword_nmt", "bitarray"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def pytest_of(*words: str, **variables: str) -> str:
    """What a pytest in the repository prints."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *words]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_they_are_all_found_without_the_packages_that_others_need(tmp_path: Path) -> None:
    (tmp_path / "hiding.py").write_text(HIDING)
    path = os.pathsep.join((str(tmp_path), str(REPOSITORY)))
    words = ("--collect-only", "-q", "-m", "gpu")  # prints a line for each file: its name and how many are in it
    found, plain = pytest_of("-p", "hiding", *words, PYTHONPATH=path), pytest_of(*words, PYTHONPATH=path)
    assert found == plain
    assert "tests/engine/loop/test_fast.py: " in found


@pytest.mark.slow
def test_they_and_only_they_skip_without_a_gpu() -> None:
    printed = pytest_of("-m", "", "-rs", "tests/engine/loop/test_losses.py", CUDA_VISIBLE_DEVICES="")
    (line,) = (line for line in printed.splitlines() if line.startswith("SKIPPED"))
    assert line.startswith("SKIPPED [1] ")
    assert line.endswith(": needs a CUDA device")
