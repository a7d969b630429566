"""What is checked before anything is trained or measured. Each function raises a UsageError."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from llqr_sam.engine.devices.device import find_device
from llqr_sam.engine.records import provenance
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.suite.config.errors import UsageError, usage_errors
from llqr_sam.suite.config.schema import Config


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
