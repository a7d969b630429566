"""Render the tables from the run records: results/tables/table_NN.{md,csv,tex}, and the demo's table and curves.

    python scripts/render_tables.py                            every table
    python scripts/render_tables.py table=2 --entry last       one, with last-epoch accuracies
    python scripts/render_tables.py table=demo

Further words are those of train.py and must be the same, for a run is found by its settings.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from omegaconf import DictConfig

from llqr_sam.engine.timing import read_timings
from llqr_sam.report.cadence import cadence, write_cadence
from llqr_sam.report.curves import draw_curves
from llqr_sam.report.entries import EntryKind, build_table
from llqr_sam.report.paper import read_accuracy
from llqr_sam.report.tables import RENDERERS, write_table
from llqr_sam.suite.compose import compose_config
from llqr_sam.suite.errors import UsageError, exit_status
from llqr_sam.suite.grid import plan
from llqr_sam.suite.status import Status
from llqr_sam.suite.timings import timings_folder
from llqr_sam.suite.words import groups

PLACES = (
    "paths.",
    "device=",
    "logger",
    "launch",
    "dry_run=",
    "status=",
    "retry=",
    "stale_minutes=",
)  # words that do not say which runs


def main() -> int:
    """Render the table that the words name, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value", help="table=N and what its runs were started with")
    parser.add_argument("--entry", choices=("best", "last"), default="best", help="which accuracy of a run")
    arguments = parser.parse_intermixed_args()
    words: list[str] = arguments.words
    named = any(word.startswith("table=") for word in words)
    for selection in [words] if named else [[f"table={number}", *words] for number in groups()["table"]]:
        render(selection, arguments.entry)
    return 0


def render(words: list[str], kind: EntryKind) -> None:
    """Render one table and say what was written."""
    config = compose_config(words)
    if config.table is None:
        raise UsageError("table=null names no table to render.")
    unknown = set(config.table.formats) - set(RENDERERS)
    if unknown:
        raise UsageError(f"table.formats={sorted(unknown)} is not possible. Choose from: {', '.join(RENDERERS)}.")
    if config.table.timing is not None:
        render_times(config)
        return
    paths = config.paths
    status = Status.of(plan(config, words), Path(paths.results), Path(paths.workspace), config.stale_minutes)
    command = shlex.join(["python", "train.py", *(word for word in words if not word.startswith(PLACES))])
    table = build_table(config.table.number, config.table.title, command, status, read_accuracy(), kind)
    written = write_table(table, Path(config.table.output), list(config.table.formats))
    if config.table.curves and draw_curves(config.table.title, status, Path(config.table.curves)):
        written.append(Path(config.table.curves))
    print(*status.damage(), sep="\n", end="\n" if status.damaged else "", file=sys.stderr)
    print(f"table={config.table.number}  {status.total()}  ->  {', '.join(map(str, written))}")


def render_times(config: DictConfig) -> None:
    """Render a table of times and say what was written."""
    timings, damaged = read_timings(timings_folder(Path(config.paths.results)))
    sections = cadence(config.table, timings)
    written = write_cadence(config.table, sections, Path(config.table.output))
    print(*damaged, sep="\n", end="\n" * bool(damaged), file=sys.stderr)
    measured = sum(section.timing is not None for section in sections)
    print(f"table={config.table.number}  {measured} measured  ->  {', '.join(map(str, written))}")


if __name__ == "__main__":
    sys.exit(exit_status(main))
