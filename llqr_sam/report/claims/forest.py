"""The forest plot of the claims: a sentence for each, and below it our interval and the paper's value.

For each scale with runs there are panels of differences, of those under label noise, which are of another size, and of
ratios on a logarithmic axis. A claim's own interval (pooled where it has several rows) has a large marker; its rows, or
the further measures of a ratio, stand below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from llqr_sam.report.claims.claim import FAMILIES, MEASURES
from llqr_sam.report.claims.claims_text import number, where
from llqr_sam.report.claims.evidence import Evidence, Finding, Line, Word
from llqr_sam.report.figures.axis import limits
from llqr_sam.report.figures.drawing import FAINT, INK, PAPER, WIDTH, NoRecords, write_figure
from llqr_sam.report.figures.drawing import TITLE as FONT
from llqr_sam.report.tables.seed_statistics import Interval

LEFT, RIGHT = 0.44, 0.82  # of the panel, as shares of the width: names of rows stand left of it, numbers right
VALUE, COUNT = 0.9, 0.995  # right ends of the numbers
ROW = 0.19  # inches a line
GAP = 0.45  # lines between claims
TITLE, AXIS = 0.55, 0.55  # inches above and below a panel
LEGEND = 0.5  # inches
# Okabe and Ito's colours, and a marker of its own for each word: grey print keeps the markers.
STYLES: dict[Word, tuple[str, str]] = {
    "supported": ("#0072B2", "o"),
    "contradicted": ("#D55E00", "s"),
    "undecided": (FAINT, "^"),
}
UNITS = {"top1": "percentage points", "val_bleu": "BLEU"}  # of differences, by the table's metric
TICKS = (  # of ratios, from fine to coarse; the first that gives few is taken
    (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0),
    (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0),
    (0.01, 0.1, 1.0, 10.0, 100.0),
)


@dataclass(frozen=True)
class Drawn:
    """An interval of the plot."""

    y: float  # in lines from the top
    text: str
    line: Line
    sentence: str  # of the claim, a line above its own interval; empty for its rows

    @property
    def head(self) -> bool:
        """Whether it is the claim's own."""
        return bool(self.sentence)


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
        figure.text(0.008, (edge + 0.28) / total, panel.kind, fontsize=FONT, fontweight="bold")
        figure.text(0.008, (edge + 0.07) / total, panel.place, color=FAINT)
        _draw(axes, panel)
        top = bottom - AXIS
    return write_figure(figure, path)


def _panels(evidence: Evidence) -> Iterator[Panel]:
    for scale in evidence.scales:
        tested = [finding for finding in evidence.at(scale) if finding.headline.word != "not run"]
        for family in FAMILIES:
            if lines := list(_lines([finding for finding in tested if finding.claim.family == family])):
                yield Panel(family, f"at {evidence.details.get(scale.name) or scale.title}", lines)


def _lines(findings: Sequence[Finding]) -> Iterator[Drawn]:
    y = 1.0
    for finding in findings:
        head = finding.headline
        several = len(finding.claim.measures) > 1
        name = (lambda line: MEASURES[line.measure]) if several else _row
        yield Drawn(y, name(head), head, finding.claim.sentence.rstrip("."))
        below = finding.summaries[1:] if several else finding.lines if finding.pooled else ()
        for line in below:
            if line.word != "not run":
                y += 1
                yield Drawn(y, name(line), line, "")
        y += 2 + GAP


def _row(line: Line) -> str:
    return where(line).rpartition(": ")[2].replace(" to ", "-")  # of noise levels


