"""The numbers of a run in Weights & Biases, live.

It works offline by default, and so does a run that cannot be opened online. Any other failure ends the logging. Each is
one warning, and none ends the run. A row is an evaluation
or a refresh, and the same in every attempt at a run. So a resumed run logs its rows from the first on: the offline
files of each attempt are complete, and online the rows that the server already has are skipped.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.record import CurvePoint, Record, RefreshPoint

logger = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds to wait for the server at the start, and for the upload at the end
URL_FILE = "wandb_url"  # in the run's folder in the workspace: one line


class WandbLogger(Observer):
    """Logs evaluations, refreshes and the summary of one run, under its run id: a resumed run continues there, too.

    ``arguments`` find the run again, as ``wandb.init`` takes them: name, group (the cell of a table), job_type, tags,
    notes. A run that is opened online leaves its URL in the run's folder (``url_of``).
    """

    def __init__(
        self,
        project: str = "llqr-sam",
        *,
        mode: Literal["offline", "online"] = "offline",  # offline: files that scripts/wandb_sync.py uploads
        folder: Path | None = None,  # of the files; by default the run's folder in the workspace
        **arguments: Any,
    ) -> None:
        self._arguments = {"project": project, "mode": mode} | arguments
        self._folder = folder
        self._run: Any = None
        self._rows = 0  # logged or skipped so far
        self._known = 0  # rows that the server had at the start

    def on_start(self, run: RunInfo) -> None:
        self._guard(lambda: self._open(run), opening=True)
        # In the order of their logging: an evaluation comes before the refresh that follows its last step.
        points: list[CurvePoint | RefreshPoint] = [*run.curve, *run.refreshes]
        for point in sorted(points, key=lambda point: point.step):
            self._log(point)

    def on_end(self, record: Record) -> None:
        best, last = record.metrics.best, record.metrics.last
        summary = {
            "status": record.status,
            "best_top1": best.top1,
            "last_top1": last.top1,
            **({} if best.bleu is None else {"best_bleu": best.bleu}),
            "weights_sha256": record.weights_sha256,
            "seconds": asdict(record.seconds),
        }
        self._guard(lambda: self._run.summary.update(summary))

    def close(self) -> None:
        self._guard(lambda: self._run.finish())
        self._run = None

    def _open(self, run: RunInfo) -> None:
        folder = self._folder or run.folder
        config = run.config | {"git_commit": run.git_commit, "device": run.device, "parameters": run.parameters}
        arguments = {"id": run.run_id, "name": run.run_id, "config": config} | self._arguments
        try:
            self._run = open_run(folder, **arguments)
        except Exception as error:
            if arguments["mode"] != "online" or isinstance(error, ImportError):
                raise
            remedy = "this run is logged to files, which scripts/wandb_sync.py uploads"
            logger.warning("Weights & Biases cannot be reached: %s: %s", _line(error), remedy)
            self._run = _opened_offline(folder, arguments)
        else:
            if arguments["mode"] == "online":  # offline, W&B warns that there is no URL
                note_url(run.folder, self._run.url)
        self._known = self._run.starting_step
        self._run.define_metric("*", step_metric="step")

    def _log(self, point: CurvePoint | RefreshPoint) -> None:
        self._rows += 1
        if self._rows <= self._known:
            return
        values = asdict(point)
        step = values.pop("step")
        kind = "epoch" if isinstance(point, CurvePoint) else "refresh"
        row = {f"{kind}/{name}": value for name, value in values.items()}
        self._guard(lambda: self._run.log({"step": step} | row))

    on_epoch = on_refresh = _log

    def _guard(self, call: Callable[[], object], *, opening: bool = False) -> None:
        """Call W&B, if it has not failed before."""
        if self._run is None and not opening:
            return
        try:
            call()
        except Exception as error:
            logger.warning("Weights & Biases failed and is switched off for this run: %s", _line(error))
            self._run = None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _opened_offline(folder: Path, arguments: dict[str, Any]) -> Any:
    """The run, offline, in a new service process of W&B: the one of the failed attempt keeps the run's id."""
    import wandb
    from wandb.env import SERVICE

    wandb.teardown()
    # The service of a parent process that used W&B too: teardown leaves it running.
    os.environ.pop(SERVICE, None)
    return open_run(folder, **arguments | {"mode": "offline"})


def note_url(folder: Path, url: str | None) -> None:
    """Write the URL of a run in W&B into its folder in the workspace; if that fails, a warning says so."""
    if url is None:
        return
    try:
        with replacing(folder / URL_FILE) as file:
            file.write(f"{url}\n".encode())
    except OSError as error:
        logger.warning("The run's URL in Weights & Biases cannot be noted: %s", _line(error))


def url_of(folder: Path) -> str | None:
    """URL of a run in W&B, as noted in its folder in the workspace; ``None`` without one, or if it is not http(s)."""
    try:
        url = (folder / URL_FILE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return url if re.fullmatch(r"https?://\S+", url) else None


def open_run(folder: Path, **arguments: Any) -> Any:
    """A W&B run whose files go to ``folder/wandb``; waits no longer than ``PATIENCE`` and raises what W&B raises."""
    import wandb  # takes a second, and is needed here alone

    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        silent=True,
        console="off",
        x_disable_stats=True,
        x_disable_meta=True,
        init_timeout=PATIENCE,
        login_timeout=PATIENCE,
        finish_timeout=PATIENCE,
        finish_timeout_raises=True,
    )
    # create_new: never continue a run that is open in this process, such as one of ours that failed
    return wandb.init(dir=str(folder), resume="allow", reinit="create_new", settings=settings, **arguments)
