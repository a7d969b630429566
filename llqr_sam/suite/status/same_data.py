"""Whether the records of a plan are of the data that are here.

A run's id has the name of its data set and not what is in it: ``dataset.path`` may name another archive. The record
keeps a hash of the data (``data_sha256``), so a finished run is the run asked for only if that is the hash of the data
here. Records among themselves: ``Status.mixtures``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llqr_sam.data.streams import MissingDataError
from llqr_sam.engine.tasks.registry import task_for
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.status.status import Status, short, some

NOT_HERE = "its data are not here to compare"
NOT_DECODED = "its data are not compared, for they would have to be decoded"
NOT_SAID = "its record does not say on which data"


def check_paths(paths: Iterable[Path | None], config: Config) -> None:
    """Refuse a ``dataset.path`` that names nothing; with ``launch=slurm`` it may be there on the nodes alone.

    Args:
        paths: Of data sets; None where none is given.
        config: Of the command.

    Raises:
        UsageError: there is nothing of that name.
    """
    for path in dict.fromkeys(paths):
        if path is not None and config.launch.name != "slurm" and not path.expanduser().exists():
            raise UsageError(f"dataset.path={path} does not exist: it must name the data set's file or folder.")


@dataclass(frozen=True)
class Comparison:
    """The records of a plan against the data here."""

    differing: tuple[str, ...]  # run ids
    unknown: dict[str, str]  # run id -> why nothing is known
    sentences: tuple[str, ...]  # one for each data set that differs: both hashes, and what to do

    @classmethod
    def of(cls, status: Status, config: Config) -> Comparison:
        """Read what is here of the data sets that have records, each once.

        Args:
            status: Of the plan.
            config: Of the command: says where data are.

        Raises:
            UsageError: ``dataset.path`` names something that is not the data set.
        """
        by_data: dict[tuple[str, Path | None], dict[str, str]] = {}  # run id -> hash in its record
        unknown: dict[str, str] = {}
        for run in status.runs:
            record = status.records.get(run.run_id)
            if record is not None and record.data_sha256 is None:
                unknown[run.run_id] = NOT_SAID
            elif record is not None and record.data_sha256 is not None:
                by_data.setdefault((run.cell.dataset, run.data_path), {})[run.run_id] = record.data_sha256
        differing: list[str] = []
        sentences: list[str] = []
        for (name, path), hashes in by_data.items():
            here, reason = _here(name, path, config)
            if here is None:
                unknown |= dict.fromkeys(hashes, reason)
            elif others := {run_id: found for run_id, found in hashes.items() if found != here}:
                differing += others
                what = f"dataset={name}" if path is None else f"dataset.path={path}"
                sentences.append(_sentence(what, here, others))
        return cls(tuple(differing), unknown, tuple(sentences))

    def check(self) -> None:
        """Call before anything is trained beside those records, or one of them is taken for what was asked for.

        Raises:
            UsageError: some are of other data than those here.
        """
        for sentence in self.sentences:
            raise UsageError(sentence)

    def lines(self) -> Iterator[str]:
        """What to say of many runs."""
        yield from self.sentences
        for reason in dict.fromkeys(self.unknown.values()):
            runs = [run_id for run_id, why in self.unknown.items() if why == reason]
            yield f"not compared with the data here: {some(runs)} ({reason})"


def _here(name: str, path: Path | None, config: Config) -> tuple[str | None, str]:
    """Hash of the data here, or ``None`` and why."""
    try:
        return task_for(name).fingerprint(name, path, config.paths.data), NOT_DECODED
    except (MissingDataError, ValueError) as error:
        if path is not None and config.launch.name != "slurm":
            raise UsageError(str(error)) from error
        return None, NOT_HERE if isinstance(error, MissingDataError) else str(error)


def _sentence(what: str, here: str, others: dict[str, str]) -> str:
    by_hash: dict[str, list[str]] = {}
    for run_id, found in others.items():
        by_hash.setdefault(short(found), []).append(run_id)
    records = " and ".join(f"{found} ({some(run_ids)})" for found, run_ids in by_hash.items())
    return (
        f"{what} has the data {short(here)}, the records are of {records}: name the data of the records, or give those "
        "here their own paths.results= and paths.workspace=."
    )
