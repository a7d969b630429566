"""The paper's figures by number: titles, and functions that draw them from ``results`` into a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from llqr_sam.report.figures.curves import TABLES, draw_convergence
from llqr_sam.studies.table_10.figures import figure_05, figure_06
from llqr_sam.studies.theory.potholes.figures import figure_02, figure_03

Draw = Callable[[Path, Path], list[Path]]  # (results, folder) -> the files that were written; may raise ``NoRecords``

TITLES = {
    "1": "Accuracy against epochs and time, loss against time",
    "2": "Escape from a sharp ring",
    "3": "Escape by gradient noise",
    "4": "IWSLT14 De-En: BLEU against epochs and time, loss against time",
    "5": "Epoch time against the refresh interval",
    "6": "Refresh time against the size of the network",
}


def drawers(words: Sequence[str] = ()) -> dict[str, Draw]:
    """Number -> function that draws the figure; ``words``: what the runs of Figures 1 and 4 were started with."""
    runs = {number: partial(draw_convergence, number, words=words) for number in TABLES}
    return runs | {"2": lambda _, to: figure_02(to), "3": lambda _, to: figure_03(to), "5": figure_05, "6": figure_06}
