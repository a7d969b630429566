"""Training curves from records: the demo's picture, and Figures 1 and 4.

A line is the mean over the seeds of a cell; the band around it reaches from the lowest seed to the highest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from llqr_sam.engine.records.record import Record
from llqr_sam.report.figures.drawing import FAINT, INK, PAPER, TEXT, WIDTH, Look, NoRecords, looks, write_figure
from llqr_sam.report.tables.accuracy_table import AccuracyTable, CellResult, collect
from llqr_sam.report.tables.labels import arch_label, dataset_label, method_label
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import Cell

TABLES = {"1": ("5", "2", "3"), "4": ("6",)}  # figure -> tables; the paper's Figure 1 shows Table 5 alone
SCORES = {"%": "test accuracy, %", "BLEU": "validation BLEU"}  # by unit
BAND = 0.18  # opacity
MARKED = 5  # points of a line that have its marker


@dataclass(frozen=True)
class Curve:
    """The finished runs of a cell. NaN stands where an evaluation has no score."""

    cell: Cell
    unit: str  # of the score: % or BLEU
    epochs: np.ndarray  # [evaluations], epochs finished before each
    score: np.ndarray  # [seeds, evaluations]
    loss: np.ndarray  # [seeds, evaluations], test loss
    seconds: np.ndarray  # [seeds, evaluations], since the start of the run

    @property
    def best(self) -> float:
        """The table's value: the mean over seeds of each one's best."""
        return float(np.nanmax(self.score, axis=1).mean())

    @property
    def summary(self) -> str:
        """``95.50 ± 0.55``: mean and sample standard deviation of the seeds' best; of one seed its best alone."""
        best = np.nanmax(self.score, axis=1)
        return f"{self.best:.2f}" + (f" ± {best.std(ddof=1):.2f}" if len(best) > 1 else "")

    @property
    def label(self) -> str:
        """The method and its number of seeds."""
        return f"{method_label(self.cell)}, n = {len(self.score)}"


@dataclass(frozen=True)
class Row:
    """The curves of a network."""

    title: str
    curves: Sequence[Curve]
    baseline: Curve | None  # the one that the others are compared with


def curves_of(cells: Iterable[CellResult]) -> list[Curve]:
    """Curves of the cells with finished runs, in their order; each as long as its shortest run."""
    curves = []
    for result in cells:
        if runs := [record for record in result.finished.values() if record.metrics.curve]:
            numbers = (_stack(runs, name) for name in ("score", "test_loss", "seconds"))
            curves.append(Curve(result.cell, runs[0].metrics.curve[0].unit, _stack(runs, "epoch")[0], *numbers))
    return curves


def rows_of(table: AccuracyTable) -> list[Row]:
    """The rows of a table that have finished runs."""
    place = f"Table {table.config.number}" if table.config.number.isdigit() else table.config.title
    rows = []
    for curves in filter(None, map(curves_of, table.rows)):
        baseline = next((curve for curve in curves if curve.cell.method == table.config.baseline), None)
        rows.append(Row(f"{network_name(curves[0].cell)}\n{place}{_seeds(curves)}", curves, baseline))
    return rows


