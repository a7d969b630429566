"""Trains the missing runs of a plan: one after another here, on workers of this machine, or under SLURM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llqr_sam.engine.records import provenance
from llqr_sam.engine.records.record import read_record
from llqr_sam.engine.records.weights import WEIGHTS
from llqr_sam.engine.settings.run_settings import RunOptions
from llqr_sam.suite.config.errors import UsageError, say
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.launch.checks import check_code, check_device, check_folders, lacking_packages, look_for_data
from llqr_sam.suite.launch.preview import queued_lines, retried_kinds, to_train, workers_line
from llqr_sam.suite.launch.slurm import profile_of, submit
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.run.attempt import WRONG_DATA, Job, file_hash
from llqr_sam.suite.run.code_snapshot import take_snapshot
from llqr_sam.suite.run.processes import Pool, train, worker_environments
from llqr_sam.suite.run.run_folder import Failure, Queued, note_begun
from llqr_sam.suite.status.queue import cluster
from llqr_sam.suite.status.status import Comparison, Status, result
from llqr_sam.suite.status.uploads import PAGE
from llqr_sam.suite.weights.network import HOW_TO_KEEP


def launch(status: Status, config: Config) -> int:
    """Trains the missing runs of ``status``, and with ``retry=failed`` those that failed or diverged.

    In a table or sweep a failed run is reported in one line and the next one starts. A diverged run has a record and
    did not fail. A run that another process trains is left alone. Returns the exit status: 0; 1 if a run failed; 130
    after Ctrl-C or a scheduler's signal, with the checkpoint saved.

    Raises:
        UsageError: a device, data set, package, SLURM or its profile is missing, a folder cannot be written, a setting
            of the launcher or of a single run is impossible, or a record or checkpoint is of other data than here.
    """
    alone = len(status.runs) == 1 and not status.swept
    retried = retried_kinds(config)
    chosen, queued = to_train(status, config)
    compared = Comparison.of(status, config)
    compared.check()
    say(*status.selected_values(), *status.damaged)
    finished = [record for record in status.records.values() if record.status == "finished"]
    without = sum(record.sharpness is None for record in finished)
    if config.sharpness and without:
        say(f"{without} of {len(finished)} finished runs have no sharpness: it is measured at the end of training")
    places = [config.paths.workspace / record.run_id / WEIGHTS for record in finished]
    if config.keep_weights and not alone and (lost := [path for path in places if not path.exists()]):
        say(f"{len(lost)} of {len(finished)} finished runs have kept no weights: to get them, {HOW_TO_KEEP}")
    if not alone:
        say(*status.mixtures().values(), *compared.lines(), status.total())
    elif not chosen and not queued:
        return _already(status, compared, config)
    say(*(f"{status.name(run)}: {status.line(run)}: left alone" for run in status.select("running")))
    say(*queued_lines(queued, status, config))
    if status.select("failed") and not retried:
        gone = [f", and of {number} {change}" for change, number in Counter(status.remedies.values()).items()]
        say("runs that failed are left alone; retry=failed tries them again" + "".join(gone))
    if not chosen:
        return 0
    for sentence in lacking_packages(chosen):
        raise UsageError(sentence)
    check_code()
    check_folders(config)
    profile = profile_of(config.launch) if config.launch.name == "slurm" else None
    search = look_for_data(chosen, config, profile)
    search.check()
    say(*search.elsewhere)
    if config.launch.name == "inline":
        check_device(config, [run.settings for run in chosen])
        return _inline([replace(make_job(run, status, config, Path()), alone=alone) for run in chosen])
    here = Path.cwd()
    jobs = [make_job(run, status, config, here) for run in chosen]
    workspace = here / config.paths.workspace
    if profile is None:
        return _local(jobs, config, workspace)
    name = f"llqr-sam-{config.table.number}" if config.table is not None else "llqr-sam"
    numbers = submit(jobs, profile, take_snapshot(workspace), workspace, name)
    for job in jobs:
        note_begun(job.folder, job.begun)  # so that status=true knows what is in the queue
    _note(numbers, jobs)
    print(*(f"{number}  {job.label}  {job.run_id}" for number, job in zip(numbers, jobs, strict=True)), sep="\n")
    return 0


def _note(numbers: Sequence[str], jobs: Sequence[Job]) -> None:
    """Notes the SLURM job of each run in its folder, for status and for the next launch."""
    here = cluster()
    try:
        for number, job in zip(numbers, jobs, strict=True):
            job.folder.mkdir(parents=True, exist_ok=True)
            Queued(number, here).write(job.folder)
    except OSError as error:
        say(f"the jobs are queued, but not noted in the runs' folders: {error}")


def _already(status: Status, compared: Comparison, config: Config) -> int:
    """Reports a single run that is not trained now."""
    (run,) = status.select("finished", "diverged", "failed", "running")
    kind = status.of_run(run)
    if kind in ("finished", "diverged"):
        doubt = f" ({compared.unknown[run.run_id]})" if run.run_id in compared.unknown else ""
        print(f"{run.run_id} is {result(status.records[run.run_id])}{doubt}\nrecord: {status.paths[run.run_id]}")
        if config.keep_weights:
            weights = config.paths.workspace / run.run_id / WEIGHTS
            print(f"weights: {weights if weights.exists() else f'not kept. To get them, {HOW_TO_KEEP}'}")
        return 0
    line, advice = status.line(run), "left alone" if kind == "running" else "retry=failed tries it again"
    say(f"{run.run_id}: {line}" + (f": {advice}" if not line.endswith(advice) else ""))
    return 0 if kind == "running" else 1


def _inline(jobs: Sequence[Job]) -> int:
    """Trains here, one run after another."""
    ended: Counter[str] = Counter()
    for number, job in enumerate(jobs, start=1):
        if not job.alone:
            say(f"[{number}/{len(jobs)}] {job.label}")
        try:
            reply = train(job)
        except (*WRONG_DATA, ValueError) as error:
            raise UsageError(str(error)) from error
        ended[reply.kind] += 1
        if reply.kind == "mistake":
            raise UsageError(reply.reason)
        if reply.kind == "interrupted":
            left = len(jobs) - number + 1
            say(f"interrupted: {reply.reason}" + (f"; {left} runs left" if left > 1 else ""))
            return 130
        if reply.kind in ("left", "killed", "unwritten"):
            say(f"{job.label}: {reply.reason}")
        elif reply.kind == "failed":
            say(f"failed: {job.label} ({job.run_id}): {reply.reason}")
            if reply.ends:
                break
        elif job.alone and (path := job.record_file()):
            print(f"{job.run_id} is {result(read_record(path))}\nrecord: {path}")
    return _exit_status(ended, len(jobs))


def _local(jobs: Sequence[Job], config: Config, workspace: Path) -> int:
    """Trains on workers of this machine; prints a line for each run that ends."""
    check_device(config, [job.settings for job in jobs])
    environments = worker_environments(config.launch.workers, config.device, config.devices)[: len(jobs)]
    say(f"{workers_line(environments)}; each run prints to {workspace}/<run>/log.txt")
    ended: Counter[str] = Counter()
    mistake = None
    pool = Pool(environments, take_snapshot(workspace))
    for job, reply in pool.run(jobs):
        ended[reply.kind] += 1
        reason = f": {reply.reason}" if reply.reason else ""
        say(f"[{ended.total()}/{len(jobs)}] {job.label}: {reply.kind}{reason}")
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
    return _exit_status(ended, len(jobs))


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
        sharpness_samples=config.sharpness_samples,
        git=None if base == Path() else provenance.git_state(),
    )
    label = status.labels[run.run_id]
    logging = {
        "name": label,
        "project": config.logger.project,
        "mode": config.logger.mode,
        "group": str(run.cell),
        "job_type": run.cell.label,
        "tags": [run.folder, run.cell.dataset, run.cell.arch],
        "notes": f"Results: {config.paths.results / PAGE} (make report)",
    }
    wandb = logging if config.logger.name == "wandb" else None
    retries = file_hash(status.paths.get(run.run_id) or Failure.path(workspace / run.run_id))
    return Job(run.settings, options, results, wandb, config.stale_minutes, retries, label=label)


def _exit_status(ended: Counter[str], runs: int) -> int:
    if ended["failed"]:
        say(f"{ended['failed']} of {runs} runs failed; retry=failed tries them again")
    return int(ended["failed"] + ended["killed"] + ended["unwritten"] > 0)
