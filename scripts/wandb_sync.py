"""Upload finished runs that were logged offline to Weights & Biases, each once.

    python scripts/wandb_sync.py                  the runs of outputs/runs that have a record in results/runs, and the
                                                  page results/report/index.html, if `make report` has written it
    python scripts/wandb_sync.py table=2          the runs, and the rendered files of Table 2, as an artifact

Needs an account (``wandb login``). Further words are those of train.py: paths.workspace=, paths.results=,
logger.project= (for a table and the page; a run goes to the project it was started with). A second call has nothing to
upload.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError, exit_status
from llqr_sam.suite.config.sources import parsed_arguments
from llqr_sam.suite.plan.plan import table_folder
from llqr_sam.suite.status.uploads import PAGE, UploadError, log_page, log_table, run_id_of, upload, waiting


def main() -> int:
    """Upload; exit status 1 if W&B refuses a run, which leaves the rest to the next call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value")
    config = Command.of(*parsed_arguments(parser).words).config
    workspace, table = config.paths.workspace, config.table
    if table is not None:
        files = [Path(f"{table.output}.{suffix}") for suffix in table.formats]
        files += [Path(table.curves)] if table.curves and Path(table.curves).exists() else []  # none without runs
        try:
            log_table(table_folder(table.number, config.scale), files, config.logger.project, workspace)
        except FileNotFoundError as error:
            raise UsageError(f"{error.filename} is not there: render the table first.") from error
    elif (page := config.paths.results / PAGE).exists():
        log_page(page, config.logger.project, workspace)
    files_of_runs = list(waiting(config.paths.results, workspace, config.stale_minutes))
    for file in files_of_runs:
        try:
            upload(file)
        except UploadError as error:
            print(f"not uploaded, and no further one tried: {error}", file=sys.stderr)
            return 1
        print(f"uploaded {run_id_of(file)}")
    print(f"{len(files_of_runs)} uploaded" if files_of_runs else "nothing to upload")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
