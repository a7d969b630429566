"""Where the runs of a plan stand, for a person who comes back after a day: ``status=true``.

A run waits, runs (epoch, time left, best so far), is finished, has failed (why, where its log is) or diverged. Hours
are those that records and progress files count, of each device of a run; what is left is taken from finished runs of
the same cell.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from pathlib import Path

from llqr_sam.engine.records.record import epoch_words
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.config.errors import MISTAKES, passed_over
from llqr_sam.suite.config.schema import TableConfig
from llqr_sam.suite.plan.plan import Cell, Planned, plan_table, table_folder
from llqr_sam.suite.run.run_folder import Epochs, read_progress
from llqr_sam.suite.status.same_data import check_paths
from llqr_sam.suite.status.status import Status


@dataclass(frozen=True)
class Hours:
    """What a plan has cost, and what it will, in hours of one device."""

    spent: float
    left: float
    unknown: int  # runs that nothing is known to estimate from

    def __str__(self) -> str:
        words = f"{self.spent:.2f} device-hours spent, about {self.left:.2f} left"
        runs = f"{self.unknown} run{'s' * (self.unknown != 1)}"
        return f"{words}, not counting {runs} of cells that none has finished" if self.unknown else words


class Overview:
    """The state of every run of a plan.

    Args:
        status: Records, failures and locks of the plan.
        workspace: Holds the progress of the runs.
    """

    def __init__(self, status: Status, workspace: Path) -> None:
        self.status = status
        self._now = time.time()
        open_runs = status.select("missing", "running", "failed")
        found = {run.run_id: read_progress(workspace / run.run_id) for run in open_runs}
        self._epochs = {run_id: epochs for run_id, epochs in found.items() if epochs is not None}

    def lines(self, *, brief: bool = False) -> Iterator[str]:
        """As ``Status.lines``, and hours; ``brief`` leaves out what waits or is finished."""
        runs = self.status.select("running", "failed", "diverged") if brief else self.status.runs
        width = max((len(run.run_id) for run in runs), default=0)
        for run in runs:
            yield f"{run.run_id:{width}}  {self.line(run)}"
        if not brief:
            yield from self.status.choices()
        yield from self.status.damage()
        yield from self.status.mixtures().values()
        yield self.status.total().replace(" missing", " waiting")
        yield str(self.hours())

    def line(self, run: Planned) -> str:
        """A run in a few words."""
        kind, epochs = self.status.of_run(run), self._epochs.get(run.run_id)
        if kind == "missing":
            return "waiting" + (f", interrupted after {_so_far(epochs)}" if epochs and epochs.done else "")
        if kind == "running" and epochs is not None:
            left = epochs.left(self._now)
            eta = f", {timedelta(seconds=round(left))} left" if left is not None else ""
            return f"running: {_so_far(epochs)}{eta}, on {self.status.owners[run.run_id]}"
        return self.status.line(run)

    def hours(self) -> Hours:
        """Spent by all runs, and left for those that wait or run."""
        records = self.status.records
        by_cell: dict[Cell, list[float]] = {}
        for run in self.status.runs:
            if (record := records.get(run.run_id)) and record.status == "finished":
                by_cell.setdefault(run.cell, []).append(record.device_seconds)
        spent = sum(record.device_seconds for record in records.values())
        spent += sum(epochs.device_seconds for epochs in self._epochs.values())
        left, unknown = 0.0, 0
        for run in self.status.select("missing", "running"):
            epochs = self._epochs.get(run.run_id)
            if run.cell in by_cell:
                left += max(0.0, statistics.fmean(by_cell[run.cell]) - (epochs.device_seconds if epochs else 0.0))
            elif epochs is not None and epochs.done:
                left += epochs.device_seconds / epochs.done * (epochs.planned - epochs.done)
            else:
                unknown += 1
        return Hours(spent / 3600, left / 3600, unknown)


def every_table(command: Command) -> Iterator[str]:
    """The tables that have begun, in brief; where words choose runs these runs of them, each with its line.

    Nothing where words choose runs and no such table has any of them. A chosen run may wait while others of its table
    have begun: then there is a record in the table's folder.

    Args:
        command: Without a table. Words that choose runs choose in every table, the others hold for every table.

    Raises:
        UsageError: ``dataset.path`` names nothing.
    """
    begun, choosing = False, bool(command.axes)
    results, workspace = command.config.paths.results, command.config.paths.workspace
    names = {path.stem for path in (*(results / "runs").glob("*/*.json"), *workspace.glob("*-*-*"))}
    path = command.value("dataset.path")
    check_paths([Path(path) if path else None], command.config)
    for number in groups()["table"]:
        chosen = command.but(f"table={number}")
        if chosen.config.times_networks or not _may_have_begun(chosen.table, names):
            continue
        try:
            runs = plan_table(chosen)
        except MISTAKES as mistake:
            yield passed_over(f"table={number}", mistake)
            begun = True
            continue
        status = Status.under(runs, command.config)
        overview = Overview(status, workspace)
        waiting = len(status.missing) == len(status.runs) and not overview.hours().spent
        others_begun = (
            choosing and not command.changes_runs and any((results / "runs" / table_folder(number)).glob("*.json"))
        )
        if not status.runs or (waiting and not others_begun):
            continue
        yield from [""] * begun
        yield f"table={number}: {chosen.table.title}"
        yield from overview.lines(brief=not choosing)
        begun = True
    if not begun and not choosing:
        yield "no run of any table has begun"


def _may_have_begun(table: TableConfig, names: set[str]) -> bool:
    """Whether any run has the data set, network and optimizer of a cell."""
    cells = product(table.datasets, table.archs, [method.optim for method in table.methods])
    starts = tuple(f"{dataset}-{arch}-{optim}-" for dataset, arch, optim in cells)
    return any(name.startswith(starts) for name in names)


def _so_far(epochs: Epochs) -> str:
    best = f", best {epochs.best:.2f} {epochs.unit}" if epochs.best is not None else ""
    return f"epoch {epoch_words(epochs.done)}/{epochs.planned}{best}"
