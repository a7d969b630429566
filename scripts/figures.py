"""Draw the paper's figures from runs and measurements made here into results/figures/, and its claims as a forest plot.

python scripts/figures.py                     all that can be drawn, about a minute on one core
python scripts/figures.py claims              the claims with their intervals, claims.png
python scripts/figures.py 2                   escape from the sharp ring, and over which rates and radii
python scripts/figures.py 5 6                 refresh cadence and scaling, from the times of table 10
python scripts/figures.py 1 table=8           accuracy in another table's runs; words as for train.py
python scripts/figures.py precision=fast      all, those of runs from runs that were started with this word
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from llqr_sam.report.claims.evidence import gather
from llqr_sam.report.claims.forest import draw_claims
from llqr_sam.report.figures.curves import TABLES
from llqr_sam.report.figures.drawing import NoRecords
from llqr_sam.studies.figures import TITLES, Draw, drawers
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.config.errors import UsageError, exit_status, say, try_each
from llqr_sam.suite.config.sources import parsed_arguments

CLAIMS = "claims"
OF_RUNS = (*TABLES, CLAIMS)  # drawn from run records, so that words of train.py say of which


def main() -> int:
    """Draw what was asked for, or everything."""
    known = (*TITLES, CLAIMS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="number", help=f"of a figure: {', '.join(known)}; default: all")
    parser.add_argument("--results", type=Path, help="folder of runs and timings (default: paths.results)")
    parser.add_argument("--output", type=Path, help="folder of the pictures (default: figures/ in --results)")
    options = parsed_arguments(parser)
    numbers = [word for word in options.words if "=" not in word]
    words = [word for word in options.words if "=" in word]
    for number in numbers:
        if number not in known:
            raise UsageError(f"figure {number} is not drawn here. Choose from: {', '.join(known)}.")
    misplaced = words if set(numbers) - set(OF_RUNS) else []
    if not numbers:
        misplaced = [word for word in words if word.startswith("table")]
    if misplaced:
        raise UsageError(f"{misplaced[0]} is for the figures drawn from runs. Name one of: {', '.join(OF_RUNS)}.")
    results = options.results or Command.of(*words).config.paths.results
    folder = options.output or results / "figures"
    all_drawers = drawers(words) | {CLAIMS: partial(_claims, words)}
    works = {number: partial(_draw, number, draw, results, folder) for number, draw in all_drawers.items()}
    if numbers:
        for number in sorted(set(numbers)):
            works[number]()
        return 0
    _, passed = try_each({f"figure={number}": works.pop(number) for number in OF_RUNS})  # before the long ones
    for work in works.values():
        work()
    say(*passed)
    return 0


def _draw(number: str, draw: Draw, results: Path, folder: Path) -> None:
    """Draw a figure and say where, or why not."""
    start = time.perf_counter()
    try:
        paths = draw(results, folder)
    except NoRecords as reason:
        print(f"figure={number}  not drawn: {reason}", flush=True)
        return
    print(f"figure={number}  {time.perf_counter() - start:.0f} s  ->  {', '.join(map(str, paths))}", flush=True)


def _claims(words: Sequence[str], results: Path, folder: Path) -> list[Path]:
    """Draw the claims and say what does not count."""
    evidence = gather(groups()["table"], [*words, f"paths.results={results}"])
    say(*evidence.problems)
    return [draw_claims(evidence, folder / "claims.png")]


if __name__ == "__main__":
    sys.exit(exit_status(main))
