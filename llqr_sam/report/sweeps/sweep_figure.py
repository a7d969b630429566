"""The picture of a sweep: the best score against one setting, a line for each combination of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from llqr_sam.report.figures.drawing import LOOKS, WIDTH, looks
from llqr_sam.report.sweeps.sweep import NONE, Point, Sweep, number
from llqr_sam.report.sweeps.sweep_text import SCORES, network_title
from llqr_sam.suite.plan.labels import IDENTITY, NETWORK

DECADE = 10.0  # an axis whose values spread over more is logarithmic
CYCLE = [each for method, each in LOOKS.items() if method not in ("sgdm", "adamw")]
FITTING = 50  # letters of the names that fit below a picture side by side
BESIDE = 0.01  # distance of two lines' intervals at one value, as a share of the axis


def draw_sweep(sweep: Sweep, over: str) -> Figure:
    """Draw the mean best score against the setting ``over``, with its 95 % t interval over seeds.

    Values that are not all numbers stand side by side, in the order of the points.
    """
    lines = {key: [p for p in points if p.best.values] for key, points in sweep.series([over]).items()}
    lines = {key: points for key, points in lines.items() if points}
    points = [point for line in lines.values() for point in line]
    values = [number(point, over) for point in points]
    numeric = over != "optim.name" and all(value is not None for value in values)
    places = {name: place for place, name in enumerate(dict.fromkeys(point.named(over) for point in points))}
    figure = Figure(figsize=(WIDTH, 4.2 + 0.2 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    names = _names(list(lines.values()), over)
    methods = [line[0].settings["optim.name"] for line in lines.values()]
    own = over != "optim.name" and len(set(methods)) == len(methods)
    shown = sorted({value for value in values if value is not None}) if numeric else sorted(places.values())
    logarithmic = numeric and shown[0] > 0 and shown[-1] / shown[0] > DECADE
    found = looks(methods)
    for index, line in enumerate(lines.values()):
        at = [(number(point, over) or 0.0) if numeric else places[point.named(over)] for point in line]
        aside = BESIDE * (index - (len(lines) - 1) / 2)  # so that intervals stand side by side
        x = [v * (shown[-1] / shown[0]) ** aside if logarithmic else v + aside * (shown[-1] - shown[0]) for v in at]
        means = [point.best.mean or 0.0 for point in line]
        ink, dash, marker = found[methods[index]] if own else CYCLE[index % len(CYCLE)]
        (drawn, *_) = axes.errorbar(x, means, yerr=_reach(line), fmt=marker, color=ink, label=names[index])
        drawn.set_linestyle(dash if numeric else "none")
    if numeric:
        if logarithmic:
            axes.set_xscale("log")
        if len(shown) <= 8:
            axes.set_xticks(shown, [f"{value:g}" for value in shown], minor=False)
            axes.minorticks_off()
    else:
        slanted: dict[str, Any] = {"rotation": 30, "ha": "right"} if sum(map(len, places)) > FITTING else {}
        axes.set_xticks(list(places.values()), list(places), **slanted)
        axes.margins(x=0.1)
    networks = list(dict.fromkeys(map(network_title, points)))
    title = f"{networks[0]}: " if len(networks) == 1 else ""
    sole = f", {names[0]}" if len(lines) == 1 and names[0] else ""
    figure.suptitle(f"{title}mean over seeds and 95 % interval{sole}", x=0.01, ha="left", wrap=True)
    axes.set(xlabel=over, ylabel=f"best {_unit(sweep)}")
    if len(lines) > 1:
        figure.legend(loc="outside lower center", ncols=1 + (max(map(len, names)) < 28))
    return figure


def main_setting(sweep: Sweep) -> str:
    """The setting that a picture is drawn over: the number with the most values, else what differs first."""
    counts = {
        key: len({number(point, key) for point in sweep.points})
        for key in sweep.varied
        if any(number(point, key) is not None for point in sweep.points)
    }
    return max(counts, key=lambda key: counts[key]) if counts else next(iter([*sweep.varied, "optim.name"]))


def _names(lines: Sequence[Sequence[Point]], over: str) -> list[str]:
    """What tells the lines apart; of a single one the method."""
    firsts = [line[0] for line in lines]
    keys = [key for key in firsts[0].values if key not in ("optim.name", "optim.divergence", over)] if firsts else []
    differing = [key for key in keys if len({point.named(key) for point in firsts}) > 1]
    names = []
    for point in firsts:
        words = [point.named(key) for key in NETWORK if key in differing]
        words += [point.named("optim.name")] * (over != "optim.name")
        words += [
            f"{key.rpartition('.')[2]}={point.named(key)}"
            for key in differing
            if key not in IDENTITY and point.named(key) != NONE
        ]
        names.append(" ".join(words))
    return names


def _reach(line: Sequence[Point]) -> list[list[float]]:
    """How far the intervals reach below and above the means; 0 for a single seed."""
    intervals = [(point.best.mean or 0.0, point.best.t_interval()) for point in line]
    ends = [(mean - each.low, each.high - mean) if each else (0.0, 0.0) for mean, each in intervals]
    return [[low for low, _ in ends], [high for _, high in ends]]


def _unit(sweep: Sweep) -> str:
    return " or ".join(SCORES[unit] for unit in sweep.unit.split(" or "))
