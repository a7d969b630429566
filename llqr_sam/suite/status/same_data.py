"""Compares the data that the records of a plan were trained on with the data that are here.

A run id contains the name of a data set, not its contents, and ``dataset.path`` may name another archive. So a finished
run counts as the run asked for only if its ``data_sha256`` is the hash of the data here. ``Status.mixtures`` compares
records with each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llqr_sam.data.streams import MissingDataError
from llqr_sam.engine.tasks.registry import task_for
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.status.status import Status, by_hash, short, some

NOT_HERE = "its data are not here to compare"
NOT_DECODED = "its data are not compared, for they would have to be decoded"
NOT_SAID = "its record does not say on which data"


@dataclass(frozen=True)
class Comparison:
    """The records of a plan against the data here."""

    unknown: dict[str, str]  # run id -> why its data are not compared
    differences: list[str]  # a sentence for each data set that differs: both hashes, and what to do

    @classmethod
    def of(cls, status: Status, config: Config) -> Comparison:
        """Hashes each data set that has records once, and compares.

        Raises:
            UsageError: a ``dataset.path`` names nothing, or not the data set. With ``launch=slurm`` it may exist on the
                nodes alone.
        """
        by_data: dict[tuple[str, Path | None], dict[str, str]] = {}  # run id -> hash in its record
        compared = cls({}, [])
        on_nodes = config.launch.name == "slurm"
        for run in status.runs:
            record, path = status.records.get(run.run_id), run.data_path
            if path is not None and not on_nodes and not path.expanduser().exists():
                raise UsageError(f"dataset.path={path} does not exist: it must name the data set's file or folder.")
            if record is not None and record.data_sha256 is None:
                compared.unknown[run.run_id] = NOT_SAID
            elif record is not None and record.data_sha256 is not None:
                by_data.setdefault((run.cell.dataset, path), {})[run.run_id] = record.data_sha256
        for (name, path), hashes in by_data.items():
            try:
                here, reason = task_for(name).fingerprint(name, path, config.paths.data), NOT_DECODED
            except (MissingDataError, ValueError) as error:
                if path is not None and not on_nodes:
                    raise UsageError(str(error)) from error
                here, reason = None, NOT_HERE if isinstance(error, MissingDataError) else str(error)
            if here is None:
                compared.unknown.update(dict.fromkeys(hashes, reason))
            elif others := {run_id: found for run_id, found in hashes.items() if found != here}:
                what = f"dataset={name}" if path is None else f"dataset.path={path}"
                compared.differences.append(
                    f"{what} has the data {short(here)}, the records are of {by_hash(others)}: name the data of the "
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
