"""What of a plan is done: the run records and the traces on disk against the runs asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llqr_sam.engine.record import Record
from llqr_sam.suite.grid import Planned
from llqr_sam.suite.lock import Owner, holder
from llqr_sam.suite.traces import Failure, UnreadableRecordError, find_record, read_failure, record_files

KINDS = ("finished", "diverged", "failed", "running", "missing")


@dataclass(frozen=True)
class Status:
    """Planned runs and the records found for them, in whatever folder of ``results/runs``.

    A diverged run is done, and a failed one is not tried again by itself: the same run would fail again.
    """

    runs: tuple[Planned, ...]
    records: dict[str, Record]  # run id -> record
    paths: dict[str, Path]  # run id -> its file
    damaged: tuple[str, ...]  # one line for each record that does not count: file and reason
    failures: dict[str, Failure] = field(default_factory=dict)  # run id -> why, for runs without a record
    owners: dict[str, Owner] = field(default_factory=dict)  # run id -> who trains it now

    @classmethod
    def of(
        cls, runs: Sequence[Planned], results: Path, workspace: Path | None = None, stale_minutes: float = 10.0
    ) -> Status:
        """Read the records of ``runs``; a damaged one is named and is missing, one that cannot be read has failed.

        Args:
            runs: The plan.
            results: Holds ``runs/*/<run_id>.json`` (and ``.2.json`` after a retry).
            workspace: Holds the locks and failures of runs; ``None``: look at records alone.
            stale_minutes: A lock without a heartbeat for so long means nothing.
        """
        files = record_files(results)
        status = cls(tuple(runs), {}, {}, (), {}, {})
        damaged: list[str] = []
        for run_id in dict.fromkeys(run.run_id for run in runs):
            try:
                found, bad = find_record(run_id, files.get(run_id, []))
            except UnreadableRecordError as error:
                found, bad = None, [str(error)]
                status.failures[run_id] = Failure(run_id, "its record cannot be read", str(error), "", 0.0)
            damaged += bad
            if found is not None:
                status.paths[run_id], status.records[run_id] = found
            if workspace is None:
                continue
            if owner := holder(workspace / run_id, stale_minutes):
                status.owners[run_id] = owner
            if found is None and (failure := read_failure(workspace / run_id)):
                status.failures.setdefault(run_id, failure)
        return cls(status.runs, status.records, status.paths, tuple(damaged), status.failures, status.owners)

    @property
    def missing(self) -> list[Planned]:
        """Runs that nobody has begun, or that were interrupted; each once, in the order of the plan."""
        return self.select("missing")

    def select(self, *kinds: str) -> list[Planned]:
        """The runs of some kinds, each once, in the order of the plan."""
        return list({run.run_id: run for run in self.runs if self.of_run(run) in kinds}.values())

    def of_run(self, run: Planned) -> str:
        """One of ``KINDS``."""
        if run.run_id in self.owners:
            return "running"
        record = self.records.get(run.run_id)
        if record is not None:
            return record.status
        return "failed" if run.run_id in self.failures else "missing"

    def lines(self) -> Iterator[str]:
        """The plan as text: a line a run, what was selected, the damaged records, the total."""
        width = max(len(run.run_id) for run in self.runs)
        for run in self.runs:
            yield f"{run.run_id:{width}}  {self.line(run)}"
        yield from self.choices()
        yield from self.damage()
        yield self.total()

    def choices(self) -> Iterator[str]:
        """A line for each hyper-parameter that the runs' tables select, and each row."""
        used = dict.fromkeys(choice for run in self.runs for choice in run.choices)
        return (str(choice) for choice in used if choice.origin != "candidate")

    def line(self, run: Planned) -> str:
        """A run in a few words."""
        kind = self.of_run(run)
        if kind == "running":
            return f"running on {self.owners[run.run_id]}"
        if kind == "failed":
            failure = self.failures[run.run_id]
            return f"failed: {failure.error} ({failure.log})"
        return kind if kind == "missing" else result(self.records[run.run_id])

    def damage(self) -> Iterator[str]:
        """A line for each record that is damaged, or is its run's second."""
        for reason in self.damaged:
            yield f"record not counted: {reason}"

    def total(self) -> str:
        """``140 runs: 12 finished, 1 diverged, 127 missing``."""
        counts = Counter(self.of_run(run) for run in self.runs)
        parts = [f"{counts[kind]} {kind}" for kind in KINDS if counts[kind]]
        return f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}: {', '.join(parts)}"


def result(record: Record) -> str:
    """A record in a few words."""
    best, last = record.metrics.best, record.metrics.last
    if best.score is None or last.score is None:
        return f"{record.status}: {record.error or 'no epoch finished'}"
    words = f"{record.status}: best {best.words} (epoch {best.epoch}), last {last.words}"
    return f"{words}, {record.error}" if record.error else words
