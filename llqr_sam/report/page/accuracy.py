"""The section of a table of trained networks."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from llqr_sam.engine.records.record import Record
from llqr_sam.report.figures.curves import curves_of
from llqr_sam.report.page.curves import charts
from llqr_sam.report.page.section import Grid, Part, Run, Section, Source, View
from llqr_sam.report.tables.collect import collect
from llqr_sam.report.tables.entries import Entry, Table
from llqr_sam.report.tables.paper_numbers import ARCHS, DATASETS, method_label
from llqr_sam.report.tables.seed_statistics import Interval
from llqr_sam.report.tables.wording import caption, cell_lines, heading, progress, selected
from llqr_sam.suite.plan.plan import Cell, Planned
from llqr_sam.suite.status.status import Status


def accuracy_section(config: DictConfig, words: Sequence[str]) -> Section:
    """The table that ``words``, composed into ``config``, name.

    Raises:
        UsageError: records of one data set are of different data.
    """
    status, table = collect(config, words)
    runs = {run.run_id for run in status.runs}
    return Section(
        anchor=f"table-{table.number}",
        title=heading(table),
        caption=caption(table),
        parts=(Part("", "", accuracy_grid(table, status)),),
        charts=tuple(charts(curves_of(status, config.table.metric), config.table.metric)),
        notes=(progress(table), *selected(table), *status.damage()),
        done=len(runs) - len(status.select("missing", "failed", "running", "diverged")),
        planned=len(runs),
        what="runs",
        command=table.command,
    )


def accuracy_grid(table: Table, status: Status) -> Grid:
    """A table of trained networks."""
    noisy = any(entry.cell.label_noise for entry in table.entries)
    heads = ["Data set", "Network", *["Label noise"] * noisy]
    by_cell: dict[Cell, list[Planned]] = {}
    for run in status.runs:
        by_cell.setdefault(run.cell, []).append(run)
    rows: list[tuple[View, ...]] = []
    sources: list[Source] = []
    for row in table.rows:
        cell = row[0].cell
        names = [DATASETS.get(cell.dataset, cell.dataset), ARCHS.get(cell.arch, cell.arch)]
        names += [f"{cell.label_noise:g}"] * noisy
        views = [View(head, name, heading=True) for head, name in zip(heads, names, strict=True)]
        for entry in row:
            link = f"table-{table.number}-{len(sources)}"
            views.append(_accuracy(table, entry, row, link))
            sources.append(_source(link, by_cell[entry.cell], status))
        rows.append(tuple(views))
    methods = [method_label(entry.cell) for entry in table.rows[0]]
    return Grid((*heads, *methods), tuple(rows), tuple(sources))


def _accuracy(table: Table, entry: Entry, row: Sequence[Entry], link: str) -> View:
    lines = cell_lines(table, entry, row)
    sample = entry.top1(table.kind)
    ours = lines.pop("")
    facts = [f"{len(entry.finished)} of {entry.planned} seeds finished"]
    if interval := sample.t_interval():
        facts.append(f"95 % t interval of the mean: {_ends(interval)}")
    if sample.values:
        facts.append("seeds: " + ", ".join(f"{seed}: {value:.2f}" for seed, value in sample.by_seed.items()))
    facts += [f"{label}: {line}" for label, line in lines.items()]
    view = View(method_label(entry.cell), ours, lines.get("paper", ""), facts=tuple(facts), link=link)
    if entry.paper is None or sample.mean is None:
        return view
    difference = sample.mean - entry.paper.mean
    tone = "above" if difference > 0 else "below"
    if entry.paper_is_outside is not None:
        tone = f"{tone} sure" if entry.paper_is_outside else "same"
    return View(view.label, ours, view.paper, f"{difference:+.2f}", tone, view.facts, link)


def _source(link: str, runs: Sequence[Planned], status: Status) -> Source:
    cell = runs[0].cell
    words = ["python", "train.py", f"dataset={cell.dataset}", f"arch={cell.arch}", f"optim={cell.method}"]
    words += [f"geometry={cell.geometry}"] * bool(cell.geometry)
    words += [f"dataset.label_noise={cell.label_noise:g}"] * bool(cell.label_noise)
    words += [f"{choice.key}={choice.value!r}" for choice in runs[0].choices if choice.origin == "selected"]
    noise = f", label noise {cell.label_noise:g}" if cell.label_noise else ""
    place = f"{DATASETS.get(cell.dataset, cell.dataset)}, {ARCHS.get(cell.arch, cell.arch)}{noise}"
    settings = runs[0].settings.as_dict()
    return Source(
        link=link,
        name=f"{method_label(cell)} on {place}",
        command=shlex.join(words),
        config=OmegaConf.to_yaml(OmegaConf.create(settings)),
        runs=tuple(_run(run, status) for run in runs),
    )


def _run(run: Planned, status: Status) -> Run:
    record, path = status.records.get(run.run_id), status.paths.get(run.run_id)
    if record is None or path is None:
        return Run(run.run_id, status.line(run) if status.of_run(run) != "missing" else "not run", "", "")
    return Run(run.run_id, status.line(run), f"../runs/{path.parent.name}/{path.name}", ", ".join(_facts(record)))


def _facts(record: Record) -> Iterator[str]:
    yield record.device
    yield f"torch {record.packages.get('torch', 'unknown')}"
    yield f"commit {(record.git_commit or 'unknown')[:7]}{'+' * record.git_dirty}"
    yield f"{record.seconds.total / 60:.1f} minutes"
    yield f"weights {record.weights_sha256[:12]}"
    if record.data_sha256 is not None:
        yield f"data {record.data_sha256[:12]}"


def _ends(interval: Interval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}"
