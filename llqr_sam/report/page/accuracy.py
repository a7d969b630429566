"""The page's section of a table of trained networks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from omegaconf import OmegaConf

from llqr_sam.engine.records.record import Record
from llqr_sam.report.figures.curves import curves_of
from llqr_sam.report.page.curves import charts
from llqr_sam.report.page.page import CellSource, RunLink, Section
from llqr_sam.report.tables.accuracy_table import collect
from llqr_sam.report.tables.accuracy_text import print_accuracy
from llqr_sam.report.tables.labels import arch_label, dataset_label, method_label
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.status.status import Status


def accuracy_section(command: Command) -> Section:
    """The table that a command names.

    Raises:
        UsageError: records of one data set are of different data.
    """
    status, table = collect(command)
    return Section(
        print_accuracy(table),
        sources=[_source(result.runs, status) for result in table.cells],
        charts=charts(curves_of(status)),
        damage=status.damaged,
    )


def _source(runs: Sequence[Planned], status: Status) -> CellSource:
    """The runs of a cell, with the command that trains one of them."""
    cell = runs[0].cell
    words = ["python", "train.py", f"dataset={cell.dataset}", f"arch={cell.arch}", f"optim={cell.method}"]
    words += [f"geometry={cell.geometry}"] * bool(cell.geometry)
    words += [f"dataset.label_noise={cell.label_noise:g}"] * bool(cell.label_noise)
    words += [f"{choice.key}={choice.value!r}" for choice in runs[0].choices if choice.origin == "selected"]
    noise = f", label noise {cell.label_noise:g}" if cell.label_noise else ""
    return CellSource(
        name=f"{method_label(cell)} on {dataset_label(cell.dataset)}, {arch_label(cell.arch)}{noise}",
        command=shlex.join(words),
        config=OmegaConf.to_yaml(OmegaConf.create(runs[0].settings.as_dict())),
        runs=tuple(_run_link(run, status) for run in runs),
    )


def _run_link(run: Planned, status: Status) -> RunLink:
    record, path = status.records.get(run.run_id), status.paths.get(run.run_id)
    if record is None or path is None:
        return RunLink(run.run_id, status.line(run) if status.of_run(run) != "missing" else "not run")
    return RunLink(run.run_id, status.line(run), f"../runs/{path.parent.name}/{path.name}", _details(record))


def _details(record: Record) -> str:
    """What the run was trained with, and what came of it."""
    details = [
        record.device,
        f"torch {record.packages.get('torch', 'unknown')}",
        f"commit {(record.git_commit or 'unknown')[:7]}{'+' * record.git_dirty}",
        f"{record.seconds.total / 60:.1f} minutes",
        f"weights {record.weights_sha256[:12]}",
    ]
    if record.data_sha256 is not None:
        details.append(f"data {record.data_sha256[:12]}")
    return ", ".join(details)
