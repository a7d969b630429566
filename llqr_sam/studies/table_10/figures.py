"""Figures 5 and 6 from measured times: an epoch by refresh interval, and a refresh by size of the network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llqr_sam.engine.measurements.rounds import exponent
from llqr_sam.report.figures.drawing import NoRecords, colour, label, tidy, write_figure
from llqr_sam.studies.table_10.table import LABELS, NAMES, NetworkTimes, Spread, cadence
from llqr_sam.studies.table_10.timing import Timing, read_timings
from llqr_sam.suite.config.command import Command

TABLE = "10"
PAPER_EXPONENT = "1.27 to 1.28"  # a refresh's time grows with this power of the parameter count (paper, section 5)
MARKERS = "os^Dv"


def figure_05(results: Path, folder: Path) -> list[Path]:
    """Seconds of an epoch against the steps between refreshes, a panel for each measurement.

    Methods without U are horizontal lines.
    """
    table = Command.of(f"table={TABLE}").table
    networks = [network for network in cadence(table, _timings(results)) if network.timing is not None]
    columns, times = min(2, len(networks)), table.require_timing()
    rows = -(-len(networks) // columns)
    figure = Figure(figsize=(6.4 * columns, 0.5 + 4.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, network in zip_longest(panels, networks):
        if network is None:
            axes.remove()
        else:
            _draw_cadence(axes, network, times.intervals)
    figure.suptitle(f"Epochs of {times.steps_per_epoch:,} steps, composed; bars: lowest to highest round", fontsize=11)
    return [write_figure(figure, folder / "figure_05.png")]


def figure_06(results: Path, folder: Path) -> list[Path]:
    """Seconds of a refresh against the number of parameters, with the fitted power if two sizes were measured."""
    timings = _timings(results)
    refreshes: defaultdict[str, list[tuple[int, list[float]]]] = defaultdict(list)  # label -> parameters, seconds
    steps: defaultdict[str, dict[int, list[float]]] = defaultdict(dict)  # one for each size
    for timing in timings:
        place = f"batch {timing.batch}, {timing.device}"
        if refresh := timing.refresh:
            name = f"refresh: {refresh.structure}, {refresh.divergence}, {place}"
            refreshes[name].append((timing.parameters, refresh.seconds))
        if step := timing.seconds_of("sgdm"):
            steps[f"SGD step: {place}"][timing.parameters] = step
    if not refreshes:
        raise NoRecords(f"no refresh was measured; python train.py table={TABLE}")
    figure = Figure(figsize=(8.6, 5.6), layout="constrained")
    axes = figure.add_subplot()
    inks = [colour(method) for method in ("llqr_sam", "llqr_f_sam", "fisher_sam", "f_sam", "llqr")]
    for number, (name, found) in enumerate(refreshes.items()):
        _draw_sizes(axes, found, name, inks[number % len(inks)], MARKERS[number % len(MARKERS)])
    for name, by_size in steps.items():
        _draw_sizes(axes, list(by_size.items()), name, "#555555", "x")
    _logarithmic(axes, {t.parameters: f"{NAMES[t.arch]}\n{t.parameters / 1e6:.1f}M" for t in timings})
    axes.margins(x=0.15)
    title = f"Time of one refresh; the paper fits a power of {PAPER_EXPONENT}"
    label(axes, title, xlabel="parameters P", ylabel="seconds, median of the rounds")
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
        ink, name = colour(method), LABELS[method]
        if rows[0].interval is None:
            style = ":" if method == "adamw" else "--"  # often on top of SGD's line
            axes.axhline(spreads[0].median, color=ink, linestyle=style, linewidth=1.8, label=name)
            axes.axhspan(spreads[0].low, spreads[0].high, color=ink, alpha=0.12, linewidth=0)
        else:
            _draw_spreads(axes, [row.interval or 0 for row in rows], spreads, name, ink, "o")
    _logarithmic(axes, {interval: str(interval) for interval in intervals})
    timing = network.timing
    assert timing is not None
    of = f"{timing.refresh.structure}, " if timing.refresh else ""
    title = f"{network.name}, {of}batch {timing.batch}, {timing.device}"
    label(axes, title, 10.5, xlabel="optimizer steps between refreshes", ylabel="seconds an epoch")
    tidy(axes)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False, fontsize=9, ncols=5)


def _draw_sizes(axes: Axes, found: Sequence[tuple[int, list[float]]], name: str, ink: str, marker: str) -> None:
    """Draw seconds by round against the number of parameters, with the fitted power in the legend."""
    sizes, spreads = [size for size, _ in found], [Spread.of(seconds) for _, seconds in found]
    if len(set(sizes)) > 1:
        name += f", grows with P^{exponent(sizes, [spread.median for spread in spreads]):.2f}"
    _draw_spreads(axes, sizes, spreads, name, ink, marker)


def _draw_spreads(axes: Axes, x: Sequence[float], spreads: Sequence[Spread], name: str, ink: str, marker: str) -> None:
    medians = [spread.median for spread in spreads]
    bars = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
    axes.errorbar(x, medians, bars, color=ink, marker=marker, markersize=5, linewidth=1.6, capsize=3, label=name)


def _logarithmic(axes: Axes, x_ticks: dict[int, str]) -> None:
    """Make both axes logarithmic; label y at 1, 2, 3 and 5 times the powers of ten, in plain numbers."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(x_ticks), list(x_ticks.values()))
    axes.minorticks_off()
    low, high = axes.get_ylim()
    ticks = [mantissa * 10.0**power for power in range(-5, 7) for mantissa in (1, 2, 3, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])
