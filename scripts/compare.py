"""Print how the settings and the curves of two runs differ.

python scripts/compare.py digits-small_cnn-sam-s0 digits-small_cnn-sgdm-s0
python scripts/compare.py results/runs/adhoc/RUN.json other/results/runs/adhoc/RUN.json        was it reproduced?

RUN is a run id, the beginning of one, the file of a record, or a run's folder in the workspace; of a run that has not
ended the settings are compared. paths.results= and paths.workspace= say where to look.
"""

from __future__ import annotations

import argparse
import sys

from llqr_sam.report.records.compare import comparison
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError, exit_status
from llqr_sam.suite.run.lookup import find_run


def main() -> int:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="RUN RUN [key=value]", help="two runs, and where they are")
    words: list[str] = parser.parse_args().words
    runs = [word for word in words if "=" not in word]
    if len(runs) != 2:
        raise UsageError(f"two runs are compared, not {len(runs)}: scripts/compare.py RUN RUN.")
    paths = Command.of(*(word for word in words if "=" in word)).config.paths
    print(*comparison(*(find_run(name, paths.results, paths.workspace) for name in runs)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
