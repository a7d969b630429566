"""A table of trained networks as a section of the page: each row of the table as a list of its methods."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from omegaconf import OmegaConf

from llqr_sam.engine.observers.wandb_logger import url_of
from llqr_sam.engine.records.provenance import commit_label
from llqr_sam.engine.records.record import Record
from llqr_sam.report.figures.curves import network_name
from llqr_sam.report.page.answer import answer, difference_of
from llqr_sam.report.page.charts import chart_of
from llqr_sam.report.page.section import CellSource, MethodLine, Place, RunLink, Section
from llqr_sam.report.page.track import Axis, Effect
from llqr_sam.report.tables.accuracy_table import AccuracyTable, CellResult
from llqr_sam.report.tables.accuracy_text import (
    BOLD,
    OTHER,
    flatness_caption,
    flatness_text,
    mean_text,
    ours_text,
    paper_caption,
    print_accuracy,
    score_caption,
)
from llqr_sam.report.tables.labels import arch_label, dataset_label, method_label
from llqr_sam.suite.config import sources
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.status.status import Status

UNITS = {"top1": "points", "val_bleu": "BLEU"}  # of differences, by the table's metric


def accuracy_section(command: Command, status: Status, table: AccuracyTable) -> Section:
    """The section of the table that a command names; ``status`` and ``table`` are what ``collect`` read of it."""
    begun = [result for result in table.cells if any(status.of_run(run) != "missing" for run in result.runs)]
    said = [*score_caption(table), *flatness_caption(table), *paper_caption(table), f"Bold: {BOLD}."]
    return Section(
        print_accuracy(table),
        places=[_place(row, table, status) for row in table.rows],
        caption=" ".join(said),
        sources=[_source(result.runs, status, command) for result in begun],
        damage=status.damaged,
        records=list(status.records.values()),
        running={run.run_id: status.line(run) for run in status.select("running")},
        failed=[run.run_id for run in status.select("failed")],
    )


def _place(row: Sequence[CellResult], table: AccuracyTable, status: Status) -> Place:
    differences = [sample for result in row if (sample := result.difference(table.kind)).values]
    axis = Axis.over([Effect(sample) for sample in differences]) if differences else None
    lines = [_line(result, table, axis, status) for result in row]
    baseline = method_label(row[0].baseline.cell) if row[0].baseline else ""
    compared = [
        (line.method, line.difference, result.diverged)
        for line, result in zip(lines, row, strict=True)
        if line.difference
    ]
    found = answer(compared, axis, baseline, UNITS[table.config.metric]) if axis else None
    return Place(network_name(row[0].cell), baseline, lines, axis, found, chart_of(row))


def _line(result: CellResult, table: AccuracyTable, axis: Axis | None, status: Status) -> MethodLine:
    sample, difference, paper = result.scores(table.kind), result.difference(table.kind), result.paper
    to_paper = None if paper is None or sample.mean is None else sample.mean - paper.mean
    return MethodLine(
        method=method_label(result.cell),
        ours=ours_text(result, table.kind),
        best=table.is_best(result),
        difference=difference_of(difference, axis) if axis and difference.values else None,
        last=mean_text(other) if (other := result.scores(OTHER[table.kind])).values else "",
        flatness=flatness_text(result),
        paper=f"{paper.mean:.2f} ± {paper.std:.2f}" if paper else "",
        to_paper="" if to_paper is None else f"{to_paper:+.2f}",
        to_paper_tone="" if to_paper is None else _to_paper_tone(result, to_paper),
        running=list(_running(result, status)),
    )


def _to_paper_tone(result: CellResult, to_paper: float) -> str:
    if not result.paper_is_outside:  # a single seed has no interval
        return "same"
    return "above" if to_paper > 0 else "below"


def _running(result: CellResult, status: Status) -> Iterator[str]:
    """A line for each run of a cell that is going on: epoch, best score so far, time left and machine."""
    for run in result.runs:
        if status.of_run(run) == "running":
            yield f"seed {run.settings.seed} {status.line(run)}"


def _source(runs: Sequence[Planned], status: Status, command: Command) -> CellSource:
    """The runs of a cell, with the command that trains one of them; the table's words hold for every run."""
    cell = runs[0].cell
    words = ["python", "train.py", *sources.flags(), f"dataset={cell.dataset}", f"arch={cell.arch}"]
    words += [f"optim={cell.method}"]
    words += [f"geometry={cell.geometry}"] * bool(cell.geometry)
    words += [f"dataset.label_noise={cell.label_noise:g}"] * bool(cell.label_noise)
    words += command.run_words
    words += [f"{choice.key}={choice.value!r}" for choice in runs[0].choices if choice.origin == "selected"]
    noise = f", label noise {cell.label_noise:g}" if cell.label_noise else ""
    return CellSource(
        name=f"{method_label(cell)} on {dataset_label(cell.dataset)}, {arch_label(cell.arch)}{noise}",
        command=shlex.join(words),
        config=OmegaConf.to_yaml(OmegaConf.create(runs[0].settings.as_dict())),
        runs=tuple(_run_link(run, status, command) for run in runs),
    )


def _run_link(run: Planned, status: Status, command: Command) -> RunLink:
    record, path = status.records.get(run.run_id), status.paths.get(run.run_id)
    if record is None or path is None:
        return RunLink(run.run_id, status.line(run) if status.of_run(run) != "missing" else "not run")
    address = url_of(command.config.paths.workspace / run.run_id) or ""
    return RunLink(
        run.run_id, status.line(run), f"../runs/{path.parent.name}/{path.name}", address, details=_details(record)
    )


def _details(record: Record) -> str:
    """What the run was trained with, and what came of it."""
    details = [
        record.device,
        f"torch {record.packages.get('torch', 'unknown')}",
        f"commit {commit_label(record.git_commit, record.git_dirty)}",
        f"{record.seconds.total / 60:.1f} minutes",
        f"weights {record.weights_sha256[:12]}",
    ]
    if record.data_sha256 is not None:
        details.append(f"data {record.data_sha256[:12]}")
    return ", ".join(details)
