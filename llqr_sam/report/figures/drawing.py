"""What all pictures share: colours, plain axes, and files that are whole and equal for equal content."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llqr_sam.engine.records.atomic import replacing

# Okabe and Ito's colours, told apart with any colour vision; a method keeps its colour in every picture.
COLOURS = {
    "sgdm": "#000000",
    "adamw": "#7A7A7A",
    "llqr": "#E69F00",
    "sam": "#56B4E9",
    "fisher_sam": "#009E73",
    "f_sam": "#CC79A7",
    "llqr_sam": "#D55E00",
    "llqr_f_sam": "#0072B2",
}
OTHER = "#B8B8B8"


class NoRecords(Exception):  # nothing is wrong: there is nothing to draw yet
    """A figure has no records to be drawn from; the message says which command makes them."""


def colour(method: str) -> str:
    """Of a method's line."""
    return COLOURS.get(method, OTHER)


def tidy(axes: Axes) -> None:
    """A faint grid, no frame at the top and right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG, atomically."""
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return path


def write_csv(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """Write dictionaries of one shape, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())
    return path
