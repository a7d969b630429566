from __future__ import annotations

from pathlib import Path

from llqr_sam.report.tables import paper_numbers as paper
from llqr_sam.report.tables.paper_numbers import PaperValue, read_accuracy
from llqr_sam.suite.plan.plan import Cell


def test_the_papers_numbers_are_the_published_ones(shared: Path):
    """results/paper/ holds the numbers as they were read from the paper, byte for byte."""
    for name in ("accuracy.csv", "table9_storage.csv", "table10_cadence.csv"):
        assert (paper.ACCURACY.parent / name).read_bytes() == (shared / "paper" / name).read_bytes()


def test_read_accuracy():
    values = read_accuracy()
    assert len(values) == 133
    assert values["2", Cell("cifar100", "resnet18", 0.0, "llqr_sam", "ngd")] == PaperValue(81.82, 0.14)
    assert values["6", Cell("iwslt14", "transformer_iwslt", 0.0, "llqr_sam", "ngd")] == PaperValue(34.57, 0.09)
    assert values["8", Cell("cifar100", "resnet18", 0.7, "adam", None)] == PaperValue(4.16, 0.52)
