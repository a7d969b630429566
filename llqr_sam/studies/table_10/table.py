"""Table 10: seconds of an epoch by refresh interval, composed from measured times, and as a reader sees it.

    epoch = steps_per_epoch * step + updates * refresh,   updates = ceil(steps_per_epoch / interval)

A number is the median over the rounds of a measurement, with the lowest and the highest round; a ratio is taken in each
round. The paper's seconds are of an unnamed device and batch, so only its ratios can be compared with ours.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from llqr_sam.engine.records.provenance import commit_label
from llqr_sam.report.tables.labels import ARCH_LABELS, METHOD_LABELS
from llqr_sam.report.tables.printed_table import PrintedCell, PrintedRow, PrintedTable, RowGroup, csv_text
from llqr_sam.repository import PAPER
from llqr_sam.studies.table_10.timing import Timing
from llqr_sam.suite.config.schema import TableConfig

if TYPE_CHECKING:
    from llqr_sam.report.page.section import Section

CADENCE = PAPER / "table10_cadence.csv"
NAMES = {**ARCH_LABELS, "vit_tiny": "ViT-Ti/16"}  # at the 224 x 224 of this table
LABELS = {**METHOD_LABELS, "sgdm": "SGD"}  # as printed there
NUMBERS = ("epoch_seconds", "ratio_vs_sgd", "ratio_vs_sam", "steady_update_seconds")  # columns of the paper's file
RATIOS = {"ratio_vs_sgd": "sgdm", "ratio_vs_sam": "sam"}  # column -> method that an epoch is compared with
Paper = Mapping[tuple[str, str, int | None], Mapping[str, float]]  # (network, method, interval) -> column -> value


@dataclass(frozen=True)
class Spread:
    """Median of the rounds, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Spread:
        """Summarize one value a round."""
        return cls(statistics.median(rounds), min(rounds), max(rounds))


@dataclass(frozen=True)
class CadenceRow:
    """A method at a refresh interval."""

    method: str  # optim=
    interval: int | None  # steps between two refreshes; None for a method without a metric
    updates: int | None  # refreshes in an epoch
    ours: Mapping[str, Spread]  # column of NUMBERS -> what was measured
    paper: Mapping[str, float]  # column of NUMBERS -> what the paper prints


@dataclass(frozen=True)
class NetworkTimes:
    """The rows of a network, measured on one device or not at all."""

    arch: str
    timing: Timing | None
    rows: tuple[CadenceRow, ...]

    @property
    def name(self) -> str:
        """The network as printed."""
        return NAMES.get(self.arch, self.arch)

    def where(self) -> str:
        """Device, batch, metric and code of the measurement, in a line."""
        timing = self.timing
        if timing is None:
            return "not measured"
        how = timing.precision
        words = [f"{timing.device}, {timing.threads} CPU threads", f"batch {timing.batch}, {how['autocast']}"]
        if refresh := timing.refresh:
            of = "" if refresh.timed == refresh.inner_steps else f", composed from refreshes of 1 and {refresh.timed}"
            products = how.get("refresh")  # None, and absent in older records: float32
            rounded = f", products in {products}" if products else ""
            words.append(f"{refresh.divergence}, {refresh.structure}, T = {refresh.inner_steps}{of}{rounded}")
        commit = commit_label(timing.git_commit, timing.git_dirty)
        return "; ".join([*words, f"torch {timing.packages.get('torch', 'unknown')}, commit {commit}"])


def cadence(table: TableConfig, timings: Sequence[Timing]) -> list[NetworkTimes]:
    """The networks of the table, each once for every measurement of it, or once if there is none."""
    paper = read_paper()
    networks = []
    for arch in table.archs:
        measured: list[Timing | None] = [timing for timing in timings if timing.arch == arch]
        networks += [NetworkTimes(arch, each, tuple(_rows(table, arch, each, paper))) for each in measured or [None]]
    return networks


def read_paper() -> Paper:
    """Table 10 as printed."""
    values = {}
    with CADENCE.open(newline="") as file:
        for row in csv.DictReader(file):
            interval = int(row["update_interval"]) if row["update_interval"] else None
            numbers = {column: float(row[column]) for column in NUMBERS if row[column]}
            values[row["arch"], row["method"], interval] = numbers
    return values


def overview(networks: Sequence[NetworkTimes]) -> Iterator[str]:
    """The ratios for a terminal, ours beside the paper's."""
    for network in networks:
        if network.timing is None:
            continue
        yield f"{network.name}: {network.where()}"
        yield f"  {'method':10} {'interval':>8} {'s/epoch':>9} {'vs SGD':>8} {'paper':>7} {'vs SAM':>8} {'paper':>7}"
        for row in network.rows:
            ours = {name: f"{row.ours[name].median:.2f}" if name in row.ours else "-" for name in NUMBERS}
            theirs = {name: f"{row.paper[name]:.2f}" if name in row.paper else "-" for name in RATIOS}
            ratios = " ".join(f"{ours[name]:>8} {theirs[name]:>7}" for name in RATIOS)
            yield f"  {LABELS[row.method]:10} {row.interval or '-':>8} {ours['epoch_seconds']:>9} {ratios}"


def _rows(table: TableConfig, arch: str, timing: Timing | None, paper: Paper) -> Iterator[CadenceRow]:
    times = table.require_timing()
    for method in table.methods:
        for interval in times.intervals if method.geometry else [None]:
            updates = math.ceil(times.steps_per_epoch / interval) if interval else None
            ours = _measured(timing, method.optim, times.steps_per_epoch, updates) if timing else {}
            theirs = paper.get((NAMES.get(arch, arch), LABELS[method.optim], interval), {})
            yield CadenceRow(method.optim, interval, updates, ours, theirs)


