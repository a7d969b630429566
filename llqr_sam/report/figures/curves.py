"""Curves of training, from records: the demo's picture, and Figures 1 and 4.

A line is the mean over the seeds of a cell, in the band between the lowest and the highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llqr_sam.engine.records.record import Record
from llqr_sam.report.figures.drawing import NoRecords, colour, tidy, write_figure
from llqr_sam.report.tables.paper_numbers import ARCHS, DATASETS, method_label
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.plan.plan import Cell, plan
from llqr_sam.suite.status.status import Status

TABLES = {"1": ("5", "2", "3"), "4": ("6",)}  # of a figure; the paper's Figure 1 is its Table 5 alone
METRICS = {"top1": "top1", "val_bleu": "bleu"}  # of a table -> of a point of a curve
SCORES = {"top1": ("test accuracy, %", "best top-1, %"), "val_bleu": ("validation BLEU", "best BLEU")}
AXES = {"top1": "test error, %", "val_bleu": "validation BLEU"}


@dataclass(frozen=True)
class Curve:
    """The finished runs of a cell, each array but the first ``[seeds, evaluations]``; NaN where one has no score."""

    cell: Cell
    epochs: np.ndarray  # [evaluations]: after how many epochs each was
    score: np.ndarray  # what the table shows, in its unit
    loss: np.ndarray  # test loss
    seconds: np.ndarray  # since the start of the run

    @property
    def network(self) -> tuple[str, str, float]:
        """Data set, network and label noise: the row of the table."""
        return self.cell.dataset, self.cell.arch, self.cell.label_noise

    @property
    def best(self) -> float:
        """The table's entry: the mean over seeds of each one's best."""
        return float(np.nanmax(self.score, axis=1).mean())

    def shown(self, metric: str) -> np.ndarray:
        """The score as ``AXES`` names it: top-1 as an error."""
        return 100 - self.score if metric == "top1" else self.score


def curves_of(status: Status, metric: str = "top1") -> list[Curve]:
    """Curves of the cells with finished runs, in the order of the plan; all as long as the shortest run.

    Raises:
        UsageError: records of one data set are of different data.
    """
    status.check_mixtures()
    records: dict[Cell, list[Record]] = {}
    for run in status.runs:
        record = status.records.get(run.run_id)
        if record is not None and record.status == "finished" and record.metrics.curve:
            records.setdefault(run.cell, []).append(record)
    return [
        Curve(
            cell,
            _stack(runs, "epoch")[0],
            *(_stack(runs, field) for field in (METRICS[metric], "test_loss", "seconds")),
        )
        for cell, runs in records.items()
    ]


def draw_curves(title: str, status: Status, path: Path, metric: str = "top1") -> bool:
    """Draw the finished runs of a plan, all of one data set, into the PNG ``path``.

    Returns:
        Whether there was anything to draw; without finished runs no file is written.
    """
    curves = sorted(curves_of(status, metric), key=lambda curve: -curve.best)
    if not curves:
        return False
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for curve in curves:
        _line(axes, curve, curve.epochs, curve.score, f"{curve.best:.2f}  {method_label(curve.cell)}")
    axes.set_title(f"{title}: mean over seeds, shaded from lowest to highest", loc="left", fontsize=11)
    axes.set(xlabel="epoch", ylabel=SCORES[metric][0], ylim=_limits(curves))
    axes.set_xlim(min(curve.epochs[0] for curve in curves), max(curve.epochs[-1] for curve in curves))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title=SCORES[metric][1])
    write_figure(figure, path)
    return True


def draw_convergence(number: str, results: Path, folder: Path, words: Sequence[str] = ()) -> list[Path]:
    """Figure 1 or 4: score against epoch, loss against time, a row for each network with finished runs.

    Args:
        number: Of the figure.
        results: Holds the records.
        folder: Where the picture goes.
        words: As for train.py; ``table=`` draws another table's records.

    Raises:
        NoRecords: none of the runs is finished.
        UsageError: records of one data set are of different data.
    """
    named = any(word.startswith("table=") for word in words)
    rows = []
    for table in [""] if named else [t for t in TABLES[number] if t in groups()["table"]]:
        chosen = [*words] if named else [f"table={table}", *words]
        command = Command.of(*chosen)
        shown = command.table
        curves = curves_of(Status.of(plan(command), results), shown.metric)
        place = f"Table {shown.number}" if shown.number.isdigit() else shown.title
        for network in dict.fromkeys(curve.network for curve in curves):
            of_network = [curve for curve in curves if curve.network == network]
            rows.append((f"{network_name(of_network[0].cell)} ({place})", shown.metric, of_network))
    if not rows:
        tables = " or ".join(TABLES[number])
        raise NoRecords(f"no run of table {tables} is finished; python train.py table={TABLES[number][0]}")
    figure = Figure(figsize=(12.5, 0.4 + 4.2 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 2, squeeze=False)
    for (title, metric, curves), (by_epoch, by_time) in zip(rows, panels, strict=True):
        _draw_pair(by_epoch, by_time, title, metric, curves)
    return [write_figure(figure, folder / f"figure_{int(number):02d}.png")]


def network_name(cell: Cell) -> str:
    """``ResNet-18 on CIFAR-100, 20 % label noise``."""
    noise = f", {100 * cell.label_noise:g} % label noise" if cell.label_noise else ""
    return f"{ARCHS.get(cell.arch, cell.arch)} on {DATASETS.get(cell.dataset, cell.dataset)}{noise}"


def _draw_pair(by_epoch: Axes, by_time: Axes, title: str, metric: str, curves: Sequence[Curve]) -> None:
    error = metric == "top1"
    hours = max(float(curve.seconds.max()) for curve in curves) > 2 * 3600
    unit, name = (3600, "hours") if hours else (60, "minutes")
    for curve in sorted(curves, key=lambda curve: -curve.best):
        label = f"{method_label(curve.cell)}, n = {len(curve.score)}"
        _line(by_epoch, curve, curve.epochs, curve.shown(metric), label)
        _line(by_time, curve, curve.seconds.mean(axis=0) / unit, curve.loss, label)
    by_epoch.set_title(title, loc="left", fontsize=11)
    by_epoch.set(xlabel="epoch", ylabel=AXES[metric], xlim=(min(curve.epochs[0] for curve in curves), None))
    by_epoch.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_time.set_title("Test loss against elapsed time", loc="left", fontsize=11)
    by_time.set(xlabel=f"{name} of training, mean over seeds", ylabel="test cross-entropy", xlim=(0, None))
    low, high = _limits(curves)
    by_epoch.set_ylim(*((100 - high, 100 - low) if error else (low, high)))
    for axes in (by_epoch, by_time):
        tidy(axes)
    by_time.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title="best first")


def _stack(records: Sequence[Record], field: str) -> np.ndarray:
    length = min(len(record.metrics.curve) for record in records)
    return np.array([[getattr(point, field) for point in record.metrics.curve[:length]] for record in records], float)


def _line(axes: Axes, curve: Curve, x: np.ndarray, y: np.ndarray, label: str) -> None:
    """Newton's lines are dashed."""
    dashes = (4.0, 1.5) if curve.cell.geometry == "newton" else (1.0, 0.0)
    ink = colour(curve.cell.method)
    known = np.isfinite(y).all(axis=0)
    x, y = x[known], y[:, known]
    axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=ink, alpha=0.08, linewidth=0)
    axes.plot(x, y.mean(axis=0), color=ink, dashes=dashes, linewidth=1.8, label=label)


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """The axis starts just under the second half of the slowest method, so that the ends spread out."""
    late = min(float(np.nanmin(curve.score[:, curve.score.shape[1] // 2 :])) for curve in curves)
    return max(0.0, late - 2.0), min(100.0, max(float(np.nanmax(curve.score)) for curve in curves) + 1.0)
