"""What a section of the page is made of: a printed table, its runs or measurements, and its curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
