"""What of a plan is done: the run records and the traces on disk against the runs asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llqr_sam.engine.records.record import Record, epoch_words
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.run.lock import Owner, holder
from llqr_sam.suite.run.run_folder import Failure, UnreadableRecordError, find_record, read_failure, record_files

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
                status.failures[run_id] = Failure("its record cannot be read", str(error))
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

    @classmethod
    def under(cls, runs: Sequence[Planned], config: Config) -> Status:
        """The status of ``runs`` under the paths of a configuration."""
        return cls.of(runs, config.paths.results, config.paths.workspace, config.stale_minutes)

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
        """The plan as text: a line a run, what was selected, records that are damaged or do not compare, the total."""
        width = max(len(run.run_id) for run in self.runs)
        for run in self.runs:
            yield f"{run.run_id:{width}}  {self.line(run)}"
        yield from self.choices()
        yield from self.damage()
        yield from self.mixtures().values()
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

    def mixtures(self) -> dict[str, str]:
        """Data set -> a sentence, for each whose records here are of different data: no mean over them means anything.

        A record of before ``data_sha256`` does not say, and is taken for one of the same data.
        """
        found: dict[str, dict[str, list[str]]] = {}
        for run in self.runs:
            record = self.records.get(run.run_id)
            if record is not None and record.data_sha256 is not None:
                by_hash = found.setdefault(run.cell.dataset, {})
                by_hash.setdefault(short(record.data_sha256), []).append(run.run_id)
        return {name: _mixture(name, by_hash) for name, by_hash in found.items() if len(by_hash) > 1}

    def check_mixtures(self) -> None:
        """Call before any number is made of several records.

        Raises:
            UsageError: they are of different data.
        """
        for sentence in self.mixtures().values():
            raise UsageError(sentence)

    def total(self) -> str:
        """``140 runs: 12 finished, 1 diverged, 127 missing``."""
        counts = Counter(self.of_run(run) for run in self.runs)
        parts = [f"{counts[kind]} {kind}" for kind in KINDS if counts[kind]]
        return f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}: {', '.join(parts)}"


def short(sha256: str) -> str:
    """A hash, long enough to tell data sets apart."""
    return sha256[:12]


def some(run_ids: Sequence[str]) -> str:
    """``a, b, c and 4 others``."""
    ids = list(dict.fromkeys(run_ids))
    others = len(ids) - 3
    return ", ".join(ids[:3]) + (f" and {others} other{'s' * (others > 1)}" if others > 0 else "")


def _mixture(dataset: str, by_hash: dict[str, list[str]]) -> str:
    kinds = " and ".join(f"{digest} ({some(run_ids)})" for digest, run_ids in by_hash.items())
    return (
        f"the records of dataset={dataset} are of different data, {kinds}, which no table or curve mixes: "
        "keep each kind under a paths.results= of its own."
    )


def result(record: Record) -> str:
    """A record in a few words."""
    best, last = record.metrics.best, record.metrics.last
    if best.score is None or last.score is None:
        return f"{record.status}: {record.error or 'no epoch finished'}"
    words = f"{record.status}: best {best.words} (epoch {epoch_words(best.epoch)}), last {last.words}"
    return f"{words}, {record.error}" if record.error else words
