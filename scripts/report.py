"""Write the page with all results: results/report/index.html, one file that needs no network.

python scripts/report.py                      from what is in results/: runs, timings and figures
python scripts/report.py precision=fast precision.deterministic=true        from runs that were started with these words
python scripts/report.py paths.results=/data/mine        of another folder of results
python scripts/report.py watch=true           again and again while runs go on, until Ctrl-C

Words are those of train.py and must be the same, for a run is found by its settings. A table that cannot take them is
named on standard error and passed over.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from llqr_sam.report.claims.evidence import gather
from llqr_sam.report.page.accuracy_section import accuracy_section
from llqr_sam.report.page.page import RELOAD, write_page
from llqr_sam.report.page.section import Section
from llqr_sam.report.page.sweeps_section import sweep_sections
from llqr_sam.report.tables.reader import TableReader
from llqr_sam.studies.figures import TITLES
from llqr_sam.studies.table_9 import print_table_9
from llqr_sam.studies.table_10.table import cadence, times_section
from llqr_sam.studies.table_10.timing import Timing, read_timings
from llqr_sam.suite.config.command import Command, every_table
from llqr_sam.suite.config.command_line import groups, merged
from llqr_sam.suite.config.errors import MISTAKES, UsageError, exit_status, explain, say, try_each
from llqr_sam.suite.config.sources import parsed_arguments
from llqr_sam.suite.plan.plan import plan

WATCH = {"watch=true": True, "watch=false": False}


def main() -> int:
    """Write the page and say where; with watch=true until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value", help="watch=true, and what the runs were started with")
    parser.add_argument("--results", type=Path, help="folder of runs, timings and figures (default: paths.results)")
    options = parsed_arguments(parser)
    watch = [WATCH.get(word) for word in options.words if word.startswith("watch=")]
    if None in watch:
        raise UsageError("watch= must be true or false.")
    words = [word for word in options.words if not word.startswith("watch=")]
    config = Command.of(*words).config
    if config.table is not None:
        raise UsageError(f"table={config.table.number} has no use here: the page has every table.")
    if config.select is not None:
        raise UsageError(f"select={config.select} is for train.py; the page shows what was selected.")
    page = Page(options.results or config.paths.results, words)
    print(f"page  ->  {page.write(watching=any(watch))}", flush=True)
    return keep_writing(page) if any(watch) else 0


def keep_writing(page: Page) -> int:
    """Write the page every ``RELOAD`` seconds until Ctrl-C, and a last time as one that does not load itself again."""
    print(f"written again every {RELOAD} seconds; Ctrl-C ends it", flush=True)
    try:
        while True:
            time.sleep(RELOAD)
            try:
                page.write(watching=True)
            except (OSError, *MISTAKES) as mistake:  # a full disk, a file half copied: the next time may be better
                say(f"not written: {explain(mistake)}")
    except KeyboardInterrupt:
        page.write()
        print("ended")
    return 0


@dataclass
class Page:
    """The page of a folder of results. A second ``write`` plans no run anew."""

    results: Path
    words: Sequence[str]  # what the runs were started with
    _reader: TableReader = field(default_factory=TableReader)
    _said: set[str] = field(default_factory=set)

    def write(self, *, watching: bool = False) -> Path:
        """Write the page from what is on disk now, and say once what was passed over."""
        self._reader.forget()
        timings, damaged = read_timings(self.results)
        words = merged(self.words, [f"paths.results={self.results}"])
        paths = [word for word in words if word.startswith("paths.")]
        shown = [word for word in words if word not in paths]
        sections, passed = try_each(self._works(every_table(*shown, *paths), timings))
        claims = gather(groups()["table"], [*shown, *paths], self._reader.read)
        sections += [Section(print_table_9()), *sweep_sections(Command.of(*paths))]
        say(*(line for line in passed if line not in self._said))
        self._said.update(passed)
        notes = [*damaged, *passed]
        return write_page(self.results, claims, sections, TITLES, shown, notes, watching=watching)

    def _works(self, tables: Mapping[str, Command], timings: Sequence[Timing]) -> dict[str, Callable[[], Section]]:
        return {name: partial(self._section, command, timings) for name, command in tables.items()}

    def _section(self, command: Command, timings: Sequence[Timing]) -> Section:
        """A table of trained networks or of times."""
        if not command.config.times_networks:
            return accuracy_section(command, *self._reader.read(command))
        plan(command)  # refuses words that no run of the table can take
        return times_section(command.table, cadence(command.table, timings))


if __name__ == "__main__":
    sys.exit(exit_status(main))