def _measured(timing: Timing, method: str, steps: int, updates: int | None) -> dict[str, Spread]:
    """The columns that a measurement gives."""
    epoch = _epoch(timing, method, steps, updates)
    rounds = {"epoch_seconds": epoch}
    for column, unit in RATIOS.items():
        if epoch and (base := _epoch(timing, unit, steps)):
            rounds[column] = [a / b for a, b in zip(epoch, base, strict=True)]
    if updates and timing.refresh:
        rounds["steady_update_seconds"] = timing.refresh.seconds
    return {column: Spread.of(found) for column, found in rounds.items() if found}


def _epoch(timing: Timing, method: str, steps: int, updates: int | None = None) -> list[float]:
    """Seconds of an epoch by round; empty if its step or its refresh was not measured."""
    step = timing.seconds_of(method)
    if not updates:
        return [steps * seconds for seconds in step]
    refresh = timing.refresh.seconds if timing.refresh else []
    return [steps * s + updates * r for s, r in zip(step, refresh, strict=False)]


HEADS = ("Method", "Interval", "Updates", "Epoch, s", "vs. SGD", "vs. SAM", "Update, s")


def times_section(table: TableConfig, networks: Sequence[NetworkTimes]) -> Section:
    """Table 10 on the page; its sources are the measurements."""
    from llqr_sam.report.page.section import CellSource, Section  # takes half a second, and train.py has no page

    sources = []
    for network in networks:
        if timing := network.timing:
            command = f"python train.py table={table.number} arch={timing.arch} table.timing.batch={timing.batch}"
            config = OmegaConf.to_yaml(OmegaConf.create(asdict(timing)))
            sources.append(CellSource(f"{network.name} on {timing.device}", command, config, what="Measurement"))
    return Section(print_cadence(table, networks), sources=sources)


def print_cadence(table: TableConfig, networks: Sequence[NetworkTimes]) -> PrintedTable:
    """Table 10 with a group for each network."""
    groups = []
    for network in networks:
        known = network.timing or any(row.paper for row in network.rows)
        rows = [_printed(row, network) for row in network.rows if known]
        groups.append(RowGroup(rows, network.name, network.where()))
    archs = {network.arch for network in networks}
    measured = {network.arch for network in networks if network.timing}
    caption = (
        f"Seconds that an epoch of {table.require_timing().steps_per_epoch:,} steps takes, composed from steps and "
        "refreshes timed on random 224 x 224 images; warm-up and compilation not counted. Median of the rounds, in "
        "brackets the lowest and the highest; a ratio is taken in each round, so it need not be that of the medians. "
        '"paper": the value printed in arXiv 2605.16134, on an unnamed device and batch.'
    )
    return PrintedTable(
        number=table.number,
        title=f"Table {table.number}: {table.title}",
        caption=caption,
        heads=HEADS,
        alignment="lrrrrrr",
        groups=groups,
        progress=f"{len(measured)} of {len(archs)} networks measured.",
        command=f"python train.py table={table.number}",
        done=len(measured),
        planned=len(archs),
        unit="networks",
        csv=csv_text([_csv_row(network, row) for network in networks for row in network.rows]),
        latex_lines=("paper",),
    )


def _printed(row: CadenceRow, network: NetworkTimes) -> PrintedRow:
    counts = [str(row.interval), str(row.updates)] if row.interval else ["-", "-"]
    return PrintedRow([LABELS[row.method], *counts], [_cell(row, name, network) for name in NUMBERS])


def _cell(row: CadenceRow, column: str, network: NetworkTimes) -> PrintedCell:
    """Ours over the paper's. Only ratios are compared with the paper's: seconds are of another machine."""
    ours, paper = row.ours.get(column), row.paper.get(column)
    lines = {} if paper is None else {"paper": _number(paper)}
    if ours is None or network.timing is None:
        has_no_refresh = column == "steady_update_seconds" and row.interval is None
        return PrintedCell("-" if has_no_refresh else "not measured", lines)
    difference = tone = ""
    if paper is not None and column in RATIOS:
        difference = f"{ours.median - paper:+.2f}"
        tone = "same" if ours.low <= paper <= ours.high else "above" if ours.median > paper else "below"
    return PrintedCell(
        ours=f"{_number(ours.median)} ({_number(ours.low)}-{_number(ours.high)})",
        lines=lines,
        difference=difference,
        tone=tone,
    )


def _csv_row(network: NetworkTimes, row: CadenceRow) -> dict[str, object]:
    """The columns of the paper's file first, then the spread, the paper's values and what was measured on."""
    timing = network.timing
    refresh = timing.refresh if timing and row.interval else None
    return {
        "arch": network.name,
        "method": LABELS[row.method],
        "update_interval": row.interval,
        "updates": row.updates,
        **{name: f"{row.ours[name].median:.4g}" if name in row.ours else "" for name in NUMBERS},
        **{
            f"{name.removeprefix('steady_')}_{end}": f"{getattr(row.ours[name], end):.4g}" if name in row.ours else ""
            for name in NUMBERS
            for end in ("low", "high")
        },
        **{f"paper_{name}": f"{row.paper[name]:.2f}" if name in row.paper else "" for name in NUMBERS},
        **{name: getattr(timing, name, "") for name in ("device", "threads", "batch")},
        **{name: getattr(refresh, name, "") for name in ("divergence", "structure", "inner_steps")},
        "timed_inner_steps": refresh.timed if refresh else "",
        "git_commit": timing.git_commit if timing else "",
    }


def _number(value: float) -> str:
    """Two decimals, none from a thousand on."""
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}"
