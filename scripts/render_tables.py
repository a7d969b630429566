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

from llqr_sam.engine.record import read_records
from llqr_sam.report.curves import draw_curves
from llqr_sam.report.entries import EntryKind, build_table
from llqr_sam.report.paper import read_accuracy
from llqr_sam.report.tables import RENDERERS, write_table
from llqr_sam.suite.compose import compose_config
from llqr_sam.suite.errors import UsageError, exit_status
from llqr_sam.suite.grid import plan
from llqr_sam.suite.status import Status
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
    tables = [words] if named else [[f"table={number}", *words] for number in groups()["table"]]
    passed = [line for table in tables for line in render(table, arguments.entry)]
    passed += _unreadable(Path(compose_config(tables[0]).paths.results))
    for line in dict.fromkeys(passed):
        print(line, file=sys.stderr)
    return 0


def render(words: list[str], kind: EntryKind) -> list[str]:
    """Render one table and say what was written; returns a line for each record that does not count."""
    config = compose_config(words)
    if config.table is None:
        raise UsageError("table=null names no table to render.")
    if config.select is not None:
        raise UsageError(f"select={config.select} is for train.py; a table shows what was selected.")
    unknown = set(config.table.formats) - set(RENDERERS)
    if unknown:
        raise UsageError(f"table.formats={sorted(unknown)} is not possible. Choose from: {', '.join(RENDERERS)}.")
    paths = config.paths
    status = Status.of(plan(config, words), Path(paths.results), Path(paths.workspace), config.stale_minutes)
    command = shlex.join(["python", "train.py", *(word for word in words if not word.startswith(PLACES))])
    number, title, metric = config.table.number, config.table.title, config.table.metric
    table = build_table(number, title, command, status, read_accuracy(), kind, config.table.baseline, metric)
    written = write_table(table, Path(config.table.output), list(config.table.formats))
    if config.table.curves and draw_curves(title, status, Path(config.table.curves), metric):
        written.append(Path(config.table.curves))
    print(f"table={config.table.number}  {status.total()}  ->  {', '.join(map(str, written))}")
    return list(status.damage())


def _unreadable(results: Path) -> list[str]:
    """A line for each file among the records that is none, whatever its name."""
    _, damaged = read_records(results / "runs")
    return [f"record not counted: {path}: {reason}" for path, reason in damaged]


if __name__ == "__main__":
    sys.exit(exit_status(main))
