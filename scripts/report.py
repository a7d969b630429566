"""Write the page with all results: results/report/index.html, one file that needs no network.

python scripts/report.py                      from what is in results/: runs, timings and figures
python scripts/report.py precision=fast precision.deterministic=true        from runs that were started with these words

Words are those of train.py and must be the same, for a run is found by its settings. A table that cannot take them is
named on standard error and passed over.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from llqr_sam.report.claims.evidence import gather
from llqr_sam.report.page.page import Section, accuracy_section, write_page
from llqr_sam.report.page.sweeps_section import sweep_sections
from llqr_sam.studies.figures import TITLES
from llqr_sam.studies.table_9 import print_table_9
from llqr_sam.studies.table_10.table import cadence, times_section
from llqr_sam.studies.table_10.timing import Timing, read_timings
from llqr_sam.suite.config.command import Command, every_table
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.config.errors import UsageError, exit_status, say, try_each
from llqr_sam.suite.config.sources import parsed_arguments
from llqr_sam.suite.plan.plan import plan


def main() -> int:
    """Write the page and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value", help="what the runs were started with")
    parser.add_argument("--results", type=Path, help="folder of runs, timings and figures (default: paths.results)")
    options = parsed_arguments(parser)
    config = Command.of(*options.words).config
    if config.table is not None:
        raise UsageError(f"table={config.table.number} has no use here: the page has every table.")
    if config.select is not None:
        raise UsageError(f"select={config.select} is for train.py; the page shows what was selected.")
    results = options.results or config.paths.results
    timings, damaged = read_timings(results)
    tables = every_table(*options.words, f"paths.results={results}")
    sections, passed = try_each({name: partial(_section, table, timings) for name, table in tables.items()})
    claims = gather(groups()["table"], [*options.words, f"paths.results={results}"])
    sections += [Section(print_table_9()), *sweep_sections(results)]
    path = write_page(results, claims, sections, TITLES, options.words, [*damaged, *passed])
    say(*passed)
    print(f"page  ->  {path}")
    return 0


def _section(command: Command, timings: Sequence[Timing]) -> Section:
    """A table of trained networks or of times."""
    if not command.config.times_networks:
        return accuracy_section(command)
    plan(command)  # refuses words that no run of the table can take
    return times_section(command.table, cadence(command.table, timings))


if __name__ == "__main__":
    sys.exit(exit_status(main))
