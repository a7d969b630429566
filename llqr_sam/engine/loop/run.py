"""One run from its settings to its record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from llqr_sam.data.randomness import derived_seed
from llqr_sam.data.streams import Share
from llqr_sam.engine.devices.device import arithmetic, device_name, find_device
from llqr_sam.engine.devices.sync_batch_norm import with_sync_batch_norm
from llqr_sam.engine.devices.team import ALONE, Team
from llqr_sam.engine.loop.interruption import StopRequest
from llqr_sam.engine.loop.losses import Diverged
from llqr_sam.engine.loop.trainer import Trainer
from llqr_sam.engine.measurements.stopwatch import Stopwatch
from llqr_sam.engine.observers.best_weights import BestWeights
from llqr_sam.engine.observers.observer import Observer
from llqr_sam.engine.records import provenance
from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.record import SCHEMA_VERSION, Metrics, Record
from llqr_sam.engine.records.weights import weights_sha256
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.engine.tasks import registry as tasks
from llqr_sam.engine.tasks.task import DataSource
from llqr_sam.methods import factory


@dataclass(frozen=True)
class RunOptions:
    """How and where a run is carried out; nothing here changes its result."""

    workspace: Path  # checkpoints, logs and kept weights: workspace/<run_id>/
    record_path: Path  # or beside it, if the name is taken
    data_path: Path | None = None  # archive or folder of the data set; None: under data_root
    data_root: Path = Path("data")
    device: str = "auto"  # auto | cpu | cuda | cuda:<index>
    devices: int = 1  # ranks, one a device
    shard: bool = False  # LLQR's U spread over the ranks
    workers: int = 4  # processes that read folder data sets
    checkpoint_minutes: float = 10.0  # wall time between checkpoints
    keep_weights: bool = False  # write weights.pt at the end and, in translation, best.pt at the best BLEU
    sharpness_rho: float | None = None  # measure sharpness at the end, m-sharpness at this radius; None: do not
    git: tuple[str | None, bool] | None = None  # commit of the code and whether it was changed; None: look

    def source(self, device: torch.device) -> DataSource:
        """The data set, whose minibatches are made on ``device``."""
        return DataSource(self.data_path, self.data_root, device, self.workers)


def execute(
    settings: RunSettings, options: RunOptions, observers: Sequence[Observer] = (), team: Team = ALONE
) -> Record:
    """Train one run, or continue it where it was interrupted, and write its record.

    Args:
        settings: The run.
        options: How and where.
        observers: Are told what happens.
        team: The ranks that train it, each in its own call; the first one writes the files.

    Returns:
        The record, status ``finished``, or ``diverged`` with the step in ``error``.

    Raises:
        ValueError: a setting or the device is impossible; nothing has been trained.
        MissingDataError: the data set is not there.
        Interrupted: stopped by SIGINT, SIGTERM, SIGUSR2 or an observer; a checkpoint has been written.
        KeyboardInterrupt: SIGINT came twice, or after the last step; in the latter case the record has been written.

    A signal that arrives while data are loaded stops the run after its first step. A diverged run leaves its last
    good checkpoint in place; a finished one clears its checkpoints.
    """
    tasks.check(settings, team.size)
    tasks.check_installed(settings, flatness=options.sharpness_rho is not None)
    device = find_device(options.device, team.local_rank, team.local_size)
    with arithmetic(deterministic=settings.precision.deterministic), _closing(observers):
        stop = StopRequest()
        with stop.on_signals():
            trainer = prepare(settings, options, device, observers, team)
            trainer.stop = stop
            record = _run(trainer, options)
            if team.is_first:
                trainer.announce_save()
                _keep(record, trainer, options)
        for observer in observers:
            observer.on_end(record)
    stop.pass_on()
    return record


def prepare(
    settings: RunSettings,
    options: RunOptions,
    device: torch.device,
    observers: Sequence[Observer] = (),
    team: Team = ALONE,
) -> Trainer:
    """Load the data and build network, method and loop; checkpoints are not read yet.

    The network's initial weights are a function of the seed. Later draws (dropout) differ between ranks.
    """
    watch = Stopwatch(device)
    task = tasks.task_for(settings.dataset.name)(settings)
    splits = task.load(options.source(device), Share(team.rank, team.size))
    precision, folder = settings.precision, options.workspace / settings.run_id
    torch.manual_seed(settings.seed)
    model = task.model(splits).to(device)
    if precision.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stub
    model = with_sync_batch_norm(model, team, device)
    if not team.is_first:
        torch.manual_seed(derived_seed(settings.seed, "rank", team.rank))
    if options.keep_weights and task.keeps_best_weights:
        observers = [*observers, BestWeights(model, folder / "best.pt")]
    method = factory.build(
        settings.optim,
        model,
        process_group=team.group,
        shard=options.shard,
        fused=precision.fused,
        curvature_dtype=precision.curvature_dtype,
    )
    return Trainer(
        settings,
        task,
        splits,
        model,
        method,
        device,
        folder=folder,
        watch=watch,
        checkpoint_minutes=options.checkpoint_minutes,
        observers=observers,
        team=team,
    )


def _run(trainer: Trainer, options: RunOptions) -> Record:
    """Train from the newest checkpoint and sum up."""
    commit, dirty = options.git or provenance.git_state()  # read first: the checkout may change during the run
    device = device_name(trainer.device, trainer.team.size)
    trainer.load()
    info = trainer.info(device, commit)
    for observer in trainer.observers:
        observer.on_start(info)
    status: Literal["finished", "diverged"] = "finished"
    error = sharpness = None
    try:
        trainer.run()
    except Diverged as divergence:
        status, error = "diverged", str(divergence)
    seconds = trainer.watch.seconds()
    if options.sharpness_rho is not None and status == "finished" and trainer.team.is_first:
        source = options.source(trainer.device)
        sharpness = trainer.task.flatness(trainer.model, source, options.sharpness_rho)
    settings, state = trainer.settings, trainer.state
    return Record(
        schema=SCHEMA_VERSION,
        run_id=settings.run_id,
        status=status,
        error=error,
        config=settings.as_dict(),
        git_commit=commit,
        git_dirty=dirty,
        packages=provenance.packages(),
        device=device,
        parameters=info.parameters,
        metrics=Metrics.from_curve(state.curve, trainer.task.scoring()),
        refreshes=state.refreshes,
        weights_sha256=weights_sha256(trainer.model.state_dict()),
        seconds=seconds,
        started=state.started,
        resumes=state.resumes,
        sharpness=sharpness,
        devices=trainer.team.size,
        data_sha256=trainer.splits.fingerprint,
        samples=trainer.splits.samples,
    )


def _keep(record: Record, trainer: Trainer, options: RunOptions) -> None:
    """Write what is kept of a run; its checkpoints only if it diverged."""
    if options.keep_weights:
        with replacing(trainer.folder / "weights.pt") as file:
            torch.save(trainer.model.state_dict(), file)
    record.write(options.record_path)
    if record.status == "finished":
        trainer.checkpoints.clear()


@contextlib.contextmanager
def _closing(observers: Sequence[Observer]) -> Iterator[None]:
    try:
        yield
    finally:
        for observer in observers:
            observer.close()
