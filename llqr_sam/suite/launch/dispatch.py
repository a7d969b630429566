"""A plan carried out: shown with ``status=true`` or ``dry_run=true``, else what is missing of it is launched."""

from __future__ import annotations

from collections.abc import Sequence

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.launch.launch import launch
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.status.overview import Overview
from llqr_sam.suite.status.same_data import Comparison, check_paths
from llqr_sam.suite.status.selection import conclude
from llqr_sam.suite.status.status import Status


def dispatch(runs: Sequence[Planned], command: Command) -> int:
    """Show where the runs stand, or train what is missing; then say what a selection chose.

    Raises:
        UsageError: see ``launch``; or ``dataset.path`` names nothing, or not the data set.
    """
    config = command.config
    check_paths([run.data_path for run in runs], config)
    status = Status.under(runs, config)
    exit_code = 0
    if config.status or config.dry_run:
        lines = Overview(status, config.paths.workspace).lines() if config.status else status.lines()
        print(*lines, *Comparison.of(status, config).lines(), sep="\n")
    else:
        exit_code = launch(status, config)
    if config.select is not None:
        print(*conclude(Status.under(runs, config), command), sep="\n")
    return exit_code
