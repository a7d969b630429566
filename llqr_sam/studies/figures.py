"""The paper's figures by number: each draws its files into a folder from what is in ``results``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from llqr_sam.report.figures.curves import TABLES, draw_convergence
from llqr_sam.studies.table_10.figures import figure_05, figure_06
from llqr_sam.studies.theory.potholes.figures import figure_02, figure_03

Draw = Callable[[Path, Path], list[Path]]

TITLES = {
    "1": "Error against epoch, loss against time",
    "2": "Escape from a sharp ring",
    "3": "Escape by gradient noise",
    "4": "IWSLT14 De-En: BLEU against epoch, loss against time",
    "5": "Epoch time against the refresh interval",
    "6": "Refresh time against the size of the network",
}


def drawers(words: Sequence[str] = ()) -> dict[str, Draw]:
    """Number -> what draws it from (results, folder); ``NoRecords`` says that there is nothing to draw from.

    Args:
        words: For the figures drawn from runs: those of train.py that the runs were started with.
    """
    drawn = {number: partial(draw_convergence, number, words=words) for number in TABLES}
    found: dict[str, Draw] = {
        **drawn,
        "2": lambda _, folder: figure_02(folder),
        "3": lambda _, folder: figure_03(folder),
        "5": figure_05,
        "6": figure_06,
    }
    return dict(sorted(found.items()))
