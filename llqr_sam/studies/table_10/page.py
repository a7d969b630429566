"""Table 10 for the page with all results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from omegaconf import DictConfig, OmegaConf

from llqr_sam.report.page.section import Grid, Part, Section, Source, View
from llqr_sam.studies.table_10 import table as cadence
from llqr_sam.studies.table_10.timing import Timing


def times_section(table: DictConfig, timings: Sequence[Timing]) -> Section:
    """Table 10, a part a measured network."""
    sections = cadence.cadence(table, timings)
    measured = {section.arch for section in sections if section.timing is not None}
    return Section(
        anchor=f"table-{table.number}",
        title=f"Table {table.number}: {table.title}",
        caption=cadence.caption(table),
        parts=tuple(
            Part(section.name, section.where(), cadence_grid(table, number, section))
            for number, section in enumerate(sections)
        ),
        charts=(),
        notes=(),
        done=len(measured),
        planned=len(table.archs),
        what="networks",
        command=f"python train.py table={table.number}",
    )


def cadence_grid(table: DictConfig, number: int, section: cadence.Section) -> Grid:
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


def _timing_source(table: DictConfig, section: cadence.Section, link: str) -> Iterator[Source]:
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
