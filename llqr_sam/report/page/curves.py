"""Curves for the page: for each network two SVG panels, whose lines can be switched on and off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from llqr_sam.report.figures.curves import Curve, by_network, network_name
from llqr_sam.report.figures.drawing import colour

WIDTH, HEIGHT = 460, 300  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44  # margins
INK = "currentColor"  # of the method that is black elsewhere: the page may be dark


@dataclass(frozen=True)
class Panel:
    """Axes and lines."""

    x_label: str
    y_label: str
    x_ticks: Sequence[tuple[float, str]]  # pixel and label
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[str]  # points of a polyline for each method


@dataclass(frozen=True)
class LegendEntry:
    """How a method is named and drawn."""

    name: str
    colour: str
    dashes: str


@dataclass(frozen=True)
class Chart:
    """The curves of a network."""

    title: str
    methods: Sequence[LegendEntry]
    panels: Sequence[Panel]


def charts(curves: Sequence[Curve]) -> list[Chart]:
    """A chart for each network with finished runs: error against epoch, loss against time."""
    return [_chart(of_network) for of_network in by_network(curves)]


def _chart(curves: Sequence[Curve]) -> Chart:
    errors = [(curve.epochs, curve.error.mean(axis=0)) for curve in curves]
    losses = [(curve.seconds.mean(axis=0) / 60, curve.loss.mean(axis=0)) for curve in curves]
    methods = []
    for curve in curves:
        ink = INK if curve.cell.method == "sgdm" else colour(curve.cell.method)
        methods.append(LegendEntry(curve.label, ink, "6 3" if curve.cell.geometry == "newton" else ""))
    panels = _panel(errors, "epoch", curves[0].error_label), _panel(losses, "minutes", "test cross-entropy")
    return Chart(network_name(curves[0].cell), methods, panels)


def _panel(lines: Sequence[tuple[np.ndarray, np.ndarray]], x_label: str, y_label: str) -> Panel:
    """Draw lines of x and y. The first tenth of training, where losses fall steeply, does not stretch the y axis."""
    lines = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in lines]
    late = np.concatenate([y[len(y) // 10 :] for _, y in lines])
    x_high = max(float(x.max()) for x, _ in lines)
    margin = 0.05 * float(np.ptp(late)) or 1.0
    y_low, y_high = float(late.min()) - margin, float(late.max()) + margin

    def x_pixel(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / x_high

    def y_pixel(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_low) / (y_high - y_low)

    points = [" ".join(f"{x_pixel(a):.1f},{y_pixel(b):.1f}" for a, b in zip(x, y, strict=True)) for x, y in lines]
    return Panel(x_label, y_label, _ticks(0.0, x_high, x_pixel), _ticks(y_low, y_high, y_pixel), points)


def _ticks(low: float, high: float, pixel: Callable[[float], float]) -> list[tuple[float, str]]:
    values = map(float, MaxNLocator(5).tick_values(low, high))
    return [(round(pixel(value), 1), f"{value:g}") for value in values if low <= value <= high]
