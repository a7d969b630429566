"""The forest plot of the claims: a line for each claim and row, with our interval and the paper's value.

For each scale with runs there are panels of differences, of those under label noise, which are of another size, and of
ratios on a logarithmic axis. A claim's own line (pooled where it has several rows) has a large marker; its rows, or the
further measures of a ratio, stand below it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from llqr_sam.report.claims.claim import MEASURES, Claim
from llqr_sam.report.claims.claims_text import number, where
from llqr_sam.report.claims.evidence import Evidence, Finding, Line, Word
from llqr_sam.report.figures.drawing import NoRecords, write_figure
from llqr_sam.report.tables.seed_statistics import Interval

WIDTH = 9.0  # inches
LEFT, RIGHT = 0.41, 0.74  # of the panel, as shares of the width: claims stand left of it, words right
ROW = 0.2  # inches a line
GAP = 0.35  # lines between claims
TITLE, AXIS = 0.6, 0.6  # inches above and below a panel
LEGEND = 0.35  # inches
INK, FAINT = "#1b1b1b", "#5b5b5b"
# Okabe and Ito's colours, and a marker of its own for each word: grey print keeps the markers.
STYLES: dict[Word, tuple[str, str]] = {
    "supported": ("#0072B2", "o"),
    "contradicted": ("#D55E00", "s"),
    "undecided": ("#6b6b6b", "^"),
}
UNITS = {"top1": "percentage points", "val_bleu": "BLEU"}  # of differences, by the table's metric
KINDS = ("Difference in test score", "Difference in test score under label noise", "Ratio of measurements")
TICKS = (  # of ratios, from fine to coarse; the first that gives few is taken
    (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0),
    (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0),
    (0.01, 0.1, 1.0, 10.0, 100.0),
)


@dataclass(frozen=True)
class Drawn:
    """A line of the plot."""

    y: float
    text: str
    line: Line
    head: bool  # the claim's own


@dataclass(frozen=True)
class Panel:
    """Claims of one kind at a scale."""

    kind: str
    place: str
    lines: Sequence[Drawn]

    @property
    def ratios(self) -> bool:
        """Whether it is of ratios."""
        return self.lines[0].line.claim.is_ratio

    @property
    def height(self) -> float:
        """In inches, without title and axis."""
        return ROW * (self.lines[-1].y + 1)


def draw_claims(evidence: Evidence, path: Path) -> Path:
    """Draw the claims into the PNG ``path``; raises ``NoRecords`` if no claim has been tested."""
    panels = list(_panels(evidence))
    if not panels:
        raise NoRecords("no claim has two finished seeds of both its methods; python train.py table=2")
    total = sum(TITLE + panel.height + AXIS for panel in panels) + LEGEND
    figure = Figure(figsize=(WIDTH, total))
    _legend(figure, total)
    top = total - LEGEND
    for panel in panels:
        bottom = top - TITLE - panel.height
        axes = figure.add_axes((LEFT, bottom / total, RIGHT - LEFT, panel.height / total))
        edge = bottom + panel.height
        figure.text(0.008, (edge + 0.31) / total, panel.kind, fontsize=10.5, fontweight="bold", color=INK)
        figure.text(0.008, (edge + 0.12) / total, panel.place, fontsize=9, color=FAINT)
        _draw(axes, panel)
        top = bottom - AXIS
    return write_figure(figure, path)


def _panels(evidence: Evidence) -> Iterator[Panel]:
    for scale in evidence.scales:
        tested = [finding for finding in evidence.at(scale) if finding.headline.word != "not run"]
        for kind in KINDS:
            if lines := list(_lines([finding for finding in tested if _kind(finding.claim) == kind])):
                yield Panel(kind, f"at {evidence.details.get(scale.name) or scale.title}", lines)


def _kind(claim: Claim) -> str:
    """One of ``KINDS``."""
    plain, noisy, ratio = KINDS
    if claim.is_ratio:
        return ratio
    return noisy if claim.noisy or claim.kind == "growth" else plain


def _lines(findings: Sequence[Finding]) -> Iterator[Drawn]:
    y = 0.0
    for finding in findings:
        head = finding.headline
        yield Drawn(y, finding.claim.sentence.rstrip("."), head, True)
        several = len(finding.claim.measures) > 1
        below = finding.summaries[1:] if several else finding.lines if finding.pooled else ()
        for line in below:
            if line.word != "not run":
                y += 1
                yield Drawn(y, MEASURES[line.measure] if several else _row(line), line, False)
        y += 1 + GAP


def _row(line: Line) -> str:
    return where(line).rpartition(": ")[2]


def _draw(axes: Axes, panel: Panel) -> None:
    """A panel: its lines from top to bottom, labels left, words right."""
    lines = panel.lines
    low, high = _limits(lines)
    if panel.ratios:
        axes.set_xscale("log")
    shown = lines[0].line.claim.shown
    axes.set(xlim=(shown(low), shown(high)), ylim=(lines[-1].y + 0.7, -0.7), yticks=[])
    axes.axvline(shown(0.0), color=INK, linewidth=1, zorder=1)
    for drawn in lines:
        _draw_line(axes, drawn, Interval(low, high))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(labelsize=8.5)
    if panel.ratios:
        ticks = _ticks(shown(low), shown(high))
        axes.xaxis.set(major_locator=FixedLocator(ticks), minor_locator=NullLocator(), minor_formatter=NullFormatter())
        axes.set_xticklabels([f"{tick:g}" for tick in ticks])
    units = {line.line.claim.metric for line in lines}
    axes.set_xlabel("ratio" if panel.ratios else " or ".join(UNITS[unit] for unit in sorted(units)), fontsize=8.5)


def _ticks(low: float, high: float) -> list[float]:
    for candidates in TICKS:
        ticks = [tick for tick in candidates if low <= tick <= high]
        if 0 < len(ticks) <= 7:
            break
    return ticks


def _limits(lines: Sequence[Drawn]) -> tuple[float, float]:
    """Limits that hold the bounds, means and paper's values; an interval widens them by half of that at most."""
    middles = [0.0, *(value for drawn in lines for value in _middles(drawn.line))]
    low, high = min(middles), max(middles)
    reach = (high - low) / 2 or math.inf
    ends = np.array([drawn.line.effect.best.t_interval() for drawn in lines], float)
    low = min(low, max(float(ends.min()), low - reach))
    high = max(high, min(float(ends.max()), high + reach))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _middles(line: Line) -> Iterator[float]:
    mean, paper = line.effect.best.mean, line.effect.paper
    yield line.claim.threshold
    yield from (value for value in (mean, paper) if value is not None)


