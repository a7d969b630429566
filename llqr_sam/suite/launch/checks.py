"""What is checked before anything is trained or measured. Each function raises a UsageError."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from llqr_sam.engine.devices.device import find_device
from llqr_sam.engine.records import provenance
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.engine.tasks import registry as tasks
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.plan.plan import Planned


def check_timed_here(config: Config) -> None:
    """Check that a table of times is not launched elsewhere."""
    if config.table is not None and config.times_networks and config.launch.name != "inline":
        raise UsageError(
            f"launch={config.launch.name} has no use with table={config.table.number}: it times this machine."
        )


def check_installed(runs: Sequence[Planned]) -> None:
    """Check that the optional packages that the runs need are installed."""
    try:
        for run in runs:
            tasks.check_installed(run.settings, flatness=run.sharpness_rho is not None)
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_device(config: Config, runs: Iterable[RunSettings]) -> None:
    """Check that the devices are here, and can do what the runs' precision asks for."""
    try:
        device = find_device(config.device, 0, config.devices)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if device.type != "cuda" and any(run.precision.cuda_graphs for run in runs):
        raise UsageError(
            f"precision.cuda_graphs=true needs a CUDA device, not {device}. Choose precision=default here."
        )


def check_code() -> None:
    """Check that records can name the commit (``LLQR_SAM_COMMIT``)."""
    try:
        provenance.git_state()
    except ValueError as error:
        raise UsageError(str(error)) from error


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
