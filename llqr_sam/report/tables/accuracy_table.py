"""Collects the records of a table's runs into its cells, beside the paper's values."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from llqr_sam.engine.records.record import Flatness, Record
from llqr_sam.report.tables.labels import ARCH_LABELS, DATASET_LABELS
from llqr_sam.report.tables.seed_statistics import Sample
from llqr_sam.repository import PAPER
from llqr_sam.suite.config import sources
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.schema import SCORES, ScaleConfig, TableConfig
from llqr_sam.suite.plan.plan import Cell, Planned, plan
from llqr_sam.suite.status.status import Status

ACCURACY = PAPER / "accuracy.csv"
BestOrLast = Literal["best", "last"]  # best score over training, which the paper prints, or the last epoch's
# Words that say where and how runs are trained, not which runs.
_HOW = ("paths.", "device=", "devices=", "logger", "launch", "dry_run=", "status=", "retry=", "stale_minutes=")


@dataclass(frozen=True)
class PaperValue:
    """Mean and standard deviation over seeds as printed in the paper, top-1 in percent or BLEU."""

    mean: float
    std: float


@dataclass(frozen=True)
class CellResult:
    """What the seeds of a cell reached, in percent or BLEU, and how many failed or diverged."""

    runs: tuple[Planned, ...]  # one for each seed
    finished: Mapping[int, Record]  # seed -> record
    failed: int
    diverged: int
    paper: PaperValue | None
    baseline: CellResult | None = None  # the cell of the row that the others are compared with, if the table has it

    @property
    def cell(self) -> Cell:
        """Data set, network and method."""
        return self.runs[0].cell

    @property
    def paper_is_outside(self) -> bool | None:
        """Whether the paper's value is outside the t interval of our mean best; ``None`` without either."""
        interval = self.scores("best").t_interval()
        return None if self.paper is None or interval is None else not interval.low <= self.paper.mean <= interval.high

    def sample(self, value: Callable[[Record], float | None]) -> Sample:
        """A number of each finished run that has it."""
        found = {seed: value(record) for seed, record in self.finished.items()}
        return Sample({seed: number for seed, number in found.items() if number is not None})

    def scores(self, kind: BestOrLast) -> Sample:
        """Test top-1 or BLEU of the finished runs."""
        return self.sample(lambda record: getattr(record.metrics, kind).score)

    def epochs(self, kind: BestOrLast) -> Sample:
        """The epochs in which the finished runs reached their scores."""
        return self.sample(lambda record: getattr(record.metrics, kind).epoch)

    def difference(self, kind: BestOrLast) -> Sample:
        """Difference to the row's baseline at each seed that both have finished; empty for the baseline itself.

        Runs of one seed start from the same weights and see the same batches, so the difference of a pair is less
        noisy than the difference of two means.
        """
        if self.baseline is None or self.baseline.cell == self.cell:
            return Sample({})
        return self.scores(kind).minus(self.baseline.scores(kind))

    def leads(self, kind: BestOrLast) -> bool:
        """Whether it is surely above the baseline: the t interval of the difference lies above 0."""
        interval = self.difference(kind).t_interval()
        return interval is not None and interval.low > 0

    def sharpness(self) -> dict[str, Sample]:
        """Name -> how flat the training loss is where the runs that measured it ended.

        ``m_sharpness`` is empty if it was measured at several radii: a mean over them has no meaning.
        """

        def sample(value: Callable[[Flatness], float | None]) -> Sample:
            return self.sample(lambda record: value(record.sharpness) if record.sharpness else None)

        return {
            "hessian_top": sample(lambda flat: flat.eigenvalues[0] if flat.eigenvalues else None),
            "hessian_trace": sample(lambda flat: flat.trace),
            "m_sharpness": sample(lambda flat: flat.m_sharpness if len(self.radii) == 1 else None),
        }

    @property
    def radii(self) -> set[float]:
        """Radii at which the finished runs measured m-sharpness."""
        return {record.sharpness.rho for record in self.finished.values() if record.sharpness is not None}

    @property
    def flatness_samples(self) -> set[int]:
        """On how many training samples the finished runs measured flatness."""
        return {record.sharpness.samples for record in self.finished.values() if record.sharpness is not None}

    @property
    def evaluations(self) -> set[int]:
        """How many evaluations the best of each finished run was chosen from."""
        return {record.metrics.scored for record in self.finished.values()}


@dataclass(frozen=True)
class AccuracyTable:
    """A table laid out as in the paper: a row is a data set, network and label noise; a column is a method."""

    config: TableConfig
    scale: ScaleConfig
    command: str  # that trains its runs
    kind: BestOrLast
    rows: tuple[tuple[CellResult, ...], ...]

    @property
    def cells(self) -> list[CellResult]:
        """All cells, row by row."""
        return [result for row in self.rows for result in row]

    def is_best(self, result: CellResult) -> bool:
        """Whether a cell is marked: no printed mean of its row is higher, and it is surely above the baseline.

        Never where one of its runs diverged: the mean of the others flatters it.
        """
        row = next(row for row in self.rows if result in row)
        means = [round(mean, 2) for other in row if (mean := other.scores(self.kind).mean) is not None]
        mean = result.scores(self.kind).mean
        return mean is not None and round(mean, 2) == max(means) and result.leads(self.kind) and not result.diverged


def collect(
    command: Command, kind: BestOrLast = "best", runs: Sequence[Planned] | None = None
) -> tuple[Status, AccuracyTable]:
    """Read the records of the table that a command names.

    Args:
        command: It names the table.
        kind: Which scores the table has.
        runs: The command's runs, if they are planned already.

    Raises:
        UsageError: records of one data set are of different data.
    """
    table, paper = command.table, read_accuracy() if command.config.scale.is_paper else {}
    status = Status.under(plan(command) if runs is None else runs, command.config)
    status.check_mixtures()
    cells: dict[Cell, list[Planned]] = {}
    for run in status.runs:
        cells.setdefault(run.cell, []).append(run)
    results = [_result(runs, status, paper.get((table.number, cell))) for cell, runs in cells.items()]
    rows = []
    for _, row in groupby(results, key=lambda result: (result.cell.dataset, result.cell.arch, result.cell.label_noise)):
        in_row = list(row)
        baseline = next((result for result in in_row if result.cell.method == table.baseline), None)
        rows.append(tuple(replace(result, baseline=baseline) for result in in_row))
    words = [word for word in command.words if not word.startswith(_HOW)]
    typed = shlex.join(["python", "train.py", *sources.flags(), *words])
    return status, AccuracyTable(table, command.config.scale, typed, kind, tuple(rows))


def read_accuracy() -> dict[tuple[str, Cell], PaperValue]:
    """The paper's top-1 and BLEU values by table number and cell."""
    datasets, archs = ({label: name for name, label in labels.items()} for labels in (DATASET_LABELS, ARCH_LABELS))
    values = {}
    with ACCURACY.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"] in SCORES:
                network = datasets[row["dataset"]], archs[row["arch"]], float(row["label_noise"] or 0)
                cell = Cell(*network, row["method"], row["geometry"] or None)
                values[row["table"], cell] = PaperValue(float(row["mean"]), float(row["std"]))
    return values


def _result(runs: list[Planned], status: Status, paper: PaperValue | None) -> CellResult:
    records = {run.settings.seed: status.records[run.run_id] for run in runs if run.run_id in status.records}
    return CellResult(
        runs=tuple(runs),
        finished={seed: record for seed, record in records.items() if record.status == "finished"},
        failed=sum(run.run_id in status.failures for run in runs),
        diverged=sum(record.status == "diverged" for record in records.values()),
        paper=paper,
    )