def _draw_line(axes: Axes, drawn: Drawn, limits: Interval) -> None:
    line, y, shown = drawn.line, drawn.y, drawn.line.claim.shown
    ink, marker = STYLES[line.word]
    interval, mean, paper = line.effect.best.t_interval(), line.effect.best.mean, line.effect.paper
    assert interval is not None
    assert mean is not None
    low, high = max(interval.low, limits.low), min(interval.high, limits.high)
    axes.plot([shown(low), shown(high)], [y, y], color=ink, linewidth=2.2 if drawn.head else 1.3, zorder=2)
    for end, cut, arrow in ((low, interval.low < limits.low, "<"), (high, interval.high > limits.high, ">")):
        if cut:
            axes.plot(shown(end), y, arrow, color=ink, markersize=5, clip_on=False, zorder=2)
    axes.plot(shown(mean), y, marker, color=ink, markersize=7 if drawn.head else 4.5, zorder=3)
    if paper is not None:
        hollow: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": INK, "markersize": 6}
        axes.plot(shown(paper), y, "D", markeredgewidth=1.1, zorder=4, **hollow)
    if line.claim.threshold:
        bound = shown(line.claim.threshold)
        axes.plot([bound, bound], [y - 0.45, y + 0.45], color=INK, linewidth=1, linestyle=(0, (2, 1)), zorder=1)
    place = axes.get_yaxis_transform()
    size, weight = (9.0, "bold") if drawn.head else (8.5, "normal")
    text: dict[str, Any] = {"transform": place, "fontsize": size, "va": "center"}
    indent = 0.01 if drawn.head else 0.035
    left = -LEFT / (RIGHT - LEFT) + indent / (RIGHT - LEFT)
    axes.text(left, y, drawn.text, color=INK if drawn.head else FAINT, **text)
    value = number(line.claim, mean)
    axes.text(1.15, y, value, ha="right", color=INK if drawn.head else FAINT, **text)
    axes.text(1.19, y, line.word, color=ink, fontweight=weight, **text)
    axes.text(1.77, y, f"n = {line.n}", ha="right", color=FAINT, **text)


def _legend(figure: Figure, height: float) -> None:
    """What the markers say, at the top."""
    mark: dict[str, Any] = {"linestyle": "none", "markersize": 7}
    handles = [Line2D([], [], color=ink, marker=marker, label=word, **mark) for word, (ink, marker) in STYLES.items()]
    hollow: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": INK}
    handles.append(Line2D([], [], marker="D", label="the paper's difference", **hollow, **mark))
    handles.append(Line2D([], [], color=FAINT, linewidth=2, label="95 % t interval over seeds"))
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.0, 1.0 - 0.05 / height), "frameon": False}
    figure.legend(handles=handles, ncols=len(handles), fontsize=8.5, handletextpad=0.3, columnspacing=1.2, **place)
