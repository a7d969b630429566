"""Render the tables from the run records: results/tables/table_NN.{md,csv,tex}, the demo's table and curves, and
the paper's claims, results/tables/claims.{md,csv}.

    python scripts/render_tables.py                            every table, and the claims
    python scripts/render_tables.py --claims                   the claims alone
    python scripts/render_tables.py table=2 --entry last       one, with last-epoch accuracies
    python scripts/render_tables.py table=demo
    python scripts/render_tables.py precision=fast             every table that can take the word; the others are named

Further words are those of train.py and must be the same, for a run is found by its settings.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from llqr_sam.engine.records.record import read_records
from llqr_sam.report.claims.claims_text import verdict, write_claims
from llqr_sam.report.claims.evidence import gather
from llqr_sam.report.figures.curves import draw_curves
from llqr_sam.report.tables.accuracy_table import BestOrLast, collect
from llqr_sam.report.tables.accuracy_text import print_accuracy
from llqr_sam.report.tables.printed_table import write_table
from llqr_sam.studies.table_10.table import cadence, print_cadence
from llqr_sam.studies.table_10.timing import read_timings
from llqr_sam.suite.config.command import Command, every_table
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.config.errors import UsageError, exit_status, say, try_each
from llqr_sam.suite.config.sources import parsed_arguments
from llqr_sam.suite.plan.plan import plan


def main() -> int:
    """Render the table that the words name, the claims, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value", help="table=N and what its runs were started with")
    parser.add_argument("--entry", choices=("best", "last"), default="best", help="which accuracy of a run")
    parser.add_argument("--claims", action="store_true", help="the paper's claims, and no table")
    arguments = parsed_arguments(parser)
    words: list[str] = arguments.words
    if arguments.claims:
        damage, passed = [render_claims(words)], []
    elif any(word.startswith("table=") for word in words):
        damage, passed = [render(Command.of(*words), arguments.entry)], []
    else:
        works = {name: partial(render, table, arguments.entry) for name, table in every_table(*words).items()}
        damage, passed = try_each(works)
        passed += render_claims(words)
    results = _results(words)
    say(*dict.fromkeys([*(line for lines in damage for line in lines), *_unreadable(results), *passed]))
    return 0


def render(command: Command, kind: BestOrLast) -> list[str]:
    """Render one table and say what was written; returns a line for each record that does not count."""
    config, asked = command.config, command.table
    if config.select is not None:
        raise UsageError(f"select={config.select} is for train.py; a table shows what was selected.")
    if config.times_networks:
        plan(command)  # refuses words that no run of the table can take
        timings, damage = read_timings(config.paths.results)
        networks = cadence(asked, timings)
        total = f"{sum(network.timing is not None for network in networks)} measured"
        written = write_table(print_cadence(asked, networks), Path(asked.output), asked.formats)
    else:
        status, table = collect(command, kind)
        damage, total = status.damaged, status.total()
        written = write_table(print_accuracy(table), Path(asked.output), asked.formats)
        if asked.curves and draw_curves(table, Path(asked.curves)):
            written.append(Path(asked.curves))
    scale = f" scale={config.scale.name}" if not config.scale.is_paper else ""
    print(f"table={asked.number}{scale}  {total}  ->  {', '.join(map(str, written))}")
    return damage


def render_claims(words: list[str]) -> list[str]:
    """Hold the claims against the records and say what was written; returns a line for each that does not count."""
    evidence = gather(groups()["table"], words)
    written = write_claims(evidence, _results(words) / "tables" / "claims")
    print(f"claims  {verdict(evidence)}  ->  {', '.join(map(str, written))}")
    return list(evidence.problems)


def _results(words: list[str]) -> Path:
    return Command.of(*(word for word in words if word.startswith("paths."))).config.paths.results


def _unreadable(results: Path) -> list[str]:
    """A line for each file under the records' folder that is not a record."""
    _, damaged = read_records(results / "runs")
    return [f"record not counted: {line}" for line in damaged]


if __name__ == "__main__":
    sys.exit(exit_status(main))
