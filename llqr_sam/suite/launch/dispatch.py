"""What train.py does: shows a plan (``status=true``, ``dry_run=true``) or launches what is missing of it."""

from __future__ import annotations

from collections.abc import Sequence

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.status.selection import conclude
from llqr_sam.suite.status.status import Comparison, Status


def dispatch(runs: Sequence[Planned], command: Command) -> int:
    """Shows the status of the runs or trains what is missing, then what a selection chose; returns the exit status."""
    config, exit_code = command.config, 0
    status = Status.under(runs, config, command.swept)
    if config.status or config.dry_run:
        hours = [str(status.hours())] if config.status else []
        lines = [*status.lines(), *hours, *Comparison.of(status, config).lines()]
        if config.dry_run:
            from llqr_sam.suite.launch.preview import preview  # late, as below

            lines += preview(status, config)
        print(*lines, sep="\n")
    else:
        from llqr_sam.suite.launch.launch import launch  # late: showing a plan needs no workers, jobs and locks

        exit_code = launch(status, config)
    if config.select is not None:
        print(*conclude(Status.under(runs, config), command), sep="\n")
    return exit_code
