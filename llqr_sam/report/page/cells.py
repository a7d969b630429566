"""Tables for the page: every cell with what it shows, what it tells when pointed at, and where it leads.

Colour says how ours lies to the paper's: blue above, orange below, and full colour only where the paper's value is
outside the 95 % t interval of our mean. The sign is always written too.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from omegaconf import OmegaConf

from llqr_sam.engine.records.record import Record
from llqr_sam.report.tables.entries import Entry, Table
from llqr_sam.report.tables.paper_numbers import ARCHS, DATASETS, method_label
from llqr_sam.report.tables.seed_statistics import Interval
from llqr_sam.report.tables.wording import cell_lines
from llqr_sam.studies import table_9 as storage
from llqr_sam.studies.table_10 import table as cadence
from llqr_sam.suite.config.schema import TableConfig
from llqr_sam.suite.plan.plan import Cell, Planned
from llqr_sam.suite.status.status import Status


@dataclass(frozen=True)
class View:
    """A cell of the page.

    Args:
        label: Head of its column, for narrow screens.
        ours: What was measured.
        paper: The paper's value, or nothing.
        difference: Ours minus the paper's, signed, or nothing.
        tone: ``above``, ``below``, ``same`` or nothing; with `` sure`` where the paper's value is outside our interval.
        facts: Lines shown when the cell is pointed at or focused.
        link: Id of the part of the page that it leads to, or nothing.
        heading: Whether it names its row.
        key: Tells cells apart that lead to the same part.
    """

    label: str
    ours: str
    paper: str = ""
    difference: str = ""
    tone: str = ""
    facts: tuple[str, ...] = ()
    link: str = ""
    heading: bool = False
    key: str = ""

    @property
    def facts_id(self) -> str:
        """Id of the facts on the page."""
        return "-".join(filter(None, (self.link, self.key, "facts")))


@dataclass(frozen=True)
class Run:
    """A run of a cell: its record's numbers, or that there is none."""

    run_id: str
    state: str
    href: str  # of the record, relative to the page
    details: str


@dataclass(frozen=True)
class Source:
    """What a cell is made of: runs, or a measurement."""

    link: str
    name: str
    command: str
    config: str  # YAML
    runs: tuple[Run, ...]
    what: str = "Configuration, but for the seed"  # config is


@dataclass(frozen=True)
class Grid:
    """A table of the page."""

    heads: tuple[str, ...]
    rows: tuple[tuple[View, ...], ...]
    sources: tuple[Source, ...] = ()


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


def cadence_grid(table: TableConfig, number: int, section: cadence.Section) -> Grid:
    """A network of Table 10, the ``number``-th of its sections."""
    if section.empty:
        return Grid((), ())
    link = f"table-{table.number}-{number}"
    rows = []
    for place, row in enumerate(section.rows):
        interval, updates = cadence.counts(row)
        views = [View("Method", cadence.LABELS[row.method], heading=True)]
        views += [View("Interval", interval), View("Updates", updates)]
        for column, (head, figure) in enumerate(zip(cadence.HEADS[3:], row.figures(), strict=True)):
            views.append(replace(_timed(head, figure, section, link), key=f"{place}-{column}"))
        rows.append(tuple(views))
    return Grid(cadence.HEADS, tuple(rows), tuple(_timing_source(table, section, link)))


def storage_grid(rows: Sequence[storage.Row]) -> Grid:
    """Table 9."""
    heads = ("Model", "Structure", "S", *storage.HEADS)
    return Grid(heads, tuple(tuple(_stored(row)) for row in rows))


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


def _timed(head: str, figure: cadence.Figure, section: cadence.Section, link: str) -> View:
    """Ratios are compared with the paper's; seconds are of another machine."""
    ours, paper = figure.ours, figure.paper
    if ours is None or section.timing is None:
        return View(head, figure.text, figure.paper_text)
    facts = (f"median of {len(section.timing.steps[0].seconds)} rounds, lowest and highest", section.where())
    if paper is None or not figure.is_ratio:
        return View(head, figure.text, figure.paper_text, facts=facts, link=link)
    difference = ours.median - paper
    outside = not ours.low <= paper <= ours.high
    tone = ("above sure" if difference > 0 else "below sure") if outside else "same"
    return View(head, figure.text, figure.paper_text, f"{difference:+.2f}", tone, facts, link)


def _timing_source(table: TableConfig, section: cadence.Section, link: str) -> Iterator[Source]:
    timing = section.timing
    if timing is not None:
        yield Source(
            link=link,
            name=f"{section.name} on {timing.device}",
            command=f"python train.py table={table.number} arch={timing.arch} table.timing.batch={timing.batch}",
            config=OmegaConf.to_yaml(OmegaConf.create(asdict(timing))),
            runs=(),
            what="Measurement",
        )


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


def _stored(row: storage.Row) -> Iterator[View]:
    yield View("Model", row.label, heading=True)
    yield View("Structure", row.structure)
    yield View("S", str(row.shards))
    for head, ours, paper in zip(storage.HEADS, row.ours, row.paper, strict=True):
        yield View(head, ours, paper, "=" if ours == paper else "≠", "same" if ours == paper else "below sure")


def _ends(interval: Interval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}"
