"""The paper's figures, drawn from runs and measurements made here, with the numbers beside them in results/figures/.

python scripts/figures.py                     all that can be drawn, about a minute on one core
python scripts/figures.py 2                   escape from the sharp ring, and over which rates and radii
python scripts/figures.py 5 6                 refresh cadence and scaling, from the times of table 10
python scripts/figures.py 1 table=8           error and loss from another table's runs; words as for train.py
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from llqr_sam.report.curves import TABLES
from llqr_sam.report.drawing import NoRecords
from llqr_sam.report.figures import TITLES, drawers
from llqr_sam.suite.errors import UsageError, exit_status


def main() -> int:
    """Draw what was asked for, or everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="number", help=f"of a figure: {', '.join(TITLES)}; default: all")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of runs and timings")
    parser.add_argument("--output", type=Path, help="folder of the pictures (default: figures/ in --results)")
    options = parser.parse_args()
    numbers = [word for word in options.words if "=" not in word]
    words = [word for word in options.words if "=" in word]
    for number in numbers:
        if number not in TITLES:
            raise UsageError(f"figure {number} is not drawn here. Choose from: {', '.join(TITLES)}.")
    if words and not (numbers and set(numbers) <= set(TABLES)):
        raise UsageError(f"{words[0]} is for the figures drawn from runs. Name one of: {', '.join(TABLES)}.")
    for number, draw in drawers(words).items():
        if numbers and number not in numbers:
            continue
        start = time.perf_counter()
        try:
            paths = draw(options.results, options.output or options.results / "figures")
        except NoRecords as reason:
            print(f"figure={number}  not drawn: {reason}", flush=True)
            continue
        print(f"figure={number}  {time.perf_counter() - start:.0f} s  ->  {', '.join(map(str, paths))}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
