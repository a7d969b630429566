"""Compare runs over the settings in which they differ, from any records under results/runs.

    python scripts/summarise.py over=optim.rho                                  every method, data set and network
    python scripts/summarise.py over=optim.rho dataset=cifar100 optim=sam       some of them
    python scripts/summarise.py over=optim.rho,optim.interval protocol.epochs=30
    python scripts/summarise.py over=optim dataset=digits                       methods side by side

Records with equal settings but the seed are one row. Further words choose among the records by any setting that they
keep; of several values (seed=0,1) any counts. Writes results/sweeps/<name>.md, .csv and .png, and prints the table.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llqr_sam.engine.records.record import read_records
from llqr_sam.report.figures.drawing import write_figure
from llqr_sam.report.sweeps.question import Question
from llqr_sam.report.sweeps.sweep import best_of, check_data, recorded
from llqr_sam.report.sweeps.sweep_figure import draw_sweep
from llqr_sam.report.sweeps.sweep_text import best_sentences, print_sweep, table_lines
from llqr_sam.report.tables.printed_table import write_table
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError, exit_status, say


def main() -> int:
    """Print and write the table and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value", help="over=KEY[,KEY], and which records")
    words: list[str] = parser.parse_args().words
    results = Command.of(*(word for word in words if word.startswith("paths."))).config.paths.results
    records, damaged = read_records(results / "runs")
    say(*(f"record not counted: {line}" for line in damaged))
    if not records:
        example = "python train.py -m optim.rho=0.05,0.1 seed=0,1,2"
        raise UsageError(f"no record is under {results / 'runs'}: train some first, as with {example}.")
    runs = recorded(records)
    asked = [word for word in words if not word.startswith("paths.")]
    question = Question.of(asked, runs)
    sweep = question.answer(runs)
    check_data([run for point in sweep.points for run in point.runs])
    best = [point for points in sweep.series(question.over).values() if (point := best_of(points))]
    command = " ".join(["python scripts/summarise.py", *asked])
    printed = print_sweep(sweep, best, f"Over {' and '.join(question.over)}", command)
    print(*table_lines(printed), *best_sentences(sweep, question.over), sep="\n")
    path: Path = results / "sweeps" / question.name
    picture = write_figure(draw_sweep(sweep, question.over[0]), path.with_name(f"{path.name}.png"))
    print("->", ", ".join(map(str, [*write_table(printed, path, ("md", "csv")), picture])))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
