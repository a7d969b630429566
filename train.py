"""The one entry point: a run, a sweep or a table.

    python train.py                                                      one run on the embedded digits
    python train.py dataset=cifar100 optim=llqr_sam geometry=newton seed=3
    python train.py -m optim=sam,llqr_sam seed=0,1,2 launch=local        a sweep, here on workers; ends in a table
    python train.py table=2 dry_run=true                                 the runs of a table, and which are finished
    python train.py table=2 launch=slurm                                 what is missing of them, as a SLURM array
    python train.py table=2 select=weight_decay                          by the baseline; the table's runs then use it
    python train.py table=2 status=true optim=sam                        how far they are; without a table, of all runs
    python train.py table=10                                             a table of times: measured here, not trained

Exit status: 0 done; 1 a run failed; 2 a mistake in the command, with one line on standard error; 130 interrupted, the
same command continues.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace

try:
    import hydra
except ModuleNotFoundError:
    print("error: Hydra is not installed: `pip install .` brings the methods alone.", file=sys.stderr, end=" ")
    print("Use: pip install '.[suite]'", file=sys.stderr)
    raise SystemExit(2) from None
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from llqr_sam.report.sweeps.ending import print_ending, print_ending_of
from llqr_sam.studies.table_10.networks import time_networks
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import checked_arguments, composing
from llqr_sam.suite.config.errors import JobError, exit_status
from llqr_sam.suite.config.sources import adopt
from llqr_sam.suite.launch.dispatch import dispatch
from llqr_sam.suite.launch.sweep import SWEPT, members, of_one_table, pooled_sweep, score, swept_keys, with_direction
from llqr_sam.suite.plan.plan import plan
from llqr_sam.suite.status.begun import begun

statuses: list[int] = []  # of each job of a multirun that Hydra runs, or of the one
jobs: list[Command] = []  # those jobs


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(config: DictConfig) -> float | None:
    """One job of a multirun, or the only one; returns what an optimizing sweeper compares."""
    adopt(HydraConfig.get().runtime.config_sources)  # where Hydra's launcher has begun this process
    swept = tuple(os.environ.get(SWEPT, "").split())
    command = replace(Command.of(*HydraConfig.get().overrides.task), swept=swept)
    if HydraConfig.get().runtime.choices["hydra/launcher"] != "basic":
        if status := run(command):  # in a process of its own: only what it raises reaches the command
            raise JobError(f"a run ended with status {status}; see {HydraConfig.get().sweep.dir}/.submitit")
        return score(command)
    jobs.append(command)
    statuses.append(exit_status(lambda: run(command)))
    if statuses[-1] in (2, 130):
        raise SystemExit(statuses[-1])  # or a multirun would start its next job
    return score(command)


def run(command: Command) -> int:
    """Plan one job, then show or train; returns the exit status."""
    config = command.config
    if config.status and config.table is None and (lines := list(begun(command))):
        print(*lines, sep="\n")
        return 0
    if config.times_networks:
        return time_networks(command)
    return dispatch(plan(command), command)


def main() -> int:
    """Check the words, compose, dispatch."""
    sys.argv[1:] = with_direction(checked_arguments(sys.argv[1:]))
    if command := of_one_table(sys.argv[1:]):
        return run(command)
    if pooled := pooled_sweep(sys.argv[1:]):
        if (status := dispatch(*pooled)) != 130:
            print_ending(pooled[0], pooled[1].config)
        return status
    os.environ[SWEPT] = " ".join(swept_keys(sys.argv[1:]))
    with composing([word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]):
        job()
    print_ending_of(jobs or members(sys.argv[1:]))
    return max(statuses, default=0)


if __name__ == "__main__":
    sys.exit(exit_status(main))
