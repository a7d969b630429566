"""Write the page with all results: results/report/index.html, one file that needs no network.

python scripts/report.py                      from what is in results/: runs, timings and figures
python scripts/report.py precision=fast precision.deterministic=true        from runs that were started with these words

Words are those of train.py and must be the same, for a run is found by its settings. A table that cannot take them is
named on standard error and passed over.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llqr_sam.report.page.page import write_page
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError, exit_status


def main() -> int:
    """Write the page and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value", help="what the runs were started with")
    parser.add_argument("--results", type=Path, help="folder of runs, timings and figures (default: paths.results)")
    options = parser.parse_intermixed_args()
    config = Command.of(*options.words).config
    if config.table is not None:
        raise UsageError(f"table={config.table.number} has no use here: the page has every table.")
    if config.select is not None:
        raise UsageError(f"select={config.select} is for train.py; the page shows what was selected.")
    path, passed = write_page(options.results or config.paths.results, options.words)
    for line in passed:
        print(line, file=sys.stderr)
    print(f"page  ->  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
