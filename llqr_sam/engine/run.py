"""One run from its settings to its record."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from llqr_sam.data import registry as data
from llqr_sam.data.streams import DatasetInfo, Splits
from llqr_sam.engine import devices, provenance
from llqr_sam.engine.atomic import replacing
from llqr_sam.engine.checkpoint import CheckpointStore
from llqr_sam.engine.evaluation import weights_sha256
from llqr_sam.engine.interruption import StopRequest
from llqr_sam.engine.losses import Diverged
from llqr_sam.engine.observer import Observer
from llqr_sam.engine.record import SCHEMA_VERSION, Metrics, Record, Sharpness
from llqr_sam.engine.settings import RunSettings
from llqr_sam.engine.stopwatch import Stopwatch
from llqr_sam.engine.trainer import Trainer
from llqr_sam.methods import factory
from llqr_sam.models import registry as models


@dataclass(frozen=True)
class RunOptions:
    """How and where a run is carried out: nothing here changes its result."""

    workspace: Path  # checkpoints, logs and kept weights: workspace/<run_id>/
    record_path: Path  # or beside it, if the name is taken
    data_path: Path | None = None  # archive or folder of the data set; None: under data_root
    data_root: Path = Path("data")
    device: str = "auto"  # auto | cpu | cuda | cuda:<index>
    workers: int = 4  # processes that read folder data sets
    checkpoint_minutes: float = 10.0  # wall time between checkpoints
    keep_weights: bool = False  # write weights.pt at the end
    sharpness_rho: float | None = None  # measure sharpness at the end, m-sharpness at this radius; None: do not
    git: tuple[str | None, bool] | None = None  # commit of the code and whether it was changed; None: look


def execute(settings: RunSettings, options: RunOptions, observers: Sequence[Observer] = ()) -> Record:
    """Train one run, or continue it where it was interrupted, and write its record.

    Returns:
        The record, status ``finished``, or ``diverged`` with the step in ``error``.

    Raises:
        ValueError: a setting or the device is impossible; nothing has been trained.
        FileNotFoundError: the data set is not there.
        Interrupted: stopped by SIGINT, SIGTERM, SIGUSR2 or an observer; a checkpoint has been written.
        KeyboardInterrupt: SIGINT came twice, or after the last step: then the record has been written.

    A signal that comes while data are being loaded stops the run after its first step. A diverged run leaves its last
    good checkpoint in place; a finished one clears its checkpoints.
    """
    settings.validate()
    require_sharpness(options.sharpness_rho is not None)
    device = devices.resolve(options.device)
    with devices.arithmetic(deterministic=settings.precision.deterministic), _closing(observers):
        stop = StopRequest()
        with stop.on_signals():
            trainer = _prepare(settings, options, device, observers)
            trainer.stop = stop
            record = _run(trainer, options, observers)
            if options.keep_weights:
                with replacing(trainer.folder / "weights.pt") as file:
                    torch.save(trainer.model.state_dict(), file)
            record.write(options.record_path)
            if record.status == "finished":
                trainer.store.clear()
        for observer in observers:
            observer.on_end(record)
    stop.pass_on()
    return record


def _prepare(
    settings: RunSettings, options: RunOptions, device: torch.device, observers: Sequence[Observer]
) -> Trainer:
    """Data, network, method and loop; the network's initial weights are a function of the seed."""
    watch = Stopwatch(device)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    splits = _load(settings, options, device, augment=settings.protocol.augment)
    torch.manual_seed(settings.seed)
    model = _model(settings, splits.info, device)
    return Trainer(
        settings,
        splits,
        model,
        factory.build(settings.optim, model),
        device,
        store=CheckpointStore(options.workspace / settings.run_id / "checkpoints"),
        watch=watch,
        started=started,
        checkpoint_minutes=options.checkpoint_minutes,
        observers=observers,
    )


def _load(settings: RunSettings, options: RunOptions, device: torch.device, *, augment: bool) -> Splits:
    return data.load(
        settings.dataset.name,
        path=options.data_path,
        root=options.data_root,
        label_noise=settings.dataset.label_noise,
        crop=settings.dataset.crop,
        augment=augment,
        batch_size=settings.protocol.batch_size,
        seed=settings.seed,
        device=device,
        workers=options.workers,
    )


def _model(settings: RunSettings, dataset: DatasetInfo, device: torch.device) -> nn.Module:
    model = models.build(
        settings.arch.name,
        classes=dataset.classes,
        image_size=dataset.image_size,
        channels=dataset.channels,
        width=settings.arch.width,
    )
    model = model.to(device)
    if settings.precision.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stub
    return model


def _run(trainer: Trainer, options: RunOptions, observers: Sequence[Observer]) -> Record:
    """Load, train, and sum up."""
    commit, dirty = options.git or provenance.git_state()  # now: the checkout may be another when the run ends
    device_name = devices.describe(trainer.device)
    trainer.load()
    info = trainer.info(device_name)
    for observer in observers:
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
        metrics=Metrics.from_curve(progress.curve),
        refreshes=progress.refreshes,
        weights_sha256=weights_sha256(trainer.model.state_dict()),
        seconds=trainer.watch.seconds(),
        started=progress.started,
        resumes=progress.resumes,
        sharpness=_sharpness(trainer, options) if status == "finished" else None,
    )


def require_sharpness(wanted: bool) -> None:
    """Check that sharpness can be measured where it is wanted.

    Raises:
        ValueError: the package that measures it is not installed.
    """
    if wanted and importlib.util.find_spec("curvlinops") is None:
        raise ValueError("sharpness=true needs curvlinops, which is not installed: pip install -e '.[sharpness]'")


def _sharpness(trainer: Trainer, options: RunOptions) -> Sharpness | None:
    if options.sharpness_rho is None:
        return None
    from llqr_sam.engine import sharpness  # needs curvlinops, which other runs do not

    train = _load(trainer.settings, options, trainer.device, augment=False).train
    return sharpness.measure(trainer.model, train, trainer.loss, options.sharpness_rho)


@contextlib.contextmanager
def _closing(observers: Sequence[Observer]) -> Iterator[None]:
    try:
        yield
    finally:
        for observer in observers:
            observer.close()
