"""Trains the missing runs of a plan: one after another here, on workers of this machine, or under SLURM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.loop.run import RunOptions
from llqr_sam.engine.records import provenance
from llqr_sam.engine.tasks import registry as tasks
from llqr_sam.suite.config.errors import UsageError, say, usage_errors
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.launch.checks import check_code, check_device, check_folders
from llqr_sam.suite.launch.local import Pool, worker_environments
from llqr_sam.suite.launch.slurm import read_profile, submit
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.run.attempt import WRONG_DATA, DeviceLost, ProcessLost, RankLost
from llqr_sam.suite.run.code_snapshot import take_snapshot
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
    retried, alone = retried_kinds(config), len(status.runs) == 1
    chosen = status.select("missing", *retried)
    compared = Comparison.of(status, config)
    compared.check()
    say(*status.selected_values(), *status.damaged)
    finished = [record for record in status.records.values() if record.status == "finished"]
    without = sum(record.sharpness is None for record in finished)
    if config.sharpness and without:
        say(f"{without} of {len(finished)} finished runs have no sharpness: it is measured at the end of training")
    if not alone:
        say(*status.mixtures().values(), *compared.lines(), status.total())
    elif not chosen:
        return _already(status, compared)
    say(*(f"{run.run_id}: {status.line(run)}: left alone" for run in status.select("running")))
    if status.select("failed") and not retried:
        say("runs that failed are left alone; retry=failed tries them again")
    if not chosen:
        return 0
    with usage_errors():
        for run in chosen:
            tasks.check_installed(run.settings, flatness=run.sharpness_rho is not None)
    check_code()
    check_folders(config)
    if config.launch.name == "inline":
        check_device(config, [run.settings for run in chosen])
        return _inline([make_job(run, status, config, Path()) for run in chosen], alone=alone)
    here = Path.cwd()
    jobs = [make_job(run, status, config, here) for run in chosen]
    return (_local if config.launch.name == "local" else _slurm)(jobs, config, here / config.paths.workspace)


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
    mistakes = (*WRONG_DATA, ValueError) if alone else WRONG_DATA
    failed = lost = 0
    for number, job in enumerate(jobs, start=1):
        if not alone:
            say(f"[{number}/{len(jobs)}] {job.run_id}")
        try:
            record = train(job, mistakes)
        except LeftAlone as reason:
            say(f"{job.run_id}: {reason}")
        except Interrupted as interruption:
            left = len(jobs) - number + 1
            say(f"interrupted: {interruption}" + (f"; {left} runs left" if left > 1 else ""))
            return 130
        except RankLost as loss:
            lost += 1
            say(f"{job.run_id}: {loss}")
        except mistakes as error:
            raise UsageError(str(error)) from error
        except Exception as error:
            if alone and not isinstance(error, ProcessLost):
                raise
            failed += 1
            say(f"failed: {job.run_id}: {reason_of(error)}")
            if isinstance(error, DeviceLost) and job.options.devices == 1:  # else it was a rank's process
                break
        else:
            if alone:
                print(f"{job.run_id} is {result(record)}\nrecord: {job.record_file()}")
    return _exit_status(failed, lost, len(jobs))


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
    return _exit_status(ended["failed"], ended["killed"], len(jobs))


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
    logging = {
        "project": config.logger.project,
        "mode": config.logger.mode,
        "group": str(run.cell),
        "job_type": run.cell.label,
        "tags": [run.folder, run.cell.dataset, run.cell.arch],
    }
    return Job(
        settings=run.settings,
        options=options,
        results=results,
        wandb=logging if config.logger.name == "wandb" else None,
        stale_minutes=config.stale_minutes,
        retries=file_hash(status.paths.get(run.run_id) or failure_path(workspace / run.run_id)),
    )


def _exit_status(failed: int, lost: int, runs: int) -> int:
    if failed:
        say(f"{failed} of {runs} runs failed; retry=failed tries them again")
    return int(failed + lost > 0)


def retried_kinds(config: Config) -> tuple[str, ...]:
    """The kinds of runs (``status.KINDS``) that are tried again."""
    return ("failed", "diverged") if config.retry == "failed" else ()
