"""Training curves from records: the demo's picture, and Figures 1 and 4.

A line is the mean over the seeds of a cell; the band around it reaches from the lowest seed to the highest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llqr_sam.engine.records.record import Record
from llqr_sam.report.figures.drawing import NoRecords, colour, label, legend_beside, tidy, write_figure
from llqr_sam.report.tables.accuracy_table import AccuracyTable, CellResult, collect
from llqr_sam.report.tables.labels import arch_label, dataset_label, method_label
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import Cell

TABLES = {"1": ("5", "2", "3"), "4": ("6",)}  # figure -> tables; the paper's Figure 1 shows Table 5 alone
SCORE_LABELS = {"%": ("test accuracy, %", "best top-1, %"), "BLEU": ("validation BLEU", "best BLEU")}  # unit -> labels


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
    def error(self) -> np.ndarray:
        """Top-1 error in percent; BLEU as it is."""
        return 100 - self.score if self.unit == "%" else self.score

    @property
    def error_label(self) -> str:
        """Label of an axis for ``error``."""
        return "test error, %" if self.unit == "%" else "validation BLEU"

    @property
    def label(self) -> str:
        """The method and its number of seeds."""
        return f"{method_label(self.cell)}, n = {len(self.score)}"


def curves_of(cells: Iterable[CellResult]) -> list[Curve]:
    """Curves of the cells with finished runs, in their order; each as long as its shortest run."""
    curves = []
    for result in cells:
        if runs := [record for record in result.finished.values() if record.metrics.curve]:
            numbers = (_stack(runs, name) for name in ("score", "test_loss", "seconds"))
            curves.append(Curve(result.cell, runs[0].metrics.curve[0].unit, _stack(runs, "epoch")[0], *numbers))
    return curves


def draw_curves(table: AccuracyTable, path: Path) -> bool:
    """Draw a table's finished runs, all of one data set, into the PNG ``path``; returns whether there are any."""
    curves = sorted(curves_of(table.cells), key=lambda curve: -curve.best)
    if not curves:
        return False
    axis, best = SCORE_LABELS[curves[0].unit]
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for curve in curves:
        _line(axes, curve, curve.epochs, curve.score, f"{curve.best:.2f}  {method_label(curve.cell)}")
    label(axes, f"{table.config.title}: mean over seeds, shaded from lowest to highest", xlabel="epoch", ylabel=axis)
    axes.set(xlim=(min(c.epochs[0] for c in curves), max(c.epochs[-1] for c in curves)), ylim=_limits(curves))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes)
    legend_beside(axes, best)
    write_figure(figure, path)
    return True


def draw_convergence(number: str, results: Path, folder: Path, words: Sequence[str] = ()) -> list[Path]:
    """Figure 1 or 4: error against epoch and loss against time, a row for each network with finished runs.

    ``words`` are as for train.py; ``table=`` draws another table's records. Raises ``NoRecords`` if no run is finished.
    """
    named = [word.removeprefix("table=") for word in words if word.startswith("table=")]
    tables = named[-1:] or TABLES[number]
    rows: list[tuple[str, list[Curve]]] = []
    for chosen in ([*words, f"table={table}"] for table in tables):
        _, table = collect(Command.of(*chosen, f"paths.results={results}"))
        place = f"Table {table.config.number}" if table.config.number.isdigit() else table.config.title
        by_network = filter(None, map(curves_of, table.rows))
        rows += [(f"{network_name(curves[0].cell)} ({place})", curves) for curves in by_network]
    if not rows:
        raise NoRecords(f"no run of table {' or '.join(tables)} is finished; python train.py table={tables[0]}")
    figure = Figure(figsize=(12.5, 0.4 + 4.2 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 2, squeeze=False)
    for (title, curves), (by_epoch, by_time) in zip(rows, panels, strict=True):
        _draw_pair(by_epoch, by_time, title, curves)
    return [write_figure(figure, folder / f"figure_{int(number):02d}.png")]


def network_name(cell: Cell) -> str:
    """``ResNet-18 on CIFAR-100, 20 % label noise``."""
    noise = f", {100 * cell.label_noise:g} % label noise" if cell.label_noise else ""
    return f"{arch_label(cell.arch)} on {dataset_label(cell.dataset)}{noise}"


def _draw_pair(by_epoch: Axes, by_time: Axes, title: str, curves: Sequence[Curve]) -> None:
    hours = max(float(curve.seconds.max()) for curve in curves) > 2 * 3600
    unit, name = (3600, "hours") if hours else (60, "minutes")
    for curve in sorted(curves, key=lambda curve: -curve.best):
        _line(by_epoch, curve, curve.epochs, curve.error, curve.label)
        _line(by_time, curve, curve.seconds.mean(axis=0) / unit, curve.loss, curve.label)
    label(by_epoch, title, xlabel="epoch", ylabel=curves[0].error_label)
    label(by_time, "Test loss against elapsed time", ylabel="test cross-entropy", xlim=(0, None))
    by_time.set_xlabel(f"{name} of training, mean over seeds")
    low, high = _limits(curves)
    shown = (100 - high, 100 - low) if curves[0].unit == "%" else (low, high)
    by_epoch.set(xlim=(min(curve.epochs[0] for curve in curves), None), ylim=shown)
    by_epoch.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (by_epoch, by_time):
        tidy(axes)
    legend_beside(by_time, "best first")


def _stack(records: Sequence[Record], field: str) -> np.ndarray:
    """A field of the runs' curves, ``[seeds, evaluations]``, cut to the shortest run."""
    length = min(len(record.metrics.curve) for record in records)
    return np.array([[getattr(point, field) for point in record.metrics.curve[:length]] for record in records], float)


def _line(axes: Axes, curve: Curve, x: np.ndarray, y: np.ndarray, label: str) -> None:
    """Draw mean and band of ``y`` over seeds; Newton's lines are dashed."""
    dashes = (4.0, 1.5) if curve.cell.geometry == "newton" else (1.0, 0.0)
    ink = colour(curve.cell.method)
    known = np.isfinite(y).all(axis=0)
    x, y = x[known], y[:, known]
    axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=ink, alpha=0.08, linewidth=0)
    axes.plot(x, y.mean(axis=0), color=ink, dashes=dashes, linewidth=1.8, label=label)


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """Limits of the score: from just below the second half of the slowest method, so that the ends spread out."""
    late = min(float(np.nanmin(curve.score[:, curve.score.shape[1] // 2 :])) for curve in curves)
    return max(0.0, late - 2.0), min(100.0, max(float(np.nanmax(curve.score)) for curve in curves) + 1.0)
