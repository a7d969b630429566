"""What a table's cell holds: the runs of its seeds, summed up, beside the baseline's and the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from llqr_sam.data.streams import Samples
from llqr_sam.engine.records.record import Accuracy, Record
from llqr_sam.report.tables.paper_numbers import PaperValue
from llqr_sam.report.tables.seed_statistics import Sample
from llqr_sam.suite.plan.plan import Cell, Planned
from llqr_sam.suite.plan.selected_values import Choice
from llqr_sam.suite.status.status import Status

EntryKind = Literal["best", "last"]  # best score over training (the paper's entry), or the last epoch's


@dataclass(frozen=True)
class Entry:
    """One cell: what its seeds reached, in percent or BLEU, and what became of the others."""

    cell: Cell
    finished: Mapping[int, Record]  # seed -> record
    failed: int
    diverged: int
    planned: int
    paper: PaperValue | None
    choices: tuple[Choice, ...]  # hyper-parameters that the table selects

    @property
    def best(self) -> Sample:
        """Best test top-1 over training."""
        return self.top1("best")

    @property
    def paper_is_outside(self) -> bool | None:
        """Whether the paper's value, a best over training, is outside the t interval of our mean best."""
        interval = self.best.t_interval()
        return None if self.paper is None or interval is None else self.paper.mean not in interval

    def top1(self, kind: EntryKind) -> Sample:
        """Test top-1 of the finished runs."""
        found = {seed: _accuracy(record, kind).score for seed, record in self.finished.items()}
        return Sample({seed: value for seed, value in found.items() if value is not None})

    def sharpness(self) -> dict[str, Sample]:
        """Name -> how flat the runs ended, those that measured it: top Hessian eigenvalue, trace, m-sharpness.

        m-sharpness only where all measured it at one radius, which is no setting of a run.
        """
        found = {seed: record.sharpness for seed, record in self.finished.items() if record.sharpness is not None}
        measures = {
            "hessian_top": {seed: flat.eigenvalues[0] for seed, flat in found.items() if flat.eigenvalues},
            "hessian_trace": {seed: flat.trace for seed, flat in found.items() if flat.trace is not None},
            "m_sharpness": {seed: flat.m_sharpness for seed, flat in found.items() if flat.m_sharpness is not None},
        }
        if len(self.radii) > 1:
            measures["m_sharpness"] = {}
        return {name: Sample(by_seed) for name, by_seed in measures.items()}

    @property
    def radii(self) -> set[float]:
        """Radii at which its finished runs measured m-sharpness."""
        return {record.sharpness.rho for record in self.finished.values() if record.sharpness is not None}

    @property
    def samples(self) -> set[Samples]:
        """How many images its finished runs had, those whose records say it."""
        return {record.samples for record in self.finished.values() if record.samples is not None}

    def epochs(self, kind: EntryKind) -> Sample:
        """The epochs at which they were reached."""
        return Sample({seed: _accuracy(record, kind).epoch for seed, record in self.finished.items()})

    @property
    def evaluations(self) -> set[int]:
        """Of how many each best of its finished runs is the best; of all one number, unless data differ in size."""
        return {record.metrics.scored for record in self.finished.values()}


@dataclass(frozen=True)
class Table:
    """A table laid out as in the paper: rows are data set x network (x label noise), columns are methods."""

    number: str
    title: str
    command: str  # that trains its runs
    kind: EntryKind
    metric: str  # one of METRICS
    rows: tuple[tuple[Entry, ...], ...]
    baseline: str = "sgdm"  # optimizer

    @property
    def entries(self) -> list[Entry]:
        """All cells, row by row."""
        return [entry for row in self.rows for entry in row]

    def best(self, row: Sequence[Entry]) -> float | None:
        """The row's highest mean as printed, to two decimals, if there are two to compare."""
        means = [round(mean, 2) for entry in row if (mean := entry.top1(self.kind).mean) is not None]
        return max(means) if len(means) > 1 else None

    def baseline_of(self, row: Sequence[Entry]) -> Entry | None:
        """The row's cell that the others are compared with, if the table has that column."""
        return next((entry for entry in row if entry.cell.method == self.baseline), None)

    def difference(self, entry: Entry, row: Sequence[Entry]) -> Sample:
        """Of a cell to the row's baseline, at each seed that both have finished; empty for the baseline itself.

        Runs of one seed start from the same weights and see the same batches, so the difference of a pair is less
        noisy than that of two means.
        """
        baseline = self.baseline_of(row)
        if baseline is None or baseline is entry:
            return Sample({})
        return entry.top1(self.kind).minus(baseline.top1(self.kind))


def build_table(
    number: str,
    title: str,
    command: str,
    status: Status,
    paper: Mapping[tuple[str, Cell], PaperValue],
    kind: EntryKind = "best",
    baseline: str = "sgdm",
    metric: str = "top1",
) -> Table:
    """Gather the records of a plan into the cells of its table.

    Raises:
        UsageError: records of one data set are of different data.
    """
    status.check_mixtures()
    cells: dict[Cell, list[Planned]] = {}
    for run in status.runs:
        cells.setdefault(run.cell, []).append(run)
    entries = [_entry(cell, runs, status, paper.get((number, cell))) for cell, runs in cells.items()]
    rows = groupby(entries, key=lambda entry: (entry.cell.dataset, entry.cell.arch, entry.cell.label_noise))
    return Table(number, title, command, kind, metric, tuple(tuple(row) for _, row in rows), baseline)


def _entry(cell: Cell, runs: Sequence[Planned], status: Status, paper: PaperValue | None) -> Entry:
    records = {run.settings.seed: status.records[run.run_id] for run in runs if run.run_id in status.records}
    return Entry(
        cell=cell,
        finished={seed: record for seed, record in records.items() if record.status == "finished"},
        failed=sum(run.run_id in status.failures for run in runs),
        diverged=sum(record.status == "diverged" for record in records.values()),
        planned=len(runs),
        paper=paper,
        choices=runs[0].choices,
    )


def _accuracy(record: Record, kind: EntryKind) -> Accuracy:
    return record.metrics.best if kind == "best" else record.metrics.last
