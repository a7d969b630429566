"""Test accuracy against epoch: a line a method, mean over the seeds, in the band between the lowest and the highest."""

from __future__ import annotations

from collections.abc import Sequence
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
    "llqr": "#E69F00",
    "sam": "#56B4E9",
    "fisher_sam": "#009E73",
    "f_sam": "#CC79A7",
    "llqr_sam": "#D55E00",
    "llqr_f_sam": "#0072B2",
}
OTHER = "#999999"


def draw_curves(title: str, status: Status, path: Path) -> bool:
    """Draw the finished runs of a plan, all of one data set, into the PNG ``path``.

    Returns:
        Whether there was anything to draw; without finished runs no file is written.
    """
    curves = _curves(status)
    if not curves:
        return False
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for cell, top1 in curves.items():
        _draw(axes, cell, top1)
    axes.set_title(f"{title}: mean over seeds, shaded from lowest to highest", loc="left", fontsize=11)
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy, %")
    axes.set_ylim(*_limits(list(curves.values())))
    axes.set_xlim(1, max(top1.shape[1] for top1 in curves.values()))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title="best top-1, %")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return True


def _curves(status: Status) -> dict[Cell, np.ndarray]:
    """Accuracies ``[seeds, epochs]`` of each cell with finished runs, the best cell first."""
    records: dict[Cell, list[Record]] = {}
    for run in status.runs:
        record = status.records.get(run.run_id)
        if record is not None and record.status == "finished" and record.metrics.curve:
            records.setdefault(run.cell, []).append(record)
    curves = {cell: _stack(runs) for cell, runs in records.items()}
    return dict(sorted(curves.items(), key=lambda item: -_best(item[1])))


def _stack(records: Sequence[Record]) -> np.ndarray:
    epochs = min(len(record.metrics.curve) for record in records)
    return np.array([[point.top1 for point in record.metrics.curve[:epochs]] for record in records])


def _draw(axes: Axes, cell: Cell, top1: np.ndarray) -> None:
    epochs = np.arange(1, top1.shape[1] + 1)
    mean = top1.mean(axis=0)
    colour = COLOURS.get(cell.method, OTHER)
    dashes = (4.0, 1.5) if cell.geometry == "newton" else (1.0, 0.0)
    axes.fill_between(epochs, top1.min(axis=0), top1.max(axis=0), color=colour, alpha=0.08, linewidth=0)
    axes.plot(
        epochs, mean, color=colour, dashes=dashes, linewidth=1.8, label=f"{_best(top1):.2f}  {method_label(cell)}"
    )


def _best(top1: np.ndarray) -> float:
    """The table's entry: the mean over seeds of each one's best."""
    return float(top1.max(axis=1).mean())


def _limits(curves: Sequence[np.ndarray]) -> tuple[float, float]:
    """The axis starts just under the second half of the slowest method, so that the ends spread out."""
    late = min(float(top1[:, top1.shape[1] // 2 :].min()) for top1 in curves)
    return max(0.0, late - 2.0), min(100.0, max(float(top1.max()) for top1 in curves) + 1.0)
