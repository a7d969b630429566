"""Figures as objects, beside the files that the code under test writes."""

from __future__ import annotations

from types import ModuleType

import pytest
from matplotlib.figure import Figure

from llqr_sam.report.figures.drawing import write_figure


def drawn_by(module: ModuleType, patch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that a module will have written, in order; it has ``write_figure`` under its own name."""
    figures: list[Figure] = []

    def write(figure, path):
        figures.append(figure)
        return write_figure(figure, path)

    patch.setattr(module, "write_figure", write)
    return figures