def draw_curves(table: AccuracyTable, path: Path) -> bool:
    """Draw a table's finished runs, all of one data set, into ``path``; returns whether there are any.

    Each method has a panel, titled with the mean and the sample standard deviation of its seeds' best scores; behind it
    is the mean of the table's baseline on the same network.
    """
    pairs = [(curve, row.baseline) for row in rows_of(table) for curve in row.curves]
    if not pairs:
        return False
    curves = [curve for curve, _ in pairs]
    found = looks(curve.cell.method for curve in curves)
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(WIDTH, 1.4 + 1.7 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (curve, baseline) in zip(panels, pairs, strict=False):
        if baseline is not None and baseline is not curve:
            axes.plot(baseline.epochs, baseline.score.mean(axis=0), color=FAINT, linewidth=1.2)
        _line(axes, curve, found[curve.cell.method], curve.epochs, curve.score)
        axes.set_title(f"{method_label(curve.cell)}  {curve.summary}")
        axes.xaxis.set_tick_params(labelbottom=True)
        if len({len(each.score) for each in curves}) > 1:
            axes.text(0.97, 0.06, f"n = {len(curve.score)}", transform=axes.transAxes, ha="right")
    panels[0].set(xlim=(min(c.epochs[0] for c in curves), max(c.epochs[-1] for c in curves)), ylim=_limits(curves))
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    score = SCORES[curves[0].unit]
    title = f"{table.config.title}{_seeds(curves)}\nbest {score}: mean ± standard deviation over seeds"
    figure.suptitle(title, x=0.01, ha="left")
    figure.supxlabel("epoch", fontsize=TEXT)
    figure.supylabel(score, fontsize=TEXT)
    _explain(figure, list(panels[len(pairs) :]), next((baseline for _, baseline in pairs if baseline), None))
    write_figure(figure, path)
    return True


def draw_convergence(number: str, results: Path, folder: Path, words: Sequence[str] = ()) -> list[Path]:
    """Figure 1 or 4: for each network the score against epochs and against time, and below it the loss against time.

    The paper shows error against epochs and loss against time; the panel between says what equal time gives. The
    baseline and the best of the others have bands.

    ``words`` are as for train.py; ``table=`` draws another table's records. Raises ``NoRecords`` if no run is finished.
    """
    named = [word.removeprefix("table=") for word in words if word.startswith("table=")]
    tables = named[-1:] or TABLES[number]
    rows: list[Row] = []
    for chosen in ([*words, f"table={table}"] for table in tables):
        rows += rows_of(collect(Command.of(*chosen, f"paths.results={results}"))[1])
    if not rows:
        raise NoRecords(f"no run of table {' or '.join(tables)} is finished; python train.py table={tables[0]}")
    figure = Figure(figsize=(WIDTH, 1.5 + 4.8 * len(rows)), layout="constrained")
    grid = figure.add_gridspec(2 * len(rows), 2, height_ratios=[2.6, 2.2] * len(rows))
    for top, row in zip(range(0, 2 * len(rows), 2), rows, strict=True):
        by_epoch = figure.add_subplot(grid[top, 0])
        by_time = figure.add_subplot(grid[top, 1], sharey=by_epoch)
        _draw_row(by_epoch, by_time, figure.add_subplot(grid[top + 1, :]), row)
    handles = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    figure.legend(handles=handles.values(), loc="outside lower center", ncols=2, title="bands: lowest to highest seed")
    return [write_figure(figure, folder / f"figure_{int(number):02d}.png")]


def network_name(cell: Cell) -> str:
    """``ResNet-18 on CIFAR-100, 20 % label noise``."""
    noise = f", {100 * cell.label_noise:g} % label noise" if cell.label_noise else ""
    return f"{arch_label(cell.arch)} on {dataset_label(cell.dataset)}{noise}"


def _draw_row(by_epoch: Axes, by_time: Axes, loss_by_time: Axes, row: Row) -> None:
    """Draw a network's curves in three panels."""
    hours = max(float(curve.seconds.max()) for curve in row.curves) > 2 * 3600
    unit, name = (3600, "hours") if hours else (60, "minutes")
    found = looks(curve.cell.method for curve in row.curves)
    others = [curve for curve in row.curves if curve is not row.baseline]
    best = max(others, key=lambda curve: curve.best, default=None)
    for curve in row.curves:
        strong = curve is row.baseline or curve is best
        how, elapsed = found[curve.cell.method], curve.seconds.mean(axis=0) / unit
        _line(by_epoch, curve, how, curve.epochs, curve.score, strong=strong)
        _line(by_time, curve, how, elapsed, curve.score, strong=strong)
        _line(loss_by_time, curve, how, elapsed, curve.loss, strong=strong)
    first, score = min(curve.epochs[0] for curve in row.curves), SCORES[row.curves[0].unit]
    by_epoch.set_title(row.title).set_in_layout(False)  # it may be wider than the panel
    by_time.set_title("\n ")  # keeps its height
    by_epoch.set(xlabel="epoch", ylabel=score, xlim=(first, None), ylim=_limits(row.curves))
    by_epoch.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    by_time.set(xlabel=f"{name} of training", xlim=(0, None))
    loss_by_time.set(xlabel=f"{name} of training, mean over seeds", ylabel="test loss", xlim=(0, None))


def _explain(figure: Figure, spare: Sequence[Axes], baseline: Curve | None) -> None:
    """What lines and bands are: in the place of a panel if one is free, else below."""
    handles: list[Artist] = [
        Line2D([], [], color=INK, label="mean over seeds"),
        Patch(facecolor=INK, alpha=BAND, label="lowest to highest seed"),
    ]
    if baseline is not None:
        name = method_label(baseline.cell)
        handles.append(Line2D([], [], color=FAINT, linewidth=1.2, label=f"mean of {name}"))
    for axes in spare:
        axes.axis("off")
        axes.legend(handles=handles, loc="center")
    if not spare:
        figure.legend(handles=handles, loc="outside lower center", ncols=3)


def _seeds(curves: Sequence[Curve]) -> str:
    """How many seeds the curves have: ``, n = 5`` or ``, n = 3 to 5``."""
    low, high = (limit(len(curve.score) for curve in curves) for limit in (min, max))
    return f", n = {low}" if low == high else f", n = {low} to {high}"


def _stack(records: Sequence[Record], field: str) -> np.ndarray:
    """A field of the runs' curves, ``[seeds, evaluations]``, cut to the shortest run."""
    length = min(len(record.metrics.curve) for record in records)
    return np.array([[getattr(point, field) for point in record.metrics.curve[:length]] for record in records], float)


def _line(axes: Axes, curve: Curve, how: Look, x: np.ndarray, y: np.ndarray, *, strong: bool = True) -> None:
    """Draw the mean of ``y`` over seeds, with its band if ``strong``, thin if not; Newton's markers are hollow."""
    ink, dash, marker = how
    known = np.isfinite(y).all(axis=0)
    x, y = x[known], y[:, known]
    if strong:
        axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=ink, alpha=BAND, linewidth=0)
    (line,) = axes.plot(x, y.mean(axis=0), color=ink, linestyle=dash, linewidth=1.8 if strong else 1.0)
    every = max(1, len(x) // MARKED)
    face = PAPER if curve.cell.geometry == "newton" else ink
    line.set(label=method_label(curve.cell), marker=marker, markerfacecolor=face, markevery=(every - 1, every))


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """Limits of the score: from just below the second half of the slowest method, so that the ends spread out."""
    late = min(float(np.nanmin(curve.score[:, curve.score.shape[1] // 2 :])) for curve in curves)
    return max(0.0, late - 2.0), min(100.0, max(float(np.nanmax(curve.score)) for curve in curves) + 1.0)
