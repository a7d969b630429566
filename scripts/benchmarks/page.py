"""Size of the page of 300 made-up runs of 200 evaluations, and how long Chromium takes to open it from disk.

    python scripts/benchmarks/page.py             about a minute; needs chromium (Debian: apt-get install chromium)
    python scripts/benchmarks/page.py --rounds 9

The runs are those of Tables 2 and 4 and some of Table 1; their curves are random numbers. The time is from the start of
the navigation to the end of the load event, with a forced layout; the median of the rounds, the lowest and the highest.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from llqr_sam.engine.records.record import CurvePoint, Metrics, Record, read_records
from llqr_sam.repository import ROOT
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import Planned, plan

RUNS, EVALUATIONS = 300, 200
TABLES = ("2", "4", "1")
SIZES = ("1280,900", "500,900")  # of the window
LOADED = """<script>addEventListener("load", () => {
  const height = document.documentElement.scrollHeight;
  document.title = `loaded ${performance.now()} ${height}`;
});</script></body>"""


def main() -> int:
    """Make the page up, write it with scripts/report.py, and open it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    chromium = shutil.which("chromium")
    if chromium is None:
        print("error: chromium is not installed (Debian: apt-get install chromium).", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        results = Path(name)
        shutil.copytree(ROOT / "results" / "figures", results / "figures")
        _write_records(results)
        report = [sys.executable, str(ROOT / "scripts" / "report.py"), f"paths.results={results}"]
        subprocess.run(report, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        page = results / "report" / "index.html"
        print(f"{RUNS} runs of {EVALUATIONS} evaluations: {page.stat().st_size / 1e6:.2f} MB")
        page.write_text(page.read_text().replace("</body>", LOADED))
        for size in SIZES:
            times = sorted(_opened(chromium, page, size) for _ in range(rounds))
            print(f"window {size}: {statistics.median(times):.2f} s ({times[0]:.2f} to {times[-1]:.2f})")
    return 0


def _write_records(results: Path) -> None:
    """``RUNS`` records with the settings of the tables' runs; the rest is that of a committed record."""
    template = read_records(ROOT / "results" / "runs")[0][0]
    planned = {run.run_id: run for table in TABLES for run in plan(Command.of(f"table={table}"))}
    for number, run in enumerate(list(planned.values())[:RUNS]):
        _made_up(run, template, number).write(results / "runs" / run.folder / f"{run.run_id}.json")


def _made_up(run: Planned, template: Record, seed: int) -> Record:
    draw = np.random.default_rng(seed)
    scores = 70 - 50 * np.exp(-np.arange(EVALUATIONS) / 30) + draw.normal(0, 0.5, EVALUATIONS)
    curve = [
        CurvePoint(epoch, epoch, 0.1, 1.0, float(draw.uniform(1, 2)), round(float(score), 2), 30.0 * epoch)
        for epoch, score in enumerate(scores, start=1)
    ]
    return replace(template, run_id=run.run_id, config=run.settings.as_dict(), metrics=Metrics.from_curve(curve))


def _opened(chromium: str, page: Path, size: str) -> float:
    """Seconds until a page is loaded."""
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}", "--dump-dom"]
    dumped = subprocess.run([*command, page.as_uri()], check=True, capture_output=True, text=True).stdout
    found = re.search(r"<title>loaded ([\d.]+)", dumped)
    if found is None:
        raise SystemExit("error: chromium did not load the page.")
    return float(found[1]) / 1000


if __name__ == "__main__":
    sys.exit(main())
