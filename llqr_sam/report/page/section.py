"""What a section of the page holds. The page's template writes these objects; other modules make them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from llqr_sam.engine.records.record import Record
from llqr_sam.report.page.track import Axis, Track
from llqr_sam.report.tables.printed_table import PrintedTable


@dataclass(frozen=True)
class RunLink:
    """A run of a cell, with a link to its record if it has one."""

    run_id: str
    state: str
    href: str = ""  # of the record, relative to the page
    wandb: str = ""  # address of the run in Weights & Biases
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
class Difference:
    """A difference to the baseline, as text and as a plot."""

    mean: float
    text: str  # +3.93
    interval: str  # [+1.92, +5.95]; empty for a single seed
    n: int  # seeds that both have finished
    tone: str  # above, below or even
    track: Track | None


@dataclass(frozen=True)
class MethodLine:
    """A method in a row of the paper's table: a cell."""

    method: str
    ours: str  # best score with deviation and finished of planned seeds, or why there is none
    best: bool  # marked, as in table.md
    difference: Difference | None  # None: nothing to compare
    last: str
    flatness: str
    paper: str
    to_paper: str  # ours minus the paper's
    to_paper_tone: str  # above, below or same, as the paper's value lies to our interval
    running: Sequence[str]  # runs that are going on


@dataclass(frozen=True)
class CurveLine:
    """The curves of a method: lists of the mean over seeds, the lowest and the highest."""

    name: str
    ink: str  # a colour, or "ink": that of the text, for the page may be dark
    dash: Sequence[float]
    seeds: int
    epoch: Sequence[float]
    minutes: Sequence[float]
    score: Sequence[Sequence[float | None]]
    loss: Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Chart:
    """The curves of a network."""

    title: str
    score_label: str
    pair: tuple[int, int]  # the two lines that are drawn with bands at first: the best one and the baseline
    lines: Sequence[CurveLine]


@dataclass(frozen=True)
class Sentence:
    """What was found of a method."""

    method: str
    verdict: str  # is better than SGDM
    difference: Difference
    lost: str = ""  # 2 diverged


@dataclass(frozen=True)
class Answer:
    """Who wins in a row, by how much and how surely."""

    summary: str  # how many methods are better than the baseline
    sentences: Sequence[Sentence]  # the highest difference first
    axis: Axis
    unit: str  # of the differences: points or BLEU


@dataclass(frozen=True)
class Place:
    """A row of the paper's table: a data set, network and label noise."""

    title: str
    baseline: str  # what the methods are compared with
    lines: Sequence[MethodLine]
    axis: Axis | None  # of the differences
    answer: Answer | None = None  # None: there is nothing to compare
    chart: Chart | None = None


@dataclass(frozen=True)
class Section:
    """A table on the page."""

    table: PrintedTable
    places: Sequence[Place] = ()  # its cells, of a table of trained networks; others are shown as printed
    caption: str = ""  # in place of the table's
    answer: Answer | None = None  # of a sweep over methods; a table's places have their own
    sources: Sequence[CellSource] = ()  # of the table's cells
    damage: Sequence[str] = ()  # a line for each record that does not count
    picture: str = ""  # an SVG in base64
    records: Sequence[Record] = ()  # that it is made from
    running: Mapping[str, str] = field(default_factory=dict)  # id of a run that is going on -> how far it is
    failed: Collection[str] = ()  # ids of the runs that failed

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to show that was made here."""
        return self.table.done > 0 or bool(self.running or self.failed or self.damage)

    @property
    def answers(self) -> list[tuple[str, Answer]]:
        """Name of a row, and who wins there."""
        if self.answer:
            return [(self.name, self.answer)]
        return [(f"{self.name}, {place.title}", place.answer) for place in self.places if place.answer]

    @property
    def name(self) -> str:
        """``Table 2``, or ``Table 2, small`` for its twin: for the list of contents."""
        first, _, _ = self.table.title.partition(":")
        _, _, scale = self.table.number.partition("-")
        if not self.table.number[0].isdigit():
            return self.table.title
        return f"{first}, {scale}" if scale else first
