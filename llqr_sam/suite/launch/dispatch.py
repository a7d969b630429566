"""Shows a plan (``status=true``, ``dry_run=true``) or launches what is missing of it."""

from __future__ import annotations

from collections.abc import Sequence

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.status.same_data import Comparison, check_paths
from llqr_sam.suite.status.selection import conclude
from llqr_sam.suite.status.status import Status


def dispatch(runs: Sequence[Planned], command: Command) -> int:
    """Shows the status of the runs or trains what is missing, then reports what a selection chose.

    Returns:
        Exit status.

    Raises:
        UsageError: as ``launch``; or ``dataset.path`` does not exist or is not the data set.
    """
    config = command.config
    check_paths([run.data_path for run in runs], config)
    status = Status.under(runs, config)
    exit_code = 0
    if config.status or config.dry_run:
        hours = [str(status.hours())] if config.status else []
        print(*status.lines(), *hours, *Comparison.of(status, config).lines(), sep="\n")
    else:
        from llqr_sam.suite.launch.launch import launch  # late: showing a plan needs no workers, jobs and locks

        exit_code = launch(status, config)
    if config.select is not None:
        print(*conclude(Status.under(runs, config), command), sep="\n")
    return exit_code
