"""Run conf/reproduction.yaml, the paper's numbers in order of value, within a time limit.

    python scripts/reproduce_gpu.py dry_run=true                 the list, and what is done
    python scripts/reproduce_gpu.py minutes=10                   ten minutes of it; the same command continues
    python scripts/reproduce_gpu.py parts=1,3                    some of its parts
    python scripts/reproduce_gpu.py retry=failed                 also runs that failed or diverged, each once a call
    python scripts/reproduce_gpu.py dataset.path=/data/cifar100.npz precision.compile=false

Further words are those of train.py; they hold for every run and replace the list's own. status=true is dry_run=true.
Exit status: 0, also when the time is up; 1 a step failed; 2 a mistake in the command; 130 interrupted. The same command
continues with what is left. A run that failed is tried again with retry=failed only.
"""

from __future__ import annotations

import sys

from llqr_sam.repository import CONF
from llqr_sam.studies.gpu_window.step_list import StepList
from llqr_sam.suite.config.errors import exit_status


def main() -> int:
    """Read the words, run or show the list."""
    return StepList(CONF / "reproduction.yaml", sys.argv[1:]).carry_out()


if __name__ == "__main__":
    sys.exit(exit_status(main))
