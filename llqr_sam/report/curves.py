"""Accuracy or BLEU against epoch: a line a method, mean over the seeds, in the band from the lowest to the highest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llqr_sam.engine.record import Record
from llqr_sam.report.paper import method_label
from llqr_sam.suite.grid import Cell
from llqr_sam.suite.status import Status

# Okabe and Ito's colours, told apart with any colour vision; a method keeps its colour, Newton is dashed.
COLOURS = {
    "sgdm": "#000000",
    "adamw": "#000000",  # the baseline where sgdm is none
    "llqr": "#E69F00",
    "sam": "#56B4E9",
    "fisher_sam": "#009E73",
    "f_sam": "#CC79A7",
    "llqr_sam": "#D55E00",
    "llqr_f_sam": "#0072B2",
}
OTHER = "#999999"

LABELS = {"top1": ("test accuracy, %", "best top-1, %"), "val_bleu": ("validation BLEU", "best BLEU")}


@dataclass(frozen=True)
class Curve:
    """What the finished runs of a cell scored: ``scores[seed, i]`` after ``epochs[i]`` epochs."""

    epochs: np.ndarray
    scores: np.ndarray

    @property
    def best(self) -> float:
        """The table's entry: the mean over seeds of each one's best."""
        return float(self.scores.max(axis=1).mean())


def draw_curves(title: str, status: Status, path: Path, metric: str = "top1") -> bool:
    """Draw the finished runs of a plan, all of one data set, into the PNG ``path``.

    Returns:
        Whether there was anything to draw; without finished runs no file is written.
    """
    curves = curves_of(status)
    if not curves:
        return False
    ordinate, entry = LABELS[metric]
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for cell, curve in curves.items():
        _draw(axes, cell, curve)
    axes.set_title(f"{title}: mean over seeds, shaded from lowest to highest", loc="left", fontsize=11)
    axes.set_xlabel("epoch")
    axes.set_ylabel(ordinate)
    axes.set_ylim(*_limits(list(curves.values())))
    axes.set_xlim(1, max(curve.epochs[-1] for curve in curves.values()))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title=entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return True


def curves_of(status: Status) -> dict[Cell, Curve]:
    """The curve of each cell with finished runs, the best cell first."""
    records: dict[Cell, list[Record]] = {}
    for run in status.runs:
        record = status.records.get(run.run_id)
        if record is not None and record.status == "finished" and record.metrics.best.score is not None:
            records.setdefault(run.cell, []).append(record)
    curves = {cell: _stack(runs) for cell, runs in records.items()}
    return dict(sorted(curves.items(), key=lambda item: -item[1].best))


def _stack(records: Sequence[Record]) -> Curve:
    """The epochs that every one of the runs was scored after."""
    scores = [
        {point.epoch: point.score for point in record.metrics.curve if point.score is not None} for record in records
    ]
    epochs = [epoch for epoch in scores[0] if all(epoch in of_run for of_run in scores)]
    return Curve(np.array(epochs), np.array([[of_run[epoch] for epoch in epochs] for of_run in scores]))


def _draw(axes: Axes, cell: Cell, curve: Curve) -> None:
    colour = COLOURS.get(cell.method, OTHER)
    dashes = (4.0, 1.5) if cell.geometry == "newton" else (1.0, 0.0)
    lowest, highest = curve.scores.min(axis=0), curve.scores.max(axis=0)
    axes.fill_between(curve.epochs, lowest, highest, color=colour, alpha=0.08, linewidth=0)
    label = f"{curve.best:.2f}  {method_label(cell)}"
    axes.plot(curve.epochs, curve.scores.mean(axis=0), color=colour, dashes=dashes, linewidth=1.8, label=label)


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """The axis starts just under the second half of the slowest method, so that the ends spread out."""
    late = min(float(curve.scores[:, len(curve.epochs) // 2 :].min()) for curve in curves)
    return max(0.0, late - 2.0), min(100.0, max(float(curve.scores.max()) for curve in curves) + 1.0)
