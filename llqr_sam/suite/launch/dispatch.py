"""What train.py does: shows a plan (``status=true``, ``dry_run=true``) or launches what is missing of it."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from llqr_sam.suite.config.command import RUN_KEYS, Command
from llqr_sam.suite.config.command_line import parsed
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.launch.checks import check_timed_here
from llqr_sam.suite.plan.plan import Planned, plan
from llqr_sam.suite.status.selection import conclude
from llqr_sam.suite.status.status import Comparison, Status


def dispatch(runs: Sequence[Planned], command: Command) -> int:
    """Shows the status of the runs or trains what is missing, then what a selection chose; returns the exit status."""
    config, exit_code = command.config, 0
    status = Status.under(runs, config)
    if config.status or config.dry_run:
        hours = [str(status.hours())] if config.status else []
        lines = [*status.lines(), *hours, *Comparison.of(status, config).lines()]
        if config.dry_run and config.launch.name != "inline":
            from llqr_sam.suite.launch.preview import preview  # late, as below

            lines += preview(status, config)
        print(*lines, sep="\n")
    else:
        from llqr_sam.suite.launch.launch import launch  # late: showing a plan needs no workers, jobs and locks

        exit_code = launch(status, config)
    if config.select is not None:
        print(*conclude(Status.under(runs, config), command), sep="\n")
    return exit_code


def pooled_sweep(arguments: Sequence[str]) -> tuple[list[Planned], Command] | None:
    """Plans a multirun (``-m``) whose runs are launched or shown together; ``arguments`` are those of train.py.

    With ``launch=inline`` Hydra's launcher runs them one by one. With ``launch=local`` or ``slurm`` all go into one
    pool or array, and with ``status=true`` or ``dry_run=true`` into one list. All are planned before the first starts.

    Returns the runs, and the command of the first: it says where and how. ``None``: there is no multirun, or Hydra
    runs it. An impossible value in any of the runs is a UsageError, and so are runs that cannot be launched together.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return None
    words = [word for word in arguments if not word.startswith("-")]
    (batch,) = BasicSweeper.split_arguments(parsed(words), max_batch_size=None)
    members = [Command.of(*member) for member in batch]
    configs = [member.config for member in members]
    for config in configs:
        check_timed_here(config)
    runs = {run.run_id: run for member in members for run in plan(member)}
    launchers = {config.launch.name for config in configs}
    if launchers == {"inline"}:  # one list if all runs are only shown, in the same way and from the same folders
        views = {str((config.status, config.dry_run, config.paths, config.stale_minutes)) for config in configs}
        looking = all(config.status or config.dry_run for config in configs)
        one_list = looking and len(views) == 1 and not any(each.select or each.times_networks for each in configs)
        return (list(runs.values()), members[0]) if one_list else None
    launcher = " or ".join(sorted(launchers - {"inline"}))
    for word, override in zip(words, parsed(words), strict=True):
        key = override.key_or_group.partition(".")[0].partition("/")[0]
        if key == "hydra":
            raise UsageError(f"{word} has no use with launch={launcher}, which queues the sweep itself. Leave one out.")
        if override.is_sweep_override() and key not in RUN_KEYS:
            problem = f"cannot be swept over with launch={launcher}, which trains the runs together"
            raise UsageError(f"{word} {problem}. Give it one value, or use launch=inline.")
    return list(runs.values()), members[0]
