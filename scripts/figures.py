"""Figures 2 and 3 of the paper, drawn from runs made here, with the numbers beside them in results/figures/.

python scripts/figures.py            both, about a minute on one core
python scripts/figures.py 2          escape from the sharp ring, and over which rates and radii
python scripts/figures.py 3          the same from its bottom, by gradient noise
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from llqr_sam.report.landscapes import FIGURES
from llqr_sam.suite.errors import UsageError, exit_status

OUTPUT = "results/figures"


def main() -> int:
    """Draw what was asked for, or everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", metavar="number", help=f"of a figure: {', '.join(FIGURES)}; default: all")
    parser.add_argument("--output", type=Path, default=Path(OUTPUT), help=f"folder (default: {OUTPUT})")
    options = parser.parse_args()
    for number in options.numbers:
        if number not in FIGURES:
            raise UsageError(f"figure {number} is not drawn here. Choose from: {', '.join(FIGURES)}.")
    for number in options.numbers or FIGURES:
        start = time.perf_counter()
        paths = FIGURES[number](options.output)
        print(f"figure={number}  {time.perf_counter() - start:.0f} s  ->  {', '.join(map(str, paths))}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
