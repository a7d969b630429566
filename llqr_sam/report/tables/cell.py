"""The results behind one cell of a table: the runs of its seeds, beside the paper's value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llqr_sam.data.streams import Samples
from llqr_sam.engine.records.record import Accuracy, Record
from llqr_sam.report.tables.paper_numbers import PaperValue
from llqr_sam.report.tables.seed_statistics import Sample
from llqr_sam.suite.plan.plan import Cell, Planned

BestOrLast = Literal["best", "last"]  # best score over training, which the paper prints, or the last epoch's


@dataclass(frozen=True)
class CellResult:
    """What the seeds of a cell reached, in percent or BLEU, and how many failed or diverged."""

    runs: tuple[Planned, ...]  # one for each seed
    finished: Mapping[int, Record]  # seed -> record
    failed: int
    diverged: int
    paper: PaperValue | None

    @property
    def cell(self) -> Cell:
        """Data set, network and method."""
        return self.runs[0].cell

    @property
    def paper_is_outside(self) -> bool | None:
        """Whether the paper's value is outside the t interval of our mean best; ``None`` without either."""
        interval = self.scores("best").t_interval()
        return None if self.paper is None or interval is None else self.paper.mean not in interval

    def scores(self, kind: BestOrLast) -> Sample:
        """Test top-1 or BLEU of the finished runs."""
        scores = {seed: _accuracy(record, kind).score for seed, record in self.finished.items()}
        return Sample({seed: score for seed, score in scores.items() if score is not None})

    def epochs(self, kind: BestOrLast) -> Sample:
        """The epochs in which the finished runs reached their scores."""
        return Sample({seed: _accuracy(record, kind).epoch for seed, record in self.finished.items()})

    def sharpness(self) -> dict[str, Sample]:
        """Name -> how flat the training loss is where the runs that measured it ended.

        ``m_sharpness`` is empty if it was measured at several radii: a mean over them has no meaning.
        """
        found = {seed: record.sharpness for seed, record in self.finished.items() if record.sharpness is not None}
        one_radius = len(self.radii) <= 1
        values = {
            "hessian_top": {seed: flat.eigenvalues[0] if flat.eigenvalues else None for seed, flat in found.items()},
            "hessian_trace": {seed: flat.trace for seed, flat in found.items()},
            "m_sharpness": {seed: flat.m_sharpness for seed, flat in found.items() if one_radius},
        }
        return {
            name: Sample({seed: value for seed, value in by_seed.items() if value is not None})
            for name, by_seed in values.items()
        }

    @property
    def radii(self) -> set[float]:
        """Radii at which the finished runs measured m-sharpness."""
        return {record.sharpness.rho for record in self.finished.values() if record.sharpness is not None}

    @property
    def samples(self) -> set[Samples]:
        """Numbers of training and test images of the finished runs. Older records do not have them."""
        return {record.samples for record in self.finished.values() if record.samples is not None}

    @property
    def evaluations(self) -> set[int]:
        """How many evaluations the best of each finished run was chosen from."""
        return {record.metrics.scored for record in self.finished.values()}


def _accuracy(record: Record, kind: BestOrLast) -> Accuracy:
    return record.metrics.best if kind == "best" else record.metrics.last
