"""One run as it is handed to another process or machine: JSON, with every path absolute."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llqr_sam.engine.loop.run import RunOptions
from llqr_sam.engine.settings.run_settings import (
    ArchSettings,
    DatasetSettings,
    PrecisionSettings,
    ProtocolSettings,
    RunSettings,
)
from llqr_sam.methods.factory import MethodSpec
from llqr_sam.suite.run.run_folder import failure_path, find_record, record_files

PATHS = ("workspace", "record_path", "data_path", "data_root")


@dataclass(frozen=True)
class Job:
    """A run, and how to carry it out.

    ``retries`` is the digest of the outcome (``outcome``) that the run is tried again in spite of: if the outcome on
    disk is another one by the time the job starts, somebody else has been faster.
    """

    settings: RunSettings
    options: RunOptions
    results: Path
    wandb: dict[str, Any] | None  # arguments of WandbLogger; None: no such logging
    stale_minutes: float
    retries: str | None = None

    @property
    def run_id(self) -> str:
        """Identity of the run."""
        return self.settings.run_id

    @property
    def folder(self) -> Path:
        """Of the run in the workspace."""
        return self.options.workspace / self.run_id

    def outcome(self) -> str | None:
        """Digest of the run's record, or else of its failure; ``None`` while it has neither.

        Raises:
            UnreadableRecordError: see ``find_record``.
        """
        return digest(self.record_file() or failure_path(self.folder))

    def record_file(self) -> Path | None:
        """The record that counts, if the run has one."""
        found, _ = find_record(self.run_id, record_files(self.results, self.run_id).get(self.run_id, []))
        return found[0] if found else None

    def to_json(self) -> str:
        """One line."""
        options = asdict(self.options)
        for name in PATHS:
            options[name] = str(options[name]) if options[name] is not None else None
        tree = asdict(self) | {"run_id": self.run_id, "options": options, "results": str(self.results)}
        return json.dumps(tree, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Inverse of ``to_json``; ``$NAME`` in the data root is the environment's, of the machine that runs it.

        Raises:
            ValueError: the settings do not make the run that was written: the code is of another version.
        """
        tree = json.loads(text)
        run_id = tree.pop("run_id")
        options = tree["options"]
        options["data_root"] = os.path.expandvars(options["data_root"])
        for name in PATHS:
            options[name] = Path(options[name]) if options[name] is not None else None
        if options["git"] is not None:
            options["git"] = tuple(options["git"])
        tree |= {
            "settings": _settings(tree["settings"]),
            "options": RunOptions(**options),
            "results": Path(tree["results"]),
        }
        job = cls(**tree)
        if job.run_id != run_id:
            raise ValueError(f"the job of run {run_id} describes run {job.run_id}: it was made by another version")
        return job


def digest(path: Path) -> str | None:
    """SHA-256 of a file, ``None`` where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _settings(tree: dict[str, Any]) -> RunSettings:
    return RunSettings(
        dataset=DatasetSettings(**tree["dataset"]),
        arch=ArchSettings(**tree["arch"]),
        optim=MethodSpec(**tree["optim"]),
        protocol=ProtocolSettings(**tree["protocol"]),
        precision=PrecisionSettings(**tree["precision"]),
        seed=tree["seed"],
    )
