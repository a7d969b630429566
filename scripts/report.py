"""Write the page with all results: results/report/index.html, one file that needs no network.

python scripts/report.py                      from what is in results/: runs, timings and figures
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llqr_sam.report.page import write_page
from llqr_sam.suite.errors import exit_status


def main() -> int:
    """Write the page and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of runs, timings and figures")
    print(f"page  ->  {write_page(parser.parse_args().results)}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
