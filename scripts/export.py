"""Write what the run records hold as tables for other programs; docs/records.md says what each column is.

python scripts/export.py                          runs.csv, curves.csv and refreshes.csv in results/export/
python scripts/export.py dataset=digits optim=sam,llqr_sam optim.rho=0.1          of these runs
python scripts/export.py --parquet                and the same as Parquet; needs pyarrow
python scripts/export.py paths.results=other --output tables/

A run that has several records has one row, of the one that counts. Records that cannot be read are named on standard
error and left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llqr_sam.report.records.columns import Ended, tables
from llqr_sam.report.records.files import has_parquet, write_csv, write_parquet
from llqr_sam.suite.config.command import Command, root
from llqr_sam.suite.config.errors import UsageError, exit_status, say
from llqr_sam.suite.run.run_folder import UnreadableRecordError, find_record, record_files
from llqr_sam.suite.status.filters import Filter


def main() -> int:
    """Export and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--output", type=Path, help="folder of the tables (default: export/ in paths.results)")
    parser.add_argument("--parquet", action="store_true", help="write Parquet, too")
    options = parser.parse_intermixed_args()
    if options.parquet and not has_parquet():
        raise UsageError("--parquet needs pyarrow, which is not installed: pip install pyarrow.")
    results = Command.of(*[word for word in options.words if root(word) == "paths"]).config.paths.results
    chosen = Filter.of([word for word in options.words if root(word) != "paths"])
    every = records(results)
    ended = [each for each in every if chosen.matches(each.record.config)]
    if not ended:
        configs = [each.record.config for each in every]
        reason = f": {chosen.explain(configs)}" if every else ""
        raise UsageError(f"there is nothing to export of {len(every)} runs in {results / 'runs'}{reason}.")
    folder = options.output or results / "export"
    for table in tables(ended):
        paths = [write_csv(table, folder), *([write_parquet(table, folder)] if options.parquet else [])]
        print(f"{table.name}: {len(table.rows)} rows  ->  {', '.join(map(str, paths))}")
    return 0


def records(results: Path) -> list[Ended]:
    """The record of each run; names those that cannot be read."""
    ended = []
    for run_id, paths in record_files(results).items():
        try:
            found, damaged = find_record(run_id, paths)
        except UnreadableRecordError as error:
            found, damaged = None, [str(error)]
        say(*(f"record not exported: {reason}" for reason in damaged))
        if found is not None:
            ended.append(Ended(found[1], found[0].parent.name))
    return ended


if __name__ == "__main__":
    sys.exit(exit_status(main))
