"""What all pictures share: colours, axes, and files that are written atomically with equal bytes for equal content."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.report.tables.printed_table import csv_text

# Okabe and Ito's colours, which all kinds of colour vision tell apart. A method has one colour in every picture.
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


class NoRecords(Exception):  # not an error: there is nothing to draw yet
    """A figure has no records to be drawn from. The message names the command that makes them."""


def colour(method: str) -> str:
    """Colour of a method."""
    return COLOURS.get(method, OTHER)


def label(axes: Axes, title: str, fontsize: float = 11, **settings: object) -> None:
    """Set the title, left, and further properties such as ``xlabel``."""
    axes.set_title(title, loc="left", fontsize=fontsize)
    axes.set(**settings)


def tidy(axes: Axes) -> None:
    """Add a faint grid and remove the frame at the top and right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def legend_beside(axes: Axes, title: str) -> None:
    """Add a legend to the right of the axes."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title=title)


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG, atomically."""
    with replacing(path) as file:
        file.write(png(figure))
    return path


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()


def write_csv(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """Write rows with the same keys, atomically."""
    with replacing(path) as file:
        file.write(csv_text(rows).encode())
    return path
