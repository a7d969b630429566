"""What ``python train.py -m ...`` prints at its end: a table over what varies."""

from __future__ import annotations

from collections.abc import Sequence

from llqr_sam.report.sweeps.sweep import collect
from llqr_sam.report.sweeps.sweep_text import sweep_lines
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.plan.plan import Planned, plan
from llqr_sam.suite.status.status import Status


def print_ending(runs: Sequence[Planned], config: Config) -> None:
    """Print what a multirun came to, unless it is one run or nothing was to be trained here."""
    if config.dry_run or (config.launch.name == "slurm" and not config.status):
        return
    try:
        sweep = collect(Status.under(runs, config))
    except UsageError as mixture:  # said, and no reason to call the training a mistake
        print(f"no table: {mixture}")
        return
    if sum(len(point.runs) for point in sweep.points) > 1:
        print("", *sweep_lines(sweep), sep="\n")


def print_ending_of(jobs: Sequence[Command]) -> None:
    """The same for the jobs of a multirun that Hydra ran, if they share their folders. One job is no multirun."""
    configs = [job.config for job in jobs]
    together = len({str(config.paths) for config in configs}) == 1
    if len(jobs) > 1 and together and not any(config.times_networks for config in configs):
        print_ending([run for job in jobs for run in plan(job)], configs[0])
