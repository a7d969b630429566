"""Table 10 as a reader sees it: its cells, its CSV file and its section of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import count

from omegaconf import OmegaConf

from llqr_sam.report.page.page import CellSource, Section
from llqr_sam.report.tables.printed_table import PrintedCell, PrintedRow, PrintedTable, RowGroup, csv_text
from llqr_sam.studies.table_10.table import LABELS, NUMBERS, RATIOS, CadenceRow, NetworkTimes
from llqr_sam.suite.config.schema import TableConfig

HEADS = ("Method", "Interval", "Updates", "Epoch, s", "vs. SGD", "vs. SAM", "Update, s")


def times_section(table: TableConfig, networks: Sequence[NetworkTimes]) -> Section:
    """Table 10 on the page; its sources are the measurements."""
    sources = []
    for network in networks:
        if timing := network.timing:
            command = f"python train.py table={table.number} arch={timing.arch} table.timing.batch={timing.batch}"
            config = OmegaConf.to_yaml(OmegaConf.create(asdict(timing)))
            sources.append(CellSource(f"{network.name} on {timing.device}", command, config, what="Measurement"))
    return Section(print_cadence(table, networks), sources)


def print_cadence(table: TableConfig, networks: Sequence[NetworkTimes]) -> PrintedTable:
    """Table 10 with a group for each network. The cells of the n-th measurement have the n-th source of the page."""
    sources = count()
    groups = []
    for network in networks:
        source = next(sources) if network.timing else None
        known = network.timing or any(row.paper for row in network.rows)
        rows = [_printed(row, network, source) for row in network.rows if known]
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


def _printed(row: CadenceRow, network: NetworkTimes, source: int | None) -> PrintedRow:
    counts = [str(row.interval), str(row.updates)] if row.interval else ["-", "-"]
    return PrintedRow([LABELS[row.method], *counts], [_cell(row, name, network, source) for name in NUMBERS])


def _cell(row: CadenceRow, column: str, network: NetworkTimes, source: int | None) -> PrintedCell:
    """Ours over the paper's. Only ratios are compared with the paper's: seconds are of another machine."""
    ours, paper = row.ours.get(column), row.paper.get(column)
    lines = {} if paper is None else {"paper": _number(paper)}
    if ours is None or network.timing is None:
        has_no_refresh = column == "steady_update_seconds" and row.interval is None
        return PrintedCell("-" if has_no_refresh else "not measured", lines)
    difference = tone = ""
    if paper is not None and column in RATIOS:
        difference = f"{ours.median - paper:+.2f}"
        tone = "same" if ours.low <= paper <= ours.high else "above sure" if ours.median > paper else "below sure"
    return PrintedCell(
        ours=f"{_number(ours.median)} ({_number(ours.low)}-{_number(ours.high)})",
        lines=lines,
        difference=difference,
        tone=tone,
        facts=(f"median of {len(network.timing.steps[0].seconds)} rounds, lowest and highest", network.where()),
        source=source,
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