def _draw(axes: Axes, panel: Panel) -> None:
    """A panel: its lines from top to bottom, labels left, words right."""
    lines = panel.lines
    low, high = _limits(lines)
    if panel.ratios:
        axes.set_xscale("log")
    shown = lines[0].line.claim.shown
    axes.set(xlim=(shown(low), shown(high)), ylim=(lines[-1].y + 0.7, -0.7), yticks=[])
    axes.axvline(shown(0.0), color=INK, linewidth=0.9, zorder=1)
    for drawn in lines:
        _draw_line(axes, drawn, Interval(low, high))
    axes.spines["left"].set_visible(False)
    if panel.ratios:
        ticks = _ticks(shown(low), shown(high))
        axes.xaxis.set(major_locator=FixedLocator(ticks), minor_locator=NullLocator(), minor_formatter=NullFormatter())
        axes.set_xticklabels([f"{tick:g}" for tick in ticks])
    else:
        axes.locator_params(axis="x", nbins=6)
    units = {line.line.claim.metric for line in lines}
    axes.set_xlabel("ratio" if panel.ratios else " or ".join(UNITS[unit] for unit in sorted(units)), labelpad=1)


def _ticks(low: float, high: float) -> list[float]:
    for candidates in TICKS:
        ticks = [tick for tick in candidates if low <= tick <= high]
        if 0 < len(ticks) <= 7:
            break
    return ticks


def _limits(lines: Sequence[Drawn]) -> Interval:
    """Limits that hold the bounds, means and paper's values."""
    intervals = [interval for drawn in lines if (interval := drawn.line.effect.best.t_interval())]
    return limits([value for drawn in lines for value in _middles(drawn.line)], intervals)


def _middles(line: Line) -> Iterator[float]:
    mean, paper = line.effect.best.mean, line.effect.paper
    yield line.claim.threshold
    yield from (value for value in (mean, paper) if value is not None)


def _draw_line(axes: Axes, drawn: Drawn, ends: Interval) -> None:
    line, y, shown = drawn.line, drawn.y, drawn.line.claim.shown
    ink, marker = STYLES[line.word]
    interval, mean, paper = line.effect.best.t_interval(), line.effect.best.mean, line.effect.paper
    assert interval is not None
    assert mean is not None
    low, high = max(interval.low, ends.low), min(interval.high, ends.high)
    axes.plot([shown(low), shown(high)], [y, y], color=ink, linewidth=2.2 if drawn.head else 1.3, zorder=2)
    for end, cut, arrow in ((low, interval.low < ends.low, "<"), (high, interval.high > ends.high, ">")):
        if cut:
            axes.plot(shown(end), y, arrow, color=ink, markersize=5, clip_on=False, zorder=2)
    axes.plot(shown(mean), y, marker, color=ink, markersize=7 if drawn.head else 4.5, zorder=3)
    if paper is not None:
        hollow: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": INK, "markersize": 6}
        axes.plot(shown(paper), y, "D", markeredgewidth=1.1, zorder=4, **hollow)
    if line.claim.threshold:
        bound = shown(line.claim.threshold)
        axes.plot([bound, bound], [y - 0.45, y + 0.45], color=INK, linewidth=1, linestyle=(0, (2, 1)), zorder=1)
    place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
    if drawn.head:
        box: dict[str, Any] = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}  # no line crosses the sentence
        axes.text(_across(0.008), y - 1, drawn.sentence, bbox=box, **place)
        axes.text(_across(COUNT), y - 1, line.word, ha="right", fontweight="bold", **place)
    axes.text(_across(0.025), y, drawn.text, color=FAINT, **place)
    ink = INK if drawn.head else FAINT
    axes.text(_across(VALUE), y, number(line.claim, mean), ha="right", color=ink, **place)
    axes.text(_across(COUNT), y, f"n = {line.n}", ha="right", color=FAINT, **place)


def _across(share: float) -> float:
    """A share of the picture's width in a panel's coordinates."""
    return (share - LEFT) / (RIGHT - LEFT)


def _legend(figure: Figure, height: float) -> None:
    """What the markers say, at the top."""
    mark: dict[str, Any] = {"linestyle": "none", "markersize": 7}
    handles = [Line2D([], [], color=ink, marker=marker, label=word, **mark) for word, (ink, marker) in STYLES.items()]
    hollow: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": INK}
    handles.append(Line2D([], [], marker="D", label="the paper's difference", **hollow, **mark))
    handles.append(Line2D([], [], color=FAINT, linewidth=2, label="95 % t interval over seeds"))
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.1}
    figure.legend(handles=handles, ncols=3, handletextpad=0.3, columnspacing=1.2, **place)
