"""The examples run as they are, in seconds, and what they print is a loss that falls."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.py"))
WITH_ANOTHER_LIBRARY = {"accelerate_loop", "lightning_module", "transformers_trainer"}  # whose training loop they use


# What Lightning says of the machine: it has SLURM, or more cores than the loader has workers.
OF_THE_MACHINE = ["-W", "ignore:The `srun` command", "-W", "ignore:The 'train_dataloader' does not have many workers"]


def _marked(path):
    return pytest.param(path, id=path.stem, marks=[pytest.mark.integrations] * (path.stem in WITH_ANOTHER_LIBRARY))


@pytest.mark.parametrize("path", [_marked(path) for path in EXAMPLES])
def test_example_trains(path):
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", *OF_THE_MACHINE, path],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=path.parent.parent,
    )
    assert run.returncode == 0, run.stderr
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)$", run.stdout, re.MULTILINE)]
    assert len(losses) >= 4
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_says_how_to_run_it(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert f"    python examples/{path.name}\n" in text


def test_each_kind_of_loop_has_one():
    assert {path.stem for path in EXAMPLES} == {"plain_loop", "timm_finetune", "fsdp2"} | WITH_ANOTHER_LIBRARY
