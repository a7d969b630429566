"""Collects the records of a table's runs into its cells."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from llqr_sam.report.tables.cell import BestOrLast, CellResult
from llqr_sam.report.tables.paper_numbers import PaperValue, read_accuracy
from llqr_sam.report.tables.seed_statistics import Sample
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import Cell, Planned, plan
from llqr_sam.suite.status.status import Status

# Words that say where and how runs are trained, not which runs.
_HOW = ("paths.", "device=", "devices=", "logger", "launch", "dry_run=", "status=", "retry=", "stale_minutes=")


@dataclass(frozen=True)
class AccuracyTable:
    """A table laid out as in the paper: a row is a data set, network and label noise; a column is a method."""

    number: str
    title: str
    command: str  # that trains its runs
    kind: BestOrLast
    metric: str  # top1 or val_bleu
    rows: tuple[tuple[CellResult, ...], ...]
    baseline: str = "sgdm"  # optimizer

    @property
    def cells(self) -> list[CellResult]:
        """All cells, row by row."""
        return [result for row in self.rows for result in row]

    def best(self, row: Sequence[CellResult]) -> float | None:
        """The highest mean of a row, rounded to two decimals as printed; ``None`` if fewer than two have a mean."""
        means = [round(mean, 2) for result in row if (mean := result.scores(self.kind).mean) is not None]
        return max(means) if len(means) > 1 else None

    def baseline_of(self, row: Sequence[CellResult]) -> CellResult | None:
        """The cell of a row that the others are compared with, if the table has that column."""
        return next((result for result in row if result.cell.method == self.baseline), None)

    def difference(self, result: CellResult, row: Sequence[CellResult]) -> Sample:
        """Difference to the row's baseline at each seed that both have finished; empty for the baseline itself.

        Runs of one seed start from the same weights and see the same batches, so the difference of a pair is less
        noisy than the difference of two means.
        """
        baseline = self.baseline_of(row)
        if baseline is None or baseline is result:
            return Sample({})
        return result.scores(self.kind).minus(baseline.scores(self.kind))


def collect(command: Command, kind: BestOrLast = "best") -> tuple[Status, AccuracyTable]:
    """Read the records of a table's runs.

    Args:
        command: Names the table.
        kind: Which score of a run.

    Raises:
        UsageError: records of one data set are of different data.
    """
    table = command.table
    status = Status.under(plan(command), command.config)
    typed = shlex.join(["python", "train.py", *(word for word in command.words if not word.startswith(_HOW))])
    return status, build_table(
        table.number, table.title, typed, status, read_accuracy(), kind, baseline=table.baseline, metric=table.metric
    )


def build_table(
    number: str,
    title: str,
    command: str,
    status: Status,
    paper: Mapping[tuple[str, Cell], PaperValue],
    kind: BestOrLast = "best",
    baseline: str = "sgdm",
    metric: str = "top1",
) -> AccuracyTable:
    """Gather the records of a plan into the cells of its table.

    Raises:
        UsageError: records of one data set are of different data.
    """
    status.check_mixtures()
    cells: dict[Cell, list[Planned]] = {}
    for run in status.runs:
        cells.setdefault(run.cell, []).append(run)
    results = [_result(runs, status, paper.get((number, cell))) for cell, runs in cells.items()]
    rows = groupby(results, key=lambda result: (result.cell.dataset, result.cell.arch, result.cell.label_noise))
    return AccuracyTable(number, title, command, kind, metric, tuple(tuple(row) for _, row in rows), baseline)


def _result(runs: Sequence[Planned], status: Status, paper: PaperValue | None) -> CellResult:
    records = {run.settings.seed: status.records[run.run_id] for run in runs if run.run_id in status.records}
    return CellResult(
        runs=tuple(runs),
        finished={seed: record for seed, record in records.items() if record.status == "finished"},
        failed=sum(run.run_id in status.failures for run in runs),
        diverged=sum(record.status == "diverged" for record in records.values()),
        paper=paper,
    )
