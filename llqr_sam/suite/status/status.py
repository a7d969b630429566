"""How far a plan is: its runs against the records, locks, failures and progress files on disk.

A run is finished or diverged (it has a record), failed, running (somebody holds its lock) or missing. Hours are counted
for each device of a run; the hours left are estimated from finished runs of the same cell. A run id contains the name
of a data set, not its contents: a finished run is the run asked for if the hash of its data is that of the data here.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from llqr_sam.data.streams import MissingDataError
from llqr_sam.engine.records.record import KEPT, Record, epoch_words
from llqr_sam.engine.settings.run_settings import DatasetSettings
from llqr_sam.engine.tasks.registry import task_for
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.plan.labels import labels
from llqr_sam.suite.plan.plan import Cell, Planned
from llqr_sam.suite.run.lock import Owner, holder
from llqr_sam.suite.run.run_folder import Epochs, Failure, Queued, UnreadableRecordError, find_record, record_files
from llqr_sam.suite.status.queue import Place, places
from llqr_sam.suite.status.remedies import remedy

KINDS = ("finished", "diverged", "failed", "running", "missing")
NOT_HERE = "its data are not here to compare"
NOT_DECODED = "its data are not compared, for they would have to be decoded"
NOT_SAID = "its record does not say on which data"


@dataclass(frozen=True)
class Hours:
    """What a plan has cost, and what it will cost, in hours of one device."""

    spent: float
    left: float
    unknown: int  # runs without anything to estimate from

    def __str__(self) -> str:
        words = f"{self.spent:.2f} device-hours spent, about {self.left:.2f} left"
        runs = f"{self.unknown} run{'s' * (self.unknown != 1)}"
        return f"{words}, not counting {runs} of cells that none has finished" if self.unknown else words


@dataclass(frozen=True)
class Status:
    """Planned runs and what is on disk of them; the dicts are by run id."""

    runs: tuple[Planned, ...]
    records: dict[str, Record]
    paths: dict[str, Path]  # of the records, in whatever folder of results/runs
    damaged: list[str]  # one line for each record that is damaged, or is the second one of its run
    failures: dict[str, Failure]  # of runs without a record
    owners: dict[str, Owner]  # who trains a run now
    progress: dict[str, Epochs]  # of runs without a record
    notes: dict[str, Queued] = field(default_factory=dict)  # the last SLURM job of a run that is not finished
    remedies: dict[str, str] = field(default_factory=dict)  # of failures whose cause is gone: what has changed
    unwritten: dict[str, Path] = field(default_factory=dict)  # records that wait for room in results
    swept: tuple[str, ...] = ()  # keys that vary among runs that are not planned here

    @classmethod
    def under(cls, runs: Sequence[Planned], config: Config, swept: tuple[str, ...] = ()) -> Status:
        """Reads the status of ``runs`` under the paths of a configuration.

        A damaged record is named and its run is missing; an unreadable one has failed.
        """
        files = record_files(config.paths.results)
        status = cls(tuple(runs), {}, {}, [], {}, {}, {}, swept=swept)
        planned = {run.run_id: run for run in runs}
        for run_id in planned:
            try:
                found, bad = find_record(run_id, files.get(run_id, []))
            except UnreadableRecordError as error:
                found, bad = None, [str(error)]
                status.failures[run_id] = Failure("its record cannot be read", str(error))
            status.damaged.extend(f"record not counted: {reason}" for reason in bad)
            if found is not None:
                status.paths[run_id], status.records[run_id] = found
            folder = config.paths.workspace / run_id
            if owner := holder(folder, config.stale_minutes):
                status.owners[run_id] = owner
            if found is None and (failure := Failure.read(folder)):
                status.failures.setdefault(run_id, failure)
                if changed := remedy(failure, planned[run_id], config.paths.data):
                    status.remedies[run_id] = changed
            if found is None and not owner and (folder / KEPT).exists():
                status.unwritten[run_id] = folder / KEPT
            if (found is None or owner) and (epochs := Epochs.read(folder)):
                status.progress[run_id] = epochs
            over = owner or (found is not None and found[1].status == "finished")
            if not over and (note := Queued.read(folder)):
                status.notes[run_id] = note
        return status

    @cached_property
    def labels(self) -> dict[str, str]:
        """Run id -> what varies among the runs, in words."""
        return labels(self.runs, self.swept)

    def name(self, run: Planned) -> str:
        """Label and id of a run."""
        return f"{self.labels[run.run_id]} ({run.run_id})"

    @property
    def missing(self) -> list[Planned]:
        """Runs that nobody has begun, or that were interrupted."""
        return self.select("missing")

    @cached_property
    def places(self) -> dict[str, Place]:
        """Where the SLURM jobs of ``notes`` are; SLURM is asked once."""
        return places(self.notes)

    def queued(self, *kinds: str) -> list[Planned]:
        """The runs of some kinds that a SLURM job may still train."""
        return [run for run in self.select(*kinds) if (place := self.places.get(run.run_id)) and place.is_taken]

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

    def lines(self, *, brief: bool = False) -> Iterator[str]:
        """A line for each run and selected value (in brief: if not finished, and begun), warnings, and the total."""
        begun = [run for run in self.select(*KINDS[1:]) if self.of_run(run) != "missing" or run.run_id in self.progress]
        runs = begun if brief else self.runs
        named = [(self.labels[run.run_id], run.run_id) for run in runs]
        wide, width = (max(map(len, names), default=0) for names in (zip(*named, strict=True) if named else ((), ())))
        for (label, run_id), run in zip(named, runs, strict=True):
            yield f"{label:{wide}}  {run_id:{width}}  {self.line(run)}"
        if not brief:
            yield from self.selected_values()
        yield from self.damaged
        yield from self.mixtures().values()
        yield self.total()

    def line(self, run: Planned) -> str:
        """A run in a few words."""
        kind, epochs = self.of_run(run), self.progress.get(run.run_id)
        if run.run_id in self.unwritten:
            return f"missing: it has ended, and the next launch writes its record, {self.unwritten[run.run_id]}"
        if kind == "missing":
            return self._waiting(run) + (_interrupted(epochs) if epochs else "")
        if kind == "running":
            left = epochs.left(time.time()) if epochs else None
            so_far = f": {_so_far(epochs)}" if epochs else ""
            eta = f", {timedelta(seconds=round(left))} left" if left is not None else ""
            return f"running{so_far}{eta}{',' * bool(epochs)} on {self.owners[run.run_id]}"
        if kind == "failed":
            failure = self.failures[run.run_id]
            changed = self.remedies.get(run.run_id)
            again = f"; {changed}: retry=failed tries it again" if changed else ""
            return f"failed: {failure.error} ({failure.log}){again}{self._retried(run)}"
        return result(self.records[run.run_id]) + self._retried(run)

    def _retried(self, run: Planned) -> str:
        """Where the job is that tries a run again."""
        place = self.places.get(run.run_id)
        return f"; {place}" if place and place.is_taken else ""

    def _waiting(self, run: Planned) -> str:
        """A missing run: where its job is, or that it has none where others have."""
        return str(self.places.get(run.run_id, "missing: no job" if self.notes else "missing"))

    def selected_values(self) -> Iterator[str]:
        """A line for each hyper-parameter that a table selects, and each of its rows."""
        used = dict.fromkeys(choice for run in self.runs for choice in run.choices)
        return (str(choice) for choice in used if choice.origin != "candidate")

    def mixtures(self) -> dict[str, str]:
        """Data set -> a sentence, for each data set whose records have different data: a mean over them is wrong."""
        why = "which no table or curve mixes: keep each kind under a paths.results= of its own."
        return {
            name: f"the records of dataset={name} are of different data, {found}, {why}"
            for name, found in mixed(self.records.values()).items()
        }

    def check_mixtures(self) -> None:
        """Raises a UsageError if records have different data; call before a number is computed from several records."""
        for sentence in self.mixtures().values():
            raise UsageError(sentence)

    def total(self) -> str:
        """``140 runs: 12 finished, 1 diverged, 127 missing (100 queued)``."""
        counts = Counter(self.of_run(run) for run in self.runs)
        parts = [f"{counts[kind]} {kind}" for kind in KINDS if counts[kind]]
        queued = f" ({number} queued)" if (number := len(self.queued("missing"))) else ""
        return f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}: {', '.join(parts)}{queued}"

    def hours(self) -> Hours:
        """Hours spent by all runs, and left for those that are missing or run."""
        by_cell: dict[Cell, list[float]] = {}
        for run in self.runs:
            if (record := self.records.get(run.run_id)) and record.status == "finished":
                by_cell.setdefault(run.cell, []).append(record.device_seconds)
        spent = sum(record.device_seconds for record in self.records.values())
        spent += sum(epochs.device_seconds for epochs in self.progress.values())
        left, unknown = 0.0, 0
        for run in self.select("missing", "running"):
            if run.run_id in self.unwritten:
                continue
            epochs = self.progress.get(run.run_id)
            lost = epochs.lost if epochs is not None and run.run_id not in self.owners else 0.0
            if run.cell in by_cell:
                left += max(0.0, statistics.fmean(by_cell[run.cell]) - (epochs.device_seconds if epochs else 0.0))
                left += lost
            elif epochs is not None and epochs.done:
                left += epochs.device_seconds / epochs.done * (epochs.planned - epochs.done) + lost
            else:
                unknown += 1
        return Hours(spent / 3600, left / 3600, unknown)


@dataclass(frozen=True)
class Comparison:
    """The records of a plan against the data here."""

    unknown: dict[str, str]  # run id -> why its data are not compared
    differences: list[str]  # a sentence for each data set that differs: both hashes, and what to do

    @classmethod
    def of(cls, status: Status, config: Config) -> Comparison:
        """Hashes each data set that has records once, and compares.

        A ``dataset.path`` that is not the data set is a UsageError; with ``launch=slurm`` it may be on the nodes alone.
        """
        by_data: dict[tuple[DatasetSettings, Path | None], dict[str, str]] = {}  # run id -> hash in its record
        compared = cls({}, [])
        on_nodes = config.launch.name == "slurm"
        for run in status.runs:
            record, path = status.records.get(run.run_id), run.data_path
            if path is not None and not on_nodes and not path.expanduser().exists():
                raise UsageError(f"dataset.path={path} does not exist: it must name the data set's file or folder.")
            if record is not None and record.data_sha256 is None:
                compared.unknown[run.run_id] = NOT_SAID
            elif record is not None and record.data_sha256 is not None:
                by_data.setdefault((run.settings.dataset.whole, path), {})[run.run_id] = record.data_sha256
        for (dataset, path), hashes in by_data.items():
            try:
                here, reason = task_for(dataset.reader).fingerprint(dataset, path, config.paths.data), NOT_DECODED
            except (MissingDataError, ValueError) as error:
                if path is not None and not on_nodes:
                    raise UsageError(str(error)) from error
                here, reason = None, NOT_HERE if isinstance(error, MissingDataError) else str(error)
            if here is None:
                compared.unknown.update(dict.fromkeys(hashes, reason))
            elif others := {run_id: found for run_id, found in hashes.items() if found != here}:
                what = f"dataset={dataset.name}" if path is None else f"dataset.path={path}"
                compared.differences.append(
                    f"{what} has the data {here[:12]}, the records are of {by_hash(others)}: name the data of the "
                    "records, or give those here their own paths.results= and paths.workspace=."
                )
        return compared

    def check(self) -> None:
        """Raises a UsageError if records are of other data than those here: nothing is trained or reported then."""
        for sentence in self.differences:
            raise UsageError(sentence)

    def lines(self) -> Iterator[str]:
        """What differs, and what could not be compared."""
        yield from self.differences
        for reason in dict.fromkeys(self.unknown.values()):
            runs = [run_id for run_id, why in self.unknown.items() if why == reason]
            yield f"not compared with the data here: {some(runs)} ({reason})"


def some(run_ids: Sequence[str]) -> str:
    """``a, b, c and 4 others``."""
    ids = list(dict.fromkeys(run_ids))
    others = len(ids) - 3
    return ", ".join(ids[:3]) + (f" and {others} other{'s' * (others > 1)}" if others > 0 else "")


def mixed(records: Iterable[Record]) -> dict[str, str]:
    """Data set -> the hashes of its data and whose they are, for each whose records have different data."""
    hashes: dict[str, dict[str, str]] = {}  # data set -> run id -> hash
    for record in records:
        if record.data_sha256 is not None:
            hashes.setdefault(record.config["dataset"]["name"], {})[record.run_id] = record.data_sha256
    return {name: by_hash(found) for name, found in hashes.items() if len(set(found.values())) > 1}


def by_hash(hashes: Mapping[str, str]) -> str:
    """``3f2a... (a, b) and 91c0... (c)``, from run id -> hash."""
    kinds: dict[str, list[str]] = {}
    for run_id, sha256 in hashes.items():
        kinds.setdefault(sha256[:12], []).append(run_id)
    return " and ".join(f"{digest} ({some(run_ids)})" for digest, run_ids in kinds.items())


def _interrupted(epochs: Epochs) -> str:
    """Where a run stopped, and where the next launch begins: at its checkpoint."""
    if not epochs.done and not epochs.kept:
        return ""
    begins = "" if epochs.kept is None else f", continues from epoch {epoch_words(epochs.kept)}"
    return f", interrupted at {_so_far(epochs)}{begins if epochs.kept != 0 else ', starts again'}"


def _so_far(epochs: Epochs) -> str:
    best = f", best {epochs.best:.2f} {epochs.unit}" if epochs.best is not None else ""
    return f"epoch {epoch_words(epochs.done)}/{epochs.planned}{best}"


def result(record: Record) -> str:
    """A record in a few words."""
    best, last = record.metrics.best, record.metrics.last
    if best.score is None or last.score is None:
        return f"{record.status}: {record.error or 'no epoch finished'}"
    words = f"{record.status}: best {best.words} (epoch {epoch_words(best.epoch)}), last {last.words}"
    return f"{words}, {record.error}" if record.error else words
