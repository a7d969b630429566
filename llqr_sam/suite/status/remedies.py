"""Whether the cause of a failure is gone: the data set is here now, or the package."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from llqr_sam.data.streams import MissingDataError
from llqr_sam.engine.tasks import registry as tasks
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.run.run_folder import Failure


def remedy(failure: Failure, run: Planned, data_root: Path) -> str | None:
    """What has changed here since a run failed for want of its data or of a package; ``None``: nothing, or no such."""
    kind, _, reason = failure.error.partition(": ")
    try:
        if kind == MissingDataError.__name__ and "incomplete" not in reason:  # whole or not, only reading would tell
            dataset = run.settings.dataset
            tasks.task_for(dataset.reader).look_for(dataset, run.data_path, data_root)
            return "its data are here now"
        if "is not installed" in reason:
            tasks.check_installed(run.settings, flatness=run.sharpness_rho is not None)
            return "the package is installed now"
        if (module := re.match(r"No module named '(\w+)", reason)) and importlib.util.find_spec(module[1]):
            return "the package is installed now"
    except (MissingDataError, ValueError):
        pass
    return None
