"""Figures 5 and 6 from measured times: an epoch by refresh interval, and a refresh by size of the network."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llqr_sam.engine.measurements.rounds import exponent
from llqr_sam.report.figures.drawing import FAINT, INK, WIDTH, Look, NoRecords, look, write_figure
from llqr_sam.studies.table_10.table import LABELS, NAMES, NetworkTimes, Spread, cadence
from llqr_sam.studies.table_10.timing import Timing, read_timings
from llqr_sam.suite.config.command import Command

TABLE = "10"
PAPER_EXPONENTS = 1.27, 1.28  # a refresh's time grows with these powers of the parameter count (paper, section 5)
STEP = Look(FAINT, "-", "x")  # of an SGD step, beside the refreshes
MANTISSAS = (1, 2, 5), (1, 2, 3, 5), (1, 1.5, 2, 3, 5, 7)  # of labelled seconds; the first with enough labels is taken
PAPER_POWER = "P^{:g} to {:g}".format(*PAPER_EXPONENTS)
LABELS_OF_SECONDS = 4  # at least


def figure_05(results: Path, folder: Path) -> list[Path]:
    """Seconds of an epoch against the steps between refreshes, a panel for each measurement.

    Methods without U are horizontal lines.
    """
    table = Command.of(f"table={TABLE}").table
    networks = [network for network in cadence(table, _timings(results)) if network.timing is not None]
    times = table.require_timing()
    figure = Figure(figsize=(WIDTH, 1.2 + 2.6 * len(networks)), layout="constrained")
    panels = figure.subplots(len(networks), sharex=True, squeeze=False)[:, 0]
    for axes, network in zip(panels, networks, strict=True):
        _draw_cadence(axes, network, times.intervals)
    figure.align_ylabels()
    panels[-1].set_xlabel("optimizer steps between refreshes")
    title = f"Seconds of an epoch of {times.steps_per_epoch:,} steps, composed\nbars and bands: lowest to highest round"
    figure.suptitle(title, x=0.01, ha="left")
    handles = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, columnspacing=1.2)
    return [write_figure(figure, folder / "figure_05.png")]


def figure_06(results: Path, folder: Path) -> list[Path]:
    """Seconds of a refresh against the number of parameters, with the fitted power if two sizes were measured.

    A dotted line has the paper's power. It starts at the smallest network measured here, for the paper's seconds come
    from a device and a batch that it does not name.
    """
    timings = _timings(results)
    refreshes: defaultdict[str, dict[int, list[float]]] = defaultdict(dict)  # label -> parameters -> seconds by round
    steps: defaultdict[str, dict[int, list[float]]] = defaultdict(dict)
    for timing in timings:
        place = f"batch {timing.batch}, {timing.device}"
        if refresh := timing.refresh:
            refreshes[f"refresh: {refresh.structure}, {refresh.divergence}, {place}"][timing.parameters] = (
                refresh.seconds
            )
        if step := timing.seconds_of("sgdm"):
            steps[f"SGD step: {place}"][timing.parameters] = step
    if not refreshes:
        raise NoRecords(f"no refresh was measured; python train.py table={TABLE}")
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    axes = figure.add_subplot()
    looks = [look(method) for method in ("llqr_sam", "llqr_f_sam", "fisher_sam", "f_sam", "llqr")]
    for number, (name, found) in enumerate(refreshes.items()):
        _draw_sizes(axes, found, name, looks[number % len(looks)])
    for name, found in steps.items():
        _draw_sizes(axes, found, name, STEP)
    _draw_paper(axes, next(iter(refreshes.values())), max(timing.parameters for timing in timings))
    _logarithmic(axes, {t.parameters: f"{NAMES[t.arch]}\n{t.parameters / 1e6:.1f}M" for t in timings})
    axes.margins(x=0.15)
    axes.set(xlabel="parameters P", ylabel="seconds, median of the rounds")
    figure.suptitle(f"Time of one refresh against parameters\n{_powers(refreshes.values())}", x=0.01, ha="left")
    devices = " and ".join(dict.fromkeys(f"{timing.device} at batch {timing.batch}" for timing in timings))
    note = (
        f"Measured on {devices}, {len({timing.parameters for timing in timings})} sizes. The paper names neither its "
        "device nor its batch, so that its exponent and one fitted through so few sizes here need not agree."
    )
    figure.legend(loc="outside lower left", title=textwrap.fill(note, 72), alignment="left")
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
        how = look(method)
        if rows[0].interval is None:
            axes.axhline(spreads[0].median, color=how.colour, linestyle=how.dash, label=LABELS[method])
            axes.axhspan(spreads[0].low, spreads[0].high, color=how.colour, alpha=0.12, linewidth=0)
        else:
            _draw_spreads(axes, [row.interval or 0 for row in rows], spreads, LABELS[method], how)
    _logarithmic(axes, {interval: str(interval) for interval in intervals})
    timing = network.timing
    assert timing is not None
    of = f"{timing.refresh.structure}, " if timing.refresh else ""
    axes.set(title=f"{network.name}, {of}batch {timing.batch}, {timing.device}", ylabel="seconds")


def _draw_sizes(axes: Axes, found: Mapping[int, Sequence[float]], name: str, how: Look) -> None:
    """Draw seconds by round against the number of parameters, with the fitted power in the legend."""
    if len(found) > 1:
        name += f", P^{_power(found):.2f}"
    _draw_spreads(axes, list(found), [Spread.of(seconds) for seconds in found.values()], name, how)


def _draw_paper(axes: Axes, found: Mapping[int, Sequence[float]], largest: int) -> None:
    """Draw the paper's power from the smallest network's refresh up to ``largest`` parameters."""
    smallest = min(found)
    if smallest == largest:
        return
    start = Spread.of(found[smallest]).median
    end = start * (largest / smallest) ** (sum(PAPER_EXPONENTS) / 2)
    axes.plot([smallest, largest], [start, end], color=INK, linestyle=":", linewidth=1.0)
    place: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "center"}
    axes.annotate(f"slope of the paper, {PAPER_POWER}", (largest, end), (-28, 0), **place)


def _power(found: Mapping[int, Sequence[float]]) -> float:
    """Fitted exponent of the median seconds."""
    return exponent(list(found), [Spread.of(seconds).median for seconds in found.values()])


def _powers(refreshes: Iterable[Mapping[int, Sequence[float]]]) -> str:
    """The exponents measured here, if any could be fitted, and the paper's."""
    fitted = sorted({f"{_power(found):.2f}" for found in refreshes if len(found) > 1})
    here = f"P^{' to '.join(dict.fromkeys((fitted[0], fitted[-1])))} measured here, " if fitted else ""
    return f"{here}{PAPER_POWER} in the paper"


def _draw_spreads(axes: Axes, x: Sequence[float], spreads: Sequence[Spread], name: str, how: Look) -> None:
    medians = [spread.median for spread in spreads]
    bars = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
    (line, *_) = axes.errorbar(x, medians, bars, color=how.colour, fmt=how.marker, linestyle="-", label=name)
    line.set_linestyle(how.dash)


def _logarithmic(axes: Axes, x_ticks: dict[int, str]) -> None:
    """Make both axes logarithmic, with labels in plain numbers."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(x_ticks), list(x_ticks.values()))
    ticks = _ticks(*axes.get_ylim())
    axes.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()


def _ticks(low: float, high: float) -> list[float]:
    """At least ``LABELS_OF_SECONDS`` round numbers between two; equally far apart where the two are close."""
    for mantissas in MANTISSAS:
        ticks = [mantissa * 10.0**power for power in range(-5, 7) for mantissa in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= LABELS_OF_SECONDS:
            return ticks
    spread = MaxNLocator(6, min_n_ticks=LABELS_OF_SECONDS).tick_values(low, high)
    return [float(tick) for tick in spread if low <= tick <= high]
