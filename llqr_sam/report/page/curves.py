"""Curves for the page: SVG whose lines can be switched on and off, two panels a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from llqr_sam.report.figures.curves import AXES, Curve, network_name
from llqr_sam.report.figures.drawing import colour
from llqr_sam.report.tables.paper_numbers import method_label

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44
INK = "currentColor"  # of the method whose line is black on white


@dataclass(frozen=True)
class Line:
    """A curve in a panel, as points of an SVG polyline."""

    key: int
    points: str


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    place: float
    text: str


@dataclass(frozen=True)
class Panel:
    """Axes and lines."""

    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Method:
    """An entry of the legend."""

    key: int
    name: str
    colour: str
    dashes: str


@dataclass(frozen=True)
class Chart:
    """A network's curves."""

    title: str
    methods: tuple[Method, ...]
    panels: tuple[Panel, ...]


def charts(curves: Sequence[Curve], metric: str) -> list[Chart]:
    """A chart for each network of a table that has finished runs."""
    networks = dict.fromkeys(curve.network for curve in curves)
    return [_chart([curve for curve in curves if curve.network == network], metric) for network in networks]


def _chart(curves: Sequence[Curve], metric: str) -> Chart:
    panels = (
        _panel(curves, lambda c: c.epochs, lambda c: c.shown(metric), "epoch", AXES[metric]),
        _panel(curves, lambda c: c.seconds.mean(axis=0) / 60, lambda c: c.loss, "minutes", "test cross-entropy"),
    )
    methods = tuple(
        Method(
            key=key,
            name=f"{method_label(curve.cell)}, n = {len(curve.score)}",
            colour=INK if curve.cell.method == "sgdm" else colour(curve.cell.method),
            dashes="6 3" if curve.cell.geometry == "newton" else "",
        )
        for key, curve in enumerate(curves)
    )
    return Chart(network_name(curves[0].cell), methods, panels)


def _panel(
    curves: Sequence[Curve],
    x_of: Callable[[Curve], np.ndarray],
    y_of: Callable[[Curve], np.ndarray],
    x_label: str,
    y_label: str,
) -> Panel:
    """Means over the seeds; the first tenth of training, where losses fall steeply, does not stretch the axis."""
    lines = []
    for curve in curves:
        mean = y_of(curve).mean(axis=0)
        known = np.isfinite(mean)
        lines.append((x_of(curve)[known], mean[known]))
    late = np.concatenate([y[len(y) // 10 :] for _, y in lines])
    x_low, x_high = 0.0, max(float(x.max()) for x, _ in lines)
    margin = 0.05 * float(np.ptp(late)) or 1.0
    y_low, y_high = float(late.min()) - margin, float(late.max()) + margin

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / (x_high - x_low)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_low) / (y_high - y_low)

    drawn = (
        Line(key, " ".join(f"{across(float(a)):.1f},{up(float(b)):.1f}" for a, b in zip(x, y, strict=True)))
        for key, (x, y) in enumerate(lines)
    )
    return Panel(x_label, y_label, _ticks(x_low, x_high, across), _ticks(y_low, y_high, up), tuple(drawn))


def _ticks(low: float, high: float, place: Callable[[float], float]) -> tuple[Tick, ...]:
    values = [float(value) for value in MaxNLocator(5).tick_values(low, high)]
    return tuple(Tick(round(place(value), 1), f"{value:g}") for value in values if low <= value <= high)
