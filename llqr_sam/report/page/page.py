"""One page with everything: tables beside the paper's, figures, curves, and what has not been run.

The file is self-contained: style, script, pictures and configs are in it, so it works from the file system without a
network. Equal results and words give equal bytes.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.report.figures.curves import curves_of
from llqr_sam.report.page.cells import Grid, accuracy_grid, cadence_grid, storage_grid
from llqr_sam.report.page.curves import Chart, charts
from llqr_sam.report.tables.collect import collect
from llqr_sam.report.tables.wording import caption, heading, progress, selected
from llqr_sam.studies import table_9 as storage
from llqr_sam.studies.figures import TITLES
from llqr_sam.studies.table_10 import table as cadence
from llqr_sam.studies.table_10.measurements import timings_folder
from llqr_sam.studies.table_10.timing import Timing, read_timings
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.config.errors import try_each
from llqr_sam.suite.config.schema import TableConfig
from llqr_sam.suite.plan.plan import plan


@dataclass(frozen=True)
class Part:
    """A piece of a table's section: Table 10 has one a network."""

    title: str
    note: str
    grid: Grid


@dataclass(frozen=True)
class Section:
    """A table of the page."""

    anchor: str
    title: str
    caption: str
    parts: tuple[Part, ...]
    charts: tuple[Chart, ...]
    notes: tuple[str, ...]
    done: int  # runs or networks
    planned: int
    what: str  # they are
    command: str  # that does the rest


@dataclass(frozen=True)
class Picture:
    """A figure, or why there is none."""

    number: str
    title: str
    data: str  # of the PNG, as a data URI
    reason: str


def write_page(results: Path, words: Sequence[str] = ()) -> tuple[Path, list[str]]:
    """Write ``results/report/index.html`` from runs, measurements and pictures in ``results``.

    Args:
        results: The folder of all of them.
        words: Those of train.py that the runs were started with.

    Returns:
        The file, and a line for each table that cannot take the words; the page lists it among what is not run.

    Raises:
        UsageError: no table can take the words.
    """
    timings, damaged = read_timings(timings_folder(results))
    numbers = sorted(groups()["table"], key=_order)
    works = {f"table={number}": partial(_section, number, results, words, timings) for number in numbers}
    sections, passed = try_each(works)
    sections = sorted([*sections, _storage()], key=lambda section: _order(section.anchor.partition("-")[2]))
    pictures = [_picture(number, title, results) for number, title in TITLES.items()]
    environment = Environment(
        loader=PackageLoader("llqr_sam.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html").render(
        sections=sections, pictures=pictures, damaged=[*damaged, *passed], words=shlex.join(words)
    )
    path = results / "report" / "index.html"
    with replacing(path) as file:
        file.write(text.encode())
    return path, passed


def _section(number: str, results: Path, given: Sequence[str], timings: Sequence[Timing]) -> Section:
    words = [f"table={number}", *given, f"paths.results={results}"]
    command = Command.of(*words)
    if command.config.times_networks:
        plan(command)  # refuses what no run of it can take
        return _times(command.table, timings)
    status, table = collect(command)
    runs = {run.run_id for run in status.runs}
    return Section(
        anchor=f"table-{number}",
        title=heading(table),
        caption=caption(table),
        parts=(Part("", "", accuracy_grid(table, status)),),
        charts=tuple(charts(curves_of(status, command.table.metric), command.table.metric)),
        notes=(progress(table), *selected(table), *status.damage()),
        done=len(runs) - len(status.select("missing", "failed", "running", "diverged")),
        planned=len(runs),
        what="runs",
        command=table.command,
    )


def _times(table: TableConfig, timings: Sequence[Timing]) -> Section:
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


def _storage() -> Section:
    rows = storage.table_9()
    return Section(
        anchor="table-9",
        title="Table 9: Storage of U on vision transformers",
        caption=storage.caption(),
        parts=(Part("", "", storage_grid(rows)),),
        charts=(),
        notes=(f"{sum(row.ours == row.paper for row in rows)} of {len(rows)} rows equal the paper's in every digit.",),
        done=len(rows),
        planned=len(rows),
        what="rows",
        command="python scripts/storage.py",
    )


def _picture(number: str, title: str, results: Path) -> Picture:
    path = results / "figures" / f"figure_{int(number):02d}.png"
    if not path.exists():
        return Picture(
            number, title, "", "not drawn: its runs or measurements are missing, or make figures was not run"
        )
    return Picture(number, title, f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}", "")


def _order(number: str) -> tuple[bool, int, str]:
    """Tables by number, the demo last."""
    return (not number.isdigit(), int(number) if number.isdigit() else 0, number)
