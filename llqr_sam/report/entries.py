"""What a table's cell holds: the runs of its seeds, summed up."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llqr_sam.engine.record import Record
from llqr_sam.report.paper import PaperValue
from llqr_sam.suite.grid import Cell
from llqr_sam.suite.status import Status

EntryKind = Literal["best", "last"]  # best score over training (the paper's entry), or the last epoch's


@dataclass(frozen=True)
class Entry:
    """One cell: the seeds' values beside the paper's."""

    cell: Cell
    values: tuple[float, ...]  # percent or BLEU, one a finished run, in the order of the seeds
    diverged: int
    planned: int
    paper: PaperValue | None

    @property
    def mean(self) -> float | None:
        """Mean over the finished runs."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation, from two runs on."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Table:
    """A table laid out as in the paper: rows are data set x network (x label noise), columns are methods."""

    number: str
    title: str
    command: str  # that trains its runs
    kind: EntryKind
    metric: str  # one of METRICS
    rows: tuple[tuple[Entry, ...], ...]

    @property
    def entries(self) -> list[Entry]:
        """All cells, row by row."""
        return [entry for row in self.rows for entry in row]

    def best(self, row: Sequence[Entry]) -> float | None:
        """The row's highest mean as printed, to two decimals, if there are two to compare."""
        means = [round(entry.mean, 2) for entry in row if entry.mean is not None]
        return max(means) if len(means) > 1 else None


def build_table(
    number: str,
    title: str,
    command: str,
    status: Status,
    paper: dict[tuple[str, Cell], PaperValue],
    kind: EntryKind = "best",
    metric: str = "top1",
) -> Table:
    """Gather the records of a plan into the cells of its table."""
    runs: dict[Cell, list[Record | None]] = {}
    for run in status.runs:
        runs.setdefault(run.cell, []).append(status.records.get(run.run_id))
    rows: dict[tuple[str, str, float], list[Entry]] = {}
    for cell, records in runs.items():
        entry = _entry(cell, records, paper.get((number, cell)), kind)
        rows.setdefault((cell.dataset, cell.arch, cell.label_noise), []).append(entry)
    return Table(number, title, command, kind, metric, tuple(map(tuple, rows.values())))


def _entry(cell: Cell, records: Sequence[Record | None], paper: PaperValue | None, kind: EntryKind) -> Entry:
    finished = [record for record in records if record is not None and record.status == "finished"]
    accuracies = [record.metrics.best if kind == "best" else record.metrics.last for record in finished]
    return Entry(
        cell=cell,
        values=tuple(accuracy.score for accuracy in accuracies if accuracy.score is not None),
        diverged=sum(record is not None and record.status == "diverged" for record in records),
        planned=len(records),
        paper=paper,
    )
