"""What all pictures share: one style, one look for each method, and PNG and SVG files.

Importing this module sets the style for the process. A page shows a picture at 356 pixels on a phone. So no picture is
wider than ``WIDTH`` and no text is smaller than ``TEXT``: the text is then 8 pixels high. Equal content gives equal
bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

from llqr_sam.engine.records.atomic import replacing

WIDTH = 6.4  # inches
TEXT, TITLE = 10.5, 11.5  # points
INK, FAINT, GRID, PAPER = "#1b1b1b", "#5b5b5b", "#d5d5d5", "#ffffff"
DARK = {INK: "#ececec", FAINT: "#adadad", GRID: "#3c4046", PAPER: "#15171a"}  # the same inks in dark mode
FIXED = "#000000"  # for text on colours, which stay as they are in dark mode

Dash = str | tuple[int, tuple[float, ...]]  # as matplotlib's ``linestyle``


class Look(NamedTuple):
    """How a method is drawn."""

    colour: str
    dash: Dash
    marker: str


# Okabe and Ito's colours, which all kinds of colour vision tell apart; grey print keeps dashes and markers.
LOOKS = {
    "sgdm": Look(INK, "-", "o"),
    "adamw": Look("#7A7A7A", (0, (1, 1)), "v"),
    "llqr": Look("#E69F00", (0, (3, 1)), "s"),
    "sam": Look("#56B4E9", (0, (7, 1)), "^"),
    "fisher_sam": Look("#009E73", (0, (3, 1, 1, 1)), "D"),
    "f_sam": Look("#CC79A7", (0, (5, 1, 1, 1, 1, 1)), "P"),
    "llqr_sam": Look("#D55E00", (0, (2, 0.7)), "X"),
    "llqr_f_sam": Look("#0072B2", (0, (7, 1, 1, 1)), "p"),
}
OTHER = Look("#B8B8B8", (0, (1, 2)), "*")

STYLE = {
    "font.sans-serif": ["DejaVu Sans"],  # an SVG falls back to sans-serif
    "font.size": TEXT,
    "axes.titlesize": TITLE,
    "axes.titlelocation": "left",
    "axes.labelsize": TEXT,
    "figure.titlesize": TITLE,
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
    "legend.fontsize": TEXT,
    "legend.title_fontsize": TEXT,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "errorbar.capsize": 3,
    "svg.fonttype": "none",
    "svg.hashsalt": "llqr_sam",
}
matplotlib.rcParams.update(STYLE)


class NoRecords(Exception):  # not an error: there is nothing to draw yet
    """A figure has no records to be drawn from. The message names the command that makes them."""


def look(method: str) -> Look:
    """Colour, dash and marker of a method, the same in every picture."""
    return LOOKS.get(method, OTHER)


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """The look of each method of a picture; a user's own methods take those that no other one in it has."""
    names = list(dict.fromkeys(methods))
    free = iter([each for name, each in LOOKS.items() if name not in names])
    return {name: LOOKS[name] if name in LOOKS else next(free, OTHER) for name in names}


def write_figure(figure: Figure, path: Path) -> Path:
    """Write the PNG ``path`` and the same picture as SVG beside it, each atomically; returns ``path``."""
    for file_path, content in ((path, png(figure)), (path.with_suffix(".svg"), svg(figure))):
        with replacing(file_path) as file:
            file.write(content)
    return path


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()


def svg(figure: Figure) -> bytes:
    """A figure as SVG: text is text, and a style sheet turns paper and inks where the reader prefers dark pages."""
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    sheet = f"@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return file.getvalue().replace(b"</style>", sheet.encode(), 1)
