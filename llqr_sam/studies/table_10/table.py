"""Table 10: seconds an epoch takes by steps between two refreshes, composed from measured times.

    epoch = steps_per_epoch * step + updates * refresh,   updates = ceil(steps_per_epoch / interval)

The times are medians over the rounds of a measurement, with the lowest and the highest; a ratio is the median of the
rounds' own. The paper's seconds are of an unnamed device and batch: its ratios are what ours stand beside.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.report.tables.markup import latex, latex_row, markdown_head, markdown_row
from llqr_sam.report.tables.paper_numbers import ARCHS, METHODS
from llqr_sam.repository import PAPER
from llqr_sam.studies.table_10.timing import Timing
from llqr_sam.suite.config.schema import TableConfig

CADENCE = PAPER / "table10_cadence.csv"
NAMES = {**ARCHS, "vit_tiny": "ViT-Ti/16"}  # at the 224 x 224 of this table
LABELS = {**METHODS, "sgdm": "SGD"}  # as printed there
BUSY = "not measurable: machine busy"
HEADS = ("Method", "Interval", "Updates", "Epoch, s", "vs. SGD", "vs. SAM", "Update, s")
COLUMNS = (
    *("arch", "method", "update_interval", "updates"),
    *("epoch_seconds", "ratio_vs_sgd", "ratio_vs_sam", "steady_update_seconds"),
    *("epoch_seconds_low", "epoch_seconds_high", "ratio_vs_sgd_low", "ratio_vs_sgd_high"),
    *("ratio_vs_sam_low", "ratio_vs_sam_high", "update_seconds_low", "update_seconds_high"),
    *("paper_epoch_seconds", "paper_ratio_vs_sgd", "paper_ratio_vs_sam", "paper_steady_update_seconds"),
    *("device", "threads", "batch", "divergence", "structure", "inner_steps", "timed_inner_steps", "git_commit"),
)


@dataclass(frozen=True)
class Spread:
    """Median of the rounds, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Spread:
        """Of one figure a round."""
        return cls(statistics.median(rounds), min(rounds), max(rounds))


@dataclass(frozen=True)
class PaperRow:
    """What the paper prints in a row."""

    epoch: float
    vs_sgd: float
    vs_sam: float
    update: float | None


@dataclass(frozen=True)
class Figure:
    """A number of a row: ours if it was measured, the paper's if it has one."""

    ours: Spread | None
    paper: float | None
    is_ratio: bool
    has_value: bool = True  # a method without a metric has no updates
    missing: str = "not measured"  # in the place of ours

    @property
    def text(self) -> str:
        """Ours as printed."""
        if not self.has_value:
            return "-"
        ours = self.ours
        return f"{_number(ours.median)} ({_number(ours.low)}-{_number(ours.high)})" if ours else self.missing

    @property
    def paper_text(self) -> str:
        """The paper's as printed, or nothing."""
        return "" if self.paper is None else _number(self.paper)


@dataclass(frozen=True)
class Row:
    """A method at an interval; ``None`` where it was not measured, or what was measured composes to no refresh."""

    method: str
    interval: int | None  # of a method with a metric
    updates: int | None
    epoch: Spread | None
    vs_sgd: Spread | None
    vs_sam: Spread | None
    update: Spread | None
    paper: PaperRow | None
    measurable: bool = True  # what was measured composes to a refresh

    def figures(self) -> tuple[Figure, ...]:
        """The cells after the counts: epoch, both ratios, update."""
        paper = asdict(self.paper) if self.paper else {}
        missing = "not measured" if self.measurable else BUSY
        return (
            Figure(self.epoch, paper.get("epoch"), is_ratio=False, missing=missing),
            Figure(self.vs_sgd, paper.get("vs_sgd"), is_ratio=True, missing=missing),
            Figure(self.vs_sam, paper.get("vs_sam"), is_ratio=True, missing=missing),
            Figure(
                self.update, paper.get("update"), is_ratio=False, has_value=self.interval is not None, missing=missing
            ),
        )


@dataclass(frozen=True)
class Section:
    """The rows of a network on one device, or of one that was not measured."""

    arch: str
    timing: Timing | None
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """The network as printed."""
        return NAMES.get(self.arch, self.arch)

    @property
    def empty(self) -> bool:
        """Whether neither we nor the paper have a number."""
        return self.timing is None and not any(row.paper for row in self.rows)

    def where(self) -> str:
        """Device, batch and metric in a line."""
        timing = self.timing
        if timing is None:
            return "not measured"
        words = [f"{timing.device}, {timing.threads} CPU threads"]
        words.append(f"batch {timing.batch}, {timing.precision['autocast']}")
        refresh = timing.refresh
        if refresh is not None:
            of = "" if refresh.timed == refresh.inner_steps else f", composed from refreshes of 1 and {refresh.timed}"
            products = timing.precision.get("refresh")  # None, and absent in older records: float32
            rounded = f", products in {products}" if products else ""
            words.append(f"{refresh.divergence}, {refresh.structure}, T = {refresh.inner_steps}{of}{rounded}")
        commit = (timing.git_commit or "unknown")[:7]
        words.append(
            f"torch {timing.packages.get('torch', 'unknown')}, commit {commit}{'+' if timing.git_dirty else ''}"
        )
        return "; ".join(words)


