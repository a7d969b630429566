"""What of a plan is done: the run records on disk against the runs asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llqr_sam.engine.record import DamagedRecordError, Record, read_record
from llqr_sam.suite.grid import Planned


@dataclass(frozen=True)
class Status:
    """Planned runs and the records found for them, in whatever folder of ``results/runs``.

    A diverged run is done: the same run would diverge again.
    """

    runs: tuple[Planned, ...]
    records: dict[str, Record]  # run id -> record
    paths: dict[str, Path]  # run id -> its file
    damaged: tuple[str, ...]  # one line each: file and reason

    @classmethod
    def of(cls, runs: Sequence[Planned], results: Path) -> Status:
        """Read the records of ``runs``; a damaged one is named and counts as missing."""
        files: dict[str, list[Path]] = {}
        for path in sorted((results / "runs").glob("*/*.json")):
            files.setdefault(path.stem, []).append(path)
        records: dict[str, Record] = {}
        paths: dict[str, Path] = {}
        damaged: list[str] = []
        for run_id in dict.fromkeys(run.run_id for run in runs):
            for path in files.get(run_id, []):
                try:
                    record = read_record(path)
                    if record.run_id != run_id:
                        raise DamagedRecordError(f"{path}: it holds the run {record.run_id}")
                except DamagedRecordError as error:
                    damaged.append(str(error))
                    continue
                records.setdefault(run_id, record)
                paths.setdefault(run_id, path)
        return cls(tuple(runs), records, paths, tuple(damaged))

    @property
    def missing(self) -> list[Planned]:
        """Runs without a record, each once, in the order of the plan."""
        return list({run.run_id: run for run in self.runs if run.run_id not in self.records}.values())

    def of_run(self, run: Planned) -> str:
        """``finished``, ``diverged`` or ``missing``."""
        record = self.records.get(run.run_id)
        return record.status if record else "missing"

    def lines(self) -> Iterator[str]:
        """The plan as text: a line a run, the damaged records, the total."""
        width = max(len(run.run_id) for run in self.runs)
        for run in self.runs:
            record = self.records.get(run.run_id)
            yield f"{run.run_id:{width}}  {result(record) if record else 'missing'}"
        yield from self.damage()
        yield self.total()

    def damage(self) -> Iterator[str]:
        """A line for each damaged record."""
        for reason in self.damaged:
            yield f"damaged record, skipped: {reason}"

    def total(self) -> str:
        """``140 runs: 12 finished, 1 diverged, 127 missing``."""
        counts = Counter(self.of_run(run) for run in self.runs)
        parts = [f"{counts[kind]} {kind}" for kind in ("finished", "diverged", "missing") if counts[kind]]
        return f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}: {', '.join(parts)}"


def result(record: Record) -> str:
    """A record in a few words."""
    best, last = record.metrics.best, record.metrics.last
    if best.top1 is None or last.top1 is None:
        return f"{record.status}: {record.error or 'no epoch finished'}"
    words = f"{record.status}: best {best.top1:.2f} % (epoch {best.epoch}), last {last.top1:.2f} %"
    return f"{words}, {record.error}" if record.error else words
