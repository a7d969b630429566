"""One run from its settings to its record."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Literal

from llqr_sam.engine.devices.device import arithmetic, device_name, find_device
from llqr_sam.engine.devices.team import ALONE, Team
from llqr_sam.engine.loop.interruption import StopRequest
from llqr_sam.engine.loop.losses import Diverged
from llqr_sam.engine.loop.trainer import Trainer
from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.records import provenance
from llqr_sam.engine.records.record import KEPT, SCHEMA_VERSION, Metrics, Record, UnwrittenRecordError
from llqr_sam.engine.records.weights import keep_weights
from llqr_sam.engine.settings.run_settings import RunOptions, RunSettings
from llqr_sam.engine.tasks import registry as tasks


def execute(
    settings: RunSettings, options: RunOptions, observers: Sequence[Observer] = (), team: Team = ALONE
) -> Record:
    """Train one run, or continue it where it was interrupted, and write its record.

    Each rank of ``team`` calls this; the first one writes the files. A signal that arrives while data are loaded stops
    the run after its first step. A diverged run leaves its last good checkpoint; a finished one clears its checkpoints.

    Raises:
        ValueError: a setting or the device is impossible; nothing has been trained.
        MissingDataError: the data set is not there.
        UnwrittenRecordError: the run has ended, and its record is kept in its folder.
        Interrupted: stopped by one of ``interruption.SIGNALS`` or an observer; a checkpoint has been written.
        KeyboardInterrupt: SIGINT came twice, or after the last step; in the latter case the record has been written.
    """
    tasks.check(settings, team.size)
    tasks.check_installed(settings, flatness=options.sharpness_rho is not None)
    device = find_device(options.device, team.local_rank, team.local_size)
    stop = StopRequest()
    with arithmetic(deterministic=settings.precision.deterministic), contextlib.ExitStack() as closing:
        for observer in reversed(observers):
            closing.callback(observer.close)
        with stop.on_signals():
            trainer = Trainer(settings, options, device, observers, team)
            trainer.stop = stop
            record = _train(trainer)
            if team.is_first:
                trainer.announce_save()
                if options.keep_weights:
                    described = trainer.task.described(trainer.splits)
                    keep_weights(trainer.folder, trainer.model, record, described)
                _write(record, trainer)
                if record.status == "finished":
                    trainer.checkpoints.clear()
        for observer in observers:
            observer.on_end(record)
    stop.pass_on()
    return record


def _write(record: Record, trainer: Trainer) -> None:
    """Write the record; on a full disk keep it in the run's folder, and make room there if need be."""
    path, folder = trainer.options.record_path, trainer.folder
    try:
        record.write_or_keep(path, folder)
    except UnwrittenRecordError:
        if (folder / KEPT).exists():
            raise
        trainer.checkpoints.keep_newest()
        record.write_or_keep(path, folder)


def _train(trainer: Trainer) -> Record:
    """Train from the newest checkpoint and sum up."""
    settings, options, team = trainer.settings, trainer.options, trainer.team
    commit, dirty = options.git or provenance.git_state()  # read first: the checkout may change during the run
    trainer.load()
    info = RunInfo(
        run_id=settings.run_id,
        config=settings.as_dict(),
        git_commit=commit,
        device=device_name(trainer.device, team.size),
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        epochs=settings.protocol.epochs,
        steps_per_epoch=trainer.steps_per_epoch,
        first_step=trainer.state.step,
        curve=tuple(trainer.state.curve),
        refreshes=tuple(trainer.state.refreshes),
        folder=trainer.folder,
        request_stop=trainer.stop,
        devices=team.size,
    )
    for observer in trainer.observers:
        observer.on_start(info)
    status: Literal["finished", "diverged"] = "finished"
    error = sharpness = None
    try:
        trainer.run()
    except Diverged as divergence:
        status, error = "diverged", str(divergence)
    seconds = trainer.watch.seconds()
    if options.sharpness_rho is not None and status == "finished" and team.is_first:
        sharpness = trainer.task.flatness(trainer.model, options, options.sharpness_rho)
    return Record(
        schema=SCHEMA_VERSION,
        run_id=info.run_id,
        status=status,
        error=error,
        config=info.config,
        git_commit=commit,
        git_dirty=dirty,
        packages=provenance.packages(),
        device=info.device,
        parameters=info.parameters,
        metrics=Metrics.from_curve(trainer.state.curve, trainer.task.scoring()),
        refreshes=trainer.state.refreshes,
        weights_sha256=provenance.weights_sha256(trainer.model.state_dict()),
        seconds=seconds,
        started=trainer.state.started,
        resumes=trainer.state.resumes,
        sharpness=sharpness,
        devices=team.size,
        data_sha256=trainer.splits.fingerprint,
        samples=trainer.splits.samples,
    )
