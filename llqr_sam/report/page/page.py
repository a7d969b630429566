"""The page with all results: tables beside the paper's, figures, curves, and what has not been run.

The file contains its style, script, pictures and configurations, so it can be opened without a network. Equal results
and words give equal bytes.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.report.page.curves import Chart
from llqr_sam.report.tables.printed_table import PrintedTable


@dataclass(frozen=True)
class RunLink:
    """A run of a cell, with a link to its record if it has one."""

    run_id: str
    state: str
    href: str = ""  # of the record, relative to the page
    details: str = ""


@dataclass(frozen=True)
class CellSource:
    """What cells are made from: runs or a measurement, the command that makes them and their configuration."""

    name: str
    command: str
    config: str  # YAML
    runs: tuple[RunLink, ...] = ()
    what: str = "Configuration, but for the seed"  # describes config


@dataclass(frozen=True)
class Section:
    """A table on the page."""

    table: PrintedTable
    sources: Sequence[CellSource] = ()  # of the table's cells
    charts: Sequence[Chart] = ()  # curves of its runs
    damage: Sequence[str] = ()  # a line for each record that does not count


def write_page(
    results: Path,
    sections: Sequence[Section],
    figures: Mapping[str, str],
    words: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write ``results/report/index.html``; returns the file.

    Args:
        results: Folder whose ``figures/`` holds the pictures.
        sections: The tables, in any order.
        figures: Number -> title. A figure without a picture is listed as not drawn.
        words: What the runs were started with.
        notes: Further lines for the list of what has not been run.
    """
    loader = PackageLoader("llqr_sam.report.page")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.get_template("page.html").render(
        sections=sorted(sections, key=lambda section: _order(section.table.number)),
        figures=[(number, title, _picture(number, results)) for number, title in figures.items()],
        notes=notes,
        words=shlex.join(words),
    )
    path = results / "report" / "index.html"
    with replacing(path) as file:
        file.write(text.encode())
    return path


def _picture(number: str, results: Path) -> str:
    """The PNG as a data URI; empty if the figure has not been drawn."""
    path = results / "figures" / f"figure_{int(number):02d}.png"
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.exists() else ""


def _order(number: str) -> tuple[bool, int, str]:
    """Sorts tables by number, named ones last."""
    return (not number.isdigit(), int(number) if number.isdigit() else 0, number)
