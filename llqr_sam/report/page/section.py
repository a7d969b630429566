"""What a section of the page is made of: a table with what each cell shows and where it leads, notes and curves.

Colour says how ours lies to the paper's: blue above, orange below, and full colour only where the paper's value is
outside the 95 % t interval of our mean. The sign is always written too.
"""

from __future__ import annotations

from dataclasses import dataclass

from llqr_sam.report.page.curves import Chart


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
