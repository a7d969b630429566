"""Train what is missing of a plan, here, one run after another."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from llqr_sam.engine import devices
from llqr_sam.engine.interruption import Interrupted
from llqr_sam.engine.observer import Observer
from llqr_sam.engine.progress import progress
from llqr_sam.engine.record import Record
from llqr_sam.engine.run import RunOptions, execute
from llqr_sam.engine.wandb_logger import WandbLogger
from llqr_sam.suite.errors import UsageError
from llqr_sam.suite.grid import Planned
from llqr_sam.suite.status import Status, result


def launch(status: Status, config: DictConfig) -> int:
    """Train the missing runs of ``status``.

    Returns:
        Exit status: 0; 1 if a run failed; 130 after Ctrl-C or a scheduler's signal, the run's checkpoint saved.

    Raises:
        UsageError: the device or, for a run, its data set is not there, or a single run's setting is impossible.

    In a table or sweep a run that fails is reported in one line and the next one starts. A run that diverges has a
    record and is no failure.
    """
    _say(*status.damage())
    missing = status.missing
    if len(status.runs) > 1:
        _say(status.total())
    elif not missing:
        run_id = status.runs[0].run_id
        print(f"{run_id} is {result(status.records[run_id])}\nrecord: {status.paths[run_id]}")
    if missing:
        _check_device(config.device)
    failed = 0
    for number, run in enumerate(missing, start=1):
        if len(missing) > 1:
            _say(f"[{number}/{len(missing)}] {run.run_id}")
        try:
            path = _options(run, config).record_path
            record = _train(run, config, alone=len(status.runs) == 1)
        except Interrupted as interruption:
            left = len(missing) - number + 1
            _say(f"interrupted: {interruption}" + (f"; {left} runs left" if left > 1 else ""))
            return 130
        failed += record is None
        if record is not None and len(status.runs) == 1:
            print(f"{run.run_id} is {result(record)}\nrecord: {path}")
    if failed:
        _say(f"{failed} of {len(missing)} runs failed; the same command tries them again")
    return 1 if failed else 0


def _train(run: Planned, config: DictConfig, *, alone: bool) -> Record | None:
    """The record of a run, or ``None`` if it failed among others."""
    try:
        return execute(run.settings, _options(run, config), _observers(config))
    except (Interrupted, KeyboardInterrupt):
        raise
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    except ValueError as error:
        if alone:
            raise UsageError(str(error)) from error
        _say(_failure(run, error))
    except Exception as error:
        if alone:
            raise
        _say(_failure(run, error))
    return None


def _failure(run: Planned, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"failed: {run.run_id}: {type(error).__name__}{': ' + lines[-1] if lines else ''}"


def _options(run: Planned, config: DictConfig) -> RunOptions:
    return RunOptions(
        workspace=Path(config.paths.workspace),
        record_path=Path(config.paths.results) / "runs" / run.folder / f"{run.run_id}.json",
        data_path=run.data_path,
        data_root=Path(config.paths.data),
        device=config.device,
        workers=run.workers,
        checkpoint_minutes=config.checkpoint_minutes,
        keep_weights=config.keep_weights,
    )


def _observers(config: DictConfig) -> list[Observer]:
    observers = [progress()]
    if config.logger.name == "wandb":
        observers.append(WandbLogger(config.logger.project, mode=config.logger.mode))
    return observers


def _check_device(name: str) -> None:
    try:
        devices.resolve(name)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)
