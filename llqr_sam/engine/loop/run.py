"""One run from its settings to its record."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from llqr_sam.data.randomness import derived_seed
from llqr_sam.data.streams import Share
from llqr_sam.engine.devices import device as devices
from llqr_sam.engine.devices import sync_batch_norm as batch_norm
from llqr_sam.engine.devices.team import ALONE, Team
from llqr_sam.engine.loop.interruption import StopRequest
from llqr_sam.engine.loop.losses import Diverged
from llqr_sam.engine.loop.trainer import Trainer
from llqr_sam.engine.measurements.stopwatch import Stopwatch
from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.records import provenance
from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.checkpoint import CheckpointStore
from llqr_sam.engine.records.record import SCHEMA_VERSION, CurvePoint, Flatness, Metrics, Record
from llqr_sam.engine.records.weights import weights_sha256
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.engine.tasks import registry as tasks
from llqr_sam.engine.tasks.task import DataSource
from llqr_sam.methods import factory


@dataclass(frozen=True)
class RunOptions:
    """How and where a run is carried out: nothing here changes its result."""

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
        """The data set, read for a device."""
        return DataSource(self.data_path, self.data_root, device, self.workers)


def execute(
    settings: RunSettings, options: RunOptions, observers: Sequence[Observer] = (), team: Team = ALONE
) -> Record:
    """Train one run, or continue it where it was interrupted, and write its record.

    Args:
        settings: The run.
        options: How and where.
        observers: Who is told.
        team: The ranks that train it, each in a call of its own; the first one writes the files.

    Returns:
        The record, status ``finished``, or ``diverged`` with the step in ``error``.

    Raises:
        ValueError: a setting or the device is impossible; nothing has been trained.
        MissingDataError: the data set is not there.
        Interrupted: stopped by SIGINT, SIGTERM, SIGUSR2 or an observer; a checkpoint has been written.
        KeyboardInterrupt: SIGINT came twice, or after the last step: then the record has been written.

    A signal that comes while data are being loaded stops the run after its first step. A diverged run leaves its last
    good checkpoint in place; a finished one clears its checkpoints.
    """
    tasks.check(settings, team.size)
    tasks.check_installed(settings, flatness=options.sharpness_rho is not None)
    device = devices.of_rank(options.device, team.local_rank, team.local_size)
    with devices.arithmetic(deterministic=settings.precision.deterministic), _closing(observers):
        stop = StopRequest()
        with stop.on_signals():
            trainer = _prepare(settings, options, device, observers, team)
            trainer.stop = stop
            record = _run(trainer, options)
            if team.is_first:
                trainer.announce_save()
                _keep(record, trainer, options)
        for observer in observers:
            observer.on_end(record)
    stop.pass_on()
    return record


def _prepare(
    settings: RunSettings, options: RunOptions, device: torch.device, observers: Sequence[Observer], team: Team
) -> Trainer:
    """Data, network, method and loop; the network's initial weights are a function of the seed.

    What the ranks draw afterwards (dropout) is not the same.
    """
    watch = Stopwatch(device)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    task = tasks.task_for(settings.dataset.name)(settings)
    splits = task.load(options.source(device), Share(team.rank, team.size))
    torch.manual_seed(settings.seed)
    model = task.model(splits).to(device)
    if settings.precision.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stub
    model = batch_norm.over_ranks(model, team, device)
    if not team.is_first:
        torch.manual_seed(derived_seed(settings.seed, "rank", team.rank))
    folder = options.workspace / settings.run_id
    if options.keep_weights and task.keeps_best_weights:
        observers = [*observers, BestWeights(model, folder / "best.pt")]
    return Trainer(
        settings,
        task,
        splits,
        model,
        factory.build(
            settings.optim,
            model,
            process_group=team.group,
            shard=options.shard,
            fused=settings.precision.fused,
            curvature_dtype=settings.precision.curvature_dtype,
        ),
        device,
        store=CheckpointStore(folder / "checkpoints"),
        watch=watch,
        started=started,
        checkpoint_minutes=options.checkpoint_minutes,
        observers=observers,
        team=team,
    )


def _run(trainer: Trainer, options: RunOptions) -> Record:
    """Load, train, and sum up."""
    commit, dirty = options.git or provenance.git_state()  # now: the checkout may be another when the run ends
    device_name = devices.describe(trainer.device, trainer.team.size)
    trainer.load()
    info = trainer.info(device_name, commit)
    for observer in trainer.observers:
        observer.on_start(info)
    status: Literal["finished", "diverged"] = "finished"
    error = None
    try:
        trainer.run()
    except Diverged as divergence:
        status, error = "diverged", str(divergence)
    settings, progress = trainer.settings, trainer.progress
    return Record(
        schema=SCHEMA_VERSION,
        run_id=settings.run_id,
        status=status,
        error=error,
        config=settings.as_dict(),
        git_commit=commit,
        git_dirty=dirty,
        packages=provenance.packages(),
        device=device_name,
        parameters=info.parameters,
        metrics=Metrics.from_curve(progress.curve, trainer.task.scoring()),
        refreshes=progress.refreshes,
        weights_sha256=weights_sha256(trainer.model.state_dict()),
        seconds=trainer.watch.seconds(),
        started=progress.started,
        resumes=progress.resumes,
        sharpness=_flatness(trainer, options) if status == "finished" else None,
        devices=trainer.team.size,
        data_sha256=trainer.splits.fingerprint,
        samples=trainer.splits.samples,
    )


def _keep(record: Record, trainer: Trainer, options: RunOptions) -> None:
    """Write what stays of a run; checkpoints do not, unless it diverged."""
    if options.keep_weights:
        with replacing(trainer.folder / "weights.pt") as file:
            torch.save(trainer.model.state_dict(), file)
    record.write(options.record_path)
    if record.status == "finished":
        trainer.store.clear()


class BestWeights(Observer):
    """Keeps the weights of the evaluation with the best score.

    Args:
        model: The network that is trained.
        path: Where its weights go.
    """

    def __init__(self, model: nn.Module, path: Path) -> None:
        self._model = model
        self._path = path
        self._best = -math.inf

    def on_start(self, run: RunInfo) -> None:
        self._best = max((point.score for point in run.curve if point.score is not None), default=-math.inf)

    def on_epoch(self, point: CurvePoint) -> None:
        if point.score is not None and point.score > self._best:
            self._best = point.score
            with replacing(self._path) as file:
                torch.save(self._model.state_dict(), file)


def _flatness(trainer: Trainer, options: RunOptions) -> Flatness | None:
    """Measured by the first rank alone, where it is wanted."""
    if options.sharpness_rho is None or not trainer.team.is_first:
        return None
    return trainer.task.flatness(trainer.model, options.source(trainer.device), options.sharpness_rho)


@contextlib.contextmanager
def _closing(observers: Sequence[Observer]) -> Iterator[None]:
    try:
        yield
    finally:
        for observer in observers:
            observer.close()
