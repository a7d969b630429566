"""What is checked before anything is trained, measured or queued. A ``check_`` function raises a UsageError."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llqr_sam.data.streams import MissingDataError
from llqr_sam.engine.devices.device import find_device
from llqr_sam.engine.records import provenance
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.engine.tasks.registry import check_installed, task_for
from llqr_sam.suite.config.errors import UsageError, usage_errors
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.launch.slurm import Profile
from llqr_sam.suite.plan.plan import Planned


def check_timed_here(config: Config) -> None:
    """Check that a table of times is not launched elsewhere."""
    launcher = config.launch.name
    if config.table is not None and config.times_networks and launcher != "inline":
        raise UsageError(f"launch={launcher} has no use with table={config.table.number}: it times this machine.")


@usage_errors()
def check_device(config: Config, runs: Iterable[RunSettings]) -> None:
    """Check that the devices are here, and can do what the runs' precision asks for."""
    device = find_device(config.device, 0, config.devices)
    if device.type != "cuda" and any(run.precision.cuda_graphs for run in runs):
        remedy = "Choose precision=default here."
        raise UsageError(f"precision.cuda_graphs=true needs a CUDA device, not {device}. {remedy}")


@usage_errors()
def check_code() -> None:
    """Check that records can name the commit (``LLQR_SAM_COMMIT``)."""
    provenance.git_state()


def check_folders(config: Config) -> None:
    """Check that workspace and results can be written; make them if they are missing."""
    for key in ("workspace", "results"):
        folder: Path = getattr(config.paths, key)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UsageError(f"paths.{key}={folder} cannot be written: {error.strerror}.") from error


def lacking_packages(runs: Iterable[Planned]) -> list[str]:
    """A sentence for each optional package that runs need and this environment lacks."""
    sentences: dict[str, None] = {}
    for run in runs:
        try:
            check_installed(run.settings, flatness=run.sharpness_rho is not None)
        except ValueError as error:
            sentences[str(error)] = None
    return list(sentences)


@dataclass(frozen=True)
class DataSearch:
    """What a look for the data of some runs has found, before any of them starts."""

    missing: list[str]  # a sentence for each data set that is not here: where it was looked for, and what prepares it
    elsewhere: list[str]  # a line for each that may be on the compute nodes alone, where nobody can look

    def check(self) -> None:
        """Raises a UsageError if data are missing."""
        for sentence in self.missing:
            raise UsageError(sentence)


@usage_errors()
def look_for_data(runs: Iterable[Planned], config: Config, profile: Profile | None = None) -> DataSearch:
    """Looks for the data set of each run once; no data are read. ``profile`` is that of the runs' SLURM jobs."""
    search, root = DataSearch([], []), config.paths.data
    wanted = {(run.settings.dataset.name, run.data_path): run.settings.dataset for run in runs}
    for (name, path), dataset in wanted.items():
        try:
            task_for(dataset.reader).look_for(dataset, path, root)
        except MissingDataError as error:
            if profile is None or not (reason := _only_on_nodes(path, root, profile)):
                search.missing.append(str(error))
            else:
                search.elsewhere.append(f"dataset={name} cannot be looked for from here: {reason}")
    return search


def _only_on_nodes(path: Path | None, root: Path, profile: Profile) -> str | None:
    """Why data that are not here may be on the nodes; ``None``: the jobs read or copy what is here."""
    setup = "\n".join(profile.setup)
    if path is not None:
        return f"dataset.path={path} must be on the compute nodes"
    if profile.data is None or "SUITE_FILES" in setup or ("SUITE_DATA" in setup and not root.expanduser().exists()):
        return None
    return f"the SLURM profile says data={profile.data}"
