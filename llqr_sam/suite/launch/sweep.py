"""A multirun (``-m``): planned to its end before the first run trains.

With ``launch=inline`` Hydra's launcher takes it from there, run by run: its own, or ``hydra/launcher=submitit_local``
and ``submitit_slurm``. With ``launch=local`` or ``slurm`` all runs go into one pool or one array, and with
``status=true`` or ``dry_run=true`` into one list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llqr_sam.suite.config.command import RUN_KEYS, Command
from llqr_sam.suite.config.command_line import parsed, sweep
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.launch.launch import check_choices
from llqr_sam.suite.plan.plan import Planned, plan


@dataclass(frozen=True)
class Sweep:
    """The runs of a multirun, and where and how all of them are trained or shown."""

    runs: tuple[Planned, ...]
    first: Command  # of the first run


def pooled_sweep(arguments: Sequence[str]) -> Sweep | None:
    """The sweep that ``arguments`` ask for, if its runs are launched or shown together; ``None``: Hydra does it.

    Args:
        arguments: Of train.py.

    Raises:
        UsageError: an impossible value in any of the runs, two launchers, a table of times that is not for this
            machine, or runs to be launched together that differ in how.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return None
    words = [word for word in arguments if not word.startswith("-")]
    members = [Command.of(*member) for member in sweep(words)]
    configs = [member.config for member in members]
    for config in configs:
        check_choices(config)
    runs = {run.run_id: run for member in members for run in plan(member)}
    launchers = {config.launch.name for config in configs}
    if launchers != {"inline"}:
        _check_together(words, " or ".join(sorted(launchers - {"inline"})))
    elif not _one_list(configs):
        return None
    return Sweep(tuple(runs.values()), members[0])


def _one_list(configs: Sequence[Config]) -> bool:
    """Whether the runs are only looked at, all of them in the same way and place."""
    views = {str((config.status, config.dry_run, config.paths, config.stale_minutes)) for config in configs}
    looking = all(config.status or config.dry_run for config in configs)
    return looking and len(views) == 1 and not any(config.select or config.times_networks for config in configs)


def _check_together(words: Sequence[str], launcher: str) -> None:
    for word, override in zip(words, parsed(words), strict=True):
        key = override.key_or_group.partition(".")[0].partition("/")[0]
        if key == "hydra":
            raise UsageError(f"{word} has no use with launch={launcher}, which queues the sweep itself. Leave one out.")
        if override.is_sweep_override() and key not in RUN_KEYS:
            raise UsageError(
                f"{word} cannot be swept over with launch={launcher}, which trains the runs together. "
                "Give it one value, or use launch=inline."
            )
