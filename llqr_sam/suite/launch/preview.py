"""What a launch would do, for ``dry_run=true``: which runs it trains, on which workers or with which resources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.launch.checks import lacking_packages, look_for_data
from llqr_sam.suite.launch.slurm import lines_about, profile_of
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.run.processes import worker_environments
from llqr_sam.suite.status.status import Status


def preview(status: Status, config: Config) -> Iterator[str]:
    """What a launch would start, for ``dry_run=true``: the workers, or what the jobs ask SLURM for, and the data."""
    chosen, queued = to_train(status, config)
    launcher = config.launch.name
    profile = profile_of(config.launch) if launcher == "slurm" else None
    if launcher == "inline" or not chosen:
        yield from lacking_packages(chosen)
        return
    yield from queued_lines(queued, status, config)
    if profile is not None:
        at_once = min(len(chosen), profile.array_parallelism)
        yield f"launch=slurm queues {len(chosen)} job{'s' * (len(chosen) != 1)}, of which {at_once} may run at once"
        yield f"with launch.profile={config.launch.profile or 'generic'} each asks for"
        yield from lines_about(profile, config.devices)
    else:
        workers = worker_environments(config.launch.workers, config.device, config.devices)[: len(chosen)]
        yield f"launch=local trains {len(chosen)} run{'s' * (len(chosen) != 1)} on {workers_line(workers)}"
    search = look_for_data(chosen, config, profile)
    yield from search.elsewhere
    yield from search.missing
    yield from lacking_packages(chosen)
    if not search.missing and not search.elsewhere:
        yield "the data are here"


def to_train(status: Status, config: Config) -> tuple[list[Planned], list[Planned]]:
    """The runs that a launch trains, and those that a SLURM job may still train: ``launch=slurm`` queues none twice."""
    kinds = ("missing", *retried_kinds(config))
    queued = status.queued(*kinds)
    left = queued if config.launch.name == "slurm" else []
    return [run for run in status.select(*kinds) if run not in left], queued


def retried_kinds(config: Config) -> tuple[str, ...]:
    """The kinds of runs (``status.KINDS``) that are tried again."""
    return ("failed", "diverged") if config.retry == "failed" else ()


def queued_lines(queued: Sequence[Planned], status: Status, config: Config) -> Iterator[str]:
    """What happens to runs that a SLURM job may still train, and what to do about it."""
    if queued and config.launch.name != "slurm":
        yield f"SLURM jobs of {len(queued)} of these runs are in the queue too; they will find their run taken or done"
        return
    for run in queued:
        yield f"{run.run_id}: {status.line(run)}: left alone"
    if queued:
        yield "scancel takes a job out of the queue; then the same command queues its run again"


def workers_line(environments: Sequence[dict[str, str]]) -> str:
    """``2 workers``, with the threads of each and its GPUs."""
    gpus = ", ".join(f"GPU {found}" for each in environments if (found := each.get("CUDA_VISIBLE_DEVICES")))
    threads = environments[0]["OMP_NUM_THREADS"]
    words = f"{len(environments)} worker{'s' * (len(environments) != 1)} of {threads} thread{'s' * (threads != '1')}"
    return f"{words} ({gpus})" if gpus else words
