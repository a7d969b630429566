"""Trains the missing runs of a plan: one after another here, on workers of this machine, or under SLURM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.records import provenance
from llqr_sam.engine.settings.run_settings import RunOptions
from llqr_sam.suite.config.errors import UsageError, say
from llqr_sam.suite.config.schema import Config, LoggerConfig
from llqr_sam.suite.launch.checks import check_code, check_device, check_folders, check_installed
from llqr_sam.suite.launch.local import Pool, worker_environments
from llqr_sam.suite.launch.slurm import read_profile, submit
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.run.code_snapshot import take_snapshot
from llqr_sam.suite.run.faults import WRONG_DATA, DeviceLost, ProcessLost, RankLost
from llqr_sam.suite.run.job import Job, file_hash
from llqr_sam.suite.run.lock import LeftAlone
from llqr_sam.suite.run.multi_device import train
from llqr_sam.suite.run.run_folder import failure_path, reason_of
from llqr_sam.suite.status.same_data import Comparison
from llqr_sam.suite.status.status import Status, result


def launch(status: Status, config: Config) -> int:
    """Trains the missing runs of ``status``, and with ``retry=failed`` those that failed or diverged.

    In a table or sweep a failed run is reported in one line and the next one starts. A diverged run has a record and
    did not fail. A run that another process trains is left alone.

    Returns:
        Exit status: 0; 1 if a run failed; 130 after Ctrl-C or a scheduler's signal, with the checkpoint saved.

    Raises:
        UsageError: a device, data set, package, SLURM or its profile is missing, a folder cannot be written, a setting
            of the launcher or of a single run is impossible, or a record or checkpoint is of other data than here.
    """
    retried = retried_kinds(config)
    chosen = status.select("missing", *retried)
    compared = Comparison.of(status, config)
    compared.check()
    say(*status.selected_values(), *status.damage())
    if config.sharpness:
        say(*_unmeasured(status))
    if len(status.runs) > 1:
        say(*status.mixtures().values(), *compared.lines(), status.total())
    elif not chosen:
        return _already(status, compared)
    say(*(f"{run.run_id}: {status.line(run)}: left alone" for run in status.select("running")))
    if status.select("failed") and not retried:
        say("runs that failed are left alone; retry=failed tries them again")
    if not chosen:
        return 0
    check_installed(chosen)
    check_code()
    check_folders(config)
    if config.launch.name == "inline":
        check_device(config, [run.settings for run in chosen])
        return _inline([make_job(run, status, config, Path()) for run in chosen], alone=len(status.runs) == 1)
    here = Path.cwd()
    jobs = [make_job(run, status, config, here) for run in chosen]
    return (_local if config.launch.name == "local" else _slurm)(jobs, config, here / config.paths.workspace)


def _unmeasured(status: Status) -> Iterator[str]:
    """A line if finished runs were trained without sharpness=true."""
    finished = [record for record in status.records.values() if record.status == "finished"]
    without = sum(record.sharpness is None for record in finished)
    if without:
        yield f"{without} of {len(finished)} finished runs have no sharpness: it is measured at the end of training"


def _already(status: Status, compared: Comparison) -> int:
    """Reports a single run that is not trained now."""
    (run,) = status.select("finished", "diverged", "failed", "running")
    kind = status.of_run(run)
    if kind in ("finished", "diverged"):
        doubt = f" ({compared.unknown[run.run_id]})" if run.run_id in compared.unknown else ""
        print(f"{run.run_id} is {result(status.records[run.run_id])}{doubt}\nrecord: {status.paths[run.run_id]}")
        return 0
    say(f"{run.run_id}: {status.line(run)}: " + ("left alone" if kind == "running" else "retry=failed tries it again"))
    return 0 if kind == "running" else 1


def _inline(jobs: Sequence[Job], *, alone: bool) -> int:
    """Trains here, one run after another."""
    failed = lost = 0
    for number, job in enumerate(jobs, start=1):
        if not alone:
            say(f"[{number}/{len(jobs)}] {job.run_id}")
        try:
            record = train(job, mistakes=(*WRONG_DATA, ValueError) if alone else WRONG_DATA)
        except LeftAlone as reason:
            say(f"{job.run_id}: {reason}")
            continue
        except Interrupted as interruption:
            left = len(jobs) - number + 1
            say(f"interrupted: {interruption}" + (f"; {left} runs left" if left > 1 else ""))
            return 130
        except RankLost as loss:
            lost += 1
            say(f"{job.run_id}: {loss}")
            continue
        except WRONG_DATA as error:
            raise UsageError(str(error)) from error
        except Exception as error:
            if alone and isinstance(error, ValueError):
                raise UsageError(str(error)) from error
            if alone and not isinstance(error, ProcessLost):
                raise
            failed += 1
            say(f"failed: {job.run_id}: {reason_of(error)}")
            if isinstance(error, DeviceLost) and job.options.devices == 1:  # else it was a rank's process
                break
            continue
        if alone:
            print(f"{job.run_id} is {result(record)}\nrecord: {job.record_file()}")
    return max(_failures(failed, len(jobs)), min(lost, 1))


def _local(jobs: Sequence[Job], config: Config, workspace: Path) -> int:
    """Trains on workers of this machine; prints a line for each run that ends."""
    check_device(config, [job.settings for job in jobs])
    environments = worker_environments(config.launch.workers, config.device, config.devices)[: len(jobs)]
    say(f"{len(environments)} worker{'s' * (len(environments) != 1)}; each run prints to {workspace}/<run>/log.txt")
    ended: Counter[str] = Counter()
    mistake = None
    pool = Pool(environments, take_snapshot(workspace))
    for job, reply in pool.run(jobs):
        ended[reply.kind] += 1
        reason = f": {reply.reason}" if reply.reason else ""
        say(f"[{ended.total()}/{len(jobs)}] {job.run_id}: {reply.kind}{reason}")
        if reply.kind == "mistake":
            mistake = reply.reason
            pool.stop()
    if mistake is not None:
        raise UsageError(mistake)
    if ended["interrupted"] or ended.total() < len(jobs):
        say("interrupted: the same command continues")
        return 130
    if ended["killed"]:
        say(f"{ended['killed']} of {len(jobs)} runs lost their worker; the same command continues them")
    return max(_failures(ended["failed"], len(jobs)), min(ended["killed"], 1))


def _slurm(jobs: Sequence[Job], config: Config, workspace: Path) -> int:
    """Submits an array and returns."""
    profile = read_profile(config.launch.profile or "generic")
    name = f"llqr-sam-{config.table.number}" if config.table is not None else "llqr-sam"
    numbers = submit(jobs, profile, take_snapshot(workspace), workspace, name)
    for number, job in zip(numbers, jobs, strict=True):
        print(f"{number}  {job.run_id}")
    return 0


def make_job(run: Planned, status: Status, config: Config, base: Path) -> Job:
    """The job of a run, with its paths below ``base`` and the hash of the failed result that it retries."""
    workspace, results = base / config.paths.workspace, base / config.paths.results
    record = status.paths.get(run.run_id)
    options = RunOptions(
        workspace=workspace,
        record_path=results / "runs" / run.folder / f"{run.run_id}.json",
        data_path=base / run.data_path.expanduser() if run.data_path else None,
        data_root=base / config.paths.data.expanduser(),
        device=config.device,
        devices=config.devices,
        shard=run.shard,
        workers=run.workers,
        checkpoint_minutes=config.checkpoint_minutes,
        keep_weights=config.keep_weights,
        sharpness_rho=run.sharpness_rho,
        git=None if base == Path() else provenance.git_state(),
    )
    return Job(
        settings=run.settings,
        options=options,
        results=results,
        wandb=_wandb(run, config.logger) if config.logger.name == "wandb" else None,
        stale_minutes=config.stale_minutes,
        retries=file_hash(record or failure_path(workspace / run.run_id)),
    )


def _wandb(run: Planned, logger: LoggerConfig) -> dict[str, Any]:
    """How Weights & Biases groups the run: seeds of a cell in one group, a job type for each method."""
    return {
        "project": logger.project,
        "mode": logger.mode,
        "group": str(run.cell),
        "job_type": run.cell.label,
        "tags": [run.folder, run.cell.dataset, run.cell.arch],
    }


def _failures(failed: int, runs: int) -> int:
    if failed:
        say(f"{failed} of {runs} runs failed; retry=failed tries them again")
    return 1 if failed else 0


def retried_kinds(config: Config) -> tuple[str, ...]:
    """The kinds of runs (``status.KINDS``) that are tried again."""
    return ("failed", "diverged") if config.retry == "failed" else ()
