"""Figures 5 and 6 from measured times: an epoch by refresh interval, and a refresh by size of the network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llqr_sam.engine.measurements.rounds import exponent
from llqr_sam.report.figures.drawing import NoRecords, colour, tidy, write_figure
from llqr_sam.studies.table_10.table import LABELS, NAMES, NetworkTimes, Spread, cadence
from llqr_sam.studies.table_10.timing import Timing, read_timings
from llqr_sam.suite.config.command import Command

TABLE = "10"
PAPER_EXPONENT = "1.27 to 1.28"  # a refresh's time grows with this power of the parameter count (paper, section 5)
MARKERS = "os^Dv"


def figure_05(results: Path, folder: Path) -> list[Path]:
    """Seconds of an epoch against the steps between refreshes, a panel for each measurement.

    Methods without U are horizontal lines.

    Raises:
        NoRecords: nothing was measured.
    """
    table = Command.of(f"table={TABLE}").table
    networks = [network for network in cadence(table, _timings(results)) if network.timing is not None]
    columns = min(2, len(networks))
    rows = -(-len(networks) // columns)
    figure = Figure(figsize=(6.4 * columns, 0.5 + 4.4 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, network in zip(panels, networks, strict=False):
        _draw_cadence(axes, network, list(table.require_timing().intervals))
    for axes in panels[len(networks) :]:
        axes.remove()
    steps = f"{table.require_timing().steps_per_epoch:,} steps"
    figure.suptitle(f"Epochs of {steps}, composed; bars: lowest to highest round", fontsize=11)
    return [write_figure(figure, folder / "figure_05.png")]


def figure_06(results: Path, folder: Path) -> list[Path]:
    """Seconds of a refresh against the number of parameters, with the fitted power if two sizes were measured.

    Raises:
        NoRecords: nothing was measured.
    """
    groups: defaultdict[tuple[str, ...], list[Timing]] = defaultdict(list)
    for timing in _timings(results):
        if timing.refresh is not None and timing.measurable:
            what = (timing.refresh.structure, timing.refresh.divergence, f"batch {timing.batch}", timing.device)
            groups[what].append(timing)
    if not groups:
        raise NoRecords(f"no refresh was measured whole or can be composed; python train.py table={TABLE}")
    figure = Figure(figsize=(8.6, 5.6), layout="constrained")
    axes = figure.add_subplot()
    inks = [colour(method) for method in ("llqr_sam", "llqr_f_sam", "fisher_sam", "f_sam", "llqr")]
    for number, (names, timings) in enumerate(groups.items()):
        refreshes = [Spread.of(t.refresh.seconds) for t in timings if t.refresh and t.refresh.seconds]
        ink, marker = inks[number % len(inks)], MARKERS[number % len(MARKERS)]
        _draw_sizes(axes, timings, refreshes, f"refresh: {', '.join(names)}", ink, marker)
    for batch, device in dict.fromkeys((timing.batch, timing.device) for timing in _timings(results)):
        here = {t.arch: t for t in _timings(results) if (t.batch, t.device) == (batch, device) and t.of("sgdm")}
        steps = [Spread.of(step.seconds) for timing in here.values() if (step := timing.of("sgdm"))]
        _draw_sizes(axes, list(here.values()), steps, f"SGD step: batch {batch}, {device}", "#555555", "x")
    named = {timing.parameters: NAMES[timing.arch] for timing in _timings(results)}
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(named), [f"{name}\n{size / 1e6:.1f}M" for size, name in named.items()])
    axes.minorticks_off()
    _plain_ticks(axes)
    axes.set(xlabel="parameters P", ylabel="seconds, median of the rounds")
    axes.margins(x=0.15)
    axes.set_title(f"Time of one refresh; the paper fits a power of {PAPER_EXPONENT}", loc="left", fontsize=11)
    tidy(axes)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=9)
    return [write_figure(figure, folder / "figure_06.png")]


def _timings(results: Path) -> list[Timing]:
    timings, _ = read_timings(results)
    if not timings:
        raise NoRecords(f"nothing was measured; python train.py table={TABLE}")
    return timings


def _draw_cadence(axes: Axes, network: NetworkTimes, intervals: Sequence[int]) -> None:
    for method in dict.fromkeys(row.method for row in network.rows):
        rows = [row for row in network.rows if row.method == method and "epoch_seconds" in row.ours]
        spreads = [row.ours["epoch_seconds"] for row in rows]
        if not rows:
            continue
        ink, label = colour(method), LABELS[method]
        if rows[0].interval is None:
            style = ":" if method == "adamw" else "--"  # often on top of SGD's line
            axes.axhline(spreads[0].median, color=ink, linestyle=style, linewidth=1.8, label=label)
            axes.axhspan(spreads[0].low, spreads[0].high, color=ink, alpha=0.12, linewidth=0)
            continue
        places = [row.interval or 0 for row in rows]
        _draw_spreads(axes, places, spreads, label, ink, "o")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(intervals, [str(interval) for interval in intervals])
    axes.minorticks_off()
    _plain_ticks(axes)
    axes.set(xlabel="optimizer steps between refreshes", ylabel="seconds an epoch")
    timing = network.timing
    assert timing is not None
    of = f"{timing.refresh.structure}, " if timing.refresh else ""
    axes.set_title(f"{network.name}, {of}batch {timing.batch}, {timing.device}", loc="left", fontsize=10.5)
    tidy(axes)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False, fontsize=9, ncols=5)


def _draw_sizes(
    axes: Axes, timings: Sequence[Timing], spreads: Sequence[Spread], label: str, ink: str, marker: str
) -> None:
    sizes = [timing.parameters for timing in timings]
    if len(set(sizes)) > 1:
        label += f", grows with P^{exponent(sizes, [spread.median for spread in spreads]):.2f}"
    _draw_spreads(axes, sizes, spreads, label, ink, marker)


def _draw_spreads(
    axes: Axes, places: Sequence[float], spreads: Sequence[Spread], label: str, ink: str, marker: str
) -> None:
    medians = [spread.median for spread in spreads]
    bars = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
    axes.errorbar(places, medians, bars, color=ink, marker=marker, markersize=5, linewidth=1.6, capsize=3, label=label)


def _plain_ticks(axes: Axes) -> None:
    """Label a logarithmic axis at 1, 2, 3 and 5 times the powers of ten, in plain numbers."""
    low, high = axes.get_ylim()
    ticks = [mantissa * 10.0**power for power in range(-5, 7) for mantissa in (1, 2, 3, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])
