"""A multirun (``-m``): planned to its end before the first run trains.

With ``launch=inline`` Hydra's launcher takes it from there, run by run: its own, or ``hydra/launcher=submitit_local``
and ``submitit_slurm``. With ``launch=local`` or ``slurm`` all runs go into one pool or one array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from llqr_sam.suite.compose import compose_config
from llqr_sam.suite.errors import UsageError
from llqr_sam.suite.grid import Planned, plan
from llqr_sam.suite.words import parsed, sweep

# What may differ between runs that are launched together; the rest says where and how.
RUN_KEYS = ("dataset", "arch", "optim", "geometry", "structure", "protocol", "precision", "seed", "table")


@dataclass(frozen=True)
class Sweep:
    """The runs of a multirun, and where and how all of them are trained."""

    runs: tuple[Planned, ...]
    config: DictConfig  # of the first run


def pooled_sweep(arguments: Sequence[str]) -> Sweep | None:
    """The sweep that ``arguments`` ask for, if its runs are launched together; ``None``: Hydra does what they say.

    Args:
        arguments: Of train.py.

    Raises:
        UsageError: an impossible value in any of the runs, two launchers, or runs to be launched together that differ
            in how.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return None
    words = [word for word in arguments if not word.startswith("-")]
    members = [(compose_config(member), member) for member in sweep(words)]
    runs = tuple(run for config, member in members for run in plan(config, member))
    launchers = {config.launch.name for config, _ in members}
    if launchers == {"inline"}:
        return None
    _check_together(words, " or ".join(sorted(launchers - {"inline"})))
    return Sweep(runs, members[0][0])


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
