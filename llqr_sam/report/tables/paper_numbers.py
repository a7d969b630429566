"""The paper's accuracies, by table and cell."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from llqr_sam.report.tables.labels import ARCH_LABELS, DATASET_LABELS
from llqr_sam.repository import PAPER
from llqr_sam.suite.config.schema import SCORES
from llqr_sam.suite.plan.plan import Cell

ACCURACY = PAPER / "accuracy.csv"


@dataclass(frozen=True)
class PaperValue:
    """Mean and standard deviation over seeds as printed in the paper, top-1 in percent or BLEU."""

    mean: float
    std: float


def read_accuracy(path: Path = ACCURACY) -> dict[tuple[str, Cell], PaperValue]:
    """The paper's top-1 and BLEU values by table number and cell."""
    datasets = {label: name for name, label in DATASET_LABELS.items()}
    archs = {label: name for name, label in ARCH_LABELS.items()}
    with path.open(newline="") as file:
        return {
            (
                row["table"],
                Cell(
                    datasets[row["dataset"]],
                    archs[row["arch"]],
                    float(row["label_noise"] or 0),
                    row["method"],
                    row["geometry"] or None,
                ),
            ): PaperValue(float(row["mean"]), float(row["std"]))
            for row in csv.DictReader(file)
            if row["metric"] in SCORES
        }
