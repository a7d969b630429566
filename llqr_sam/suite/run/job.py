"""One run as it is handed to another process or machine: JSON, with every path absolute."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from llqr_sam.engine.settings.run_settings import RunOptions, RunSettings
from llqr_sam.suite.run.run_folder import failure_path, find_record, record_files


@dataclass(frozen=True)
class Job:
    """A run, and how to carry it out."""

    settings: Annotated[RunSettings, PlainSerializer(RunSettings.as_dict), PlainValidator(RunSettings.from_dict)]
    options: RunOptions
    results: Path
    wandb: dict[str, Any] | None  # arguments of WandbLogger; None: no such logging
    stale_minutes: float
    retries: str | None = None  # hash of the failed result that this job retries (``outcome``); a newer result wins
    alone: bool = False  # the only run of a command, trained by it: a ValueError is a mistake of the command

    @property
    def run_id(self) -> str:
        """Identity of the run."""
        return self.settings.run_id

    @property
    def folder(self) -> Path:
        """The run's folder in the workspace."""
        return self.options.workspace / self.run_id

    def outcome(self) -> str | None:
        """Hash of the run's record, or else of its failure; ``None`` while it has neither."""
        return file_hash(self.record_file() or failure_path(self.folder))

    def record_file(self) -> Path | None:
        """The record that counts, if the run has one."""
        found, _ = find_record(self.run_id, record_files(self.results, self.run_id).get(self.run_id, []))
        return found[0] if found else None

    def to_json(self) -> str:
        """One line."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json") | {"run_id": self.run_id}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Inverse of ``to_json``; ``$NAME`` in the data root is expanded here, on the machine that runs the job.

        Raises:
            ValueError: it is not a job, or another version of the code made it: its settings make another run id.
        """
        tree = json.loads(text)
        job = _ADAPTER.validate_python(tree)
        if job.run_id != tree["run_id"]:
            raise ValueError(f"the job of run {tree['run_id']} describes run {job.run_id}: another version made it")
        data_root = Path(os.path.expandvars(job.options.data_root))
        return replace(job, options=replace(job.options, data_root=data_root))


_ADAPTER = TypeAdapter(Job)


def file_hash(path: Path) -> str | None:
    """SHA-256 of a file, ``None`` if there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