def cadence(table: TableConfig, timings: Sequence[Timing]) -> list[Section]:
    """The table: the paper's networks and ours, each as often as it was measured."""
    paper = read_paper()
    sections = []
    for arch in table.archs:
        measured: list[Timing | None] = [timing for timing in timings if timing.arch == arch]
        for timing in measured or [None]:
            rows = tuple(_rows(table, arch, timing, paper))
            sections.append(Section(arch, timing, rows))
    return sections


def read_paper(path: Path = CADENCE) -> dict[tuple[str, str, int | None], PaperRow]:
    """Table 10 as printed, by network, method and interval."""
    with path.open(newline="") as file:
        return {
            (row["arch"], row["method"], int(row["update_interval"]) if row["update_interval"] else None): PaperRow(
                float(row["epoch_seconds"]),
                float(row["ratio_vs_sgd"]),
                float(row["ratio_vs_sam"]),
                float(row["steady_update_seconds"]) if row["steady_update_seconds"] else None,
            )
            for row in csv.DictReader(file)
        }


def write_cadence(table: TableConfig, sections: Sequence[Section], output: Path) -> list[Path]:
    """Write ``output`` with .md, .csv and .tex; the paths."""
    texts = {"md": to_markdown(table, sections), "csv": to_csv(sections), "tex": to_latex(table, sections)}
    paths = [output.with_name(f"{output.name}.{suffix}") for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        with replacing(path) as file:
            file.write(text.encode())
    return paths


def to_markdown(table: TableConfig, sections: Sequence[Section]) -> str:
    """A heading and a table for each section, ours over the paper's."""
    lines = [f"# Table {table.number}: {table.title}", "", caption(table), ""]
    for section in sections:
        lines += [f"## {section.name}", "", f"{_sentence(section.where())}.", ""]
        if section.empty:
            continue
        lines += markdown_head(HEADS)
        for row in section.rows:
            cells = [f"{each.text}<br>paper {each.paper_text}" if each.paper else each.text for each in row.figures()]
            lines.append(markdown_row([LABELS[row.method], *counts(row), *cells]))
        lines.append("")
    measured = len({section.arch for section in sections if section.timing})
    archs = len({section.arch for section in sections})
    lines += [f"{measured} of {archs} networks measured. Command: `python train.py table={table.number}`.", ""]
    return "\n".join(lines)


def to_csv(sections: Sequence[Section]) -> str:
    """The columns of the paper's file first, then spread, the paper's values and what was measured on."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for section in sections:
        for row in section.rows:
            writer.writerow(_csv_row(section, row))
    return text.getvalue()


def to_latex(table: TableConfig, sections: Sequence[Section]) -> str:
    """A ``table`` environment for booktabs."""
    lines = [
        r"\begin{table}",
        rf"\caption{{Table {table.number}: {latex(table.title)}. {latex(caption(table))}}}",
        r"\begin{tabular}{lrrrrrr}",
        r"\toprule",
        latex_row(HEADS),
    ]
    for section in sections:
        lines += [r"\midrule", rf"\multicolumn{{7}}{{l}}{{{section.name}: {latex(section.where())}}} \\", r"\midrule"]
        for row in () if section.empty else section.rows:
            papers = [each.paper_text for each in row.figures()]
            lines.append(latex_row([LABELS[row.method], *counts(row), *(latex(each.text) for each in row.figures())]))
            if any(papers):
                lines.append(latex_row(["", "", "paper", *map(latex, papers)]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def caption(table: TableConfig) -> str:
    """What the numbers are."""
    return (
        f"Seconds that an epoch of {table.require_timing().steps_per_epoch:,} steps takes, composed from steps and "
        "refreshes timed on random 224 x 224 images; warm-up and compilation not counted. Median of the rounds, in "
        "brackets the lowest and the highest; a ratio is taken in each round, so it need not be that of the medians. "
        '"paper": the value printed in arXiv 2605.16134, on an unnamed device and batch.'
    )


def counts(row: Row) -> list[str]:
    """Interval and number of updates as text."""
    return [str(row.interval), str(row.updates)] if row.interval else ["-", "-"]


def overview(sections: Sequence[Section]) -> Iterator[str]:
    """The ratios for a terminal, ours beside the paper's."""
    for section in sections:
        if section.timing is None:
            continue
        yield f"{section.name}: {section.where()}"
        yield f"  {'method':10} {'interval':>8} {'s/epoch':>9} {'vs SGD':>8} {'paper':>7} {'vs SAM':>8} {'paper':>7}"
        for row in section.rows:
            ours = [f"{spread.median:.2f}" if spread else "-" for spread in (row.epoch, row.vs_sgd, row.vs_sam)]
            theirs = [f"{row.paper.vs_sgd:.2f}", f"{row.paper.vs_sam:.2f}"] if row.paper else ["-", "-"]
            yield (
                f"  {LABELS[row.method]:10} {row.interval or '-':>8} {ours[0]:>9} {ours[1]:>8} {theirs[0]:>7} "
                f"{ours[2]:>8} {theirs[1]:>7}"
            )


def _rows(
    table: TableConfig, arch: str, timing: Timing | None, paper: dict[tuple[str, str, int | None], PaperRow]
) -> Iterator[Row]:
    for method in table.methods:
        for interval in table.require_timing().intervals if method.geometry else [None]:
            printed_there = paper.get((NAMES.get(arch, arch), LABELS[method.optim], interval))
            yield _row(table.require_timing().steps_per_epoch, method.optim, interval, timing, printed_there)


def _row(steps: int, method: str, interval: int | None, timing: Timing | None, paper: PaperRow | None) -> Row:
    updates = math.ceil(steps / interval) if interval else None
    timed = timing.refresh if timing and interval else None
    refresh = timed.seconds if timed else None
    epoch = _epoch(timing, method, steps, updates, refresh)
    ratios = []
    for unit in ("sgdm", "sam"):
        base = _epoch(timing, unit, steps, None, None)
        ratios.append(Spread.of([a / b for a, b in zip(epoch, base, strict=True)]) if epoch and base else None)
    return Row(
        method=method,
        interval=interval,
        updates=updates,
        epoch=Spread.of(epoch) if epoch else None,
        vs_sgd=ratios[0],
        vs_sam=ratios[1],
        update=Spread.of(refresh) if refresh else None,
        paper=paper,
        measurable=timed is None or refresh is not None,
    )


def _epoch(
    timing: Timing | None, method: str, steps: int, updates: int | None, refresh: list[float] | None
) -> list[float] | None:
    """Seconds of an epoch by round, if it can be composed."""
    step = timing.of(method) if timing else None
    if step is None or (updates and refresh is None):
        return None
    per_round = refresh or [0.0] * len(step.seconds)
    return [steps * s + (updates or 0) * r for s, r in zip(step.seconds, per_round, strict=True)]


def _csv_row(section: Section, row: Row) -> dict[str, object]:
    cells: dict[str, object] = {"arch": section.name, "method": LABELS[row.method]}
    if row.interval:
        cells |= {"update_interval": row.interval, "updates": row.updates}
    for column, name in (("epoch_seconds", "epoch"), ("ratio_vs_sgd", "vs_sgd"), ("ratio_vs_sam", "vs_sam")):
        cells |= _csv_spread(column, column, getattr(row, name))
    cells |= _csv_spread("steady_update_seconds", "update_seconds", row.update)
    if row.paper:
        cells |= {
            "paper_epoch_seconds": f"{row.paper.epoch:.2f}",
            "paper_ratio_vs_sgd": f"{row.paper.vs_sgd:.2f}",
            "paper_ratio_vs_sam": f"{row.paper.vs_sam:.2f}",
            "paper_steady_update_seconds": "" if row.paper.update is None else f"{row.paper.update:.2f}",
        }
    timing = section.timing
    if timing:
        cells |= {"device": timing.device, "threads": timing.threads, "batch": timing.batch}
        cells |= {"git_commit": timing.git_commit or ""}
        if timing.refresh and row.interval:
            refresh = timing.refresh
            cells |= {"divergence": refresh.divergence, "structure": refresh.structure}
            cells |= {"inner_steps": refresh.inner_steps, "timed_inner_steps": refresh.timed}
    return cells


def _csv_spread(column: str, prefix: str, spread: Spread | None) -> dict[str, object]:
    if spread is None:
        return {}
    columns = (column, f"{prefix}_low", f"{prefix}_high")
    return {name: f"{value:.4g}" for name, value in zip(columns, astuple(spread), strict=True)}


def _number(value: float) -> str:
    """Two decimals, none from a thousand on."""
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
