"""A multirun (``-m``): all of its runs are planned before the first one starts.

With ``launch=inline`` Hydra's launcher runs them one by one (its own, or ``hydra/launcher=submitit_local`` or
``submitit_slurm``). With ``launch=local`` or ``slurm`` all runs go into one pool or one array, and with ``status=true``
or ``dry_run=true`` into one list.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from llqr_sam.suite.config.command import RUN_KEYS, Command
from llqr_sam.suite.config.command_line import parsed
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.launch.checks import check_timed_here
from llqr_sam.suite.plan.plan import Planned, plan


def pooled_sweep(arguments: Sequence[str]) -> tuple[list[Planned], Command] | None:
    """Plans a multirun whose runs are launched or shown together.

    Args:
        arguments: Of train.py.

    Returns:
        The runs, and the command of the first: it says where and how. ``None``: there is no multirun, or Hydra runs it.

    Raises:
        UsageError: an impossible value in any of the runs, two launchers, or runs that cannot be launched together.
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
    if launchers != {"inline"}:
        _check_together(words, " or ".join(sorted(launchers - {"inline"})))
    elif not _one_list(configs):
        return None
    return list(runs.values()), members[0]


def _one_list(configs: Sequence[Config]) -> bool:
    """Whether all runs are only shown, in the same way and from the same folders."""
    views = {str((config.status, config.dry_run, config.paths, config.stale_minutes)) for config in configs}
    looking = all(config.status or config.dry_run for config in configs)
    return looking and len(views) == 1 and not any(config.select or config.times_networks for config in configs)


def _check_together(words: Sequence[str], launcher: str) -> None:
    """Refuse Hydra's own launchers, and a sweep over what all runs share."""
    for word, override in zip(words, parsed(words), strict=True):
        key = override.key_or_group.partition(".")[0].partition("/")[0]
        if key == "hydra":
            raise UsageError(f"{word} has no use with launch={launcher}, which queues the sweep itself. Leave one out.")
        if override.is_sweep_override() and key not in RUN_KEYS:
            raise UsageError(
                f"{word} cannot be swept over with launch={launcher}, which trains the runs together. "
                "Give it one value, or use launch=inline."
            )
