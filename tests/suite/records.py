"""Records of runs that were never trained, for what reads records."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from llqr_sam.data.streams import Samples
from llqr_sam.engine.records.record import SCHEMA_VERSION, CurvePoint, Metrics, Record, Seconds
from llqr_sam.suite.config.schema import Config, PathsConfig
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.run.run_folder import Epochs
from llqr_sam.suite.status.status import Status


def status_of(runs: Sequence[Planned], results: Path, workspace: Path | None = None) -> Status:
    """The status of runs with these results and this workspace, if any."""
    return Status.under(runs, Config(paths=PathsConfig(results=results, workspace=workspace or results / "none")))


def record_of(
    run: Planned,
    top1: Sequence[float],
    status: Literal["finished", "diverged"] = "finished",
    hours: float = 0.0,
    data: str | None = None,
    epochs: Sequence[float] = (),
    samples: Samples | None = None,
) -> Record:
    """A record of ``run`` with the given test accuracies in percent, one an epoch or after ``epochs``, on such data."""
    curve = [
        CurvePoint(epoch, number, 0.1, 1.0, 1.0, value, float(number))
        for number, (epoch, value) in enumerate(zip(epochs or range(1, len(top1) + 1), top1, strict=True), start=1)
    ]
    return Record(
        schema=SCHEMA_VERSION,
        run_id=run.run_id,
        status=status,
        error="the loss is not finite at step 7" if status == "diverged" else None,
        config=run.settings.as_dict(),
        git_commit=None,
        git_dirty=False,
        packages={"torch": "2"},
        device="cpu",
        parameters=1,
        metrics=Metrics.from_curve(curve),
        refreshes=[],
        weights_sha256="0" * 64,
        seconds=Seconds(0, 0, 0, 0, 0, 3600 * hours),
        started="2026-01-01T00:00:00+00:00",
        resumes=0,
        data_sha256=data,
        samples=samples,
    )


def write_record(
    results: Path,
    run: Planned,
    top1: Sequence[float],
    status: Literal["finished", "diverged"] = "finished",
    hours: float = 0.0,
    data: str | None = None,
    epochs: Sequence[float] = (),
) -> Path:
    """Write such a record where the run's own would be; returns its file."""
    path = results / "runs" / run.folder / f"{run.run_id}.json"
    return record_of(run, top1, status, hours, data, epochs).write(path)


def write_progress(
    folder: Path, done: float, seconds: float, devices: int = 1, unit: str = "%", steps_per_epoch: int | None = None
) -> None:
    """Write how far a run of 20 epochs is."""
    Epochs(done, 20, 91.5 if done else None, seconds, time.time(), devices, unit, steps_per_epoch).write(folder)
