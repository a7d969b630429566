"""Multiruns (``-m``): planned whole and launched together where that is possible, else Hydra's sweeper runs them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override

from llqr_sam.suite.config.command import AXES, RUN_KEYS, Command
from llqr_sam.suite.config.command_line import parsed, values
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.launch.checks import check_timed_here
from llqr_sam.suite.plan.plan import Planned, plan
from llqr_sam.suite.status.status import Status

OPTUNA = "hydra-optuna-sweeper"  # the package
SWEPT = "LLQR_SAM_SWEPT"  # in the environment of a multirun's jobs: the keys that vary


def pooled_sweep(arguments: Sequence[str]) -> tuple[list[Planned], Command] | None:
    """Plans a multirun whose runs are launched or shown together; ``arguments`` are those of train.py.

    All runs are planned before the first starts: one after another here, in one pool or one array, or in one list with
    ``status=true`` or ``dry_run=true``.

    Returns the runs, and the command of the first: it says where and how. ``None``: there is no multirun, or Hydra
    runs it: words of Hydra's own are among the arguments, it sweeps over where and how (``device=cpu,cuda``), selects,
    or times networks. An impossible value in any of the runs is a UsageError, and so are runs that cannot be launched
    together.
    """
    options = _options(arguments)
    if options.multirun and (options.cfg or options.info):
        raise UsageError("--cfg and --info show the configuration of one run. Leave -m out.")
    if not options.multirun or options.help or options.hydra_help:
        return None
    words = list(options.overrides)
    overrides = parsed(words)
    own = [word for word, override in zip(words, overrides, strict=True) if _root(override) == "hydra"]
    how = [
        word
        for word, override in zip(words, overrides, strict=True)
        if override.is_sweep_override() and _root(override) not in (*RUN_KEYS, "hydra")
    ]
    if _sweeper(overrides) != "basic":
        for launcher in (name for each in overrides if each.key_or_group == "launch" for name in values(each)):
            if launcher != "inline":
                raise _two_queues(own[0], launcher)
        return None
    for word, override in zip(words, overrides, strict=True):
        if override.is_interval_sweep():
            remedy = f"add hydra/sweeper=optuna, or give values, as {override.key_or_group}=0.1,0.2"
            raise UsageError(f"{word} needs a sweeper that chooses values: {remedy}.")
    members = _members(overrides)
    configs = [member.config for member in members]
    for config in configs:
        check_timed_here(config)
    runs = {run.run_id: run for member in members for run in plan(member)}
    launchers = {config.launch.name for config in configs}
    if launchers != {"inline"}:
        launcher = " or ".join(sorted(launchers - {"inline"}))
        if own:
            raise _two_queues(own[0], launcher)
        if how:
            problem = f"cannot be swept over with launch={launcher}, which trains the runs together"
            raise UsageError(f"{how[0]} {problem}. Give it one value, or use launch=inline.")
        return list(runs.values()), members[0]
    if any(config.select or config.times_networks for config in configs):
        return None
    if all(config.status or config.dry_run for config in configs):  # one list, if it is of one kind and from one place
        together = len({str((c.status, c.dry_run, c.paths, c.stale_minutes)) for c in configs}) == 1
    else:
        together = not own and not how
    return (list(runs.values()), members[0]) if together else None


def of_one_table(arguments: Sequence[str]) -> Command | None:
    """The command of a table whose words choose several of its runs, as ``table=2 seed=0,1``: it needs no ``-m``."""
    options = _options(arguments)
    overrides = parsed(options.overrides)
    several = [override.key_or_group for override in overrides if override.is_sweep_override()]
    in_table = any(override.key_or_group == "table" for override in overrides)
    if options.multirun or options.cfg or options.info or not in_table or not several or set(several) - set(AXES):
        return None
    return Command.of(*options.overrides)


def with_direction(arguments: Sequence[str]) -> list[str]:
    """The arguments, and the words that an optimizing sweeper lacks: scores are maximized, and Optuna minimizes.

    A UsageError if Optuna's sweeper is asked for and not installed.
    """
    options = _options(arguments)
    overrides = parsed(options.overrides)
    if _sweeper(overrides) != "optuna":
        return list(arguments)
    try:
        version(OPTUNA)
    except PackageNotFoundError:
        raise UsageError(f"hydra/sweeper=optuna is not installed. Use: pip install {OPTUNA}==1.3.0") from None
    if not options.multirun:
        raise UsageError("hydra/sweeper=optuna has no use without -m.")
    for word, override in zip(options.overrides, overrides, strict=True):
        if override.key_or_group in ("dry_run", "status") and values(override) == ["True"]:
            raise UsageError(
                f"{word} has no use with hydra/sweeper=optuna: it chooses each run by the scores before it."
            )
    given = any(override.key_or_group == "hydra.sweeper.direction" for override in overrides)
    return [*arguments, *([] if given else ["hydra.sweeper.direction=maximize"])]


def swept_keys(arguments: Sequence[str]) -> tuple[str, ...]:
    """The keys that a multirun sweeps over."""
    overrides = parsed(_options(arguments).overrides)
    return tuple(override.key_or_group for override in overrides if override.is_sweep_override())


def members(arguments: Sequence[str]) -> list[Command]:
    """The jobs of a multirun that Hydra's own launcher starts in other processes; none where a sweeper chooses them."""
    options = _options(arguments)
    overrides = parsed(options.overrides)
    if not options.multirun or _sweeper(overrides) != "basic":
        return []
    return _members([override for override in overrides if _root(override) != "hydra"])


def _members(overrides: list[Override]) -> list[Command]:
    """The commands of a grid, in Hydra's order."""
    (batch,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return [Command.of(*member) for member in batch]


def score(command: Command) -> float | None:
    """What an optimizing sweeper compares: the mean best score of the command's runs, in percent or BLEU.

    A run without a finished record (it diverged or failed) counts as 0, the worst. ``None`` if nothing was to be
    trained.
    """
    config = command.config
    if config.status or config.dry_run or config.times_networks:
        return None
    status = Status.under(plan(command), config)
    records = [status.records.get(run.run_id) for run in status.runs]
    finished = [record.metrics.best.score or 0.0 for record in records if record and record.status == "finished"]
    return sum(finished) / len(records)


def _options(arguments: Sequence[str]) -> Namespace:
    """Hydra's reading of train.py's arguments: its flags, and the words as ``overrides``."""
    return get_args_parser().parse_intermixed_args(list(arguments))


def _sweeper(overrides: Sequence[Override]) -> str:
    """Name of Hydra's sweeper."""
    return next((values(each)[0] for each in reversed(overrides) if each.key_or_group == "hydra/sweeper"), "basic")


def _two_queues(word: str, launcher: str) -> UsageError:
    return UsageError(f"{word} has no use with launch={launcher}, which queues the sweep itself. Leave one out.")


def _root(override: Override) -> str:
    """``hydra`` of ``hydra/launcher`` and of ``hydra.sweeper.n_jobs``."""
    return override.key_or_group.partition(".")[0].partition("/")[0]
