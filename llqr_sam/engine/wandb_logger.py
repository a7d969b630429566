"""The numbers of a run in Weights & Biases, live.

The record is the truth and this is a convenience: offline unless told otherwise, and a failure of any kind ends the
logging with one warning, never the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from llqr_sam.engine.observer import Observer, RunInfo
from llqr_sam.engine.record import CurvePoint, Record, RefreshPoint

logger = logging.getLogger(__name__)


class WandbLogger(Observer):
    """Logs epochs, refreshes and the summary of one run.

    Args:
        project: Project the run is filed under.
        mode: ``offline`` writes files that ``wandb sync`` uploads; ``online`` needs an account.
        folder: Where the files go; by default the run's folder in the workspace.

    The W&B run has the record's run id, so a run that is continued continues there too.
    """

    def __init__(
        self, project: str = "llqr-sam", *, mode: Literal["offline", "online"] = "offline", folder: Path | None = None
    ) -> None:
        self._project = project
        self._mode = mode
        self._folder = folder
        self._run: Any = None

    def on_start(self, run: RunInfo) -> None:
        self._guard(lambda: self._open(run))

    def on_refresh(self, point: RefreshPoint) -> None:
        row = asdict(point)
        self._log(row.pop("step"), "refresh", row)

    def on_epoch(self, point: CurvePoint) -> None:
        row = {name: value for name, value in asdict(point).items() if value is not None}
        self._log(row.pop("step"), "epoch", row)

    def on_end(self, record: Record) -> None:
        if self._run is not None:
            summary = {
                "status": record.status,
                "best_top1": record.metrics.best.top1,
                "last_top1": record.metrics.last.top1,
                **({} if record.metrics.best.bleu is None else {"best_bleu": record.metrics.best.bleu}),
                "weights_sha256": record.weights_sha256,
                "seconds": asdict(record.seconds),
            }
            self._guard(lambda: self._run.summary.update(summary))

    def close(self) -> None:
        if self._run is not None:
            self._guard(lambda: self._run.finish())
            self._run = None

    def _open(self, run: RunInfo) -> None:
        import wandb  # a second to import, and not needed without this logger

        folder = self._folder or run.folder
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self._project,
            id=run.run_id,
            name=run.run_id,
            resume="allow",
            reinit="create_new",  # never somebody else's run, nor one of ours that failed
            dir=str(folder),
            mode=self._mode,
            config=run.config,
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
        )

    def _log(self, step: int, kind: str, row: dict[str, Any]) -> None:
        if self._run is not None:
            self._guard(lambda: self._run.log({f"{kind}/{name}": value for name, value in row.items()}, step=step))

    def _guard(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            logger.warning("Weights & Biases failed and is switched off for this run: %s", reason)
            self._run = None
