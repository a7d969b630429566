"""What separates two methods in a row of a table: a number for each seed that both have finished.

Runs of one seed start from the same weights and see the same batches, so effects are paired by seed. An effect is a
difference of test scores, a difference of two such differences, or the logarithm of a ratio of two measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llqr_sam.engine.records.record import Flatness
from llqr_sam.report.claims.claim import M_SHARPNESS, SECONDS, Claim
from llqr_sam.report.tables.accuracy_table import BestOrLast, CellResult, PaperValue
from llqr_sam.report.tables.seed_statistics import Sample, mean_of
from llqr_sam.suite.plan.plan import Cell

PaperValues = Mapping[tuple[str, Cell], PaperValue]  # by table number and cell


@dataclass(frozen=True)
class Effect:
    """A number for each seed, and what the paper prints for it."""

    best: Sample  # of the best scores over training, or of a measurement
    last: Sample  # of the last epoch's scores; empty for a measurement
    paper: float | None = None
    unusable: int = 0  # seeds that both methods have finished, and whose numbers cannot be compared

    def minus(self, other: Effect) -> Effect:
        """Differences at the seeds that both have."""
        paper = None if self.paper is None or other.paper is None else self.paper - other.paper
        return Effect(self.best.minus(other.best), self.last.minus(other.last), paper, self.unusable + other.unusable)


@dataclass(frozen=True)
class Pair:
    """The two methods of a claim in a row of a table."""

    a: CellResult
    b: CellResult

    @classmethod
    def of(cls, claim: Claim, row: Sequence[CellResult]) -> Pair | None:
        """The pair that a claim compares, if the row has it and is one of the claim's."""
        cells = {(result.cell.method, result.cell.geometry): result for result in row}
        a, b = (cells.get((method.optim, method.geometry)) for method in (claim.a, claim.b))
        if a is None or b is None or (claim.noisy and not a.cell.label_noise):
            return None
        return cls(a, b)

    @property
    def cell(self) -> Cell:
        """A cell of the row."""
        return self.a.cell

    def difference(self, tables: Sequence[str], paper: PaperValues) -> Effect:
        """A's score less B's; the paper's is that of the first of ``tables`` that prints both."""

        def of(kind: BestOrLast) -> Sample:
            return self.a.scores(kind).minus(self.b.scores(kind))

        values = [(paper.get((number, self.a.cell)), paper.get((number, self.b.cell))) for number in tables]
        printed = next((a.mean - b.mean for a, b in values if a and b), None)
        return Effect(of("best"), of("last"), printed)

    def ratio(self, measure: str) -> Effect:
        """The logarithm of A's measurement over B's.

        A seed is unusable where one of the two is not positive (a trace may be negative), or where they were not
        measured alike: times on different devices, flatness on other numbers of samples, m-sharpness at other radii.
        """
        a, b = _measured(self.a, measure), _measured(self.b, measure)
        common = [seed for seed in a.by_seed if seed in b.by_seed]
        usable = [seed for seed in common if min(a.by_seed[seed], b.by_seed[seed]) > 0 and self._alike(measure, seed)]
        logs = Sample({seed: math.log(a.by_seed[seed] / b.by_seed[seed]) for seed in usable})
        return Effect(logs, Sample({}), unusable=len(common) - len(usable))

    def _alike(self, measure: str, seed: int) -> bool:
        a, b = self.a.finished[seed], self.b.finished[seed]
        if measure == SECONDS:
            return (a.device, a.devices) == (b.device, b.devices)
        return _circumstances(a.sharpness, measure) == _circumstances(b.sharpness, measure)


def mean_effect(effects: Sequence[Effect]) -> Effect:
    """The mean over rows, at each seed that all of them have."""
    papers = [effect.paper for effect in effects if effect.paper is not None]
    return Effect(
        best=mean_of([effect.best for effect in effects]),
        last=mean_of([effect.last for effect in effects]),
        paper=math.fsum(papers) / len(papers) if papers and len(papers) == len(effects) else None,
        unusable=sum(effect.unusable for effect in effects),
    )


def _circumstances(flat: Flatness | None, measure: str) -> tuple[float, ...]:
    """What two measurements of flatness must share."""
    if flat is None:
        return ()
    return (flat.samples, flat.m, flat.rho) if measure == M_SHARPNESS else (flat.samples,)


def _measured(result: CellResult, measure: str) -> Sample:
    """A measurement of the finished runs; of time, that of training without evaluation."""
    if measure == SECONDS:
        return result.sample(lambda record: record.seconds.total - record.seconds.evaluation)
    return result.sharpness()[measure]
